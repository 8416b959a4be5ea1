//! Which requests somebody wants to watch.
//!
//! A tap is a limit and a condition. The proxy asks [`TapMatch::matches`] for each request while a
//! tap is active, and reports at most `limit` of them, each as a [`TapEvent`] when it begins, when
//! its response begins and when that ends.

mod event;

pub use event::{StreamId, TapDirection, TapEnd, TapEvent, TapExchange, TapMoment};

use crate::endpoints::Labels;
use http::Method;
use ipnet::IpNet;
use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc};

/// What to report.
#[derive(Clone, Debug, PartialEq)]
pub struct Tap {
    /// Requests to report before the tap ends; at least 1.
    pub limit: u32,
    /// Which requests.
    pub condition: TapMatch,
    /// Whether headers and trailers are reported too.
    pub with_headers: bool,
}

/// Condition on a request.
#[derive(Clone, Debug, PartialEq)]
pub enum TapMatch {
    /// All of these; true when empty.
    All(Vec<TapMatch>),
    /// One of these; false when empty.
    Any(Vec<TapMatch>),
    /// Not this.
    Not(Box<TapMatch>),
    /// The client's address is in the network.
    SourceNet(IpNet),
    /// The client's port is in the range.
    SourcePorts(RangeInclusive<u16>),
    /// The server's address is in the network.
    DestinationNet(IpNet),
    /// The server's port is in the range.
    DestinationPorts(RangeInclusive<u16>),
    /// The server has this label.
    DestinationLabel(Arc<str>, Arc<str>),
    /// The route has this label.
    RouteLabel(Arc<str>, Arc<str>),
    /// The scheme, `http` or `https`.
    Scheme(Arc<str>),
    /// The method.
    Method(Method),
    /// The authority.
    Authority(TextMatch),
    /// The path, without query.
    Path(TextMatch),
}

/// Condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// Exactly so.
    Exact(Arc<str>),
    /// Begins so.
    Prefix(Arc<str>),
}

impl TextMatch {
    /// Whether `text` is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
        }
    }
}

/// What is known of a request when it begins.
#[derive(Clone, Copy, Debug)]
pub struct TapRequest<'r> {
    /// Address of the client.
    pub source: SocketAddr,
    /// Address of the server.
    pub destination: SocketAddr,
    /// Labels of the server.
    pub destination_labels: &'r Labels,
    /// Labels of the route.
    pub route_labels: &'r Labels,
    /// Scheme, if known.
    pub scheme: Option<&'r str>,
    /// Method.
    pub method: &'r Method,
    /// Authority, from the URI or the `host` header.
    pub authority: Option<&'r str>,
    /// Path, without query.
    pub path: &'r str,
}

impl TapMatch {
    /// Whether `request` is meant.
    pub fn matches(&self, request: &TapRequest<'_>) -> bool {
        let has =
            |labels: &Labels, key: &Arc<str>, value: &Arc<str>| labels.get(key) == Some(value);
        match self {
            Self::All(all) => all.iter().all(|m| m.matches(request)),
            Self::Any(any) => any.iter().any(|m| m.matches(request)),
            Self::Not(not) => !not.matches(request),
            Self::SourceNet(net) => net.contains(&request.source.ip().to_canonical()),
            Self::SourcePorts(ports) => ports.contains(&request.source.port()),
            Self::DestinationNet(net) => net.contains(&request.destination.ip().to_canonical()),
            Self::DestinationPorts(ports) => ports.contains(&request.destination.port()),
            Self::DestinationLabel(key, value) => has(request.destination_labels, key, value),
            Self::RouteLabel(key, value) => has(request.route_labels, key, value),
            Self::Scheme(scheme) => request.scheme == Some(&**scheme),
            Self::Method(method) => request.method == method,
            Self::Authority(text) => request.authority.is_some_and(|a| text.matches(a)),
            Self::Path(text) => text.matches(request.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_requests() {
        let labels = Labels::from([("deployment".into(), "web".into())]);
        let request = TapRequest {
            source: ([10, 0, 0, 1], 40_000).into(),
            destination: ([10, 0, 0, 2], 8080).into(),
            destination_labels: &labels,
            route_labels: &Labels::new(),
            scheme: Some("http"),
            method: &Method::GET,
            authority: Some("web:8080"),
            path: "/api/vote",
        };
        let check = |condition: TapMatch, expect: bool| {
            assert_eq!(condition.matches(&request), expect, "{condition:?}");
        };
        let net = |text: &str| text.parse().expect("net");
        check(TapMatch::All(vec![]), true);
        check(TapMatch::Any(vec![]), false);
        check(TapMatch::Not(Box::new(TapMatch::Any(vec![]))), true);
        check(TapMatch::SourceNet(net("10.0.0.0/24")), true);
        check(TapMatch::DestinationNet(net("10.0.1.0/24")), false);
        check(TapMatch::DestinationPorts(8080..=8080), true);
        check(TapMatch::SourcePorts(1..=80), false);
        check(TapMatch::DestinationLabel("deployment".into(), "web".into()), true);
        check(TapMatch::RouteLabel("deployment".into(), "web".into()), false);
        check(TapMatch::Scheme("https".into()), false);
        check(TapMatch::Method(Method::GET), true);
        check(TapMatch::Authority(TextMatch::Exact("web".into())), false);
        check(TapMatch::Path(TextMatch::Prefix("/api".into())), true);
    }
}
