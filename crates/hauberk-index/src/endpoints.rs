//! The endpoints of a service, for one client.
//!
//! Slices say which addresses stand behind the service and whether they are ready (or about to end but still
//! serving, which counts where none is ready); pods and
//! external workloads say how to talk to them. External workloads that the service selects stand
//! behind it without a slice too: Linkerd's control plane writes slices for them, which only says
//! the same in another place.

use crate::{
    answer::{Answer, Refusal},
    derive::Derivation,
    endpoint::{Place, hint, of_workload},
    key::EndpointsKey,
    labels::Zones,
    relations::workload_behind,
};
use hauberk_model::{
    Endpoint, Endpoints, Port,
    endpoints::{EndpointTls, Labels},
};
use hauberk_resources::{
    AddressType, EndpointSlice, ExternalWorkload, IntOrString, Pod, Protocol, Resource,
    ResourceKey, Service, ServiceType, SliceEndpoint, TrafficScope, annotations,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Annotation of a mirrored slice: the service in the other cluster.
const REMOTE_SERVICE: &str = "mirror.linkerd.io/remote-svc-fq-name";
/// Annotation of a mirrored slice: the identity of the other cluster's gateway.
const REMOTE_GATEWAY_IDENTITY: &str = "mirror.linkerd.io/remote-gateway-identity";

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &EndpointsKey) -> Answer {
    let (namespace, name) = (key.service.namespace.as_str(), &key.service.name);
    let Some(service) = derivation.service(namespace, name) else {
        return Answer::Refused(Refusal::NotFound(format!("service {} not found", key.service)));
    };
    if service.kind() == ServiceType::ExternalName {
        let reason = format!("service {} is of type ExternalName", key.service);
        return Answer::Refused(Refusal::Invalid(reason));
    }
    let client_zone = key
        .client_node
        .as_ref()
        .and_then(|node| derivation.node(node))
        .and_then(|node| node.zone());
    let mut those = |which: fn(&SliceEndpoint) -> bool| {
        let candidates = one_family_each(candidates(derivation, service, key, which));
        near_enough(service, candidates, key.client_node.as_ref(), client_zone)
    };
    // Those that are about to end are better than none (Kubernetes, "Termination of Pods"; KEP-1669).
    let ready = those(SliceEndpoint::is_ready);
    let candidates =
        if ready.is_empty() { those(SliceEndpoint::is_ending_and_serves) } else { ready };

    let mut by_address = BTreeMap::new();
    for candidate in candidates {
        let endpoint = candidate.endpoint(derivation, client_zone);
        by_address.insert(endpoint.address, Arc::new(endpoint));
    }
    let mut labels = Labels::new();
    labels.insert("namespace".into(), service.metadata.namespace.clone());
    labels.insert("service".into(), service.metadata.name.clone());
    Answer::Endpoints(Arc::new(Endpoints { labels: Arc::new(labels), by_address }))
}

/// An address that may become an endpoint.
struct Candidate<'a> {
    /// Where it is written down; nowhere for external workloads that the service selects.
    written: Option<(&'a EndpointSlice, &'a SliceEndpoint)>,
    ip: IpAddr,
    port: Port,
    /// The port clients asked for, for the authority of gateways.
    asked: Port,
    /// The object behind it with its name, if it has one.
    behind: Option<(ResourceKey, &'a Resource)>,
}

fn candidates<'a>(
    derivation: &mut Derivation<'a>,
    service: &'a Service,
    key: &EndpointsKey,
    is_wanted: fn(&SliceEndpoint) -> bool,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    let mut in_slices = BTreeSet::new();
    for slice in derivation.slices(&service.metadata.namespace, &service.metadata.name) {
        in_slices.extend(slice.endpoints.iter().filter_map(|entry| workload_behind(slice, entry)));
        let is_usable = match slice.address_type {
            AddressType::Ipv4 => true,
            AddressType::Ipv6 => derivation.config.ipv6,
            AddressType::Fqdn => false,
        };
        let Some(port) = target_port(service, slice, key.port).filter(|_| is_usable) else {
            continue;
        };
        for entry in &slice.endpoints {
            let is_asked_for = key.hostname.as_ref().is_none_or(|name| *name == entry.hostname);
            if !is_asked_for || !is_wanted(entry) {
                continue;
            }
            let behind = match (&entry.target_ref, workload_behind(slice, entry)) {
                (None, _) => None,
                // Objects of other kinds are nothing we could speak of.
                (Some(_), None) => continue,
                // Slices and pods arrive on different watches; the endpoint waits for its pod.
                (Some(_), Some(key)) => match derivation.held(&key) {
                    Some(workload) => Some((key, workload)),
                    None => continue,
                },
            };
            candidates.extend(entry.ips().map(|ip| Candidate {
                written: Some((slice, entry)),
                ip,
                port,
                asked: key.port,
                behind: behind.clone(),
            }));
        }
    }
    if key.hostname.is_none() {
        candidates.extend(selected(derivation, service, key, &in_slices));
    }
    candidates
}

/// The external workloads that the service selects and that stand in none of its slices.
fn selected<'a>(
    derivation: &Derivation<'a>,
    service: &'a Service,
    key: &EndpointsKey,
    in_slices: &BTreeSet<ResourceKey>,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (resource, external) in derivation.external_workloads(service) {
        let behind = resource.key();
        let is_ready = external.is_ready() || service.publishes_not_ready_addresses();
        let port = port_of(service, external, key.port);
        let Some(port) = port.filter(|_| is_ready && !in_slices.contains(&behind)) else {
            continue;
        };
        let usable = |ip: &IpAddr| ip.is_ipv4() || derivation.config.ipv6;
        candidates.extend(external.ips().into_iter().filter(usable).map(|ip| Candidate {
            written: None,
            ip,
            port,
            asked: key.port,
            behind: Some((behind.clone(), resource)),
        }));
    }
    candidates
}

/// The port of an external workload for a port of the service. A number need not be declared.
fn port_of(service: &Service, external: &ExternalWorkload, port: Port) -> Option<Port> {
    let Some(known) = service.tcp_port(port.get()) else { return Some(port) };
    match known.target_port() {
        IntOrString::Number(number) => Port::new(number),
        IntOrString::Name(name) => external.tcp_ports_named(&name).find_map(Port::new),
    }
}

/// The port of a slice's endpoints for a port of the service.
///
/// The service's port is found in the slice by name, because a named target port may have another
/// number in each slice. A number that the service does not name is taken as it is. None while
/// the slice does not say the number.
fn target_port(service: &Service, slice: &EndpointSlice, port: Port) -> Option<Port> {
    let Some(known) = service.tcp_port(port.get()) else { return Some(port) };
    let named = slice
        .ports
        .iter()
        .find(|port| port.name == known.name && port.protocol == Protocol::Tcp)?;
    named.port.and_then(Port::new)
}

/// Leaves only the IPv6 addresses of workloads that have both families.
///
/// Slices of IPv6 addresses are not even looked at unless IPv6 is on.
fn one_family_each(candidates: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let with_ipv6: BTreeSet<ResourceKey> = candidates
        .iter()
        .filter(|candidate| candidate.ip.is_ipv6())
        .filter_map(|candidate| Some(candidate.behind.as_ref()?.0.clone()))
        .collect();
    let mut left = candidates;
    left.retain(|candidate| match &candidate.behind {
        Some((key, _)) => candidate.ip.is_ipv6() || !with_ipv6.contains(key),
        None => true,
    });
    left
}

/// Keeps what the service's traffic policy and the slices' hints leave to a client.
///
/// Hints come of `trafficDistribution` (`PreferSameNode`, `PreferSameZone`, `PreferClose`) or of
/// topology aware routing; which of them made a hint does not matter here. Hints of nodes go before
/// hints of zones. Either counts only if every endpoint has one, and only if one of them is for the
/// client: anything else could overload or cut off a node or zone (Kubernetes, "Traffic
/// distribution" and "Topology Aware Routing"; kube-proxy 1.34 does the same).
fn near_enough<'a>(
    service: &Service,
    mut candidates: Vec<Candidate<'a>>,
    client_node: Option<&Arc<str>>,
    client_zone: Option<&str>,
) -> Vec<Candidate<'a>> {
    if service.internal_traffic() == TrafficScope::Local {
        candidates.retain(|candidate| client_node.is_some_and(|node| candidate.is_on(node)));
        return candidates;
    }
    let node = client_node.map(|node| &**node);
    if meant_for(&mut candidates, node, |entry| entry.for_nodes()) {
        return candidates;
    }
    meant_for(&mut candidates, client_zone, |entry| entry.for_zones());
    candidates
}

/// Keeps what is hinted for `place`, if every endpoint has a hint and one of them is for it; says
/// whether that is so.
fn meant_for<'a, 'h, I>(
    candidates: &mut Vec<Candidate<'a>>,
    place: Option<&str>,
    hints: impl Fn(&'a SliceEndpoint) -> I,
) -> bool
where
    I: ExactSizeIterator<Item = &'h str>,
{
    let Some(place) = place else { return false };
    let hints = |candidate: &Candidate<'a>| candidate.written.map(|(_, entry)| hints(entry));
    let is_for_us = |candidate: &Candidate<'a>| {
        hints(candidate).is_some_and(|mut hints| hints.any(|hint| hint == place))
    };
    // What stands in no slice has no hint.
    let has_hints = |candidate: &Candidate<'a>| hints(candidate).is_some_and(|it| it.len() > 0);
    if !candidates.iter().all(has_hints) || !candidates.iter().any(is_for_us) {
        return false;
    }
    candidates.retain(is_for_us);
    true
}

impl<'a> Candidate<'a> {
    /// Whether it runs on that node: by the slice, which says it for endpoints of every kind, or
    /// else by its pod.
    fn is_on(&self, node: &Arc<str>) -> bool {
        match (self.written, &self.behind) {
            (Some((_, entry)), _) if !entry.node_name.is_empty() => entry.node_name == *node,
            (_, Some((_, Resource::Pod(Pod { spec, .. })))) => spec.node_name == *node,
            _ => false,
        }
    }

    fn endpoint(&self, derivation: &mut Derivation<'a>, client_zone: Option<&str>) -> Endpoint {
        let address = SocketAddr::new(self.ip, self.port.get());
        let zone = self.written.map(|(_, entry)| &*entry.zone).filter(|zone| !zone.is_empty());
        let Some((_, workload)) = &self.behind else {
            let zones = Zones { endpoint: zone, client: client_zone };
            return self.endpoint_without_workload(derivation, address, zones);
        };
        let zone = zone.or_else(|| match workload {
            Resource::Pod(pod) => derivation.zone_of_node(&pod.spec.node_name),
            other if self.written.is_none() => other.metadata().label(annotations::TOPOLOGY_ZONE),
            _ => None,
        });
        let zones = Zones { endpoint: zone, client: client_zone };
        let place = Place { address, port: self.port, is_own_address: true, zones };
        of_workload(derivation, workload, place)
    }

    /// The gateway of another cluster, or an address somebody wrote down.
    fn endpoint_without_workload(
        &self,
        derivation: &Derivation<'_>,
        address: SocketAddr,
        zones: Zones<'_>,
    ) -> Endpoint {
        let mut endpoint = Endpoint::bare(address);
        zones.label(&mut endpoint.labels);
        let annotation = |name| self.written.and_then(|(slice, _)| slice.metadata.annotation(name));
        if let Some(remote) = annotation(REMOTE_SERVICE) {
            endpoint.authority_override = Some(format!("{remote}:{}", self.asked).into());
        }
        let identity = annotation(REMOTE_GATEWAY_IDENTITY);
        if let Some(identity) = identity.and_then(|identity| identity.parse().ok()) {
            let identity: hauberk_model::WorkloadId = identity;
            let server_name = identity.as_str().into();
            endpoint.tls = Some(EndpointTls { identity, server_name });
            endpoint.hint = hint(derivation.config, false);
            endpoint.http2 = derivation.config.meshed_http2;
        }
        endpoint
    }
}
