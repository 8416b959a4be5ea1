//! Which ports carry bytes that are not looked into, and which ports bypass the proxy.
//!
//! Clients, servers and services all ask here, so the two ends of a connection agree.

use crate::config::ClusterConfig;
use hauberk_model::{Port, PortSet};
use hauberk_resources::{
    ExternalWorkload, Metadata, Pod, PortList, Service, ServicePort, annotations,
};

/// What an application protocol named on a service port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppProtocol {
    /// Nothing was named.
    Unnamed,
    /// HTTP/1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// Something else: bytes that are not looked into.
    Opaque,
}

pub(crate) fn app_protocol(port: &ServicePort) -> AppProtocol {
    match &*port.app_protocol.to_ascii_lowercase() {
        "" => AppProtocol::Unnamed,
        "http" => AppProtocol::Http1,
        // Kubernetes names h2c; services that carry gRPC often say so instead, those of the
        // Gateway API's own mesh tests among them.
        "kubernetes.io/h2c" | "grpc" => AppProtocol::Http2,
        _ => AppProtocol::Opaque,
    }
}

/// Whether connections to a service port are not looked into. A named application protocol beats
/// the annotation.
pub(crate) fn of_service(config: &ClusterConfig, service: &Service, port: &ServicePort) -> bool {
    match app_protocol(port) {
        AppProtocol::Http1 | AppProtocol::Http2 => false,
        AppProtocol::Opaque => true,
        AppProtocol::Unnamed => {
            let numbers_of = |name: &str| -> Vec<u16> {
                let named = service.ports().iter().filter(|port| *port.name == *name);
                named.map(|port| port.port).collect()
            };
            let annotated = annotated(&service.metadata, numbers_of);
            Port::new(port.port).is_some_and(|port| listed(config, annotated.as_ref(), port))
        }
    }
}

/// Whether connections to a pod's port are not looked into, servers aside.
pub(crate) fn of_pod(config: &ClusterConfig, pod: &Pod, port: Port) -> bool {
    let annotated =
        annotated(&pod.metadata, |name| pod.spec.tcp_ports_named(name).collect::<Vec<_>>());
    listed(config, annotated.as_ref(), port)
}

/// Whether connections to an external workload's port are not looked into, servers aside.
pub(crate) fn of_external(config: &ClusterConfig, external: &ExternalWorkload, port: Port) -> bool {
    let annotated =
        annotated(&external.metadata, |name| external.tcp_ports_named(name).collect::<Vec<_>>());
    listed(config, annotated.as_ref(), port)
}

/// Whether connections to a pod's port bypass its proxy.
pub(crate) fn is_skipped(pod: &Pod, port: Port) -> bool {
    let skipped = pod.metadata.annotation(annotations::SKIP_INBOUND_PORTS);
    skipped.is_some_and(|list| PortList::parse_numbers(list).ports.contains(port))
}

/// The annotation replaces the cluster's list even if it is empty.
fn listed(config: &ClusterConfig, annotated: Option<&PortSet>, port: Port) -> bool {
    annotated.unwrap_or(&config.default_opaque_ports).contains(port)
}

fn annotated(metadata: &Metadata, numbers_of: impl Fn(&str) -> Vec<u16>) -> Option<PortSet> {
    let list = metadata.annotation(annotations::OPAQUE_PORTS)?;
    Some(PortList::parse(list, numbers_of).ports)
}
