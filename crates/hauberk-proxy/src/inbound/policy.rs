//! What this pod's ports accept: the control plane's newest word, or the default until it has spoken.
//!
//! Never waits: a port that nobody asked for yet is served under the default policy at once (linkerd2-proxy does so).
//! Ports listed in the settings are watched from the start and for good; others are forgotten when idle.

use crate::{control::Live, settings::Config, worker::Worker};
use hauberk_model::{
    InboundPolicy, Meta, Port,
    inbound::{DefaultPolicy, HttpRoute, HttpServer, InboundProtocol},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// The live policy of one port. Cloning copies an `Rc`; holding it keeps the policy fresh.
#[derive(Clone, Debug)]
pub struct Policy(Rc<OfPort>);

#[derive(Debug)]
struct OfPort {
    port: Port,
    default: Arc<InboundPolicy>,
    live: Live<InboundPolicy>,
}

impl Policy {
    /// The policy in force now. The same `Arc` until something changes.
    pub fn now(&self) -> Arc<InboundPolicy> {
        self.0.live.borrow().as_known().unwrap_or(&self.0.default).clone()
    }

    /// The port it is for.
    pub fn port(&self) -> Port {
        self.0.port
    }

    /// A receiver that notes every change from now on.
    pub fn watch(&self) -> Live<InboundPolicy> {
        let mut live = self.0.live.clone();
        live.mark_unchanged();
        live
    }
}

/// Ports a worker remembers. More are served, but not remembered beyond their connections.
const PORTS_MAX: usize = 10_000;

/// The policies of one worker.
#[derive(Debug)]
pub struct Policies {
    idle_timeout: Duration,
    default: Arc<InboundPolicy>,
    default_opaque: Arc<InboundPolicy>,
    known: RefCell<HashMap<Port, Entry>>,
    is_swept: Cell<bool>,
}

#[derive(Debug)]
struct Entry {
    policy: Policy,
    used_at: Instant,
    is_kept: bool,
}

impl Policies {
    /// No policies yet.
    pub fn new(config: &Config) -> Self {
        let inbound = &config.inbound;
        Self {
            idle_timeout: inbound.side.discovery_idle_timeout,
            default: Arc::new(default_policy(
                config,
                inbound.default_policy == DefaultPolicy::Deny,
            )),
            default_opaque: Arc::new(default_policy(config, true)),
            known: RefCell::default(),
            is_swept: Cell::new(false),
        }
    }

    /// Begins to watch the ports that the settings list, and a gateway's own, and keeps them.
    pub fn watch_listed(worker: &Rc<Worker>) {
        let inbound = &worker.config.inbound;
        let ports = inbound.ports.ranges();
        let ports = ports.flat_map(|range| range.first().get()..=range.last().get());
        let gateway = Some(inbound.listen.port()).filter(|_| !inbound.gateway_suffixes.is_empty());
        for port in gateway.into_iter().chain(ports).take(PORTS_MAX) {
            let port = Port::new(port).expect("a range of ports has no zero");
            let policy = worker.policies.ask(worker, port);
            let entry = Entry { policy, used_at: Instant::now(), is_kept: true };
            worker.policies.known.borrow_mut().insert(port, entry);
        }
    }

    /// The policy of `port`.
    pub fn get(worker: &Rc<Worker>, port: Port) -> Policy {
        let policies = &worker.policies;
        let now = Instant::now();
        if let Some(entry) = policies.known.borrow_mut().get_mut(&port) {
            entry.used_at = now;
            return entry.policy.clone();
        }
        let policy = policies.ask(worker, port);
        let mut known = policies.known.borrow_mut();
        if known.len() < PORTS_MAX {
            let entry = Entry { policy: policy.clone(), used_at: now, is_kept: false };
            known.insert(port, entry);
        }
        if !policies.is_swept.replace(true) {
            worker.tasks.spawn_local("policies", sweep(Rc::clone(worker)));
        }
        policy
    }

    fn ask(&self, worker: &Worker, port: Port) -> Policy {
        let is_opaque = worker.config.inbound.opaque_ports.contains(port);
        let default = if is_opaque { &self.default_opaque } else { &self.default };
        let live = worker.directory.inbound_policy(port);
        Policy(Rc::new(OfPort { port, default: Arc::clone(default), live }))
    }
}

/// Forgets idle ports until none is left that may be forgotten.
async fn sweep(worker: Rc<Worker>) {
    let policies = &worker.policies;
    let pause = policies.idle_timeout.max(Duration::from_millis(100));
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = worker.shutdown.ended() => return,
        }
        let now = Instant::now();
        let mut known = policies.known.borrow_mut();
        known.retain(|_, entry| {
            if Rc::strong_count(&entry.policy.0) > 1 {
                entry.used_at = now;
            }
            entry.is_kept
                || !worker.directory.is_reachable()
                || now.duration_since(entry.used_at) < pause
        });
        if known.values().all(|entry| entry.is_kept) {
            policies.is_swept.set(false);
            return;
        }
    }
}

/// The policy of the settings for a port, until the control plane has spoken.
pub fn until_known(config: &Config, port: Port) -> InboundPolicy {
    let is_opaque = config.inbound.opaque_ports.contains(port);
    default_policy(config, is_opaque || config.inbound.default_policy == DefaultPolicy::Deny)
}

/// The policy of the settings: everything may be spoken by those whom the default lets in.
fn default_policy(config: &Config, is_opaque: bool) -> InboundPolicy {
    let inbound = &config.inbound;
    let meta = Meta::default(inbound.default_policy.as_str());
    let authorizations = inbound.default_policy.authorizations(&inbound.cluster_networks);
    let protocol = if is_opaque {
        InboundProtocol::Opaque
    } else {
        let route = HttpRoute::catch_all(Meta::default("default"), Arc::clone(&authorizations));
        InboundProtocol::Detect {
            timeout: inbound.side.detect_timeout,
            http: HttpServer { routes: Arc::new([route]), rate_limit: None },
        }
    };
    InboundPolicy { server: meta, protocol, authorizations }
}
