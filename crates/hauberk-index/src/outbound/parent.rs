//! What a policy is for: a port of a service, or of an egress network.

use super::{
    forward,
    limits::Limits,
    routes::{catch_all, opaque_catch_all},
};
use crate::{
    balancing,
    derive::Derivation,
    failure_accrual,
    opaque::{self, AppProtocol, app_protocol},
};
use hauberk_model::{
    Authority, Balancing, Meta, Port, ServiceName,
    failure_accrual::FailureAccrual,
    filter::{GrpcFilter, HttpFilter, InjectGrpcFailure, InjectHttpFailure, Ratio, TcpFilter},
    meta::ResourceMeta,
    outbound::{
        Backend, BackendTarget, Distribution, GrpcRoute, GrpcRule, HttpRoute, Load, OpaqueRoute,
        Queue, RouteBackend, TlsRoute,
    },
    route::{Route, Rule},
    timeout::Timeouts,
};
use hauberk_resources::{
    Kind, Metadata, PortList, ResourceKey, Service, annotations,
    policy::{EgressNetwork, TrafficPolicy},
};
use http::StatusCode;
use std::{net::SocketAddr, sync::Arc};

/// What a client is told when an egress network refuses it.
const NOT_ALLOWED: &str = "traffic not allowed";

/// A port of a service or an egress network.
pub(super) struct Parent<'a> {
    pub(super) key: ResourceKey,
    pub(super) meta: Meta,
    pub(super) port: Port,
    request_backend: Arc<Backend>,
    opaque_backend: Arc<Backend>,
    /// Time limits and retries of routes that name none.
    pub(super) limits: Limits,
    target: Target<'a>,
}

/// What is balanced: requests, whose failures may weigh as load, or bytes that are not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Requests,
    Opaque,
}

enum Target<'a> {
    /// None when it was asked for by name and does not exist; the policy then balances over the
    /// endpoints that it may get.
    Service(Option<&'a Service>),
    Egress(&'a EgressNetwork),
}

impl<'a> Parent<'a> {
    pub(super) fn service(
        derivation: &Derivation<'_>,
        name: &ServiceName,
        port: Port,
        service: Option<&'a Service>,
    ) -> Self {
        let namespace = name.namespace.as_str();
        let metadata = service.map(|service| &service.metadata);
        let meta = Meta::service(namespace, &name.name, Some(port));
        let to = |load: Load, balancing: Balancing| {
            let target = Balanced { name, port, load, balancing };
            balance(derivation, meta.clone(), target)
        };
        let load = metadata.map(failure_accrual::load).unwrap_or_default();
        let of_requests = service.map(balancing::of_requests).unwrap_or_default();
        let of_opaque = service.map(balancing::of_opaque).unwrap_or_default();
        Self {
            key: ResourceKey::new(Kind::Service, namespace, name.name.clone()),
            port,
            request_backend: to(load, of_requests),
            opaque_backend: to(Load::default(), of_opaque),
            limits: metadata.map(Limits::of_parent).unwrap_or_default(),
            target: Target::Service(service),
            meta,
        }
    }

    pub(super) fn egress(network: &'a EgressNetwork, address: SocketAddr, port: Port) -> Self {
        let Metadata { namespace, name, .. } = &network.metadata;
        let meta = Meta::Resource(Arc::new(ResourceMeta {
            group: "policy.linkerd.io".into(),
            kind: "EgressNetwork".into(),
            namespace: namespace.clone(),
            name: name.clone(),
            section: "".into(),
            port: Some(port),
        }));
        let backend = forward(meta.clone(), address);
        Self {
            key: ResourceKey::new(Kind::EgressNetwork, namespace.clone(), name.clone()),
            port,
            opaque_backend: backend.clone(),
            request_backend: backend,
            limits: Limits::of_parent(&network.metadata),
            target: Target::Egress(network),
            meta,
        }
    }

    fn metadata(&self) -> Option<&'a Metadata> {
        match self.target {
            Target::Service(service) => service.map(|service| &service.metadata),
            Target::Egress(network) => Some(&network.metadata),
        }
    }

    pub(super) fn app_protocol(&self) -> AppProtocol {
        match self.target {
            Target::Service(Some(service)) => {
                service.tcp_port(self.port.get()).map_or(AppProtocol::Unnamed, app_protocol)
            }
            Target::Service(None) | Target::Egress(_) => AppProtocol::Unnamed,
        }
    }

    pub(super) fn is_opaque(&self, derivation: &Derivation<'_>) -> bool {
        let config = derivation.config;
        let known = match self.target {
            Target::Service(Some(service)) => service
                .tcp_port(self.port.get())
                .map(|port| opaque::of_service(config, service, port)),
            Target::Service(None) => None,
            Target::Egress(network) => network
                .metadata
                .annotation(annotations::OPAQUE_PORTS)
                .map(|list| PortList::parse_numbers(list).ports.contains(self.port)),
        };
        known.unwrap_or_else(|| config.default_opaque_ports.contains(self.port))
    }

    pub(super) fn failure_accrual(&self) -> Option<FailureAccrual> {
        self.metadata().and_then(failure_accrual::breaker)
    }

    /// How load is estimated at every balancer of this parent's routes.
    pub(super) fn load(&self, traffic: Traffic) -> Load {
        match (&self.target, traffic) {
            (Target::Service(Some(service)), Traffic::Requests) => {
                failure_accrual::load(&service.metadata)
            }
            _ => Load::default(),
        }
    }

    /// Where traffic goes that no route sends elsewhere.
    pub(super) fn backend(&self, traffic: Traffic) -> &Arc<Backend> {
        match traffic {
            Traffic::Requests => &self.request_backend,
            Traffic::Opaque => &self.opaque_backend,
        }
    }

    /// What happens to traffic of an egress network that no route is for; none for services.
    fn traffic_policy(&self) -> Option<TrafficPolicy> {
        match self.target {
            Target::Service(_) => None,
            Target::Egress(network) => Some(network.traffic_policy()),
        }
    }

    /// A service has a default route only if it has no other; an egress network always has one,
    /// as its last.
    pub(super) fn with_http_defaults(
        &self,
        derivation: &Derivation<'_>,
        mut routes: Vec<HttpRoute>,
    ) -> Vec<HttpRoute> {
        let (name, filters) = match self.traffic_policy() {
            None if !routes.is_empty() => return routes,
            None => ("http", Vec::new()),
            Some(TrafficPolicy::Allow) => ("http-egress-allow", Vec::new()),
            Some(TrafficPolicy::Deny) => (
                "http-egress-deny",
                vec![HttpFilter::InjectFailure(InjectHttpFailure {
                    status: StatusCode::FORBIDDEN,
                    message: NOT_ALLOWED.into(),
                    ratio: Ratio::ALL,
                })],
            ),
        };
        let mut route = catch_all(derivation, Meta::default(name), self.request_backend.clone());
        for rule in &mut route.route.rules {
            rule.action.filters.clone_from(&filters);
            rule.action.timeouts = self.limits.timeouts;
            rule.action.retry = self.limits.http_retry();
        }
        routes.push(route);
        routes
    }

    pub(super) fn with_grpc_defaults(&self, mut routes: Vec<GrpcRoute>) -> Vec<GrpcRoute> {
        let (name, filters) = match self.traffic_policy() {
            None => return routes,
            Some(TrafficPolicy::Allow) => ("grpc-egress-allow", Vec::new()),
            Some(TrafficPolicy::Deny) => (
                "grpc-egress-deny",
                vec![GrpcFilter::InjectFailure(InjectGrpcFailure {
                    code: 7,
                    message: NOT_ALLOWED.into(),
                    ratio: Ratio::ALL,
                })],
            ),
        };
        let action = GrpcRule {
            filters,
            backends: Distribution::FirstAvailable(vec![RouteBackend {
                filters: Vec::new(),
                backend: self.request_backend.clone(),
            }]),
            timeouts: Timeouts::default(),
            retry: None,
            allow_l5d_request_headers: false,
        };
        let rules = vec![Rule { matches: Vec::new(), action }];
        routes.push(GrpcRoute {
            meta: Meta::default(name),
            route: Route { hosts: Vec::new(), rules },
        });
        routes
    }

    pub(super) fn with_tls_defaults(&self, mut routes: Vec<TlsRoute>) -> Vec<TlsRoute> {
        let (name, filters) = match self.traffic_policy() {
            None => return routes,
            Some(TrafficPolicy::Allow) => ("tls-egress-allow", Vec::new()),
            Some(TrafficPolicy::Deny) => ("tls-egress-deny", vec![TcpFilter::Forbidden]),
        };
        let OpaqueRoute { meta, backends, .. } =
            opaque_catch_all(Meta::default(name), self.opaque_backend.clone());
        routes.push(TlsRoute { meta, snis: Vec::new(), filters, backends });
        routes
    }

    pub(super) fn with_opaque_defaults(&self, mut routes: Vec<OpaqueRoute>) -> Vec<OpaqueRoute> {
        let (name, filters) = match self.traffic_policy() {
            None if !routes.is_empty() => return routes,
            None => ("opaq", Vec::new()),
            Some(TrafficPolicy::Allow) => ("tcp-egress-allow", Vec::new()),
            Some(TrafficPolicy::Deny) => ("tcp-egress-deny", vec![TcpFilter::Forbidden]),
        };
        let route = opaque_catch_all(Meta::default(name), self.opaque_backend.clone());
        routes.push(OpaqueRoute { filters, ..route });
        routes
    }
}

/// The endpoints of a service's port, with how they are balanced.
pub(super) struct Balanced<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) port: Port,
    pub(super) load: Load,
    pub(super) balancing: Balancing,
}

/// The endpoints of a service, balanced.
pub(super) fn balance(
    derivation: &Derivation<'_>,
    meta: Meta,
    balanced: Balanced<'_>,
) -> Arc<Backend> {
    let Balanced { name, port, load, balancing } = balanced;
    let authority = Authority::new(&name.fqdn(&derivation.config.cluster_domain), port);
    let target = BackendTarget::Balance { authority, load, balancing: Arc::new(balancing) };
    Arc::new(Backend { meta, target, queue: Queue::default() })
}

/// The same backend with the breaker of one route.
pub(super) fn with_breaker(backend: &Arc<Backend>, breaker: &FailureAccrual) -> Arc<Backend> {
    let mut own = Backend::clone(backend);
    if let BackendTarget::Balance { balancing, .. } = &mut own.target {
        let breaker = Some(breaker.clone());
        *balancing = Arc::new(Balancing { breaker, ..Balancing::clone(balancing) });
    }
    Arc::new(own)
}
