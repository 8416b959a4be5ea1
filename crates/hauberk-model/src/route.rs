//! Routes, and which of them a request takes.
//!
//! [`find`] is the meaning of a route table, written to be read. The proxy compiles the same table
//! into an index for speed; a property test holds the two together.
//!
//! Order of preference (Gateway API v1, `HTTPRouteRule`, with linkerd2-proxy's tie rules): the
//! most specific host, then the longest matched path, then an exact path before the others, then
//! more header matches, then more query matches, then a given method, then the earlier item.

pub mod grpc;
pub mod http;

use ::http::request::Parts;
use std::{cmp::Reverse, sync::Arc};

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMatch {
    /// Exactly this one, in lower case.
    Exact(Arc<str>),
    /// `*.example.org`, kept as `.example.org` in lower case: one label or more before it.
    Suffix(Arc<str>),
}

impl HostMatch {
    /// Reads `example.org` or `*.example.org`.
    pub fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// How well `host` (without port) matches, if it does.
    pub fn rank(&self, host: &str) -> Option<HostRank> {
        match self {
            Self::Exact(exact) => {
                host.eq_ignore_ascii_case(exact).then_some(HostRank::Exact(exact.len()))
            }
            Self::Suffix(suffix) => {
                let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0)?;
                let tail = host.get(at..)?;
                tail.eq_ignore_ascii_case(suffix).then_some(HostRank::Suffix(suffix.len()))
            }
        }
    }
}

/// How well a host matched; greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRank {
    /// The route is for all hosts.
    Any,
    /// By a suffix of so many bytes.
    Suffix(usize),
    /// Exactly.
    Exact(usize),
}

/// Something that a request may match.
pub trait Match {
    /// How well a request matched; greater is better.
    type Rank: Ord + Default;

    /// How well `request` matches, if it does.
    fn rank(&self, request: &Parts) -> Option<Self::Rank>;
}

/// A route: hosts, and rules in order. `M` is how requests are matched, `R` what is done with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route<M, R> {
    /// Hosts it is for; empty means all.
    pub hosts: Vec<HostMatch>,
    /// Its rules.
    pub rules: Vec<Rule<M, R>>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule<M, R> {
    /// Any of these matches; empty means every request, with the lowest rank.
    pub matches: Vec<M>,
    /// What is done with the request.
    pub action: R,
}

/// What [`find`] found: positions, so that callers may keep things beside the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which route.
    pub route: usize,
    /// Which rule of it.
    pub rule: usize,
    /// Which match of it; none for a rule without matches.
    pub matched: Option<usize>,
}

/// The best route and rule for a request to `host`, if any.
///
/// Cost: every route, rule and match is looked at once.
pub fn find<'r, M: Match + 'r, R: 'r>(
    routes: impl IntoIterator<Item = &'r Route<M, R>>,
    host: &str,
    request: &Parts,
) -> Option<Found> {
    // The order of appearance comes last and reversed, so that the earlier of two equals wins.
    type Rank<M> = (HostRank, <M as Match>::Rank, Reverse<usize>);
    let mut best: Option<(Rank<M>, Found)> = None;
    let mut order = 0;
    for (at, route) in routes.into_iter().enumerate() {
        let Some(host_rank) = route_host_rank(&route.hosts, host) else { continue };
        for (rule_at, rule) in route.rules.iter().enumerate() {
            let ranks = rule.matches.iter().enumerate();
            let ranks = ranks.filter_map(|(i, m)| Some((m.rank(request)?, Some(i))));
            let without = rule.matches.is_empty().then(|| (M::Rank::default(), None));
            for (rank, matched) in ranks.chain(without) {
                order += 1;
                let rank = (host_rank, rank, Reverse(order));
                if best.as_ref().is_none_or(|(best, _)| rank > *best) {
                    best = Some((rank, Found { route: at, rule: rule_at, matched }));
                }
            }
        }
    }
    best.map(|(_, found)| found)
}

/// How well `host` fits a route's hosts, if it does.
pub fn route_host_rank(hosts: &[HostMatch], host: &str) -> Option<HostRank> {
    if hosts.is_empty() {
        return Some(HostRank::Any);
    }
    hosts.iter().filter_map(|m| m.rank(host)).max()
}

#[cfg(test)]
mod tests {
    use super::{http::*, *};

    fn request(method: &str, uri: &str) -> Parts {
        let request = ::http::Request::builder().method(method).uri(uri).header("x", "1");
        request.body(()).expect("valid request").into_parts().0
    }

    fn rule(matches: Vec<HttpMatch>) -> Rule<HttpMatch, ()> {
        Rule { matches, action: () }
    }

    fn path(path: PathMatch) -> HttpMatch {
        HttpMatch { path: Some(path), ..HttpMatch::default() }
    }

    #[test]
    fn suffix_needs_a_label_before_it() {
        let suffix = HostMatch::parse("*.Example.org");
        assert_eq!(suffix.rank("a.example.ORG"), Some(HostRank::Suffix(12)));
        assert_eq!(suffix.rank("example.org"), None);
        assert_eq!(suffix.rank(".example.org"), None);
        assert_eq!(suffix.rank("aexample.org"), None);
    }

    #[test]
    fn host_beats_path_and_longer_path_beats_shorter() {
        let routes = [
            Route { hosts: vec![], rules: vec![rule(vec![path(PathMatch::Exact("/a/b".into()))])] },
            Route {
                hosts: vec![HostMatch::parse("*.org"), HostMatch::parse("a.org")],
                rules: vec![
                    rule(vec![]),
                    rule(vec![path(PathMatch::Prefix("/".into()))]),
                    rule(vec![
                        path(PathMatch::Prefix("/b".into())),
                        path(PathMatch::Prefix("/a".into())),
                    ]),
                ],
            },
        ];
        let find = |host: &str, uri: &str| find(&routes, host, &request("GET", uri));
        let found = |route, rule, matched| Some(Found { route, rule, matched });
        assert_eq!(find("a.org", "/a/b"), found(1, 2, Some(1)));
        assert_eq!(find("b.org", "/x"), found(1, 1, Some(0)));
        assert_eq!(find("c.com", "/a/b"), found(0, 0, Some(0)));
        assert_eq!(find("c.com", "/a"), None);
    }

    #[test]
    fn ties_keep_the_earlier_rule() {
        let one = || rule(vec![path(PathMatch::Prefix("/a".into()))]);
        let routes = [Route { hosts: vec![], rules: vec![one(), one()] }];
        let found = find(&routes, "h", &request("GET", "/a")).expect("matches");
        assert_eq!((found.rule, found.matched), (0, Some(0)));
    }

    #[test]
    fn exact_path_beats_prefix_and_pattern_of_the_same_length() {
        let pattern = crate::Pattern::new("/[a-z]").expect("valid");
        let routes = [Route {
            hosts: vec![],
            rules: vec![
                rule(vec![path(PathMatch::Prefix("/a".into()))]),
                rule(vec![path(PathMatch::Regex(pattern))]),
                rule(vec![path(PathMatch::Exact("/a".into()))]),
            ],
        }];
        let found = find(&routes, "h", &request("GET", "/a")).expect("matches");
        assert_eq!(found.rule, 2);
    }
}
