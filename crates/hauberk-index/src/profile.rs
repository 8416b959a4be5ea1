//! What is known of a target beside its policy: routes of the older form for services, and the
//! endpoint itself for single addresses.

use crate::{
    address::{self, Owner},
    answer::{Answer, Refusal},
    derive::Derivation,
    endpoint::{Place, is_opaque, of_workload},
    key::{ProfileKey, ProfileTarget},
    labels::Zones,
    opaque,
    relations::workload_behind,
};
use hauberk_model::{
    Authority, Endpoint, Meta, Port, Profile, ServiceName, profile::WeightedTarget,
    retry::RetryBudget,
};
use hauberk_resources::{PodPhase, Resource, Service, ServiceProfile, ServiceType};
use std::{net::SocketAddr, sync::Arc};

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &ProfileKey) -> Answer {
    let profile = match &key.target {
        ProfileTarget::Address(address) => of_address(derivation, key, *address),
        ProfileTarget::Service(service, port) => of_name(derivation, key, service, *port),
        ProfileTarget::Instance { service, hostname, port } => {
            of_instance(derivation, key, service, hostname, *port)
        }
    };
    match profile {
        Ok(profile) => Answer::Profile(Arc::new(profile)),
        Err(refusal) => Answer::Refused(refusal),
    }
}

fn of_address(
    derivation: &mut Derivation<'_>,
    key: &ProfileKey,
    address: SocketAddr,
) -> Result<Profile, Refusal> {
    match address::owner(derivation, address)? {
        Owner::Service(service) => {
            let port = Port::new(address.port());
            Ok(port
                .map_or_else(Profile::default, |port| of_service(derivation, key, service, port)))
        }
        Owner::Workload { workload, port, is_own_address } => {
            Ok(of_endpoint(derivation, key, workload, address, port, is_own_address))
        }
        Owner::Nobody => Ok(Profile {
            opaque: Port::new(address.port())
                .is_some_and(|port| derivation.config.default_opaque_ports.contains(port)),
            endpoint: Some(Arc::new(Endpoint::bare(address))),
            retry_budget: Some(RetryBudget::default()),
            ..Profile::default()
        }),
    }
}

fn of_name(
    derivation: &mut Derivation<'_>,
    key: &ProfileKey,
    name: &ServiceName,
    port: Port,
) -> Result<Profile, Refusal> {
    let Some(service) = derivation.service(name.namespace.as_str(), &name.name) else {
        return Err(Refusal::NotFound(format!("service {name} not found")));
    };
    if service.kind() == ServiceType::ExternalName {
        return Err(Refusal::Invalid(format!("service {name} is of type ExternalName")));
    }
    Ok(of_service(derivation, key, service, port))
}

/// A port that the service does not have gets the empty profile, which sends the client to the
/// policy, which refuses it.
fn of_service(
    derivation: &mut Derivation<'_>,
    key: &ProfileKey,
    service: &Service,
    port: Port,
) -> Profile {
    let Some(service_port) = service.tcp_port(port.get()) else { return Profile::default() };
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    let fqdn = ServiceName::new(&**namespace, &**name).fqdn(&derivation.config.cluster_domain);
    let found = service_profile(derivation, key, namespace, &fqdn);
    let targets = found.map(|found| targets(found, port)).unwrap_or_default();
    Profile {
        name: Some(fqdn.into()),
        opaque: opaque::of_service(derivation.config, service, service_port),
        endpoint: None,
        routes: found.map(|found| found.routes().clone()).unwrap_or_default(),
        retry_budget: Some(found.and_then(ServiceProfile::retry_budget).unwrap_or_default()),
        targets,
        parent: Some(Meta::service(namespace, name, Some(port))),
        profile: found.map(|found| {
            let metadata = &found.metadata;
            Meta::resource("linkerd.io", "ServiceProfile", &metadata.namespace, &metadata.name)
        }),
    }
}

/// The profile of the client's namespace beats the one beside the service.
fn service_profile<'a>(
    derivation: &mut Derivation<'a>,
    key: &ProfileKey,
    service_namespace: &str,
    fqdn: &str,
) -> Option<&'a ServiceProfile> {
    let of_client = key
        .client_namespace
        .as_ref()
        .and_then(|namespace| derivation.service_profile(namespace, fqdn));
    of_client.or_else(|| derivation.service_profile(service_namespace, fqdn))
}

fn targets(profile: &ServiceProfile, default_port: Port) -> Vec<WeightedTarget> {
    let overrides = profile.dst_overrides().iter().filter_map(|target| {
        let authority = Authority::parse(&target.authority, default_port).ok()?;
        Some(WeightedTarget { authority, weight: target.weight, backend: None })
    });
    overrides.collect()
}

fn of_instance(
    derivation: &mut Derivation<'_>,
    key: &ProfileKey,
    service: &ServiceName,
    hostname: &Arc<str>,
    port: Port,
) -> Result<Profile, Refusal> {
    let namespace: Arc<str> = service.namespace.as_str().into();
    for slice in derivation.slices(&namespace, &service.name) {
        let named = slice.endpoints.iter().filter(|entry| entry.hostname == *hostname);
        for entry in named {
            let Some(workload) =
                workload_behind(slice, entry).and_then(|key| derivation.workload(key))
            else {
                continue;
            };
            let usable = |ip: &std::net::IpAddr| ip.is_ipv4() || derivation.config.ipv6;
            let Some(ip) = entry.ips().find(usable) else { continue };
            let address = SocketAddr::new(ip, port.get());
            return Ok(of_endpoint(derivation, key, workload, address, port, true));
        }
    }
    Err(Refusal::NotFound(format!("no endpoint {hostname} of service {service}")))
}

fn of_endpoint<'a>(
    derivation: &mut Derivation<'a>,
    key: &ProfileKey,
    workload: &'a Resource,
    address: SocketAddr,
    port: Port,
    is_own_address: bool,
) -> Profile {
    let mut profile = Profile {
        opaque: is_opaque(derivation, workload, port),
        retry_budget: Some(RetryBudget::default()),
        ..Profile::default()
    };
    if matches!(workload, Resource::Pod(pod) if pod.phase() != PodPhase::Running) {
        profile.endpoint = Some(Arc::new(Endpoint::bare(address)));
        return profile;
    }
    let client = key
        .client_node
        .as_ref()
        .and_then(|node| derivation.node(node))
        .and_then(|node| node.zone());
    let zone = match workload {
        Resource::Pod(pod) => derivation.zone_of_node(&pod.spec.node_name),
        other => other.metadata().label(hauberk_resources::annotations::TOPOLOGY_ZONE),
    };
    let zones = Zones { endpoint: zone, client };
    let mut endpoint =
        of_workload(derivation, workload, Place { address, port, is_own_address, zones });
    endpoint.labels.insert("namespace".into(), workload.metadata().namespace.clone());
    profile.endpoint = Some(Arc::new(endpoint));
    profile
}
