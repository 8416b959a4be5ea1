//! Which requests are tried again, how often, and with what.

use std::cell::Cell;
use std::rc::Rc;

use crate::{
    MS, VERSIONS, Version, application, flaky,
    mesh::{self, TestBody, TestError, Way, dead_address, full, http1_application},
    metric, publish_grpc, request, retries, retry, retrying, send, serve, streamed, trailers,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hauberk_model::retry::{GrpcConditions, Retry};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

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
