//! Compiled route tables against their meaning.

use hauberk_model::Pattern;
use hauberk_model::route::grpc::GrpcMatch;
use hauberk_model::route::http::{HeaderMatch, HttpMatch, PathMatch, QueryMatch};
use hauberk_model::route::{HostMatch, Route, Rule, find};
use hauberk_proxy::http::routes::{Routes, Wide};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};

use crate::choices::Choices;

const HOSTS: [&str; 7] = ["a.org", "B.org", "*.org", "*.a.org", "x.a.org", "*", ".org"];
const PATHS: [&str; 7] = ["/", "/a", "/a/", "/a/b", "/b", "", "*"];
const TARGETS: [&str; 9] =
    ["/", "/a", "/a/b?x=1", "/ab", "*", "http://a.org", "a.org:80", "/a//b", "/b?y=%31&x=2"];

pub(crate) fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let is_grpc = choices.below(4) == 0;
    let Some(request) = request(&mut choices) else { return };
    let host = choices.text(&["a.org", "A.ORG", "b.org", "c.org", "x.a.org", "org", ""]);
    if is_grpc {
        agree(choices.some(4, |c| route(c, grpc_match)), &host, &request);
    } else {
        agree(choices.some(4, |c| route(c, http_match)), &host, &request);
    }
}

fn agree<M: Wide + Clone + std::fmt::Debug>(
    routes: Vec<Route<M, ()>>,
    host: &str,
    request: &Parts,
) {
    let expect = find(&routes, host, request);
    let compiled = Routes::new(routes.clone());
    let found = compiled.find(host, request);
    assert_eq!(found, expect, "{host:?} {} {} {routes:#?}", request.method, request.uri);
    if let Some(found) = found {
        assert_eq!(compiled.matched(found).is_some(), found.matched.is_some());
        compiled.rule(found);
    }
}

fn request(choices: &mut Choices<'_>) -> Option<Parts> {
    let method = choices.of(&[Method::GET.as_str(), "POST", "OPTIONS", "CONNECT"]);
    let request = Request::builder().method(method).uri(choices.text(&TARGETS));
    let request = request.header("x", choices.of(&["1", "2"])).body(()).ok()?;
    Some(request.into_parts().0)
}

fn route<M>(
    choices: &mut Choices<'_>,
    mut make: impl FnMut(&mut Choices<'_>) -> M,
) -> Route<M, ()> {
    let hosts = choices.some(2, |c| HostMatch::parse(&c.text(&HOSTS)));
    let rules = choices.some(2, |c| Rule { matches: c.some(2, &mut make), action: () });
    Route { hosts, rules }
}

fn http_match(choices: &mut Choices<'_>) -> HttpMatch {
    let path = match choices.below(4) {
        0 => None,
        1 => Some(PathMatch::Exact(choices.text(&PATHS).into())),
        2 => Some(PathMatch::Prefix(choices.text(&PATHS).into())),
        _ => Some(PathMatch::Regex(pattern(choices.of(&["/a.*", ".*", "/|/a"])))),
    };
    let query = match choices.below(4) {
        0 => vec![QueryMatch::Exact("x".into(), choices.of(&["1", "2"]).into())],
        1 => vec![QueryMatch::Regex("y".into(), pattern("[0-9]"))],
        _ => vec![],
    };
    let method = (choices.below(4) == 0).then_some(Method::POST);
    HttpMatch { path, headers: headers(choices), query, method }
}

fn grpc_match(choices: &mut Choices<'_>) -> GrpcMatch {
    let service = (choices.below(2) == 0).then(|| choices.text(&["a", "b", ""]).into());
    let method = (choices.below(2) == 0).then(|| choices.text(&["b", "/b", ""]).into());
    GrpcMatch { service, method, headers: headers(choices) }
}

fn headers(choices: &mut Choices<'_>) -> Vec<HeaderMatch> {
    let name = HeaderName::from_static("x");
    match choices.below(5) {
        0 => vec![HeaderMatch::Exact(name, HeaderValue::from_static("1"))],
        1 => vec![HeaderMatch::Regex(name, pattern("2|3"))],
        _ => vec![],
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).expect("it was written here")
}
