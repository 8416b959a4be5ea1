//! Copies of requests, delays and CORS, as filters of routes ask for them, in HTTP/1 and HTTP/2.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_model::cors::{Cors, OriginPattern};
use hauberk_model::filter::{Delay, HeaderEdits, HttpFilter, Mirror, Ratio};
use hauberk_model::name::{Authority, ServiceName};
use hauberk_model::outbound::{Distribution, HttpRoute};
use hauberk_model::retry::{HttpConditions, Retry};
use hauberk_model::{Endpoint, Endpoints, Port};
use hauberk_proxy::control::Lookup;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh::{Mesh, TestBody, Way, full, http1_application, until};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

const BIG: usize = 3 << 20;

fn copy_service() -> (ServiceName, Authority) {
    let service = ServiceName::new("default", "copy-svc");
    let authority = Authority::new("copy-svc.default.svc.cluster.local", Port::new(80).unwrap());
    (service, authority)
}

fn mirror(ratio: Ratio) -> HttpFilter {
    let (service, authority) = copy_service();
    HttpFilter::Mirror(Mirror { service, authority, ratio })
}

/// The service that copies go to has this endpoint.
fn publish_copy(mesh: &Mesh, endpoint: Endpoint) {
    let by_address = [(endpoint.address, Arc::new(endpoint))].into();
    let set = Endpoints { labels: Arc::default(), by_address };
    mesh.client.control.endpoints(copy_service().1, Lookup::Known(Arc::new(set)));
}

fn with_filters(filters: Vec<HttpFilter>) -> HttpRoute {
    let mut route = mesh::route(Vec::new());
    route.route.rules[0].action.filters = filters;
    route
}

fn of_backend(filters: Vec<HttpFilter>) -> HttpRoute {
    let mut route = mesh::route(Vec::new());
    match &mut route.route.rules[0].action.backends {
        Distribution::FirstAvailable(backends) => backends[0].filters = filters,
        other => panic!("{other:?}"),
    }
    route
}

type Seen = Rc<RefCell<Vec<(http::request::Parts, Bytes)>>>;

/// An application that keeps whole requests and answers with that status.
async fn keeping(status: StatusCode) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let keep = Rc::clone(&seen);
    let address = http1_application(move |request: Request<Incoming>| {
        let keep = Rc::clone(&keep);
        async move {
            let (parts, body) = request.into_parts();
            // A copy may break off; then there is nothing to keep.
            if let Ok(body) = body.collect().await {
                keep.borrow_mut().push((parts, body.to_bytes()));
            }
            let mut response = Response::new(full("answer"));
            *response.status_mut() = status;
            response
        }
    })
    .await;
    (address, seen)
}

async fn http1(mesh: &Mesh, request: Request<TestBody>) -> (StatusCode, Bytes) {
    let io = TokioIo::new(mesh.connect());
    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

fn post(body: TestBody) -> Request<TestBody> {
    Request::post("/path?query").header("host", "web").header("x-own", "1").body(body).unwrap()
}

/// What is counted of copies, by result.
fn copies(mesh: &Mesh, result: &str) -> u64 {
    let text = mesh.client.registry.render();
    let name = "hauberk_outbound_mirror_requests_total";
    let label = format!("result=\"{result}\"");
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn copies_have_head_and_body_as_the_filters_left_them() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        // What becomes of a copy is nothing to the client.
        let (elsewhere, copied) = keeping(StatusCode::INTERNAL_SERVER_ERROR).await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        publish_copy(&mesh, mesh.endpoint(elsewhere, Way::Meshed).await);
        let edits = HeaderEdits {
            set: vec![("x-edited".parse().unwrap(), "2".parse().unwrap())],
            ..HeaderEdits::default()
        };
        for route in [
            with_filters(vec![mirror(Ratio::ALL), HttpFilter::RequestHeaders(edits.clone())]),
            of_backend(vec![HttpFilter::RequestHeaders(edits), mirror(Ratio::ALL)]),
        ] {
            mesh.publish_policy(vec![route], None);
            for size in [0, 10, 100_000] {
                let body = Bytes::from(vec![b'x'; size]);
                let answer = http1(&mesh, post(full(body.clone()))).await;
                assert_eq!(answer, (StatusCode::OK, Bytes::from_static(b"answer")));
                until(|| copied.borrow().len() == 1).await;
                for (parts, got) in [seen.take().remove(0), copied.take().remove(0)] {
                    assert_eq!(got, body);
                    assert_eq!(parts.method, "POST");
                    assert_eq!(parts.uri.path_and_query().unwrap(), "/path?query");
                    assert_eq!(parts.headers["x-own"], "1");
                    assert_eq!(parts.headers["x-edited"], "2");
                    assert_eq!(parts.headers["host"], "web");
                }
            }
        }
        until(|| copies(&mesh, "answered") == 6).await;
        assert_eq!((copies(&mesh, "failed"), copies(&mesh, "dropped")), (0, 0));
    });
}

#[test]
fn http2_requests_are_copied_too() {
    mesh::run(|mesh| async move {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&seen);
        let application = mesh::http2_application(move |request: Request<Incoming>| {
            let keep = Rc::clone(&keep);
            async move {
                let path = request.uri().path().to_owned();
                let collected = request.into_body().collect().await.unwrap();
                let trailers = collected.trailers().cloned();
                keep.borrow_mut().push((path, collected.to_bytes(), trailers));
                Ok(Response::new(full("answer")))
            }
        })
        .await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        publish_copy(&mesh, mesh.endpoint(application, Way::Unmeshed).await);
        mesh.publish_policy(vec![with_filters(vec![mirror(Ratio::ALL)])], None);

        let mut sender = mesh::http2_client(mesh.connect()).await;
        let trailers = http::HeaderMap::from_iter([("x-t".parse().unwrap(), "1".parse().unwrap())]);
        let frames = [
            Ok::<_, mesh::TestError>(http_body::Frame::data(Bytes::from_static(b"data"))),
            Ok(http_body::Frame::trailers(trailers)),
        ];
        let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
        let request = Request::post("http://web/a.B/C").body(mesh::body(body)).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        until(|| seen.borrow().len() == 2).await;
        for (path, body, trailers) in seen.take() {
            assert_eq!((path.as_str(), &*body), ("/a.B/C", &b"data"[..]));
            assert_eq!(trailers.unwrap()["x-t"], "1");
        }
        until(|| copies(&mesh, "answered") == 1).await;
    });
}

#[test]
fn a_share_of_requests_is_copied() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        let (elsewhere, copied) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Unmeshed).await]);
        publish_copy(&mesh, mesh.endpoint(elsewhere, Way::Unmeshed).await);
        let quarter = Ratio { numerator: 25, denominator: 100 };
        mesh.publish_policy(vec![with_filters(vec![mirror(quarter)])], None);
        for _ in 0..400 {
            assert_eq!(http1(&mesh, post(full("x"))).await.0, StatusCode::OK);
        }
        assert_eq!(seen.borrow().len(), 400);
        let all = || copies(&mesh, "answered") + copies(&mesh, "dropped");
        until(|| mesh.client.worker.http.mirrors.in_flight() == 0).await;
        // The randomness is seeded; this is six standard deviations to each side.
        assert!((50..=150).contains(&all()), "{}", all());
        assert_eq!(copied.borrow().len() as u64, copies(&mesh, "answered"));

        mesh.publish_policy(vec![with_filters(vec![mirror(Ratio::NONE)])], None);
        let before = all();
        for _ in 0..50 {
            http1(&mesh, post(full("x"))).await;
        }
        assert_eq!(all(), before);
    });
}

#[test]
fn a_copy_that_goes_nowhere_costs_the_request_nothing() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        mesh.publish_policy(vec![with_filters(vec![mirror(Ratio::ALL)])], None);

        // Nobody listens there.
        publish_copy(&mesh, Endpoint::bare(mesh::dead_address().await));
        let began = Instant::now();
        assert_eq!(http1(&mesh, post(full("short"))).await.0, StatusCode::OK);
        let took = began.elapsed();
        until(|| copies(&mesh, "failed") == 1).await;
        assert!(began.elapsed() > took, "the request did not wait for its copy");

        // Somebody reads a part of it and hangs up.
        let body = Bytes::from(vec![b'x'; BIG]);
        let rude = mesh::application(|mut socket| async move {
            let _ = socket.read(&mut [0; 100]).await;
        })
        .await;
        publish_copy(&mesh, Endpoint::bare(rude));
        assert_eq!(http1(&mesh, post(full(body.clone()))).await.0, StatusCode::OK);
        assert_eq!(seen.borrow().last().unwrap().1, body);
        until(|| copies(&mesh, "failed") == 2).await;
    });
}

/// Takes as long as a copy may take.
#[test]
fn a_copy_that_nobody_reads_costs_the_request_nothing() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        mesh.publish_policy(vec![with_filters(vec![mirror(Ratio::ALL)])], None);
        let deaf = mesh::application(|socket| async move {
            std::future::pending::<()>().await;
            drop(socket);
        })
        .await;
        publish_copy(&mesh, Endpoint::bare(deaf));
        let body = Bytes::from(vec![b'x'; BIG]);
        assert_eq!(http1(&mesh, post(full(body.clone()))).await.0, StatusCode::OK);
        assert_eq!(seen.borrow().last().unwrap().1, body);
        until(|| copies(&mesh, "failed") == 1).await;
    });
}

#[test]
fn a_request_that_is_tried_again_is_copied_once() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::SERVICE_UNAVAILABLE).await;
        let (elsewhere, copied) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        publish_copy(&mesh, mesh.endpoint(elsewhere, Way::Meshed).await);
        let retry = Retry {
            max_retries: 2,
            max_request_bytes: 65_536,
            conditions: HttpConditions(vec![500..=599]),
            timeout: None,
            backoff: None,
        };
        for mut route in
            [with_filters(vec![mirror(Ratio::ALL)]), of_backend(vec![mirror(Ratio::ALL)])]
        {
            route.route.rules[0].action.retry = Some(retry.clone());
            mesh.publish_policy(vec![route], None);
            let (status, _) = http1(&mesh, post(full("body"))).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            until(|| !copied.borrow().is_empty()).await;
            assert_eq!(seen.take().len(), 3);
            until(|| mesh.client.worker.http.mirrors.in_flight() == 0).await;
            let copied = copied.take();
            assert_eq!(copied.len(), 1);
            assert_eq!(copied[0].1, "body");
        }
    });
}

#[test]
fn pages_of_allowed_origins_may_read_responses() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        let cors = Cors {
            origins: vec![OriginPattern::parse("https://*.example.org").unwrap()],
            any_method: true,
            max_age: 60,
            ..Cors::default()
        };
        let cors = vec![HttpFilter::Cors(Arc::new(cors))];
        let retry = Retry {
            max_retries: 1,
            max_request_bytes: 1000,
            conditions: HttpConditions(vec![500..=599]),
            timeout: None,
            backoff: None,
        };
        let mut with_retries = of_backend(cors.clone());
        with_retries.route.rules[0].action.retry = Some(retry);
        for route in [with_filters(cors.clone()), of_backend(cors), with_retries] {
            mesh.publish_policy(vec![route], None);
            let ask = async |method: &str, origin: &str| {
                let text = format!(
                    "{method} / HTTP/1.1\r\nhost: web\r\norigin: {origin}\r\n\
                     access-control-request-method: PUT\r\nconnection: close\r\n\r\n"
                );
                mesh::exchange(mesh.connect(), &text).await.to_lowercase()
            };
            let good = "https://www.example.org";
            let allowed = format!("access-control-allow-origin: {good}\r\n");
            let preflight = ask("OPTIONS", good).await;
            assert!(preflight.starts_with("http/1.1 200"), "{preflight}");
            assert!(preflight.contains(&allowed), "{preflight}");
            assert!(preflight.contains("access-control-allow-methods: put\r\n"), "{preflight}");
            let refused = ask("OPTIONS", "https://example.com").await;
            assert!(!refused.contains("access-control"), "{refused}");
            assert!(seen.borrow().is_empty(), "the application sees no preflight");

            let answer = ask("PUT", good).await;
            assert!(answer.contains(&allowed) && answer.ends_with("answer"), "{answer}");
            assert!(answer.contains("vary: origin\r\n"), "{answer}");
            let other = ask("PUT", "https://example.com").await;
            assert!(!other.contains("access-control") && other.ends_with("answer"), "{other}");
            assert_eq!(seen.take().len(), 2);

            // Also the answers that the proxy makes up, or pages could not read why.
            for (origin, may_read) in [(good, true), ("https://example.com", false)] {
                let text = format!(
                    "PUT / HTTP/1.1\r\nhost: web\r\norigin: {origin}\r\n\
                     l5d-require-id: other.default\r\nconnection: close\r\n\r\n"
                );
                let failed = mesh::exchange(mesh.connect(), &text).await.to_lowercase();
                assert!(failed.starts_with("http/1.1 502"), "{failed}");
                assert!(failed.contains("l5d-proxy-error: required identity"), "{failed}");
                assert_eq!(failed.contains(&allowed), may_read, "{failed}");
                assert_eq!(failed.contains("vary: origin\r\n"), may_read, "{failed}");
            }
        }
    });
}

#[test]
fn a_delay_holds_its_share_of_requests_back() {
    mesh::run(|mesh| async move {
        let (application, _) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Unmeshed).await]);
        let time = Duration::from_millis(300);
        let delay = |ratio| HttpFilter::Delay(Delay { time, ratio });
        for route in [with_filters(vec![delay(Ratio::ALL)]), of_backend(vec![delay(Ratio::ALL)])] {
            mesh.publish_policy(vec![route], None);
            let began = Instant::now();
            assert_eq!(http1(&mesh, post(full("x"))).await.0, StatusCode::OK);
            assert!(began.elapsed() >= time, "{:?}", began.elapsed());
        }
        mesh.publish_policy(vec![with_filters(vec![delay(Ratio::NONE)])], None);
        // As short as it can be on a machine with other things to do: one of a few is quick.
        let mut shortest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            http1(&mesh, post(full("x"))).await;
            shortest = shortest.min(began.elapsed());
        }
        assert!(shortest < time, "{shortest:?}");
    });
}

#[test]
fn a_delay_counts_against_the_limit_of_the_request() {
    mesh::run(|mesh| async move {
        let (application, seen) = keeping(StatusCode::OK).await;
        mesh.publish([mesh.endpoint(application, Way::Unmeshed).await]);
        let delay = Delay { time: Duration::from_secs(60), ratio: Ratio::ALL };
        for mut route in [
            with_filters(vec![HttpFilter::Delay(delay)]),
            of_backend(vec![HttpFilter::Delay(delay)]),
        ] {
            route.route.rules[0].action.timeouts.request = Some(Duration::from_millis(100));
            mesh.publish_policy(vec![route], None);
            let (status, _) = http1(&mesh, post(full("x"))).await;
            assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        }
        assert!(seen.borrow().is_empty(), "nothing was sent");
    });
}
