//! What a client should do with traffic, each way.

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_model::cors::Cors;
use hauberk_model::filter::{GrpcFilter, HttpFilter, TcpFilter};
use hauberk_model::name::Authority;
use hauberk_model::outbound::{
    GrpcPolicy, GrpcRoute, HttpPolicy, HttpRoute, OpaqueRoute, OutboundProtocol, RuleAction,
    TlsRoute,
};
use hauberk_model::route::{Route, Rule};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{OutboundPolicy, Port};

use crate::api::outbound as wire;
use crate::api::{http_route, opaque_route};
use crate::filter::Optional;
use crate::invalid::{Invalid, Required};
use crate::{filter, meta, route, scalar};

mod backend;
mod balancing;
mod distribution;
mod resilience;

/// What traffic is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The address the application connected to.
    Address(SocketAddr),
    /// A name and a port.
    Authority(Authority),
}

/// Asks for the policy of a target; `workload` is the token the proxy was given by its injector.
pub fn request(workload: &str, target: &Target) -> wire::TrafficSpec {
    let target = match target {
        Target::Address(address) => wire::traffic_spec::Target::Addr((*address).into()),
        Target::Authority(authority) => {
            wire::traffic_spec::Target::Authority(authority.to_string())
        }
    };
    wire::TrafficSpec { source_workload: workload.to_owned(), target: Some(target) }
}

/// Reads what a policy is asked for. An authority without a port means port 80.
///
/// # Errors
/// If there is no target, or it is neither an address nor an authority.
pub fn target(spec: &wire::TrafficSpec) -> Result<Target, Invalid> {
    const DEFAULT_PORT: Port = Port::new(80).expect("80 is a port");
    match spec.target.as_ref().required("TrafficSpec.target")? {
        wire::traffic_spec::Target::Addr(address) => {
            Ok(Target::Address(scalar::address("TrafficSpec.addr", Some(*address))?))
        }
        wire::traffic_spec::Target::Authority(text) => {
            let authority = Authority::parse(text, DEFAULT_PORT);
            Ok(Target::Authority(authority.map_err(|error| {
                Invalid::malformed("TrafficSpec.authority", text, error.reason)
            })?))
        }
    }
}

/// Says a policy.
pub fn to_wire(policy: &OutboundPolicy) -> wire::OutboundPolicy {
    use wire::proxy_protocol::{Detect, Grpc, Kind, Opaque, Tls};
    let opaque = |routes: &[OpaqueRoute]| Opaque {
        routes: routes.iter().map(opaque_route_to_wire).collect(),
    };
    let kind = match &policy.protocol {
        OutboundProtocol::Detect { timeout, http1, http2, opaque: opaque_routes } => {
            Kind::Detect(Detect {
                timeout: scalar::duration_to_wire(*timeout),
                opaque: Some(opaque(opaque_routes)),
                http1: Some(http1_to_wire(http1)),
                http2: Some(http2_to_wire(http2)),
            })
        }
        OutboundProtocol::Http1(http) => Kind::Http1(http1_to_wire(http)),
        OutboundProtocol::Http2(http) => Kind::Http2(http2_to_wire(http)),
        OutboundProtocol::Grpc(grpc) => Kind::Grpc(Grpc {
            routes: grpc.routes.iter().map(grpc_route_to_wire).collect(),
            failure_accrual: grpc.failure_accrual.as_ref().map(resilience::accrual_to_wire),
        }),
        OutboundProtocol::Opaque(routes) => Kind::Opaque(opaque(routes)),
        OutboundProtocol::Tls(routes) => {
            Kind::Tls(Tls { routes: routes.iter().map(tls_route_to_wire).collect() })
        }
    };
    wire::OutboundPolicy {
        protocol: Some(wire::ProxyProtocol { kind: Some(kind) }),
        metadata: Some(meta::to_wire(&policy.parent)),
    }
}

/// Understands a policy.
///
/// # Errors
/// If it cannot be understood as a whole. A filter of an unknown kind or a backend that is not
/// there is no such case: requests that would use it fail, others do not.
pub fn from_wire(wire: wire::OutboundPolicy) -> Result<OutboundPolicy, Invalid> {
    use wire::proxy_protocol::{Http1, Http2, Kind};
    let http = |routes: Vec<wire::HttpRoute>, accrual: Option<wire::FailureAccrual>| {
        Ok(HttpPolicy {
            routes: routes.into_iter().map(http_route_from_wire).collect::<Result<_, _>>()?,
            failure_accrual: accrual.map(resilience::accrual_from_wire).transpose()?,
        })
    };
    let http1 = |http1: Http1| http(http1.routes, http1.failure_accrual);
    let http2 = |http2: Http2| http(http2.routes, http2.failure_accrual);
    let opaque = |opaque: wire::proxy_protocol::Opaque| {
        opaque.routes.into_iter().map(opaque_route_from_wire).collect::<Result<_, _>>()
    };
    let protocol = wire.protocol.and_then(|protocol| protocol.kind);
    let protocol = match protocol.required("OutboundPolicy.protocol")? {
        Kind::Detect(detect) => OutboundProtocol::Detect {
            timeout: scalar::required_duration("Detect.timeout", detect.timeout)?,
            http1: http1(detect.http1.required("Detect.http1")?)?,
            http2: http2(detect.http2.required("Detect.http2")?)?,
            opaque: opaque(detect.opaque.required("Detect.opaque")?)?,
        },
        Kind::Http1(wire) => OutboundProtocol::Http1(http1(wire)?),
        Kind::Http2(wire) => OutboundProtocol::Http2(http2(wire)?),
        Kind::Grpc(grpc) => OutboundProtocol::Grpc(GrpcPolicy {
            routes: grpc.routes.into_iter().map(grpc_route_from_wire).collect::<Result<_, _>>()?,
            failure_accrual: grpc.failure_accrual.map(resilience::accrual_from_wire).transpose()?,
        }),
        Kind::Opaque(wire) => OutboundProtocol::Opaque(opaque(wire)?),
        Kind::Tls(tls) => OutboundProtocol::Tls(
            tls.routes.into_iter().map(tls_route_from_wire).collect::<Result<_, _>>()?,
        ),
    };
    Ok(OutboundPolicy {
        parent: meta::from_wire("OutboundPolicy.metadata", wire.metadata)?,
        protocol,
    })
}

fn http1_to_wire(from: &HttpPolicy) -> wire::proxy_protocol::Http1 {
    wire::proxy_protocol::Http1 {
        routes: from.routes.iter().map(http_route_to_wire).collect(),
        failure_accrual: from.failure_accrual.as_ref().map(resilience::accrual_to_wire),
    }
}

fn http2_to_wire(from: &HttpPolicy) -> wire::proxy_protocol::Http2 {
    wire::proxy_protocol::Http2 {
        routes: from.routes.iter().map(http_route_to_wire).collect(),
        failure_accrual: from.failure_accrual.as_ref().map(resilience::accrual_to_wire),
    }
}

// `request_timeout` is deprecated in favour of `timeouts`; it is filled for older proxies.
#[expect(deprecated, reason = "older proxies read the deprecated field")]
fn http_route_to_wire(from: &HttpRoute) -> wire::HttpRoute {
    let rule = |rule: &Rule<_, RuleAction<HttpFilter, _>>| wire::http_route::Rule {
        matches: rule.matches.iter().map(route::http_match_to_wire).collect(),
        filters: rule.action.filters.iter().map(http_filter_to_wire).collect(),
        backends: Some(distribution::http::to_wire(&rule.action.backends)),
        request_timeout: rule.action.timeouts.request.and_then(scalar::duration_to_wire),
        timeouts: timeouts_to_wire(&rule.action.timeouts),
        retry: rule.action.retry.as_ref().map(resilience::http_retry_to_wire),
        allow_l5d_request_headers: rule.action.allow_l5d_request_headers,
    };
    wire::HttpRoute {
        metadata: Some(meta::to_wire(&from.meta)),
        hosts: route::hosts_to_wire(&from.route.hosts),
        rules: from.route.rules.iter().map(rule).collect(),
    }
}

#[expect(deprecated, reason = "older control planes write the deprecated field")]
fn http_route_from_wire(wire: wire::HttpRoute) -> Result<HttpRoute, Invalid> {
    let rule = |wire: wire::http_route::Rule| {
        let matches = wire.matches.into_iter().map(route::http_match_from_wire);
        let filters = wire.filters.into_iter().map(http_filter_from_wire);
        Ok(Rule {
            matches: matches.collect::<Result<_, _>>()?,
            action: RuleAction {
                filters: filters.collect::<Result<_, _>>()?,
                backends: distribution::http::from_wire(wire.backends)?,
                timeouts: timeouts_from_wire(wire.timeouts, wire.request_timeout)?,
                retry: wire.retry.map(resilience::http_retry_from_wire).transpose()?,
                allow_l5d_request_headers: wire.allow_l5d_request_headers,
            },
        })
    };
    Ok(HttpRoute {
        meta: meta::from_wire("HttpRoute.metadata", wire.metadata)?,
        route: Route {
            hosts: route::hosts_from_wire(wire.hosts)?,
            rules: wire.rules.into_iter().map(rule).collect::<Result<_, Invalid>>()?,
        },
    })
}

#[expect(deprecated, reason = "older proxies read the deprecated field")]
fn grpc_route_to_wire(from: &GrpcRoute) -> wire::GrpcRoute {
    let rule = |rule: &Rule<_, RuleAction<GrpcFilter, _>>| wire::grpc_route::Rule {
        matches: rule.matches.iter().map(route::grpc_match_to_wire).collect(),
        filters: rule.action.filters.iter().map(grpc_filter_to_wire).collect(),
        backends: Some(distribution::grpc::to_wire(&rule.action.backends)),
        request_timeout: rule.action.timeouts.request.and_then(scalar::duration_to_wire),
        timeouts: timeouts_to_wire(&rule.action.timeouts),
        retry: rule.action.retry.as_ref().map(resilience::grpc_retry_to_wire),
        allow_l5d_request_headers: rule.action.allow_l5d_request_headers,
    };
    wire::GrpcRoute {
        metadata: Some(meta::to_wire(&from.meta)),
        hosts: route::hosts_to_wire(&from.route.hosts),
        rules: from.route.rules.iter().map(rule).collect(),
    }
}

#[expect(deprecated, reason = "older control planes write the deprecated field")]
fn grpc_route_from_wire(wire: wire::GrpcRoute) -> Result<GrpcRoute, Invalid> {
    let rule = |wire: wire::grpc_route::Rule| {
        let matches = wire.matches.into_iter().map(route::grpc_match_from_wire);
        let filters = wire.filters.into_iter().map(grpc_filter_from_wire);
        Ok(Rule {
            matches: matches.collect::<Result<_, _>>()?,
            action: RuleAction {
                filters: filters.collect::<Result<_, _>>()?,
                backends: distribution::grpc::from_wire(wire.backends)?,
                timeouts: timeouts_from_wire(wire.timeouts, wire.request_timeout)?,
                retry: wire.retry.map(resilience::grpc_retry_from_wire).transpose()?,
                allow_l5d_request_headers: wire.allow_l5d_request_headers,
            },
        })
    };
    Ok(GrpcRoute {
        meta: meta::from_wire("GrpcRoute.metadata", wire.metadata)?,
        route: Route {
            hosts: route::hosts_from_wire(wire.hosts)?,
            rules: wire.rules.into_iter().map(rule).collect::<Result<_, Invalid>>()?,
        },
    })
}

fn timeouts_to_wire(from: &Timeouts) -> Option<http_route::Timeouts> {
    (*from != Timeouts::default()).then(|| http_route::Timeouts {
        response: from.response.and_then(scalar::duration_to_wire),
        request: from.request.and_then(scalar::duration_to_wire),
        idle: from.idle.and_then(scalar::duration_to_wire),
    })
}

fn timeouts_from_wire(
    wire: Option<http_route::Timeouts>,
    request: Option<prost_types::Duration>,
) -> Result<Timeouts, Invalid> {
    let wire = wire.unwrap_or(http_route::Timeouts { request, ..Default::default() });
    Ok(Timeouts {
        request: scalar::duration("Timeouts.request", wire.request)?,
        response: scalar::duration("Timeouts.response", wire.response)?,
        idle: scalar::duration("Timeouts.idle", wire.idle)?,
    })
}

/// A route for bytes has one rule on the wire, always.
fn only_rule<R>(field: &'static str, rules: Vec<R>) -> Result<R, Invalid> {
    let mut rules = rules.into_iter();
    match (rules.next(), rules.next()) {
        (Some(rule), None) => Ok(rule),
        (None, _) => Err(Invalid::missing(field)),
        (Some(_), Some(_)) => Err(Invalid::contradiction(field, "it has more than one rule")),
    }
}

fn opaque_route_to_wire(from: &OpaqueRoute) -> wire::OpaqueRoute {
    let rule = wire::opaque_route::Rule {
        backends: Some(distribution::opaque::to_wire(&from.backends)),
        filters: from.filters.iter().map(opaque_filter_to_wire).collect(),
    };
    wire::OpaqueRoute { metadata: Some(meta::to_wire(&from.meta)), rules: vec![rule] }
}

fn opaque_route_from_wire(wire: wire::OpaqueRoute) -> Result<OpaqueRoute, Invalid> {
    let rule = only_rule("OpaqueRoute.rules", wire.rules)?;
    let filters = rule.filters.into_iter().map(opaque_filter_from_wire);
    Ok(OpaqueRoute {
        meta: meta::from_wire("OpaqueRoute.metadata", wire.metadata)?,
        filters: filters.collect::<Result<_, _>>()?,
        backends: distribution::opaque::from_wire(rule.backends)?,
    })
}

fn tls_route_to_wire(from: &TlsRoute) -> wire::TlsRoute {
    let rule = wire::tls_route::Rule {
        backends: Some(distribution::tls::to_wire(&from.backends)),
        filters: from.filters.iter().map(tls_filter_to_wire).collect(),
    };
    wire::TlsRoute {
        metadata: Some(meta::to_wire(&from.meta)),
        snis: route::snis_to_wire(&from.snis),
        rules: vec![rule],
    }
}

fn tls_route_from_wire(wire: wire::TlsRoute) -> Result<TlsRoute, Invalid> {
    let rule = only_rule("TlsRoute.rules", wire.rules)?;
    let filters = rule.filters.into_iter().map(tls_filter_from_wire);
    Ok(TlsRoute {
        meta: meta::from_wire("TlsRoute.metadata", wire.metadata)?,
        snis: route::snis_from_wire(wire.snis)?,
        filters: filters.collect::<Result<_, _>>()?,
        backends: distribution::tls::from_wire(rule.backends)?,
    })
}

fn http_filter_to_wire(from: &HttpFilter) -> wire::http_route::Filter {
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
        HttpFilter::ResponseHeaders(edits) => {
            Kind::ResponseHeaderModifier(filter::response_headers_to_wire(edits))
        }
        HttpFilter::UrlRewrite(rewrite) => {
            Kind::FailureInjector(filter::url_rewrite_to_wire(rewrite))
        }
        HttpFilter::Mirror(mirror) => {
            Kind::FailureInjector(Optional::Mirror(mirror.clone()).to_http())
        }
        HttpFilter::Delay(delay) => Kind::FailureInjector(Optional::Delay(*delay).to_http()),
        HttpFilter::Cors(cors) => {
            Kind::FailureInjector(Optional::Cors(Cors::clone(cors)).to_http())
        }
    };
    wire::http_route::Filter { kind: Some(kind) }
}

fn http_filter_from_wire(wire: wire::http_route::Filter) -> Result<HttpFilter, Invalid> {
    use wire::http_route::filter::Kind;
    Ok(match wire.kind {
        None => HttpFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::FailureInjector(failure)) => {
            match (filter::url_rewrite_from_wire(&failure), Optional::from_http(&failure)) {
                (Some(rewrite), _) => HttpFilter::UrlRewrite(rewrite),
                (None, Some(Optional::Mirror(mirror))) => HttpFilter::Mirror(mirror),
                (None, Some(Optional::Delay(delay))) => HttpFilter::Delay(delay),
                (None, Some(Optional::Cors(cors))) => HttpFilter::Cors(Arc::new(cors)),
                (None, None) => HttpFilter::InjectFailure(filter::http_failure_from_wire(failure)?),
            }
        }
        Some(Kind::Redirect(redirect)) => {
            HttpFilter::Redirect(filter::redirect_from_wire(redirect)?)
        }
        Some(Kind::RequestHeaderModifier(edits)) => {
            HttpFilter::RequestHeaders(filter::request_headers_from_wire(edits)?)
        }
        Some(Kind::ResponseHeaderModifier(edits)) => {
            HttpFilter::ResponseHeaders(filter::response_headers_from_wire(edits)?)
        }
    })
}

fn grpc_filter_to_wire(from: &GrpcFilter) -> wire::grpc_route::Filter {
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
        GrpcFilter::Mirror(mirror) => {
            Kind::FailureInjector(Optional::Mirror(mirror.clone()).to_grpc())
        }
        GrpcFilter::Delay(delay) => Kind::FailureInjector(Optional::Delay(*delay).to_grpc()),
    };
    wire::grpc_route::Filter { kind: Some(kind) }
}

fn grpc_filter_from_wire(wire: wire::grpc_route::Filter) -> Result<GrpcFilter, Invalid> {
    use wire::grpc_route::filter::Kind;
    Ok(match wire.kind {
        None => GrpcFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::FailureInjector(failure)) => match Optional::from_grpc(&failure) {
            Some(Optional::Mirror(mirror)) => GrpcFilter::Mirror(mirror),
            Some(Optional::Delay(delay)) => GrpcFilter::Delay(delay),
            // gRPC has no such filter; what says so stands for itself.
            Some(Optional::Cors(_)) | None => {
                GrpcFilter::InjectFailure(filter::grpc_failure_from_wire(failure)?)
            }
        },
        Some(Kind::RequestHeaderModifier(edits)) => {
            GrpcFilter::RequestHeaders(filter::request_headers_from_wire(edits)?)
        }
    })
}

fn opaque_filter_to_wire(from: &TcpFilter) -> wire::opaque_route::Filter {
    use wire::opaque_route::filter::Kind;
    let kind = match from {
        TcpFilter::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
        TcpFilter::Invalid(message) => {
            Kind::Invalid(opaque_route::Invalid { message: message.to_string() })
        }
    };
    wire::opaque_route::Filter { kind: Some(kind) }
}

fn opaque_filter_from_wire(wire: wire::opaque_route::Filter) -> Result<TcpFilter, Invalid> {
    use wire::opaque_route::filter::Kind;
    Ok(match wire.kind {
        None => TcpFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::Forbidden(_)) => TcpFilter::Forbidden,
        Some(Kind::Invalid(invalid)) => TcpFilter::Invalid(invalid.message.into()),
    })
}

fn tls_filter_to_wire(from: &TcpFilter) -> wire::tls_route::Filter {
    use wire::tls_route::filter::Kind;
    let kind = match from {
        TcpFilter::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
        TcpFilter::Invalid(message) => {
            Kind::Invalid(opaque_route::Invalid { message: message.to_string() })
        }
    };
    wire::tls_route::Filter { kind: Some(kind) }
}

fn tls_filter_from_wire(wire: wire::tls_route::Filter) -> Result<TcpFilter, Invalid> {
    use wire::tls_route::filter::Kind;
    Ok(match wire.kind {
        None => TcpFilter::Invalid(filter::UNKNOWN_FILTER.into()),
        Some(Kind::Forbidden(_)) => TcpFilter::Forbidden,
        Some(Kind::Invalid(invalid)) => TcpFilter::Invalid(invalid.message.into()),
    })
}

/// The message of a filter that stands before a backend which cannot be used.
fn message_of_http(filter: &HttpFilter) -> Option<Arc<str>> {
    match filter {
        HttpFilter::InjectFailure(failure) => Some(failure.message.clone()),
        HttpFilter::Invalid(message) => Some(message.clone()),
        HttpFilter::Redirect(_)
        | HttpFilter::RequestHeaders(_)
        | HttpFilter::ResponseHeaders(_)
        | HttpFilter::UrlRewrite(_)
        | HttpFilter::Mirror(_)
        | HttpFilter::Delay(_)
        | HttpFilter::Cors(_) => None,
    }
}

fn message_of_grpc(filter: &GrpcFilter) -> Option<Arc<str>> {
    match filter {
        GrpcFilter::InjectFailure(failure) => Some(failure.message.clone()),
        GrpcFilter::Invalid(message) => Some(message.clone()),
        GrpcFilter::RequestHeaders(_) | GrpcFilter::Mirror(_) | GrpcFilter::Delay(_) => None,
    }
}

fn message_of_tcp(filter: &TcpFilter) -> Option<Arc<str>> {
    match filter {
        TcpFilter::Invalid(message) => Some(message.clone()),
        TcpFilter::Forbidden => None,
    }
}
