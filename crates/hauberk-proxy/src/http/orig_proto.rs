//! HTTP/1 carried over HTTP/2 between two proxies.
//!
//! The sending proxy marks the request with `l5d-orig-proto: HTTP/1.1` (or `HTTP/1.0`, and
//! `; absolute-form` when the target was absolute), so that the receiving proxy can give the
//! application exactly what the client sent; the response carries the application's version back.
//! The format is that of linkerd2-proxy v2. The header never reaches an application: it is removed
//! on arrival whether or not it is believed, and it is believed only from a meshed peer (there is
//! no other sender of it, and linkerd2-proxy's trust in anybody is not copied).
//!
//! Pure: only message heads are changed here.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, Parts, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version};

use super::headers::{L5D_ORIG_PROTO, is_absolute_form};

/// What the client's side of an HTTP/1 exchange was, as told by the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrigProto {
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: Version,
    /// The target was in absolute form.
    pub absolute_form: bool,
}

/// Makes an HTTP/1 request ready to travel over HTTP/2.
///
/// The target becomes `http://authority/path`, which h2 turns into `:scheme`, `:authority` and
/// `:path`. Returns the original version, which the response falls back to.
pub fn upgrade<B>(request: &mut Request<B>) -> Version {
    let version = request.version();
    let absolute = is_absolute_form(request.uri());
    let mark = match (version, absolute) {
        (Version::HTTP_10, false) => "HTTP/1.0",
        (Version::HTTP_10, true) => "HTTP/1.0; absolute-form",
        (_, false) => "HTTP/1.1",
        (_, true) => "HTTP/1.1; absolute-form",
    };
    let headers = request.headers_mut();
    headers.insert(L5D_ORIG_PROTO, HeaderValue::from_static(mark));
    headers.remove(TRANSFER_ENCODING);
    if !absolute {
        let authority =
            headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = target(authority, path);
    }
    *request.version_mut() = Version::HTTP_2;
    version
}

/// `:authority` is left out when the client named no host; then there is no scheme either.
fn target(authority: Option<Authority>, path: Option<http::uri::PathAndQuery>) -> Uri {
    let mut parts = Parts::default();
    parts.path_and_query = Some(path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    if let Some(authority) = authority {
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority);
    }
    Uri::from_parts(parts).expect("a path with or without scheme and authority is a target")
}

/// Restores the version of a response to an upgraded request and removes the mark.
pub fn restore_response<B>(response: &mut Response<B>, fallback: Version) {
    let told = take(response.headers_mut());
    *response.version_mut() = told.map_or(fallback, |told| told.version);
}

/// Removes the mark from a request; `Some` when it names a version we know.
pub fn take(headers: &mut HeaderMap) -> Option<OrigProto> {
    headers.remove(L5D_ORIG_PROTO).and_then(|value| parse(value.as_bytes()))
}

/// Turns an HTTP/2 request back into the HTTP/1 request its mark describes.
pub fn downgrade<B>(request: &mut Request<B>, told: OrigProto) {
    *request.version_mut() = told.version;
    if !told.absolute_form
        && let Some(path) = request.uri().path_and_query().cloned()
    {
        // `Host` travels as a header of its own, so the authority is not lost.
        *request.uri_mut() = target(None, Some(path));
    }
}

/// Marks the response of the application with its version, to travel back over HTTP/2.
pub fn mark_response<B>(response: &mut Response<B>) {
    let mark = match response.version() {
        Version::HTTP_10 | Version::HTTP_09 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let headers = response.headers_mut();
    headers.insert(L5D_ORIG_PROTO, HeaderValue::from_static(mark));
    headers.remove(TRANSFER_ENCODING);
    *response.version_mut() = Version::HTTP_2;
}

/// The version is a prefix; what follows is only looked at for `absolute-form`.
fn parse(value: &[u8]) -> Option<OrigProto> {
    let version = if value.starts_with(b"HTTP/1.1") {
        Version::HTTP_11
    } else if value.starts_with(b"HTTP/1.0") {
        Version::HTTP_10
    } else {
        return None;
    };
    let rest = std::str::from_utf8(&value[8..]).unwrap_or("");
    let absolute_form = rest.split(';').any(|word| word.trim() == "absolute-form");
    Some(OrigProto { version, absolute_form })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, version: Version, host: Option<&str>) -> Request<()> {
        let mut request = Request::builder().uri(uri).version(version).body(()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(HOST, host.parse().unwrap());
        }
        request
    }

    fn round_trip(uri: &str, version: Version, host: Option<&str>, mark: &str, wire: &str) {
        let mut travelling = request(uri, version, host);
        travelling.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        assert_eq!(upgrade(&mut travelling), version);
        assert_eq!(travelling.version(), Version::HTTP_2);
        assert_eq!(travelling.headers()[L5D_ORIG_PROTO], mark);
        assert_eq!(travelling.uri().to_string(), wire);
        let told = take(travelling.headers_mut()).unwrap();
        downgrade(&mut travelling, told);
        let sent = request(uri, version, host);
        assert_eq!(travelling.uri(), sent.uri());
        assert_eq!(travelling.version(), sent.version());
        assert_eq!(travelling.headers(), sent.headers());
    }

    #[test]
    fn an_http1_request_survives_the_journey() {
        let v11 = Version::HTTP_11;
        round_trip("/a?b=c", v11, Some("web:80"), "HTTP/1.1", "http://web:80/a?b=c");
        round_trip("/a", Version::HTTP_10, None, "HTTP/1.0", "/a");
        round_trip("http://x/a", v11, Some("y"), "HTTP/1.1; absolute-form", "http://x/a");
    }

    #[test]
    fn the_mark_is_removed_even_when_it_says_nothing_we_know() {
        let mut headers = HeaderMap::new();
        headers.insert(L5D_ORIG_PROTO, HeaderValue::from_static("HTTP/3"));
        assert_eq!(take(&mut headers), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_response_gets_its_version_back() {
        let mut response = Response::new(());
        *response.version_mut() = Version::HTTP_10;
        mark_response(&mut response);
        assert_eq!(response.version(), Version::HTTP_2);
        restore_response(&mut response, Version::HTTP_11);
        assert_eq!(response.version(), Version::HTTP_10);
        assert!(response.headers().is_empty());
        restore_response(&mut response, Version::HTTP_11);
        assert_eq!(response.version(), Version::HTTP_11);
    }
}
