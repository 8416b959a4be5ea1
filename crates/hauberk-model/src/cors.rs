//! Which pages of other origins may read a response (CORS, the Fetch standard section 3.3; Gateway
//! API v1, `HTTPCORSFilter`).
//!
//! Wildcards are answered with what was asked for, never with `*`, where the request names it: both
//! are allowed for requests without credentials, and only this for those with.

use crate::filter::HeaderEdits;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN, VARY,
    },
};
use std::sync::Arc;

/// The word for everything.
const ANY: &str = "*";

/// Who may read responses, and how requests may look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may.
    pub origins: Vec<OriginPattern>,
    /// Whether requests may carry cookies and the like.
    pub credentials: bool,
    /// Methods.
    pub methods: Vec<Method>,
    /// Whether every method is allowed.
    pub any_method: bool,
    /// Names of request headers.
    pub headers: Vec<HeaderName>,
    /// Whether every request header is allowed.
    pub any_header: bool,
    /// Names of response headers that scripts may read.
    pub exposed: Vec<HeaderName>,
    /// Whether scripts may read every response header; only without credentials.
    pub exposes_all: bool,
    /// How long browsers remember the answer to a preflight, in seconds.
    pub max_age: u32,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is nobody's concern.
    Ignore,
    /// It is a question, answered with these headers.
    Preflight(HeaderEdits),
    /// Its response gets these headers.
    Respond(HeaderEdits),
}

impl Cors {
    /// What becomes of a request.
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> Decision {
        let Some(origin) = headers.get(ORIGIN) else { return Decision::Ignore };
        let asked_for = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let asked_for = asked_for.filter(|_| *method == Method::OPTIONS);
        let matches = |text: &str| self.origins.iter().any(|pattern| pattern.matches(text));
        let mut edits = HeaderEdits::default();
        edits.add.push((VARY, HeaderValue::from_static("origin")));
        if !origin.to_str().is_ok_and(matches) {
            return match asked_for {
                Some(_) => Decision::Preflight(edits),
                None => Decision::Ignore,
            };
        }
        let mut set = |name, value: Option<HeaderValue>| edits.set.extend(value.map(|v| (name, v)));
        set(ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin.clone()));
        let allowed = self.credentials.then(|| HeaderValue::from_static("true"));
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, allowed);
        let exposed = match self.exposes_all && !self.credentials {
            true => Some(HeaderValue::from_static(ANY)),
            false => joined(&self.exposed),
        };
        set(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        let Some(asked_for) = asked_for else { return Decision::Respond(edits) };
        let methods = match self.any_method {
            true => Some(asked_for.clone()),
            false => joined(&self.methods),
        };
        set(ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = match self.any_header {
            true => headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            false => joined(&self.headers),
        };
        set(ACCESS_CONTROL_ALLOW_HEADERS, names);
        set(ACCESS_CONTROL_MAX_AGE, Some(self.max_age.into()));
        Decision::Preflight(edits)
    }
}

/// Names with commas between them; none if there are none.
fn joined<T: AsRef<str>>(names: &[T]) -> Option<HeaderValue> {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    // Names of methods and headers are made of characters that values may hold.
    HeaderValue::from_str(&names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// `scheme://host[:port]`, where the host may begin with `*` for any text, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern(Arc<str>);

impl OriginPattern {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let lower = text.to_ascii_lowercase();
        if lower == ANY {
            return Ok(Self(ANY.into()));
        }
        let (_, host, _) =
            split(&lower).ok_or("an origin is http:// or https://, host and port")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        let rest = host.strip_prefix(ANY).unwrap_or(host);
        match host.is_empty() || !rest.bytes().all(allowed) {
            true => {
                Err("the host of an origin is a name or address, with '*' at its beginning only")
            }
            false => Ok(Self(lower.into())),
        }
    }

    /// As it was written, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `origin` is meant. Absent ports are those of the scheme.
    pub fn matches(&self, origin: &str) -> bool {
        if &*self.0 == ANY {
            return true;
        }
        let origin = origin.to_ascii_lowercase();
        let (Some(pattern), Some(origin)) = (split(&self.0), split(&origin)) else { return false };
        let host = match pattern.1.strip_prefix(ANY) {
            Some(end) => origin.1.ends_with(end) && origin.1.len() > end.len(),
            None => origin.1 == pattern.1,
        };
        host && (origin.0, origin.2) == (pattern.0, pattern.2)
    }
}

/// Scheme, host and port of an origin in lower case.
fn split(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    match rest.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((host, port)) if !port.ends_with(']') => {
            let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
            Some((scheme, host, port))
        }
        _ => Some((scheme, rest, usual)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        let check = |pattern: &str, origin: &str, expect: bool| {
            let pattern = OriginPattern::parse(pattern).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(pattern.matches(origin), expect, "{pattern:?} {origin}");
        };
        check("*", "null", true);
        check("https://www.foo.com", "https://www.foo.com", true);
        check("https://WWW.foo.com", "https://www.FOO.com:443", true);
        check("https://www.foo.com", "http://www.foo.com", false);
        check("https://www.foo.com", "https://www.foo.com:8443", false);
        check("http://foo:80", "http://foo", true);
        check("https://*.bar.com", "https://www.bar.com", true);
        check("https://*.bar.com", "https://xpto.www.bar.com", true);
        check("https://*.bar.com", "https://bar.com", false);
        check("https://*.bar.com", "https://bar.com.evil", false);
        check("https://*", "https://anything", true);
        check("https://*:8443", "https://anything:8443", true);
        check("http://[::1]:8080", "http://[::1]:8080", true);
        check("http://[::1]", "http://[::1]:80", true);
        for bad in
            ["", "foo.com", "ftp://foo", "https://", "https://a.*.b", "https://a:0", "https://a/b"]
        {
            assert!(OriginPattern::parse(bad).is_err(), "{bad}");
        }
    }

    fn decide(cors: &Cors, method: Method, headers: &[(HeaderName, &'static str)]) -> Decision {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        cors.decide(&method, &headers.collect())
    }

    fn shown(edits: &HeaderEdits) -> Vec<String> {
        let pairs = edits.set.iter().chain(&edits.add);
        pairs.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn preflights_are_answered_by_what_is_listed() {
        let cors = Cors {
            origins: vec![OriginPattern::parse("https://foo.com").unwrap()],
            credentials: true,
            methods: vec![Method::GET, Method::OPTIONS],
            headers: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")],
            exposed: vec![HeaderName::from_static("x-c")],
            max_age: 3600,
            ..Cors::default()
        };
        let asked = (ACCESS_CONTROL_REQUEST_METHOD, "GET");
        let preflight =
            decide(&cors, Method::OPTIONS, &[(ORIGIN, "https://foo.com"), asked.clone()]);
        let Decision::Preflight(edits) = preflight else { panic!("{preflight:?}") };
        assert_eq!(
            shown(&edits),
            [
                "access-control-allow-origin: https://foo.com",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-c",
                "access-control-allow-methods: GET, OPTIONS",
                "access-control-allow-headers: x-a, x-b",
                "access-control-max-age: 3600",
                "vary: origin",
            ]
        );
        let refused = decide(&cors, Method::OPTIONS, &[(ORIGIN, "https://bar.com"), asked]);
        let Decision::Preflight(edits) = refused else { panic!("{refused:?}") };
        assert_eq!(shown(&edits), ["vary: origin"]);
    }

    #[test]
    fn responses_are_marked_for_their_origin_only() {
        let cors = Cors {
            origins: vec![OriginPattern::parse("*").unwrap()],
            any_method: true,
            any_header: true,
            exposes_all: true,
            max_age: 5,
            ..Cors::default()
        };
        assert_eq!(decide(&cors, Method::GET, &[]), Decision::Ignore);
        let respond = decide(&cors, Method::OPTIONS, &[(ORIGIN, "https://a:1")]);
        let Decision::Respond(edits) = respond else { panic!("{respond:?}") };
        let expect = [
            "access-control-allow-origin: https://a:1",
            "access-control-expose-headers: *",
            "vary: origin",
        ];
        assert_eq!(shown(&edits), expect);
        let asked = [
            (ORIGIN, "https://a"),
            (ACCESS_CONTROL_REQUEST_METHOD, "PUT"),
            (ACCESS_CONTROL_REQUEST_HEADERS, "x-1, x-2"),
        ];
        let preflight = decide(&cors, Method::OPTIONS, &asked);
        let Decision::Preflight(edits) = preflight else { panic!("{preflight:?}") };
        let shown = shown(&edits);
        assert!(shown.contains(&"access-control-allow-methods: PUT".to_owned()), "{shown:?}");
        assert!(shown.contains(&"access-control-allow-headers: x-1, x-2".to_owned()), "{shown:?}");
        let nobody = Cors { origins: Vec::new(), ..cors };
        assert_eq!(decide(&nobody, Method::GET, &[(ORIGIN, "https://a")]), Decision::Ignore);
    }
}
