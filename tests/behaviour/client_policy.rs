//! Routes of clients' policies: which are found, and what is counted of them.

use crate::discovery::{FORMS, Form, get, named};
use crate::http2;
use crate::message::{Kind, ask};
use crate::script::Service;
use crate::world::{World, world};
use hauberk_model::{
    Authority, Meta, OutboundPolicy, Port,
    outbound::{HttpPolicy, HttpRoute, OutboundProtocol},
    route::http::{HeaderMatch, HttpMatch, PathMatch},
};
use hauberk_testkit::policy;
use hauberk_wire as wire;
use http::{HeaderName, HeaderValue, Request};

/// A policy of these routes, whatever version is spoken.
fn routed(service: &Service, routes: Vec<HttpRoute>) -> OutboundPolicy {
    let http = HttpPolicy { routes: routes.into(), failure_accrual: None };
    let mut policy = service.policy();
    let OutboundProtocol::Detect { http1, http2, .. } = &mut policy.protocol else {
        unreachable!("it is to be detected")
    };
    (*http1, *http2) = (http.clone(), http);
    policy
}

/// Without a route there is no way, in any version; with one that matches everything there is.
#[test]
fn an_empty_table_leads_nowhere() {
    let Some(world) = world("client_policy") else { return };
    for form in FORMS {
        let service = world.script.service();
        let _endpoints = world.script.serve_at(&service, &[named(world, "there")]);
        let empty = wire::outbound::to_wire(&routed(&service, Vec::new()));
        let live = world.script.outbound.always(service.address, empty);
        assert_eq!(get(world, form, service.address).0, 404, "{form:?}");
        live.set(wire::outbound::to_wire(&service.policy()));
        crate::world::until("the route is there", || {
            get(world, form, service.address) == (200, "there".to_owned())
        });
    }
}

/// Requests go by path and by header to the route that says most about them, and are counted as its.
#[test]
fn requests_go_by_path_and_header() {
    let Some(world) = world("client_policy") else { return };
    let service = world.script.service();
    let meta = |name: &str| Meta::resource("gateway.networking.k8s.io", "HTTPRoute", "test", name);
    let route = |name: &'static str, matches: HttpMatch| {
        let host = format!("{name}.{}", service.authority.host());
        let authority = Authority::new(&host, Port::new(80).unwrap());
        let told = crate::script::add(&[named(world, name)]);
        let _ = world.script.endpoints.always(&authority, told);
        let backend = policy::balanced(Meta::service("test", name, Port::new(80)), authority);
        policy::http_route(meta(name), vec![matches], backend)
    };
    let by_path = |path: &str| HttpMatch {
        path: Some(PathMatch::Prefix(path.into())),
        ..HttpMatch::default()
    };
    let header = HeaderName::from_static("x-who");
    let by_header = HttpMatch {
        headers: vec![HeaderMatch::Exact(header, HeaderValue::from_static("me"))],
        ..by_path("/")
    };
    let routes = vec![
        route("any", by_path("/")),
        route("mine", by_header),
        route("deep", by_path("/deep/path")),
    ];
    let policy = wire::outbound::to_wire(&routed(&service, routes));
    let _live = world.script.outbound.always(service.address, policy);
    let cases = [
        ("/", None, "any"),
        ("/deep", None, "any"),
        ("/deeper/path", None, "any"),
        ("/deep/path", None, "deep"),
        ("/deep/path/on?x", Some("me"), "deep"),
        ("/", Some("me"), "mine"),
        ("/", Some("you"), "any"),
    ];
    for form in FORMS {
        for (path, who, expect) in cases {
            let got = send(world, form, &service, path, who);
            assert_eq!(got, (200, expect.to_owned()), "{form:?} {path} {who:?}");
        }
    }
    for (name, count) in [("any", 12.0), ("mine", 3.0), ("deep", 6.0)] {
        let host = format!("parent_name=\"{}\"", service.authority.host());
        let labels = [&*host, &format!("route_name=\"{name}\"")];
        let family = "outbound_http_route_request_statuses_total";
        world.scripted.counted(family, &labels, |seen| seen == count);
    }
}

fn send(
    world: &World,
    form: Form,
    service: &Service,
    path: &str,
    who: Option<&str>,
) -> (u16, String) {
    let socket = world.scripted.connect(service.address);
    if form != Form::Http2 {
        let target = if form == Form::Absolute { format!("http://web{path}") } else { path.into() };
        let who = who.map(|who| format!("x-who: {who}\r\n")).unwrap_or_default();
        let head = format!("GET {target} HTTP/1.1\r\nhost: web\r\n{who}\r\n");
        let (answer, _) = ask(socket, &head, Kind::Response);
        return (answer.status(), answer.text());
    }
    http2::run(async {
        let mut sender = http2::client(socket).await;
        let mut request = Request::get(format!("http://web{path}"));
        if let Some(who) = who {
            request = request.header("x-who", who);
        }
        let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let body = http2::collect(response.into_body()).await.unwrap().0;
        (status, String::from_utf8_lossy(&body).into_owned())
    })
}
