//! Matching HTTP requests.

use super::Match;
use crate::Pattern;
use http::{HeaderName, HeaderValue, Method, request::Parts};
use std::sync::Arc;

/// What a request must look like; all parts that are given must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// The path, without query.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// The method.
    pub method: Option<Method>,
}

/// How a path must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Exactly so.
    Exact(Arc<str>),
    /// Begins with these segments: `/a` is a prefix of `/a` and `/a/b`, not of `/ab`; `/` is one
    /// of every path, but not of targets that are no paths (`*`, and nothing at all for CONNECT).
    Prefix(Arc<str>),
    /// Matches as a whole.
    Regex(Pattern),
}

/// How a header must look. A header with several values matches if one of them does.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderMatch {
    /// One value is exactly so.
    Exact(HeaderName, HeaderValue),
    /// One value matches as a whole.
    Regex(HeaderName, Pattern),
}

/// How a query parameter must look, after percent decoding. The first of a name counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryMatch {
    /// Exactly so.
    Exact(Arc<str>, Arc<str>),
    /// Matches as a whole.
    Regex(Arc<str>, Pattern),
}

/// How well a request matched, compared part by part from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpRank {
    /// Bytes of the path that matched.
    pub path_len: usize,
    /// Whether the path matched exactly and not by prefix or pattern.
    pub path_exact: bool,
    /// Header matches.
    pub headers: usize,
    /// Query matches.
    pub query: usize,
    /// Whether a method was asked for.
    pub method: bool,
}

impl PathMatch {
    /// How many bytes of `path` match, if it does.
    pub fn matched_len(&self, path: &str) -> Option<usize> {
        match self {
            Self::Exact(exact) => (path == &**exact).then_some(path.len()),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix)?;
                let whole = rest.is_empty() && !prefix.is_empty();
                (whole || rest.starts_with('/')).then_some(prefix.len().max(1))
            }
            Self::Regex(pattern) => pattern.matches(path).then_some(path.len()),
        }
    }
}

impl HeaderMatch {
    /// Whether one of the header's values matches.
    pub fn matches(&self, headers: &http::HeaderMap) -> bool {
        match self {
            Self::Exact(name, value) => headers.get_all(name).iter().any(|v| v == value),
            Self::Regex(name, pattern) => headers
                .get_all(name)
                .iter()
                .any(|v| v.to_str().is_ok_and(|text| pattern.matches(text))),
        }
    }
}

impl QueryMatch {
    /// Whether the parameter is there and matches.
    pub fn matches(&self, query: &str) -> bool {
        let (Self::Exact(name, _) | Self::Regex(name, _)) = self;
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let Some((_, value)) = pairs.find(|(n, _)| percent_decode(n) == name.as_bytes()) else {
            return false;
        };
        let value = percent_decode(value);
        match self {
            Self::Exact(_, exact) => value == exact.as_bytes(),
            Self::Regex(_, pattern) => {
                std::str::from_utf8(&value).is_ok_and(|value| pattern.matches(value))
            }
        }
    }
}

/// Undoes percent encoding and `+` (HTML forms); a broken escape stands for itself.
fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
                at += 3;
                continue;
            }
            (b'+', _, _) => decoded.push(b' '),
            (byte, _, _) => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}

impl Match for HttpMatch {
    type Rank = HttpRank;

    fn rank(&self, request: &Parts) -> Option<HttpRank> {
        if self.method.as_ref().is_some_and(|method| *method != request.method) {
            return None;
        }
        let path_len = match &self.path {
            Some(path) => path.matched_len(request.uri.path())?,
            None => 0,
        };
        let query = request.uri.query().unwrap_or("");
        let matches = self.headers.iter().all(|header| header.matches(&request.headers))
            && self.query.iter().all(|parameter| parameter.matches(query));
        matches.then_some(HttpRank {
            path_len,
            path_exact: matches!(self.path, Some(PathMatch::Exact(_))),
            headers: self.headers.len(),
            query: self.query.len(),
            method: self.method.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_segments() {
        let check = |prefix: &str, path: &str, expect: Option<usize>| {
            assert_eq!(PathMatch::Prefix(prefix.into()).matched_len(path), expect, "{path}");
        };
        check("/a", "/a", Some(2));
        check("/a", "/a/b", Some(2));
        check("/a", "/ab", None);
        check("/a/", "/a", Some(2));
        check("/", "/x", Some(1));
        check("/", "*", None);
        check("/", "", None);
    }

    #[test]
    fn query_parameters_are_decoded_and_the_first_counts() {
        let exact = QueryMatch::Exact("a b".into(), "ü&".into());
        assert!(exact.matches("x=1&a+b=%C3%BC%26"));
        assert!(exact.matches("a%20b=%c3%bc%26"));
        assert!(!exact.matches("a+b=no&a+b=%C3%BC%26"));
        assert!(!exact.matches(""));
        assert!(QueryMatch::Exact("p".into(), "100%".into()).matches("p=100%"));
    }

    #[test]
    fn any_value_of_a_repeated_header_matches() {
        let mut headers = http::HeaderMap::new();
        headers.append("x", HeaderValue::from_static("one"));
        headers.append("x", HeaderValue::from_static("two"));
        let name = HeaderName::from_static("x");
        assert!(
            HeaderMatch::Exact(name.clone(), HeaderValue::from_static("two")).matches(&headers)
        );
        let pattern = Pattern::new("tw.").expect("valid");
        assert!(HeaderMatch::Regex(name, pattern).matches(&headers));
    }
}
