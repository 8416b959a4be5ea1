//! Retries and limits of time, as routes and requests ask for them, in HTTP/1 and HTTP/2.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::outbound::{
    BackendTarget, Distribution, GrpcPolicy, GrpcRoute, HttpRoute, Load, OutboundPolicy,
    OutboundProtocol, PeakEwma, RuleAction,
};
use hauberk_model::profile::{
    Profile, ProfileRoute, RequestMatch, ResponseClass, ResponseMatch, WeightedTarget,
};
use hauberk_model::retry::{GrpcConditions, HttpConditions, Retry, RetryBudget};
use hauberk_model::route::{Route, Rule};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{Meta, Pattern, Port};
use hauberk_proxy::control::{Lookup, Target};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh::{
    LocalExecutor, Mesh, TestBody, TestError, Way, dead_address, full, http1_application,
    http2_application,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

const VERSIONS: [Version; 2] = [Version::One, Version::Two];

/// What a client gets: status, headers, body; no body if it broke off.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<String>,
    trailers: Option<HeaderMap>,
}

/// Sends a request over a connection of its own.
async fn send(mesh: &Mesh, version: Version, request: Request<TestBody>) -> Got {
    let io = TokioIo::new(mesh.connect());
    let response = match version {
        Version::One => {
            let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = driver.await;
            });
            sender.send_request(request).await.unwrap()
        }
        Version::Two => {
            let builder = hyper::client::conn::http2::Builder::new(LocalExecutor);
            let (mut sender, driver) = builder.handshake(io).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = driver.await;
            });
            sender.send_request(request).await.unwrap()
        }
    };
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.ok();
    let trailers = collected.as_ref().and_then(|body| body.trailers().cloned());
    let body = collected.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap());
    Got { status: parts.status, headers: parts.headers, body, trailers }
}

fn request(version: Version, body: TestBody) -> Request<TestBody> {
    let builder = match version {
        Version::One => Request::post("/a.B/C").header("host", "web"),
        Version::Two => Request::post("http://web/a.B/C"),
    };
    builder.body(body).unwrap()
}

/// A body of which nobody knows the length before its end.
fn streamed(parts: &'static [&'static str]) -> TestBody {
    let frames = parts
        .iter()
        .map(|part| Ok::<_, TestError>(Frame::data(Bytes::from_static(part.as_bytes()))));
    mesh::body(StreamBody::new(futures::stream::iter(frames)))
}

/// An application of that version.
async fn application<F, R>(version: Version, answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Response<TestBody>> + 'static,
{
    match version {
        Version::One => http1_application(answer).await,
        Version::Two => {
            http2_application(move |request| {
                let response = answer(request);
                async move { Ok(response.await) }
            })
            .await
        }
    }
}

/// An application that answers `status` to the first requests, and then repeats their body.
async fn flaky(version: Version, failures: usize, status: u16) -> (SocketAddr, Rc<Cell<usize>>) {
    let seen = Rc::new(Cell::new(0));
    let count = Rc::clone(&seen);
    let address = application(version, move |request| {
        let attempt = count.replace(count.get() + 1);
        async move {
            let body = request.into_body().collect().await.map(|body| body.to_bytes());
            match body {
                Ok(body) if attempt >= failures => Response::new(full(body)),
                _ => Response::builder().status(status).body(full("failed")).unwrap(),
            }
        }
    })
    .await;
    (address, seen)
}

fn retry(max_retries: u16) -> Retry<HttpConditions> {
    Retry {
        max_retries,
        max_request_bytes: 64 * 1024,
        conditions: HttpConditions(vec![500..=599]),
        timeout: None,
        backoff: Some(Backoff::new(MS, 4 * MS, 1.0).unwrap()),
    }
}

fn retrying(retry: Retry<HttpConditions>) -> HttpRoute {
    let mut route = mesh::route(Vec::new());
    route.route.rules[0].action.retry = Some(retry);
    route
}

fn limited(timeouts: Timeouts) -> HttpRoute {
    let mut route = mesh::route(Vec::new());
    route.route.rules[0].action.timeouts = timeouts;
    route
}

/// The service has this application behind it and this route in front.
async fn serve(mesh: &Mesh, application: SocketAddr, way: Way, route: HttpRoute) {
    mesh.publish([mesh.endpoint(application, way).await]);
    mesh.publish_policy(vec![route], None);
}

/// The service is gRPC, with these retries.
fn publish_grpc(mesh: &Mesh, retry: Retry<GrpcConditions>) {
    let like = mesh::route(Vec::new()).route.rules.remove(0).action.backends;
    let action = RuleAction {
        filters: Vec::new(),
        backends: match like {
            Distribution::FirstAvailable(mut list) => {
                let backend = list.remove(0).backend;
                let backend =
                    hauberk_model::outbound::RouteBackend { filters: Vec::new(), backend };
                Distribution::FirstAvailable(vec![backend])
            }
            other => panic!("another distribution: {other:?}"),
        },
        timeouts: Timeouts::default(),
        retry: Some(retry),
        allow_l5d_request_headers: false,
    };
    let rules = vec![Rule { matches: Vec::new(), action }];
    let route =
        GrpcRoute { meta: Meta::default("grpc"), route: Route { hosts: Vec::new(), rules } };
    let grpc = GrpcPolicy { routes: Arc::new([route]), failure_accrual: None };
    let parent = Meta::service("default", "web-svc", Port::new(80));
    let policy = OutboundPolicy { parent, protocol: OutboundProtocol::Grpc(grpc) };
    let target = Target::Address(mesh::SERVICE.parse().unwrap());
    mesh.client.control.outbound_policy(target, Lookup::Known(Arc::new(policy)));
}

/// A metric of the client's proxy, summed over its series that contain `labels`.
fn metric(mesh: &Mesh, name: &str, labels: &str) -> u64 {
    let text = mesh.client.registry.render();
    let lines =
        text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn retries(mesh: &Mesh, what: &str) -> u64 {
    metric(mesh, &format!("outbound_http_route_retry_{what}_total"), "")
}

#[test]
fn failed_requests_are_tried_again_with_their_bodies() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            for (turn, way) in mesh::WAYS.into_iter().enumerate() {
                for body in [full("hello world"), streamed(&["hello", " world"]), full("")] {
                    let expect = if body.size_hint_exact() == Some(0) { "" } else { "hello world" };
                    let (application, seen) = flaky(version, 2, 503).await;
                    serve(&mesh, application, way, retrying(retry(3))).await;
                    let got = send(&mesh, version, request(version, body)).await;
                    assert_eq!(got.status, 200, "{version:?} {way:?}");
                    assert_eq!(got.body.as_deref(), Some(expect), "{version:?} {way:?}");
                    assert_eq!(seen.get(), 3, "{version:?} {way:?}");
                }
                let done = turn as u64 + 1;
                assert_eq!(retries(&mesh, "requests"), done * 6);
                assert_eq!(retries(&mesh, "successes"), done * 3);
                assert_eq!(retries(&mesh, "limit_exceeded"), 0);
                // The route counts requests, its backend attempts.
                let statuses = "outbound_http_route_request_statuses_total";
                assert_eq!(metric(&mesh, statuses, "http_status=\"200\""), done * 3);
                assert_eq!(metric(&mesh, statuses, "http_status=\"503\""), 0);
                let backend = "outbound_http_route_backend_response_statuses_total";
                assert_eq!(metric(&mesh, backend, "http_status=\"503\""), done * 6);
                assert_eq!(metric(&mesh, backend, "http_status=\"200\""), done * 3);
            }
        });
    }
}

trait SizeHintExact {
    fn size_hint_exact(&self) -> Option<u64>;
}

impl SizeHintExact for TestBody {
    fn size_hint_exact(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }
}

#[test]
fn retries_end_at_their_limit_and_only_wanted_statuses_count() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let (application, seen) = flaky(version, 100, 500).await;
            serve(&mesh, application, Way::Meshed, retrying(retry(2))).await;
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!((got.status.as_u16(), got.body.as_deref()), (500, Some("failed")));
            assert_eq!((seen.get(), retries(&mesh, "limit_exceeded")), (3, 1));
            assert_eq!(retries(&mesh, "successes"), 0);

            let (application, seen) = flaky(version, 100, 404).await;
            serve(&mesh, application, Way::Meshed, retrying(retry(2))).await;
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!((got.status.as_u16(), seen.get()), (404, 1));
        });
    }
}

#[test]
fn bodies_beyond_the_bound_are_sent_once_and_whole() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let small = Retry { max_request_bytes: 8, ..retry(3) };
            for (body, status, attempts) in [
                (full("long enough"), 503, 1),
                (streamed(&["long", " enough"]), 503, 1),
                (streamed(&["just", " fit"]), 200, 2),
            ] {
                let (application, seen) = flaky(version, 1, 503).await;
                serve(&mesh, application, Way::Meshed, retrying(small.clone())).await;
                let got = send(&mesh, version, request(version, body)).await;
                assert_eq!((got.status.as_u16(), seen.get()), (status, attempts), "{version:?}");
            }
            let (application, _) = flaky(version, 0, 503).await;
            serve(&mesh, application, Way::Meshed, retrying(small)).await;
            let got = send(&mesh, version, request(version, streamed(&["long", " enough"]))).await;
            assert_eq!(got.body.as_deref(), Some("long enough"));
        });
    }
}

#[test]
fn an_attempt_that_hangs_makes_way_for_the_next_and_the_last_may_take_its_time() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let seen = Rc::new(Cell::new(0));
            let count = Rc::clone(&seen);
            let application = application(version, move |_| {
                let attempt = count.replace(count.get() + 1);
                async move {
                    match attempt {
                        0 => std::future::pending().await,
                        _ => tokio::time::sleep(150 * MS).await,
                    }
                    Response::new(full("late"))
                }
            })
            .await;
            let quick = Retry { timeout: Some(50 * MS), ..retry(1) };
            serve(&mesh, application, Way::Meshed, retrying(quick)).await;
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!((got.status.as_u16(), got.body.as_deref()), (200, Some("late")));
            assert_eq!(seen.get(), 2);
            let backend = "outbound_http_route_backend_response_statuses_total";
            assert_eq!(metric(&mesh, backend, "error=\"RESPONSE_HEADERS_TIMEOUT\""), 1);

            // The limit of the request bounds all attempts.
            let silent = http1_application(async |_| std::future::pending().await).await;
            let quick = Retry { timeout: Some(50 * MS), ..retry(100) };
            let mut route = retrying(quick);
            route.route.rules[0].action.timeouts.request = Some(170 * MS);
            serve(&mesh, silent, Way::Unmeshed, route).await;
            let start = Instant::now();
            let got = send(&mesh, Version::One, request(Version::One, full("x"))).await;
            assert_eq!(got.status, 504);
            // An attempt that would begin too late is not begun.
            let text = got.headers["l5d-proxy-error"].to_str().unwrap();
            let texts = ["request timed out", "timed out waiting for response headers"];
            assert!(texts.contains(&text), "{text}");
            assert!(start.elapsed() >= 150 * MS && start.elapsed() < 5000 * MS);
        });
    }
}

#[test]
fn a_connection_that_fails_counts_as_the_response_it_would_become() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            // Takes the request and closes without a word, every other time.
            let turns = Rc::new(Cell::new(0));
            let turn = Rc::clone(&turns);
            let (good, _) = flaky(version, 0, 500).await;
            let moody = mesh::application(move |mut socket| {
                let turn = turn.replace(turn.get() + 1);
                async move {
                    if turn % 2 == 0 {
                        let _ = socket.read(&mut [0; 1024]).await;
                        return;
                    }
                    let mut on = tokio::net::TcpStream::connect(good).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut socket, &mut on).await;
                }
            })
            .await;
            serve(&mesh, moody, Way::Unmeshed, retrying(retry(2))).await;
            let got = send(&mesh, version, request(version, full("again"))).await;
            assert_eq!(got.body.as_deref(), Some("again"), "{version:?}: {}", got.status);

            // Nobody listens: nothing was sent, and it is tried up to the limit.
            let mut route = mesh::route_to(dead_address().await);
            route.route.rules[0].action.retry = Some(retry(2));
            mesh.publish_policy(vec![route], None);
            let before = retries(&mesh, "requests");
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(got.status, 502);
            assert_eq!(retries(&mesh, "requests") - before, 2, "{version:?}");
        });
    }
}

#[test]
fn retries_of_a_failing_service_stay_within_a_budget() {
    const REQUESTS: usize = 100;
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let (application, seen) = flaky(version, usize::MAX, 503).await;
            let eager = Retry { backoff: None, ..retry(50) };
            serve(&mesh, application, Way::Meshed, retrying(eager)).await;
            let mut running: FuturesUnordered<_> =
                (0..REQUESTS).map(|_| send(&mesh, version, request(version, full("x")))).collect();
            while let Some(got) = running.next().await {
                assert_eq!(got.status, 503);
            }
            // Ten per second over ten seconds, and one for each request.
            let attempts = seen.get();
            assert!(attempts > REQUESTS && attempts <= 3 * REQUESTS + 20, "{attempts} attempts");
            assert!(retries(&mesh, "overflow") > 0);
        });
    }
}

fn trailers(code: &'static str) -> Result<Frame<Bytes>, TestError> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    Ok(Frame::trailers(trailers))
}

#[test]
fn grpc_codes_are_found_in_head_and_trailers() {
    mesh::run(async |mesh| {
        for way in [Way::Meshed, Way::Unmeshed] {
            let seen = Rc::new(Cell::new(0));
            let count = Rc::clone(&seen);
            let application = application(Version::Two, move |request| {
                let attempt = count.replace(count.get() + 1);
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let response = Response::builder().header("content-type", "application/grpc");
                    let frames =
                        |frames: Vec<_>| mesh::body(StreamBody::new(futures::stream::iter(frames)));
                    match attempt {
                        0 => response.header("grpc-status", "14").body(full("")),
                        1 => response.body(frames(vec![trailers("14")])),
                        2 => response.body(frames(vec![Ok(Frame::data(body)), trailers("13")])),
                        _ => {
                            let data = || Ok(Frame::data(body.clone()));
                            response.body(frames(vec![data(), data(), data(), trailers("0")]))
                        }
                    }
                    .unwrap()
                }
            })
            .await;
            mesh.publish([mesh.endpoint(application, way).await]);
            let conditions =
                GrpcConditions { unavailable: true, internal: true, ..GrpcConditions::default() };
            let http = retry(5);
            publish_grpc(
                &mesh,
                Retry {
                    conditions,
                    max_retries: http.max_retries,
                    max_request_bytes: http.max_request_bytes,
                    timeout: http.timeout,
                    backoff: http.backoff,
                },
            );
            let call = || {
                let mut call = request(Version::Two, full("abc"));
                let value = "application/grpc".parse().unwrap();
                call.headers_mut().insert("content-type", value);
                send(&mesh, Version::Two, call)
            };
            let got = call().await;
            assert_eq!(got.trailers.unwrap()["grpc-status"], "0", "{way:?}");
            assert_eq!(got.body.as_deref(), Some("abcabcabc"), "{way:?}");
            // The data and trailers of the third answer need not have come together.
            assert!((4..=5).contains(&seen.get()), "{way:?}: {}", seen.get());
        }
        assert!(metric(&mesh, "outbound_grpc_route_retry_requests_total", "") >= 6);
        assert_eq!(metric(&mesh, "outbound_grpc_route_retry_successes_total", ""), 2);
    });
}

/// An application that answers after a while, and whose bodies come a piece at a time.
async fn slow(version: Version, head: Duration, piece: Duration, pieces: usize) -> SocketAddr {
    application(version, move |request| async move {
        // The request is read to its end, so that it counts as sent.
        let _ = request.into_body().collect().await;
        tokio::time::sleep(head).await;
        let frames = futures::stream::unfold(0, move |n| async move {
            if n == pieces {
                return None;
            }
            tokio::time::sleep(piece).await;
            Some((Ok::<_, TestError>(Frame::data(Bytes::from_static(b"."))), n + 1))
        });
        Response::new(mesh::body(StreamBody::new(frames)))
    })
    .await
}

#[test]
fn each_limit_ends_what_takes_longer() {
    let long = 60_000 * MS;
    let request_limit = |limit| Timeouts { request: Some(limit), ..Timeouts::default() };
    let response_limit = |limit| Timeouts { response: Some(limit), ..Timeouts::default() };
    let idle_limit = |limit| Timeouts { idle: Some(limit), ..Timeouts::default() };
    for version in VERSIONS {
        mesh::run(async |mesh| {
            for (limits, text, name) in [
                (request_limit(80 * MS), "request timed out", "REQUEST_TIMEOUT"),
                (
                    response_limit(80 * MS),
                    "timed out waiting for response stream",
                    "RESPONSE_STREAM_TIMEOUT",
                ),
                (idle_limit(80 * MS), "stream timed out due to idleness", "IDLE_TIMEOUT"),
            ] {
                let statuses = "outbound_http_route_request_statuses_total";
                // Before the head: an answer, and the connection goes on.
                let application = slow(version, long, MS, 1).await;
                serve(&mesh, application, Way::Meshed, limited(limits)).await;
                let got = send(&mesh, version, request(version, full("x"))).await;
                assert_eq!(got.status, 504, "{version:?} {name}");
                assert_eq!(got.headers["l5d-proxy-error"], text);
                assert!(!got.headers.contains_key("connection"));
                // In the body: it breaks off.
                let application = slow(version, MS, long, 1).await;
                serve(&mesh, application, Way::Meshed, limited(limits)).await;
                let got = send(&mesh, version, request(version, full("x"))).await;
                assert_eq!((got.status.as_u16(), got.body), (200, None), "{version:?} {name}");
                let label = format!("error=\"{name}\"");
                mesh::until(|| metric(&mesh, statuses, &label) == 2).await;
            }
            assert_eq!(metric(&mesh, "outbound_http_errors_total", "response timeout"), 3);

            // What moves is not idle, however long it takes; what is in time is left alone.
            let application = slow(version, MS, 30 * MS, 10).await;
            serve(&mesh, application, Way::Meshed, limited(idle_limit(200 * MS))).await;
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(got.body.as_deref(), Some(".........."), "{version:?}");
        });
    }
}

#[test]
fn the_response_limit_does_not_count_a_slow_request() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let (application, _) = flaky(version, 0, 500).await;
            let limits = Timeouts { response: Some(200 * MS), ..Timeouts::default() };
            serve(&mesh, application, Way::Meshed, limited(limits)).await;
            let slowly = futures::stream::unfold(0, |n| async move {
                tokio::time::sleep(60 * MS).await;
                (n < 6).then(|| (Ok::<_, TestError>(Frame::data(Bytes::from_static(b"x"))), n + 1))
            });
            let body = mesh::body(StreamBody::new(slowly));
            let got = send(&mesh, version, request(version, body)).await;
            assert_eq!((got.status.as_u16(), got.body.as_deref()), (200, Some("xxxxxx")));
        });
    }
}

#[test]
fn requests_ask_for_themselves_only_where_the_route_allows_it() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let ask = async |allowed: bool, headers: &[(&'static str, &'static str)], failures| {
                let seen = Rc::new(Cell::new(0));
                let count = Rc::clone(&seen);
                let application = application(version, move |request| {
                    let attempt = count.replace(count.get() + 1);
                    async move {
                        let names =
                            request.headers().keys().filter(|n| n.as_str().starts_with("l5d-"));
                        let names = names.map(ToString::to_string).collect::<Vec<_>>().join(" ");
                        if attempt < failures {
                            return Response::builder().status(503).body(full("")).unwrap();
                        }
                        if request.headers().contains_key("x-slow") {
                            tokio::time::sleep(60_000 * MS).await;
                        }
                        Response::new(full(names))
                    }
                })
                .await;
                let mut route = mesh::route(Vec::new());
                route.route.rules[0].action.allow_l5d_request_headers = allowed;
                serve(&mesh, application, Way::Unmeshed, route).await;
                let mut request = request(version, full("x"));
                for (name, value) in headers {
                    request.headers_mut().insert(*name, value.parse().unwrap());
                }
                let got = send(&mesh, version, request).await;
                (got.status.as_u16(), got.body.unwrap_or_default(), seen.get())
            };
            let three = &[("l5d-retry-http", "5xx"), ("l5d-retry-limit", "3")];
            assert_eq!(ask(true, three, 3).await, (200, String::new(), 4));
            assert_eq!(ask(false, three, 3).await.0, 503, "not where it is not allowed");
            let (status, names, attempts) = ask(false, three, 0).await;
            assert_eq!((status, attempts), (200, 1));
            assert!(
                names.contains("l5d-retry-http") && names.contains("l5d-retry-limit"),
                "{names}"
            );
            assert_eq!(ask(true, &[("l5d-retry-http", "429")], 1).await.0, 503);
            let slow = ("x-slow", "1");
            for header in ["l5d-timeout", "l5d-request-timeout", "l5d-response-timeout"] {
                assert_eq!(ask(true, &[(header, "60ms"), slow], 0).await.0, 504, "{header}");
            }
            // Nothing asked: an ordinary request.
            assert_eq!(ask(true, &[], 0).await, (200, String::new(), 1));
        });
    }
}

#[test]
fn a_response_that_comes_before_the_request_has_ended_is_the_answer() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let seen = Rc::new(Cell::new(0));
            let count = Rc::clone(&seen);
            let early = application(version, move |request| {
                count.set(count.get() + 1);
                async move {
                    drop(request);
                    Response::builder().status(503).body(full("early")).unwrap()
                }
            })
            .await;
            serve(&mesh, early, Way::Unmeshed, retrying(retry(3))).await;
            let first =
                futures::stream::iter([Ok::<_, TestError>(Frame::data(Bytes::from_static(b"x")))]);
            let body = mesh::body(StreamBody::new(first.chain(futures::stream::pending())));
            let got = send(&mesh, version, request(version, body)).await;
            assert_eq!((got.status.as_u16(), seen.get()), (503, 1), "{version:?}");
        });
    }
}

#[test]
fn upgrades_are_not_retried() {
    mesh::run(async |mesh| {
        let (application, seen) = flaky(Version::One, 100, 503).await;
        serve(&mesh, application, Way::Unmeshed, retrying(retry(3))).await;
        let mut connection = mesh.connect();
        let head =
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        let answer = mesh::read_until(&mut connection, "failed").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(seen.get(), 1);
    });
}

/// An application that answers every request so.
async fn constant(
    version: Version,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> SocketAddr {
    application(version, move |_| async move {
        let builder = Response::builder().status(status);
        let builder = headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value));
        builder.body(full("")).unwrap()
    })
    .await
}

/// How many of so many requests are answered by `status`.
async fn answered(mesh: &Mesh, version: Version, requests: usize, status: u16) -> usize {
    // Together, so that the load is spread.
    let all = (0..requests).map(|_| send(mesh, version, request(version, full(""))));
    let all = futures::future::join_all(all).await;
    all.iter().filter(|got| got.status.as_u16() == status).count()
}

#[test]
fn an_endpoint_with_too_few_successes_is_left_alone_but_never_the_last_ones() {
    let minute = Duration::from_secs(60);
    let accrual = |min_ready_endpoints| FailureAccrual {
        kind: FailureAccrualKind::Unified {
            max_consecutive: 0,
            success_rate_threshold: 0.9,
            window: minute,
            min_requests: 5,
            backoff: Backoff::new(minute, minute, 0.0).unwrap(),
            honor_retry_after: false,
        },
        min_ready_endpoints,
    };
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let busy = constant(version, 429, &[]).await;
            let good = constant(version, 200, &[]).await;
            mesh.policy(Some(accrual(1)));
            let way = Way::Unmeshed;
            mesh.publish([mesh.endpoint(busy, way).await, mesh.endpoint(good, way).await]);
            let mut refused = 0;
            while refused < 5 {
                refused += answered(&mesh, version, 20, 429).await;
            }
            assert_eq!(answered(&mesh, version, 50, 200).await, 50, "{version:?}");

            // All are busy: one stays in use, and its answer reaches the client.
            let (one, two) = (constant(version, 429, &[]).await, constant(version, 429, &[]).await);
            mesh.publish([mesh.endpoint(one, way).await, mesh.endpoint(two, way).await]);
            for _ in 0..5 {
                assert_eq!(answered(&mesh, version, 20, 429).await, 20, "{version:?}");
            }
        });
    }
}

#[test]
fn an_endpoint_that_fails_quickly_does_not_attract_where_failures_are_penalized() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let busy = constant(version, 503, &[("retry-after", "30")]).await;
            let good = application(version, async |_| {
                tokio::time::sleep(2 * MS).await;
                Response::new(full("ok"))
            })
            .await;
            let mut route = mesh::route(Vec::new());
            let Distribution::FirstAvailable(list) = &mut route.route.rules[0].action.backends
            else {
                panic!("another distribution");
            };
            let mut backend = (*list[0].backend).clone();
            backend.target = BackendTarget::Balance {
                authority: mesh::authority(),
                load: Load::PenaltyPeakEwma {
                    ewma: PeakEwma::default(),
                    penalty: Duration::from_secs(5),
                    max_retry_after: Duration::from_secs(300),
                },
                balancing: Arc::default(),
            };
            list[0].backend = Arc::new(backend);
            mesh.publish([
                mesh.endpoint(busy, Way::Meshed).await,
                mesh.endpoint(good, Way::Meshed).await,
            ]);
            mesh.publish_policy(vec![route], None);
            let mut failed = 0;
            for _ in 0..60 {
                failed += answered(&mesh, version, 1, 503).await;
            }
            assert!(failed <= 2, "{version:?}: {failed} of 60 went to who said no");
        });
    }
}

/// The service has this profile, beside a policy whose route goes nowhere.
fn publish_profile(mesh: &Mesh, profile: Profile) {
    let name = Some("web-svc.default.svc.cluster.local".into());
    let profile = Profile { name, ..profile };
    let target = Target::Address(mesh::SERVICE.parse().unwrap());
    mesh.client.control.profile(target, Lookup::Known(Arc::new(profile)));
    mesh.publish_policy(Vec::new(), None);
}

fn budget(min_retries_per_second: u32) -> Option<RetryBudget> {
    let ttl = Duration::from_secs(10);
    Some(RetryBudget { retry_ratio: 0.0, min_retries_per_second, ttl })
}

/// A route for the path of [`request`].
fn profile_route(is_retryable: bool) -> ProfileRoute {
    let labels = [("route".into(), "C".into())].into_iter().collect();
    ProfileRoute {
        condition: RequestMatch::Path(Pattern::new("/a\\.B/.*").unwrap()),
        response_classes: Vec::new(),
        labels: Arc::new(labels),
        is_retryable,
        timeout: None,
    }
}

fn profile(route: ProfileRoute, retry_budget: Option<RetryBudget>) -> Profile {
    Profile { routes: vec![route].into(), retry_budget, ..Profile::default() }
}

#[test]
fn profiles_retry_what_their_routes_call_a_failure() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let ask = async |profile: Profile, failures| {
                let (application, seen) = flaky(version, failures, 503).await;
                mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
                publish_profile(&mesh, profile);
                let got = send(&mesh, version, request(version, full("body"))).await;
                (got.status.as_u16(), got.body.unwrap_or_default(), seen.get())
            };
            let ok = |seen| (200, "body".to_owned(), seen);
            let failed = |seen| (503, "failed".to_owned(), seen);
            assert_eq!(ask(profile(profile_route(true), budget(10)), 2).await, ok(3));
            let route = "rt_route=\"C\"";
            assert_eq!(metric(&mesh, "route_request_total", route), 1, "{version:?}");
            assert_eq!(metric(&mesh, "route_actual_request_total", route), 3);
            assert_eq!(metric(&mesh, "route_response_total", "classification=\"success\""), 1);
            assert_eq!(
                metric(&mesh, "route_actual_response_total", "classification=\"failure\""),
                2
            );
            assert_eq!(metric(&mesh, "route_retryable_total", route), 2);

            assert_eq!(ask(profile(profile_route(false), budget(10)), 1).await, failed(1));
            assert_eq!(ask(profile(profile_route(true), None), 1).await, failed(1));
            let elsewhere = ProfileRoute {
                condition: RequestMatch::Method(http::Method::GET),
                ..profile_route(true)
            };
            assert_eq!(ask(profile(elsewhere, budget(10)), 1).await, failed(1));
            let condition = ResponseMatch::Status(500..=599);
            let calm = ProfileRoute {
                response_classes: vec![ResponseClass { condition, is_failure: false }],
                ..profile_route(true)
            };
            assert_eq!(ask(profile(calm, budget(10)), 1).await, failed(1));
            // A budget of one retry in the whole time.
            let one = RetryBudget { ttl: Duration::from_secs(1), ..budget(1).unwrap() };
            assert_eq!(ask(profile(profile_route(true), Some(one)), 100).await, failed(2));
            assert_eq!(metric(&mesh, "route_retryable_total", "skipped=\"no_budget\""), 1);
        });
    }
}

#[test]
fn profiles_limit_the_wait_for_the_head() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let slow_route = || ProfileRoute { timeout: Some(80 * MS), ..profile_route(false) };
            let silent = slow(version, 60_000 * MS, MS, 1).await;
            mesh.publish([mesh.endpoint(silent, Way::Meshed).await]);
            publish_profile(&mesh, profile(slow_route(), None));
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(
                (got.status.as_u16(), got.headers["l5d-proxy-connection"].to_str().unwrap()),
                (504, "close")
            );
            // The body may take its time.
            let lengthy = slow(version, MS, 50 * MS, 4).await;
            mesh.publish([mesh.endpoint(lengthy, Way::Meshed).await]);
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(got.body.as_deref(), Some("...."), "{version:?}");
        });
    }
}

#[test]
fn profiles_split_traffic_by_weight_as_they_change() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let targets: Vec<_> = ["a", "b"]
                .map(|name| {
                    let host = format!("{name}.default.svc.cluster.local:80");
                    hauberk_model::Authority::parse(&host, Port::new(80).unwrap()).unwrap()
                })
                .into();
            for (authority, status) in targets.iter().zip([201, 202]) {
                let application = constant(version, status, &[]).await;
                let endpoint = mesh.endpoint(application, Way::Meshed).await;
                let by_address = [(endpoint.address, Arc::new(endpoint))].into_iter().collect();
                let set = hauberk_model::Endpoints { labels: Arc::default(), by_address };
                let set = Lookup::Known(Arc::new(set));
                mesh.client.control.endpoints(authority.clone(), set);
            }
            let itself = constant(version, 200, &[]).await;
            mesh.publish([mesh.endpoint(itself, Way::Meshed).await]);
            let split = |weights: [u32; 2]| {
                let targets = targets.iter().zip(weights);
                let targets = targets.map(|(authority, weight)| WeightedTarget {
                    authority: authority.clone(),
                    weight,
                    backend: None,
                });
                publish_profile(
                    &mesh,
                    Profile { targets: targets.collect(), ..Profile::default() },
                );
            };
            split([3, 1]);
            let first = answered(&mesh, version, 80, 201).await;
            assert!((40..80).contains(&first), "{version:?}: {first} of 80 at three in four");
            split([0, 1]);
            assert_eq!(answered(&mesh, version, 20, 202).await, 20, "{version:?}");
            split([0, 0]);
            assert_eq!(answered(&mesh, version, 2, 500).await, 2, "nothing is left to go to");
            // Without a split the policy counts, and then the service itself.
            publish_profile(&mesh, Profile::default());
            mesh.policy(None);
            assert_eq!(answered(&mesh, version, 20, 200).await, 20, "{version:?}");
        });
    }
}

#[test]
fn profiles_retry_grpc_calls_that_fail_in_their_trailers() {
    mesh::run(async |mesh| {
        let seen = Rc::new(Cell::new(0));
        let count = Rc::clone(&seen);
        let application = application(Version::Two, move |request| {
            let attempt = count.replace(count.get() + 1);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let response = Response::builder().header("content-type", "application/grpc");
                let data = || Ok(Frame::data(body.clone()));
                let frames = match attempt {
                    0 => vec![trailers("13")],
                    _ => vec![data(), data(), trailers("0")],
                };
                response.body(mesh::body(StreamBody::new(futures::stream::iter(frames)))).unwrap()
            }
        })
        .await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        publish_profile(&mesh, profile(profile_route(true), budget(10)));
        for attempts in [2, 3] {
            let mut call = request(Version::Two, full("abc"));
            call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            let got = send(&mesh, Version::Two, call).await;
            assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
            assert_eq!((got.body.as_deref(), seen.get()), (Some("abcabc"), attempts));
        }
    });
}
