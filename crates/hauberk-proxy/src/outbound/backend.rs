//! Outbound policies compiled for requests: route tables whose rules hold live backends.
//!
//! A [`Table`] is built when a connection meets a policy for the first time, kept with the target,
//! and replaced as a whole when the policy changes; requests under way keep the one they began
//! with. Endpoint pools are found again by authority and settings, so a new policy over the same
//! backends keeps their connections, load estimates and breakers.
//!
//! Cost: building is linear in the policy; choosing a backend is one comparison for the usual
//! single backend, one random draw for weighted ones.

mod profile;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::failure_accrual::FailureAccrual;
use hauberk_model::outbound::{
    self, BackendTarget, Distribution, Load, OutboundPolicy, OutboundProtocol, Queue, RuleAction,
};
use hauberk_model::profile::{RequestMatch, ResponseClass};
use hauberk_model::route::grpc::GrpcMatch;
use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::route::{Match, Route, Rule as ModelRule};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{Authority, Endpoint, Endpoints, Meta};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use rand::Rng;
use rustls_pki_types::DnsName;
use tokio::time::Instant;

use super::mirror::{self, Mirror};
use crate::balance::{self, Balancer, Build, Pool, Pools, Settings};
use crate::connection::Direction;
use crate::dial::Found;
use crate::http::Version;
use crate::http::budget::Budget;
use crate::http::classify::{Pending, Verdict};
use crate::http::client::Client;
use crate::http::failure::{Failure, What};
use crate::http::filter::Filter;
use crate::http::overrides::Overrides;
use crate::http::retries::{self, Conditions, Rules};
use crate::http::routes::Routes;
use crate::telemetry::labels::Labels;
use crate::telemetry::route::{Family3, RetryFamilies, RetrySeries, RouteSeries};
use crate::worker::Worker;

/// A compiled policy for one version of HTTP.
#[derive(Debug)]
pub struct Table {
    routes: Kind,
    /// What the routes were made for, for log and metrics.
    pub parent: Meta,
    /// What the next proxy is told the request was for; only by profiles.
    pub canonical: Option<HeaderValue>,
}

#[derive(Debug)]
enum Kind {
    Http(Routes<HttpMatch, Rule>),
    Grpc(Routes<GrpcMatch, Rule>),
    /// The first that matches, or else the others'.
    Profile {
        routes: Vec<(RequestMatch, Rule)>,
        others: Box<Rule>,
    },
}

/// What is done with the requests of one rule.
#[derive(Debug)]
pub struct Rule {
    /// The route it belongs to.
    pub meta: Meta,
    /// Filters in order.
    pub filters: Vec<Filter>,
    /// Where copies of its requests go.
    pub mirrors: Vec<Rc<Mirror>>,
    /// Counters of the route, of whatever host.
    series: Rc<RouteSeries>,
    /// Counters by host, where the settings ask for them.
    hosts: Option<Hosts>,
    /// Limits of time and retries; none for most rules.
    pub care: Option<Box<Care>>,
    backends: Backends,
}

/// Hosts that have counters of their own in one rule; more count as none. Clients invent hosts.
const HOSTS_MAX: usize = 256;

/// Counters of a route by the host that requests name (`OUTBOUND_METRICS_HOSTNAME_LABELS`).
#[derive(Debug)]
pub struct Hosts {
    family: Family3,
    labels: Labels,
    known: RefCell<HashMap<Box<str>, Rc<RouteSeries>>>,
}

impl Hosts {
    fn get(&self, host: &str) -> Option<Rc<RouteSeries>> {
        let mut known = self.known.borrow_mut();
        if let Some(series) = known.get(host) {
            return Some(Rc::clone(series));
        }
        // Addresses are no names (linkerd2-proxy v2), and what is no name might be anything.
        let is_name = DnsName::try_from(host).is_ok();
        if !is_name || known.len() >= HOSTS_MAX {
            return None;
        }
        let labels = self.labels.clone().with("hostname", host.to_owned());
        let series = Rc::new(self.family.series(labels));
        known.insert(host.into(), Rc::clone(&series));
        Some(series)
    }
}

/// What a rule does for its requests beyond sending them once.
#[derive(Debug)]
pub struct Care {
    /// Limits of time.
    timeouts: Timeouts,
    /// Longest wait for the head, all attempts together.
    head: Option<Duration>,
    /// Which responses are failures; the first that matches counts.
    classes: Vec<ResponseClass>,
    /// Failed requests are tried again by these rules.
    retries: Option<Rc<Rules>>,
    /// What bounds retries of all requests together.
    pub budget: Rc<RefCell<Budget>>,
    /// Counters of retries.
    pub series: RetrySeries,
    /// Requests may ask for timeouts and retries of their own.
    allows_overrides: bool,
}

/// How one request is sent that needs more than an ordinary one.
#[derive(Debug)]
pub struct Plan {
    /// Limits of time.
    pub timeouts: Timeouts,
    /// Longest wait for the head, all attempts together.
    pub head: Option<Duration>,
    /// Rules of retries.
    pub retries: Option<Rc<Rules>>,
}

impl Plan {
    /// When a request that began then must be over, or its response's head be here.
    pub fn deadline(&self, began: Instant) -> Option<Instant> {
        let limits = self.timeouts.request.into_iter().chain(self.head);
        limits.min().map(|limit| began + limit)
    }
}

#[derive(Debug)]
enum Backends {
    First(Vec<Backend>),
    Random(Vec<(Backend, u32)>),
}

/// Where requests go.
#[derive(Debug)]
pub struct Backend {
    /// Filters in order, after those of the rule.
    pub filters: Vec<Filter>,
    /// Where copies of its requests go.
    pub mirrors: Vec<Rc<Mirror>>,
    /// Counters of what is given to it.
    pub series: Rc<RouteSeries>,
    /// How it is reached.
    pub target: Target,
}

/// How a backend is reached.
#[derive(Debug)]
pub enum Target {
    /// The endpoints of an authority.
    Balance(Rc<Pool<Client>>),
    /// One known address.
    Forward(Rc<Forward>),
    /// Not at all.
    Invalid(Arc<str>),
}

/// One known address, with the queue and back-off that a set of endpoints has.
#[derive(Debug)]
pub struct Forward {
    /// The choice, of one.
    pub balancer: Balancer<Client>,
    endpoint: Arc<Endpoint>,
}

/// Forwards in use on a worker.
#[derive(Debug, Default)]
pub struct Forwards {
    by_address: RefCell<HashMap<SocketAddr, Vec<Weak<Forward>>>>,
}

impl Table {
    /// Compiles `policy` for requests of `version`; none if the policy is not about HTTP.
    pub fn new(worker: &Rc<Worker>, policy: &OutboundPolicy, version: Version) -> Option<Self> {
        let parent = policy.parent.clone();
        let http = |http: &outbound::HttpPolicy| {
            let accrual = http.failure_accrual.as_ref();
            let compiler = Compiler { worker, parent: &parent, accrual };
            let routes = http.routes.iter();
            let rules = |action: &_, meta: &Meta| {
                let route = &worker.metrics.http.route;
                let families = (&route.http_route, &route.http_backend, &route.http_retry);
                compiler.rule(action, meta, families, |filter| Filter::from(filter))
            };
            Kind::Http(Routes::new(routes.map(|r| convert(&r.route, &r.meta, &rules)).collect()))
        };
        let routes = match (&policy.protocol, version) {
            (OutboundProtocol::Detect { http1, .. }, Version::Http1) => http(http1),
            (OutboundProtocol::Detect { http2, .. }, Version::Http2) => http(http2),
            (OutboundProtocol::Http1(policy) | OutboundProtocol::Http2(policy), _) => http(policy),
            (OutboundProtocol::Grpc(grpc), _) => {
                let accrual = grpc.failure_accrual.as_ref();
                let compiler = Compiler { worker, parent: &parent, accrual };
                let routes = grpc.routes.iter();
                let rules = |action: &_, meta: &Meta| {
                    let route = &worker.metrics.http.route;
                    let families = (&route.grpc_route, &route.grpc_backend, &route.grpc_retry);
                    compiler.rule(action, meta, families, |filter| Filter::from(filter))
                };
                Kind::Grpc(Routes::new(
                    routes.map(|r| convert(&r.route, &r.meta, &rules)).collect(),
                ))
            }
            (OutboundProtocol::Opaque(_) | OutboundProtocol::Tls(_), _) => return None,
        };
        Some(Self { routes, parent, canonical: None })
    }

    /// The rule for a request to `host`, and the path match that found it.
    pub fn find(&self, host: &str, request: &Parts) -> Option<(&Rule, Option<&PathMatch>)> {
        match &self.routes {
            Kind::Http(routes) => {
                let found = routes.find(host, request)?;
                let path = routes.matched(found).and_then(|matched| matched.path.as_ref());
                Some((routes.rule(found), path))
            }
            Kind::Grpc(routes) => {
                let found = routes.find(host, request)?;
                Some((routes.rule(found), None))
            }
            Kind::Profile { routes, others } => {
                let (method, path) = (&request.method, request.uri.path());
                let found = routes.iter().find(|(condition, _)| condition.matches(method, path));
                Some((found.map_or(others, |(_, rule)| rule), None))
            }
        }
    }
}

fn convert<M: Match + Clone, A>(
    route: &Route<M, A>,
    meta: &Meta,
    rule: &impl Fn(&A, &Meta) -> Rule,
) -> Route<M, Rule> {
    let rules = route
        .rules
        .iter()
        .map(|r| ModelRule { matches: r.matches.clone(), action: rule(&r.action, meta) });
    Route { hosts: route.hosts.clone(), rules: rules.collect() }
}

/// What is the same for all rules of a table.
struct Compiler<'c> {
    worker: &'c Rc<Worker>,
    parent: &'c Meta,
    accrual: Option<&'c FailureAccrual>,
}

impl Compiler<'_> {
    fn rule<F, C: Conditions>(
        &self,
        action: &RuleAction<F, C>,
        route: &Meta,
        families: (&Family3, &Family3, &RetryFamilies),
        filter: impl Fn(&F) -> Filter,
    ) -> Rule {
        let labels = || Labels::new().parent(self.parent).outbound_route(route);
        let backend = |backend: &outbound::RouteBackend<F>| {
            let filters: Vec<Filter> = backend.filters.iter().map(&filter).collect();
            Backend {
                mirrors: self.mirrors(&filters, &labels()),
                filters,
                series: Rc::new(families.1.series(labels().backend(&backend.backend.meta))),
                target: self.target(&backend.backend, route),
            }
        };
        let backends = match &action.backends {
            Distribution::Empty => Backends::First(Vec::new()),
            Distribution::FirstAvailable(list) => {
                Backends::First(list.iter().map(backend).collect())
            }
            Distribution::Random(list) => {
                let list = list.iter().filter(|(_, weight)| *weight > 0);
                Backends::Random(list.map(|(b, weight)| (backend(b), *weight)).collect())
            }
        };
        let filters: Vec<Filter> = action.filters.iter().map(&filter).collect();
        let mirrors = self.mirrors(&filters, &labels());
        let series = Rc::new(families.0.series(labels().with("hostname", "")));
        let hosts = self.worker.config.outbound.hostname_labels.then(|| Hosts {
            family: families.0.clone(),
            labels: labels(),
            known: RefCell::default(),
        });
        let retries = action.retry.as_ref().map(|retry| Rc::new(Rules::from(retry)));
        let timeouts = action.timeouts;
        let allows_overrides = action.allow_l5d_request_headers;
        let has_care = retries.is_some() || allows_overrides || timeouts != Timeouts::default();
        let care = has_care.then(|| {
            let budget = Budget::new(retries::BUDGET, Instant::now());
            let budget = Rc::new(RefCell::new(budget));
            let series = families.2.series(&labels());
            let (head, classes) = (None, Vec::new());
            Box::new(Care { timeouts, head, classes, retries, budget, series, allows_overrides })
        });
        Rule { meta: route.clone(), filters, mirrors, series, hosts, care, backends }
    }

    /// Where copies go that the filters ask for. Their endpoints are nobody's to judge here, so
    /// that a copy that fails takes no endpoint away from a request.
    fn mirrors(&self, filters: &[Filter], labels: &Labels) -> Vec<Rc<Mirror>> {
        let mirrors = filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror),
            _ => None,
        });
        let side = &self.worker.config.outbound.side;
        let queue = self.queue();
        let mirrors = mirrors.map(|mirror| {
            let service = &mirror.service;
            let (namespace, port) = (service.namespace.as_str(), mirror.authority.port());
            let meta = Meta::service(namespace, &service.name, Some(port));
            let settings = balance::settings(Load::default(), queue, None, side);
            let build = EndpointClients { authority: Some(mirror.authority.clone()) };
            Rc::new(Mirror {
                // What copies wait for is nobody's waiting.
                pool: Pools::get(
                    self.worker,
                    http_pools,
                    &mirror.authority,
                    settings,
                    build,
                    |_, _| None,
                ),
                ratio: mirror.ratio,
                series: mirror::Series::new(self.worker, &labels.clone().backend(&meta)),
            })
        });
        mirrors.collect()
    }

    /// linkerd2-proxy v2 takes the queue of HTTP from its settings, not from the policy, which has
    /// had a capacity of 100 there since before it was used.
    fn queue(&self) -> Queue {
        let side = &self.worker.config.outbound.side;
        Queue { capacity: side.queue_capacity, failfast_timeout: side.failfast_timeout }
    }

    /// How a backend is reached by the rules of `route`.
    fn target(&self, backend: &outbound::Backend, route: &Meta) -> Target {
        let side = &self.worker.config.outbound.side;
        let queue = self.queue();
        match &backend.target {
            BackendTarget::Balance { authority, load, balancing } => {
                // A route with a breaker of its own has endpoints of its own too, so that what
                // fails for it is not taken from others.
                let own = balancing.breaker.as_ref();
                let settings = Settings {
                    slow_start: balancing.slow_start,
                    affinity: balancing.affinity.clone(),
                    owner: own.map(|_| route.clone()),
                    ..balance::settings(*load, queue, own.or(self.accrual), side)
                };
                let build = EndpointClients { authority: Some(authority.clone()) };
                let counted = |worker: &Worker, settings: &Settings| {
                    let labels = Labels::new().parent(self.parent).backend(&backend.meta);
                    let timeout = settings.queue.failfast_timeout;
                    Some(worker.metrics.balancers.http.series(&labels, timeout))
                };
                Target::Balance(Pools::get(
                    self.worker,
                    http_pools,
                    authority,
                    settings,
                    build,
                    counted,
                ))
            }
            BackendTarget::Forward(endpoint) => {
                let settings = balance::forward_settings(queue, self.accrual, side);
                Target::Forward(Forwards::get(self.worker, endpoint, settings))
            }
            BackendTarget::Invalid(why) => Target::Invalid(Arc::clone(why)),
        }
    }
}

fn http_pools(worker: &Worker) -> &Pools<Client> {
    &worker.http.pools
}

impl Rule {
    /// The counters of requests to `host`.
    pub fn series(&self, host: &str) -> Rc<RouteSeries> {
        let own = self.hosts.as_ref().and_then(|hosts| hosts.get(host));
        own.unwrap_or_else(|| Rc::clone(&self.series))
    }

    /// Whether requests of it may be mirrored, by itself or by a backend.
    pub fn mirrors_somewhere(&self) -> bool {
        let by_backend = match &self.backends {
            Backends::First(list) => list.iter().any(|backend| !backend.mirrors.is_empty()),
            Backends::Random(list) => list.iter().any(|(backend, _)| !backend.mirrors.is_empty()),
        };
        by_backend || !self.mirrors.is_empty()
    }

    /// What a response's head says about success, by the rule's own classes if it has any.
    pub fn pending(&self, grpc: bool, status: StatusCode, headers: &HeaderMap) -> Pending {
        let classes = self.care.as_ref().map_or(&[][..], |care| &care.classes);
        let own = classes.iter().find(|class| class.condition.matches(status.as_u16()));
        match own {
            Some(class) if class.is_failure => Pending::Http(Verdict::Failure),
            Some(_) => Pending::Http(Verdict::Success),
            None => Pending::new(grpc, status, headers),
        }
    }

    /// What a request of this rule needs; none if it is sent once and takes the time it takes.
    /// Takes what the request asks for itself out of its headers, where that is allowed.
    pub fn plan(&self, headers: &mut HeaderMap) -> Option<Plan> {
        let care = self.care.as_ref()?;
        let (timeouts, head, retries) = (care.timeouts, care.head, care.retries.clone());
        let mut plan = Plan { timeouts, head, retries };
        if care.allows_overrides {
            let overrides = Overrides::take(headers);
            plan.timeouts = overrides.timeouts(care.timeouts);
            if let Some(rules) = overrides.retries(plan.retries.as_deref()) {
                plan.retries = Some(Rc::new(rules));
            }
        }
        plan.retries.take_if(|rules| rules.max_retries == 0);
        let has_limits = plan.timeouts != Timeouts::default() || plan.head.is_some();
        let is_ordinary = plan.retries.is_none() && !has_limits;
        (!is_ordinary).then_some(plan)
    }

    /// The backend for one request: the first available one, or one by weight among those
    /// available. When none is, the choice is made as if all were, and its queue refuses.
    pub fn backend(&self, worker: &Worker) -> Result<&Backend, Failure> {
        match &self.backends {
            Backends::First(list) => match list.as_slice() {
                [] => Err(Failure::us(What::InvalidPolicy("route has no backend".into()))),
                [only] => Ok(only),
                several => {
                    let now = Instant::now();
                    Ok(several.iter().find(|b| b.is_available(now)).unwrap_or(&several[0]))
                }
            },
            Backends::Random(list) => match list.as_slice() {
                [] => Err(Failure::us(What::InvalidPolicy("route has no backend".into()))),
                [(only, _)] => Ok(only),
                several => {
                    let now = Instant::now();
                    let mut rng = worker.random.borrow_mut();
                    let found = weighted(several, &mut *rng, |backend| backend.is_available(now))
                        .or_else(|| weighted(several, &mut *rng, |_| true));
                    Ok(found.expect("weights of zero are left out, so one is always drawn"))
                }
            },
        }
    }
}

/// Draws by weight among those that `may` be drawn.
fn weighted<'b, T>(
    list: &'b [(T, u32)],
    rng: &mut impl Rng,
    may: impl Fn(&T) -> bool,
) -> Option<&'b T> {
    let total: u64 = list.iter().filter(|(t, _)| may(t)).map(|(_, w)| u64::from(*w)).sum();
    if total == 0 {
        return None;
    }
    let mut draw = rng.random_range(0..total);
    for (item, weight) in list.iter().filter(|(t, _)| may(t)) {
        match draw.checked_sub(u64::from(*weight)) {
            Some(rest) => draw = rest,
            None => return Some(item),
        }
    }
    None
}

impl Backend {
    /// The endpoints, and whether it is one known address.
    pub fn balancer(&self) -> Result<(&Balancer<Client>, bool), Failure> {
        match &self.target {
            Target::Balance(pool) => Ok((&pool.balancer, false)),
            Target::Forward(forward) => Ok((&forward.balancer, true)),
            Target::Invalid(why) => Err(Failure::us(What::InvalidBackend(Arc::clone(why)))),
        }
    }

    /// How long endpoints are tried that cannot be reached. Another one may come or come back; a
    /// known address that refuses is told at once.
    pub fn patience(&self) -> Duration {
        match &self.target {
            Target::Balance(pool) => pool.balancer.settings().queue.failfast_timeout,
            Target::Forward(_) | Target::Invalid(_) => Duration::ZERO,
        }
    }

    fn is_available(&self, now: Instant) -> bool {
        match &self.target {
            Target::Balance(pool) => pool.balancer.is_available(now),
            Target::Forward(forward) => forward.balancer.is_available(now),
            // It fails at once, which is what its weight is for (Gateway API: a backend that does
            // not exist answers 500 for its share).
            Target::Invalid(_) => true,
        }
    }
}

/// Builds what HTTP keeps for an endpoint.
#[derive(Clone, Debug)]
struct EndpointClients {
    authority: Option<Authority>,
}

impl Build<Client> for EndpointClients {
    fn build(&self, worker: &Rc<Worker>, set: &Endpoints, endpoint: &Arc<Endpoint>) -> Client {
        let found = Found { authority: self.authority.clone(), labels: Arc::clone(&set.labels) };
        let labels = Labels::new().direction(Direction::Outbound);
        let labels = found.label(labels, worker, endpoint);
        let series = Rc::new(worker.metrics.http.series(labels));
        Client::endpoint(worker, endpoint, found, series)
    }
}

impl Forwards {
    fn get(worker: &Rc<Worker>, endpoint: &Arc<Endpoint>, settings: Settings) -> Rc<Forward> {
        let mut by_address = worker.http.forwards.by_address.borrow_mut();
        let known = by_address.get(&endpoint.address).into_iter().flatten();
        let same = |forward: &Rc<Forward>| {
            forward.endpoint == *endpoint && *forward.balancer.settings() == settings
        };
        if let Some(forward) = known.filter_map(Weak::upgrade).find(same) {
            return forward;
        }
        by_address.retain(|_, list| {
            list.retain(|forward| forward.strong_count() > 0);
            !list.is_empty()
        });
        let balancer = Balancer::new(settings, worker.random.borrow_mut().random());
        let mut set = Endpoints::default();
        set.by_address.insert(endpoint.address, Arc::clone(endpoint));
        let build = EndpointClients { authority: None };
        balancer.update(&set, Instant::now(), |e| build.build(worker, &set, e));
        let forward = Rc::new(Forward { balancer, endpoint: Arc::clone(endpoint) });
        by_address.entry(endpoint.address).or_default().push(Rc::downgrade(&forward));
        forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn draws_by_weight_among_the_available() {
        const SEED: u64 = 7;
        let mut rng = SmallRng::seed_from_u64(SEED);
        let list = [("a", 9), ("b", 1), ("c", 90)];
        let mut count = HashMap::new();
        for _ in 0..1000 {
            let drawn = *weighted(&list, &mut rng, |name| *name != "c").unwrap();
            *count.entry(drawn).or_insert(0) += 1;
        }
        assert!((850..950).contains(&count["a"]), "seed {SEED}: {count:?}");
        assert_eq!(count["a"] + count["b"], 1000);
        assert_eq!(weighted(&list, &mut rng, |_| false), None);
    }
}
