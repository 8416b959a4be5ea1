//! Where a rule sends requests.

use super::parent::{Balanced, Parent, Traffic, balance, with_breaker};
use crate::{balancing, derive::Derivation, failure_accrual, routes::Unusable};
use hauberk_model::{
    Meta, Port, ServiceName,
    outbound::{Backend, BackendTarget, Distribution, Queue, RouteBackend},
};
use hauberk_resources::{BackendRef, Kind, Metadata, RouteFilter};
use std::sync::Arc;

/// The backends of a rule: one of those it names, by weight; without any, the parent itself.
///
/// A filter of a backend that cannot be used makes that backend invalid, not the rule. Where the
/// route has a breaker of its own, its backends have it.
pub(super) fn distribution<F>(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    traffic: Traffic,
    route: &Metadata,
    written: &[BackendRef],
    filters: impl Fn(&[RouteFilter]) -> Result<Vec<F>, Unusable>,
) -> Distribution<F> {
    let breaker = match traffic {
        Traffic::Requests => failure_accrual::breaker(route),
        Traffic::Opaque => None,
    };
    let own = |backend: Arc<Backend>| match &breaker {
        Some(breaker) => with_breaker(&backend, breaker),
        None => backend,
    };
    if written.is_empty() {
        let backend = own(parent.backend(traffic).clone());
        return Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]);
    }
    let mut backends = Vec::new();
    for one in written {
        let backend = match filters(&one.filters) {
            Ok(filters) => {
                let backend = own(backend(derivation, parent, traffic, route, one));
                RouteBackend { filters, backend }
            }
            Err(reason) => RouteBackend { filters: Vec::new(), backend: invalid(one, &reason) },
        };
        backends.push((backend, one.weight.unwrap_or(1)));
    }
    Distribution::Random(backends)
}

fn backend(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    traffic: Traffic,
    route: &Metadata,
    written: &BackendRef,
) -> Arc<Backend> {
    let namespace = written.namespace.as_ref().unwrap_or(&route.namespace);
    let group = match written.group.as_deref() {
        None | Some("core") => "",
        Some(group) => group,
    };
    match (group, written.kind.as_deref().unwrap_or("Service")) {
        ("", "Service") => {
            let Some(port) = written.port.and_then(Port::new) else {
                return invalid(written, "a service as backend needs a port");
            };
            let Some(service) = derivation.service(namespace, &written.name) else {
                return invalid(written, &format!("Service not found {}", written.name));
            };
            let name = ServiceName::new(&**namespace, written.name.clone());
            let meta = Meta::service(namespace, &written.name, Some(port));
            let balancing = match traffic {
                Traffic::Requests => balancing::of_requests(service),
                Traffic::Opaque => balancing::of_opaque(service),
            };
            let load = parent.load(traffic);
            balance(derivation, meta, Balanced { name: &name, port, load, balancing })
        }
        ("policy.linkerd.io", "EgressNetwork") => {
            let is_parent = parent.key.kind == Kind::EgressNetwork
                && parent.key.namespace == *namespace
                && parent.key.name == written.name;
            match is_parent {
                true => parent.backend(traffic).clone(),
                false => {
                    invalid(written, "an egress network can only be a backend of its own routes")
                }
            }
        }
        (_, kind) => invalid(written, &format!("a backend cannot be of kind {kind}")),
    }
}

fn invalid(written: &BackendRef, reason: &str) -> Arc<Backend> {
    Arc::new(Backend {
        meta: Meta::default(format!("invalid {}", written.name)),
        target: BackendTarget::Invalid(reason.into()),
        queue: Queue::default(),
    })
}
