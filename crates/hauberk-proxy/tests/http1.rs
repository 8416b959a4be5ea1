//! HTTP/1 through one proxy and through two, as bytes on the wire.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mesh::{Way, exchange, full, http1_application, read_until, recording};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends `request` every way and checks each answer and what the application saw.
fn check(
    request: &'static str,
    check_answer: impl Fn(&str),
    check_seen: impl Fn(&http::request::Parts),
) {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let (application, seen) = recording().await;
            mesh.serve(application, way).await;
            let answer = exchange(mesh.connect(), request).await;
            assert_eq!(seen.borrow().len(), 1, "{way:?}: {answer}");
            let seen = seen.borrow_mut().pop().unwrap();
            for name in seen.headers.keys() {
                let is_ours = name.as_str().starts_with("l5d-") && name != "l5d-client-id";
                assert!(!is_ours, "{way:?}: {name} reached the application");
            }
            assert!(!answer.contains("l5d-"), "{way:?}: {answer}");
            check_answer(&answer);
            check_seen(&seen);
        }
    });
}

#[test]
fn passes_a_request_and_its_answer() {
    check(
        "GET /a?b HTTP/1.1\r\nhost: web\r\nx-mine: 1\r\nte: trailers\r\nconnection: close, x-hop\r\n\
         x-hop: 1\r\nkeep-alive: 5\r\nproxy-connection: x\r\n\r\n",
        |answer| {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\ngot 0"), "{answer}");
        },
        |seen| {
            assert_eq!((seen.version, seen.uri.to_string()), (Version::HTTP_11, "/a?b".into()));
            assert_eq!(seen.headers["host"], "web");
            assert_eq!(seen.headers["x-mine"], "1");
            assert_eq!(seen.headers["te"], "trailers");
            for name in
                ["connection", "x-hop", "keep-alive", "proxy-connection", "transfer-encoding"]
            {
                assert!(!seen.headers.contains_key(name), "{name}");
            }
        },
    );
}

#[test]
fn keeps_http_1_0_without_a_host() {
    check(
        "GET /old HTTP/1.0\r\n\r\n",
        |answer| {
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
            assert!(!answer.contains("chunked"), "{answer}");
        },
        |seen| {
            assert_eq!(seen.version, Version::HTTP_10);
            assert!(!seen.headers.contains_key("host"));
        },
    );
}

#[test]
fn keeps_absolute_targets_beside_another_host() {
    check(
        "GET http://one.test/a HTTP/1.1\r\nhost: two.test\r\nconnection: close\r\n\r\n",
        |answer| assert!(answer.starts_with("HTTP/1.1 200"), "{answer}"),
        |seen| {
            assert_eq!(seen.uri.to_string(), "http://one.test/a");
            assert_eq!(seen.headers["host"], "two.test");
        },
    );
}

#[test]
fn passes_asterisk_targets() {
    check(
        "OPTIONS * HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n",
        |answer| assert!(answer.starts_with("HTTP/1.1 200"), "{answer}"),
        |seen| assert_eq!((&seen.method, seen.uri.to_string()), (&Method::OPTIONS, "*".into())),
    );
}

#[test]
fn passes_bodies_of_known_and_unknown_length() {
    check(
        "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        |answer| assert!(answer.ends_with("got 5"), "{answer}"),
        |seen| assert_eq!(seen.headers["content-length"], "5"),
    );
    check(
        "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        |answer| assert!(answer.ends_with("got 7"), "{answer}"),
        |seen| assert!(!seen.headers.contains_key("content-length")),
    );
    check(
        "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        |answer| assert!(answer.ends_with("got 0"), "{answer}"),
        |seen| assert_eq!(seen.headers["content-length"], "0"),
    );
}

#[test]
fn what_the_application_says_about_the_client_is_what_the_client_proved() {
    mesh::run(async |mesh| {
        let request = "GET / HTTP/1.1\r\nhost: web\r\nl5d-client-id: forged\r\n\
                       l5d-orig-proto: HTTP/1.0\r\nconnection: close\r\n\r\n";
        for way in [Way::Meshed, Way::MeshedPlainHttp] {
            let (application, seen) = recording().await;
            mesh.serve(application, way).await;
            exchange(mesh.connect(), request).await;
            let seen = seen.borrow_mut().pop().unwrap();
            assert_eq!(seen.headers["l5d-client-id"], mesh.client_id.as_str());
            assert_eq!(seen.version, Version::HTTP_11, "{way:?}");
        }
        let (application, seen) = recording().await;
        exchange(mesh.connect_inbound(application), request).await;
        let seen = seen.borrow_mut().pop().unwrap();
        assert!(!seen.headers.contains_key("l5d-client-id"));
        assert!(!seen.headers.contains_key("l5d-orig-proto"));
        assert_eq!(seen.version, Version::HTTP_11);
    });
}

#[test]
fn keeps_the_connection_and_bears_pipelining() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let (application, seen) = recording().await;
            mesh.serve(application, way).await;
            let mut connection = mesh.connect();
            for _ in 0..3 {
                connection.write_all(b"GET /1 HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
                read_until(&mut connection, "got 0").await;
            }
            let two = "GET /2 HTTP/1.1\r\nhost: web\r\n\r\nGET /3 HTTP/1.1\r\nhost: web\r\n\
                       connection: close\r\n\r\n";
            let answer = exchange(connection, two).await;
            assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{way:?}: {answer}");
            let paths: Vec<_> = seen.borrow().iter().map(|s| s.uri.to_string()).collect();
            assert_eq!(paths, ["/1", "/1", "/1", "/2", "/3"]);
        }
    });
}

#[test]
fn refuses_what_two_hops_could_read_differently() {
    let cases = [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET web:80 HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT http://web/ HTTP/1.1\r\nhost: web\r\n\r\n",
        "CONNECT web:80 HTTP/1.0\r\nhost: web\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
    ];
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        mesh.serve(application, Way::Meshed).await;
        for request in cases {
            for (side, connection) in
                [("outbound", mesh.connect()), ("inbound", mesh.connect_inbound(application))]
            {
                let answer = exchange(connection, request).await;
                assert!(
                    answer.starts_with("HTTP/1.") && answer[8..].starts_with(" 400"),
                    "{side} {request:?}: {answer}"
                );
            }
        }
        assert!(seen.borrow().is_empty(), "{:?}", seen.borrow());
    });
}

#[test]
fn a_request_with_both_framings_is_read_one_way_and_ends_the_connection() {
    // hyper follows RFC 9112 section 6.3: the transfer coding counts, the length is dropped.
    mesh::run(async |mesh| {
        let (application, seen) = recording().await;
        mesh.serve(application, Way::Meshed).await;
        let smuggled = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = exchange(mesh.connect(), smuggled).await;
        assert!(!answer.is_empty());
        assert!(seen.borrow().iter().all(|seen| !seen.headers.contains_key("content-length") && seen.uri != "/smuggled"), "{answer}");
    });
}

async fn quirks(request: Request<Incoming>) -> Response<mesh::TestBody> {
    let response = Response::builder();
    match request.uri().path() {
        "/head" => response.header("content-length", "17").body(full("")),
        "/204" => response.status(204).body(full("")),
        "/304" => response.status(304).header("etag", "x").body(full("")),
        "/chunked" => {
            let frames = ["one ", "two"]
                .map(|text| Ok::<_, mesh::TestError>(http_body::Frame::data(text.into())));
            let stream = futures::stream::iter(frames);
            response.body(mesh::body(http_body_util::StreamBody::new(stream)))
        }
        "/hop" => response
            .header("l5d-proxy-error", "forged")
            .header("keep-alive", "timeout=5")
            .body(full("x")),
        _ => response.status(StatusCode::NOT_FOUND).body(full("")),
    }
    .unwrap()
}

#[test]
fn answers_keep_their_framing() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let application = http1_application(quirks).await;
            mesh.serve(application, way).await;
            let ask = async |method: &str, path: &str, version: &str| {
                let text = format!(
                    "{method} {path} HTTP/{version}\r\nhost: web\r\nconnection: close\r\n\r\n"
                );
                exchange(mesh.connect(), &text).await
            };
            let head = ask("HEAD", "/head", "1.1").await;
            assert!(
                head.contains("content-length: 17\r\n") && head.ends_with("\r\n\r\n"),
                "{way:?} {head}"
            );
            let unknown = ask("HEAD", "/chunked", "1.1").await;
            assert!(!unknown.contains("content-length"), "{way:?} {unknown}");
            for path in ["/204", "/304"] {
                let empty = ask("GET", path, "1.1").await;
                assert!(
                    empty.ends_with("\r\n\r\n") && !empty.contains("transfer-encoding"),
                    "{way:?} {empty}"
                );
            }
            let chunked = ask("GET", "/chunked", "1.1").await;
            assert!(chunked.contains("transfer-encoding: chunked\r\n"), "{way:?} {chunked}");
            assert!(chunked.ends_with("0\r\n\r\n"), "{way:?} {chunked}");
            let old = ask("GET", "/chunked", "1.0").await;
            assert!(old.ends_with("\r\n\r\none two") && !old.contains("chunked"), "{way:?} {old}");
            let hop = ask("GET", "/hop", "1.1").await;
            assert!(!hop.contains("l5d-") && !hop.contains("keep-alive"), "{way:?} {hop}");
        }
    });
}

#[test]
fn a_body_that_ends_with_the_connection_is_chunked_for_who_can_read_it() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let application = mesh::application(async |mut socket| {
                let mut buffer = [0; 1024];
                if socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let answer = b"HTTP/1.0 200 OK\r\nx-old: yes\r\n\r\nuntil the end";
                    socket.write_all(answer).await.unwrap();
                }
            })
            .await;
            mesh.serve(application, way).await;
            let mut connection = mesh.connect();
            connection.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
            let answer = read_until(&mut connection, "0\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{way:?} {answer}");
            assert!(answer.contains("x-old: yes\r\n") && answer.contains("until the end"));
            let old = "GET / HTTP/1.0\r\nhost: web\r\n\r\n";
            let answer = exchange(mesh.connect(), old).await;
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{way:?} {answer}");
            assert!(answer.ends_with("\r\n\r\nuntil the end"), "{way:?} {answer}");
        }
    });
}

#[test]
fn old_clients_that_ask_for_it_keep_their_connection_where_the_end_is_told() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let application = http1_application(quirks).await;
            mesh.serve(application, way).await;
            let sides = [("out", mesh.connect()), ("in", mesh.connect_inbound(application))];
            for (side, mut connection) in sides {
                let ask = |method: &str, path: &str, more: &str| {
                    format!("{method} {path} HTTP/1.0\r\nhost: web\r\n{more}\r\n")
                };
                let kept = "Connection: Keep-Alive\r\n";
                for (request, status, says, end) in [
                    (ask("GET", "/hop", kept), 200, "content-length: 1\r\n", "\r\n\r\nx"),
                    (ask("HEAD", "/head", kept), 200, "content-length: 17\r\n", "\r\n\r\n"),
                    (ask("GET", "/204", kept), 204, "", "\r\n\r\n"),
                    (ask("POST", "/none", kept), 404, "content-length: 0\r\n", "\r\n\r\n"),
                ] {
                    connection.write_all(request.as_bytes()).await.unwrap();
                    let answer = read_until(&mut connection, end).await;
                    let line = format!("HTTP/1.0 {status} ");
                    assert!(answer.starts_with(&line), "{way:?} {side} {request}: {answer}");
                    let is_kept = answer.contains("connection: keep-alive\r\n");
                    let all = is_kept && answer.contains(says);
                    assert!(all, "{way:?} {side} {request}: {answer}");
                }
                // Nothing but the end of the connection can end this one.
                let last = exchange(connection, &ask("GET", "/chunked", kept)).await;
                assert!(last.ends_with("\r\n\r\none two"), "{way:?} {side} {last}");
                let says_more = last.contains("connection:") || last.contains("transfer-encoding");
                assert!(!says_more, "{way:?} {side} {last}");
            }
            let unasked = exchange(mesh.connect(), "GET /hop HTTP/1.0\r\nhost: web\r\n\r\n").await;
            assert!(!unasked.contains("connection:"), "{way:?} {unasked}");
        }
    });
}

#[test]
fn old_clients_are_closed_when_the_proxy_drains() {
    mesh::run(async |mesh| {
        let application = http1_application(quirks).await;
        mesh.serve(application, mesh::Way::Meshed).await;
        let mut connection = mesh.connect();
        let request = "GET /204 HTTP/1.0\r\nhost: web\r\nconnection: keep-alive\r\n\r\n";
        connection.write_all(request.as_bytes()).await.unwrap();
        let head = read_until(&mut connection, "\r\n\r\n").await;
        assert!(head.contains("connection: keep-alive\r\n"), "{head}");
        mesh.client.worker.shutdown.drain(hauberk_process::shutdown::Cause::Replaced);
        let last = exchange(connection, request).await;
        assert!(last.starts_with("HTTP/1.0 204") && !last.contains("keep-alive"), "{last}");
    });
}

#[test]
fn trailers_pass_both_ways() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let seen = Rc::new(std::cell::RefCell::new(None));
            let record = Rc::clone(&seen);
            let application = http1_application(move |request: Request<Incoming>| {
                let record = Rc::clone(&record);
                async move {
                    let body = request.into_body().collect().await.unwrap();
                    *record.borrow_mut() = body.trailers().cloned();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("x-sum", "9".parse().unwrap());
                    let frames = [
                        http_body::Frame::data("abc".into()),
                        http_body::Frame::trailers(trailers),
                    ];
                    let frames = futures::stream::iter(frames.map(Ok::<_, mesh::TestError>));
                    let body = mesh::body(http_body_util::StreamBody::new(frames));
                    Response::builder().header("trailer", "x-sum").body(body).unwrap()
                }
            })
            .await;
            mesh.serve(application, way).await;
            let request = "POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-check\r\n\
                 transfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\nx-check: 7\r\n\r\n";
            let answer = exchange(mesh.connect(), request).await;
            assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n"), "{way:?} {answer}");
            let trailers = seen.borrow_mut().take().expect("the request's trailers");
            assert_eq!(trailers["x-check"], "7", "{way:?}");
        }
    });
}

#[test]
fn an_expected_100_comes_once_and_an_early_answer_does_not_wait() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let (application, _) = recording().await;
            mesh.serve(application, way).await;
            let mut connection = mesh.connect();
            let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\
                        expect: 100-continue\r\nconnection: close\r\n\r\n";
            connection.write_all(head.as_bytes()).await.unwrap();
            let interim = read_until(&mut connection, "\r\n\r\n").await;
            assert!(interim.starts_with("HTTP/1.1 100 "), "{way:?} {interim}");
            let answer = exchange(connection, "hello").await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("got 5"),
                "{way:?} {answer}"
            );

            let application = http1_application(async |_| {
                let response = Response::builder().status(413);
                response.body(full("no")).unwrap()
            })
            .await;
            mesh.serve(application, way).await;
            let mut connection = mesh.connect();
            let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\n";
            connection.write_all(head.as_bytes()).await.unwrap();
            let early = read_until(&mut connection, "no").await;
            assert!(early.starts_with("HTTP/1.1 413"), "{way:?} {early}");
        }
    });
}

#[test]
fn large_bodies_stream_both_ways() {
    const SIZE: usize = 4 * 1024 * 1024;
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let application = http1_application(async |request: Request<Incoming>| {
                Response::new(mesh::body(request.into_body()))
            })
            .await;
            mesh.serve(application, way).await;
            let connection = mesh.connect();
            let (mut read, mut write) = tokio::io::split(connection);
            let sending = async {
                let head = format!(
                    "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\nconnection: close\r\n\r\n"
                );
                write.write_all(head.as_bytes()).await.unwrap();
                for block in 0..SIZE / 1024 {
                    write.write_all(&[block as u8; 1024]).await.unwrap();
                }
            };
            let receiving = async {
                let mut all = Vec::new();
                read.read_to_end(&mut all).await.unwrap();
                all
            };
            let ((), all) = tokio::join!(sending, receiving);
            let body = all.len() - SIZE;
            assert!(all[..body].ends_with(b"\r\n\r\n"), "{way:?}");
            assert!(
                all[body..].chunks(1024).enumerate().all(|(n, c)| c == [n as u8; 1024]),
                "{way:?}"
            );
        }
    });
}

/// Answers an upgrade with 101 (or CONNECT with 200) and then echoes in capitals.
async fn capital_echo(mut socket: tokio::net::TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let answer = if head.starts_with("connect web:443 ") {
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\nearly"
    } else if head.contains("upgrade: websocket") && head.contains("connection: upgrade") {
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly"
    } else {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"
    };
    socket.write_all(answer.as_bytes()).await.unwrap();
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        socket.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
    }
}

#[test]
fn upgrades_and_connect_become_raw_bytes() {
    let upgrade =
        "GET /ws HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let connect = "CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n\r\n";
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let application = mesh::application(capital_echo).await;
            mesh.serve(application, way).await;
            for (request, status) in [(upgrade, "101"), (connect, "200")] {
                let mut connection = mesh.connect();
                connection.write_all(request.as_bytes()).await.unwrap();
                let answer = read_until(&mut connection, "\r\n\r\nearly").await;
                assert_eq!(&answer[9..12], status, "{way:?} {answer}");
                assert!(
                    !answer.contains("content-length") && !answer.contains("transfer-encoding"),
                    "{way:?} {answer}"
                );
                assert_eq!(answer.contains("upgrade: websocket"), status == "101");
                connection.write_all(b"hello").await.unwrap();
                assert_eq!(read_until(&mut connection, "HELLO").await, "HELLO");
                connection.shutdown().await.unwrap();
                let mut rest = Vec::new();
                connection.read_to_end(&mut rest).await.unwrap();
                assert!(rest.is_empty());
            }
        }
    });
}

#[test]
fn h2c_upgrades_are_not_passed_on() {
    check(
        "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        |answer| assert!(answer.starts_with("HTTP/1.1 200"), "{answer}"),
        |seen| {
            assert!(!seen.headers.contains_key("upgrade"));
            assert!(!seen.headers.contains_key("http2-settings"));
        },
    );
}

/// Answers the first request of each connection; closes at the second without a word.
async fn once(mut socket: tokio::net::TcpStream) {
    let mut buffer = [0; 4096];
    if socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        let _ = socket.read(&mut buffer).await;
    }
}

#[test]
fn a_kept_connection_that_is_closed_under_a_request_costs_only_what_is_not_idempotent() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            for (method, status) in [("GET", "200"), ("PUT", "200"), ("POST", "502")] {
                let application = mesh::application(once).await;
                mesh.serve(application, way).await;
                let text = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
                assert!(exchange(mesh.connect(), text).await.ends_with("hi"), "{way:?}");
                // The connection grows old; that takes time and nothing else.
                tokio::time::sleep(Duration::from_millis(60)).await;
                let text = format!(
                    "{method} / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let answer = exchange(mesh.connect(), &text).await;
                assert_eq!(&answer[9..12], status, "{way:?} {method}: {answer}");
            }
        }
    });
}

#[test]
fn connections_to_the_application_are_kept_and_shared() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            let accepted = Rc::new(std::cell::Cell::new(0));
            let count = Rc::clone(&accepted);
            let application = mesh::application(move |socket| {
                count.set(count.get() + 1);
                async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let service = hyper::service::service_fn(async |_| {
                        Ok::<_, hyper::Error>(Response::new(full("hi")))
                    });
                    let _ = builder
                        .serve_connection(hyper_util::rt::TokioIo::new(socket), service)
                        .await;
                }
            })
            .await;
            mesh.serve(application, way).await;
            for _ in 0..10 {
                let text = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
                let answer = exchange(mesh.connect(), text).await;
                assert!(answer.ends_with("hi"), "{answer}");
            }
            assert!(accepted.get() <= 2, "{way:?}: {} connections for 10 requests", accepted.get());
        }
    });
}
