//! Routes of a parent on the client's side: which requests, and where they go.
//!
//! A route with a part that cannot be used is left out, so that the others still count.

use super::{
    backends::{destination, distribution},
    limits::Limits,
    parent::{Parent, Traffic},
};
use crate::{
    derive::Derivation,
    failure_accrual,
    routes::{Unusable, faults, filters, matches, references::Referrer},
};
use hauberk_model::{
    Meta,
    filter::{GrpcFilter, HttpFilter, TcpFilter},
    meta::ResourceMeta,
    outbound::{
        Backend, Distribution, GrpcRoute, GrpcRule, HttpRoute, HttpRule, OpaqueRoute, RouteBackend,
        TlsRoute,
    },
    route::{Route, Rule},
    timeout::Timeouts,
};
use hauberk_resources::{
    BackendRef, HttpRouteRule, Kind, Metadata, Resource, RouteFilter, TcpRouteRule, parse_gateway,
};
use std::{sync::Arc, time::Duration};

pub(super) fn http(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[(Kind, &hauberk_resources::HttpRoute)],
) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for (kind, written) in written {
        if let Ok(route) = http_route(derivation, parent, *kind, written) {
            routes.push(HttpRoute { meta: meta(*kind, &written.metadata), route });
        }
    }
    routes
}

fn http_route(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    kind: Kind,
    written: &hauberk_resources::HttpRoute,
) -> Result<Route<hauberk_model::route::http::HttpMatch, HttpRule>, Unusable> {
    let from = Referrer { kind, namespace: &written.metadata.namespace, parent: &parent.key };
    let faults = faults::http(&written.metadata)?;
    let breaker = failure_accrual::breaker(&written.metadata);
    let mut rules = Vec::new();
    for rule in written.rules() {
        let limits = Limits::of_route(&written.metadata, request_timeout(rule)?, &parent.limits)?;
        let mut filters = faults.clone();
        filters.extend(http_filters(derivation, from, &rule.filters)?);
        let action = HttpRule {
            filters,
            backends: distribution(
                derivation,
                parent,
                Traffic::Requests,
                from,
                breaker.as_ref(),
                &rule.backend_refs,
                |derivation, written| http_filters(derivation, from, written),
            ),
            timeouts: limits.timeouts,
            retry: limits.http_retry(),
            allow_l5d_request_headers: derivation.config.allow_l5d_request_headers,
        };
        let matches = matches::http_rule(&rule.matches)?;
        rules.push(Rule { matches, action });
    }
    Ok(Route { hosts: matches::hosts(written.hostnames()), rules })
}

fn http_filters(
    derivation: &mut Derivation<'_>,
    from: Referrer<'_>,
    written: &[RouteFilter],
) -> Result<Vec<HttpFilter>, Unusable> {
    filters::http(written, |to| destination(derivation, from, to))
}

/// Zero switches the limit off.
fn request_timeout(rule: &HttpRouteRule) -> Result<Option<Duration>, Unusable> {
    let text = rule.timeouts.as_ref().and_then(|timeouts| timeouts.request.as_deref());
    let timeout = text.map(parse_gateway).transpose().map_err(|error| error.to_string())?;
    Ok(timeout.filter(|timeout| !timeout.is_zero()))
}

pub(super) fn grpc(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[&hauberk_resources::GrpcRoute],
) -> Vec<GrpcRoute> {
    let mut routes = Vec::new();
    for written in written {
        if let Ok(route) = grpc_route(derivation, parent, written) {
            routes.push(GrpcRoute { meta: meta(Kind::GrpcRoute, &written.metadata), route });
        }
    }
    routes
}

fn grpc_route(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &hauberk_resources::GrpcRoute,
) -> Result<Route<hauberk_model::route::grpc::GrpcMatch, GrpcRule>, Unusable> {
    let namespace = &written.metadata.namespace;
    let from = Referrer { kind: Kind::GrpcRoute, namespace, parent: &parent.key };
    let faults = faults::grpc(&written.metadata)?;
    let breaker = failure_accrual::breaker(&written.metadata);
    let limits = Limits::of_route(&written.metadata, None, &parent.limits)?;
    let mut rules = Vec::new();
    for rule in written.rules() {
        let mut filters = faults.clone();
        filters.extend(grpc_filters(derivation, from, &rule.filters)?);
        let action = GrpcRule {
            filters,
            backends: distribution(
                derivation,
                parent,
                Traffic::Requests,
                from,
                breaker.as_ref(),
                &rule.backend_refs,
                |derivation, written| grpc_filters(derivation, from, written),
            ),
            timeouts: limits.timeouts,
            retry: limits.grpc_retry(),
            allow_l5d_request_headers: derivation.config.allow_l5d_request_headers,
        };
        let matches = rule.matches.iter().map(matches::grpc).collect::<Result<_, _>>()?;
        rules.push(Rule { matches, action });
    }
    Ok(Route { hosts: matches::hosts(written.hostnames()), rules })
}

fn grpc_filters(
    derivation: &mut Derivation<'_>,
    from: Referrer<'_>,
    written: &[RouteFilter],
) -> Result<Vec<GrpcFilter>, Unusable> {
    filters::grpc(written, |to| destination(derivation, from, to))
}

pub(super) fn tls(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[&hauberk_resources::TlsRoute],
) -> Vec<TlsRoute> {
    let mut routes = Vec::new();
    for written in written {
        if let Ok(rule) = only_rule(&written.metadata, written.rules()) {
            routes.push(TlsRoute {
                meta: meta(Kind::TlsRoute, &written.metadata),
                snis: matches::hosts(written.hostnames()),
                filters: Vec::new(),
                backends: tcp_backends(derivation, parent, Kind::TlsRoute, &written.metadata, rule),
            });
        }
    }
    routes
}

pub(super) fn tcp(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[&hauberk_resources::TcpRoute],
) -> Vec<OpaqueRoute> {
    let mut routes = Vec::new();
    for written in written {
        if let Ok(rule) = only_rule(&written.metadata, written.rules()) {
            routes.push(OpaqueRoute {
                meta: meta(Kind::TcpRoute, &written.metadata),
                filters: Vec::new(),
                backends: tcp_backends(derivation, parent, Kind::TcpRoute, &written.metadata, rule),
            });
        }
    }
    routes
}

/// A route for bytes chooses among its backends only, so there is nothing that a second rule or a
/// fault could be for.
fn only_rule<'r>(
    route: &Metadata,
    rules: &'r [TcpRouteRule],
) -> Result<&'r TcpRouteRule, Unusable> {
    faults::none(route)?;
    match rules {
        [rule] => Ok(rule),
        _ => Err(format!("the route has {} rules; it must have exactly one", rules.len())),
    }
}

fn tcp_backends(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    kind: Kind,
    route: &Metadata,
    rule: &TcpRouteRule,
) -> Distribution<TcpFilter> {
    let from = Referrer { kind, namespace: &route.namespace, parent: &parent.key };
    distribution(
        derivation,
        parent,
        Traffic::Opaque,
        from,
        None,
        &rule.backend_refs,
        |_, written| tcp_filters(written),
    )
}

fn tcp_filters(written: &[RouteFilter]) -> Result<Vec<TcpFilter>, Unusable> {
    match written {
        [] => Ok(Vec::new()),
        _ => Err("bytes that are not looked into cannot be filtered".to_owned()),
    }
}

/// Whether a route can be used on `parent`; what is wrong with some of its backends if it can.
pub(super) fn usable(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    route: &Resource,
) -> Result<Vec<String>, Unusable> {
    let mut wrong = Vec::new();
    let mut spoiled = |written: &[BackendRef],
                       filters: &dyn Fn(&[RouteFilter]) -> Option<Unusable>| {
        for one in written {
            wrong.extend(filters(&one.filters).map(|why| format!("backend {}: {why}", one.name)));
        }
    };
    match route {
        Resource::PolicyHttpRoute(written) | Resource::GatewayHttpRoute(written) => {
            http_route(derivation, parent, route.kind(), written)?;
            for rule in written.rules() {
                spoiled(&rule.backend_refs, &|written| filters::http(written, |_| None).err());
            }
        }
        Resource::GrpcRoute(written) => {
            grpc_route(derivation, parent, written)?;
            for rule in written.rules() {
                spoiled(&rule.backend_refs, &|written| filters::grpc(written, |_| None).err());
            }
        }
        Resource::TlsRoute(written) => {
            let rule = only_rule(&written.metadata, written.rules())?;
            spoiled(&rule.backend_refs, &|written| tcp_filters(written).err());
        }
        Resource::TcpRoute(written) => {
            let rule = only_rule(&written.metadata, written.rules())?;
            spoiled(&rule.backend_refs, &|written| tcp_filters(written).err());
        }
        _ => {}
    }
    Ok(wrong)
}

fn meta(kind: Kind, route: &Metadata) -> Meta {
    Meta::Resource(Arc::new(ResourceMeta {
        group: kind.group().into(),
        kind: kind.name().into(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        section: "".into(),
        port: None,
    }))
}

/// A route for every request, to one backend.
pub(super) fn catch_all(
    derivation: &Derivation<'_>,
    meta: Meta,
    backend: Arc<Backend>,
) -> HttpRoute {
    let action = HttpRule {
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]),
        timeouts: Timeouts::default(),
        retry: None,
        allow_l5d_request_headers: derivation.config.allow_l5d_request_headers,
    };
    let rules = vec![Rule { matches: Vec::new(), action }];
    HttpRoute { meta, route: Route { hosts: Vec::new(), rules } }
}

/// A route for every connection, to one backend.
pub(super) fn opaque_catch_all(meta: Meta, backend: Arc<Backend>) -> OpaqueRoute {
    OpaqueRoute {
        meta,
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]),
    }
}
