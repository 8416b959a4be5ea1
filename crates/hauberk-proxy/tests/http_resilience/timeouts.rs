//! Limits of time, of routes and of requests that ask for themselves.

use std::cell::Cell;
use std::rc::Rc;

use crate::{
    MS, VERSIONS, application, flaky, limited,
    mesh::{self, TestError, Way, full},
    metric, request, send, serve, slow,
};
use bytes::Bytes;
use hauberk_model::timeout::Timeouts;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;

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
