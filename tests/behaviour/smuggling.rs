//! Messages that two hops could read differently: refused, or passed on as one clear message.

use crate::message::{Kind, Message, Seen, application, exchange, simple};
use crate::world::{PATIENCE, WAYS, World, world};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What has to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Status 400, and nothing reaches the application.
    Refused,
    /// It reaches the application once, with this body.
    Once(&'static str),
    /// Its body is broken: the application never sees it whole.
    Broken,
    /// Either reading is allowed, as long as it is one.
    Clear,
}

/// The request that a second reader would find in the body of the first.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: web\r\n\r\n";

fn check(world: &World, application: &(u16, Seen), name: &str, request: &[u8], fate: Fate) {
    let (port, seen) = application;
    for way in WAYS {
        let mut socket = world.connect(way, *port);
        let _ = socket.write_all(request);
        let answer = drain(socket, fate);
        let got = seen.take();
        let what = format!("{name} {way:?}: answered {answer:?}, the application saw {got:?}");
        for message in &got {
            assert_eq!(message.ambiguity(), None, "{what}");
            assert!(!message.head.contains("/hidden"), "smuggled: {what}");
        }
        let statuses = answer.matches("HTTP/1.").count();
        assert!(statuses <= 1, "one request, two answers: {what}");
        match fate {
            Fate::Refused => {
                assert!(answer.starts_with("HTTP/1.1 400"), "{what}");
                assert!(got.is_empty(), "{what}");
            }
            Fate::Once(body) => {
                assert!(answer.starts_with("HTTP/1.1 200"), "{what}");
                assert_eq!(got.len(), 1, "{what}");
                assert_eq!(got[0].text(), body, "{what}");
            }
            Fate::Broken => assert!(got.is_empty() && !answer.contains(" 200 "), "{what}"),
            Fate::Clear => {}
        }
    }
}

/// What comes back until the proxy closes. A proxy that waits for more is shown that none comes; not
/// at once, because a client that has closed its side may count as gone.
fn drain(mut socket: TcpStream, fate: Fate) -> String {
    let wait = match fate {
        Fate::Broken => Duration::from_millis(20),
        Fate::Clear => Duration::from_millis(500),
        Fate::Refused | Fate::Once(_) => PATIENCE / 4,
    };
    socket.set_read_timeout(Some(wait)).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer)
        && error.kind() != ErrorKind::ConnectionReset
    {
        let _ = socket.shutdown(std::net::Shutdown::Write);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        return String::from_utf8_lossy(&answer).into_owned() + &exchange(socket, b"");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Runs cases that are a head without its first lines, and a body.
fn check_all(cases: &[(&str, &str, &str, Fate)]) {
    let Some(world) = world("smuggling") else { return };
    let application = simple(world);
    for (name, head, body, fate) in cases {
        let request =
            format!("POST /outer HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{head}\r\n{body}");
        check(world, &application, name, request.as_bytes(), *fate);
    }
}

/// A body has one length: Content-Length beside Transfer-Encoding, lengths that differ, lengths
/// that are no number, codings whose last is not chunked.
#[test]
fn a_body_has_one_length_for_everybody() {
    let hidden_chunk = format!("0\r\n\r\n{HIDDEN}");
    let long = format!("Content-Length: {}\r\n", hidden_chunk.len());
    let both = format!("{long}Transfer-Encoding: chunked\r\n");
    let both_turned = format!("Transfer-Encoding: chunked\r\n{long}");
    let odd = |value: &str| format!("{long}Transfer-Encoding:{value}\r\n");
    let (tab, twice, cased) = (odd("\tchunked"), odd(" chunked, chunked"), odd(" ChUnKeD"));
    let (other, not_last) = (odd(" xchunked"), odd(" chunked, identity"));
    let (quoted, comma) = (odd(" \"chunked\""), odd(" chunked,"));
    let vertical = odd("\x0bchunked");
    let two = format!("{long}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n");
    let again = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    let body = hidden_chunk.as_str();
    check_all(&[
        ("length and coding", both.as_str(), body, Fate::Clear),
        ("coding and length", both_turned.as_str(), body, Fate::Clear),
        ("coding after a tab", tab.as_str(), body, Fate::Clear),
        ("coding in capitals", cased.as_str(), body, Fate::Clear),
        ("chunked twice", twice.as_str(), body, Fate::Refused),
        ("another coding", other.as_str(), body, Fate::Refused),
        ("chunked is not last", not_last.as_str(), body, Fate::Refused),
        ("coding in quotes", quoted.as_str(), body, Fate::Refused),
        ("coding with a comma", comma.as_str(), body, Fate::Clear),
        ("coding after a vertical tab", vertical.as_str(), body, Fate::Refused),
        ("two codings", two.as_str(), body, Fate::Refused),
        ("chunked in two lines", again, "0\r\n\r\n", Fate::Refused),
        (
            "chunked twice alone",
            "Transfer-Encoding: chunked, chunked\r\n",
            "0\r\n\r\n",
            Fate::Refused,
        ),
        ("a coding before", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", Fate::Refused),
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello!", Fate::Refused),
        (
            "the same length twice",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "hello",
            Fate::Clear,
        ),
        ("a list of lengths", "Content-Length: 5, 6\r\n", "hello!", Fate::Refused),
        ("a sign", "Content-Length: +5\r\n", "hello", Fate::Refused),
        ("a negative length", "Content-Length: -5\r\n", "hello", Fate::Refused),
        ("hexadecimal", "Content-Length: 0x5\r\n", "hello", Fate::Refused),
        ("too large a length", "Content-Length: 18446744073709551621\r\n", "hello", Fate::Refused),
        ("an empty length", "Content-Length:\r\n", HIDDEN, Fate::Refused),
        ("a length with blanks", "Content-Length: 5 6\r\n", "hello!", Fate::Refused),
        (
            "an underscore in the name",
            "Content_Length: 5\r\nContent-Length: 0\r\n",
            "",
            Fate::Once(""),
        ),
    ]);
}

/// HTTP/1.0 knows no chunked coding.
#[test]
fn old_versions_have_no_transfer_codings() {
    let Some(world) = world("smuggling") else { return };
    let application = simple(world);
    let request = format!(
        "POST /outer HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n\
         0\r\n\r\n{HIDDEN}"
    );
    for way in WAYS {
        let answer = exchange(world.connect(way, application.0), request.as_bytes());
        assert!(answer.contains(" 400 "), "{way:?}: {answer}");
        assert!(application.1.take().is_empty());
    }
}

/// Field lines have one form: no folding, no bare CR or LF, no blank before the colon, no control
/// characters, no empty name.
#[test]
fn field_lines_have_one_form() {
    check_all(&[
        ("folded", "X-A: 1\r\n X-B: 2\r\n", "", Fate::Refused),
        ("folded by a tab", "X-A: 1\r\n\tX-B: 2\r\n", "", Fate::Refused),
        ("a folded length", "Content-Length:\r\n 5\r\n", "hello", Fate::Refused),
        ("the first line begins with a blank", " X-A: 1\r\n", "", Fate::Refused),
        ("a blank before the colon", "Content-Length : 5\r\n", "hello", Fate::Refused),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n", Fate::Refused),
        ("a bare CR in a value", "X-A: 1\rContent-Length: 5\r\n", "hello", Fate::Refused),
        ("a bare CR in a name", "X\rA: 1\r\n", "", Fate::Refused),
        ("a bare LF", "X-A: 1\nContent-Length: 5\r\n", "hello", Fate::Clear),
        ("a zero byte", "X-A: 1\0 2\r\n", "", Fate::Refused),
        ("a zero byte in a name", "X\0A: 1\r\n", "", Fate::Refused),
        ("an escape", "X-A: \x1b[0m\r\n", "", Fate::Refused),
        ("no colon", "Nothing\r\n", "", Fate::Refused),
        ("no name", ": 1\r\n", "", Fate::Refused),
        ("a name that is no token", "X(A): 1\r\n", "", Fate::Refused),
        ("two hosts", "Host: other\r\n", "", Fate::Refused),
        ("the same host twice", "Host: web\r\n", "", Fate::Refused),
    ]);
}

/// Request lines have one form, and what comes before them is no second request.
#[test]
fn request_lines_have_one_form() {
    let Some(world) = world("smuggling") else { return };
    let application = simple(world);
    for (name, line, fate) in [
        ("a tab", "GET\t/\tHTTP/1.1\r\n", Fate::Clear),
        ("two blanks", "GET  / HTTP/1.1\r\n", Fate::Clear),
        ("a blank in the target", "GET /a b HTTP/1.1\r\n", Fate::Clear),
        ("a fragment of a line", "GET /\x01 HTTP/1.1\r\n", Fate::Clear),
        ("CONNECT in origin form", "CONNECT /a HTTP/1.1\r\n", Fate::Refused),
        ("CONNECT in absolute form", "CONNECT http://web/ HTTP/1.1\r\n", Fate::Refused),
        ("CONNECT to everything", "CONNECT * HTTP/1.1\r\n", Fate::Refused),
        ("authority form without CONNECT", "GET web:80 HTTP/1.1\r\n", Fate::Refused),
        ("an empty line before", "\r\nGET / HTTP/1.1\r\n", Fate::Once("")),
    ] {
        let request = format!("{line}Host: web\r\nConnection: close\r\n\r\n");
        // What is not HTTP by its first line passes as bytes; the application decides.
        if fate == Fate::Clear {
            for way in WAYS {
                let mut socket = world.connect(way, application.0);
                socket.write_all(request.as_bytes()).unwrap();
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let answer = exchange(socket, b"");
                let seen = application.1.take();
                assert!(seen.len() <= 1, "{name} {way:?}: {answer:?} {seen:?}");
            }
            continue;
        }
        check(world, &application, name, request.as_bytes(), fate);
    }
    // CONNECT needs HTTP/1.1.
    let request = b"CONNECT web:80 HTTP/1.0\r\nHost: web\r\n\r\n";
    for way in WAYS {
        let answer = exchange(world.connect(way, application.0), request);
        assert!(answer.contains(" 400 "), "{way:?}: {answer:?}");
        assert!(application.1.take().is_empty());
    }
}

/// Chunks have one form; extensions are read and not passed on.
#[test]
fn chunks_have_one_form() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let forbidden = "Transfer-Encoding: chunked\r\nTrailer: Content-Length, X-T\r\n";
    let huge = "5;".to_owned() + &"x".repeat(100_000) + "\r\nhello\r\n0\r\n\r\n";
    check_all(&[
        ("extensions", chunked, "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", Fate::Once("hello")),
        ("capitals and zeros", chunked, "00A\r\nhellohello\r\n0\r\n\r\n", Fate::Once("hellohello")),
        ("a sign", chunked, "+5\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("a prefix", chunked, "0x5\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("no size", chunked, ";a\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("no hexadecimal number", chunked, "g\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("too large a size", chunked, "fffffffffffffffff1\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("a bare LF after the size", chunked, "5\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("a bare LF in an extension", chunked, "5;a\nX\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("a bare CR after the size", chunked, "5\rhello\r\n0\r\n\r\n", Fate::Broken),
        ("more than the size", chunked, "5\r\nhello!\r\n0\r\n\r\n", Fate::Broken),
        ("less than the size", chunked, "6\r\nhello\r\n0\r\n\r\n", Fate::Broken),
        ("no end", chunked, "5\r\nhello\r\n", Fate::Broken),
        ("endless extensions", chunked, huge.as_str(), Fate::Broken),
        (
            "trailers that are framing",
            forbidden,
            "5\r\nhello\r\n0\r\nContent-Length: 9\r\nX-T: 1\r\n\r\n",
            Fate::Clear,
        ),
        ("a folded trailer", chunked, "5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n", Fate::Broken),
    ]);
}

/// What comes after a request in the same segment is the next request, and after a refused one
/// nothing.
#[test]
fn nothing_is_read_after_a_refusal() {
    let Some(world) = world("smuggling") else { return };
    let (port, seen) = simple(world);
    for way in WAYS {
        let two =
            format!("GET /one HTTP/1.1\r\nHost: web\r\n\r\n{}", HIDDEN.replace("hidden", "two"));
        let last = "GET /three HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        let answer = exchange(world.connect(way, port), (two + last).as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{way:?}: {answer}");
        let order: Vec<_> =
            seen.take().into_iter().map(|seen| seen.head[4..7].to_owned()).collect();
        assert_eq!(order, ["/on", "/tw", "/th"], "{way:?}");

        let bad = format!("GET /one HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{HIDDEN}");
        let answer = exchange(world.connect(way, port), bad.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{way:?}: {answer}");
        assert!(seen.take().is_empty(), "{way:?}");
    }
}

/// Responses that two readers could read differently reach the client in one reading, and what an
/// application says beyond its answer is nobody's.
#[test]
fn answers_have_one_length_for_everybody() {
    const SWITCHING: &str = "switching unasked";
    let Some(world) = world("smuggling") else { return };
    let next = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhidden";
    let answers = [
        (
            "length and coding",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{next}"
            ),
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_owned(),
        ),
        ("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!".to_owned()),
        ("a sign", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello".to_owned()),
        (
            "a folded line",
            "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        ),
        (
            "a blank before the colon",
            "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello".to_owned(),
        ),
        ("a bare CR", "HTTP/1.1 200 OK\r\nx: 1\r2\r\ncontent-length: 5\r\n\r\nhello".to_owned()),
        (
            "a zero byte",
            "HTTP/1.1 200 OK\r\nx: 1\x002\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        ),
        ("no status", "HTTP/1.1 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned()),
        ("no HTTP", "hello\r\n\r\ncontent-length: 5\r\n\r\nhello".to_owned()),
        (
            "a body that must not be",
            format!("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n{next}"),
        ),
        (
            "a body that is too long",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello{next}"),
        ),
        (
            "an answer nobody asked for",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello{next}{next}"),
        ),
        (
            SWITCHING,
            "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello".to_owned(),
        ),
    ];
    for (name, answer) in answers {
        let (port, seen) =
            application(world, move |request| match request.head.contains("/calm") {
                true => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ncalm".to_owned(),
                false => answer.clone(),
            });
        for way in WAYS {
            let mut socket = world.connect(way, port);
            let both = "GET /odd HTTP/1.1\r\nhost: web\r\n\r\n\
                        GET /calm HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
            socket.write_all(both.as_bytes()).unwrap();
            let mut reader = BufReader::new(socket);
            let first = Message::read(&mut reader, Kind::Response);
            let what = format!("{name} {way:?}: {first:?}");
            // A connection that breaks is clear too.
            let Ok(Some(first)) = first else {
                assert_ne!(name, SWITCHING, "{what}");
                continue;
            };
            assert_eq!(first.ambiguity(), None, "{what}");
            assert!(!first.text().contains("hidden"), "{what}");
            // Nobody asked to leave HTTP, so there is no such answer (RFC 9110 section 15.2.2).
            assert!(name != SWITCHING || first.status() == 502, "{what}");
            if let Ok(Some(second)) = Message::read(&mut reader, Kind::Response) {
                assert!(matches!(second.text().as_str(), "calm"), "{what}, then {second:?}");
            }
            seen.take();
        }
    }
}
