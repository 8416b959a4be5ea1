//! Heads of HTTP/1 requests: what is refused, what is stripped, and the way through HTTP/2.

use hauberk_proxy::http::{
    classify,
    headers::{self, L5D_CLIENT_ID, L5D_ORIG_PROTO},
    orig_proto, routes,
};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

pub(crate) fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(routes::host_of(text).len() <= text.len());
    }
    let Some(request) = read(data) else { return };
    let _ = headers::wants_upgrade(request.version(), request.method(), request.headers());
    assert!(classify::grpc_code(request.headers()).is_none_or(|code| code <= 16));
    strips_what_belongs_to_the_hop(request.headers());
    believes_no_mark(request.headers());
    if headers::check_http1(&request).is_ok() {
        names_one_host(&request);
        if request.method() != Method::CONNECT {
            survives_the_journey(&request);
        }
    }
}

/// The request as it comes to the checks.
fn read(data: &[u8]) -> Option<Request<()>> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut lines);
    head.parse(data).ok().filter(httparse::Status::is_complete)?;
    let version = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let builder = Request::builder().method(head.method?).uri(head.path?).version(version);
    let mut request = builder.body(()).ok()?;
    for line in head.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(request)
}

fn strips_what_belongs_to_the_hop(before: &HeaderMap) {
    let mut after = before.clone();
    headers::strip_connection_headers(&mut after);
    for name in [CONNECTION, UPGRADE] {
        assert!(!after.contains_key(name));
    }
    assert!(!after.contains_key("keep-alive") && !after.contains_key("proxy-connection"));
    for name in [TRANSFER_ENCODING, CONTENT_LENGTH, HOST] {
        assert!(after.get_all(&name).iter().eq(before.get_all(&name)), "{name} frames the message");
    }
    let named = before.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    for option in named.flat_map(|value| value.split(',')).map(str::trim) {
        let frames = ["transfer-encoding", "content-length", "host", "te"]
            .iter()
            .any(|name| option.eq_ignore_ascii_case(name));
        assert!(
            frames
                || HeaderName::from_bytes(option.as_bytes()).is_err()
                || !after.contains_key(option)
        );
    }
    let once = after.clone();
    headers::strip_connection_headers(&mut after);
    assert_eq!(after, once);
}

fn believes_no_mark(before: &HeaderMap) {
    let mut after = before.clone();
    let _ = orig_proto::take(&mut after);
    headers::set_client_id(&mut after, None);
    let _ = headers::strip_proxy_headers(&mut after);
    assert!(!after.contains_key(L5D_ORIG_PROTO) && !after.contains_key(L5D_CLIENT_ID));
}

/// Everybody after us reads the same host in a request that was let through.
fn names_one_host(request: &Request<()>) {
    assert!(request.headers().get_all(HOST).iter().count() <= 1);
    let framings = [CONTENT_LENGTH, TRANSFER_ENCODING];
    assert!(!framings.iter().all(|name| request.headers().contains_key(name)));
    if let Some(authority) = request.uri().authority() {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        assert_eq!(routes::host_of(authority.as_str()), host);
    }
}

fn survives_the_journey(sent: &Request<()>) {
    let mut travelling = sent.clone();
    orig_proto::upgrade(&mut travelling);
    assert_eq!(travelling.version(), Version::HTTP_2);
    let told = orig_proto::take(travelling.headers_mut()).expect("it was marked");
    orig_proto::downgrade(&mut travelling, told);
    let mut expect = sent.headers().clone();
    expect.remove(TRANSFER_ENCODING);
    expect.remove(L5D_ORIG_PROTO);
    assert_eq!(travelling.version(), sent.version());
    assert_eq!(travelling.uri(), sent.uri());
    assert_eq!(*travelling.headers(), expect);
}
