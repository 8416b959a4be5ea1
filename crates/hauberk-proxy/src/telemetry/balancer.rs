//! Metric families about choosing among endpoints, by the names that linkerd2-proxy v2 gives them.
//!
//! | prefix | labels |
//! |---|---|
//! | `outbound_http_balancer_` | parent, backend |
//! | `outbound_tcp_balancer_` | the same, `logical` and `concrete`: who is asked for |
//!
//! A [`Series`] belongs to one balancer of one worker. Workers have balancers of their own, so gauges add up over them:
//! a service of three endpoints shows six where two workers use it. Routes that lead to the same endpoints by the same
//! settings share a balancer, which counts for the first of them. Balancers do not tell the application's TLS from other
//! opaque bytes, so there is no `outbound_tls_balancer_`.
//!
//! Cost per request: one addition, and one observation of how long it waited.

use crate::telemetry::labels::Labels;
use hauberk_process::metrics::{Counter, Distribution, Family, Gauge, Real, Registry, Unit};
use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Bounds in seconds of how long a request waits for an endpoint.
const LATENCY_BOUNDS: &[f64] = &[0.0005, 0.005, 0.05, 0.5, 1.0, 3.0];

/// The families of both kinds of use.
#[derive(Clone, Debug)]
pub struct Families {
    /// For requests.
    pub http: Group,
    /// For connections.
    pub tcp: Group,
}

/// The families of one kind of use.
#[derive(Clone, Debug)]
pub struct Group {
    endpoints: Family<Labels, Gauge>,
    p2c_endpoints: Family<Labels, Gauge>,
    p2c_updates: Family<Labels, Counter>,
    queue_length: Family<Labels, Gauge>,
    queue_requests: Family<Labels, Counter>,
    queue_latency: Family<Labels, Distribution>,
    gate_open: Family<Labels, Counter>,
    gate_shut: Family<Labels, Counter>,
    gate_open_time: Family<Labels, Real>,
    gate_shut_time: Family<Labels, Real>,
    gate_timeout: Family<Labels, Real>,
}

impl Families {
    /// Registers all families.
    pub fn register(registry: &mut Registry) -> Self {
        Self { http: Group::register(registry, "http"), tcp: Group::register(registry, "tcp") }
    }
}

impl Group {
    fn register(registry: &mut Registry, kind: &str) -> Self {
        let name = |name: &str| format!("outbound_{kind}_balancer_{name}");
        let group = Self {
            endpoints: Family::default().forgetful(),
            p2c_endpoints: Family::default().forgetful(),
            p2c_updates: Family::default().forgetful(),
            queue_length: Family::default().forgetful(),
            queue_requests: Family::default().forgetful(),
            queue_latency: Family::new(|| Distribution::new(LATENCY_BOUNDS)).forgetful(),
            gate_open: Family::default().forgetful(),
            gate_shut: Family::default().forgetful(),
            gate_open_time: Family::default().forgetful(),
            gate_shut_time: Family::default().forgetful(),
            gate_timeout: Family::default().forgetful(),
        };
        let help = "Endpoints, by whether they may be chosen";
        registry.register(name("endpoints"), help, group.endpoints.clone());
        let help = "Endpoints to choose from";
        registry.register(name("p2c_endpoints"), help, group.p2c_endpoints.clone());
        let help = "Changes of the set of endpoints";
        registry.register(name("p2c_updates"), help, group.p2c_updates.clone());
        let help = "What waits for an endpoint now";
        registry.register(name("queue_length"), help, group.queue_length.clone());
        let help = "What has asked for an endpoint";
        registry.register(name("queue_requests"), help, group.queue_requests.clone());
        let help = "How long it waited";
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            name("queue_latency"),
            help,
            seconds,
            group.queue_latency.clone(),
        );
        let help = "How often endpoints became available again after nobody could wait";
        registry.register(name("queue_gate_open"), help, group.gate_open.clone());
        let help = "How often waiting for an endpoint became pointless";
        registry.register(name("queue_gate_shut"), help, group.gate_shut.clone());
        let help = "Unix time at which the gate opened last";
        let family = group.gate_open_time.clone();
        registry.register_with_unit(name("queue_gate_open_time"), help, seconds, family);
        let help = "Unix time at which the gate shut last";
        let family = group.gate_shut_time.clone();
        registry.register_with_unit(name("queue_gate_shut_time"), help, seconds, family);
        let help = "How long anybody waits before the gate shuts";
        let family = group.gate_timeout.clone();
        registry.register_with_unit(name("queue_gate_timeout"), help, seconds, family);
        group
    }

    /// The counters of one balancer, whose gate shuts after `timeout`.
    pub fn series(&self, labels: &Labels, timeout: Duration) -> Series {
        let update =
            |op: &'static str| self.p2c_updates.get_or_create(&labels.clone().with("op", op));
        let endpoints = |state: &'static str| {
            self.endpoints.get_or_create(&labels.clone().with("endpoint_state", state))
        };
        let gate_timeout = self.gate_timeout.get_or_create(labels);
        gate_timeout.set(timeout.as_secs_f64());
        Series {
            ready: endpoints("ready"),
            pending: endpoints("pending"),
            p2c_endpoints: self.p2c_endpoints.get_or_create(labels),
            reset: update("Reset"),
            add: update("Add"),
            remove: update("Remove"),
            queue_length: self.queue_length.get_or_create(labels),
            queue_requests: self.queue_requests.get_or_create(labels),
            queue_latency: self.queue_latency.get_or_create(labels),
            gate_open: self.gate_open.get_or_create(labels),
            gate_shut: self.gate_shut.get_or_create(labels),
            gate_open_time: self.gate_open_time.get_or_create(labels),
            gate_shut_time: self.gate_shut_time.get_or_create(labels),
            _gate_timeout: gate_timeout,
            shown: Cell::default(),
            has_begun: Cell::default(),
        }
    }
}

/// The counters of one balancer. What it added to gauges is taken away when it is dropped.
#[derive(Debug)]
pub struct Series {
    ready: Gauge,
    pending: Gauge,
    p2c_endpoints: Gauge,
    reset: Counter,
    add: Counter,
    remove: Counter,
    queue_length: Gauge,
    queue_requests: Counter,
    queue_latency: Distribution,
    gate_open: Counter,
    gate_shut: Counter,
    gate_open_time: Real,
    gate_shut_time: Real,
    _gate_timeout: Real,
    /// Endpoints that may be chosen, and those that may not, as the gauges have them.
    shown: Cell<(i64, i64)>,
    has_begun: Cell<bool>,
}

impl Series {
    /// The set of endpoints changed by so many.
    pub fn updated(&self, added: usize, removed: usize) {
        if !self.has_begun.replace(true) {
            self.reset.inc();
            return;
        }
        if added > 0 {
            self.add.inc();
        }
        if removed > 0 {
            self.remove.inc();
        }
    }

    /// So many endpoints may be chosen, so many not.
    pub fn endpoints(&self, ready: usize, pending: usize) {
        let now = (ready as i64, pending as i64);
        let before = self.shown.replace(now);
        self.ready.add(now.0 - before.0);
        self.pending.add(now.1 - before.1);
        self.p2c_endpoints.add(now.0 + now.1 - before.0 - before.1);
    }

    /// Somebody asked for an endpoint and got one at once.
    pub fn served(&self) {
        self.queue_requests.inc();
        self.queue_latency.observe(0.0);
    }

    /// Somebody has to wait.
    pub fn waits(&self) -> Waiting<'_> {
        self.queue_requests.inc();
        self.queue_length.inc();
        Waiting(self)
    }

    /// Somebody waited so long, with or without success.
    pub fn waited(&self, time: Duration) {
        self.queue_latency.observe(time.as_secs_f64());
    }

    /// Waiting became pointless.
    pub fn shut(&self) {
        self.gate_shut.inc();
        self.gate_shut_time.set(unix_seconds());
    }

    /// There is an endpoint again.
    pub fn opened(&self) {
        self.gate_open.inc();
        self.gate_open_time.set(unix_seconds());
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.endpoints(0, 0);
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub struct Waiting<'s>(&'s Series);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queue_length.dec();
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
