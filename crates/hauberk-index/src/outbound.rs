//! What a client should do with traffic to a target.
//!
//! A target is a service (by one of its addresses, or by name), an address outside of the cluster,
//! or an address in the cluster that nobody describes; the last is not found, and the client then
//! goes by the profile.

use crate::{
    address,
    answer::{Answer, Refusal},
    derive::Derivation,
    failure_accrual,
    key::{OutboundKey, OutboundTarget},
    opaque::{self, AppProtocol, app_protocol},
};
use hauberk_model::{
    Authority, Endpoint, Meta, OutboundPolicy, Port, ServiceName,
    failure_accrual::FailureAccrual,
    filter::TcpFilter,
    outbound::{
        Backend, BackendTarget, Distribution, HttpPolicy, HttpRoute, HttpRule, Load, OpaqueRoute,
        OutboundProtocol, Queue, RouteBackend,
    },
    route::{Route, Rule},
    timeout::Timeouts,
};
use hauberk_resources::Service;
use std::{net::SocketAddr, sync::Arc};

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &OutboundKey) -> Answer {
    let policy = match &key.target {
        OutboundTarget::Address(address) => to_address(derivation, key, *address),
        OutboundTarget::Service(name, port) => {
            let service = derivation.service(name.namespace.as_str(), &name.name);
            Ok(to_service(derivation, key, &Parent::new(name.clone(), *port, service)))
        }
    };
    match policy {
        Ok(policy) => Answer::Outbound(Arc::new(policy)),
        Err(refusal) => Answer::Refused(refusal),
    }
}

fn to_address(
    derivation: &mut Derivation<'_>,
    key: &OutboundKey,
    address: SocketAddr,
) -> Result<OutboundPolicy, Refusal> {
    let not_found = || Refusal::NotFound("No such service".to_owned());
    let port = Port::new(address.port()).ok_or_else(not_found)?;
    if let Some(service) = address::service(derivation, address.ip())? {
        let metadata = &service.metadata;
        let name = ServiceName::new(&*metadata.namespace, &*metadata.name);
        // Named once more, so that the answer hangs on the service and not only on its address.
        derivation.service(&metadata.namespace, &metadata.name);
        if service.tcp_port(port.get()).is_none() {
            return Ok(undefined_port(&name, port));
        }
        return Ok(to_service(derivation, key, &Parent::new(name, port, Some(service))));
    }
    let is_inside =
        derivation.config.cluster_networks.iter().any(|net| net.contains(&address.ip()));
    if is_inside { Err(not_found()) } else { Ok(to_outside(derivation, address)) }
}

/// The service a policy is for. It may not exist when it was asked for by name; the policy then
/// balances over the endpoints it may get.
struct Parent<'a> {
    name: ServiceName,
    port: Port,
    service: Option<&'a Service>,
}

impl<'a> Parent<'a> {
    fn new(name: ServiceName, port: Port, service: Option<&'a Service>) -> Self {
        Self { name, port, service }
    }

    fn meta(&self) -> Meta {
        Meta::service(self.name.namespace.as_str(), &self.name.name, Some(self.port))
    }

    fn app_protocol(&self) -> AppProtocol {
        let port = self.service.and_then(|service| service.tcp_port(self.port.get()));
        port.map_or(AppProtocol::Unnamed, app_protocol)
    }

    fn is_opaque(&self, derivation: &Derivation<'_>) -> bool {
        match self.service.and_then(|service| Some((service, service.tcp_port(self.port.get())?))) {
            Some((service, port)) => opaque::of_service(derivation.config, service, port),
            None => derivation.config.default_opaque_ports.contains(self.port),
        }
    }

    fn failure_accrual(&self) -> Option<FailureAccrual> {
        self.service.and_then(|service| failure_accrual::breaker(&service.metadata))
    }

    /// The service itself as a backend. Opaque bytes have no failures to weigh.
    fn backend(&self, derivation: &Derivation<'_>, load: Load) -> Arc<Backend> {
        let fqdn = self.name.fqdn(&derivation.config.cluster_domain);
        let authority = Authority::new(&fqdn, self.port);
        Arc::new(Backend {
            meta: self.meta(),
            target: BackendTarget::Balance { authority, load },
            queue: Queue::default(),
        })
    }

    fn load(&self) -> Load {
        self.service.map_or_else(Load::default, |service| failure_accrual::load(&service.metadata))
    }
}

fn to_service(
    derivation: &mut Derivation<'_>,
    _key: &OutboundKey,
    parent: &Parent<'_>,
) -> OutboundPolicy {
    let http = HttpPolicy {
        routes: Arc::new([http_route("http", parent.backend(derivation, parent.load()))]),
        failure_accrual: parent.failure_accrual(),
    };
    let opaque = vec![opaque_route("opaq", parent.backend(derivation, Load::default()))];
    let protocol = if parent.is_opaque(derivation) {
        OutboundProtocol::Opaque(opaque)
    } else {
        match parent.app_protocol() {
            AppProtocol::Opaque => OutboundProtocol::Opaque(opaque),
            AppProtocol::Http1 => OutboundProtocol::Http1(http),
            AppProtocol::Http2 => OutboundProtocol::Http2(http),
            AppProtocol::Unnamed => OutboundProtocol::Detect {
                timeout: derivation.config.detect_timeout,
                http1: http.clone(),
                http2: http,
                opaque,
            },
        }
    };
    OutboundPolicy { parent: parent.meta(), protocol }
}

/// A port that the service does not have: refused here, because the service's address with any
/// other port leads nowhere and must not lead around the service's policies.
fn undefined_port(name: &ServiceName, port: Port) -> OutboundPolicy {
    let route = OpaqueRoute {
        meta: Meta::default("undefined-port"),
        filters: vec![TcpFilter::Forbidden],
        backends: Distribution::Empty,
    };
    OutboundPolicy {
        parent: Meta::service(name.namespace.as_str(), &name.name, Some(port)),
        protocol: OutboundProtocol::Opaque(vec![route]),
    }
}

/// An address outside of the cluster: straight there.
fn to_outside(derivation: &Derivation<'_>, address: SocketAddr) -> OutboundPolicy {
    const NAME: &str = "egress-fallback";
    let backend = Arc::new(Backend {
        meta: Meta::default(NAME),
        target: BackendTarget::Forward(Arc::new(Endpoint { weight: 1, ..Endpoint::bare(address) })),
        queue: Queue::default(),
    });
    let http =
        HttpPolicy { routes: Arc::new([http_route(NAME, backend.clone())]), failure_accrual: None };
    OutboundPolicy {
        parent: Meta::default(NAME),
        protocol: OutboundProtocol::Detect {
            timeout: derivation.config.detect_timeout,
            http1: http.clone(),
            http2: http,
            opaque: vec![opaque_route(NAME, backend)],
        },
    }
}

/// A route for every request, to one backend.
fn http_route(name: &'static str, backend: Arc<Backend>) -> HttpRoute {
    let action = HttpRule {
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]),
        timeouts: Timeouts::default(),
        retry: None,
        allow_l5d_request_headers: false,
    };
    let rules = vec![Rule { matches: Vec::new(), action }];
    HttpRoute { meta: Meta::default(name), route: Route { hosts: Vec::new(), rules } }
}

/// A route for every connection, to one backend.
fn opaque_route(name: &'static str, backend: Arc<Backend>) -> OpaqueRoute {
    OpaqueRoute {
        meta: Meta::default(name),
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]),
    }
}
