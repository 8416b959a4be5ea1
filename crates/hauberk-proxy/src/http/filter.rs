//! What routes do to requests and responses, in one form for HTTP and gRPC.
//!
//! Compiled with the route table, applied in order by the inbound and outbound request paths. A
//! filter either edits the message or answers in place of the backend. Pure: randomness is an
//! argument.

use std::sync::Arc;
use std::time::Duration;

use hauberk_model::cors::{Cors, Decision};
use hauberk_model::filter::{
    Delay, GrpcFilter, HeaderEdits, HttpFilter, Mirror, PathRewrite, Ratio, Redirect, UrlRewrite,
};
use hauberk_model::route::http::PathMatch;
use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

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
    /// Sends the request to another URL of its backend.
    UrlRewrite(UrlRewrite),
    /// Sends a copy somewhere else; done by `outbound::mirror` when the request has passed.
    Mirror(Mirror),
    /// Holds some requests back.
    Delay(Delay),
    /// Lets pages of other origins read responses.
    Cors(Arc<Cors>),
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
            HttpFilter::UrlRewrite(rewrite) => Filter::UrlRewrite(rewrite.clone()),
            HttpFilter::Mirror(mirror) => Filter::Mirror(mirror.clone()),
            HttpFilter::Delay(delay) => Filter::Delay(*delay),
            HttpFilter::Cors(cors) => Filter::Cors(Arc::clone(cors)),
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
            GrpcFilter::Mirror(mirror) => Filter::Mirror(mirror.clone()),
            GrpcFilter::Delay(delay) => Filter::Delay(*delay),
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

/// What filters made of a request, and how long to wait before that.
#[derive(Debug)]
pub struct Applied {
    /// How long the request is held back.
    pub delay: Duration,
    /// What becomes of it then.
    pub verdict: Verdict,
    /// How its response is edited because of what it is; empty for most requests.
    pub response: Vec<HeaderEdits>,
}

/// Applies `filters` to a request. `matched` is the path match that chose the route, for prefix
/// rewriting; `random` draws uniformly from 0 to 1.
pub fn apply(
    filters: &[Filter],
    request: &mut Parts,
    matched: Option<&PathMatch>,
    manner: Manner,
    random: impl FnMut() -> f64,
) -> Applied {
    let mut applied =
        Applied { delay: Duration::ZERO, verdict: Verdict::Pass, response: Vec::new() };
    applied.verdict = judge(filters, request, matched, manner, &mut applied, random);
    applied
}

fn judge(
    filters: &[Filter],
    request: &mut Parts,
    matched: Option<&PathMatch>,
    manner: Manner,
    applied: &mut Applied,
    mut random: impl FnMut() -> f64,
) -> Verdict {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edits) => edits.apply(&mut request.headers),
            Filter::ResponseHeaders(_) | Filter::Mirror(_) => {}
            Filter::Delay(Delay { time, ratio }) => {
                if ratio.hits(random()) {
                    applied.delay = applied.delay.saturating_add(*time);
                }
            }
            Filter::Cors(cors) => match cors.decide(&request.method, &request.headers) {
                Decision::Ignore => {}
                Decision::Respond(edits) => applied.response.push(edits),
                Decision::Preflight(edits) => {
                    let mut response = Response::new(Body::Empty);
                    *response.version_mut() = manner.version;
                    edits.apply(response.headers_mut());
                    return Verdict::Answer(Box::new(response));
                }
            },
            Filter::Fail { status, code, message, ratio } => {
                if ratio.hits(random()) {
                    let response = answer::made_up(*status, *code, message, manner);
                    return Verdict::Answer(Box::new(response));
                }
            }
            Filter::Redirect(redirect) => return redirected(redirect, request, matched, manner),
            Filter::UrlRewrite(rewrite) => {
                if rewrite_url(rewrite, request, matched).is_none() {
                    let why = "rewrite does not make a valid URL".into();
                    return Verdict::Fail(Failure::us(What::InvalidPolicy(why)));
                }
            }
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
        Some(rewrite) => rewritten(rewrite, request.uri.path(), matched),
    };
    let query = request.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let port = port.filter(|_| !is_usual).map_or(String::new(), |port| format!(":{port}"));
    HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}")).ok()
}

/// A rule without a path match has matched every path.
fn rewritten(rewrite: &PathRewrite, path: &str, matched: Option<&PathMatch>) -> String {
    match (rewrite, matched) {
        (PathRewrite::Full(full), _) => full.to_string(),
        (PathRewrite::Prefix(_), Some(matched)) => rewrite.apply(path, matched),
        (PathRewrite::Prefix(_), None) => rewrite.apply(path, &PathMatch::Prefix("/".into())),
    }
}

/// Puts the new parts in; none if that makes no URL. The query stays, and so does the port of no
/// host: the new host stands alone (Gateway API v1, `HTTPURLRewriteFilter.hostname`).
fn rewrite_url(
    rewrite: &UrlRewrite,
    request: &mut Parts,
    matched: Option<&PathMatch>,
) -> Option<()> {
    let mut parts = request.uri.clone().into_parts();
    if let Some(path) = &rewrite.path {
        let mut target = rewritten(path, request.uri.path(), matched);
        if let Some(query) = request.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    }
    if let Some(host) = &rewrite.host {
        if parts.authority.is_some() {
            parts.authority = Some(Authority::try_from(&**host).ok()?);
        }
        // HTTP/2 names the host in its own place; a host header beside it has to agree.
        if request.version <= http::Version::HTTP_11 || request.headers.contains_key(HOST) {
            request.headers.insert(HOST, HeaderValue::from_str(host).ok()?);
        }
    }
    request.uri = Uri::from_parts(parts).ok()?;
    Some(())
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
    fn rewrites_change_what_they_name_and_nothing_else() {
        let check = |rewrite: UrlRewrite, uri: &str, expect: (&str, &str)| {
            let mut request = request(uri, "h:8080");
            let matched = PathMatch::Prefix("/a".into());
            let filter = [Filter::UrlRewrite(rewrite)];
            let verdict = apply(&filter, &mut request, Some(&matched), MANNER, || 0.0).verdict;
            assert!(matches!(verdict, Verdict::Pass), "{verdict:?}");
            let host = request.headers[HOST].to_str().unwrap().to_owned();
            assert_eq!((request.uri.to_string().as_str(), host.as_str()), expect);
        };
        let path = |path| UrlRewrite { host: None, path: Some(path) };
        check(path(PathRewrite::Prefix("/x".into())), "/a/b?q=1", ("/x/b?q=1", "h:8080"));
        check(path(PathRewrite::Prefix("/".into())), "/a", ("/", "h:8080"));
        check(path(PathRewrite::Full("/y".into())), "/a/b?q=1", ("/y?q=1", "h:8080"));
        let host = UrlRewrite { host: Some("o.org".into()), path: None };
        check(host.clone(), "/a/b", ("/a/b", "o.org"));
        check(host, "http://h:8080/a/b", ("http://o.org/a/b", "o.org"));
        check(UrlRewrite::default(), "/a?b", ("/a?b", "h:8080"));
    }

    #[test]
    fn a_rewrite_that_makes_no_url_fails_the_request() {
        let full = UrlRewrite { host: None, path: Some(PathRewrite::Full("no path".into())) };
        let filter = [Filter::UrlRewrite(full)];
        let mut request = request("/a", "h");
        let verdict = apply(&filter, &mut request, None, MANNER, || 0.0).verdict;
        assert!(matches!(verdict, Verdict::Fail(_)), "{verdict:?}");
        assert_eq!(request.uri, "/a", "the request is as it was");
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
            let filters = std::slice::from_ref(&fail);
            apply(filters, &mut request("/", "h"), None, MANNER, || random).verdict
        };
        assert!(matches!(verdict(0.6), Verdict::Pass));
        let Verdict::Answer(response) = verdict(0.4) else { panic!("not answered") };
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["l5d-proxy-error"], "no coffee");
    }

    #[test]
    fn delays_add_up_and_come_before_a_failure() {
        let delay = |millis, numerator| {
            let ratio = Ratio { numerator, denominator: 2 };
            Filter::Delay(Delay { time: Duration::from_millis(millis), ratio })
        };
        let failure = Filter::Fail {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: 14,
            message: "broken".into(),
            ratio: Ratio::ALL,
        };
        let filters = [delay(100, 2), delay(10, 1), failure, delay(1, 2)];
        let applied = |random| apply(&filters, &mut request("/", "h"), None, MANNER, || random);
        for (random, millis) in [(0.4, 110), (0.6, 100)] {
            let applied = applied(random);
            assert_eq!(applied.delay, Duration::from_millis(millis));
            assert!(matches!(applied.verdict, Verdict::Answer(_)));
        }
    }
}
