//! What a route does to a request or response on its way.

use crate::{
    cors::Cors,
    name::{Authority, ServiceName},
    route::http::PathMatch,
};
use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};
use std::{sync::Arc, time::Duration};

/// Filters of HTTP routes.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilter {
    /// Answers some requests with a failure.
    InjectFailure(InjectHttpFailure),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Edits request headers.
    RequestHeaders(HeaderEdits),
    /// Edits response headers.
    ResponseHeaders(HeaderEdits),
    /// Sends the request to another URL of its backend.
    UrlRewrite(UrlRewrite),
    /// Sends a copy of some requests somewhere else.
    Mirror(Mirror),
    /// Holds some requests back for a while.
    Delay(Delay),
    /// Lets pages of other origins read responses.
    Cors(Arc<Cors>),
    /// Answers 500 with this message: the route could not be understood.
    Invalid(Arc<str>),
}

/// Filters of gRPC routes.
#[derive(Clone, Debug, PartialEq)]
pub enum GrpcFilter {
    /// Answers some requests with a failure.
    InjectFailure(InjectGrpcFailure),
    /// Edits request headers.
    RequestHeaders(HeaderEdits),
    /// Sends a copy of some calls somewhere else.
    Mirror(Mirror),
    /// Holds some calls back for a while.
    Delay(Delay),
    /// Answers `INTERNAL` with this message: the route could not be understood.
    Invalid(Arc<str>),
}

/// Filters of opaque and TLS routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpFilter {
    /// Closes the connection: not allowed.
    Forbidden,
    /// Closes the connection with this message: the route could not be understood.
    Invalid(Arc<str>),
}

/// Share of requests, `numerator` out of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// How many.
    pub numerator: u32,
    /// Out of how many; not zero.
    pub denominator: u32,
}

impl Ratio {
    /// Every request.
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };
    /// No request.
    pub const NONE: Self = Self { numerator: 0, denominator: 1 };

    /// Whether a request is hit, with `random` drawn uniformly from 0 to 1 (1 excluded).
    pub fn hits(self, random: f64) -> bool {
        random * f64::from(self.denominator) < f64::from(self.numerator)
    }
}

/// An HTTP failure to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectHttpFailure {
    /// Status of the answer.
    pub status: StatusCode,
    /// Text for `l5d-proxy-error`.
    pub message: Arc<str>,
    /// Share of requests.
    pub ratio: Ratio,
}

/// A gRPC failure to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectGrpcFailure {
    /// gRPC code, 1 to 16.
    pub code: u16,
    /// Text for `grpc-message`.
    pub message: Arc<str>,
    /// Share of requests.
    pub ratio: Ratio,
}

/// A copy of requests, sent somewhere else; nobody waits for what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The service, for log and metrics.
    pub service: ServiceName,
    /// What to ask its endpoints for.
    pub authority: Authority,
    /// Share of requests.
    pub ratio: Ratio,
}

/// Requests are held back before anything else becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// For how long; whole milliseconds.
    pub time: Duration,
    /// Share of requests.
    pub ratio: Ratio,
}

/// Edits of a header map, done in the order set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Appended beside values that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Put in place of values that are there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Edits `headers` in place.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A redirect; parts that are `None` are taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// New scheme.
    pub scheme: Option<Scheme>,
    /// New host.
    pub host: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// New port.
    pub port: Option<crate::Port>,
    /// Status of the answer, 302 unless given.
    pub status: Option<StatusCode>,
}

/// What a backend sees in place of the URL that was asked for; parts that are `None` stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// New host, without a port.
    pub host: Option<Arc<str>>,
    /// New path; the query stays.
    pub path: Option<PathRewrite>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// In place of the whole path.
    Full(Arc<str>),
    /// In place of the prefix that matched.
    Prefix(Arc<str>),
}

impl PathRewrite {
    /// The new path for `path`, which `matched` has matched.
    ///
    /// A prefix is replaced by whole segments (Gateway API, `ReplacePrefixMatch`): `/foo/bar` with
    /// prefix `/foo` and replacement `/xyz` becomes `/xyz/bar`. Without a prefix match the path is
    /// replaced as a whole.
    pub fn apply(&self, path: &str, matched: &PathMatch) -> String {
        let (new, old) = match (self, matched) {
            (Self::Full(new), _) => return new.to_string(),
            (Self::Prefix(new), PathMatch::Prefix(old)) => (new, old.trim_end_matches('/')),
            (Self::Prefix(new), _) => return new.to_string(),
        };
        let rest = path.strip_prefix(old).unwrap_or("");
        match (new.trim_end_matches('/'), rest.trim_start_matches('/')) {
            ("", rest) => format!("/{rest}"),
            (new, "") if rest.is_empty() => new.to_owned(),
            (new, rest) => format!("{new}/{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_prefixes_by_segments() {
        let check = |path: &str, old: &str, new: &str, expect: &str| {
            let matched = PathMatch::Prefix(old.into());
            assert_eq!(PathRewrite::Prefix(new.into()).apply(path, &matched), expect, "{path}");
        };
        // The table of the Gateway API's HTTPPathModifier documentation.
        check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check("/foo", "/foo", "/xyz", "/xyz");
        check("/foo/", "/foo", "/xyz", "/xyz/");
        check("/foo/bar", "/foo", "", "/bar");
        check("/foo/", "/foo", "/", "/");
        check("/foo", "/foo", "/", "/");
    }

    #[test]
    fn edits_set_before_add_before_remove() {
        let mut headers = http::HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        headers.insert("gone", HeaderValue::from_static("1"));
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = HeaderEdits {
            add: vec![(name("a"), value("3"))],
            set: vec![(name("a"), value("2"))],
            remove: vec![name("gone")],
        };
        edits.apply(&mut headers);
        assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["2", "3"]);
        assert!(!headers.contains_key("gone"));
    }

    #[test]
    fn ratio_hits_its_share() {
        let half = Ratio { numerator: 1, denominator: 2 };
        assert!(half.hits(0.49) && !half.hits(0.5));
        assert!(Ratio::ALL.hits(0.999) && !Ratio { numerator: 0, denominator: 1 }.hits(0.0));
    }
}
