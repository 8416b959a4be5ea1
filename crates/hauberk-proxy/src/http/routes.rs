//! A route table, compiled when a policy arrives, asked for every request.
//!
//! The meaning is [`hauberk_model::route::find`]; this adds the short ways. Most tables are one
//! route for everything, and then no request is looked at at all. Otherwise only the routes whose
//! hosts can match are searched: exact hosts by a map, the others in order.
//!
//! A property test holds the short ways to the meaning.

use std::collections::HashMap;
use std::sync::Arc;

use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::route::{Found, HostMatch, Match, Route, Rule, find};
use http::request::Parts;

/// Which routes a table has; `R` is what the owner keeps for each rule.
#[derive(Debug)]
pub struct Routes<M, R> {
    routes: Vec<Route<M, R>>,
    short: Short,
}

#[derive(Debug)]
enum Short {
    /// One rule for every request.
    All,
    /// One rule for every request whose target is a path.
    Paths,
    /// Routes by exact host, and those that have to be looked at for every other host.
    Hosts { exact: HashMap<Arc<str>, Vec<usize>>, others: Vec<usize> },
}

/// A match that may hold for everything.
pub trait Wide: Match {
    /// Whether it matches every request whose target is a path, whatever else it says.
    fn is_every_path(&self) -> bool;
}

impl Wide for HttpMatch {
    fn is_every_path(&self) -> bool {
        let path = match &self.path {
            Some(PathMatch::Prefix(prefix)) => &**prefix == "/",
            // Without a path it also means `OPTIONS *` and CONNECT, whose targets are no paths.
            None | Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => false,
        };
        path && self.headers.is_empty() && self.query.is_empty() && self.method.is_none()
    }
}

impl Wide for hauberk_model::route::grpc::GrpcMatch {
    fn is_every_path(&self) -> bool {
        false
    }
}

impl<M: Wide, R> Routes<M, R> {
    /// Compiles a table. Cost: linear in the number of hosts.
    pub fn new(routes: Vec<Route<M, R>>) -> Self {
        let short = Self::short(&routes);
        Self { routes, short }
    }

    fn short(routes: &[Route<M, R>]) -> Short {
        if let [Route { hosts, rules }] = routes
            && hosts.is_empty()
            && let [Rule { matches, .. }] = rules.as_slice()
        {
            if matches.is_empty() {
                return Short::All;
            }
            if let [only] = matches.as_slice()
                && only.is_every_path()
            {
                return Short::Paths;
            }
        }
        let mut exact: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let mut others = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            if route.hosts.iter().any(|host| matches!(host, HostMatch::Suffix(_)))
                || route.hosts.is_empty()
            {
                others.push(at);
            }
            for host in &route.hosts {
                if let HostMatch::Exact(host) = host {
                    exact.entry(host.to_ascii_lowercase().into()).or_default();
                }
            }
        }
        // A route stands in the list of a host it names, and in all of them if it may match any.
        for (host, list) in &mut exact {
            *list = (0..routes.len())
                .filter(|at| {
                    let hosts = &routes[*at].hosts;
                    hosts.is_empty() || hosts.iter().any(|m| m.rank(host).is_some())
                })
                .collect();
        }
        Short::Hosts { exact, others }
    }

    /// The best rule for a request to `host` (without port), if any.
    pub fn find(&self, host: &str, request: &Parts) -> Option<Found> {
        match &self.short {
            Short::All => Some(Found { route: 0, rule: 0, matched: None }),
            Short::Paths => {
                let is_path = request.uri.path().starts_with('/');
                is_path.then_some(Found { route: 0, rule: 0, matched: Some(0) })
            }
            Short::Hosts { exact, others } => {
                let list = match exact.is_empty() {
                    true => others,
                    false => lower(host, |host| exact.get(host)).unwrap_or(others),
                };
                let found = find(list.iter().map(|at| &self.routes[*at]), host, request)?;
                Some(Found { route: list[found.route], ..found })
            }
        }
    }

    /// What is kept for the rule that was found.
    pub fn rule(&self, found: Found) -> &R {
        &self.routes[found.route].rules[found.rule].action
    }

    /// The match that was found, if the rule has any.
    pub fn matched(&self, found: Found) -> Option<&M> {
        found.matched.map(|at| &self.routes[found.route].rules[found.rule].matches[at])
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// Calls `with` with `host` in lower case; allocates only if it is not already.
fn lower<T>(host: &str, with: impl FnOnce(&str) -> T) -> T {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        with(&host.to_ascii_lowercase())
    } else {
        with(host)
    }
}

/// The host of an authority, without port and brackets.
pub fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split(':').next().unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn hosts_lose_port_and_brackets() {
        assert_eq!(host_of("a.b:80"), "a.b");
        assert_eq!(host_of("a.b"), "a.b");
        assert_eq!(host_of("[::1]:80"), "::1");
    }

    fn any_route(rng: &mut SmallRng) -> Route<HttpMatch, ()> {
        const HOSTS: [&str; 5] = ["a.org", "B.org", "*.org", "*.a.org", "x.a.org"];
        let hosts = (0..rng.random_range(0..3))
            .map(|_| HostMatch::parse(HOSTS[rng.random_range(0..HOSTS.len())]))
            .collect();
        let rules = (0..rng.random_range(1..3))
            .map(|_| {
                let matches = (0..rng.random_range(0..3)).map(|_| any_match(rng)).collect();
                Rule { matches, action: () }
            })
            .collect();
        Route { hosts, rules }
    }

    fn any_match(rng: &mut SmallRng) -> HttpMatch {
        const PATHS: [&str; 4] = ["/", "/a", "/a/b", "/b"];
        let path: Arc<str> = PATHS[rng.random_range(0..PATHS.len())].into();
        let path = match rng.random_range(0..3) {
            0 => None,
            1 => Some(PathMatch::Exact(path)),
            _ => Some(PathMatch::Prefix(path)),
        };
        let method = (rng.random_range(0..4) == 0).then_some(http::Method::POST);
        HttpMatch { path, method, ..HttpMatch::default() }
    }

    #[test]
    fn finds_what_the_model_finds() {
        for seed in 0..500 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let routes: Vec<_> = (0..rng.random_range(0..5)).map(|_| any_route(&mut rng)).collect();
            let compiled = Routes::new(routes.clone());
            for host in ["a.org", "A.ORG", "b.org", "c.org", "x.a.org", "org", ""] {
                for (method, uri) in
                    [("GET", "/a/b"), ("POST", "/a"), ("GET", "/"), ("OPTIONS", "*")]
                {
                    let request = http::Request::builder().method(method).uri(uri);
                    let parts = request.body(()).unwrap().into_parts().0;
                    let expect = find(&routes, host, &parts);
                    assert_eq!(
                        compiled.find(host, &parts),
                        expect,
                        "seed {seed}: {host} {uri} {routes:?}"
                    );
                }
            }
        }
    }
}
