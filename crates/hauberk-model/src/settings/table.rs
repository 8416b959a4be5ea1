//! The table of settings. Each entry becomes a constant with the full name and a line of
//! [`SETTINGS`]; defaults are those of linkerd2-proxy.

use super::{Absent, Form, Setting};

macro_rules! absent {
    (unset) => {
        Absent::Unset
    };
    (required) => {
        Absent::Required
    };
    ($value:literal) => {
        Absent::Value($value)
    };
}

macro_rules! settings {
    ($( #[doc = $text:literal] $name:ident: $form:ident, $absent:tt; )+) => {
        $(
            #[doc = $text]
            pub const $name: &str = concat!("LINKERD2_PROXY_", stringify!($name));
        )+

        /// All settings.
        pub const SETTINGS: &[Setting] = &[$(
            Setting { name: $name, form: Form::$form, absent: absent!($absent), text: $text.trim_ascii() },
        )+];
    };
}

settings! {
    // Listeners.

    /// Where captured inbound connections arrive.
    INBOUND_LISTEN_ADDR: SocketAddress, "0.0.0.0:4143";
    /// Where captured outbound connections arrive, one address or one of each family.
    OUTBOUND_LISTEN_ADDRS: SocketAddresses, unset;
    /// Older single form of OUTBOUND_LISTEN_ADDRS, which wins over it.
    OUTBOUND_LISTEN_ADDR: SocketAddress, "127.0.0.1:4140";
    /// Where the tap server listens, if TAP_SVC_NAME is set.
    CONTROL_LISTEN_ADDR: SocketAddress, "0.0.0.0:4190";
    /// Where probes, metrics and administration listen.
    ADMIN_LISTEN_ADDR: SocketAddress, "127.0.0.1:4191";
    /// Accept queue of the inbound, admin and tap listeners; unset leaves it to the system.
    INBOUND_TCP_LISTEN_BACKLOG: Count, unset;
    /// Accept queue of the outbound listeners; unset leaves it to the system.
    OUTBOUND_TCP_LISTEN_BACKLOG: Count, unset;

    // Socket options.

    /// TCP keepalive idle time of accepted inbound connections.
    INBOUND_ACCEPT_KEEPALIVE: Duration, unset;
    /// TCP keepalive idle time of accepted outbound connections.
    OUTBOUND_ACCEPT_KEEPALIVE: Duration, unset;
    /// TCP keepalive idle time of connections to the application.
    INBOUND_CONNECT_KEEPALIVE: Duration, unset;
    /// TCP keepalive idle time of connections to other hosts.
    OUTBOUND_CONNECT_KEEPALIVE: Duration, unset;
    /// TCP_USER_TIMEOUT of accepted inbound connections.
    INBOUND_ACCEPT_USER_TIMEOUT: Duration, unset;
    /// TCP_USER_TIMEOUT of accepted outbound connections.
    OUTBOUND_ACCEPT_USER_TIMEOUT: Duration, unset;
    /// TCP_USER_TIMEOUT of connections to the application.
    INBOUND_CONNECT_USER_TIMEOUT: Duration, unset;
    /// TCP_USER_TIMEOUT of connections to other hosts.
    OUTBOUND_CONNECT_USER_TIMEOUT: Duration, unset;

    // Timeouts, queues, limits.

    /// Limit for detecting TLS, the transport header and HTTP on inbound connections.
    INBOUND_DETECT_TIMEOUT: Duration, "10s";
    /// Limit for detecting HTTP and SNI on outbound connections.
    OUTBOUND_DETECT_TIMEOUT: Duration, "10s";
    /// Limit for connecting to the application.
    INBOUND_CONNECT_TIMEOUT: Duration, "300ms";
    /// Limit for connecting to another host, TLS and transport header included.
    OUTBOUND_CONNECT_TIMEOUT: Duration, "1s";
    /// Shortest pause before connecting to the application again.
    INBOUND_CONNECT_EXP_BACKOFF_MIN: Duration, "100ms";
    /// Longest pause before connecting to the application again.
    INBOUND_CONNECT_EXP_BACKOFF_MAX: Duration, "10s";
    /// Random share added to the pause before connecting to the application again.
    INBOUND_CONNECT_EXP_BACKOFF_JITTER: Ratio, "0.1";
    /// Shortest pause before connecting to another host again.
    OUTBOUND_CONNECT_EXP_BACKOFF_MIN: Duration, "100ms";
    /// Longest pause before connecting to another host again.
    OUTBOUND_CONNECT_EXP_BACKOFF_MAX: Duration, "60s";
    /// Random share added to the pause before connecting to another host again.
    OUTBOUND_CONNECT_EXP_BACKOFF_JITTER: Ratio, "0.1";
    /// Let proxies that open connections to this one resume TLS sessions (not in Linkerd).
    INBOUND_TLS_RESUMPTION: Boolean, "true";
    /// Resume TLS sessions for opaque connections to endpoints whose proxies allow it (not in Linkerd).
    OUTBOUND_TLS_RESUMPTION: Boolean, "true";
    /// Requests that may wait for one inbound target.
    INBOUND_HTTP_QUEUE_CAPACITY: Count, "10000";
    /// How long an inbound target may be unavailable before waiting requests fail.
    INBOUND_HTTP_FAILFAST_TIMEOUT: Duration, "1s";
    /// Requests that may wait for one outbound target.
    OUTBOUND_HTTP_QUEUE_CAPACITY: Count, "10000";
    /// How long an outbound target may be unavailable before waiting requests fail.
    OUTBOUND_HTTP_FAILFAST_TIMEOUT: Duration, "3s";
    /// Connections that may wait for one opaque target.
    OUTBOUND_TCP_QUEUE_CAPACITY: Count, "10000";
    /// How long an opaque target may be unavailable before waiting connections fail.
    OUTBOUND_TCP_FAILFAST_TIMEOUT: Duration, "3s";
    /// Inbound requests that may be without a response at one time; more are answered 503.
    INBOUND_MAX_IN_FLIGHT: Count, "100000";
    /// Outbound requests that may be without a response at one time; more are answered 503.
    OUTBOUND_MAX_IN_FLIGHT: Count, "100000";
    /// Idle HTTP/1 connections kept to the application.
    MAX_IDLE_CONNS_PER_ENDPOINT: Count, "10000";
    /// Idle HTTP/1 connections kept to each other endpoint.
    OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT: Count, "10000";
    /// How long an idle HTTP/1 connection to the application is kept.
    INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT: Duration, "3s";
    /// How long an idle HTTP/1 connection to another endpoint is kept.
    OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT: Duration, "3s";
    /// How long the head of an inbound HTTP/1 request may take from its first byte on; then 408 (not in Linkerd).
    INBOUND_HTTP1_HEAD_TIMEOUT: Duration, "30s";
    /// How long the head of an outbound HTTP/1 request may take from its first byte on; then 408 (not in Linkerd).
    OUTBOUND_HTTP1_HEAD_TIMEOUT: Duration, "30s";
    /// How long what was discovered about an unused outbound target is kept.
    OUTBOUND_DISCOVERY_IDLE_TIMEOUT: Duration, "5s";
    /// How long what was discovered about an unused inbound port is kept.
    INBOUND_DISCOVERY_IDLE_TIMEOUT: Duration, "90s";
    /// How long inbound requests wait for a profile before they go on without.
    DESTINATION_PROFILE_INITIAL_TIMEOUT: Duration, "500ms";
    /// Limit for the first message of a control-plane stream.
    CONTROL_STREAM_INITIAL_TIMEOUT: Duration, unset;
    /// Limit between messages of a control-plane stream.
    CONTROL_STREAM_IDLE_TIMEOUT: Duration, unset;
    /// Age at which a control-plane stream is replaced by a new one.
    CONTROL_STREAM_LIFETIME: Duration, unset;
    /// How long connections may drain after the first signal.
    SHUTDOWN_GRACE_PERIOD: Duration, "2m";
    /// How long a metric series without updates is kept.
    METRICS_RETAIN_IDLE: Duration, "10m";

    // HTTP/2.

    /// Initial window of a stream, as a client.
    HTTP2_INITIAL_STREAM_WINDOW_SIZE: Bytes, "262144";
    /// Initial window of a connection, as a client.
    HTTP2_INITIAL_CONNECTION_WINDOW_SIZE: Bytes, "4194304";
    /// Initial window of an inbound stream, as a server; needs the connection's too.
    INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE: Bytes, unset;
    /// Initial window of an inbound connection, as a server; needs the stream's too.
    INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE: Bytes, unset;
    /// Adapt inbound windows to the observed throughput; beats fixed windows.
    INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL: Boolean, unset;
    /// How long an inbound client may leave a ping unanswered; needs the interval too.
    INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT: Duration, unset;
    /// How often inbound clients are pinged; needs the timeout too.
    INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL: Duration, unset;
    /// Streams an inbound client may have open; unset does not limit them.
    INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS: Count, unset;
    /// Largest frame an inbound client may send.
    INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE: Bytes, unset;
    /// Largest set of headers an inbound client may send.
    INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE: Bytes, unset;
    /// Inbound streams that may be reset before they were accepted.
    INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS: Count, unset;
    /// Bytes an inbound stream may hold for sending.
    INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE: Bytes, unset;
    /// Initial window of an outbound stream, as a server; needs the connection's too.
    OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE: Bytes, unset;
    /// Initial window of an outbound connection, as a server; needs the stream's too.
    OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE: Bytes, unset;
    /// Adapt outbound windows to the observed throughput; beats fixed windows.
    OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL: Boolean, unset;
    /// How long the application may leave a ping unanswered; needs the interval too.
    OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT: Duration, unset;
    /// How often the application is pinged; needs the timeout too.
    OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL: Duration, unset;
    /// Streams the application may have open; unset does not limit them.
    OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS: Count, unset;
    /// Largest frame the application may send.
    OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE: Bytes, unset;
    /// Largest set of headers the application may send.
    OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE: Bytes, unset;
    /// Outbound streams that may be reset before they were accepted.
    OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS: Count, unset;
    /// Bytes an outbound stream may hold for sending.
    OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE: Bytes, unset;

    // Discovery and policy.

    /// Where the destination service is.
    DESTINATION_SVC_ADDR: Address, required;
    /// Identity the destination service must prove; not needed on loopback.
    DESTINATION_SVC_NAME: Text, unset;
    /// Token sent with every question to the destination service.
    DESTINATION_CONTEXT: Text, unset;
    /// Names service profiles are looked up for.
    DESTINATION_PROFILE_SUFFIXES: Suffixes, "svc.cluster.local.";
    /// Addresses service profiles are looked up for.
    DESTINATION_PROFILE_NETWORKS: Networks, unset;
    /// Where the policy service is.
    POLICY_SVC_ADDR: Address, required;
    /// Identity the policy service must prove; not needed on loopback.
    POLICY_SVC_NAME: Text, unset;
    /// Which workload's policies are asked for.
    POLICY_WORKLOAD: Text, required;
    /// Networks of the cluster, for the default policies that speak of it.
    POLICY_CLUSTER_NETWORKS: Networks, unset;
    /// What is allowed on inbound ports until the policy service has answered.
    INBOUND_DEFAULT_POLICY: Text, "all-unauthenticated";
    /// Ports whose policy is fetched ahead and kept.
    INBOUND_PORTS: Ports, unset;
    /// Ports that are opaque until the policy service has answered.
    INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION: Ports, unset;
    /// Written by injectors for older proxies; accepted and ignored.
    INBOUND_PORTS_REQUIRE_IDENTITY: Ports, unset;
    /// Written by injectors for older proxies; accepted and ignored.
    INBOUND_PORTS_REQUIRE_TLS: Ports, unset;
    /// Addresses of the pod: inbound connections for others are refused; unset allows all.
    INBOUND_IPS: Ips, unset;
    /// Names forwarded as a gateway; unset is no gateway.
    INBOUND_GATEWAY_SUFFIXES: Suffixes, unset;
    /// Route requests by their `l5d-dst-override`, as ingress controllers need.
    INGRESS_MODE: Boolean, "false";
    /// Leave diagnostic headers out of responses made here; unset follows INGRESS_MODE.
    OUTBOUND_DISABLE_INFORMATIONAL_HEADERS: Boolean, unset;
    /// Label route metrics with the hostname of the request.
    OUTBOUND_METRICS_HOSTNAME_LABELS: Boolean, "false";
    /// `unsafe` labels inbound metrics with the authority of the request.
    INBOUND_METRICS_AUTHORITY_LABELS: Text, unset;

    // Identity.

    /// Trust anchors, PEM text.
    IDENTITY_TRUST_ANCHORS: Text, required;
    /// Own identity, both as the certificate's name and for SNI.
    IDENTITY_LOCAL_NAME: Text, unset;
    /// Own identity in the certificate, a DNS name or URI; without IDENTITY_LOCAL_NAME.
    IDENTITY_SERVER_ID: Text, unset;
    /// Own name for SNI; without IDENTITY_LOCAL_NAME.
    IDENTITY_SERVER_NAME: Text, unset;
    /// Where the identity service is.
    IDENTITY_SVC_ADDR: Address, unset;
    /// Identity the identity service must prove; not needed on loopback.
    IDENTITY_SVC_NAME: Text, unset;
    /// Directory of the key and the certificate request.
    IDENTITY_DIR: Text, unset;
    /// File of the service-account token.
    IDENTITY_TOKEN_FILE: Text, unset;
    /// Shortest time between renewals of the certificate.
    IDENTITY_MIN_REFRESH: Duration, "10s";
    /// Longest time between renewals of the certificate.
    IDENTITY_MAX_REFRESH: Duration, "1d";
    /// Socket of a SPIRE agent to get the identity from.
    IDENTITY_SPIRE_WORKLOAD_API_ADDRESS: Text, unset;
    /// Older name of IDENTITY_SPIRE_WORKLOAD_API_ADDRESS.
    IDENTITY_SPIRE_SOCKET: Text, unset;
    /// Shortest pause before asking the SPIRE agent again.
    IDENTITY_SPIRE_EXP_BACKOFF_MIN: Duration, "100ms";
    /// Longest pause before asking the SPIRE agent again.
    IDENTITY_SPIRE_EXP_BACKOFF_MAX: Duration, "1s";
    /// Random share added to the pause before asking the SPIRE agent again.
    IDENTITY_SPIRE_EXP_BACKOFF_JITTER: Ratio, "0.1";
    /// No longer possible: any value stops the proxy.
    IDENTITY_DISABLED: Text, unset;

    // Observation and administration.

    /// Identity allowed to tap; enables the tap server.
    TAP_SVC_NAME: Text, unset;
    /// Whether the admin server answers /shutdown.
    SHUTDOWN_ENDPOINT_ENABLED: Boolean, "false";
    /// Shortest time a DNS answer is kept.
    DNS_MIN_TTL: Duration, unset;
    /// Longest time a DNS answer is kept.
    DNS_MAX_TTL: Duration, unset;
    /// Where spans are sent; enables tracing.
    TRACE_COLLECTOR_SVC_ADDR: Address, unset;
    /// Identity the span collector must prove; not needed on loopback.
    TRACE_COLLECTOR_SVC_NAME: Text, unset;
    /// Service name of exported spans.
    TRACE_SERVICE_NAME: Text, unset;
    /// File of lines `key="value"` that become attributes of spans.
    TRACE_ATTRIBUTES_PATH: Text, unset;
    /// Further attributes of spans, lines `key=value`.
    TRACE_EXTRA_ATTRIBUTES: Text, unset;
    /// Written by injectors; accepted and ignored.
    TRACE_ANNOTATIONS_PATH: Text, unset;
    /// Written by injectors; accepted and ignored.
    TRACE_PROTOCOL: Text, unset;
    /// Log filter.
    LOG: Text, "warn,linkerd=info,hickory=error";
    /// Log format, `plain` or `json`.
    LOG_FORMAT: Text, "plain";
    /// Access log format, `apache` or `json`; unset writes none.
    ACCESS_LOG: Text, unset;

    // Threads.

    /// Older name of CORES_MIN.
    CORES: Count, unset;
    /// Fewest worker threads; unset follows CORES, and 1 without it.
    CORES_MIN: Count, unset;
    /// Most worker threads.
    CORES_MAX: Count, unset;
    /// Share of the node's cores used for worker threads, between 0 and 1.
    CORES_MAX_RATIO: Ratio, unset;
}
