//! HTTP/1 as it comes out at the other end: versions, lengths, 1xx, trailers, upgrades.

use crate::message::{Kind, Message, application, ask, exchange, simple};
use crate::world::{PATIENCE, WAYS, port, world};
use std::io::{BufRead, BufReader, Read, Write};

/// The version of each hop is the version of the request: HTTP/1.0 stays HTTP/1.0, no Host is made
/// up, nothing is chunked for who cannot read it.
#[test]
fn versions_are_kept() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = application(world, |_| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()
    });
    for way in WAYS {
        let request = "GET /a HTTP/1.0\r\nx-mine: 1\r\n\r\n";
        let answer = exchange(world.connect(way, port), request.as_bytes());
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{way:?}: {answer}");
        assert!(!answer.contains("chunked") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        let seen = seen.take().remove(0);
        assert!(seen.head.starts_with("GET /a HTTP/1.0\r\n"), "{way:?}: {}", seen.head);
        assert!(seen.header("host").is_empty(), "{way:?}: {}", seen.head);
        assert_eq!(seen.header("x-mine"), ["1"]);
    }
}

/// Targets and Host pass as they are, also where they differ; `OPTIONS *` is legal.
#[test]
fn targets_and_hosts_pass_unchanged() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = simple(world);
    for line in ["GET http://one.test/a?b#c", "GET /a//b/../c?%zz&;=", "OPTIONS *"] {
        let line = line.split('#').next().unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: Two.Test:81\r\nconnection: close\r\n\r\n");
        for way in WAYS {
            let answer = exchange(world.connect(way, port), request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200"), "{line} {way:?}: {answer}");
            let seen = seen.take().remove(0);
            assert!(
                seen.head.starts_with(&format!("{line} HTTP/1.1\r\n")),
                "{way:?} {}",
                seen.head
            );
            assert_eq!(seen.header("host"), ["Two.Test:81"], "{way:?}");
        }
    }
}

/// Connection, what it names, Keep-Alive and Proxy-Connection belong to one hop, in both
/// directions; marks of the mesh reach neither side.
#[test]
fn hop_by_hop_fields_stay_at_their_hop() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = application(world, |_| {
        "HTTP/1.1 200 OK\r\nconnection: x-back\r\nx-back: 1\r\nkeep-alive: timeout=5\r\n\
         proxy-connection: keep-alive\r\nx-stays: 1\r\ncontent-length: 2\r\n\r\nok"
            .to_owned()
    });
    for way in WAYS {
        let request = "GET / HTTP/1.1\r\nhost: web\r\nconnection: x-hop, X-Other\r\nx-hop: 1\r\n\
                       x-other: 1\r\nkeep-alive: 5\r\nproxy-connection: close\r\nx-end: 1\r\n\
                       l5d-orig-proto: HTTP/1.1; absolute-form\r\nl5d-client-id: evil\r\n\r\n";
        let (response, _) = ask(world.connect(way, port), request, Kind::Response);
        for name in ["x-back", "keep-alive", "proxy-connection", "l5d-orig-proto"] {
            assert!(response.header(name).is_empty(), "{way:?}: {}", response.head);
        }
        assert_eq!(response.header("x-stays"), ["1"]);
        let seen = seen.take().remove(0);
        for name in ["x-hop", "x-other", "keep-alive", "proxy-connection", "l5d-orig-proto"] {
            assert!(seen.header(name).is_empty(), "{way:?}: {name} in {}", seen.head);
        }
        assert!(!seen.head.contains("evil") || way == crate::world::Way::Outbound, "{}", seen.head);
        assert_eq!(seen.header("x-end"), ["1"]);
    }
}

/// Nothing is made up: no coding for requests without a body, `content-length: 0` stays, bodies
/// keep length or chunks.
#[test]
fn requests_keep_their_framing() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = simple(world);
    for (head, body, length, chunked) in [
        ("GET / HTTP/1.1\r\n", "", None, false),
        ("POST / HTTP/1.1\r\ncontent-length: 0\r\n", "", Some("0"), false),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\n", "hello", Some("5"), false),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            None,
            true,
        ),
        ("GET / HTTP/1.1\r\ncontent-length: 5\r\n", "hello", Some("5"), false),
        ("DELETE / HTTP/1.1\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n", None, true),
    ] {
        for way in WAYS {
            let request = format!("{head}host: web\r\n\r\n{body}");
            let (response, _) = ask(world.connect(way, port), &request, Kind::Response);
            assert_eq!(response.text(), "ok", "{way:?} {head}");
            let seen = seen.take().remove(0);
            assert_eq!(seen.header("content-length").first().copied(), length, "{way:?} {head}");
            // An empty chunked body may become an empty body of known length on the way.
            if chunked && !seen.body.is_empty() {
                assert_eq!(seen.header("transfer-encoding"), ["chunked"], "{way:?} {head}");
            }
            assert_eq!(chunked, !seen.header("transfer-encoding").is_empty(), "{way:?} {head}");
        }
    }
}

/// HEAD keeps its length, 204 and 304 have no body, a body that ends with the connection becomes
/// chunked for HTTP/1.1, and the connection goes on afterwards.
#[test]
fn answers_keep_their_framing() {
    let Some(world) = world("framing") else { return };
    let next = "GET /next HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    for (method, answer, kind, body) in [
        ("HEAD", "200 OK\r\ncontent-length: 5\r\n\r\n", Kind::Bodyless, ""),
        ("GET", "204 No Content\r\nx: content-length\r\n\r\n", Kind::Bodyless, ""),
        ("GET", "304 Not Modified\r\netag: \"content-length\"\r\n\r\n", Kind::Bodyless, ""),
        ("GET", "200 OK\r\ncontent-length: 0\r\n\r\n", Kind::Response, ""),
        ("GET", "200 OK\r\nx: to the end\r\n\r\nhello", Kind::Response, "hello"),
        ("GET", "404 Nobody Here\r\ncontent-length: 5\r\n\r\nhello", Kind::Response, "hello"),
    ] {
        let full = format!("HTTP/1.1 {answer}");
        let (port, seen) = application(world, move |request| match request.head.contains("next") {
            true => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext".to_owned(),
            false => full.clone(),
        });
        for way in WAYS {
            let request = format!("{method} / HTTP/1.1\r\nhost: web\r\n\r\n");
            let (response, mut reader) = ask(world.connect(way, port), &request, kind);
            let what = format!("{method} {answer:?} {way:?}: {response:?}");
            assert_eq!(response.text(), body, "{what}");
            assert_eq!(response.status().to_string(), answer[..3], "{what}");
            if method == "HEAD" {
                assert_eq!(response.header("content-length"), ["5"], "{what}");
                assert!(response.header("transfer-encoding").is_empty(), "{what}");
            }
            if response.status() == 204 {
                assert!(response.header("content-length").is_empty(), "{what}");
                assert!(response.header("transfer-encoding").is_empty(), "{what}");
            }
            reader.get_mut().write_all(next.as_bytes()).unwrap();
            let second = Message::read(&mut reader, Kind::Response).unwrap().expect("another");
            assert_eq!(second.text(), "next", "{what}");
            seen.take();
        }
    }
}

/// Trailers of chunked messages pass in both directions, also between the proxies.
#[test]
fn trailers_pass_over_http1() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = application(world, |_| {
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
            .to_owned()
    });
    for way in WAYS {
        let request = "POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-mine\r\n\
                       transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-mine: 1\r\n\r\n";
        let (response, _) = ask(world.connect(way, port), request, Kind::Response);
        assert_eq!(response.trailers.to_lowercase(), "x-sum: 7\r\n", "{way:?}: {response:?}");
        let seen = seen.take().remove(0);
        assert_eq!(seen.trailers.to_lowercase(), "x-mine: 1\r\n", "{way:?}: {seen:?}");
        assert_eq!(seen.text(), "hello");
    }
}

/// `Expect: 100-continue` is answered by one 100, whoever says it; a final answer that comes before
/// the body does not wait for it.
#[test]
fn an_expected_100_comes_once_and_an_early_answer_does_not_wait() {
    let Some(world) = world("framing") else { return };
    let port = world.serve(port(), |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut line = String::new();
        while !line.ends_with("\r\n\r\n") {
            reader.read_line(&mut line).unwrap();
        }
        if line.contains("/refuse") {
            let answer =
                "HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge";
            socket.write_all(answer.as_bytes()).unwrap();
            let _ = reader.read(&mut [0; 1]);
            return;
        }
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        reader.read_exact(&mut body).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    });
    for way in WAYS {
        let mut reader = BufReader::new(world.connect(way, port));
        let head =
            "POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        let first = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
        assert_eq!(first.status(), 100, "{way:?}");
        reader.get_mut().write_all(b"hello").unwrap();
        let last = Message::read(&mut reader, Kind::Response).unwrap().unwrap();
        assert_eq!((last.status(), last.text().as_str()), (200, "ok"), "{way:?}");

        let head = "POST /refuse HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\n";
        let (answer, _) = ask(world.connect(way, port), head, Kind::Response);
        assert_eq!((answer.status(), answer.text().as_str()), (413, "large"), "{way:?}");
    }
}

/// Informational answers (102, 103) do not stand for the final one.
#[test]
fn informational_answers_precede_the_final_one() {
    let Some(world) = world("framing") else { return };
    let (port, _) = application(world, |_| {
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            .to_owned()
    });
    for way in WAYS {
        let mut reader = BufReader::new(world.connect(way, port));
        for _ in 0..2 {
            reader.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
            let last = loop {
                let message = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
                if message.status() >= 200 {
                    break message;
                }
            };
            let mut body = [0; 2];
            reader.read_exact(&mut body).unwrap();
            assert_eq!((last.status(), body), (200, *b"ok"), "{way:?}");
        }
    }
}

/// Upgrades and CONNECT tunnels become raw bytes in both directions, with what was sent along with
/// the head; a length beside a successful CONNECT is nobody's.
#[test]
fn upgrades_and_tunnels_become_bytes() {
    let Some(world) = world("framing") else { return };
    let port = world.serve(port(), |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let request = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
        let answer = if request.head.starts_with("CONNECT") {
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
        } else {
            assert_eq!(request.header("upgrade"), ["chat"], "{request:?}");
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\nconnection: upgrade\r\n\r\n"
        };
        socket.write_all((answer.to_owned() + "welcome").as_bytes()).unwrap();
        let mut bytes = [0; 5];
        while reader.read_exact(&mut bytes).is_ok() {
            socket.write_all(&bytes).unwrap();
        }
        let _ = socket.write_all(b"bye");
    });
    for way in WAYS {
        for (head, status) in [
            (
                "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
                101,
            ),
            ("CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n", 200),
        ] {
            let mut reader = BufReader::new(world.connect(way, port));
            reader.get_mut().write_all(head.as_bytes()).unwrap();
            let answer = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
            let what = format!("{head} {way:?}: {answer:?}");
            assert_eq!(answer.status(), status, "{what}");
            assert!(answer.header("content-length").is_empty(), "{what}");
            let mut bytes = [0; 7];
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"welcome", "{what}");
            for _ in 0..3 {
                reader.get_mut().write_all(b"abcde").unwrap();
                reader.read_exact(&mut bytes[..5]).unwrap();
                assert_eq!(&bytes[..5], b"abcde", "{what}");
            }
            // The end of one direction reaches the application, which still has its say.
            reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = String::new();
            reader.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "bye", "{what}");
        }
    }
}

/// `Connection: close` is of one hop: an application that closes each time costs its clients
/// nothing, a client that closes ends nobody else's connection.
#[test]
fn closing_is_of_one_hop() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = application(world, |_| {
        "HTTP/1.1 200 OK\r\nconnection: close\r\nx: no length\r\n\r\nok".to_owned()
    });
    for way in WAYS {
        let mut reader = BufReader::new(world.connect(way, port));
        for _ in 0..3 {
            reader.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
            let answer = Message::read(&mut reader, Kind::Response).unwrap().unwrap();
            assert_eq!(answer.text(), "ok", "{way:?}");
            assert!(answer.header("connection").is_empty(), "{way:?}: {}", answer.head);
        }
        assert_eq!(seen.take().len(), 3, "{way:?}");
        let start = std::time::Instant::now();
        let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        let answer = exchange(world.connect(way, port), request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
        assert!(start.elapsed() < PATIENCE / 2, "{way:?}: the connection was closed late");
        seen.take();
    }
}

/// A head may have 64 KiB in all and a hundred fields between two proxies as well; one that is too
/// large is answered 431 or 400 and costs nothing else.
#[test]
fn large_heads_pass_and_endless_ones_are_refused() {
    let Some(world) = world("framing") else { return };
    let (port, seen) = simple(world);
    for way in WAYS {
        let mut request = "GET / HTTP/1.1\r\nhost: web\r\n".to_owned();
        for n in 0..80 {
            request += &format!("x-{n}: {}\r\n", "v".repeat(500));
        }
        let (answer, _) = ask(world.connect(way, port), &(request + "\r\n"), Kind::Response);
        assert_eq!(answer.status(), 200, "{way:?}");
        assert!(seen.take().remove(0).head.len() > 40_000);

        for (fields, bytes) in [(5000, 10), (4, 1_000_000)] {
            let mut request = "GET / HTTP/1.1\r\nhost: web\r\n".to_owned();
            for n in 0..fields {
                request += &format!("x-{n}: {}\r\n", "v".repeat(bytes));
            }
            let answer = exchange(world.connect(way, port), (request + "\r\n").as_bytes());
            let refused = answer.is_empty()
                || ["431", "400"]
                    .iter()
                    .any(|code| answer.starts_with(&format!("HTTP/1.1 {code}")));
            assert!(refused, "{way:?} {fields} fields of {bytes}: {answer}");
            assert!(seen.take().is_empty(), "{way:?}");
        }
        let (answer, _) =
            ask(world.connect(way, port), "GET / HTTP/1.1\r\nhost: web\r\n\r\n", Kind::Response);
        assert_eq!(answer.status(), 200, "{way:?}");
        seen.take();
    }
}
