//! Matching gRPC calls: by service and method, and by headers.

use super::{Match, http::HeaderMatch};
use http::request::Parts;
use std::sync::Arc;

/// What a gRPC call must look like; all parts that are given must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrpcMatch {
    /// Full service name, `emojivoto.v1.VotingService`.
    pub service: Option<Arc<str>>,
    /// Method name, `VoteDoughnut`.
    pub method: Option<Arc<str>>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
}

/// How well a call matched, compared part by part from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcRank {
    /// Bytes of the service name that matched.
    pub service: usize,
    /// Bytes of the method name that matched.
    pub method: usize,
    /// Header matches.
    pub headers: usize,
}

impl Match for GrpcMatch {
    type Rank = GrpcRank;

    fn rank(&self, request: &Parts) -> Option<GrpcRank> {
        if request.method != http::Method::POST {
            return None;
        }
        let (service, method) = request.uri.path().strip_prefix('/')?.split_once('/')?;
        let part = |want: &Option<Arc<str>>, got: &str| match want {
            None => Some(0),
            Some(want) => (&**want == got).then_some(want.len()),
        };
        let rank = GrpcRank {
            service: part(&self.service, service)?,
            method: part(&self.method, method)?,
            headers: self.headers.len(),
        };
        self.headers.iter().all(|header| header.matches(&request.headers)).then_some(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_service_and_method() {
        let request = |method: &str, uri: &str| {
            let request = http::Request::builder().method(method).uri(uri).body(());
            request.expect("valid request").into_parts().0
        };
        let only = GrpcMatch { service: Some("a.B".into()), ..GrpcMatch::default() };
        let rank = only.rank(&request("POST", "/a.B/C")).expect("matches");
        assert_eq!((rank.service, rank.method), (3, 0));
        assert_eq!(only.rank(&request("POST", "/a.X/C")), None);
        assert_eq!(only.rank(&request("GET", "/a.B/C")), None);
        assert_eq!(GrpcMatch::default().rank(&request("POST", "/nothing")), None);
    }
}
