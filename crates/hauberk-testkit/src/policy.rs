//! Outbound policies as most tests want them: one route, one backend, nothing else.

use hauberk_model::{
    Authority, Meta, OutboundPolicy,
    outbound::{
        Backend, BackendTarget, Distribution, HttpPolicy, HttpRoute, Load, OpaqueRoute,
        OutboundProtocol, Queue, RouteBackend, RuleAction,
    },
    route::{Route, Rule, http::HttpMatch},
    timeout::Timeouts,
};
use std::{sync::Arc, time::Duration};

/// The endpoints of a service, balanced.
pub fn balanced(meta: Meta, authority: Authority) -> Arc<Backend> {
    let (load, balancing) = (Load::default(), Arc::default());
    let target = BackendTarget::Balance { authority, load, balancing };
    Arc::new(Backend { meta, target, queue: Queue::default() })
}

/// A route of one rule, for requests that match any of `matches`; for all if there are none.
pub fn http_route(meta: Meta, matches: Vec<HttpMatch>, backend: Arc<Backend>) -> HttpRoute {
    let action = RuleAction {
        filters: Vec::new(),
        backends: only(backend),
        timeouts: Timeouts::default(),
        retry: None,
        allow_l5d_request_headers: false,
    };
    let rules = vec![Rule { matches, action }];
    HttpRoute { meta, route: Route { hosts: Vec::new(), rules } }
}

/// A route for bytes that are not looked into.
pub fn opaque_route(meta: Meta, backend: Arc<Backend>) -> OpaqueRoute {
    OpaqueRoute { meta, filters: Vec::new(), backends: only(backend) }
}

/// Whatever is spoken goes to `backend`.
pub fn detected(parent: Meta, backend: &Arc<Backend>) -> OutboundPolicy {
    let meta = || Meta::default("test");
    let routes = Arc::new([http_route(meta(), Vec::new(), Arc::clone(backend))]);
    let http = HttpPolicy { routes, failure_accrual: None };
    let protocol = OutboundProtocol::Detect {
        timeout: Duration::from_secs(10),
        http1: http.clone(),
        http2: http,
        opaque: vec![opaque_route(meta(), Arc::clone(backend))],
    };
    OutboundPolicy { parent, protocol }
}

fn only<F>(backend: Arc<Backend>) -> Distribution<F> {
    Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }])
}
