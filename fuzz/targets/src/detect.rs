//! Protocol detection over the first bytes of a connection.

use hauberk_proxy::detect::{Detection, ServerFirst, http, server_first};

/// As far as beginnings are tried one by one.
const ENDS_MAX: usize = 300;

pub(crate) fn check(data: &[u8]) {
    let is_open = |detection: &Detection| {
        matches!(detection, Detection::LikelyHttp | Detection::UnlikelyHttp)
    };
    assert_stable_until_the_line_is_too_long(data, is_open);
    crate::assert_stable(data, ENDS_MAX, server_first, |first| *first == ServerFirst::Undecided);
    agrees_with_httparse(data);
}

/// A line of more than eight kilobytes is taken for HTTP before its end is known.
fn assert_stable_until_the_line_is_too_long(data: &[u8], is_open: impl Fn(&Detection) -> bool) {
    let data = &data[..data.len().min(8192)];
    crate::assert_stable(data, ENDS_MAX, http, is_open);
}

/// What the HTTP parser reads as a request is HTTP. It skips any number of empty lines, we one.
fn agrees_with_httparse(data: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(data);
    let usual = !data.starts_with(b"\r") && !data.starts_with(b"\n");
    if usual && parsed.is_ok_and(|status| status.is_complete()) {
        let method = request.method.unwrap_or_default();
        let expect = match method {
            "PRI" if data.starts_with(b"PRI * HTTP/2.0") => Detection::Http2,
            _ => Detection::Http1,
        };
        assert!(method.len() > 32 || http(data) == expect, "{method} is a request");
    }
}
