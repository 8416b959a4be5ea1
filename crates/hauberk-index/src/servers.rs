//! Which server is in force on a port of a workload.

use crate::derive::Derivation;
use hauberk_model::Port;
use hauberk_resources::{
    IntOrString, Resource,
    policy::{ProxyProtocol, Server},
};

/// The server on this port; of several the oldest, then the first by name.
///
/// A port given by number counts even if the workload does not declare it; a port given by name
/// means every TCP port that has the name. The workload was read by `derivation` before.
pub(crate) fn in_force<'a>(
    derivation: &mut Derivation<'a>,
    workload: &'a Resource,
    port: Port,
) -> Option<&'a Server> {
    derivation.servers_on(workload).into_iter().find(|server| has_port(server, workload, port))
}

/// Whether the server in force, if any, says that the port is opaque.
pub(crate) fn is_opaque<'a>(
    derivation: &mut Derivation<'a>,
    workload: &'a Resource,
    port: Port,
) -> bool {
    in_force(derivation, workload, port)
        .is_some_and(|server| server.protocol() == ProxyProtocol::Opaque)
}

fn has_port(server: &Server, workload: &Resource, port: Port) -> bool {
    let name = match server.port() {
        IntOrString::Number(number) => return *number == port.get(),
        IntOrString::Name(name) => name,
    };
    match workload {
        Resource::Pod(pod) => pod.spec.tcp_ports_named(name).any(|number| number == port.get()),
        Resource::ExternalWorkload(external) => {
            external.tcp_ports_named(name).any(|number| number == port.get())
        }
        _ => false,
    }
}
