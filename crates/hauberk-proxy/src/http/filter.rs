//! What routes do to requests and responses, in one form for HTTP and gRPC.
//!
//! Compiled with the route table, applied in order by the inbound and outbound request paths. A
//! filter either edits the message or answers in place of the backend. Pure: randomness is an
//! argument.

use std::sync::Arc;

use hauberk_model::filter::{GrpcFilter, HeaderEdits, HttpFilter, PathRewrite, Ratio, Redirect};
use hauberk_model::route::http::PathMatch;
use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::answer::{self, Manner};
use super::body::Body;
use super::failure::{Failure, What};

/// One filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Answers some requests with a failure.
    Fail {
        /// HTTP status.
        status: StatusCode,
        /// gRPC code.
        code: u16,
        /// Text.
        message: Arc<str>,
        /// Share of requests.
        ratio: Ratio,
    },
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Edits request headers.
    RequestHeaders(HeaderEdits),
    /// Edits response headers.
    ResponseHeaders(HeaderEdits),
    /// The route could not be understood.
    Invalid(Arc<str>),
}

/// gRPC code of injected HTTP failures and of redirects, when the client speaks gRPC.
const FAILED_PRECONDITION: u16 = 9;
const NOT_FOUND: u16 = 5;

impl From<&HttpFilter> for Filter {
    fn from(filter: &HttpFilter) -> Self {
        match filter {
            HttpFilter::InjectFailure(inject) => Filter::Fail {
                status: inject.status,
                code: FAILED_PRECONDITION,
                message: Arc::clone(&inject.message),
                ratio: inject.ratio,
            },
            HttpFilter::Redirect(redirect) => Filter::Redirect(redirect.clone()),
            HttpFilter::RequestHeaders(edits) => Filter::RequestHeaders(edits.clone()),
            HttpFilter::ResponseHeaders(edits) => Filter::ResponseHeaders(edits.clone()),
            HttpFilter::Invalid(message) => Filter::Invalid(Arc::clone(message)),
        }
    }
}

impl From<&GrpcFilter> for Filter {
    fn from(filter: &GrpcFilter) -> Self {
        match filter {
            GrpcFilter::InjectFailure(inject) => Filter::Fail {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: inject.code,
                message: Arc::clone(&inject.message),
                ratio: inject.ratio,
            },
            GrpcFilter::RequestHeaders(edits) => Filter::RequestHeaders(edits.clone()),
            GrpcFilter::Invalid(message) => Filter::Invalid(Arc::clone(message)),
        }
    }
}

/// What a filter made of a request.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is answered here.
    Answer(Box<Response<Body>>),
    /// It fails.
    Fail(Failure),
}

/// Applies `filters` to a request. `matched` is the path match that chose the route, for prefix
/// rewriting; `random` draws uniformly from 0 to 1.
pub fn apply(
    filters: &[Filter],
    request: &mut Parts,
    matched: Option<&PathMatch>,
    manner: Manner,
    mut random: impl FnMut() -> f64,
) -> Verdict {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edits) => edits.apply(&mut request.headers),
            Filter::ResponseHeaders(_) => {}
            Filter::Fail { status, code, message, ratio } => {
                if ratio.hits(random()) {
                    let response = answer::made_up(*status, *code, message, manner);
                    return Verdict::Answer(Box::new(response));
                }
            }
            Filter::Redirect(redirect) => return redirected(redirect, request, matched, manner),
            Filter::Invalid(why) => {
                return Verdict::Fail(Failure::us(What::InvalidPolicy(Arc::clone(why))));
            }
        }
    }
    Verdict::Pass
}

/// Applies `filters` to the headers of a response.
pub fn apply_to_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(edits) = filter {
            edits.apply(headers);
        }
    }
}

fn redirected(
    redirect: &Redirect,
    request: &Parts,
    matched: Option<&PathMatch>,
    manner: Manner,
) -> Verdict {
    let Some(location) = location(redirect, request, matched) else {
        let why = "redirect does not make a valid location".into();
        return Verdict::Fail(Failure::us(What::InvalidPolicy(why)));
    };
    let status = redirect.status.unwrap_or(StatusCode::FOUND);
    let mut response = answer::made_up(status, NOT_FOUND, "redirected", manner);
    response.headers_mut().insert(LOCATION, location);
    Verdict::Answer(Box::new(response))
}

fn location(
    redirect: &Redirect,
    request: &Parts,
    matched: Option<&PathMatch>,
) -> Option<HeaderValue> {
    let scheme = redirect.scheme.as_ref().or(request.uri.scheme()).unwrap_or(&Scheme::HTTP);
    let host_header = request.headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = request.uri.authority().map(|a| a.as_str()).or(host_header)?;
    let (own_host, own_port) = match own.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse::<u16>().ok()),
        _ => (own, None),
    };
    let host = redirect.host.as_deref().unwrap_or(own_host);
    // A new scheme brings its own port unless one is given (Gateway API, `port` of the filter).
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port.get()),
        (None, Some(_)) => None,
        (None, None) => own_port,
    };
    let is_usual = matches!((scheme.as_str(), port), ("http", Some(80)) | ("https", Some(443)));
    let path = match &redirect.path {
        None => request.uri.path().to_owned(),
        Some(PathRewrite::Full(full)) => full.to_string(),
        Some(rewrite) => {
            rewrite.apply(request.uri.path(), matched.unwrap_or(&PathMatch::Prefix("/".into())))
        }
    };
    let query = request.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let port = port.filter(|_| !is_usual).map_or(String::new(), |port| format!(":{port}"));
    HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Version;

    const MANNER: Manner = Manner { grpc: false, version: Version::HTTP_11, informs: true };

    fn request(uri: &str, host: &str) -> Parts {
        http::Request::builder().uri(uri).header(HOST, host).body(()).unwrap().into_parts().0
    }

    fn nothing() -> Redirect {
        Redirect { scheme: None, host: None, path: None, port: None, status: None }
    }

    #[test]
    fn redirects_take_what_is_not_given_from_the_request() {
        let check = |redirect: Redirect, host: &str, expect: &str| {
            let matched = PathMatch::Prefix("/a".into());
            let location = location(&redirect, &request("/a/b?q=1", host), Some(&matched));
            assert_eq!(location.unwrap(), expect);
        };
        check(nothing(), "h:8080", "http://h:8080/a/b?q=1");
        check(nothing(), "h:80", "http://h/a/b?q=1");
        let https = Redirect { scheme: Some(Scheme::HTTPS), ..nothing() };
        check(https, "h:8080", "https://h/a/b?q=1");
        let prefix = Some(PathRewrite::Prefix("/x".into()));
        check(Redirect { path: prefix, ..nothing() }, "h", "http://h/x/b?q=1");
        let full = Some(PathRewrite::Full("/y".into()));
        let host = Some("other".into());
        check(Redirect { path: full, host, ..nothing() }, "h", "http://other/y?q=1");
    }

    #[test]
    fn injected_failures_hit_their_share() {
        let ratio = Ratio { numerator: 1, denominator: 2 };
        let fail = Filter::Fail {
            status: StatusCode::IM_A_TEAPOT,
            code: 9,
            message: "no coffee".into(),
            ratio,
        };
        let verdict = |random| {
            apply(std::slice::from_ref(&fail), &mut request("/", "h"), None, MANNER, || random)
        };
        assert!(matches!(verdict(0.6), Verdict::Pass));
        let Verdict::Answer(response) = verdict(0.4) else { panic!("not answered") };
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["l5d-proxy-error"], "no coffee");
    }
}
