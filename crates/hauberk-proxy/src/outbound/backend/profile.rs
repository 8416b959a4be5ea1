//! Service profiles compiled for requests: the older kind of routes, retries and traffic splits.
//!
//! A profile takes the place of the policy for HTTP if it names a Service and has a route or a
//! split (linkerd2-proxy v2). The first route that matches counts; what none matches is sent all the same.
//! All routes share one retry budget; retries follow the route's response classes, without pause
//! and without a limit but the budget. Endpoints have no breaker on this way. Metrics are the `route_*` families:
//! a request counts for its route, each attempt as "actual".

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hauberk_model::outbound::{self, BackendTarget, Load};
use hauberk_model::profile::{Profile, ProfileRoute};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{Authority, Balancing, Meta, OutboundPolicy, Port};
use http::HeaderValue;
use tokio::time::Instant;

use super::{Backend, Backends, Care, Compiler, Kind, Rule, Table};
use crate::connection::Direction;
use crate::http::budget::Budget;
use crate::http::retries::{self, Rules};
use crate::telemetry::labels::Labels;
use crate::worker::Worker;

impl Table {
    /// Compiles `profile` for requests to `port`; none if it names no Service. The caller knows whether it counts.
    pub fn of_profile(
        worker: &Rc<Worker>,
        policy: &OutboundPolicy,
        profile: &Profile,
        port: u16,
    ) -> Option<Self> {
        let name = profile.name.as_ref()?;
        let logical = Authority::parse(&format!("{name}:{port}"), Port::new(port)?).ok()?;
        let now = Instant::now();
        let budget = Budget::new(profile.retry_budget.unwrap_or(retries::BUDGET), now);
        let compiler = Profiled {
            compiler: Compiler { worker, parent: &policy.parent, accrual: None },
            policy,
            profile,
            logical: &logical,
            budget: Rc::new(RefCell::new(budget)),
        };
        let routes = profile.routes.iter();
        let routes = routes.map(|r| (r.condition.clone(), compiler.rule(Some(r)))).collect();
        let canonical = HeaderValue::from_str(&logical.to_string()).ok();
        let parent = policy.parent.clone();
        let others = Box::new(compiler.rule(None));
        Some(Self { routes: Kind::Profile { routes, others }, parent, canonical })
    }
}

/// What is the same for all routes of a profile.
struct Profiled<'c> {
    compiler: Compiler<'c>,
    policy: &'c OutboundPolicy,
    profile: &'c Profile,
    logical: &'c Authority,
    budget: Rc<RefCell<Budget>>,
}

impl Profiled<'_> {
    /// A route, or what is done with requests that none is for.
    fn rule(&self, route: Option<&ProfileRoute>) -> Rule {
        let families = &self.compiler.worker.metrics.http.profile;
        let labels = Labels::new().direction(Direction::Outbound);
        let labels = labels.with("dst", self.logical.to_string());
        let labels =
            route.map_or_else(|| labels.clone(), |r| labels.clone().profile_route(&r.labels));
        let classes = route.map(|route| route.response_classes.clone()).unwrap_or_default();
        let is_retryable =
            route.is_some_and(|r| r.is_retryable) && self.profile.retry_budget.is_some();
        let head = route.and_then(|route| route.timeout);
        let care = (is_retryable || head.is_some() || !classes.is_empty()).then(|| {
            Box::new(Care {
                timeouts: Timeouts::default(),
                head,
                classes,
                retries: is_retryable.then(|| Rc::new(Rules::of_profile())),
                budget: Rc::clone(&self.budget),
                series: families.retries(&labels),
                allows_overrides: false,
            })
        });
        Rule {
            meta: self.profile.profile.clone().unwrap_or_else(|| Meta::default("profile")),
            filters: Vec::new(),
            mirrors: Vec::new(),
            series: Rc::new(families.route(labels.clone())),
            hosts: None,
            care,
            backends: self.backends(&labels),
        }
    }

    /// What the policy beside the profile says of balancing over `authority`, as profiles have no
    /// words for it.
    fn balancing(&self, authority: &Authority) -> Arc<Balancing> {
        let found = self.policy.backends().find_map(|backend| match &backend.target {
            BackendTarget::Balance { authority: other, balancing, .. } if other == authority => {
                Some(Balancing { breaker: None, ..Balancing::clone(balancing) })
            }
            _other => None,
        });
        found.map(Arc::new).unwrap_or_default()
    }

    fn backends(&self, labels: &Labels) -> Backends {
        let backend = |authority: &Authority, meta: Meta| {
            let target = BackendTarget::Balance {
                authority: authority.clone(),
                load: Load::default(),
                balancing: self.balancing(authority),
            };
            let target = outbound::Backend { meta, target, queue: outbound::Queue::default() };
            let route = Meta::default("profile");
            Backend {
                filters: Vec::new(),
                mirrors: Vec::new(),
                series: Rc::new(self.compiler.worker.metrics.http.profile.actual(labels.clone())),
                target: self.compiler.target(&target, &route),
            }
        };
        let targets = &self.profile.targets;
        if targets.is_empty() {
            return Backends::First(vec![backend(self.logical, self.compiler.parent.clone())]);
        }
        let drawn = targets.iter().filter(|target| target.weight > 0);
        let drawn = drawn.map(|target| {
            let meta = target.backend.clone();
            let meta = meta.unwrap_or_else(|| Meta::default(target.authority.to_string()));
            (backend(&target.authority, meta), target.weight)
        });
        Backends::Random(drawn.collect())
    }
}
