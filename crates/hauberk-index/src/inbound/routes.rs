//! Routes of a server on its own side: which requests, and who may send them.

use crate::{
    authorizations,
    derive::Derivation,
    routes::{Routes, Unusable, attached, faults, filters, matches},
};
use hauberk_model::{
    Meta,
    filter::{GrpcFilter, HttpFilter},
    inbound::{GrpcRoute, HttpRoute},
    route::{Route, Rule},
};
use hauberk_resources::{
    Kind, Metadata, ParentRef, Resource, ResourceKey, RouteFilter, policy::Server,
};

const NO_DELAY: &str = "a server's routes cannot delay requests";
const NO_MIRROR: &str = "a server's routes cannot mirror requests";

/// The routes on a server. Only routes of its own namespace count.
fn on_server<'a>(derivation: &mut Derivation<'a>, server: &Server) -> Routes<'a> {
    let metadata = &server.metadata;
    let key = ResourceKey::new(Kind::Server, metadata.namespace.clone(), metadata.name.clone());
    attached(derivation, &key, None, |namespace| *namespace == metadata.namespace)
}

/// The HTTP routes of a server that can be used.
pub(super) fn http(derivation: &mut Derivation<'_>, server: &Server) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for (kind, written) in on_server(derivation, server).http {
        if let Ok(route) = http_route(written) {
            routes.push(HttpRoute {
                meta: meta(kind, &written.metadata),
                authorizations: authorizations(derivation, kind, &written.metadata).into(),
                route,
            });
        }
    }
    routes
}

/// The gRPC routes of a server that can be used.
pub(super) fn grpc(derivation: &mut Derivation<'_>, server: &Server) -> Vec<GrpcRoute> {
    let mut routes = Vec::new();
    for written in on_server(derivation, server).grpc {
        if let Ok(route) = grpc_route(written) {
            routes.push(GrpcRoute {
                meta: meta(Kind::GrpcRoute, &written.metadata),
                authorizations: authorizations(derivation, Kind::GrpcRoute, &written.metadata)
                    .into(),
                route,
            });
        }
    }
    routes
}

/// Servers are named within the namespace, and as a whole; a route that does otherwise with one of
/// them is not used for any.
fn names_servers_well(route: &Metadata, parents: &[ParentRef]) -> Result<(), Unusable> {
    let well =
        parents.iter().filter(|parent| parent.kind.as_deref() == Some("Server")).all(|parent| {
            let is_here =
                parent.namespace.as_ref().is_none_or(|namespace| *namespace == route.namespace);
            is_here && parent.port.is_none() && parent.section_name.is_none()
        });
    let why = "servers are named within the route's namespace, without port and section";
    if well { Ok(()) } else { Err(why.to_owned()) }
}

/// Whether a route can be used on a server of its own namespace.
pub(crate) fn usable(route: &Resource) -> Result<(), Unusable> {
    match route {
        Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
            http_route(route).map(|_| ())
        }
        Resource::GrpcRoute(route) => grpc_route(route).map(|_| ()),
        // Those are refused for what they are.
        _ => Ok(()),
    }
}

fn authorizations(
    derivation: &mut Derivation<'_>,
    kind: Kind,
    route: &Metadata,
) -> Vec<hauberk_model::inbound::Authorization> {
    let key = ResourceKey::new(kind, route.namespace.clone(), route.name.clone());
    authorizations::attached_to(derivation, &key)
}

fn http_route(
    written: &hauberk_resources::HttpRoute,
) -> Result<Route<hauberk_model::route::http::HttpMatch, Vec<HttpFilter>>, Unusable> {
    names_servers_well(&written.metadata, written.parents())?;
    let faults = faults::http(&written.metadata)?;
    if faults.iter().any(|filter| matches!(filter, HttpFilter::Delay(_))) {
        return Err(NO_DELAY.to_owned());
    }
    let rules = written.rules().iter().map(|rule| {
        for filter in &rule.filters {
            match filter {
                RouteFilter::UrlRewrite { .. } => {
                    return Err("a server's routes cannot rewrite URLs".to_owned());
                }
                RouteFilter::RequestMirror { .. } => return Err(NO_MIRROR.to_owned()),
                RouteFilter::Cors { .. } => {
                    return Err("a server's routes cannot answer CORS requests".to_owned());
                }
                _ => {}
            }
        }
        let mut action = faults.clone();
        action.extend(filters::http(&rule.filters, |_| None)?);
        // The wire has no such filter on this side.
        action.retain(|filter| !matches!(filter, HttpFilter::ResponseHeaders(_)));
        let matches = matches::http_rule(&rule.matches)?;
        Ok(Rule { matches, action })
    });
    Ok(Route {
        hosts: matches::hosts(written.hostnames()),
        rules: rules.collect::<Result<_, Unusable>>()?,
    })
}

fn grpc_route(
    written: &hauberk_resources::GrpcRoute,
) -> Result<Route<hauberk_model::route::grpc::GrpcMatch, Vec<GrpcFilter>>, Unusable> {
    names_servers_well(&written.metadata, written.parents())?;
    let faults = faults::grpc(&written.metadata)?;
    if faults.iter().any(|filter| matches!(filter, GrpcFilter::Delay(_))) {
        return Err(NO_DELAY.to_owned());
    }
    let rules = written.rules().iter().map(|rule| {
        let is_mirror = |filter: &RouteFilter| matches!(filter, RouteFilter::RequestMirror { .. });
        if rule.filters.iter().any(is_mirror) {
            return Err(NO_MIRROR.to_owned());
        }
        let mut action = faults.clone();
        action.extend(filters::grpc(&rule.filters, |_| None)?);
        let matches = rule.matches.iter().map(matches::grpc).collect::<Result<_, _>>()?;
        Ok(Rule { matches, action })
    });
    Ok(Route {
        hosts: matches::hosts(written.hostnames()),
        rules: rules.collect::<Result<_, Unusable>>()?,
    })
}

fn meta(kind: Kind, route: &Metadata) -> Meta {
    Meta::resource(kind.group(), kind.name(), "", &route.name)
}
