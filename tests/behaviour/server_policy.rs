//! What the policy of a server's port does to connections and requests, and when it changes.

use crate::discovery::answer_in;
use crate::http2;
use crate::message::{Kind, Message, ask, exchange};
use crate::script::Live;
use crate::world::{DETECT_TIMEOUT, PATIENCE, Place, World, port, until, world};
use hauberk_model::{
    InboundPolicy, Meta, Network,
    filter::{GrpcFilter, HeaderEdits, HttpFilter, InjectGrpcFailure, InjectHttpFailure, Ratio},
    inbound::{Authentication, Authorization, GrpcRoute, HttpRoute, HttpServer, InboundProtocol},
    rate_limit::RateLimit,
    route::{Route, Rule},
    workload_id::IdentityMatch,
};
use hauberk_wire::{self as wire, api::inbound::Server};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use std::{
    io::{BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// A port of the scripted pod with a policy of its own.
struct Served<'a> {
    world: &'a World,
    port: u16,
    live: Live<Server>,
}

impl<'a> Served<'a> {
    /// An application that answers its path in both versions, under this policy.
    fn http(world: &'a World, policy: InboundPolicy) -> Self {
        let port = port();
        answer_in(&world.scripted, port, |path, _| (200, path.as_bytes().to_vec()));
        Self::known(world, port, policy)
    }

    /// An application that answers the heads it gets.
    fn heads(world: &'a World, policy: InboundPolicy) -> Self {
        let port = port();
        world.scripted.serve(port, |mut socket| {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            while let Ok(Some(request)) = Message::read(&mut reader, Kind::Request) {
                let (length, head) = (request.head.len(), request.head);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}");
                let _ = socket.write_all(answer.as_bytes());
            }
        });
        Self::known(world, port, policy)
    }

    /// An application that repeats what it gets.
    fn echo(world: &'a World, policy: InboundPolicy) -> Self {
        let port = port();
        world.scripted.serve(port, |mut socket| {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = socket.read(&mut bytes) {
                if socket.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        });
        Self::known(world, port, policy)
    }

    /// Waits until the proxy has been told.
    fn known(world: &'a World, port: u16, policy: InboundPolicy) -> Self {
        let live = world.script.inbound.always(port, wire::inbound::to_wire(&policy));
        let served = Self { world, port, live };
        served.wait_for(&policy);
        served
    }

    fn set(&self, policy: &InboundPolicy) {
        self.live.set(wire::inbound::to_wire(policy));
        self.wait_for(policy);
    }

    /// Connections are counted by the name of the server that lets them in.
    fn wait_for(&self, policy: &InboundPolicy) {
        let (name, target) =
            (format!("srv_name=\"{}\"", policy.server.name()), format!(":{}\"", self.port));
        until("the proxy knows the policy", || {
            drop(self.connect(&self.world.outsider));
            let page = self.world.scripted.metrics();
            system_tests::metric(&page, "tcp_open_total", &["peer=\"src\"", &name, &target]) > 0.0
        });
    }

    fn connect(&self, from: &Place) -> TcpStream {
        from.connect(SocketAddr::new(self.world.scripted.ip, self.port))
    }

    /// A GET of `/`: status, head.
    fn get(&self, from: &Place) -> (u16, String) {
        let (answer, _) = ask(self.connect(from), GET, Kind::Response);
        (answer.status(), answer.head)
    }

    /// A call: its HTTP status and its gRPC code.
    fn call(&self, from: &Place) -> (u16, Option<String>) {
        let socket = self.connect(from);
        http2::run(async {
            let mut sender = http2::client(socket).await;
            let request =
                Request::post("http://web/a.B/C").header("content-type", "application/grpc");
            let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
            let response = response.await.unwrap();
            let code = response.headers().get("grpc-status").map(|code| code.to_str().unwrap());
            (response.status().as_u16(), code.map(ToOwned::to_owned))
        })
    }
}

fn named(name: &str, protocol: InboundProtocol) -> InboundPolicy {
    let server = Meta::resource("policy.linkerd.io", "server", "behaviour", name);
    let anybody = [authorization(Network::all(), Authentication::Unauthenticated)];
    InboundPolicy { server, protocol, authorizations: Arc::new(anybody) }
}

fn authorization(networks: Vec<Network>, authentication: Authentication) -> Authorization {
    let meta = Meta::resource("policy.linkerd.io", "authorizationpolicy", "behaviour", "who");
    Authorization { meta, networks, authentication }
}

fn all_requests(filters: Vec<HttpFilter>) -> HttpServer {
    let rules = vec![Rule { matches: Vec::new(), action: filters }];
    let route = Route { hosts: Vec::new(), rules };
    let route = HttpRoute { meta: Meta::default("all"), authorizations: Arc::new([]), route };
    HttpServer { routes: Arc::new([route]), rate_limit: None }
}

fn all_calls(filters: Vec<GrpcFilter>) -> InboundProtocol {
    let rules = vec![Rule { matches: Vec::new(), action: filters }];
    let route = Route { hosts: Vec::new(), rules };
    let route = GrpcRoute { meta: Meta::default("all"), authorizations: Arc::new([]), route };
    InboundProtocol::Grpc(Arc::new([route]))
}

fn detect(http: HttpServer) -> InboundProtocol {
    InboundProtocol::Detect { timeout: Duration::from_secs(10), http }
}

/// Where the server says what is spoken, that counts; elsewhere the first bytes do.
#[test]
fn what_is_spoken_is_what_the_server_says_or_what_is_found() {
    let Some(world) = world("server_policy") else { return };
    let http = || all_requests(Vec::new());
    let outsider = &world.outsider;
    let http2_over =
        |served: &Served<'_>, from: &Place| http2::fetch_over(served.connect(from), "/two");
    let is_echoed = |served: &Served<'_>, bytes: &[u8]| {
        let mut socket = served.connect(outsider);
        socket.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        socket.read_exact(&mut back).unwrap();
        back == bytes
    };
    // No HTTP server lets it pass.
    let odd_http = b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";

    let opaque = Served::echo(world, named("opaque", InboundProtocol::Opaque));
    assert!(is_echoed(&opaque, odd_http) && is_echoed(&opaque, b"\x01\x02"));
    let own_tls = Served::echo(world, named("own-tls", InboundProtocol::Tls));
    assert!(is_echoed(&own_tls, b"\x16\x03\x09 no hello"));

    let found = Served::echo(world, named("found", detect(http())));
    assert!(is_echoed(&found, b"\x01\x02") && is_echoed(&found, b"HELO me\r\n"));
    let refused = exchange(found.connect(outsider), odd_http);
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    let found = Served::http(world, named("found-http", detect(http())));
    assert_eq!(found.get(outsider).0, 200);
    assert_eq!(http2_over(&found, outsider), (200, b"/two".to_vec()));

    let one = Served::http(world, named("one", InboundProtocol::Http1(http())));
    assert_eq!(one.get(outsider).0, 200);
    // Between proxies HTTP/1 may come inside HTTP/2.
    assert_eq!(one.get(&world.client).0, 200);
    let one = Served::echo(world, named("one-echo", InboundProtocol::Http1(http())));
    let refused = exchange(one.connect(outsider), b"\x01\x02\r\n\r\n");
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 400"), "{refused}");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let refused = exchange(one.connect(outsider), preface);
    assert!(!refused.contains("PRI"), "it reached the application: {refused}");

    let two = Served::http(world, named("two", InboundProtocol::Http2(http())));
    assert_eq!(http2_over(&two, outsider), (200, b"/two".to_vec()));
    assert_eq!(http2_over(&two, &world.client), (200, b"/two".to_vec()));
    let refused = exchange(two.connect(outsider), GET.as_bytes());
    assert!(!refused.contains(" 200 "), "{refused}");
}

/// A client that begins a hello and does not go on is closed, and counted; who completes one, or
/// says something else, is not counted as an error.
#[test]
fn only_hellos_that_do_not_end_are_errors_of_detection() {
    let Some(world) = world("server_policy") else { return };
    let served = Served::http(world, named("hello", detect(all_requests(Vec::new()))));
    let target = format!(":{}\"", served.port);
    let errors =
        || system_tests::metric(&world.scripted.metrics(), "inbound_tcp_errors_total", &[&target]);
    assert_eq!(served.get(&world.outsider).0, 200);
    assert_eq!(served.get(&world.client).0, 200, "with mesh TLS");
    assert_eq!(errors(), 0.0);
    let start = Instant::now();
    let mut slow = served.connect(&world.outsider);
    slow.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    let ended = slow.read(&mut [0; 1]);
    let reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(reset), "{ended:?}");
    let waited = start.elapsed();
    assert!(waited > DETECT_TIMEOUT * 9 / 10 && waited < DETECT_TIMEOUT * 4, "{waited:?}");
    let labels = ["error=\"tls detection timeout\"", &target];
    world.scripted.counted("inbound_tcp_errors_total", &labels, |count| count == 1.0);
    assert_eq!(errors(), 1.0);
}

/// Who may come in: by network, by mesh TLS, by identity and by the end of an identity.
#[test]
fn only_who_is_authorized_reaches_the_application() {
    let Some(world) = world("server_policy") else { return };
    let served = Served::http(world, named("who-0", detect(all_requests(Vec::new()))));
    let only = |ip: IpAddr| vec![Network::new(ip.into())];
    let account = "default.behaviour.serviceaccount.identity.linkerd.cluster.local";
    let who =
        |text: &str| Authentication::TlsAuthenticated(vec![IdentityMatch::parse(text).unwrap()]);
    let anybody = || Authentication::Unauthenticated;
    let cases = [
        ("nobody", None, [403, 403]),
        ("the outsider's address", Some((only(world.outsider.ip), anybody())), [200, 403]),
        ("the client's address", Some((only(world.client.ip), anybody())), [403, 200]),
        ("mesh TLS", Some((Network::all(), Authentication::TlsUnauthenticated)), [403, 200]),
        ("any identity", Some((Network::all(), Authentication::any_identity())), [403, 200]),
        ("its identity", Some((Network::all(), who(account))), [403, 200]),
        (
            "another identity",
            Some((Network::all(), who(&account.replace("default", "web")))),
            [403, 403],
        ),
        ("its end", Some((Network::all(), who(&account.replace("default.", "*.")))), [403, 200]),
        ("another end", Some((Network::all(), who("*.elsewhere.local"))), [403, 403]),
    ];
    for (n, (name, permitted, [outsider, client])) in cases.into_iter().enumerate() {
        let permitted = permitted.map(|(networks, how)| authorization(networks, how));
        let authorizations = permitted.into_iter().collect();
        let policy = named(&format!("who-{}", n + 1), detect(all_requests(Vec::new())));
        served.set(&InboundPolicy { authorizations, ..policy });
        assert_eq!(served.get(&world.outsider).0, outsider, "{name}: a stranger");
        assert_eq!(served.get(&world.client).0, client, "{name}: a member");
        let code = |status| (200, (status == 403).then(|| "7".to_owned()));
        assert_eq!(served.call(&world.outsider), code(outsider), "{name}: a stranger's call");
    }
}

/// On connections that are open already, the next request sees a changed policy; bytes that are not
/// requests end with the leave they came by.
#[test]
fn open_connections_follow_the_policy() {
    let Some(world) = world("server_policy") else { return };
    let nobody = |name: &str, protocol| InboundPolicy {
        authorizations: Arc::new([]),
        ..named(name, protocol)
    };
    let http = || detect(all_requests(Vec::new()));
    let served = Served::http(world, named("open", http()));
    let (first, mut kept) = ask(served.connect(&world.outsider), GET, Kind::Response);
    assert_eq!(first.status(), 200);
    served.set(&nobody("shut", http()));
    kept.get_mut().write_all(GET.as_bytes()).unwrap();
    let second = Message::read(&mut kept, Kind::Response).unwrap().expect("an answer");
    assert_eq!(second.status(), 403, "{}", second.head);
    // Why is no business of strangers.
    assert!(second.header("l5d-proxy-error").is_empty(), "{}", second.head);
    served.set(&named("open-again", http()));
    kept.get_mut().write_all(GET.as_bytes()).unwrap();
    let third = Message::read(&mut kept, Kind::Response).unwrap().expect("an answer");
    assert_eq!(third.status(), 200, "{}", third.head);

    let served = Served::echo(world, named("bytes-open", InboundProtocol::Opaque));
    let mut open = BufReader::new(served.connect(&world.outsider));
    open.get_mut().write_all(b"x").unwrap();
    open.read_exact(&mut [0; 1]).unwrap();
    served.live.set(wire::inbound::to_wire(&nobody("bytes-shut", InboundProtocol::Opaque)));
    let ended = open.read(&mut [0; 1]);
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    let labels = ["srv_name=\"bytes-shut\""];
    world.scripted.counted("inbound_tcp_authz_terminate_total", &labels, |count| count >= 1.0);
    let refused = exchange(served.connect(&world.outsider), b"x");
    assert_eq!(refused, "");
}

/// A connection keeps the protocol that it began with; new ones have what the policy says now.
#[test]
fn connections_keep_the_protocol_they_began_with() {
    let Some(world) = world("server_policy") else { return };
    let served = Served::echo(world, named("bytes-at-first", InboundProtocol::Opaque));
    let mut old = served.connect(&world.outsider);
    let echoed = |socket: &mut TcpStream| {
        socket.write_all(b"?").unwrap();
        let mut byte = [0; 1];
        socket.read_exact(&mut byte).unwrap();
        byte == *b"?"
    };
    assert!(echoed(&mut old));
    served.set(&named("http-later", InboundProtocol::Http1(all_requests(Vec::new()))));
    assert!(echoed(&mut old));
    let refused = exchange(served.connect(&world.outsider), b"?\r\n\r\n");
    assert!(!refused.contains('?'), "{refused}");
    served.set(&named("bytes-again", InboundProtocol::Opaque));
    assert!(echoed(&mut old) && echoed(&mut served.connect(&world.outsider)));
}

/// Filters of a server's routes change heads and answer in the application's place.
#[test]
fn filters_of_routes_are_applied() {
    let Some(world) = world("server_policy") else { return };
    let edits = HeaderEdits {
        set: vec![(HeaderName::from_static("x-edited"), HeaderValue::from_static("yes"))],
        ..HeaderEdits::default()
    };
    let failure = InjectHttpFailure {
        status: StatusCode::IM_A_TEAPOT,
        message: "a teapot".into(),
        ratio: Ratio::ALL,
    };
    let edited = HttpFilter::RequestHeaders(edits);
    let served = Served::heads(world, named("edited", detect(all_requests(vec![edited]))));
    let (answer, _) = ask(served.connect(&world.outsider), GET, Kind::Response);
    assert!(answer.text().contains("x-edited: yes"), "{}", answer.text());
    let served = Served::http(world, named("unedited", detect(all_requests(Vec::new()))));
    let injected = |ratio| {
        let filter = HttpFilter::InjectFailure(InjectHttpFailure { ratio, ..failure.clone() });
        detect(all_requests(vec![filter]))
    };
    served.set(&named("failing", injected(Ratio::ALL)));
    let (status, head) = served.get(&world.client);
    assert_eq!(status, 418, "{head}");
    served.set(&named("never-failing", injected(Ratio::NONE)));
    assert_eq!(served.get(&world.client).0, 200);

    let failure = InjectGrpcFailure { code: 14, message: "away".into(), ratio: Ratio::ALL };
    served.set(&named("calls", all_calls(Vec::new())));
    assert_eq!(served.call(&world.outsider), (200, None));
    served.set(&named("failing-calls", all_calls(vec![GrpcFilter::InjectFailure(failure)])));
    assert_eq!(served.call(&world.outsider), (200, Some("14".to_owned())));
}

/// More requests than a server allows in a second are refused, in either protocol.
#[test]
fn a_rate_limit_refuses_what_is_too_much() {
    let Some(world) = world("server_policy") else { return };
    let meta = Meta::resource("policy.linkerd.io", "httplocalratelimitpolicy", "behaviour", "few");
    let limited = |name: &str, total| {
        let limit = RateLimit { meta: meta.clone(), total, identity: None, overrides: Vec::new() };
        let server = HttpServer { rate_limit: Some(Arc::new(limit)), ..all_requests(Vec::new()) };
        named(name, detect(server))
    };
    let served = Served::http(world, limited("limited", Some(1)));
    let mut codes = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !(codes.contains(&429) && codes.contains(&200)) && Instant::now() < deadline {
        codes.push(served.get(&world.outsider).0);
    }
    assert!(codes.iter().all(|code| [200, 429].contains(code)), "{codes:?}");
    assert!(codes.contains(&200) && codes.contains(&429), "{codes:?}");
    until("a call is refused", || served.call(&world.outsider).1.as_deref() == Some("8"));
    let labels = ["ratelimit_name=\"few\"", "ratelimit_scope=\"total\""];
    world.scripted.counted("inbound_http_local_ratelimit_total", &labels, |count| count >= 1.0);
    served.set(&limited("unlimited", None));
    for _ in 0..20 {
        assert_eq!(served.get(&world.outsider).0, 200);
    }
}
