//! Routes of a server on its own side: which requests, and who may send them.

use crate::{
    authorizations,
    derive::Derivation,
    routes::{Routes, Unusable, attached, filters, matches},
};
use hauberk_model::{
    Meta,
    filter::HttpFilter,
    inbound::{GrpcRoute, HttpRoute},
    route::{Route, Rule},
};
use hauberk_resources::{Kind, Metadata, ParentRef, ResourceKey, policy::Server};

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
        if !names_servers_well(&written.metadata, written.parents()) {
            continue;
        }
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
        if !names_servers_well(&written.metadata, written.parents()) {
            continue;
        }
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
fn names_servers_well(route: &Metadata, parents: &[ParentRef]) -> bool {
    parents.iter().filter(|parent| parent.kind.as_deref() == Some("Server")).all(|parent| {
        let is_here =
            parent.namespace.as_ref().is_none_or(|namespace| *namespace == route.namespace);
        is_here && parent.port.is_none() && parent.section_name.is_none()
    })
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
    let rules = written.rules().iter().map(|rule| {
        let mut action = filters::http(&rule.filters)?;
        if action.iter().any(|filter| matches!(filter, HttpFilter::UrlRewrite(_))) {
            return Err("a server's routes cannot rewrite URLs".to_owned());
        }
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
) -> Result<
    Route<hauberk_model::route::grpc::GrpcMatch, Vec<hauberk_model::filter::GrpcFilter>>,
    Unusable,
> {
    let rules = written.rules().iter().map(|rule| {
        let action = filters::grpc(&rule.filters)?;
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
