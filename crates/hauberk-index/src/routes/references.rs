//! References of routes to backends: what they lead to, and whether they may.
//!
//! Policy and status ask the same function, so what a status says of a reference is what becomes of
//! requests: those for a backend that is refused here fail.

use crate::{derive::Derivation, status::Reason};
use hauberk_model::{Port, ServiceName};
use hauberk_resources::{Kind, ObjectRef, Resource, ResourceKey, RouteFilter};
use std::sync::Arc;

/// The route that refers, and what it hangs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'a> {
    pub(crate) kind: Kind,
    pub(crate) namespace: &'a Arc<str>,
    pub(crate) parent: &'a ResourceKey,
}

/// What a reference leads to.
#[derive(Clone, Debug)]
pub(crate) enum Referent {
    /// A port of a service.
    Service(ServiceName, Port),
    /// The egress network that the route hangs on.
    Parent,
}

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// Follows a reference.
///
/// Where grants are required, one into another namespace needs a `ReferenceGrant` there, unless it
/// leads to the very service that the route hangs on (docs/decisions/0017). That is looked at
/// first, so that nobody learns from a refusal what exists elsewhere.
pub(crate) fn resolve(
    derivation: &mut Derivation<'_>,
    from: Referrer<'_>,
    to: &ObjectRef,
) -> Result<Referent, Unresolved> {
    let unresolved = |reason, message: String| Err(Unresolved { reason, message });
    let namespace = to.namespace.as_ref().unwrap_or(from.namespace);
    let group = match to.group.as_deref() {
        None | Some("core") => "",
        Some(group) => group,
    };
    match (group, to.kind.as_deref().unwrap_or("Service")) {
        ("", "Service") => {
            let key = ResourceKey::new(Kind::Service, namespace.clone(), to.name.clone());
            if !is_permitted(derivation, from, &key) {
                let message = format!(
                    "no ReferenceGrant in {namespace} lets {} of {} refer to service {}",
                    from.kind.name(),
                    from.namespace,
                    to.name
                );
                return unresolved(Reason::RefNotPermitted, message);
            }
            let Some(port) = to.port.and_then(Port::new) else {
                let message = "a service as backend needs a port".to_owned();
                return unresolved(Reason::BackendNotFound, message);
            };
            if derivation.object(key).is_none() {
                return unresolved(
                    Reason::BackendNotFound,
                    format!("Service not found {}", to.name),
                );
            }
            Ok(Referent::Service(ServiceName::new(&**namespace, to.name.clone()), port))
        }
        ("policy.linkerd.io", "EgressNetwork") => {
            let key = ResourceKey::new(Kind::EgressNetwork, namespace.clone(), to.name.clone());
            match key == *from.parent {
                true => Ok(Referent::Parent),
                false => unresolved(
                    Reason::InvalidKind,
                    "an egress network can only be a backend of its own routes".to_owned(),
                ),
            }
        }
        (_, kind) => unresolved(Reason::InvalidKind, format!("a backend cannot be of kind {kind}")),
    }
}

fn is_permitted(derivation: &mut Derivation<'_>, from: Referrer<'_>, to: &ResourceKey) -> bool {
    if !derivation.config.requires_reference_grants
        || to.namespace == *from.namespace
        || to == from.parent
    {
        return true;
    }
    derivation.grants(&to.namespace).into_iter().any(|grant| {
        let permits_us = grant.spec.from.iter().any(|subject| {
            *subject.group == *from.kind.group()
                && *subject.kind == *from.kind.name()
                && subject.namespace == *from.namespace
        });
        let is_meant = grant.spec.to.iter().any(|object| {
            matches!(&*object.group, "" | "core")
                && *object.kind == *to.kind.name()
                && object.name.as_ref().is_none_or(|name| *name == to.name)
        });
        permits_us && is_meant
    })
}

/// Everything a route refers to, in its order: the backends of each rule, and where copies go.
pub(crate) fn of(route: &Resource) -> Vec<ObjectRef> {
    let mirrors = |filters: &[RouteFilter]| -> Vec<ObjectRef> {
        let mirrors = filters.iter().filter_map(|filter| match filter {
            RouteFilter::RequestMirror { mirror } => Some(mirror.backend_ref.clone()),
            _ => None,
        });
        mirrors.collect()
    };
    let backends = |written: &[hauberk_resources::BackendRef]| -> Vec<ObjectRef> {
        let each = written.iter();
        each.flat_map(|one| std::iter::once(one.object()).chain(mirrors(&one.filters))).collect()
    };
    match route {
        Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
            let rules = route.rules().iter();
            rules
                .flat_map(|rule| [mirrors(&rule.filters), backends(&rule.backend_refs)])
                .flatten()
                .collect()
        }
        Resource::GrpcRoute(route) => {
            let rules = route.rules().iter();
            rules
                .flat_map(|rule| [mirrors(&rule.filters), backends(&rule.backend_refs)])
                .flatten()
                .collect()
        }
        Resource::TlsRoute(route) => {
            route.rules().iter().flat_map(|rule| backends(&rule.backend_refs)).collect()
        }
        Resource::TcpRoute(route) => {
            route.rules().iter().flat_map(|rule| backends(&rule.backend_refs)).collect()
        }
        _ => Vec::new(),
    }
}
