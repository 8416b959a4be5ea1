//! Retries and limits of time, as routes and requests ask for them, in HTTP/1 and HTTP/2.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

#[path = "../mesh/mod.rs"]
mod mesh;

mod endpoints;
mod profiles;
mod retries;
mod timeouts;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_model::backoff::Backoff;
use hauberk_model::outbound::{
    Distribution, GrpcPolicy, GrpcRoute, HttpRoute, OutboundPolicy, OutboundProtocol, RuleAction,
};
use hauberk_model::retry::{GrpcConditions, HttpConditions, Retry};
use hauberk_model::route::{Route, Rule};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{Meta, Port};
use hauberk_proxy::control::{Lookup, Target};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh::{
    LocalExecutor, Mesh, TestBody, TestError, Way, full, http1_application, http2_application,
};

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

fn trailers(code: &'static str) -> Result<Frame<Bytes>, TestError> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    Ok(Frame::trailers(trailers))
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
