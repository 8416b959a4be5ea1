//! Where a rule sends requests.

use super::parent::{Balanced, Parent, Traffic, balance, with_breaker};
use crate::{
    balancing,
    derive::Derivation,
    routes::{
        Unusable,
        filters::Destination,
        references::{Referent, Referrer, resolve},
    },
};
use hauberk_model::{
    Authority, Meta,
    failure_accrual::FailureAccrual,
    outbound::{Backend, BackendTarget, Distribution, Queue, RouteBackend},
};
use hauberk_resources::{BackendRef, ObjectRef, RouteFilter};
use std::sync::Arc;

/// The backends of a rule: one of those it names, by weight; without any, the parent itself.
///
/// A filter of a backend that cannot be used makes that backend invalid, not the rule. Where the
/// route has a breaker of its own, its backends have it.
pub(super) fn distribution<'a, F>(
    derivation: &mut Derivation<'a>,
    parent: &Parent<'_>,
    traffic: Traffic,
    from: Referrer<'_>,
    breaker: Option<&FailureAccrual>,
    written: &[BackendRef],
    filters: impl Fn(&mut Derivation<'a>, &[RouteFilter]) -> Result<Vec<F>, Unusable>,
) -> Distribution<F> {
    let own = |backend: Arc<Backend>| match breaker {
        Some(breaker) => with_breaker(&backend, breaker),
        None => backend,
    };
    if written.is_empty() {
        let backend = own(parent.backend(traffic).clone());
        return Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]);
    }
    let mut backends = Vec::new();
    for one in written {
        let backend = match filters(derivation, &one.filters) {
            Ok(filters) => {
                let backend = own(backend(derivation, parent, traffic, from, one));
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
    from: Referrer<'_>,
    written: &BackendRef,
) -> Arc<Backend> {
    match resolve(derivation, from, &written.object()) {
        Ok(Referent::Service(name, port)) => {
            let meta = Meta::service(name.namespace.as_str(), &name.name, Some(port));
            let service = derivation.service(name.namespace.as_str(), &name.name);
            let balancing = service.map(|service| match traffic {
                Traffic::Requests => balancing::of_requests(service),
                Traffic::Opaque => balancing::of_opaque(service),
            });
            let (load, balancing) = (parent.load(traffic), balancing.unwrap_or_default());
            balance(derivation, meta, Balanced { name: &name, port, load, balancing })
        }
        Ok(Referent::Parent) => parent.backend(traffic).clone(),
        Err(unresolved) => invalid(written, &unresolved.message),
    }
}

/// Where copies of requests go; nowhere, if that is no service or a route may not refer to it.
pub(super) fn destination(
    derivation: &mut Derivation<'_>,
    from: Referrer<'_>,
    written: &ObjectRef,
) -> Option<Destination> {
    match resolve(derivation, from, written) {
        Ok(Referent::Service(name, port)) => {
            let authority = Authority::new(&name.fqdn(&derivation.config.cluster_domain), port);
            Some((name, authority))
        }
        Ok(Referent::Parent) | Err(_) => None,
    }
}

fn invalid(written: &BackendRef, reason: &str) -> Arc<Backend> {
    Arc::new(Backend {
        meta: Meta::default(format!("invalid {}", written.name)),
        target: BackendTarget::Invalid(reason.into()),
        queue: Queue::default(),
    })
}
