//! What a server accepts, each way.
//!
//! Lost on the wire, by its design: the namespace of a Server or authorization (it is the
//! workload's), the order between exact identities and suffixes, and filters on responses.

use std::sync::Arc;

use hauberk_model::filter::{GrpcFilter, HttpFilter};
use hauberk_model::inbound::{
    Authentication, Authorization, GrpcRoute, HttpRoute, HttpServer, InboundProtocol,
};
use hauberk_model::rate_limit::{RateLimit, RateLimitOverride};
use hauberk_model::route::{Route, Rule};
use hauberk_model::workload_id::IdentityMatch;
use hauberk_model::{InboundPolicy, Port};

use crate::api::inbound as wire;
use crate::invalid::{Invalid, Required};
use crate::{filter, meta, route, scalar};

/// Asks for the policy of a port; `workload` is the token the proxy was given by its injector.
pub fn request(workload: &str, port: Port) -> wire::PortSpec {
    wire::PortSpec { workload: workload.to_owned(), port: port.get().into() }
}

/// Says a policy.
pub fn to_wire(policy: &InboundPolicy) -> wire::Server {
    use wire::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let routes = |http: &HttpServer| http.routes.iter().map(http_route_to_wire).collect();
    let limit = |http: &HttpServer| http.rate_limit.as_deref().map(rate_limit_to_wire);
    let kind = match &policy.protocol {
        InboundProtocol::Detect { timeout, http } => Kind::Detect(Detect {
            timeout: scalar::duration_to_wire(*timeout),
            http_routes: routes(http),
            http_local_rate_limit: limit(http),
        }),
        InboundProtocol::Http1(http) => {
            Kind::Http1(Http1 { routes: routes(http), local_rate_limit: limit(http) })
        }
        InboundProtocol::Http2(http) => {
            Kind::Http2(Http2 { routes: routes(http), local_rate_limit: limit(http) })
        }
        InboundProtocol::Grpc(routes) => {
            Kind::Grpc(Grpc { routes: routes.iter().map(grpc_route_to_wire).collect() })
        }
        InboundProtocol::Opaque => Kind::Opaque(Opaque {}),
        InboundProtocol::Tls => Kind::Tls(Tls {}),
    };
    wire::Server {
        protocol: Some(wire::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: policy.authorizations.iter().map(authorization_to_wire).collect(),
        labels: meta::labels_to_wire(&policy.server),
    }
}

/// Understands a policy.
///
/// # Errors
/// If any part of it cannot be understood: half a policy would admit or refuse the wrong clients.
pub fn from_wire(wire: wire::Server) -> Result<InboundPolicy, Invalid> {
    use wire::proxy_protocol::Kind;
    let http = |routes: Vec<wire::HttpRoute>, limit: Option<wire::HttpLocalRateLimit>| {
        Ok(HttpServer {
            routes: routes.into_iter().map(http_route_from_wire).collect::<Result<_, _>>()?,
            rate_limit: limit.map(rate_limit_from_wire).transpose()?.map(Arc::new),
        })
    };
    let protocol = wire.protocol.and_then(|protocol| protocol.kind);
    let protocol = match protocol.required("Server.protocol")? {
        Kind::Detect(detect) => InboundProtocol::Detect {
            timeout: scalar::required_duration("Detect.timeout", detect.timeout)?,
            http: http(detect.http_routes, detect.http_local_rate_limit)?,
        },
        Kind::Http1(http1) => InboundProtocol::Http1(http(http1.routes, http1.local_rate_limit)?),
        Kind::Http2(http2) => InboundProtocol::Http2(http(http2.routes, http2.local_rate_limit)?),
        Kind::Grpc(grpc) => InboundProtocol::Grpc(
            grpc.routes.into_iter().map(grpc_route_from_wire).collect::<Result<_, _>>()?,
        ),
        Kind::Opaque(_) => InboundProtocol::Opaque,
        Kind::Tls(_) => InboundProtocol::Tls,
    };
    Ok(InboundPolicy {
        server: meta::from_labels("Server.labels", &wire.labels, "server")?,
        protocol,
        authorizations: authorizations_from_wire(wire.authorizations)?,
    })
}

fn authorization_to_wire(from: &Authorization) -> wire::Authz {
    let network = |network: &hauberk_model::Network| wire::Network {
        net: Some(network.net.into()),
        except: network.except.iter().copied().map(Into::into).collect(),
    };
    wire::Authz {
        networks: from.networks.iter().map(network).collect(),
        authentication: Some(authentication_to_wire(&from.authentication)),
        labels: meta::labels_to_wire(&from.meta),
        metadata: Some(meta::inbound_to_wire(&from.meta)),
    }
}

fn authentication_to_wire(from: &Authentication) -> wire::Authn {
    use wire::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
    use wire::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
    let tls = |clients| Permit::MeshTls(PermitMeshTls { clients: Some(clients) });
    let permit = match from {
        Authentication::Unauthenticated => Permit::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsUnauthenticated => {
            tls(Clients::Unauthenticated(PermitUnauthenticated {}))
        }
        Authentication::TlsAuthenticated(matches) => {
            let mut permitted = PermitClientIdentities::default();
            for identity in matches {
                match identity {
                    IdentityMatch::Exact(id) => {
                        permitted.identities.push(wire::Identity { name: id.as_str().to_owned() });
                    }
                    IdentityMatch::Suffix(labels) => {
                        let parts = labels.iter().map(|label| label.to_string()).collect();
                        permitted.suffixes.push(wire::IdentitySuffix { parts });
                    }
                }
            }
            tls(Clients::Identities(permitted))
        }
    };
    wire::Authn { permit: Some(permit) }
}

fn authorizations_from_wire(wire: Vec<wire::Authz>) -> Result<Arc<[Authorization]>, Invalid> {
    wire.into_iter().map(authorization_from_wire).collect()
}

fn authorization_from_wire(wire: wire::Authz) -> Result<Authorization, Invalid> {
    let meta = match wire.metadata {
        Some(metadata) => meta::from_wire("Authz.metadata", Some(metadata))?,
        None => meta::from_labels("Authz.labels", &wire.labels, "serverauthorization")?,
    };
    let network =
        |network: wire::Network| scalar::network("Network.net", network.net, network.except);
    let authentication = wire.authentication.and_then(|authn| authn.permit);
    Ok(Authorization {
        meta,
        networks: wire.networks.into_iter().map(network).collect::<Result<_, _>>()?,
        authentication: authentication_from_wire(authentication.required("Authz.authentication")?)?,
    })
}

fn authentication_from_wire(wire: wire::authn::Permit) -> Result<Authentication, Invalid> {
    use wire::authn::Permit;
    use wire::authn::permit_mesh_tls::Clients;
    let tls = match wire {
        Permit::Unauthenticated(_) => return Ok(Authentication::Unauthenticated),
        Permit::MeshTls(tls) => tls,
    };
    match tls.clients.required("PermitMeshTLS.clients")? {
        Clients::Unauthenticated(_) => Ok(Authentication::TlsUnauthenticated),
        Clients::Identities(permitted) => {
            let exact = |identity: wire::Identity| match identity.name.parse() {
                Ok(id) => Ok(IdentityMatch::Exact(id)),
                Err(error) => Err(Invalid::malformed("Identity.name", identity.name, error)),
            };
            let suffix = |suffix: wire::IdentitySuffix| {
                let parts = suffix.parts.into_iter().map(|part| part.to_ascii_lowercase().into());
                Ok(IdentityMatch::Suffix(parts.collect()))
            };
            let exact = permitted.identities.into_iter().map(exact);
            let suffixes = permitted.suffixes.into_iter().map(suffix);
            exact.chain(suffixes).collect::<Result<_, _>>().map(Authentication::TlsAuthenticated)
        }
    }
}

fn rate_limit_to_wire(from: &RateLimit) -> wire::HttpLocalRateLimit {
    use wire::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let limit = |requests_per_second| Limit { requests_per_second };
    let overrides = from.overrides.iter().map(|from| {
        let identities = from.clients.iter().map(|id| wire::Identity { name: id.to_string() });
        Override {
            limit: Some(limit(from.requests_per_second)),
            clients: Some(ClientIdentities { identities: identities.collect() }),
        }
    });
    wire::HttpLocalRateLimit {
        metadata: Some(meta::to_wire(&from.meta)),
        total: from.total.map(limit),
        identity: from.identity.map(limit),
        overrides: overrides.collect(),
    }
}

fn rate_limit_from_wire(wire: wire::HttpLocalRateLimit) -> Result<RateLimit, Invalid> {
    let client = |identity: wire::Identity| {
        identity
            .name
            .parse()
            .map_err(|error| Invalid::malformed("Identity.name", &identity.name, error))
    };
    let overrides = wire.overrides.into_iter().map(|wire| {
        let clients = wire.clients.unwrap_or_default().identities;
        Ok(RateLimitOverride {
            requests_per_second: wire.limit.required("Override.limit")?.requests_per_second,
            clients: clients.into_iter().map(client).collect::<Result<_, Invalid>>()?,
        })
    });
    Ok(RateLimit {
        meta: meta::from_wire("HttpLocalRateLimit.metadata", wire.metadata)?,
        total: wire.total.map(|limit| limit.requests_per_second),
        identity: wire.identity.map(|limit| limit.requests_per_second),
        overrides: overrides.collect::<Result<_, Invalid>>()?,
    })
}

fn http_route_to_wire(from: &HttpRoute) -> wire::HttpRoute {
    let rule = |rule: &Rule<_, Vec<HttpFilter>>| wire::http_route::Rule {
        matches: rule.matches.iter().map(route::http_match_to_wire).collect(),
        filters: rule.action.iter().filter_map(http_filter_to_wire).collect(),
    };
    wire::HttpRoute {
        metadata: Some(meta::to_wire(&from.meta)),
        hosts: route::hosts_to_wire(&from.route.hosts),
        authorizations: from.authorizations.iter().map(authorization_to_wire).collect(),
        rules: from.route.rules.iter().map(rule).collect(),
    }
}

fn http_route_from_wire(wire: wire::HttpRoute) -> Result<HttpRoute, Invalid> {
    let rule = |wire: wire::http_route::Rule| {
        let matches = wire.matches.into_iter().map(route::http_match_from_wire);
        let filters = wire.filters.into_iter().map(http_filter_from_wire);
        Ok(Rule {
            matches: matches.collect::<Result<_, _>>()?,
            action: filters.collect::<Result<_, _>>()?,
        })
    };
    Ok(HttpRoute {
        meta: meta::from_wire("HttpRoute.metadata", wire.metadata)?,
        authorizations: authorizations_from_wire(wire.authorizations)?,
        route: Route {
            hosts: route::hosts_from_wire(wire.hosts)?,
            rules: wire.rules.into_iter().map(rule).collect::<Result<_, Invalid>>()?,
        },
    })
}

fn http_filter_to_wire(from: &HttpFilter) -> Option<wire::http_route::Filter> {
    use wire::http_route::filter::Kind;
    let kind = match from {
        HttpFilter::InjectFailure(failure) => {
            Kind::FailureInjector(filter::http_failure_to_wire(failure))
        }
        HttpFilter::Invalid(message) => {
            Kind::FailureInjector(filter::http_failure_to_wire(&filter::invalid_http(message)))
        }
        HttpFilter::Redirect(redirect) => Kind::Redirect(filter::redirect_to_wire(redirect)),
        HttpFilter::RequestHeaders(edits) => {
            Kind::RequestHeaderModifier(filter::request_headers_to_wire(edits))
        }
        // A mirror, a delay or CORS that is left out hurts nobody; no server's route has them.
        HttpFilter::ResponseHeaders(_)
        | HttpFilter::Mirror(_)
        | HttpFilter::Delay(_)
        | HttpFilter::Cors(_) => return None,
        // No server's route rewrites URLs; if one ever did, its requests fail.
        HttpFilter::UrlRewrite(_) => Kind::FailureInjector(filter::http_failure_to_wire(
            &filter::invalid_http(&filter::UNKNOWN_FILTER.into()),
        )),
    };
    Some(wire::http_route::Filter { kind: Some(kind) })
}

fn http_filter_from_wire(wire: wire::http_route::Filter) -> Result<HttpFilter, Invalid> {
    use wire::http_route::filter::Kind;
    Ok(match wire.kind {
        None => HttpFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::FailureInjector(failure)) => {
            HttpFilter::InjectFailure(filter::http_failure_from_wire(failure)?)
        }
        Some(Kind::Redirect(redirect)) => {
            HttpFilter::Redirect(filter::redirect_from_wire(redirect)?)
        }
        Some(Kind::RequestHeaderModifier(edits)) => {
            HttpFilter::RequestHeaders(filter::request_headers_from_wire(edits)?)
        }
    })
}

fn grpc_route_to_wire(from: &GrpcRoute) -> wire::GrpcRoute {
    let rule = |rule: &Rule<_, Vec<GrpcFilter>>| wire::grpc_route::Rule {
        matches: rule.matches.iter().map(route::grpc_match_to_wire).collect(),
        filters: rule.action.iter().filter_map(grpc_filter_to_wire).collect(),
    };
    wire::GrpcRoute {
        metadata: Some(meta::to_wire(&from.meta)),
        hosts: route::hosts_to_wire(&from.route.hosts),
        authorizations: from.authorizations.iter().map(authorization_to_wire).collect(),
        rules: from.route.rules.iter().map(rule).collect(),
    }
}

fn grpc_route_from_wire(wire: wire::GrpcRoute) -> Result<GrpcRoute, Invalid> {
    let rule = |wire: wire::grpc_route::Rule| {
        let matches = wire.matches.into_iter().map(route::grpc_match_from_wire);
        let filters = wire.filters.into_iter().map(grpc_filter_from_wire);
        Ok(Rule {
            matches: matches.collect::<Result<_, _>>()?,
            action: filters.collect::<Result<_, _>>()?,
        })
    };
    Ok(GrpcRoute {
        meta: meta::from_wire("GrpcRoute.metadata", wire.metadata)?,
        authorizations: authorizations_from_wire(wire.authorizations)?,
        route: Route {
            hosts: route::hosts_from_wire(wire.hosts)?,
            rules: wire.rules.into_iter().map(rule).collect::<Result<_, Invalid>>()?,
        },
    })
}

fn grpc_filter_to_wire(from: &GrpcFilter) -> Option<wire::grpc_route::Filter> {
    use wire::grpc_route::filter::Kind;
    let kind = match from {
        GrpcFilter::InjectFailure(failure) => {
            Kind::FailureInjector(filter::grpc_failure_to_wire(failure))
        }
        GrpcFilter::Invalid(message) => {
            Kind::FailureInjector(filter::grpc_failure_to_wire(&filter::invalid_grpc(message)))
        }
        GrpcFilter::RequestHeaders(edits) => {
            Kind::RequestHeaderModifier(filter::request_headers_to_wire(edits))
        }
        GrpcFilter::Mirror(_) | GrpcFilter::Delay(_) => return None,
    };
    Some(wire::grpc_route::Filter { kind: Some(kind) })
}

fn grpc_filter_from_wire(wire: wire::grpc_route::Filter) -> Result<GrpcFilter, Invalid> {
    use wire::grpc_route::filter::Kind;
    Ok(match wire.kind {
        None => GrpcFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::FailureInjector(failure)) => {
            GrpcFilter::InjectFailure(filter::grpc_failure_from_wire(failure)?)
        }
        Some(Kind::RequestHeaderModifier(edits)) => {
            GrpcFilter::RequestHeaders(filter::request_headers_from_wire(edits)?)
        }
    })
}
