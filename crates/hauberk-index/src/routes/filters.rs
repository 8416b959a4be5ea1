//! What routes do to requests on their way.
//!
//! A filter that is not known makes the route unusable: to leave it out would be to do something
//! else than what was asked for. A mirror that leads nowhere is left out, and the status says so
//! (Gateway API v1, `HTTPRequestMirrorFilter.backendRef`).

use super::Unusable;
use hauberk_model::{
    Port,
    cors::{Cors, OriginPattern},
    filter::{
        GrpcFilter, HeaderEdits, HttpFilter, Mirror, PathRewrite, Ratio, Redirect, UrlRewrite,
    },
    name::{Authority, ServiceName},
};
use hauberk_resources::{
    CorsRules, Fraction, HeaderModifier, ObjectRef, PathModifier, RequestMirror, RouteFilter,
};
use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};
use std::{str::FromStr, sync::Arc};

const UNSUPPORTED: &str = "a filter of this type is not supported";

/// A service that copies go to, and what to ask its endpoints for.
pub(crate) type Destination = (ServiceName, Authority);

/// The filters of an HTTP rule or backend; `find` follows references of mirrors.
pub(crate) fn http(
    written: &[RouteFilter],
    mut find: impl FnMut(&ObjectRef) -> Option<Destination>,
) -> Result<Vec<HttpFilter>, Unusable> {
    let mut filters = Vec::new();
    for filter in written {
        filters.extend(match filter {
            RouteFilter::RequestHeaderModifier { edits: written } => {
                Some(HttpFilter::RequestHeaders(edits(written)?))
            }
            RouteFilter::ResponseHeaderModifier { edits: written } => {
                Some(HttpFilter::ResponseHeaders(edits(written)?))
            }
            RouteFilter::RequestRedirect { redirect: written } => {
                Some(HttpFilter::Redirect(redirect(written)?))
            }
            RouteFilter::UrlRewrite { rewrite: written } => {
                Some(HttpFilter::UrlRewrite(url_rewrite(written)?))
            }
            RouteFilter::RequestMirror { mirror: written } => {
                mirror(written, &mut find)?.map(HttpFilter::Mirror)
            }
            RouteFilter::Cors { cors: written } => Some(HttpFilter::Cors(Arc::new(cors(written)?))),
            RouteFilter::Unsupported => return Err(UNSUPPORTED.to_owned()),
        });
    }
    Ok(filters)
}

/// The same of gRPC. Responses of gRPC calls cannot be edited by the wire's routes; such a filter
/// is left out, as Linkerd does.
pub(crate) fn grpc(
    written: &[RouteFilter],
    mut find: impl FnMut(&ObjectRef) -> Option<Destination>,
) -> Result<Vec<GrpcFilter>, Unusable> {
    let mut filters = Vec::new();
    for filter in written {
        filters.extend(match filter {
            RouteFilter::RequestHeaderModifier { edits: written } => {
                Some(GrpcFilter::RequestHeaders(edits(written)?))
            }
            RouteFilter::ResponseHeaderModifier { .. } => None,
            RouteFilter::RequestMirror { mirror: written } => {
                mirror(written, &mut find)?.map(GrpcFilter::Mirror)
            }
            RouteFilter::RequestRedirect { .. }
            | RouteFilter::UrlRewrite { .. }
            | RouteFilter::Cors { .. }
            | RouteFilter::Unsupported => return Err(UNSUPPORTED.to_owned()),
        });
    }
    Ok(filters)
}

fn mirror(
    written: &RequestMirror,
    find: &mut impl FnMut(&ObjectRef) -> Option<Destination>,
) -> Result<Option<Mirror>, Unusable> {
    let ratio = match (written.percent, written.fraction) {
        (None, None) => Ratio::ALL,
        (Some(percent), None) => Ratio { numerator: percent, denominator: 100 },
        (None, Some(Fraction { numerator, denominator })) => {
            Ratio { numerator, denominator: denominator.unwrap_or(100) }
        }
        (Some(_), Some(_)) => {
            return Err("a mirror has a percent or a fraction, not both".to_owned());
        }
    };
    if ratio.denominator == 0 || ratio.numerator > ratio.denominator {
        let Ratio { numerator, denominator } = ratio;
        return Err(format!("{numerator} out of {denominator} is no share of requests"));
    }
    let found = find(&written.backend_ref);
    Ok(found.map(|(service, authority)| Mirror { service, authority, ratio }))
}

fn cors(written: &CorsRules) -> Result<Cors, Unusable> {
    let origin = |text: &Arc<str>| {
        OriginPattern::parse(text).map_err(|why| format!("'{text}' is no origin: {why}"))
    };
    let (methods, any_method) = names(&written.allow_methods, "method")?;
    let (headers, any_header) = names(&written.allow_headers, "header")?;
    let (exposed, exposes_all) = names(&written.expose_headers, "header")?;
    Ok(Cors {
        origins: written.allow_origins.iter().map(origin).collect::<Result<_, _>>()?,
        credentials: written.allow_credentials,
        methods,
        any_method,
        headers,
        any_header,
        exposed,
        exposes_all,
        max_age: written.max_age.unwrap_or(5),
    })
}

/// The names in a list, and whether `*` is among them.
fn names<T: FromStr>(written: &[Arc<str>], what: &str) -> Result<(Vec<T>, bool), Unusable> {
    let all = written.iter().any(|text| &**text == "*");
    let names = written.iter().filter(|text| &***text != "*");
    let names = names.map(|text| text.parse().map_err(|_| format!("'{text}' is no {what}")));
    Ok((names.collect::<Result<_, _>>()?, all))
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
    // Kubernetes fills in the Gateway API's default; a directory of YAML has nobody who does. Said on
    // the wire, because linkerd2-proxy answers 301 where nothing is said.
    let code = written.status_code.unwrap_or(StatusCode::FOUND.as_u16());
    let status = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection);
    let status = status.ok_or_else(|| format!("{code} is no status of a redirect"))?;
    Ok(Redirect {
        scheme: scheme.transpose()?,
        host: written.hostname.clone(),
        path: written.path.as_ref().map(path).transpose()?,
        port: written.port.and_then(Port::new),
        status: Some(status),
    })
}

fn url_rewrite(written: &hauberk_resources::UrlRewrite) -> Result<UrlRewrite, Unusable> {
    if let Some(host) = &written.hostname {
        let authority = host.parse::<http::uri::Authority>();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_says_its_status_also_where_the_route_does_not() {
        let check = |code: Option<u16>, expect: Option<u16>| {
            let written = hauberk_resources::Redirect { status_code: code, ..Default::default() };
            let status = redirect(&written).ok().map(|redirect| redirect.status.unwrap());
            assert_eq!(status.map(|status| status.as_u16()), expect, "{code:?}");
        };
        check(None, Some(302));
        check(Some(307), Some(307));
        check(Some(200), None);
    }
}
