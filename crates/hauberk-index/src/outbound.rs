//! What a client should do with traffic to a target.
//!
//! A target is a service (by one of its addresses, or by name), an egress network, an address
//! outside of the cluster, or an address in the cluster that nobody describes; the last is not
//! found, and the client then goes by the profile.

mod backends;
mod egress;
mod limits;
mod parent;
mod routes;

pub(crate) use egress::is_acceptable;
pub(crate) use limits::{are_codes, are_statuses};

use crate::{
    address,
    answer::{Answer, Refusal},
    derive::Derivation,
    key::{OutboundKey, OutboundTarget},
    opaque::AppProtocol,
    routes::{Unusable, attached},
};
use hauberk_model::{
    Endpoint, Meta, OutboundPolicy, Port, ServiceName,
    filter::TcpFilter,
    outbound::{
        Backend, BackendTarget, Distribution, GrpcPolicy, HttpPolicy, OpaqueRoute,
        OutboundProtocol, Queue,
    },
};
use hauberk_resources::{Resource, ResourceKey};
use parent::Parent;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &OutboundKey) -> Answer {
    let policy = match &key.target {
        OutboundTarget::Address(address) => to_address(derivation, key, *address),
        OutboundTarget::Service(name, port) => {
            let service = derivation.service(name.namespace.as_str(), &name.name);
            let parent = Parent::service(derivation, name, *port, service);
            Ok(to_parent(derivation, key, &parent))
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
        // Read once more by name, so that the answer hangs on the service, not only its address.
        derivation.service(&metadata.namespace, &metadata.name);
        if service.tcp_port(port.get()).is_none() {
            return Ok(undefined_port(&name, port));
        }
        let parent = Parent::service(derivation, &name, port, Some(service));
        return Ok(to_parent(derivation, key, &parent));
    }
    if let Some(network) = egress::find(derivation, &key.client_namespace, address.ip()) {
        let parent = Parent::egress(network, address, port);
        return Ok(to_parent(derivation, key, &parent));
    }
    let is_inside =
        derivation.config.cluster_networks.iter().any(|net| net.contains(&address.ip()));
    if is_inside { Err(not_found()) } else { Ok(to_outside(derivation, address)) }
}

/// The policy for a service or an egress network: which protocol, and its routes.
///
/// Routes of the parent's namespace hold for everybody, those of the client's own for the client.
fn to_parent(
    derivation: &mut Derivation<'_>,
    key: &OutboundKey,
    parent: &Parent<'_>,
) -> OutboundPolicy {
    let sees = |namespace: &Arc<str>| {
        *namespace == key.client_namespace || *namespace == parent.key.namespace
    };
    let attached = attached(derivation, &parent.key, Some(parent.port), sees);
    let http = routes::http(derivation, parent, &attached.http);
    let grpc = routes::grpc(derivation, parent, &attached.grpc);
    let tls = routes::tls(derivation, parent, &attached.tls);
    let opaque = routes::tcp(derivation, parent, &attached.tcp);

    let failure_accrual = parent.failure_accrual();
    let http_policy = || HttpPolicy {
        routes: parent.with_http_defaults(derivation, http.clone()).into(),
        failure_accrual: failure_accrual.clone(),
    };
    let as_grpc = || {
        let routes = parent.with_grpc_defaults(grpc.clone()).into();
        let failure_accrual = failure_accrual.clone();
        OutboundProtocol::Grpc(GrpcPolicy { routes, failure_accrual })
    };
    let as_opaque = || OutboundProtocol::Opaque(parent.with_opaque_defaults(opaque.clone()));
    let protocol = match parent.app_protocol() {
        AppProtocol::Http1 => OutboundProtocol::Http1(http_policy()),
        AppProtocol::Http2 if !grpc.is_empty() => as_grpc(),
        AppProtocol::Http2 => OutboundProtocol::Http2(http_policy()),
        AppProtocol::Opaque => as_opaque(),
        AppProtocol::Unnamed if parent.is_opaque(derivation) => as_opaque(),
        AppProtocol::Unnamed if !grpc.is_empty() => as_grpc(),
        AppProtocol::Unnamed if http.is_empty() && !tls.is_empty() => {
            OutboundProtocol::Tls(parent.with_tls_defaults(tls))
        }
        AppProtocol::Unnamed if http.is_empty() && !opaque.is_empty() => as_opaque(),
        AppProtocol::Unnamed => {
            let http = http_policy();
            OutboundProtocol::Detect {
                timeout: derivation.config.detect_timeout,
                http1: http.clone(),
                http2: http,
                opaque: parent.with_opaque_defaults(Vec::new()),
            }
        }
    };
    OutboundPolicy { parent: parent.meta.clone(), protocol }
}

/// Whether a route can be used on `parent`, a service or an egress network, and what is wrong with
/// its parts if it can. Reads the route as the policy does, so both say the same.
///
/// # Errors
///
/// If the route does not count, because of this.
pub(crate) fn usable(
    derivation: &mut Derivation<'_>,
    parent: &ResourceKey,
    port: Option<u16>,
    route: &Resource,
) -> Result<Vec<String>, Unusable> {
    // Which port and address it is has no bearing on that.
    let port = port.and_then(Port::new).unwrap_or(Port::new(80).expect("80 is a port"));
    let parent = match derivation.object(parent.clone()) {
        Some(Resource::Service(service)) => {
            let metadata = &service.metadata;
            let name = ServiceName::new(&*metadata.namespace, &*metadata.name);
            Parent::service(derivation, &name, port, Some(service))
        }
        Some(Resource::EgressNetwork(network)) => {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port.get());
            Parent::egress(network, address, port)
        }
        _ => return Ok(Vec::new()),
    };
    routes::usable(derivation, &parent, route)
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

/// An address outside of the cluster that no egress network describes: straight there.
fn to_outside(derivation: &Derivation<'_>, address: SocketAddr) -> OutboundPolicy {
    let meta = Meta::default("egress-fallback");
    let backend = forward(meta.clone(), address);
    let http = HttpPolicy {
        routes: Arc::new([routes::catch_all(derivation, meta.clone(), backend.clone())]),
        failure_accrual: None,
    };
    OutboundPolicy {
        parent: meta.clone(),
        protocol: OutboundProtocol::Detect {
            timeout: derivation.config.detect_timeout,
            http1: http.clone(),
            http2: http,
            opaque: vec![routes::opaque_catch_all(meta, backend)],
        },
    }
}

/// A backend that is one address.
fn forward(meta: Meta, address: SocketAddr) -> Arc<Backend> {
    let endpoint = Endpoint { weight: 1, ..Endpoint::bare(address) };
    let target = BackendTarget::Forward(Arc::new(endpoint));
    Arc::new(Backend { meta, target, queue: Queue::default() })
}
