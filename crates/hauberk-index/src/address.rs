//! Whose address is this?

use crate::{answer::Refusal, derive::Derivation};
use hauberk_model::Port;
use hauberk_resources::{Pod, PodPhase, Protocol, Resource, Service};
use std::net::{IpAddr, SocketAddr};

/// What stands behind an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// A service.
    Service(&'a Service),
    /// A pod or external workload, and the port it sees itself.
    Workload { workload: &'a Resource, port: Port, is_own_address: bool },
    /// Nothing that is known.
    Nobody,
}

/// The service with this address, if there is exactly one.
pub(crate) fn service<'a>(
    derivation: &mut Derivation<'a>,
    ip: IpAddr,
) -> Result<Option<&'a Service>, Refusal> {
    let claimants = derivation.claimants(ip);
    let services = claimants.into_iter().filter_map(|resource| match resource {
        Resource::Service(service) => Some(service),
        _ => None,
    });
    one_of(services.collect(), "services", ip)
}

/// What stands behind an address: a service, else a running pod by its own address, else a running
/// pod by a port of its node, else an external workload that declares the port.
///
/// # Errors
///
/// Two objects that claim the same address are a contradiction; a guess could send a client's
/// bytes, or its trust, to the wrong one.
pub(crate) fn owner<'a>(
    derivation: &mut Derivation<'a>,
    address: SocketAddr,
) -> Result<Owner<'a>, Refusal> {
    let ip = address.ip();
    if let Some(service) = service(derivation, ip)? {
        return Ok(Owner::Service(service));
    }
    let Some(port) = Port::new(address.port()) else { return Ok(Owner::Nobody) };
    let claimants = derivation.claimants(ip);
    let running = claimants.iter().copied().filter(|resource| is_running(resource));
    if let Some(pod) = one_of(running.collect(), "pods", ip)? {
        return Ok(workload(derivation, pod, port, true));
    }
    let on_host: Vec<_> = derivation
        .on_host(ip)
        .into_iter()
        .filter(|resource| is_running(resource))
        .filter_map(|resource| Some((resource, container_port(resource, port)?)))
        .collect();
    if let Some((pod, port)) = one_of(on_host, "pods", ip)? {
        return Ok(workload(derivation, pod, port, false));
    }
    let external = claimants.into_iter().filter(|resource| match resource {
        Resource::ExternalWorkload(external) => external
            .ports()
            .iter()
            .any(|declared| declared.port == port.get() && declared.protocol == Protocol::Tcp),
        _ => false,
    });
    match one_of(external.collect(), "external workloads", ip)? {
        Some(external) => Ok(workload(derivation, external, port, true)),
        None => Ok(Owner::Nobody),
    }
}

fn workload<'a>(
    derivation: &mut Derivation<'a>,
    workload: &'a Resource,
    port: Port,
    is_own_address: bool,
) -> Owner<'a> {
    // Read once more by name, so that the answer hangs on all that is known about it.
    derivation.workload(workload.key());
    Owner::Workload { workload, port, is_own_address }
}

/// A pod that does not run yet has no proxy that could speak for it; readiness does not matter,
/// because clustered systems dial their peers before they are ready.
fn is_running(resource: &Resource) -> bool {
    matches!(resource, Resource::Pod(pod) if pod.phase() == PodPhase::Running)
}

/// The port of a container behind a port of the node.
fn container_port(resource: &Resource, host_port: Port) -> Option<Port> {
    let Resource::Pod(Pod { spec, .. }) = resource else { return None };
    let declared = spec.tcp_ports().find(|port| port.host_port == Some(host_port.get()))?;
    Port::new(declared.container_port)
}

fn one_of<T: Copy>(found: Vec<T>, what: &str, ip: IpAddr) -> Result<Option<T>, Refusal> {
    match &found[..] {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            Err(Refusal::Contradiction(format!("{} {what} claim the address {ip}", several.len())))
        }
    }
}
