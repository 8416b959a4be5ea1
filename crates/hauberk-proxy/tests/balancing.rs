//! What balancers do beyond load, with real sockets: slow start, affinity, breakers of single
//! routes, and the HTTP/2 parameters of endpoints.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::backoff::Backoff;
use hauberk_model::balancing::{Affinity, AffinityKey, Balancing, Bound, Cookie, Lifetime};
use hauberk_model::endpoints::{Http2Params, KeepAlive};
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::outbound::{
    BackendTarget, Distribution, HttpRoute, Load, OpaqueRoute, OutboundPolicy, OutboundProtocol,
    PeakEwma, RouteBackend,
};
use hauberk_model::profile::{Profile, ProfileRoute, RequestMatch};
use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::{Meta, Port};
use hauberk_proxy::control::{Lookup, Target};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use mesh::{Mesh, WAYS, Way, full, http1_application};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Applications that answer with their number, and their addresses.
async fn applications(count: usize) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for number in 0..count {
        let answer = move |_| async move { Response::new(full(number.to_string())) };
        addresses.push(http1_application(answer).await);
    }
    addresses
}

async fn publish(mesh: &Mesh, applications: &[SocketAddr], way: Way) {
    let mut endpoints = Vec::new();
    for application in applications {
        endpoints.push(mesh.endpoint(*application, way).await);
    }
    mesh.publish(endpoints);
}

/// A route whose backend is balanced like this.
fn balanced(matches: Vec<HttpMatch>, balancing: Balancing) -> HttpRoute {
    let mut route = mesh::route(matches);
    let Distribution::FirstAvailable(list) = &mut route.route.rules[0].action.backends else {
        panic!("another distribution");
    };
    let mut backend = (*list[0].backend).clone();
    backend.target = target(balancing);
    list[0].backend = Arc::new(backend);
    route
}

/// Forgets at once what an endpoint took, so that what decides is not how fast each one happens to
/// be here.
const FORGETFUL: Load = Load::PeakEwma(PeakEwma {
    default_rtt: Duration::from_millis(1),
    decay: Duration::from_millis(1),
});

fn target(balancing: Balancing) -> BackendTarget {
    BackendTarget::Balance {
        authority: mesh::authority(),
        load: FORGETFUL,
        balancing: Arc::new(balancing),
    }
}

fn sticky(key: AffinityKey) -> Balancing {
    let affinity = Some(Affinity { key, bound: None, memory: None });
    Balancing { affinity, ..Balancing::default() }
}

/// Status and text of the answer to a request with these headers, over a connection of its own.
async fn get(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let io = TokioIo::new(mesh.connect());
    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    let mut request = Request::get(path).header("host", "web");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(full("")).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Status of the answer to a request over HTTP/2.
async fn get_http2(mesh: &Mesh) -> StatusCode {
    let mut sender = mesh::http2_client(mesh.connect()).await;
    let request = Request::get("http://web/").body(full("")).unwrap();
    sender.send_request(request).await.unwrap().status()
}

async fn who(mesh: &Mesh, headers: &[(&str, &str)]) -> String {
    let (status, who) = get(mesh, "/", headers).await;
    assert_eq!(status, StatusCode::OK, "{who}");
    who
}

/// How many applications answer for this many users, each of whom meets only one of them.
async fn homes(
    mesh: &Mesh,
    users: usize,
    header: impl Fn(usize) -> (&'static str, String),
) -> BTreeMap<usize, String> {
    let mut homes = BTreeMap::new();
    for user in 0..users {
        let (name, value) = header(user);
        let home = who(mesh, &[(name, &value)]).await;
        for _ in 0..3 {
            assert_eq!(who(mesh, &[(name, &value)]).await, home, "user {user}");
        }
        homes.insert(user, home);
    }
    homes
}

#[test]
fn requests_with_the_same_header_or_cookie_go_to_the_same_endpoint() {
    let header = || AffinityKey::Header("x-user".parse().unwrap());
    let by_header = |user: usize| ("x-user", format!("user {user}"));
    let by_cookie = |user: usize| ("cookie", format!("a=1; sid={user}; b=2"));
    for way in WAYS {
        mesh::run(async |mesh| {
            let applications = applications(4).await;
            publish(&mesh, &applications, way).await;
            mesh.publish_policy(vec![balanced(Vec::new(), sticky(header()))], None);
            let spread: BTreeSet<String> =
                homes(&mesh, 16, by_header).await.into_values().collect();
            assert!(spread.len() >= 3, "{way:?}: 16 users meet only {spread:?}");
            // Without the header, the load decides.
            let mut met = BTreeSet::new();
            while met.len() < 4 {
                met.insert(who(&mesh, &[]).await);
            }

            let cookie = sticky(AffinityKey::Cookie(Cookie::named("sid")));
            mesh.publish_policy(vec![balanced(Vec::new(), cookie)], None);
            let spread: BTreeSet<String> =
                homes(&mesh, 16, by_cookie).await.into_values().collect();
            assert!(spread.len() >= 3, "{way:?}: 16 sessions meet only {spread:?}");
        });
    }
}

/// One request with those further lines: the cookies that the answer gives, and its text.
async fn given(mesh: &Mesh, path: &str, lines: &str) -> (Vec<String>, String) {
    let text = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{lines}\r\n");
    let answer = mesh::exchange(mesh.connect(), &text).await;
    let (head, who) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let cookies = head.lines().filter_map(|line| line.strip_prefix("set-cookie: "));
    (cookies.map(str::to_owned).collect(), who.to_owned())
}

#[test]
fn a_client_without_a_cookie_is_given_one_that_leads_it_back() {
    let with = |given| sticky(AffinityKey::Cookie(Cookie { name: "sid".into(), given }));
    for (way, limit) in WAYS
        .into_iter()
        .map(|way| (way, None))
        .chain([(Way::Meshed, Some(Duration::from_secs(20)))])
    {
        mesh::run(async |mesh| {
            let applications = applications(4).await;
            publish(&mesh, &applications, way).await;
            let policy = |given| {
                let mut route = balanced(Vec::new(), with(given));
                route.route.rules[0].action.timeouts.request = limit;
                vec![route]
            };
            mesh.publish_policy(policy(Some(Lifetime::Session)), None);
            let mut met = BTreeSet::new();
            for _ in 0..24 {
                let (cookies, home) = given(&mesh, "/", "cookie: other=1\r\n").await;
                let [cookie] = &cookies[..] else { panic!("{way:?}: {cookies:?}") };
                let (pair, attributes) = cookie.split_once("; ").unwrap();
                assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
                for _ in 0..3 {
                    let lines = format!("cookie: other=1; {pair}\r\n");
                    let again = given(&mesh, "/", &lines).await;
                    assert_eq!(again, (Vec::new(), home.clone()), "{way:?}: {pair}");
                }
                met.insert(home);
            }
            assert!(met.len() >= 3, "{way:?}: 24 sessions meet only {met:?}");

            mesh.publish_policy(policy(Some(Lifetime::For(Duration::from_secs(3600)))), None);
            let (cookies, _) = given(&mesh, "/", "").await;
            assert!(cookies.len() == 1 && cookies[0].ends_with("; Max-Age=3600"), "{cookies:?}");
            mesh.publish_policy(policy(None), None);
            assert!(given(&mesh, "/", "").await.0.is_empty(), "nobody asked for one");
        });
    }
}

#[test]
fn a_cookie_of_the_application_is_left_as_it_is_and_failures_give_none() {
    mesh::run(async |mesh| {
        let cookie = Cookie { name: "sid".into(), given: Some(Lifetime::Session) };
        let route = balanced(Vec::new(), sticky(AffinityKey::Cookie(cookie)));
        mesh.publish_policy(vec![route], None);
        let own = http1_application(async |_| {
            Response::builder().header("set-cookie", "sid=mine").body(full("own")).unwrap()
        })
        .await;
        publish(&mesh, &[own], Way::Meshed).await;
        assert_eq!(given(&mesh, "/", "").await, (vec!["sid=mine".to_owned()], "own".to_owned()));
        publish(&mesh, &[mesh::dead_address().await], Way::Unmeshed).await;
        let text = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        let answer = mesh::exchange(mesh.connect(), text).await;
        assert!(answer.starts_with("HTTP/1.1 50") && !answer.contains("set-cookie"), "{answer}");
    });
}

#[test]
fn requests_move_only_when_their_endpoint_goes_and_come_back_with_it() {
    mesh::run(async |mesh| {
        let applications = applications(4).await;
        let header = AffinityKey::Header("x-user".parse().unwrap());
        mesh.publish_policy(vec![balanced(Vec::new(), sticky(header))], None);
        let endpoints: Vec<_> =
            applications.iter().map(|address| hauberk_model::Endpoint::bare(*address)).collect();
        mesh.publish(endpoints.clone());
        let by_header = |user: usize| ("x-user", user.to_string());
        let before = homes(&mesh, 16, by_header).await;
        // One is replaced by an address where nobody listens.
        let mut broken = endpoints.clone();
        broken[0] = hauberk_model::Endpoint::bare(mesh::dead_address().await);
        for set in [&endpoints[1..], &broken] {
            mesh.publish(set.to_vec());
            for (user, home) in homes(&mesh, 16, by_header).await {
                let had = &before[&user];
                if set.len() == 3 && had != "0" {
                    assert_eq!(home, *had, "user {user} was moved");
                }
                assert_ne!(home, "0", "user {user}");
            }
        }
        mesh.publish(endpoints);
        assert_eq!(homes(&mesh, 16, by_header).await, before);
    });
}

#[test]
fn an_endpoint_with_affinity_never_has_more_than_its_multiple_of_the_mean() {
    mesh::run(async |mesh| {
        let (at_once, gate) = (24, Rc::new(tokio::sync::Semaphore::new(0)));
        let under_way: Rc<RefCell<BTreeMap<usize, usize>>> = Rc::default();
        let mut endpoints = Vec::new();
        for number in 0..4 {
            let (gate, under_way) = (Rc::clone(&gate), Rc::clone(&under_way));
            let answer = move |_| {
                let (gate, under_way) = (Rc::clone(&gate), Rc::clone(&under_way));
                async move {
                    *under_way.borrow_mut().entry(number).or_default() += 1;
                    let _open = gate.acquire().await.unwrap();
                    Response::new(full(number.to_string()))
                }
            };
            endpoints.push(hauberk_model::Endpoint::bare(http1_application(answer).await));
        }
        let key = AffinityKey::Header("x-user".parse().unwrap());
        let affinity = Some(Affinity { key, bound: Some(Bound::DEFAULT), memory: None });
        let balancing = Balancing { affinity, ..Balancing::default() };
        mesh.publish_policy(vec![balanced(Vec::new(), balancing)], None);
        mesh.publish(endpoints);
        // Everybody is the same user.
        let requests: Vec<_> = (0..at_once)
            .map(|_| {
                let mesh = Rc::clone(&mesh);
                tokio::task::spawn_local(async move { who(&mesh, &[("x-user", "ann")]).await })
            })
            .collect();
        mesh::until(|| under_way.borrow().values().sum::<usize>() == at_once).await;
        let counts = under_way.borrow().clone();
        assert!(counts.values().all(|count| *count <= 8), "mean 6, most 7.5: {counts:?}");
        assert_eq!(counts.len(), 4, "{counts:?}");
        gate.add_permits(at_once);
        for request in requests {
            request.await.unwrap();
        }
    });
}

#[test]
fn requests_and_bytes_of_one_source_go_to_one_endpoint() {
    mesh::run(async |mesh| {
        let applications = applications(4).await;
        publish(&mesh, &applications, Way::Unmeshed).await;
        mesh.publish_policy(vec![balanced(Vec::new(), sticky(AffinityKey::Source))], None);
        let home = who(&mesh, &[]).await;
        for _ in 0..12 {
            assert_eq!(who(&mesh, &[]).await, home);
        }
    });
    mesh::run(async |mesh| {
        let mut endpoints = Vec::new();
        for number in 0..4u8 {
            let serve = move |mut socket: tokio::net::TcpStream| async move {
                socket.write_all(&[b'0' + number]).await.unwrap();
            };
            endpoints.push(hauberk_model::Endpoint::bare(mesh::application(serve).await));
        }
        mesh.publish(endpoints);
        for (balancing, is_sticky) in
            [(Balancing::default(), false), (sticky(AffinityKey::Source), true)]
        {
            let mut backend = hauberk_model::outbound::Backend {
                meta: Meta::service("default", "web-svc", Port::new(80)),
                target: target(balancing),
                queue: Default::default(),
            };
            backend.queue.capacity = 10;
            let backends = vec![RouteBackend { filters: Vec::new(), backend: Arc::new(backend) }];
            let backends = Distribution::FirstAvailable(backends);
            let route = OpaqueRoute { meta: Meta::default("tcp"), filters: Vec::new(), backends };
            let policy = OutboundPolicy {
                parent: Meta::service("default", "web-svc", Port::new(80)),
                protocol: OutboundProtocol::Opaque(vec![route]),
            };
            let address = Target::Address(mesh::SERVICE.parse().unwrap());
            mesh.client.control.outbound_policy(address, Lookup::Known(Arc::new(policy)));
            let mut met = BTreeSet::new();
            for _ in 0..40 {
                let mut answer = [0];
                mesh.connect().read_exact(&mut answer).await.unwrap();
                met.insert(answer[0]);
            }
            assert_eq!(met.len() == 1, is_sticky, "{met:?}");
        }
    });
}

#[test]
fn profiles_balance_as_the_policy_beside_them_says() {
    mesh::run(async |mesh| {
        let applications = applications(4).await;
        publish(&mesh, &applications, Way::Unmeshed).await;
        mesh.publish_policy(vec![balanced(Vec::new(), sticky(AffinityKey::Source))], None);
        let route = ProfileRoute {
            condition: RequestMatch::All(Vec::new()),
            labels: Default::default(),
            response_classes: Vec::new(),
            is_retryable: false,
            timeout: None,
        };
        let profile = Profile {
            name: Some("web-svc.default.svc.cluster.local".into()),
            routes: vec![route].into(),
            ..Profile::default()
        };
        let address = Target::Address(mesh::SERVICE.parse().unwrap());
        mesh.client.control.profile(address, Lookup::Known(Arc::new(profile)));
        let home = who(&mesh, &[]).await;
        for _ in 0..12 {
            assert_eq!(who(&mesh, &[]).await, home);
        }
    });
}

#[test]
fn a_new_endpoint_gets_a_small_share_at_first() {
    mesh::run(async |mesh| {
        let applications = applications(4).await;
        // So long that nothing of it passes in this test: the share stays a tenth of a quarter.
        let slow_start = Some(Duration::from_secs(3600));
        let balancing = Balancing { slow_start, ..Balancing::default() };
        for (balancing, is_slow) in [(balancing, true), (Balancing::default(), false)] {
            mesh.publish_policy(vec![balanced(Vec::new(), balancing)], None);
            publish(&mesh, &applications[..3], Way::Unmeshed).await;
            for _ in 0..10 {
                assert_ne!(who(&mesh, &[]).await, "3");
            }
            publish(&mesh, &applications, Way::Unmeshed).await;
            let mut count = 0;
            for _ in 0..200 {
                count += usize::from(who(&mesh, &[]).await == "3");
            }
            // By its share it is 5 of 200, and 50 without slow start; how fast each answers adds to
            // chance.
            assert_eq!(count < 20, is_slow, "{count} of 200");
        }
    });
}

#[test]
fn a_route_with_its_own_breaker_takes_endpoints_from_itself_only() {
    let prefix = |text: &str| {
        vec![HttpMatch { path: Some(PathMatch::Prefix(text.into())), ..HttpMatch::default() }]
    };
    mesh::run(async |mesh| {
        let mut endpoints = Vec::new();
        for number in 0..2 {
            let answer = move |request: Request<hyper::body::Incoming>| async move {
                let fails = number == 0 && request.uri().path() == "/bad";
                let status = if fails { 500 } else { 200 };
                Response::builder().status(status).body(full(number.to_string())).unwrap()
            };
            endpoints.push(hauberk_model::Endpoint::bare(http1_application(answer).await));
        }
        let minute = Duration::from_secs(60);
        let backoff = Backoff::new(minute, minute, 0.0).unwrap();
        let kind = FailureAccrualKind::Consecutive { max_failures: 3, backoff };
        let breaker = Some(FailureAccrual { kind, min_ready_endpoints: 0 });
        let mut bad = balanced(prefix("/bad"), Balancing { breaker, ..Balancing::default() });
        bad.meta = Meta::resource("gateway.networking.k8s.io", "HTTPRoute", "default", "bad");
        let good = balanced(prefix("/good"), Balancing::default());
        mesh.publish_policy(vec![bad, good], None);
        mesh.publish(endpoints);
        let mut failed = 0;
        while failed < 3 {
            failed += usize::from(get(&mesh, "/bad", &[]).await.0 != StatusCode::OK);
        }
        for _ in 0..30 {
            assert_eq!(get(&mesh, "/bad", &[]).await, (StatusCode::OK, "1".to_owned()));
        }
        let mut met = BTreeSet::new();
        while met.len() < 2 {
            let (status, who) = get(&mesh, "/good", &[]).await;
            assert_eq!(status, StatusCode::OK);
            met.insert(who);
        }
    });
}

/// A frame of HTTP/2: type, flags, stream, payload (RFC 9113 section 4.1).
async fn frame(socket: &mut tokio::net::TcpStream) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await?;
    Ok((head[3], head[4], stream, payload))
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// What an endpoint saw of its client's connection.
#[derive(Debug, Default)]
struct Seen {
    settings: BTreeMap<u16, u32>,
    connection_window: u32,
    pings: usize,
    closed: Option<Instant>,
}

/// An endpoint that speaks as much HTTP/2 as it takes to see the parameters, answers the first
/// `pongs` pings, and no request.
async fn silent_http2(pongs: usize) -> (SocketAddr, Rc<RefCell<Seen>>) {
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let record = Rc::clone(&seen);
    let serve = move |mut socket: tokio::net::TcpStream| {
        let seen = Rc::clone(&record);
        async move {
            let mut preface = [0; 24];
            socket.read_exact(&mut preface).await.unwrap();
            assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            socket.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
            while let Ok((kind, flags, stream, payload)) = frame(&mut socket).await {
                let is_ack = flags & 1 == 1;
                match kind {
                    SETTINGS if !is_ack => {
                        for entry in payload.chunks(6) {
                            let id = u16::from_be_bytes([entry[0], entry[1]]);
                            let value = u32::from_be_bytes(entry[2..6].try_into().unwrap());
                            seen.borrow_mut().settings.insert(id, value);
                        }
                        socket.write_all(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0]).await.unwrap();
                    }
                    WINDOW_UPDATE if stream == 0 => {
                        let more = u32::from_be_bytes(payload[..4].try_into().unwrap());
                        seen.borrow_mut().connection_window += more;
                    }
                    PING if !is_ack => {
                        let number = seen.borrow().pings;
                        seen.borrow_mut().pings += 1;
                        if number < pongs {
                            socket.write_all(&[0, 0, 8, PING, 1, 0, 0, 0, 0]).await.unwrap();
                            socket.write_all(&payload).await.unwrap();
                        }
                    }
                    _other => {}
                }
            }
            seen.borrow_mut().closed = Some(Instant::now());
        }
    };
    (mesh::application(serve).await, seen)
}

#[test]
fn connections_have_the_http2_parameters_of_their_endpoint() {
    mesh::run(async |mesh| {
        let (address, seen) = silent_http2(2).await;
        let mut endpoint = hauberk_model::Endpoint::bare(address);
        let interval = Duration::from_millis(20);
        endpoint.http2 = Some(Http2Params {
            initial_connection_window: Some(300_000),
            initial_stream_window: Some(123_456),
            max_frame_size: Some(20_000),
            keep_alive: Some(KeepAlive { interval, timeout: 50 * interval, while_idle: true }),
            ..Http2Params::default()
        });
        mesh.publish_policy(vec![mesh::route(Vec::new())], None);
        mesh.publish([endpoint]);
        // Pings without an answer end the connection, and with it the request.
        assert_eq!(get_http2(&mesh).await, StatusCode::BAD_GATEWAY);
        mesh::until(|| seen.borrow().closed.is_some()).await;
        let seen = seen.borrow();
        assert_eq!(seen.settings.get(&4), Some(&123_456), "window of a stream: {seen:?}");
        assert_eq!(seen.settings.get(&5), Some(&20_000), "size of a frame: {seen:?}");
        assert_eq!(seen.connection_window, 300_000 - 65_535, "{seen:?}");
        assert_eq!(seen.pings, 3, "two were answered: {seen:?}");
    });
}

#[test]
fn without_parameters_the_proxys_own_windows_count_and_nobody_is_pinged() {
    mesh::run(async |mesh| {
        let (address, seen) = silent_http2(0).await;
        mesh.publish_policy(vec![mesh::route(Vec::new())], None);
        mesh.publish([hauberk_model::Endpoint::bare(address)]);
        let other = Rc::clone(&mesh);
        let request = tokio::task::spawn_local(async move { get_http2(&other).await });
        mesh::until(|| seen.borrow().connection_window > 0).await;
        let ours = mesh.client.worker.config.outbound.side.http2_client;
        let window = ours.initial_stream_window;
        assert_eq!(seen.borrow().settings.get(&4), Some(&window), "{seen:?}");
        let window = ours.initial_connection_window;
        assert_eq!(seen.borrow().connection_window, window - 65_535, "{seen:?}");
        assert_eq!(seen.borrow().pings, 0);
        request.abort();
    });
}

#[test]
fn the_first_requests_to_many_endpoints_at_once_all_succeed() {
    /// As many as fit into the usual limit of open files, at three for each.
    const ENDPOINTS: usize = 250;
    const CLIENTS: usize = 32;
    const REQUESTS: usize = 15;
    for way in [Way::Meshed, Way::MeshedPlainHttp] {
        mesh::run(async |mesh| {
            mesh.policy(None);
            let application = http1_application(|_| async { Response::new(full("here")) }).await;
            publish(&mesh, &[application; ENDPOINTS], way).await;
            // Each of them connects to endpoints that nobody has connected to before.
            let clients = (0..CLIENTS).map(|_| {
                let mesh = Rc::clone(&mesh);
                tokio::task::spawn_local(async move {
                    let mut failed = 0;
                    for _ in 0..REQUESTS {
                        failed += u64::from(get(&mesh, "/", &[]).await.0 != StatusCode::OK);
                    }
                    failed
                })
            });
            let mut failed = 0;
            for client in clients.collect::<Vec<_>>() {
                failed += client.await.unwrap();
            }
            assert_eq!(failed, 0, "{way:?}: of {} requests", CLIENTS * REQUESTS);
        });
    }
}
