//! Metric families about choosing among endpoints, by the names that linkerd2-proxy v2 gives them.
//!
//! | prefix | labels |
//! |---|---|
//! | `outbound_http_balancer_` | parent, backend |
//! | `outbound_tcp_balancer_` | the same, `logical` and `concrete`: who is asked for |
//!
//! A [`Series`] belongs to one balancer of one worker. Workers have balancers of their own, which see the same endpoints:
//! an endpoint counts once (`Endpoints`). What waits, asks, or happens to a balancer adds up over workers. Routes that
//! lead to the same endpoints by the same settings share a balancer, which counts for the first of them. Balancers do not
//! tell the application's TLS from other opaque bytes, so there is no `outbound_tls_balancer_`.
//!
//! Cost per request: one addition, and one observation of how long it waited. A lock is taken when a balancer comes or
//! goes and when an endpoint becomes better or worse.

use crate::telemetry::labels::Labels;
use hauberk_process::metrics::{Counter, Distribution, Family, Gauge, Real, Registry, Unit};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
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
    /// Those of which some balancer shows something.
    known: Arc<Mutex<HashMap<Labels, Arc<Endpoints>>>>,
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
            known: Arc::default(),
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
        let gate_timeout = self.gate_timeout.get_or_create(labels);
        gate_timeout.set(timeout.as_secs_f64());
        Series {
            endpoints: self.view(labels),
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
            has_begun: Cell::default(),
        }
    }

    fn view(&self, labels: &Labels) -> View {
        let mut known = self.known.lock();
        let endpoints = known.entry(labels.clone()).or_insert_with(|| {
            let state = |state: &'static str| {
                self.endpoints.get_or_create(&labels.clone().with("endpoint_state", state))
            };
            Arc::new(Endpoints {
                ready: state("ready"),
                pending: state("pending"),
                all: self.p2c_endpoints.get_or_create(labels),
                views: Mutex::default(),
            })
        });
        let mut views = endpoints.views.lock();
        let number = views.last_key_value().map_or(0, |(last, _)| last + 1);
        views.insert(number, Seen::default());
        drop(views);
        View {
            endpoints: Arc::clone(endpoints),
            number,
            labels: labels.clone(),
            known: Arc::clone(&self.known),
        }
    }
}

/// The gauges of one set of endpoints. A worker that sends nothing does not notice what fails, so they show what the
/// balancers see that have most endpoints, and of these as pending what the one sees that can choose fewest.
#[derive(Debug)]
struct Endpoints {
    ready: Gauge,
    pending: Gauge,
    all: Gauge,
    /// By number of the view; as many as there are balancers.
    views: Mutex<BTreeMap<u64, Seen>>,
}

/// What one balancer sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    all: usize,
    pending: usize,
}

impl Endpoints {
    fn show(&self, views: &BTreeMap<u64, Seen>) {
        let all = views.values().map(|seen| seen.all).max().unwrap_or(0);
        let pending = views.values().map(|seen| seen.pending).max().unwrap_or(0);
        self.all.set(all as i64);
        self.pending.set(pending as i64);
        self.ready.set(all.saturating_sub(pending) as i64);
    }
}

/// One balancer's part in the gauges of its endpoints; given up when it is dropped.
#[derive(Debug)]
struct View {
    endpoints: Arc<Endpoints>,
    number: u64,
    labels: Labels,
    known: Arc<Mutex<HashMap<Labels, Arc<Endpoints>>>>,
}

impl View {
    fn shows(&self, seen: Seen) {
        let mut views = self.endpoints.views.lock();
        if views.insert(self.number, seen) != Some(seen) {
            self.endpoints.show(&views);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Whoever looks for these endpoints meanwhile waits, and then finds them with our view gone or not at all.
        let mut known = self.known.lock();
        let mut views = self.endpoints.views.lock();
        views.remove(&self.number);
        self.endpoints.show(&views);
        if views.is_empty() {
            known.remove(&self.labels);
        }
    }
}

/// The counters of one balancer. What it added to gauges is taken away when it is dropped.
#[derive(Debug)]
pub struct Series {
    endpoints: View,
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
        self.endpoints.shows(Seen { all: ready + pending, pending });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_counts_once_however_many_workers_see_it() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let balancer = |backend: &'static str| {
            families.http.series(&Labels::new().with("backend_name", backend), Duration::ZERO)
        };
        let shows = |backend: &str, [ready, pending, all]: [usize; 3]| {
            let text = registry.text();
            let labels = format!("{{backend_name=\"{backend}\"");
            for line in [
                format!("endpoints{labels},endpoint_state=\"ready\"}} {ready}\n"),
                format!("endpoints{labels},endpoint_state=\"pending\"}} {pending}\n"),
                format!("p2c_endpoints{labels}}} {all}\n"),
            ] {
                let line = format!("outbound_http_balancer_{line}");
                assert!(text.contains(&line), "{line} in\n{text}");
            }
        };
        let (one, other, elsewhere) = (balancer("a"), balancer("a"), balancer("b"));
        one.endpoints(3, 0);
        other.endpoints(3, 0);
        elsewhere.endpoints(1, 0);
        shows("a", [3, 0, 3]);
        // What fails is pending as soon as one worker has noticed it.
        one.endpoints(1, 2);
        shows("a", [1, 2, 3]);
        // A worker that has not heard of the change yet does not hide it.
        one.endpoints(4, 0);
        shows("a", [4, 0, 4]);
        drop(one);
        shows("a", [3, 0, 3]);
        let third = balancer("a");
        shows("a", [3, 0, 3]);
        drop(other);
        third.endpoints(0, 1);
        shows("a", [0, 1, 1]);
        drop(third);
        shows("a", [0, 0, 0]);
        shows("b", [1, 0, 1]);
        assert_eq!(families.http.known.lock().len(), 1, "what nobody shows is not kept");
    }

    #[test]
    fn what_waits_adds_up_over_workers() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let balancer = || families.tcp.series(&Labels::new(), Duration::ZERO);
        let (one, other) = (balancer(), balancer());
        let (_first, second) = (one.waits(), other.waits());
        assert!(registry.text().contains("outbound_tcp_balancer_queue_length 2\n"));
        drop(second);
        let text = registry.text();
        assert!(text.contains("outbound_tcp_balancer_queue_length 1\n"), "{text}");
        assert!(text.contains("outbound_tcp_balancer_queue_requests_total 2\n"), "{text}");
    }
}
