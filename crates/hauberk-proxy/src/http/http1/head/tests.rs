use super::*;
use crate::http::http1::body::Decoder;

fn request(text: &str) -> Result<(Request<()>, Asked), Bad> {
    let mut bytes = BytesMut::from(text);
    parse_request(&mut bytes, 0).map(|parsed| parsed.expect("a whole head"))
}

fn response(text: &str, method: &Method) -> Result<(Response<()>, Told), Bad> {
    let mut bytes = BytesMut::from(text);
    parse_response(&mut bytes, 0, method).map(|parsed| parsed.expect("a whole head"))
}

#[test]
fn reads_a_request_and_leaves_what_follows() {
    let mut bytes =
        BytesMut::from("\r\n\r\nPOST /a?b HTTP/1.1\r\nHost: web\r\nX-A:  1 \r\nx-a: 2\r\n\r\nbody");
    let (request, asked) = parse_request(&mut bytes, 0).unwrap().expect("a whole head");
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/a"));
    assert_eq!(request.version(), Version::HTTP_11);
    assert_eq!(request.headers()["host"], "web");
    assert_eq!(request.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(asked.keep_alive && asked.body.is_done() && !asked.expects_continue);
    assert_eq!(&bytes[..], b"body");
}

#[test]
fn a_head_may_come_in_pieces() {
    let text = "GET / HTTP/1.1\r\nhost: web\r\nx: y\r\n\r\n";
    for cut in 0..text.len() {
        let mut bytes = BytesMut::from(&text[..cut]);
        assert!(parse_request(&mut bytes, 0).unwrap().is_none(), "{cut}");
        let seen = bytes.len();
        bytes.extend_from_slice(&text.as_bytes()[cut..]);
        assert!(parse_request(&mut bytes, seen).unwrap().is_some(), "{cut}");
    }
}

#[test]
fn the_framing_of_a_request_is_one() {
    let check = |fields: &str, expect: Result<Option<u64>, Bad>| {
        let parsed = request(&format!("POST / HTTP/1.1\r\nhost: web\r\n{fields}\r\n"));
        let got = parsed.map(|(_, asked)| asked.body.left());
        assert_eq!(got, expect, "{fields:?}");
    };
    let chunked = Ok(None);
    check("", Ok(Some(0)));
    check("content-length: 5\r\n", Ok(Some(5)));
    check("content-length: 5\r\ncontent-length: 5\r\n", Ok(Some(5)));
    check("content-length: 18446744073709551615\r\n", Ok(Some(u64::MAX)));
    check("transfer-encoding: chunked\r\n", chunked);
    check("transfer-encoding:\tChUnKeD\r\n", chunked);
    for bad in ["5, 5", "+5", "-5", "0x5", "", "5 6", "18446744073709551616", "５"] {
        check(&format!("content-length: {bad}\r\n"), Err(Bad::Length));
    }
    check("content-length: 5\r\ncontent-length: 6\r\n", Err(Bad::Length));
    for bad in ["identity", "gzip", "chunked, identity", "xchunked", "\"chunked\"", "chunked,"] {
        check(&format!("transfer-encoding: {bad}\r\n"), Err(Bad::Coding));
    }
    let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(request(old).map(|_| ()), Err(Bad::Coding));
}

#[test]
fn of_two_framings_the_coding_counts_and_the_connection_ends() {
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: web\r\n{fields}\r\n");
        let (request, asked) = request(&text).unwrap();
        assert!(!request.headers().contains_key(CONTENT_LENGTH), "{fields}");
        assert!(matches!(asked.body, Decoder::Chunked(_)) && !asked.keep_alive, "{fields}");
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let (response, told) = response(&text, &Method::GET).unwrap();
        assert!(!response.headers().contains_key(CONTENT_LENGTH), "{fields}");
        assert!(matches!(told.body, Decoder::Chunked(_)) && !told.keep_alive, "{fields}");
    }
}

#[test]
fn heads_have_one_form() {
    for line in [
        "x: 1\r\n folded\r\n",
        "x: 1\r\n\tfolded\r\n",
        " x: 1\r\n",
        "x : 1\r\n",
        "x: 1\r2\r\n",
        "x: 1\0\r\n",
        ": 1\r\n",
        "x\r\n",
        "x(y): 1\r\n",
    ] {
        let head = request(&format!("GET / HTTP/1.1\r\n{line}\r\n"));
        assert!(matches!(head, Err(Bad::Form(_))), "{line:?}: {head:?}");
        let head = response(&format!("HTTP/1.1 200 OK\r\n{line}\r\n"), &Method::GET);
        assert!(matches!(head, Err(Bad::Form(_))), "{line:?}: {head:?}");
    }
    for line in ["GET  / HTTP/1.1", "GET / HTTP/2.0", "GET /a b HTTP/1.1", "G\u{e9}T / HTTP/1.1"] {
        let head = request(&format!("{line}\r\n\r\n"));
        assert!(matches!(head, Err(Bad::Form(_))), "{line:?}: {head:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let fields = |count: usize, length: usize| {
        let line = format!("x: {}\r\n", "v".repeat(length));
        format!("GET / HTTP/1.1\r\n{}\r\n", line.repeat(count))
    };
    assert!(request(&fields(FIELDS_MAX, 4000)).is_ok());
    assert_eq!(request(&fields(FIELDS_MAX + 1, 1)).map(|_| ()), Err(Bad::TooLarge));
    assert_eq!(request(&fields(99, 5000)).map(|_| ()), Err(Bad::TooLarge));
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "v".repeat(HEAD_BYTES_MAX));
    let mut bytes = BytesMut::from(endless.as_str());
    assert_eq!(parse_request(&mut bytes, 1).map(|_| ()), Err(Bad::TooLarge));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    assert_eq!(request(&target).map(|_| ()), Err(Bad::TargetTooLong));
}

#[test]
fn who_keeps_a_connection_open() {
    let check =
        |text: &str, expect| assert_eq!(request(text).unwrap().1.keep_alive, expect, "{text}");
    check("GET / HTTP/1.1\r\n\r\n", true);
    check("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n", false);
    check("GET / HTTP/1.1\r\nconnection: x, close\r\nconnection: keep-alive\r\n\r\n", false);
    check("GET / HTTP/1.0\r\n\r\n", false);
    check("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true);
    check("GET / HTTP/1.0\r\nconnection: keep-alive, close\r\n\r\n", false);
    let check = |text: &str, expect| {
        let (_, told) = response(text, &Method::GET).unwrap();
        assert_eq!(told.keep_alive, expect, "{text}");
    };
    check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", true);
    check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n", false);
    check("HTTP/1.1 200 OK\r\n\r\n", false);
    check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", false);
    check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n", true);
}

#[test]
fn where_the_body_of_a_response_ends() {
    let check = |method: Method, text: &str, expect: Result<&str, Bad>| {
        let parsed = response(&format!("HTTP/1.1 {text}\r\n\r\n"), &method);
        let got = parsed.map(|(_, told)| match told.body {
            Decoder::Done => "none",
            Decoder::Length(_) => "length",
            Decoder::Chunked(_) => "chunked",
            Decoder::UntilEnd => "end",
        });
        assert_eq!(got, expect, "{method} {text}");
    };
    let get = || Method::GET;
    check(get(), "200 OK\r\ncontent-length: 3", Ok("length"));
    check(get(), "200 OK\r\ntransfer-encoding: chunked", Ok("chunked"));
    check(get(), "200 OK\r\ntransfer-encoding: identity", Ok("end"));
    check(get(), "200 OK", Ok("end"));
    check(get(), "204 No Content\r\ncontent-length: 3", Ok("none"));
    check(get(), "304 Not Modified\r\ncontent-length: 3", Ok("none"));
    check(get(), "101 Switching Protocols", Ok("none"));
    check(Method::HEAD, "200 OK\r\ncontent-length: 3", Ok("none"));
    check(Method::CONNECT, "200 OK\r\ncontent-length: 3", Ok("none"));
    check(Method::CONNECT, "403 Forbidden\r\ncontent-length: 3", Ok("length"));
    check(get(), "200 OK\r\ncontent-length: 3, 4", Err(Bad::Length));
    check(get(), "200 OK\r\ntransfer-encoding: gzip", Err(Bad::Coding));
    check(get(), "200 OK\r\ntransfer-encoding: gzip, chunked", Err(Bad::Coding));
    check(get(), "OK", Err(Bad::Form("status")));
    let old = response("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &Method::GET);
    assert_eq!(old.map(|_| ()), Err(Bad::Coding));
}

#[test]
fn writes_requests_as_they_were_meant() {
    let check = |text: &str, body, expect: &str| {
        let (request, _) = request(text).unwrap();
        let mut written = Vec::new();
        let encoder = write_request(&mut written, &request, body);
        assert_eq!(String::from_utf8(written).unwrap(), expect);
        encoder
    };
    let text = "GET /a?b HTTP/1.1\r\nHost: web\r\nX-A: 1\r\n\r\n";
    check(text, Some(0), "GET /a?b HTTP/1.1\r\nhost: web\r\nx-a: 1\r\n\r\n").unwrap();
    let text = "POST http://one/ HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
    check(text, Some(0), "POST http://one/ HTTP/1.1\r\ncontent-length: 0\r\n\r\n").unwrap();
    let text = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\n";
    check(text, None, "POST / HTTP/1.1\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    check(text, Some(7), "POST / HTTP/1.1\r\nx: y\r\ncontent-length: 7\r\n\r\n").unwrap();
    let text = "OPTIONS * HTTP/1.0\r\n\r\n";
    check(text, Some(0), "OPTIONS * HTTP/1.0\r\n\r\n").unwrap();
    assert!(check(text, None, "").is_err(), "HTTP/1.0 has no way to tell the end");
    let text = "CONNECT web:443 HTTP/1.1\r\n\r\n";
    check(text, Some(0), "CONNECT web:443 HTTP/1.1\r\n\r\n").unwrap();
}

#[test]
fn writes_responses_as_the_client_can_read_them() {
    let check = |method: Method, old: bool, text: &str, body, expect: &str| {
        let (response, _) = response(&format!("HTTP/1.1 {text}\r\n\r\n"), &Method::GET).unwrap();
        let version = if old { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut written = Vec::new();
        let asker = Asker { method: &method, version, takes_trailers: true, keep_alive: !old };
        let encoder = write_response(&mut written, &response, body, asker);
        assert_eq!(String::from_utf8(written).unwrap(), expect.to_owned() + "\r\n\r\n");
        encoder
    };
    let (get, head) = (|| Method::GET, || Method::HEAD);
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 5";
    check(get(), false, "200 OK\r\ncontent-length: 5", Some(5), length);
    check(head(), false, "200 OK\r\ncontent-length: 5", Some(0), length);
    check(get(), false, "200 OK", Some(0), "HTTP/1.1 200 OK\r\ncontent-length: 0");
    check(head(), false, "200 OK", Some(0), "HTTP/1.1 200 OK");
    check(get(), false, "200 OK", None, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked");
    let until = check(get(), true, "200 OK\r\nx: y", None, "HTTP/1.0 200 OK\r\nx: y");
    assert!(matches!(until, Encoder::UntilEnd));
    check(get(), false, "204 No Content\r\ncontent-length: 5", Some(0), "HTTP/1.1 204 No Content");
    check(
        get(),
        false,
        "404 Nobody Here",
        Some(0),
        "HTTP/1.1 404 Nobody Here\r\ncontent-length: 0",
    );
    check(get(), false, "599 ", Some(0), "HTTP/1.1 599 \r\ncontent-length: 0");
}

#[test]
fn says_when_it_closes() {
    let mut written = Vec::new();
    let method = Method::GET;
    let version = Version::HTTP_11;
    let asker = Asker { method: &method, version, takes_trailers: false, keep_alive: false };
    write_response(&mut written, &Response::new(()), Some(0), asker);
    let text = String::from_utf8(written).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

#[test]
fn says_to_old_clients_when_it_does_not_close() {
    let check = |keep_alive, body, expect: &str| {
        let mut written = Vec::new();
        let (method, version) = (Method::GET, Version::HTTP_10);
        let asker = Asker { method: &method, version, takes_trailers: false, keep_alive };
        write_response(&mut written, &Response::new(()), body, asker);
        let text = String::from_utf8(written).unwrap();
        assert_eq!(text, format!("HTTP/1.0 200 OK\r\n{expect}\r\n"));
    };
    check(true, Some(1), "content-length: 1\r\nconnection: keep-alive\r\n");
    check(false, Some(1), "content-length: 1\r\n");
    check(true, None, "");
}
