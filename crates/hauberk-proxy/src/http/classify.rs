//! Whether a response is a success or a failure, for metrics and for the circuit breaker.
//!
//! Called when a response head arrives and again when its body ends. Pure. The rules are those of
//! linkerd2-proxy v2: HTTP fails with 500 to 599; gRPC fails by its code, told in the headers
//! (trailers-only) or in the trailers, and a stream that ends without a code counts as a success of
//! unknown code; a reset or broken stream fails.

use http::{HeaderMap, StatusCode};

use super::limits::Limit;

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// HTTP, judged by its status.
    Http(Verdict),
    /// gRPC, judged by its code.
    Grpc(Verdict, u16),
    /// The stream broke.
    Broken(Break),
}

/// The judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Success,
    /// Not as it should be.
    Failure,
}

/// How a stream broke. The text is the value of the metric label `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A limit of time was reached.
    Timeout(Limit),
    /// The policy no longer allows the request.
    Withdrawn,
    /// HTTP/2 said why.
    Reset(h2::Reason),
    /// Anything else.
    Unclassified,
}

impl Class {
    /// The judgement.
    pub fn verdict(self) -> Verdict {
        match self {
            Class::Http(verdict) | Class::Grpc(verdict, _) => verdict,
            Class::Broken(_) => Verdict::Failure,
        }
    }
}

/// What is known of a response before its body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Decided by the status already.
    Http(Verdict),
    /// The code is in the head or will come in the trailers.
    Grpc(Option<u16>),
}

impl Pending {
    /// From a response head; `grpc` says whether the request was gRPC.
    pub fn new(grpc: bool, status: StatusCode, headers: &HeaderMap) -> Self {
        if grpc {
            Pending::Grpc(grpc_code(headers))
        } else if status.is_server_error() {
            Pending::Http(Verdict::Failure)
        } else {
            Pending::Http(Verdict::Success)
        }
    }

    /// The end of the stream, with or without trailers.
    pub fn end(self, trailers: Option<&HeaderMap>) -> Class {
        match self {
            Pending::Http(verdict) => Class::Http(verdict),
            Pending::Grpc(code) => match code.or_else(|| trailers.and_then(grpc_code)) {
                Some(code) => Class::Grpc(grpc_verdict(code), code),
                None => Class::Grpc(Verdict::Success, UNKNOWN),
            },
        }
    }
}

const UNKNOWN: u16 = 2;
const UNAUTHENTICATED: u16 = 16;

impl Break {
    /// A reset with that code; codes nobody has defined count as `INTERNAL_ERROR` (RFC 9113
    /// section 7), so that a peer cannot invent metric series.
    pub fn reset(reason: h2::Reason) -> Self {
        let known = u32::from(reason) <= u32::from(h2::Reason::HTTP_1_1_REQUIRED);
        Break::Reset(if known { reason } else { h2::Reason::INTERNAL_ERROR })
    }
}

/// The `grpc-status` of headers or trailers; a value that is no known code counts as unknown, as
/// gRPC's protocol description wants it.
pub fn grpc_code(headers: &HeaderMap) -> Option<u16> {
    let value = headers.get("grpc-status")?;
    let code = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(code.filter(|code| *code <= UNAUTHENTICATED).unwrap_or(UNKNOWN))
}

/// Codes that are the server's fault: unknown, deadline exceeded, permission denied, internal,
/// unavailable, data loss.
fn grpc_verdict(code: u16) -> Verdict {
    match code {
        2 | 4 | 7 | 13 | 14 | 15 => Verdict::Failure,
        _ => Verdict::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_code(code: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", code.parse().unwrap());
        headers
    }

    #[test]
    fn http_is_judged_by_status() {
        let check = |status, verdict| {
            let status = StatusCode::from_u16(status).unwrap();
            let pending = Pending::new(false, status, &with_code("13"));
            assert_eq!(pending.end(None), Class::Http(verdict));
        };
        check(200, Verdict::Success);
        check(404, Verdict::Success);
        check(500, Verdict::Failure);
        check(599, Verdict::Failure);
    }

    #[test]
    fn grpc_is_judged_by_code_wherever_it_stands() {
        let empty = HeaderMap::new();
        let pending = Pending::new(true, StatusCode::OK, &empty);
        assert_eq!(pending.end(Some(&with_code("0"))), Class::Grpc(Verdict::Success, 0));
        assert_eq!(pending.end(Some(&with_code("5"))), Class::Grpc(Verdict::Success, 5));
        assert_eq!(pending.end(Some(&with_code("14"))), Class::Grpc(Verdict::Failure, 14));
        assert_eq!(pending.end(None), Class::Grpc(Verdict::Success, 2));
        let only = Pending::new(true, StatusCode::OK, &with_code("13"));
        assert_eq!(only.end(None), Class::Grpc(Verdict::Failure, 13));
    }
}
