//! What routes do to requests on their way.
//!
//! A filter that is not known makes the route unusable: to leave it out would be to do something
//! else than what was asked for.

use super::Unusable;
use hauberk_model::{
    Port,
    filter::{GrpcFilter, HeaderEdits, HttpFilter, PathRewrite, Redirect, UrlRewrite},
};
use hauberk_resources::{HeaderModifier, PathModifier, RouteFilter};
use http::{HeaderName, HeaderValue, StatusCode, uri::Authority, uri::Scheme};

const UNSUPPORTED: &str = "a filter of this type is not supported";

pub(crate) fn http(written: &[RouteFilter]) -> Result<Vec<HttpFilter>, Unusable> {
    let filters = written.iter().map(|filter| match filter {
        RouteFilter::RequestHeaderModifier { edits: written } => {
            Ok(HttpFilter::RequestHeaders(edits(written)?))
        }
        RouteFilter::ResponseHeaderModifier { edits: written } => {
            Ok(HttpFilter::ResponseHeaders(edits(written)?))
        }
        RouteFilter::RequestRedirect { redirect: written } => {
            Ok(HttpFilter::Redirect(redirect(written)?))
        }
        RouteFilter::UrlRewrite { rewrite: written } => {
            Ok(HttpFilter::UrlRewrite(url_rewrite(written)?))
        }
        RouteFilter::Unsupported => Err(UNSUPPORTED.to_owned()),
    });
    filters.collect()
}

/// Responses of gRPC calls cannot be edited by the wire's routes; such a filter is left out, as
/// Linkerd does.
pub(crate) fn grpc(written: &[RouteFilter]) -> Result<Vec<GrpcFilter>, Unusable> {
    let filters = written.iter().filter_map(|filter| match filter {
        RouteFilter::RequestHeaderModifier { edits: written } => {
            Some(edits(written).map(GrpcFilter::RequestHeaders))
        }
        RouteFilter::ResponseHeaderModifier { .. } => None,
        RouteFilter::RequestRedirect { .. }
        | RouteFilter::UrlRewrite { .. }
        | RouteFilter::Unsupported => Some(Err(UNSUPPORTED.to_owned())),
    });
    filters.collect()
}

fn edits(written: &HeaderModifier) -> Result<HeaderEdits, Unusable> {
    let name =
        |text: &str| text.parse::<HeaderName>().map_err(|_| format!("'{text}' is no header"));
    let pairs = |written: &[hauberk_resources::HeaderValue]| {
        let pairs = written.iter().map(|pair| {
            let value = pair.value.parse::<HeaderValue>();
            let value = value.map_err(|_| format!("'{}' is no header value", pair.value))?;
            Ok::<_, Unusable>((name(&pair.name)?, value))
        });
        pairs.collect::<Result<Vec<_>, _>>()
    };
    Ok(HeaderEdits {
        add: pairs(&written.add)?,
        set: pairs(&written.set)?,
        remove: written.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
    })
}

fn redirect(written: &hauberk_resources::Redirect) -> Result<Redirect, Unusable> {
    let scheme = written
        .scheme
        .as_deref()
        .map(|scheme| scheme.parse::<Scheme>().map_err(|_| format!("'{scheme}' is no scheme")));
    let status = written.status_code.map(|code| {
        let status = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection);
        status.ok_or_else(|| format!("{code} is no status of a redirect"))
    });
    Ok(Redirect {
        scheme: scheme.transpose()?,
        host: written.hostname.clone(),
        path: written.path.as_ref().map(path).transpose()?,
        port: written.port.and_then(Port::new),
        status: status.transpose()?,
    })
}

fn url_rewrite(written: &hauberk_resources::UrlRewrite) -> Result<UrlRewrite, Unusable> {
    if let Some(host) = &written.hostname {
        let authority = host.parse::<Authority>();
        if !authority.is_ok_and(|authority| authority.host() == &**host) {
            return Err(format!("'{host}' is no host name"));
        }
    }
    let path = written.path.as_ref().map(path).transpose()?;
    Ok(UrlRewrite { host: written.hostname.clone(), path })
}

fn path(written: &PathModifier) -> Result<PathRewrite, Unusable> {
    match written {
        PathModifier::ReplaceFullPath { path } if !path.starts_with('/') => {
            Err(format!("path '{path}' does not begin with '/'"))
        }
        PathModifier::ReplaceFullPath { path } => Ok(PathRewrite::Full(path.clone())),
        PathModifier::ReplacePrefixMatch { prefix } => Ok(PathRewrite::Prefix(prefix.clone())),
    }
}
