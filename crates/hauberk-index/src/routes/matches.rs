//! Conditions of routes on requests.

use super::Unusable;
use hauberk_model::{
    Pattern,
    route::{
        HostMatch,
        grpc::GrpcMatch,
        http::{HeaderMatch, HttpMatch, PathMatch, QueryMatch},
    },
};
use hauberk_resources::{
    GrpcRouteMatch, HttpRouteMatch, PathMatchKind, ValueMatch, ValueMatchKind,
};
use std::sync::Arc;

pub(crate) fn hosts(written: &[Arc<str>]) -> Vec<HostMatch> {
    written.iter().map(|host| HostMatch::parse(host)).collect()
}

/// The matches of an HTTP rule. Where no path is named, every path is meant; a Kubernetes API fills
/// that in, a directory does not, and preference among rules depends on it (Gateway API v1,
/// `HTTPRouteMatch.path`).
pub(crate) fn http_rule(written: &[HttpRouteMatch]) -> Result<Vec<HttpMatch>, Unusable> {
    match written {
        [] => Ok(vec![HttpMatch {
            path: Some(PathMatch::Prefix("/".into())),
            ..HttpMatch::default()
        }]),
        some => some.iter().map(http).collect(),
    }
}

fn http(written: &HttpRouteMatch) -> Result<HttpMatch, Unusable> {
    let path = written.path.as_ref().map_or(Ok(PathMatch::Prefix("/".into())), path);
    let method = written
        .method
        .as_deref()
        .map(|method| method.parse().map_err(|_| format!("'{method}' is no HTTP method")));
    Ok(HttpMatch {
        path: Some(path?),
        headers: written.headers.iter().map(header).collect::<Result<_, _>>()?,
        query: written.query_params.iter().map(query).collect::<Result<_, _>>()?,
        method: method.transpose()?,
    })
}

pub(crate) fn grpc(written: &GrpcRouteMatch) -> Result<GrpcMatch, Unusable> {
    let method = written.method.as_ref();
    if method.is_some_and(|method| method.kind == ValueMatchKind::RegularExpression) {
        return Err("gRPC methods cannot be matched by pattern".to_owned());
    }
    let some = |text: Option<&Arc<str>>| text.filter(|text| !text.is_empty()).cloned();
    Ok(GrpcMatch {
        service: some(method.and_then(|method| method.service.as_ref())),
        method: some(method.and_then(|method| method.method.as_ref())),
        headers: written.headers.iter().map(header).collect::<Result<_, _>>()?,
    })
}

fn path(written: &hauberk_resources::PathMatch) -> Result<PathMatch, Unusable> {
    let value: Arc<str> = written.value.clone().unwrap_or_else(|| "/".into());
    let absolute = |value: Arc<str>| match value.starts_with('/') {
        true => Ok(value),
        false => Err(format!("path '{value}' does not begin with '/'")),
    };
    match written.kind {
        PathMatchKind::Exact => Ok(PathMatch::Exact(absolute(value)?)),
        PathMatchKind::PathPrefix => Ok(PathMatch::Prefix(absolute(value)?)),
        PathMatchKind::RegularExpression => Ok(PathMatch::Regex(pattern(&value)?)),
    }
}

fn header(written: &ValueMatch) -> Result<HeaderMatch, Unusable> {
    let name = written.name.parse().map_err(|_| format!("'{}' is no header", written.name))?;
    match written.kind {
        ValueMatchKind::Exact => {
            let value = written.value.parse();
            let value = value.map_err(|_| format!("'{}' is no header value", written.value))?;
            Ok(HeaderMatch::Exact(name, value))
        }
        ValueMatchKind::RegularExpression => Ok(HeaderMatch::Regex(name, pattern(&written.value)?)),
    }
}

fn query(written: &ValueMatch) -> Result<QueryMatch, Unusable> {
    let name = written.name.clone();
    match written.kind {
        ValueMatchKind::Exact => Ok(QueryMatch::Exact(name, written.value.clone())),
        ValueMatchKind::RegularExpression => Ok(QueryMatch::Regex(name, pattern(&written.value)?)),
    }
}

fn pattern(text: &str) -> Result<Pattern, Unusable> {
    Pattern::new(text).map_err(|error| error.to_string())
}
