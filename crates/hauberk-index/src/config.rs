//! Settings of the control plane that answers depend on.

use hauberk_model::{
    PortSet,
    endpoints::{Http2Params, KeepAlive},
    inbound::DefaultPolicy,
};
use ipnet::IpNet;
use std::{sync::Arc, time::Duration};

/// Settings of the control plane that answers depend on. The defaults are those of Linkerd's
/// chart.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// Namespace of the control plane.
    pub control_plane_namespace: Arc<str>,
    /// Domain of service names.
    pub cluster_domain: Arc<str>,
    /// Domain of identities.
    pub trust_domain: Arc<str>,
    /// Networks of pods, services and nodes.
    pub cluster_networks: Vec<IpNet>,
    /// Networks probes come from; without any, probes get no route of their own.
    pub probe_networks: Vec<IpNet>,
    /// What ports accept that nothing else speaks of.
    pub default_policy: DefaultPolicy,
    /// Ports whose connections are not looked into, where no annotation says otherwise.
    pub default_opaque_ports: PortSet,
    /// Namespace whose egress networks hold for namespaces without their own.
    pub global_egress_namespace: Arc<str>,
    /// How meshed endpoints are reached.
    pub transport: TransportMode,
    /// Whether HTTP/1 is carried over HTTP/2 between proxies.
    pub http2_upgrade: bool,
    /// HTTP/2 parameters for connections to meshed endpoints.
    pub meshed_http2: Option<Http2Params>,
    /// Whether IPv6 endpoints are used; then they are preferred where a pod has both families.
    pub ipv6: bool,
    /// How long a silent client is waited for while its protocol is detected.
    pub detect_timeout: Duration,
    /// Whether clients may set timeouts and retries by `l5d-*` headers.
    pub allow_l5d_request_headers: bool,
    /// Whether a route needs a `ReferenceGrant` for a backend in another namespace.
    pub requires_reference_grants: bool,
}

/// How meshed endpoints are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportMode {
    /// Through their proxy's port, with a transport header, whatever is spoken.
    TransportHeader,
    /// On the application's own port, except for opaque traffic.
    Transparent,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        Self {
            control_plane_namespace: "linkerd".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            cluster_networks: [
                "10.0.0.0/8",
                "100.64.0.0/10",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "fd00::/8",
            ]
            .map(net)
            .to_vec(),
            probe_networks: ["0.0.0.0/0", "::/0"].map(net).to_vec(),
            default_policy: DefaultPolicy::AllUnauthenticated,
            default_opaque_ports: PortSet::parse("25,587,3306,4444,5432,6379,9300,11211")
                .expect("a list of ports"),
            global_egress_namespace: "linkerd-egress".into(),
            transport: TransportMode::TransportHeader,
            http2_upgrade: true,
            meshed_http2: Some(Http2Params {
                keep_alive: Some(KeepAlive {
                    interval: Duration::from_secs(10),
                    timeout: Duration::from_secs(3),
                    while_idle: true,
                }),
                ..Http2Params::default()
            }),
            ipv6: false,
            detect_timeout: Duration::from_secs(10),
            allow_l5d_request_headers: false,
            requires_reference_grants: false,
        }
    }
}
