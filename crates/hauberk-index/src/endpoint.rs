//! One endpoint: what a client has to know of a pod or external workload to talk to it.

use crate::{
    config::{ClusterConfig, TransportMode},
    derive::Derivation,
    labels::{self, Zones, control_plane},
    opaque, servers,
};
use hauberk_model::{
    Endpoint, Port, WorkloadId,
    endpoints::{EndpointTls, ProtocolHint},
};
use hauberk_resources::{ExternalWorkload, Pod, Resource};
use std::net::SocketAddr;

/// Port of a proxy for inbound connections, where nothing else is known.
const INBOUND_PORT: Port = Port::new(4143).expect("4143 is not zero");

/// How a client reaches a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The address to dial.
    pub(crate) address: SocketAddr,
    /// The port the workload itself sees; differs from the address' port behind a node's port.
    pub(crate) port: Port,
    /// Whether the address is the workload's own, so that its proxy's ports are there too.
    pub(crate) is_own_address: bool,
    /// Zones of both ends.
    pub(crate) zones: Zones<'a>,
}

/// Whether connections to the port of a pod or external workload are not looked into.
///
/// The workload was read by `derivation` before.
pub(crate) fn is_opaque<'a>(
    derivation: &mut Derivation<'a>,
    workload: &'a Resource,
    port: Port,
) -> bool {
    let annotated = match workload {
        Resource::Pod(pod) => opaque::of_pod(derivation.config, pod, port),
        Resource::ExternalWorkload(external) => {
            opaque::of_external(derivation.config, external, port)
        }
        _ => false,
    };
    annotated || servers::is_opaque(derivation, workload, port)
}

/// The endpoint of a pod or external workload, which was read by `derivation` before.
pub(crate) fn of_workload<'a>(
    derivation: &mut Derivation<'a>,
    workload: &'a Resource,
    place: Place<'_>,
) -> Endpoint {
    let is_opaque = is_opaque(derivation, workload, place.port);
    match workload {
        Resource::Pod(pod) => of_pod(derivation, pod, place, is_opaque),
        Resource::ExternalWorkload(external) => {
            of_external(derivation.config, external, place, is_opaque)
        }
        _ => Endpoint::bare(place.address),
    }
}

fn of_pod(derivation: &Derivation<'_>, pod: &Pod, place: Place<'_>, is_opaque: bool) -> Endpoint {
    let config = derivation.config;
    let mut endpoint = Endpoint::bare(place.address);
    endpoint.labels = labels::of_pod(derivation, pod, place.zones);
    // A skipped port bypasses the proxy, so nothing of what the proxy could do may be promised.
    let Some(control_plane) = control_plane(pod) else { return endpoint };
    if opaque::is_skipped(pod, place.port) {
        return endpoint;
    }
    endpoint.http2 = config.meshed_http2;
    endpoint.hint = hint(config, is_opaque);
    let ports = ProxyPorts::of(pod);
    let wants_header = config.transport == TransportMode::TransportHeader || is_opaque;
    if wants_header && place.is_own_address && !ports.are_of_the_proxy_itself(place.port) {
        endpoint.opaque_transport = ports.inbound;
    }
    if *control_plane == *config.control_plane_namespace {
        let identity = WorkloadId::service_account(
            pod.spec.service_account(),
            &pod.metadata.namespace,
            control_plane,
            &config.trust_domain,
        );
        let server_name = identity.as_str().into();
        endpoint.tls = Some(EndpointTls { identity, server_name });
    }
    endpoint
}

fn of_external(
    config: &ClusterConfig,
    external: &ExternalWorkload,
    place: Place<'_>,
    is_opaque: bool,
) -> Endpoint {
    let mut endpoint = Endpoint::bare(place.address);
    endpoint.labels = labels::of_external(external, place.zones);
    endpoint.http2 = config.meshed_http2;
    // External workloads always have a proxy that understands HTTP/2.
    endpoint.hint = if is_opaque { ProtocolHint::Opaque } else { ProtocolHint::Http2 };
    if config.transport == TransportMode::TransportHeader || is_opaque {
        let port = external.tcp_ports_named("linkerd-proxy").find_map(Port::new);
        endpoint.opaque_transport = Some(port.unwrap_or(INBOUND_PORT));
    }
    if let Ok(identity) = external.identity().parse() {
        let server_name = external.server_name().clone();
        endpoint.tls = Some(EndpointTls { identity, server_name });
    }
    endpoint
}

pub(crate) fn hint(config: &ClusterConfig, is_opaque: bool) -> ProtocolHint {
    match (is_opaque, config.http2_upgrade) {
        (true, _) => ProtocolHint::Opaque,
        (false, true) => ProtocolHint::Http2,
        (false, false) => ProtocolHint::Unknown,
    }
}

/// The ports a pod's proxy listens on, by the settings of its container.
#[derive(Debug, Default)]
struct ProxyPorts {
    inbound: Option<Port>,
    admin: Option<Port>,
    control: Option<Port>,
}

impl ProxyPorts {
    fn of(pod: &Pod) -> Self {
        let mut containers = pod.spec.all_containers();
        let Some(proxy) = containers.find(|container| &*container.name == "linkerd-proxy") else {
            return Self::default();
        };
        let port = |name: &str| proxy.env(name)?.rsplit_once(':')?.1.parse().ok();
        Self {
            inbound: port("LINKERD2_PROXY_INBOUND_LISTEN_ADDR"),
            admin: port("LINKERD2_PROXY_ADMIN_LISTEN_ADDR"),
            control: port("LINKERD2_PROXY_CONTROL_LISTEN_ADDR"),
        }
    }

    /// Whether the proxy answers on that port itself instead of passing connections on.
    fn are_of_the_proxy_itself(&self, port: Port) -> bool {
        self.admin == Some(port) || self.control == Some(port)
    }
}
