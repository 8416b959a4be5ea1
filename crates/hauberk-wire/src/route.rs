//! Hosts and matches, each way: the parts that inbound and outbound routes share.

use std::sync::Arc;

use hauberk_model::route::HostMatch;
use hauberk_model::route::grpc::GrpcMatch;
use hauberk_model::route::http::{HeaderMatch, HttpMatch, PathMatch, QueryMatch};

use crate::api::{grpc_route, http_route, tls_route};
use crate::filter::{header_name, header_value};
use crate::invalid::{Invalid, Required};
use crate::scalar;

/// `.example.org` becomes `["org", "example"]`.
fn reverse_labels(suffix: &str) -> Vec<String> {
    suffix.trim_start_matches('.').rsplit('.').map(str::to_owned).collect()
}

fn suffix(field: &'static str, reverse_labels: &[String]) -> Result<HostMatch, Invalid> {
    if reverse_labels.is_empty() || reverse_labels.iter().any(String::is_empty) {
        return Err(Invalid::malformed(field, reverse_labels.join(","), "a label is empty"));
    }
    let labels = reverse_labels.iter().rev().map(|label| label.to_ascii_lowercase());
    Ok(HostMatch::Suffix(labels.fold(String::new(), |name, label| name + "." + &label).into()))
}

pub(crate) fn hosts_to_wire(hosts: &[HostMatch]) -> Vec<http_route::HostMatch> {
    use http_route::host_match::{Match, Suffix};
    let host = |host: &HostMatch| match host {
        HostMatch::Exact(host) => Match::Exact(host.to_string()),
        HostMatch::Suffix(suffix) => {
            Match::Suffix(Suffix { reverse_labels: reverse_labels(suffix) })
        }
    };
    hosts.iter().map(|h| http_route::HostMatch { r#match: Some(host(h)) }).collect()
}

pub(crate) fn hosts_from_wire(wire: Vec<http_route::HostMatch>) -> Result<Vec<HostMatch>, Invalid> {
    use http_route::host_match::Match;
    let host = |host: http_route::HostMatch| match host.r#match.required("HostMatch.match")? {
        Match::Exact(host) => Ok(HostMatch::Exact(host.to_ascii_lowercase().into())),
        Match::Suffix(labels) => suffix("HostMatch.suffix", &labels.reverse_labels),
    };
    wire.into_iter().map(host).collect()
}

pub(crate) fn snis_to_wire(snis: &[HostMatch]) -> Vec<tls_route::SniMatch> {
    use tls_route::sni_match::{Match, Suffix};
    let sni = |sni: &HostMatch| match sni {
        HostMatch::Exact(sni) => Match::Exact(sni.to_string()),
        HostMatch::Suffix(suffix) => {
            Match::Suffix(Suffix { reverse_labels: reverse_labels(suffix) })
        }
    };
    snis.iter().map(|s| tls_route::SniMatch { r#match: Some(sni(s)) }).collect()
}

pub(crate) fn snis_from_wire(wire: Vec<tls_route::SniMatch>) -> Result<Vec<HostMatch>, Invalid> {
    use tls_route::sni_match::Match;
    let sni = |sni: tls_route::SniMatch| match sni.r#match.required("SniMatch.match")? {
        Match::Exact(sni) => Ok(HostMatch::Exact(sni.to_ascii_lowercase().into())),
        Match::Suffix(labels) => suffix("SniMatch.suffix", &labels.reverse_labels),
    };
    wire.into_iter().map(sni).collect()
}

pub(crate) fn http_match_to_wire(from: &HttpMatch) -> http_route::HttpRouteMatch {
    use http_route::path_match::Kind;
    let path = from.path.as_ref().map(|path| match path {
        PathMatch::Exact(path) => Kind::Exact(path.to_string()),
        PathMatch::Prefix(path) => Kind::Prefix(path.to_string()),
        PathMatch::Regex(pattern) => Kind::Regex(pattern.as_str().to_owned()),
    });
    http_route::HttpRouteMatch {
        path: path.map(|kind| http_route::PathMatch { kind: Some(kind) }),
        headers: from.headers.iter().map(header_to_wire).collect(),
        query_params: from.query.iter().map(query_to_wire).collect(),
        method: from.method.clone().map(Into::into),
    }
}

pub(crate) fn http_match_from_wire(wire: http_route::HttpRouteMatch) -> Result<HttpMatch, Invalid> {
    use http_route::path_match::Kind;
    let path = |path: http_route::PathMatch| {
        Ok(match path.kind.required("PathMatch.kind")? {
            Kind::Exact(path) => PathMatch::Exact(path.into()),
            Kind::Prefix(path) => PathMatch::Prefix(path.into()),
            Kind::Regex(regex) => PathMatch::Regex(scalar::pattern("PathMatch.regex", &regex)?),
        })
    };
    let method = |method| scalar::method("HttpRouteMatch.method", method);
    Ok(HttpMatch {
        path: wire.path.map(path).transpose()?,
        headers: wire.headers.into_iter().map(header_from_wire).collect::<Result<_, _>>()?,
        query: wire.query_params.into_iter().map(query_from_wire).collect::<Result<_, _>>()?,
        method: wire.method.map(method).transpose()?,
    })
}

fn header_to_wire(from: &HeaderMatch) -> http_route::HeaderMatch {
    use http_route::header_match::Value;
    let (name, value) = match from {
        HeaderMatch::Exact(name, value) => (name, Value::Exact(value.as_bytes().to_vec())),
        HeaderMatch::Regex(name, pattern) => (name, Value::Regex(pattern.as_str().to_owned())),
    };
    http_route::HeaderMatch { name: name.as_str().to_owned(), value: Some(value) }
}

fn header_from_wire(wire: http_route::HeaderMatch) -> Result<HeaderMatch, Invalid> {
    use http_route::header_match::Value;
    let name = header_name("HeaderMatch.name", &wire.name)?;
    Ok(match wire.value.required("HeaderMatch.value")? {
        Value::Exact(value) => HeaderMatch::Exact(name, header_value("HeaderMatch.exact", &value)?),
        Value::Regex(regex) => {
            HeaderMatch::Regex(name, scalar::pattern("HeaderMatch.regex", &regex)?)
        }
    })
}

fn query_to_wire(from: &QueryMatch) -> http_route::QueryParamMatch {
    use http_route::query_param_match::Value;
    let (name, value) = match from {
        QueryMatch::Exact(name, value) => (name, Value::Exact(value.to_string())),
        QueryMatch::Regex(name, pattern) => (name, Value::Regex(pattern.as_str().to_owned())),
    };
    http_route::QueryParamMatch { name: name.to_string(), value: Some(value) }
}

fn query_from_wire(wire: http_route::QueryParamMatch) -> Result<QueryMatch, Invalid> {
    use http_route::query_param_match::Value;
    let name: Arc<str> = wire.name.into();
    Ok(match wire.value.required("QueryParamMatch.value")? {
        Value::Exact(value) => QueryMatch::Exact(name, value.into()),
        Value::Regex(regex) => {
            QueryMatch::Regex(name, scalar::pattern("QueryParamMatch.regex", &regex)?)
        }
    })
}

/// The call is always present on the wire, since Linkerd's proxy asks for it; empty means any.
pub(crate) fn grpc_match_to_wire(from: &GrpcMatch) -> grpc_route::GrpcRouteMatch {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let rpc = grpc_route::GrpcRpcMatch { service: text(&from.service), method: text(&from.method) };
    let headers = from.headers.iter().map(header_to_wire).collect();
    grpc_route::GrpcRouteMatch { rpc: Some(rpc), headers }
}

pub(crate) fn grpc_match_from_wire(wire: grpc_route::GrpcRouteMatch) -> Result<GrpcMatch, Invalid> {
    let rpc = wire.rpc.unwrap_or_default();
    let text = |text: String| (!text.is_empty()).then(|| text.into());
    let headers = wire.headers.into_iter().map(header_from_wire).collect::<Result<_, _>>()?;
    Ok(GrpcMatch { service: text(rpc.service), method: text(rpc.method), headers })
}
