//! What a port of a workload accepts.

mod rate_limit;
mod routes;

pub(crate) use self::{rate_limit::in_force as rate_limit_in_force, routes::usable};

use crate::{
    answer::{Answer, Refusal},
    authorizations,
    derive::Derivation,
    opaque, servers,
};
use hauberk_model::{
    InboundPolicy, Meta, Network, Port,
    inbound::{
        Authentication, Authorization, DefaultPolicy, GrpcRoute, HttpRoute, HttpServer,
        InboundProtocol, WorkloadPort, WorkloadRef,
    },
    route::{
        Route, Rule,
        http::{HttpMatch, PathMatch},
    },
};
use hauberk_resources::{
    Kind, Metadata, Pod, PortList, Resource, ResourceKey, annotations,
    policy::{ProxyProtocol, Server},
};
use std::{collections::BTreeSet, sync::Arc};

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &WorkloadPort) -> Answer {
    let (kind, name) = match &key.workload {
        WorkloadRef::Pod(name) => (Kind::Pod, name),
        WorkloadRef::External(name) => (Kind::ExternalWorkload, name),
    };
    let workload = ResourceKey::new(kind, key.namespace.as_str(), name.clone());
    let Some(workload) = derivation.workload(workload) else {
        return Answer::Refused(Refusal::NotFound("unknown server".to_owned()));
    };
    let policy = match servers::in_force(derivation, workload, key.port) {
        Some(server) => of_server(derivation, workload, server, key.port),
        None => by_default(derivation, workload, key.port),
    };
    Answer::Inbound(Arc::new(policy))
}

/// A port somebody wrote a `Server` for.
fn of_server(
    derivation: &mut Derivation<'_>,
    workload: &Resource,
    server: &Server,
    port: Port,
) -> InboundPolicy {
    let timeout = derivation.config.detect_timeout;
    let http = |derivation: &mut Derivation<'_>| http_server(derivation, workload, server, port);
    let protocol = match server.protocol() {
        ProxyProtocol::Unknown => InboundProtocol::Detect { timeout, http: http(derivation) },
        ProxyProtocol::Http1 => InboundProtocol::Http1(http(derivation)),
        ProxyProtocol::Http2 => InboundProtocol::Http2(http(derivation)),
        ProxyProtocol::Grpc => InboundProtocol::Grpc(grpc_routes(derivation, server)),
        ProxyProtocol::Opaque => InboundProtocol::Opaque,
        ProxyProtocol::Tls => InboundProtocol::Tls,
    };
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "server", "", &server.metadata.name),
        protocol,
        authorizations: authorizations::of_server(derivation, server),
    }
}

/// What a server takes by HTTP. As soon as it has a route, requests that match none are refused,
/// and probes need a route of their own too.
fn http_server(
    derivation: &mut Derivation<'_>,
    workload: &Resource,
    server: &Server,
    port: Port,
) -> HttpServer {
    let written = routes::http(derivation, server);
    let routes = match written.is_empty() {
        true => default_routes(derivation, workload, port),
        false => written.into(),
    };
    HttpServer { routes, rate_limit: rate_limit::of_server(derivation, server) }
}

fn grpc_routes(derivation: &mut Derivation<'_>, server: &Server) -> Arc<[GrpcRoute]> {
    let written = routes::grpc(derivation, server);
    if !written.is_empty() {
        return written.into();
    }
    let rules = vec![Rule { matches: Vec::new(), action: Vec::new() }];
    Arc::new([GrpcRoute {
        meta: Meta::default("default"),
        authorizations: Arc::new([]),
        route: Route { hosts: Vec::new(), rules },
    }])
}

/// A port nobody wrote a `Server` for.
fn by_default(derivation: &mut Derivation<'_>, workload: &Resource, port: Port) -> InboundPolicy {
    let config = derivation.config;
    let is_opaque = match workload {
        Resource::Pod(pod) => opaque::of_pod(config, pod, port),
        Resource::ExternalWorkload(external) => opaque::of_external(config, external, port),
        _ => false,
    };
    let protocol = if is_opaque {
        InboundProtocol::Opaque
    } else {
        let routes = default_routes(derivation, workload, port);
        let http = HttpServer { routes, rate_limit: None };
        InboundProtocol::Detect { timeout: config.detect_timeout, http }
    };
    let policy = default_policy(config.default_policy, workload.metadata(), port);
    InboundPolicy {
        server: Meta::default(policy.as_str()),
        protocol,
        authorizations: policy.authorizations(&config.cluster_networks),
    }
}

/// The workload's own default policy, or the cluster's; stricter on ports that require identity.
///
/// A word that names no policy counts as not written; the injector and the webhook complain.
fn default_policy(cluster: DefaultPolicy, workload: &Metadata, port: Port) -> DefaultPolicy {
    let own = workload.annotation(annotations::DEFAULT_INBOUND_POLICY);
    let policy = own.and_then(|text| text.parse().ok()).unwrap_or(cluster);
    let identified = workload.annotation(annotations::REQUIRE_IDENTITY_INBOUND_PORTS);
    if identified.is_some_and(|list| PortList::parse_numbers(list).ports.contains(port)) {
        policy.authenticated()
    } else {
        policy
    }
}

/// The route for every request, and one for the probes of the kubelet.
fn default_routes(
    derivation: &Derivation<'_>,
    workload: &Resource,
    port: Port,
) -> Arc<[HttpRoute]> {
    let catch_all = HttpRoute::catch_all(Meta::default("default"), Arc::new([]));
    let probes = match workload {
        Resource::Pod(pod) => probe_route(derivation, pod, port),
        _ => None,
    };
    std::iter::once(catch_all).chain(probes).collect()
}

/// Lets the kubelet probe the port, whatever else is asked of clients: it has no identity.
fn probe_route(derivation: &Derivation<'_>, pod: &Pod, port: Port) -> Option<HttpRoute> {
    let networks = &derivation.config.probe_networks;
    let probes = pod.spec.all_containers().flat_map(|container| container.http_probes());
    let paths: BTreeSet<&str> =
        probes.filter(|(number, _)| *number == port.get()).map(|(_, get)| get.path()).collect();
    if paths.is_empty() || networks.is_empty() {
        return None;
    }
    let exactly = |path: &str| HttpMatch {
        path: Some(PathMatch::Exact(path.into())),
        method: Some(http::Method::GET),
        ..HttpMatch::default()
    };
    let matches = paths.into_iter().map(exactly).collect();
    let authorization = Authorization {
        meta: Meta::default("probe"),
        networks: networks.iter().copied().map(Network::new).collect(),
        authentication: Authentication::Unauthenticated,
    };
    Some(HttpRoute {
        meta: Meta::default("probe"),
        authorizations: Arc::new([authorization]),
        route: Route { hosts: Vec::new(), rules: vec![Rule { matches, action: Vec::new() }] },
    })
}
