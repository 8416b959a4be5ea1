//! Headers that belong to one hop, and headers only a proxy may speak.
//!
//! Called by the inbound and outbound request paths and by the HTTP client. Pure.
//!
//! Two families are handled here. *Connection headers* (RFC 9110 section 7.6.1) describe one hop
//! and are removed before a message travels on. *Mesh headers* (`l5d-*`) are how proxies talk to
//! each other; a value that comes from outside the mesh is never believed.
//!
//! `TE`, `Trailer` and `Transfer-Encoding` are left alone: `http1` owns the framing, and gRPC needs
//! `te: trailers` to arrive.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};

/// Marks HTTP/1 carried over HTTP/2 between two proxies; see [`crate::http::orig_proto`].
pub const L5D_ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
/// The identity of a meshed client, told to the application; never taken from the client.
pub const L5D_CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");
/// Why a proxy answered in place of the application.
pub const L5D_PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// A proxy asks the next proxy to close its client's connection.
pub const L5D_PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");
/// A server's proxy answers in place of its application, which has seen nothing of the request
/// (decision 0028). Only Hauberk's proxies say and understand it; no application gets to say it.
pub const L5D_HAUBERK_UNSENT: HeaderName = HeaderName::from_static("l5d-hauberk-unsent");
/// The application demands this server identity.
pub const L5D_REQUIRE_ID: HeaderName = HeaderName::from_static("l5d-require-id");
/// The logical name a request was routed by.
pub const L5D_DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what belongs to the hop a message came over: every header that `Connection` names,
/// then `Connection`, `Upgrade`, `Proxy-Connection` and `Keep-Alive`.
///
/// Cost without such headers: one pass over the names, no look-up, no allocation.
pub fn strip_connection_headers(headers: &mut HeaderMap) {
    if !headers.keys().any(belongs_to_hop) {
        return;
    }
    // Only a message that names headers pays for the list of names.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(|name| !belongs_to_framing(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(UPGRADE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(KEEP_ALIVE);
}

/// Whether a header describes the hop a message came over.
fn belongs_to_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    // By length first: nearly every name is told apart by that.
    match name.len() {
        7 => name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        16 => name == "proxy-connection",
        _ => false,
    }
}

/// Whether any header is one that only proxies of the mesh may speak.
pub fn has_mesh_headers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("l5d-"))
}

/// Whether a header is one that HTTP/2 does not allow (RFC 9113 section 8.2.2); `te` is taken for one, because
/// responses have no use for it.
pub fn is_not_for_http2(name: &HeaderName) -> bool {
    belongs_to_hop(name) || *name == TRANSFER_ENCODING || *name == TE
}

/// Headers that a `Connection` option must not be able to remove: without them the message would
/// be framed or routed differently by the next hop (RFC 9110 section 7.6.1, last paragraph).
fn belongs_to_framing(name: &HeaderName) -> bool {
    *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH || *name == HOST || *name == "te"
}

/// Whether a request is gRPC: HTTP/2 with a content type that starts with `application/grpc`.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether an HTTP/1 request asks to leave HTTP: `CONNECT`, or `Upgrade` to anything but `h2c`.
///
/// `h2c` is not passed on: the request continues as HTTP/1 and the header is stripped, as RFC 9113
/// section 3.1 allows.
pub fn wants_upgrade(version: Version, method: &Method, headers: &HeaderMap) -> bool {
    if version != Version::HTTP_11 {
        return false;
    }
    *method == Method::CONNECT
        || headers.get(UPGRADE).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// Why a request cannot be passed on safely. Each is answered with 400 and the connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// `CONNECT` is for HTTP/1.1 and names an authority (RFC 9110 section 9.3.6).
    #[error("malformed CONNECT request")]
    Connect,
    /// Only `CONNECT` may have a target that is a bare authority (RFC 9112 section 3.2.3).
    #[error("request target is a bare authority")]
    AuthorityForm,
    /// RFC 9112 section 3.2: more than one `Host` must be answered with 400.
    #[error("more than one host header")]
    SeveralHosts,
    /// A `Host` that is no authority could be read differently by the next hop.
    #[error("invalid host header")]
    InvalidHost,
    /// RFC 9112 section 6.1: both framings in one request are the base of request smuggling.
    #[error("both content-length and transfer-encoding")]
    TwoFramings,
    /// RFC 9112 section 6.1: nobody may apply `chunked` twice, and other codings would be lost
    /// between two proxies, which speak HTTP/2.
    #[error("transfer coding is not chunked alone")]
    Coding,
}

/// Checks an HTTP/1 request for what is well formed but a next hop might read differently.
///
/// [`super::http1::head`] itself refuses conflicting lengths, a transfer coding on HTTP/1.0, a bare CR and
/// folded headers.
pub fn check_http1<B>(request: &Request<B>) -> Result<(), Malformed> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        if request.version() != Version::HTTP_11 || !is_authority_form(uri) {
            return Err(Malformed::Connect);
        }
    } else if is_authority_form(uri) {
        return Err(Malformed::AuthorityForm);
    }
    // RFC 9110 section 4.2.4: user info in a target is an error; a host after it would be taken for
    // another one than the routes know.
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Malformed::InvalidHost);
    }
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    if let Some(host) = hosts.next() {
        if hosts.next().is_some() {
            return Err(Malformed::SeveralHosts);
        }
        if !is_host(host) {
            return Err(Malformed::InvalidHost);
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Malformed::TwoFramings);
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Malformed::Coding);
        }
    }
    Ok(())
}

/// An empty `Host` is legal (RFC 9112 section 3.2); otherwise it is an authority without user info.
fn is_host(host: &HeaderValue) -> bool {
    let bytes = host.as_bytes();
    bytes.is_empty()
        || bytes.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
                || matches!(
                    byte,
                    b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
                )
        })
}

fn is_authority_form(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_some() && uri.path_and_query().is_none()
}

/// Whether the target of a request is in absolute form (`GET http://host/path`).
pub fn is_absolute_form(uri: &Uri) -> bool {
    uri.scheme().is_some()
}

/// The host a request is for: the authority of its target, else `Host`; `None` if neither names one.
pub fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .filter(|host| !host.is_empty()),
    }
}

/// Sets `l5d-client-id` to the verified identity of the peer, or removes whatever was sent.
pub fn set_client_id(headers: &mut HeaderMap, id: Option<&HeaderValue>) {
    match id {
        Some(id) => {
            headers.insert(L5D_CLIENT_ID, id.clone());
        }
        None => {
            headers.remove(L5D_CLIENT_ID);
        }
    }
}

/// Removes what the previous proxy told this one; returns whether it asked for the close of the
/// client's connection.
pub fn strip_proxy_headers(headers: &mut HeaderMap) -> bool {
    headers.remove(L5D_PROXY_ERROR);
    headers
        .remove(L5D_PROXY_CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// A success answer to `CONNECT` has no body, so it has no framing (RFC 9110 section 9.3.6).
pub fn strip_connect_framing(status: StatusCode, headers: &mut HeaderMap) {
    if status.is_success() {
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers
                .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn request(method: &str, uri: &str, version: Version, lines: &[(&str, &str)]) -> Request<()> {
        let mut request =
            Request::builder().method(method).uri(uri).version(version).body(()).unwrap();
        *request.headers_mut() = headers(lines);
        request
    }

    #[test]
    fn strips_connection_headers_and_those_they_name() {
        let mut map = headers(&[
            ("connection", "close, X-One"),
            ("connection", "x-two, transfer-encoding, te"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
        ]);
        strip_connection_headers(&mut map);
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "transfer-encoding", "x-three"]);
    }

    #[test]
    fn recognises_upgrades() {
        let check = |method, version, lines: &[(&str, &str)], expect| {
            let request = request(method, "a:1", version, lines);
            let wants = wants_upgrade(version, request.method(), request.headers());
            assert_eq!(wants, expect, "{lines:?}");
        };
        check("CONNECT", Version::HTTP_11, &[], true);
        check("GET", Version::HTTP_11, &[("upgrade", "websocket")], true);
        check("GET", Version::HTTP_11, &[("upgrade", "h2c")], false);
        check("GET", Version::HTTP_10, &[("upgrade", "websocket")], false);
        check("GET", Version::HTTP_2, &[("upgrade", "websocket")], false);
        check("GET", Version::HTTP_11, &[], false);
    }

    #[test]
    fn refuses_requests_that_two_hops_could_read_differently() {
        let check = |method, uri, version, lines: &[(&str, &str)], expect| {
            assert_eq!(
                check_http1(&request(method, uri, version, lines)),
                expect,
                "{uri} {lines:?}"
            );
        };
        let v11 = Version::HTTP_11;
        check("GET", "/", v11, &[("host", "a.b:80")], Ok(()));
        check("GET", "/", v11, &[], Ok(()));
        check("GET", "/", v11, &[("host", "")], Ok(()));
        check("OPTIONS", "*", v11, &[("host", "[::1]:80")], Ok(()));
        check("CONNECT", "a.b:443", v11, &[], Ok(()));
        check("CONNECT", "/", v11, &[], Err(Malformed::Connect));
        check("CONNECT", "http://a/", v11, &[], Err(Malformed::Connect));
        check("CONNECT", "a.b:443", Version::HTTP_10, &[], Err(Malformed::Connect));
        check("GET", "a.b:80", v11, &[], Err(Malformed::AuthorityForm));
        check("GET", "/", v11, &[("host", "a"), ("host", "a")], Err(Malformed::SeveralHosts));
        check("GET", "/", v11, &[("host", "a/b")], Err(Malformed::InvalidHost));
        check("GET", "/", v11, &[("host", "a, b")], Err(Malformed::InvalidHost));
        check("GET", "/", v11, &[("host", "me@a")], Err(Malformed::InvalidHost));
        check(
            "POST",
            "/",
            v11,
            &[("content-length", "3"), ("transfer-encoding", "chunked")],
            Err(Malformed::TwoFramings),
        );
        let coded = |values: &[&'static str], expect| {
            let lines: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            check("POST", "/", v11, &lines, expect);
        };
        coded(&["Chunked"], Ok(()));
        coded(&["chunked, chunked"], Err(Malformed::Coding));
        coded(&["chunked", "chunked"], Err(Malformed::Coding));
        coded(&["gzip, chunked"], Err(Malformed::Coding));
        coded(&["gzip", "chunked"], Err(Malformed::Coding));
    }

    #[test]
    fn client_id_is_only_ours_to_set() {
        let mut map = headers(&[("l5d-client-id", "forged"), ("l5d-client-id", "twice")]);
        set_client_id(&mut map, None);
        assert!(map.is_empty());
        let mut map = headers(&[("l5d-client-id", "forged"), ("l5d-client-id", "twice")]);
        set_client_id(&mut map, Some(&HeaderValue::from_static("real")));
        assert_eq!(map.get_all(L5D_CLIENT_ID).iter().collect::<Vec<_>>(), ["real"]);
    }

    #[test]
    fn proxy_headers_are_removed_and_close_is_heard() {
        let mut map = headers(&[("l5d-proxy-error", "x"), ("l5d-proxy-connection", "close")]);
        assert!(strip_proxy_headers(&mut map));
        assert!(map.is_empty());
        assert!(!strip_proxy_headers(&mut map));
    }

    #[test]
    fn grpc_is_http2_with_its_content_type() {
        let check = |version, content_type, expect| {
            let request = request("POST", "/a/b", version, &[("content-type", content_type)]);
            assert_eq!(is_grpc(&request), expect);
        };
        check(Version::HTTP_2, "application/grpc", true);
        check(Version::HTTP_2, "application/grpc+proto", true);
        check(Version::HTTP_2, "application/json", false);
        check(Version::HTTP_11, "application/grpc", false);
    }
}
