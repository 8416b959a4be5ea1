//! Responses that the proxy makes up: one table from failure to status, code, text and label.
//!
//! | what | HTTP | gRPC | closes the connection | label `error` |
//! |---|---|---|---|---|
//! | no route | 404 | 5 | no | – |
//! | unauthorized, forbidden | 403 | 7 | no | – |
//! | rate limited | 429 | 8 | no | – |
//! | limit of time on a request | 504 | 4 | no | `response timeout` |
//! | a service profile's limit of time | 504 | 4 | yes | `response timeout` |
//! | required identity missing | 502 | 14 | no | `identity required` |
//! | no endpoint in time (failfast), target unknown | 504 | 4 | yes | `failfast` |
//! | too many requests | 503 | 14 | yes | `loadshed` |
//! | connection to the endpoint failed | 502 | 14 | yes | `i/o` |
//! | connecting took too long | 504 | 4 | yes | `i/o` |
//! | a connection that would come back to us | 502 | 14 | yes | `i/o` |
//! | a gateway to something that we are none for | 404 | 5 | no | `gateway domain invalid` |
//! | a gateway's own request comes back | 508 | 10 | yes | `gateway loop` |
//! | no certificate, policy not understood, a service named by a header does not exist | 500 | 13 | yes | `unexpected` |
//!
//! As linkerd2-proxy v2 answers. Shape: no body; `l5d-proxy-error` says why; gRPC is answered with
//! 200, trailers-only. The informational headers are sent to meshed peers (inbound) or always
//! (outbound, unless switched off).

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode, Version};

use super::body::Body;
use super::failure::{Failure, What};
use super::headers::{L5D_PROXY_CONNECTION, L5D_PROXY_ERROR};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC code.
    pub code: u16,
    /// Whether the client's connection is ended.
    pub closes: bool,
    /// Value of the metric label `error`; none for decisions of policy, which have families of
    /// their own.
    pub label: Option<&'static str>,
}

/// How to answer somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The request was gRPC.
    pub grpc: bool,
    /// The version the client speaks on its connection.
    pub version: Version,
    /// Whether informational headers are sent.
    pub informs: bool,
}

/// The row for a failure.
pub fn row(failure: &Failure) -> Row {
    let row = |status, code, closes, label| Row { status, code, closes, label };
    match &failure.what {
        What::NoRoute | What::NoRouteOf(_) => row(StatusCode::NOT_FOUND, 5, false, None),
        What::Unauthorized | What::Denied(_) | What::Forbidden => {
            row(StatusCode::FORBIDDEN, 7, false, None)
        }
        What::RateLimited(_) => row(StatusCode::TOO_MANY_REQUESTS, 8, false, None),
        What::Timeout(_) => row(StatusCode::GATEWAY_TIMEOUT, 4, false, Some("response timeout")),
        What::ProfileTimeout => row(StatusCode::GATEWAY_TIMEOUT, 4, true, Some("response timeout")),
        What::IdentityRequired { .. } => {
            row(StatusCode::BAD_GATEWAY, 14, false, Some("identity required"))
        }
        What::FailFast(_) | What::Undiscovered(_) => {
            row(StatusCode::GATEWAY_TIMEOUT, 4, true, Some("failfast"))
        }
        What::Shed => row(StatusCode::SERVICE_UNAVAILABLE, 14, true, Some("loadshed")),
        What::ConnectTimeout { .. } => row(StatusCode::GATEWAY_TIMEOUT, 4, true, Some("i/o")),
        What::Connect { .. } | What::Handshake { .. } | What::Io(_) | What::Loop(_) => {
            row(StatusCode::BAD_GATEWAY, 14, true, Some("i/o"))
        }
        What::GatewayDomain(_) => {
            row(StatusCode::NOT_FOUND, 5, false, Some("gateway domain invalid"))
        }
        What::GatewayLoop => row(StatusCode::LOOP_DETECTED, 10, true, Some("gateway loop")),
        // The last of these are failures of connections and have no request to answer.
        What::NoCertificate
        | What::InvalidPolicy(_)
        | What::InvalidBackend(_)
        | What::Unknown(_)
        | What::DirectWithoutIdentity
        | What::DirectWithoutHeader
        | What::NotOurs(_)
        | What::NoServerName
        | What::DetectTimeout => {
            row(StatusCode::INTERNAL_SERVER_ERROR, 13, true, Some("unexpected"))
        }
    }
}

/// The response for a failure.
pub fn failure(failure: &Failure, manner: Manner) -> Response<Body> {
    let row = row(failure);
    let mut response = made_up(row.status, row.code, &failure.to_string(), manner);
    if row.closes {
        let headers = response.headers_mut();
        if manner.version == Version::HTTP_11 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if manner.informs {
            headers.insert(L5D_PROXY_CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// A response without a body, with a status of its own.
pub fn made_up(status: StatusCode, code: u16, text: &str, manner: Manner) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.version_mut() = manner.version;
    let text = header_text(text);
    let headers = response.headers_mut();
    if manner.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if manner.informs {
            headers.insert("grpc-message", grpc_message(&text));
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if manner.informs {
        headers.insert(L5D_PROXY_ERROR, text);
    }
    if !manner.grpc {
        *response.status_mut() = status;
    }
    response
}

/// The answer to a request that cannot be understood: bare, and the connection ends.
pub fn bad_request(version: Version) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::BAD_REQUEST;
    *response.version_mut() = version;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer to `CONNECT` inside HTTP/2: tunnels are made over HTTP/1 only, as in linkerd2-proxy v2.
pub fn no_tunnel() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
    response
}

fn header_text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unexpected error"))
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Responses"); our texts need it only for
/// the percent sign itself and for what is not printable ASCII.
fn grpc_message(text: &HeaderValue) -> HeaderValue {
    let plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'%';
    if text.as_bytes().iter().all(plain) {
        return text.clone();
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.as_bytes() {
        if plain(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&encoded).expect("percent-encoded text is printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP1: Manner = Manner { grpc: false, version: Version::HTTP_11, informs: true };
    const GRPC: Manner = Manner { grpc: true, version: Version::HTTP_2, informs: true };

    fn check(what: What, status: u16, code: &str, closes: bool) {
        let failed = Failure::us(what);
        let response = failure(&failed, HTTP1);
        assert_eq!(response.status(), status, "{failed}");
        assert_eq!(response.headers()["l5d-proxy-error"], failed.to_string());
        assert_eq!(response.headers()["content-length"], "0");
        assert_eq!(response.headers().contains_key("connection"), closes, "{failed}");
        assert_eq!(response.headers().contains_key("l5d-proxy-connection"), closes, "{failed}");
        let response = failure(&failed, GRPC);
        assert_eq!(response.status(), 200, "{failed}");
        assert_eq!(response.headers()["grpc-status"], code, "{failed}");
        assert_eq!(response.headers()["grpc-message"], failed.to_string());
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(!response.headers().contains_key("connection"), "never in HTTP/2");
    }

    #[test]
    fn every_failure_has_its_answer() {
        let address = "10.0.0.1:80".parse().unwrap();
        let io = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let timeout = std::time::Duration::from_secs(1);
        check(What::NoRoute, 404, "5", false);
        check(What::Unauthorized, 403, "7", false);
        check(What::NoRouteOf("server s".into()), 404, "5", false);
        check(What::Denied("route r of server s".into()), 403, "7", false);
        check(What::Forbidden, 403, "7", false);
        check(What::RateLimited("limit l of server s".into()), 429, "8", false);
        check(What::Timeout("response timed out"), 504, "4", false);
        check(What::ProfileTimeout, 504, "4", true);
        check(What::IdentityRequired { required: "a.b".into() }, 502, "14", false);
        check(What::FailFast("web:80".into()), 504, "4", true);
        check(What::Undiscovered(crate::control::Target::Address(address)), 504, "4", true);
        let name = hauberk_model::Authority::new("web", hauberk_model::Port::new(80).unwrap());
        check(What::Unknown(name.clone()), 500, "13", true);
        check(What::GatewayDomain(name), 404, "5", false);
        check(What::GatewayLoop, 508, "10", true);
        check(What::Shed, 503, "14", true);
        check(What::ConnectTimeout { address, timeout }, 504, "4", true);
        check(What::Connect { address, error: io() }, 502, "14", true);
        check(What::Io(io()), 502, "14", true);
        check(What::Loop(address), 502, "14", true);
        check(What::NoCertificate, 500, "13", true);
        check(What::InvalidPolicy("bad".into()), 500, "13", true);
    }

    #[test]
    fn says_nothing_to_strangers() {
        let stranger = Manner { informs: false, ..HTTP1 };
        let response = failure(&Failure::us(What::Shed), stranger);
        assert!(!response.headers().contains_key("l5d-proxy-error"));
        assert!(!response.headers().contains_key("l5d-proxy-connection"));
        assert_eq!(response.headers()["connection"], "close");
    }

    #[test]
    fn texts_that_no_header_can_hold_are_replaced() {
        let response = made_up(StatusCode::BAD_GATEWAY, 14, "a\nb", HTTP1);
        assert_eq!(response.headers()["l5d-proxy-error"], "unexpected error");
        let response = made_up(StatusCode::BAD_GATEWAY, 14, "100% über", GRPC);
        assert_eq!(response.headers()["grpc-message"], "100%25 %C3%BCber");
    }
}
