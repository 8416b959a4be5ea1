//! Heads of HTTP/1 as the proxy reads and writes them.

use bytes::BytesMut;
use hauberk_proxy::http::headers::check_http1;
use hauberk_proxy::http::http1::body::Decoder;
use hauberk_proxy::http::http1::head::{
    self, Asked, Asker, Bad, Told, parse_request, parse_response,
};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};

/// As far as beginnings are tried one by one.
const ENDS_MAX: usize = 200;

pub(crate) fn check(data: &[u8]) {
    let whole = read(data, data.len(), parse_request).map(describe_request);
    // What the first line is about: the parsers do not share it.
    let method = if data.len().is_multiple_of(2) { Method::GET } else { Method::HEAD };
    let of = |bytes: &mut BytesMut, seen| parse_response(bytes, seen, &method);
    let whole_response = read(data, data.len(), of).map(describe_response);
    for cut in 0..data.len().min(ENDS_MAX) {
        is_same(read(data, cut, parse_request).map(describe_request), &whole, cut);
        is_same(read(data, cut, of).map(describe_response), &whole_response, cut);
    }
    if let Ok((Some((request, asked)), _)) = read(data, data.len(), parse_request)
        && check_http1(&request).is_ok()
    {
        survives_request(&request, &asked);
    }
    if let Ok((Some((response, told)), _)) = read(data, data.len(), of) {
        survives_response(&response, &told, &method);
    }
}

/// What is read of bytes that come in two pieces, and what is left.
fn read<T>(
    data: &[u8],
    cut: usize,
    parse: impl Fn(&mut BytesMut, usize) -> Result<Option<T>, Bad>,
) -> Result<(Option<T>, Vec<u8>), Bad> {
    let (first, second) = data.split_at(cut);
    let mut bytes = BytesMut::from(first);
    let mut parsed = parse(&mut bytes, 0)?;
    let seen = bytes.len();
    bytes.extend_from_slice(second);
    if parsed.is_none() && !second.is_empty() {
        parsed = parse(&mut bytes, seen)?;
    }
    Ok((parsed, bytes.to_vec()))
}

type Described = (Option<String>, Vec<u8>);

fn describe_request((parsed, rest): (Option<(Request<()>, Asked)>, Vec<u8>)) -> Described {
    // A head that is not complete may have been rid of empty lines or not.
    let rest = if parsed.is_some() { rest } else { Vec::new() };
    (parsed.map(|parsed| format!("{parsed:?}")), rest)
}

fn describe_response((parsed, rest): (Option<(Response<()>, Told)>, Vec<u8>)) -> Described {
    let rest = if parsed.is_some() { rest } else { Vec::new() };
    (parsed.map(|parsed| format!("{parsed:?}")), rest)
}

/// However bytes are split, the same head is read. What is wrong in one may come out only with its end.
fn is_same(cut: Result<Described, Bad>, whole: &Result<Described, Bad>, at: usize) {
    let waits = matches!(cut, Ok((None, _))) && whole.is_err();
    assert!(waits || cut == *whole, "cut at {at}: {cut:?} instead of {whole:?}");
}

/// A request that is let through is written so that it reads back equal.
fn survives_request(request: &Request<()>, asked: &Asked) {
    let mut written = Vec::new();
    let encoder = head::write_request(&mut written, request, asked.body.left());
    encoder.expect("only HTTP/1.1 has bodies without a length");
    has_one_form(&written);
    let mut bytes = BytesMut::from(&written[..]);
    let again = parse_request(&mut bytes, 0).expect("it is well formed").expect("it is complete");
    assert!(bytes.is_empty());
    let (again, asked_again) = again;
    assert_eq!(again.method(), request.method());
    assert_eq!(again.version(), request.version());
    assert_eq!(again.uri().to_string(), request.uri().to_string());
    assert_eq!(unframed(again.headers()), unframed(request.headers()));
    assert_eq!(format!("{:?}", asked_again.body), format!("{:?}", asked.body));
}

/// A response is written so that it reads back equal, to a client of the same version.
fn survives_response(response: &Response<()>, told: &Told, method: &Method) {
    let mut written = Vec::new();
    let version = response.version();
    let asker = Asker { method, version, takes_trailers: false, keep_alive: true };
    head::write_response(&mut written, response, told.body.left(), asker);
    has_one_form(&written);
    let mut bytes = BytesMut::from(&written[..]);
    let again = parse_response(&mut bytes, 0, method);
    let (again, told_again) = again.expect("it is well formed").expect("it is complete");
    assert!(bytes.is_empty());
    assert_eq!((again.status(), again.version()), (response.status(), version));
    let mut expect = unframed(response.headers());
    // A client of HTTP/1.0 that asked for it is told that the connection goes on.
    if version == Version::HTTP_10 && told_again.keep_alive && !expect.contains_key(CONNECTION) {
        expect.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    assert_eq!(unframed(again.headers()), expect);
    // A body that ends with the connection is sent in chunks where that can be read.
    let is_known = !matches!(told.body, Decoder::UntilEnd);
    assert!(!is_known || told.body.left() == told_again.body.left());
}

/// No line has a CR or an LF but at its end, and no head has two framings.
fn has_one_form(written: &[u8]) {
    let head = written.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line");
    let mut lines = 0;
    for line in head.split(|byte| *byte == b'\n') {
        lines += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.is_empty() && !line.contains(&b'\r'), "{line:?}");
    }
    let ends = head.windows(2).filter(|two| two == b"\r\n").count();
    assert_eq!(ends + 1, lines);
    let count = |name: &[u8]| {
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        lines.filter(|line| line.starts_with(name)).count()
    };
    assert!(count(b"content-length:") + count(b"transfer-encoding:") <= 1);
}

fn unframed(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    headers
}
