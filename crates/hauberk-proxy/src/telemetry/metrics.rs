//! Every metric family of the proxy, registered once per process.
//!
//! Shared by all threads as one `Arc`; the handles inside are atomics. Names are those of linkerd2-proxy.

use crate::{
    connection::Direction,
    telemetry::{balancer, http, labels::Labels, tcp},
    tls::Handshake,
};
use hauberk_process::metrics::{
    Counter, Distribution, Family, Gauge, Info, Metrics as Registry, Real, Registry as Raw, Unit,
};
use rustls::crypto::CryptoProvider;

type Counters = Family<Labels, Counter>;
type Distributions = Family<Labels, Distribution>;

/// All families.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `tcp_*`.
    pub tcp: tcp::Families,
    /// `request_total` and everything else about HTTP.
    pub http: http::Families,
    /// Inbound connections and what became of them.
    pub inbound: Inbound,
    /// Outbound connections and what became of them.
    pub outbound: Outbound,
    /// `hauberk_tls_handshakes_total`: handshakes of mesh TLS, by `direction` and `kind` (`full`, `resumed`).
    pub handshakes: Counters,
    /// `control_identity_cert_*`.
    pub identity: Identity,
    /// Streams from the control plane.
    pub control: Control,
    /// `outbound_*_balancer_*`.
    pub balancers: balancer::Families,
}

/// `inbound_tcp_*`.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// `inbound_tcp_authz_allow_total`.
    pub tcp_allow: Counters,
    /// `inbound_tcp_authz_deny_total`.
    pub tcp_deny: Counters,
    /// `inbound_tcp_authz_terminate_total`.
    pub tcp_terminate: Counters,
    /// `inbound_tcp_errors_total`.
    pub tcp_errors: Counters,
    /// `inbound_tcp_transport_header_connections_total`.
    pub transport_header: Counters,
    /// `inbound_tcp_detect_http_results_total`.
    pub detect_results: Counters,
    /// `inbound_tcp_detect_http_duration_seconds`.
    pub detect_duration: Distributions,
}

/// `outbound_tcp_*`.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// `outbound_tcp_errors_total`.
    pub tcp_errors: Counters,
    /// `outbound_tcp_protocol_connections_total`.
    pub protocol: Counters,
    /// `outbound_tcp_detect_http_results_total`.
    pub detect_results: Counters,
    /// `outbound_tcp_detect_http_duration_seconds`.
    pub detect_duration: Distributions,
    /// `outbound_tcp_route_open_total`.
    pub tcp_route_open: Counters,
    /// `outbound_tcp_route_close_total`.
    pub tcp_route_close: Counters,
    /// `outbound_tls_route_open_total`.
    pub tls_route_open: Counters,
    /// `outbound_tls_route_close_total`.
    pub tls_route_close: Counters,
}

/// `control_identity_cert_*`.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Unix time at which the certificate ends.
    pub expiration: Real,
    /// Unix time at which the certificate was issued to us.
    pub refresh: Real,
    /// Attempts, by `result`.
    pub refreshes: Counters,
}

/// Streams from the control plane, and the calls that open them.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Streams open now, by `service`.
    pub streams: Family<Labels, Gauge>,
    /// Stream ends, by `service` and `code`.
    pub stream_ends: Counters,
    /// Messages that could not be understood, by `service`.
    pub invalid_messages: Counters,
    /// `control_request_total`, `control_response_total`, `control_response_latency_ms`.
    pub calls: http::Calls,
    /// `control_dns_resolutions_total`, by `client`, `record_type` and `result`.
    pub resolutions: Counters,
}

impl Metrics {
    /// Registers all families.
    pub fn register(registry: &Registry) -> Self {
        registry.register(|registry| Self {
            tcp: tcp::Families::register(registry),
            http: http::Families::register(registry),
            inbound: Inbound::register(registry),
            outbound: Outbound::register(registry),
            handshakes: {
                let handshakes = Counters::default();
                let help = "Completed handshakes of mesh TLS between proxies";
                registry.register("hauberk_tls_handshakes", help, handshakes.clone());
                handshakes
            },
            balancers: balancer::Families::register(registry),
            identity: Identity::register(registry),
            control: Control::register(registry),
        })
    }
}

/// `rustls_info`: what TLS is made of, as linkerd2-proxy names it. Lists end with a comma there, and so here.
pub fn register_tls(registry: &Registry, provider: &CryptoProvider) {
    let list = |names: Vec<String>| names.iter().map(|name| format!("{name},")).collect::<String>();
    let suites = provider.cipher_suites.iter();
    let suites = suites.map(|suite| format!("{:?}", suite.suite())).collect();
    let groups = provider.kx_groups.iter();
    let groups = groups.map(|group| format!("{:?}", group.name())).collect();
    let info = Info::new(vec![
        ("tls_suites", list(suites)),
        ("tls_kx_groups", list(groups)),
        ("tls_rand", format!("{:?}", provider.secure_random)),
        ("tls_key_provider", format!("{:?}", provider.key_provider)),
        ("tls_fips", provider.fips().to_string()),
    ]);
    registry.register(|registry| registry.register("rustls", "Parts of TLS", info));
}

impl Metrics {
    /// Mesh TLS has been agreed on.
    pub fn handshake(&self, direction: Direction, kind: Handshake) {
        let labels = Labels::new().direction(direction).with("kind", kind.as_str());
        self.handshakes.get_or_create(&labels).inc();
    }
}

fn counters(registry: &mut Raw, name: &str, help: &str) -> Counters {
    let family = Counters::default().forgetful();
    registry.register(name, help, family.clone());
    family
}

fn detect_duration(registry: &mut Raw, name: &str) -> Distributions {
    // Bounds of linkerd2-proxy: at once, within a tenth of a second, or a timeout.
    let family = Distributions::new(|| Distribution::new(&[0.001, 0.1])).forgetful();
    let help = "Time until HTTP was recognised or ruled out";
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

impl Inbound {
    fn register(registry: &mut Raw) -> Self {
        Self {
            tcp_allow: counters(registry, "inbound_tcp_authz_allow", "Connections authorized"),
            tcp_deny: counters(registry, "inbound_tcp_authz_deny", "Connections refused by policy"),
            tcp_terminate: counters(
                registry,
                "inbound_tcp_authz_terminate",
                "Connections ended because a new policy no longer authorizes them",
            ),
            tcp_errors: counters(registry, "inbound_tcp_errors", "Connections that failed"),
            transport_header: counters(
                registry,
                "inbound_tcp_transport_header_connections",
                "Connections that began with a transport header",
            ),
            detect_results: counters(
                registry,
                "inbound_tcp_detect_http_results",
                "Outcomes of HTTP detection",
            ),
            detect_duration: detect_duration(registry, "inbound_tcp_detect_http_duration"),
        }
    }
}

impl Outbound {
    fn register(registry: &mut Raw) -> Self {
        let mut counters = |name: &str, help: &str| counters(registry, name, help);
        Self {
            tcp_errors: counters("outbound_tcp_errors", "Connections that failed"),
            protocol: counters("outbound_tcp_protocol_connections", "Connections by protocol"),
            detect_results: counters(
                "outbound_tcp_detect_http_results",
                "Outcomes of HTTP detection",
            ),
            tcp_route_open: counters("outbound_tcp_route_open", "Connections given to a TCP route"),
            tcp_route_close: counters(
                "outbound_tcp_route_close",
                "Connections of a TCP route that ended",
            ),
            tls_route_open: counters("outbound_tls_route_open", "Connections given to a TLS route"),
            tls_route_close: counters(
                "outbound_tls_route_close",
                "Connections of a TLS route that ended",
            ),
            detect_duration: detect_duration(registry, "outbound_tcp_detect_http_duration"),
        }
    }
}

impl Identity {
    fn register(registry: &mut Raw) -> Self {
        let identity = Self::default();
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "control_identity_cert_expiration_timestamp",
            "Time at which the certificate ends, seconds since 1970",
            seconds,
            identity.expiration.clone(),
        );
        registry.register_with_unit(
            "control_identity_cert_refresh_timestamp",
            "Time at which the certificate was obtained, seconds since 1970",
            seconds,
            identity.refresh.clone(),
        );
        registry.register(
            "control_identity_cert_refreshes",
            "Attempts to obtain a certificate",
            identity.refreshes.clone(),
        );
        identity
    }
}

impl Control {
    fn register(registry: &mut Raw) -> Self {
        let control = Self::default();
        registry.register(
            "hauberk_control_streams",
            "Streams from the control plane open now",
            control.streams.clone(),
        );
        registry.register(
            "hauberk_control_stream_ends",
            "Streams from the control plane that ended",
            control.stream_ends.clone(),
        );
        registry.register(
            "hauberk_control_invalid_messages",
            "Messages of the control plane that could not be understood",
            control.invalid_messages.clone(),
        );
        registry.register(
            "control_dns_resolutions",
            "Look-ups of the control plane's names",
            control.resolutions.clone(),
        );
        control.calls.register(registry);
        control
    }
}
