//! Routes of a parent on the client's side: which requests, and where they go.
//!
//! A route with a part that cannot be used is left out, so that the others still count.

use super::{
    backends::distribution,
    limits::Limits,
    parent::{Parent, Traffic},
};
use crate::{
    derive::Derivation,
    routes::{Unusable, filters, matches},
};
use hauberk_model::{
    Meta,
    filter::TcpFilter,
    meta::ResourceMeta,
    outbound::{
        Backend, Distribution, GrpcRoute, GrpcRule, HttpRoute, HttpRule, OpaqueRoute, RouteBackend,
        TlsRoute,
    },
    route::{Route, Rule},
    timeout::Timeouts,
};
use hauberk_resources::{HttpRouteRule, Kind, Metadata, RouteFilter, TcpRouteRule, parse_gateway};
use std::{sync::Arc, time::Duration};

pub(super) fn http(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[(Kind, &hauberk_resources::HttpRoute)],
) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for (kind, written) in written {
        if let Ok(route) = http_route(derivation, parent, written) {
            routes.push(HttpRoute { meta: meta(*kind, &written.metadata), route });
        }
    }
    routes
}

fn http_route(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &hauberk_resources::HttpRoute,
) -> Result<Route<hauberk_model::route::http::HttpMatch, HttpRule>, Unusable> {
    let mut rules = Vec::new();
    for rule in written.rules() {
        let limits = Limits::of_route(&written.metadata, request_timeout(rule)?, &parent.limits)?;
        let action = HttpRule {
            filters: filters::http(&rule.filters)?,
            backends: distribution(
                derivation,
                parent,
                Traffic::Requests,
                &written.metadata,
                &rule.backend_refs,
                filters::http,
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
    let limits = Limits::of_route(&written.metadata, None, &parent.limits)?;
    let mut rules = Vec::new();
    for rule in written.rules() {
        let action = GrpcRule {
            filters: filters::grpc(&rule.filters)?,
            backends: distribution(
                derivation,
                parent,
                Traffic::Requests,
                &written.metadata,
                &rule.backend_refs,
                filters::grpc,
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

pub(super) fn tls(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    written: &[&hauberk_resources::TlsRoute],
) -> Vec<TlsRoute> {
    let mut routes = Vec::new();
    for written in written {
        if let [rule] = written.rules() {
            routes.push(TlsRoute {
                meta: meta(Kind::TlsRoute, &written.metadata),
                snis: matches::hosts(written.hostnames()),
                filters: Vec::new(),
                backends: tcp_backends(derivation, parent, &written.metadata, rule),
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
        if let [rule] = written.rules() {
            routes.push(OpaqueRoute {
                meta: meta(Kind::TcpRoute, &written.metadata),
                filters: Vec::new(),
                backends: tcp_backends(derivation, parent, &written.metadata, rule),
            });
        }
    }
    routes
}

fn tcp_backends(
    derivation: &mut Derivation<'_>,
    parent: &Parent<'_>,
    route: &Metadata,
    rule: &TcpRouteRule,
) -> Distribution<TcpFilter> {
    let no_filters = |written: &[RouteFilter]| match written {
        [] => Ok(Vec::new()),
        _ => Err("bytes that are not looked into cannot be filtered".to_owned()),
    };
    distribution(derivation, parent, Traffic::Opaque, route, &rule.backend_refs, no_filters)
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
