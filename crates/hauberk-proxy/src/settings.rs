//! The proxy's settings: read once from `LINKERD2_PROXY_*`, then trusted.
//!
//! [`Config`] is what the rest of the crate sees; [`read`](fn@read) makes it from the environment by the table in
//! `hauberk_model::settings`, and reports everything that is wrong at once. Settings that no table line names are
//! ignored, because injectors may be newer than we are.

mod read;

pub use read::{Problems, read};

use hauberk_linux::socket::ConnectionOptions;
use hauberk_model::{
    PortSet, WorkloadId,
    backoff::Backoff,
    inbound::DefaultPolicy,
    settings::value::{Address, Suffixes},
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Everything that was set, or its default.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data workers, one thread each.
    pub workers: usize,
    /// The side towards the application.
    pub inbound: Inbound,
    /// The side away from the application.
    pub outbound: Outbound,
    /// Where the admin server listens.
    pub admin_listen: SocketAddr,
    /// Whether `POST /shutdown` is answered.
    pub shutdown_endpoint: bool,
    /// Where the control listener (tap) listens, and who may tap.
    pub tap: Option<Tap>,
    /// Where spans go, if anywhere.
    pub traces: Option<Traces>,
    /// The destination service.
    pub destination: Service,
    /// The policy service.
    pub policy: Service,
    /// Opaque text sent with every question to the destination service.
    pub destination_context: Arc<str>,
    /// Opaque text that names this workload to the policy service.
    pub policy_workload: Arc<str>,
    /// Who we are and how we prove it.
    pub identity: Identity,
    /// Bounds of streams from the control plane.
    pub streams: StreamLimits,
    /// How long draining may take.
    pub grace_period: Duration,
    /// Metric series not touched for so long are dropped.
    pub metrics_retain_idle: Duration,
    /// Log filter and format.
    pub log: Log,
}

/// What both sides have.
#[derive(Clone, Debug)]
pub struct Side {
    /// How long a client may take to show its protocol.
    pub detect_timeout: Duration,
    /// TCP, TLS and transport header together.
    pub connect_timeout: Duration,
    /// Between attempts to connect to the same endpoint.
    pub connect_backoff: Backoff,
    /// Options of accepted sockets.
    pub accept: ConnectionOptions,
    /// Options of dialled sockets.
    pub connect: ConnectionOptions,
    /// Length of the kernel's accept queue.
    pub backlog: Option<i32>,
    /// Requests that may wait for one target.
    pub queue_capacity: usize,
    /// How long a request waits while no endpoint is available.
    pub failfast_timeout: Duration,
    /// Requests under way at a time; more are shed.
    pub in_flight_max: usize,
    /// Idle HTTP/1 connections kept per endpoint.
    pub idle_connections_max: usize,
    /// How long an idle HTTP/1 connection is kept.
    pub pool_idle_timeout: Duration,
    /// What is known of a target is forgotten after so long without use.
    pub discovery_idle_timeout: Duration,
    /// How long the head of an HTTP/1 request may take from its first byte on.
    pub http1_head_timeout: Duration,
    /// HTTP/2 as a server.
    pub http2_server: Http2Server,
    /// HTTP/2 as a client.
    pub http2_client: Http2Client,
}

/// The side towards the application.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// What both sides have.
    pub side: Side,
    /// Where we listen.
    pub listen: SocketAddr,
    /// Addresses of this pod. Empty allows all.
    pub ips: BTreeSet<IpAddr>,
    /// Policy until the control plane has spoken.
    pub default_policy: DefaultPolicy,
    /// Networks of the cluster.
    pub cluster_networks: Vec<IpNet>,
    /// Ports whose policy is watched from the start and never forgotten.
    pub ports: PortSet,
    /// Ports that are opaque until the control plane has spoken.
    pub opaque_ports: PortSet,
    /// Names under which this proxy is a gateway for other proxies; none make it none.
    pub gateway_suffixes: Suffixes,
    /// Whether metrics of requests carry the authority, whoever sent it.
    pub authority_labels: bool,
    /// Access log, if wanted.
    pub access_log: Option<AccessLogFormat>,
    /// Whether clients may resume TLS sessions.
    pub tls_resumption: bool,
}

/// The side away from the application.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// What both sides have.
    pub side: Side,
    /// Where we listen; one or two addresses.
    pub listen: Vec<SocketAddr>,
    /// Connections that may wait for one target's endpoints.
    pub tcp_queue_capacity: usize,
    /// How long a connection waits while no endpoint is available.
    pub tcp_failfast_timeout: Duration,
    /// Names that may be looked up.
    pub profile_suffixes: Suffixes,
    /// Addresses that may be looked up.
    pub profile_networks: Vec<IpNet>,
    /// Whether informational `l5d-*` headers are kept from responses we make up.
    pub hide_informational_headers: bool,
    /// Whether route metrics carry the host.
    pub hostname_labels: bool,
    /// Whether opaque connections resume TLS sessions.
    pub tls_resumption: bool,
    /// Whether requests are routed by `l5d-dst-override`.
    pub ingress_mode: bool,
    /// Whether endpoints on loopback addresses may be dialled. No setting says so; tests do, whose whole mesh is there.
    pub dials_loopback: bool,
}

/// HTTP/2 as a server; `None` leaves our own value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Server {
    /// Bytes a peer may send on a stream, and on a connection, before we have read them.
    pub windows: Option<(u32, u32)>,
    /// Windows by measured bandwidth.
    pub adaptive_flow_control: bool,
    /// Interval and time limit of keep-alive pings.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Streams at a time.
    pub max_concurrent_streams: Option<u32>,
    /// Largest frame, in bytes.
    pub max_frame_size: Option<u32>,
    /// Largest header block, in bytes.
    pub max_header_list_size: Option<u32>,
    /// Streams reset before we saw them, until the connection is ended.
    pub max_pending_accept_reset_streams: Option<u32>,
    /// Largest send buffer of a stream, in bytes.
    pub max_send_buf_size: Option<u32>,
}

/// HTTP/2 as a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Client {
    /// Bytes a peer may send on a stream before we have read them.
    pub initial_stream_window: u32,
    /// Bytes a peer may send on a connection before we have read them.
    pub initial_connection_window: u32,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One line as Apache writes it.
    Apache,
    /// One JSON object per line.
    Json,
}

/// The tap listener.
#[derive(Clone, Debug)]
pub struct Tap {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may tap.
    pub client: WorkloadId,
}

/// The export of spans.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Who collects them.
    pub collector: Service,
    /// Attribute `service.name`.
    pub service_name: String,
    /// Attribute `host.name`.
    pub hostname: Option<String>,
    /// A file of attributes, a line `key="value"` each.
    pub attributes_path: Option<PathBuf>,
    /// Further attributes, a line `key=value` each.
    pub extra_attributes: String,
    /// Further attributes in OpenTelemetry's own form, `key=value` with commas between.
    pub otel_attributes: String,
}

/// One service of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub address: Address,
    /// Whom to expect there, which is also the name to ask for; `None` on loopback, where no TLS is spoken.
    pub identity: Option<WorkloadId>,
}

/// Who we are and how we prove it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificates we trust, PEM.
    pub trust_anchors: Arc<str>,
    /// The identity in our certificate.
    pub local: WorkloadId,
    /// The server name by which peers ask for us (SNI).
    pub server_name: Arc<str>,
    /// The identity service.
    pub service: Service,
    /// Where a key and a certificate request may lie.
    pub directory: Option<PathBuf>,
    /// Where the workload's token lies.
    pub token_file: PathBuf,
    /// Shortest wait between certificates.
    pub refresh_min: Duration,
    /// Longest wait between certificates.
    pub refresh_max: Duration,
}

/// Bounds of streams from the control plane; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Until the first message.
    pub initial_timeout: Option<Duration>,
    /// Between messages.
    pub idle_timeout: Option<Duration>,
    /// From beginning to end; then the stream is opened anew.
    pub lifetime: Option<Duration>,
}

/// Logging.
#[derive(Clone, Debug)]
pub struct Log {
    /// Which events, in the syntax of `LINKERD2_PROXY_LOG`.
    pub filter: String,
    /// Whether lines are JSON objects.
    pub json: bool,
}
