//! What happens when endpoints are missing, dead, wrong, or change; and what policy refuses.
//! Each case in HTTP/1 and, where it differs, in gRPC.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::filter::{HeaderEdits, HttpFilter};
use hauberk_model::inbound::{
    Authentication, Authorization, HttpRoute, HttpServer, InboundPolicy, InboundProtocol,
};
use hauberk_model::rate_limit::RateLimit;
use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::{Meta, Network};
use hauberk_process::shutdown::Cause;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mesh::{
    Mesh, Way, dead_address, exchange, full, http1_application, http2_application, http2_client,
    recording,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// A gRPC call's status: its code and its message.
async fn call(connection: tokio::io::DuplexStream) -> (String, String) {
    let mut client = http2_client(connection).await;
    let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let response = client.send_request(request.body(full("x")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let text = |name: &str| {
        response.headers().get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned())
    };
    (text("grpc-status"), text("grpc-message"))
}

fn check_answer(answer: &str, status: &str, error: &str) {
    assert_eq!(&answer[9..12], status, "{answer}");
    assert!(answer.contains(&format!("l5d-proxy-error: {error}")), "{answer}");
    assert!(answer.contains("content-length: 0\r\n"), "{answer}");
}

fn errors(mesh: &Mesh, label: &str) -> u64 {
    let text = mesh.client.registry.render();
    let start = format!("outbound_http_errors_total{{error=\"{label}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn without_endpoints_requests_wait_then_fail_fast_then_recover() {
    mesh::run_paused(async |mesh| {
        mesh.policy(None);
        mesh.publish([]);
        let start = Instant::now();
        check_answer(&exchange(mesh.connect(), GET).await, "504", "no endpoint of");
        assert_eq!(start.elapsed().as_secs(), 3);
        let again = Instant::now();
        check_answer(&exchange(mesh.connect(), GET).await, "504", "no endpoint of");
        let (code, message) = call(mesh.connect()).await;
        assert_eq!((code.as_str(), message.starts_with("no endpoint of")), ("4", true));
        assert_eq!(again.elapsed(), Duration::ZERO, "shut: nobody waits again");
        assert_eq!(errors(&mesh, "failfast"), 3);
    });
}

#[test]
fn a_waiting_request_is_served_by_the_endpoint_that_comes() {
    mesh::run(async |mesh| {
        mesh.policy(None);
        mesh.publish([]);
        let (application, _) = recording().await;
        let endpoint = mesh.endpoint(application, Way::Meshed).await;
        let waiting = exchange(mesh.connect(), GET);
        let coming = async {
            mesh::until(|| mesh.client.worker.http.outbound.in_flight() == 1).await;
            mesh.publish([endpoint]);
        };
        let (answer, ()) = tokio::join!(waiting, coming);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

#[test]
fn requests_to_a_dead_endpoint_go_to_another() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            mesh.policy(None);
            let (application, seen) = recording().await;
            let mut dead = mesh.endpoint(application, way).await;
            dead.address = dead_address().await;
            mesh.publish([dead, mesh.endpoint(application, way).await]);
            for _ in 0..20 {
                let answer = exchange(mesh.connect(), GET).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
            }
            assert_eq!(seen.borrow().len(), 20, "{way:?}");
        }
    });
}

#[test]
fn an_endpoint_that_nobody_listens_on_is_502() {
    mesh::run(async |mesh| {
        mesh.serve(dead_address().await, Way::Unmeshed).await;
        let answer = exchange(mesh.connect(), GET).await;
        check_answer(&answer, "502", "cannot connect to 127.0.0.1:");
        assert!(answer.contains("l5d-proxy-connection: close"), "{answer}");
        assert_eq!(errors(&mesh, "i/o"), 1);
    });
}

#[test]
fn a_known_address_that_refuses_is_told_at_once() {
    mesh::run(async |mesh| {
        let dead = dead_address().await;
        mesh.publish_policy(vec![mesh::route_to(dead)], None);
        let start = Instant::now();
        check_answer(&exchange(mesh.connect(), GET).await, "502", "cannot connect to 127.0.0.1:");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let (application, _) = recording().await;
        mesh.publish_policy(vec![mesh::route_to(application)], None);
        let answer = exchange(mesh.connect(), GET).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

#[test]
fn an_application_that_is_not_there_is_502_through_two_proxies() {
    mesh::run(async |mesh| {
        for way in [Way::Meshed, Way::MeshedPlainHttp] {
            let application = dead_address().await;
            mesh.serve(application, way).await;
            let answer = exchange(mesh.connect(), GET).await;
            assert_eq!(&answer[9..12], "502", "{way:?} {answer}");
            // The next proxy's words are for us and stay here.
            assert!(!answer.contains("l5d-"), "{way:?} {answer}");
            let text = mesh.server.registry.render();
            let counted =
                format!("inbound_http_errors_total{{error=\"i/o\",target_addr=\"{application}\"");
            assert!(text.contains(&counted), "{text}");
        }
    });
}

#[test]
fn a_peer_that_asks_for_the_end_gets_it_where_there_is_no_other_endpoint() {
    const KEPT: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    mesh::run(async |mesh| {
        // The server's proxy cannot reach its application, and says that connections should end.
        let endpoint = mesh.endpoint(dead_address().await, Way::Meshed).await;
        mesh.policy(None);
        mesh.publish([endpoint.clone()]);
        let mut kept = mesh.connect();
        kept.write_all(KEPT.as_bytes()).await.unwrap();
        let balanced = mesh::read_until(&mut kept, "\r\n\r\n").await;
        assert_eq!(&balanced[9..12], "502", "{balanced}");
        assert!(!balanced.contains("connection: close"), "{balanced}");

        mesh.publish_policy(vec![mesh::forward_to(endpoint)], None);
        kept.write_all(KEPT.as_bytes()).await.unwrap();
        let mut forwarded = String::new();
        kept.read_to_string(&mut forwarded).await.unwrap();
        // By now the server's proxy may know that nobody is there.
        assert!(["502", "504"].contains(&&forwarded[9..12]), "{forwarded}");
        assert!(forwarded.contains("connection: close"), "{forwarded}");
        assert!(!forwarded.contains("l5d-proxy-connection"), "{forwarded}");
    });
}

#[test]
fn draining_waits_for_connections_that_left_http() {
    const HEAD: &str =
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    mesh::run(async |mesh| {
        let application = mesh::application(async |mut socket| {
            let mut byte = [0; 1];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_exact(&mut byte).await.is_ok() {
                head.push(byte[0]);
            }
            let agreed = b"HTTP/1.1 101 Echo\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            socket.write_all(agreed).await.unwrap();
            while socket.read_exact(&mut byte).await.is_ok() {
                let _ = socket.write_all(&byte).await;
            }
        })
        .await;
        mesh.serve(application, Way::Meshed).await;
        let mut upgraded = mesh.connect();
        upgraded.write_all(HEAD.as_bytes()).await.unwrap();
        let answer = mesh::read_until(&mut upgraded, "\r\n\r\n").await;
        assert_eq!(&answer[9..12], "101", "{answer}");
        for shutdown in [&mesh.client.worker.shutdown, &mesh.server.worker.shutdown] {
            shutdown.drain(Cause::Requested);
        }
        for word in ["still", "here"] {
            upgraded.write_all(word.as_bytes()).await.unwrap();
            assert_eq!(mesh::read_until(&mut upgraded, word).await, word);
        }
        assert_eq!(mesh.client.worker.shutdown.guards(), 1);
        drop(upgraded);
        mesh::until(|| mesh.client.worker.shutdown.guards() == 0).await;
    });
}

#[test]
fn an_application_that_comes_late_is_waited_for() {
    mesh::run(async |mesh| {
        let application = dead_address().await;
        let answering = exchange(mesh.connect_inbound(application), GET);
        let late = async {
            mesh::until(|| mesh.server.worker.http.inbound.in_flight() == 1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            tokio::net::TcpListener::bind(application).await.unwrap()
        };
        let serving = async {
            let (mut socket, _) = late.await.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = socket.read(&mut buffer).await.unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.unwrap();
        };
        let (answer, ()) = tokio::join!(answering, serving);
        assert!(answer.ends_with("late"), "{answer}");
    });
}

#[test]
fn a_server_with_another_identity_gets_no_request() {
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        mesh.policy(None);
        let mut endpoint = mesh.endpoint(application, Way::Meshed).await;
        if let Some(tls) = &mut endpoint.tls {
            tls.identity =
                "other.default.serviceaccount.identity.linkerd.cluster.local".parse().unwrap();
        }
        mesh.publish([endpoint]);
        let answer = exchange(mesh.connect(), GET).await;
        check_answer(&answer, "502", "TLS handshake with");
        assert!(seen.borrow().is_empty());
    });
}

#[test]
fn a_demanded_identity_must_be_that_of_the_endpoint() {
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        let ask = |id: &str| {
            let head = format!(
                "GET / HTTP/1.1\r\nhost: web\r\nl5d-require-id: {id}\r\nconnection: close\r\n\r\n"
            );
            exchange(mesh.connect(), Box::leak(head.into_boxed_str()))
        };
        mesh.serve(application, Way::Meshed).await;
        let answer = ask(mesh.server_id.as_str()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!seen.borrow()[0].headers.contains_key("l5d-require-id"));
        check_answer(&ask("other.default").await, "502", "required identity other.default");
        mesh.serve(application, Way::Unmeshed).await;
        mesh::until(|| true).await;
        assert_eq!(errors(&mesh, "identity required"), 1);
    });
}

#[test]
fn endpoints_that_come_and_go_lose_no_request() {
    const REQUESTS: usize = 600;
    mesh::run(async |mesh| {
        for way in [Way::Meshed, Way::Unmeshed] {
            mesh.policy(None);
            let mut endpoints = Vec::new();
            for _ in 0..4 {
                let application = http1_application(async |_| {
                    // Some are under way whenever the set changes.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Response::new(full("ok"))
                })
                .await;
                endpoints.push(mesh.endpoint(application, way).await);
            }
            mesh.publish(endpoints.clone());
            let done = Cell::new(0);
            let churn = async {
                let mut turn = 0;
                while done.get() < REQUESTS {
                    let keep = endpoints.iter().enumerate().filter(|(n, _)| *n != turn % 4);
                    mesh.publish(keep.map(|(_, endpoint)| endpoint.clone()));
                    turn += 1;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                turn
            };
            let load = async {
                let mut running = FuturesUnordered::new();
                for n in 0..REQUESTS {
                    running.push(exchange(mesh.connect(), GET));
                    if n >= 20 {
                        let answer = running.next().await.unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
                        done.set(done.get() + 1);
                    }
                }
                while let Some(answer) = running.next().await {
                    assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
                    done.set(done.get() + 1);
                }
            };
            let (turns, ()) = tokio::join!(churn, load);
            assert!(turns > 10, "the set changed {turns} times");
        }
    });
}

#[test]
fn a_failing_endpoint_is_left_alone() {
    mesh::run(async |mesh| {
        let minute = Duration::from_secs(60);
        let backoff = Backoff::new(minute, minute, 0.0).unwrap();
        let kind = FailureAccrualKind::Consecutive { max_failures: 3, backoff };
        mesh.policy(Some(FailureAccrual { kind, min_ready_endpoints: 0 }));
        let bad =
            http1_application(async |_| Response::builder().status(500).body(full("")).unwrap())
                .await;
        let good = http1_application(async |_| Response::new(full("ok"))).await;
        let endpoints =
            [mesh.endpoint(bad, Way::Meshed).await, mesh.endpoint(good, Way::Meshed).await];
        mesh.publish(endpoints);
        let failed = async |requests: usize| {
            let answers = (0..requests).map(|_| exchange(mesh.connect(), GET));
            let answers = futures::future::join_all(answers).await;
            answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 500")).count()
        };
        let mut failures = 0;
        while failures < 3 {
            // Together, so that the load is spread over both.
            failures += failed(20).await;
        }
        assert_eq!(failed(100).await, 0);
    });
}

fn authorization(authentication: Authentication) -> Authorization {
    let meta = Meta::default("test");
    Authorization { meta, networks: Network::all(), authentication }
}

fn server_policy(authentication: Authentication, rate_limit: Option<u32>) -> InboundPolicy {
    let routes = vec![HttpRoute::catch_all(Meta::default("default"), Arc::new([]))].into();
    let rate_limit = rate_limit.map(|total| {
        let meta = Meta::default("limit");
        Arc::new(RateLimit { meta, total: Some(total), identity: None, overrides: Vec::new() })
    });
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "server", "default", "web"),
        protocol: InboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpServer { routes, rate_limit },
        },
        authorizations: Arc::new([authorization(authentication)]),
    }
}

#[test]
fn only_who_is_permitted_reaches_the_application() {
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        mesh.inbound_policy(application, server_policy(Authentication::any_identity(), None));
        mesh.serve(application, Way::Meshed).await;
        let answer = exchange(mesh.connect(), GET).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = exchange(mesh.connect_inbound(application), GET).await;
        assert_eq!(&answer[9..12], "403", "{answer}");
        assert!(!answer.contains("l5d-"), "strangers are told nothing: {answer}");
        assert_eq!(call(mesh.connect_inbound(application)).await.0, "7");
        assert_eq!(seen.borrow().len(), 1);
        let text = mesh.server.registry.render();
        for (start, count) in [
            ("inbound_http_authz_allow_total{", " 1"),
            ("inbound_http_authz_deny_total{", " 2"),
            ("request_total{direction=\"inbound\"", " 1"),
        ] {
            let line = text.lines().find(|line| line.starts_with(start)).expect(start);
            assert!(line.ends_with(count) && line.contains("srv_name=\"web\""), "{line}");
        }
        // The next request sees the next policy, on the same connection.
        let mut kept = mesh.connect();
        kept.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        mesh::read_until(&mut kept, "got 0").await;
        let nobody = InboundPolicy {
            authorizations: Arc::new([]),
            ..server_policy(Authentication::Unauthenticated, None)
        };
        mesh.inbound_policy(application, nobody);
        let answer = exchange(kept, GET).await;
        assert_eq!(&answer[9..12], "403", "{answer}");
    });
}

#[test]
fn refusals_name_what_decided() {
    mesh::run(async |mesh| {
        let (application, _) = recording().await;
        mesh.serve(application, Way::Meshed).await;
        let server = "server default/web";
        let nobody = InboundPolicy {
            authorizations: Arc::new([]),
            ..server_policy(Authentication::Unauthenticated, None)
        };
        mesh.inbound_policy(application, nobody);
        let told = format!("unauthorized: default default of {server} does not permit this client");
        assert_eq!(call(mesh.connect()).await, ("7".to_owned(), told));

        mesh.inbound_policy(application, server_policy(Authentication::Unauthenticated, Some(1)));
        let calls = (0..10).map(|_| call(mesh.connect()));
        let calls = futures::future::join_all(calls).await;
        let refused = calls.iter().find(|(code, _)| code == "8").expect("10 at 1 per second");
        assert_eq!(refused.1, format!("rate limit exceeded: default limit of {server}, total"));

        let no_route = InboundPolicy {
            protocol: InboundProtocol::Http2(HttpServer { routes: Arc::new([]), rate_limit: None }),
            ..server_policy(Authentication::Unauthenticated, None)
        };
        mesh.inbound_policy(application, no_route);
        let told = format!("no route found: {server} has none for this request");
        assert_eq!(call(mesh.connect()).await, ("5".to_owned(), told));
    });
}

/// An application that begins an answer with `head`, then says what it is told to, to each connection.
async fn talker(
    head: &'static str,
) -> (std::net::SocketAddr, tokio::sync::broadcast::Sender<&'static str>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (say, _) = tokio::sync::broadcast::channel::<&'static str>(8);
    let told = say.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut told = told.subscribe();
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 1024];
                if socket.read(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                socket.write_all(head.as_bytes()).await.unwrap();
                while let Ok(text) = told.recv().await {
                    if socket.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, say)
}

#[test]
fn a_changed_policy_ends_what_it_no_longer_allows() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    let upgrade = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\nfirst";
    let get = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let ask = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
    let chunk = "6\r\nsecond\r\n";
    for (head, request, more, end) in [(answer, get, chunk, "\r\n"), (upgrade, ask, "second", "")] {
        mesh::run(async |mesh| {
            let (application, say) = talker(head).await;
            let anybody = || server_policy(Authentication::Unauthenticated, None);
            mesh.inbound_policy(application, anybody());
            let mut client = mesh.connect_inbound(application);
            client.write_all(request.as_bytes()).await.unwrap();
            mesh::read_until(&mut client, &format!("first{end}")).await;
            let mut idle = mesh.connect_inbound(application);
            idle.write_all(b"GET / HT").await.unwrap();

            // A change that permits it changes nothing.
            mesh.inbound_policy(
                application,
                server_policy(Authentication::Unauthenticated, Some(100)),
            );
            say.send(more).unwrap();
            mesh::read_until(&mut client, &format!("second{end}")).await;
            mesh.inbound_policy(application, server_policy(Authentication::any_identity(), None));
            let mut rest = Vec::new();
            let ended =
                tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut rest));
            let _ = ended.await.expect("the connection ends");
            let text = mesh.server.registry.render();
            let line = text.lines().find(|l| l.starts_with("inbound_tcp_authz_terminate_total{"));
            assert!(line.is_some_and(|line| line.ends_with(" 1")), "{text}");
            // A connection without a request under way is told when it asks.
            idle.write_all(b"TP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut told = String::new();
            idle.read_to_string(&mut told).await.unwrap();
            assert_eq!(&told[9..12], "403", "{told}");
        });
    }
}

#[test]
fn a_rate_limit_refuses_what_is_too_much() {
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        let policy = server_policy(Authentication::Unauthenticated, Some(2));
        mesh.inbound_policy(application, policy);
        mesh.serve(application, Way::Meshed).await;
        // Together, so that they arrive within a moment of each other.
        let answers = (0..20).map(|_| exchange(mesh.connect(), GET));
        let answers = futures::future::join_all(answers).await;
        let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 429")).count();
        assert!(refused > 0, "nothing refused of 20 at 2 per second");
        assert_eq!(seen.borrow().len(), 20 - refused);
        let text = mesh.server.registry.render();
        let counted = text.lines().find(|l| l.starts_with("inbound_http_local_ratelimit_total{"));
        assert!(counted.is_some_and(|line| line.contains("ratelimit_scope=\"total\"")), "{text}");
    });
}

#[test]
fn routes_are_found_and_their_filters_applied() {
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        mesh.serve(application, Way::Meshed).await;
        let path = Some(PathMatch::Prefix("/api".into()));
        let mut api = mesh::route(vec![HttpMatch { path, ..HttpMatch::default() }]);
        let set = vec![(HeaderName::from_static("x-route"), HeaderValue::from_static("api"))];
        let edits = HeaderEdits { set, ..HeaderEdits::default() };
        let filters = &mut api.route.rules[0].action.filters;
        filters.push(HttpFilter::RequestHeaders(edits.clone()));
        filters.push(HttpFilter::ResponseHeaders(edits));
        mesh.publish_policy(vec![api], None);
        let ask = async |path: &str| {
            let text = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
            exchange(mesh.connect(), &text).await
        };
        let answer = ask("/api/x").await;
        assert!(answer.contains("x-route: api\r\n"), "{answer}");
        assert_eq!(seen.borrow()[0].headers["x-route"], "api");
        check_answer(&ask("/other").await, "404", "no route found");
        assert_eq!(seen.borrow().len(), 1);
    });
}

#[test]
fn a_request_has_the_time_its_route_gives() {
    let limit = Duration::from_millis(100);
    let patient = || {
        let mut route = mesh::route(Vec::new());
        route.route.rules[0].action.timeouts.request = Some(limit);
        vec![route]
    };
    mesh::run(async |mesh| {
        let silent = http1_application(async |_| std::future::pending().await).await;
        mesh.serve(silent, Way::Meshed).await;
        mesh.publish_policy(patient(), None);
        let start = Instant::now();
        check_answer(&exchange(mesh.connect(), GET).await, "504", "request timed out");
        assert!(start.elapsed() >= limit);
        mesh::until(|| mesh.server.worker.http.inbound.in_flight() == 0).await;

        // Headers come in time, the body does not: HTTP/1 sees a broken body, gRPC a status.
        let endless = http2_application(async |_| {
            let never = futures::stream::pending::<Result<http_body::Frame<_>, mesh::TestError>>();
            Ok(Response::new(mesh::body(http_body_util::StreamBody::new(never))))
        })
        .await;
        mesh.serve(endless, Way::Meshed).await;
        mesh.publish_policy(patient(), None);
        let mut client = http2_client(mesh.connect()).await;
        let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
        let response = client.send_request(request.body(full("x")).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "4");
        let request = Request::get("http://web/").body(full("")).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert!(response.into_body().collect().await.is_err());
    });
}

#[test]
fn draining_finishes_http1_exchanges_and_closes_idle_connections() {
    mesh::run(async |mesh| {
        let release = Rc::new(tokio::sync::Notify::new());
        let gate = Rc::clone(&release);
        let application = http1_application(move |request: Request<Incoming>| {
            let gate = Rc::clone(&gate);
            async move {
                if request.uri().path() == "/slow" {
                    gate.notified().await;
                }
                Response::new(full("done"))
            }
        })
        .await;
        mesh.serve(application, Way::Meshed).await;
        let mut idle = mesh.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        mesh::read_until(&mut idle, "done").await;
        let mut busy = mesh.connect();
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        mesh::until(|| mesh.server.worker.http.inbound.in_flight() == 1).await;

        mesh.client.worker.shutdown.drain(Cause::Requested);
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "idle connections just close");
        release.notify_one();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
        mesh::until(|| mesh.client.worker.shutdown.guards() == 0).await;
    });
}

#[test]
fn a_replaced_proxy_answers_once_more_on_idle_http1_connections() {
    mesh::run(async |mesh| {
        let application =
            http1_application(|_: Request<Incoming>| async { Response::new(full("done")) }).await;
        mesh.serve(application, Way::Meshed).await;
        let mut idle = mesh.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        mesh::read_until(&mut idle, "done").await;

        let shutdown = &mesh.client.worker.shutdown;
        shutdown.drain(Cause::Replaced);
        let nothing = tokio::time::timeout(Duration::from_millis(50), idle.read_u8()).await;
        assert!(nothing.is_err(), "the connection is neither closed nor spoken on");
        assert_eq!(shutdown.guards(), 1);
        idle.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        idle.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
        mesh::until(|| shutdown.guards() == 0).await;
    });
}

#[test]
fn draining_finishes_http2_streams_and_ends_the_connection() {
    mesh::run(async |mesh| {
        let release = Rc::new(tokio::sync::Notify::new());
        let gate = Rc::clone(&release);
        let application = http2_application(move |_| {
            let gate = Rc::clone(&gate);
            async move {
                gate.notified().await;
                Ok(Response::new(full("done")))
            }
        })
        .await;
        mesh.serve(application, Way::Meshed).await;
        let mut streams = http2_client(mesh.connect()).await;
        let request = || Request::get("http://web/slow").body(full("")).unwrap();
        let call = tokio::task::spawn_local(streams.send_request(request()));
        mesh::until(|| mesh.server.worker.http.inbound.in_flight() == 1).await;

        mesh.client.worker.shutdown.drain(Cause::Requested);
        assert_eq!(mesh.client.worker.shutdown.guards(), 1, "the stream holds the connection");
        release.notify_one();
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "done");
        mesh::until(|| mesh.client.worker.shutdown.guards() == 0).await;
        assert!(streams.send_request(request()).await.is_err());
    });
}
