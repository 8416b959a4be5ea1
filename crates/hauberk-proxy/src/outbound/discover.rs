//! What is known of a target, shared by all its connections on one worker. Most targets are original destinations;
//! ingress mode and gateways have targets by name.
//!
//! Asking costs a look-up in this worker's map; only the first connection to a target asks the control plane. What is
//! unused for the discovery idle timeout is forgotten, and its streams end with it; not while the control plane is away,
//! because then it could not be asked for again.

use super::counters::Counters;
use crate::{
    connection::{Direction, NoTls, Tls},
    control::{self, Directory, Live},
    http,
    http::failure::{Failure, What},
    settings::{Config, Outbound},
    telemetry::{
        labels::Labels,
        tcp::{PeerEnd, Transport},
    },
    worker::Worker,
};
use hauberk_model::{
    Authority, Endpoint, Meta, OutboundPolicy, Profile,
    outbound::{
        Backend, BackendTarget, Distribution, HttpPolicy, HttpRoute, Load, OpaqueRoute,
        OutboundProtocol, Queue, RouteBackend, RuleAction,
    },
    route::{Route, Rule},
    timeout::Timeouts,
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How long a connection waits for the control plane's first word about its target. Longer than a restart of the
/// control plane's stream, shorter than what most clients bear.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Targets a worker remembers. More are served, but not remembered beyond their connections.
const TARGETS_MAX: usize = 10_000;

/// By what, and for whom, a target is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Where an application dialled.
    Address(SocketAddr),
    /// What a request asks for by a header (ingress mode).
    Name(Authority),
    /// What another proxy asks us to be the gateway to. The profile counts before the policy (linkerd2-proxy v2).
    Gateway(Authority),
}

impl Key {
    /// What the control plane is asked for.
    pub fn question(&self) -> control::Target {
        match self {
            Self::Address(address) => control::Target::Address(*address),
            Self::Name(name) | Self::Gateway(name) => control::Target::Name(name.clone()),
        }
    }

    /// The port of the service or address.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name(name) | Self::Gateway(name) => name.port().get(),
        }
    }

    /// Whether there may be a profile. What a gateway may be asked for is checked before.
    fn has_profile(&self, config: &Outbound) -> bool {
        match self {
            Self::Address(address) => {
                config.profile_networks.iter().any(|net| net.contains(&address.ip()))
            }
            Self::Name(name) => config.profile_suffixes.contains(name.host()),
            Self::Gateway(_) => true,
        }
    }
}

/// A target with everything that is known of it.
///
/// Held by connections as `Rc`; as long as somebody holds it, or it was used within the discovery idle timeout, the
/// knowledge stays fresh.
#[derive(Debug)]
pub struct Target {
    /// By what it is known.
    pub key: Key,
    /// What HTTP keeps for this target (compiled routes, pools).
    pub http: http::TargetState,
    policy: Live<OutboundPolicy>,
    profile: Option<Live<Profile>>,
    synthesised: RefCell<Option<Synthesised>>,
    accepted: OnceCell<Arc<Transport>>,
    counters: RefCell<Option<Rc<Counters>>>,
}

/// A policy made up because the control plane has none, with the profile it was made from.
#[derive(Debug)]
struct Synthesised {
    from: Option<Arc<Profile>>,
    policy: Arc<OutboundPolicy>,
}

impl Target {
    fn new(key: Key, directory: &Directory, config: &Outbound) -> Self {
        let question = key.question();
        let has_profile = key.has_profile(config);
        Self {
            key,
            http: http::TargetState::default(),
            policy: directory.outbound_policy(&question),
            profile: has_profile.then(|| directory.profile(&question)),
            synthesised: RefCell::default(),
            accepted: OnceCell::new(),
            counters: RefCell::default(),
        }
    }

    /// Waits until the control plane has spoken about this target.
    ///
    /// # Errors
    /// [`What::Undiscovered`] if it does not in time, or if the question could not be asked; for names,
    /// [`What::Unknown`] and [`What::GatewayDomain`] if there is no such thing: unlike an address, a name leads nowhere
    /// by itself.
    pub async fn discovered(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + DISCOVERY_TIMEOUT;
        let undiscovered = || Failure::us(What::Undiscovered(self.key.question()));
        let mut policy = self.policy.clone();
        let answered = policy.wait_for(|lookup| !lookup.is_pending());
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(undiscovered()),
        }
        if let Some(profile) = &self.profile {
            let mut profile = profile.clone();
            // The policy says all that is needed; a profile that is late is done without.
            let _ = tokio::time::timeout_at(deadline, control::known(&mut profile)).await;
        }
        match &self.key {
            Key::Address(_) => Ok(()),
            Key::Name(_) if self.policy.borrow().as_known().is_some() || self.leads() => Ok(()),
            Key::Name(name) => Err(Failure::client(What::Unknown(name.clone()))),
            Key::Gateway(_) if self.leads() => Ok(()),
            Key::Gateway(name) => Err(Failure::client(What::GatewayDomain(name.clone()))),
        }
    }

    /// Whether the profile says where to go.
    fn leads(&self) -> bool {
        self.profile().is_some_and(|profile| profile.name.is_some() || profile.endpoint.is_some())
    }

    /// Whether requests go by `profile` and not by the policy: where it has routes or a split; at gateways, and where
    /// there is no policy for a name, always (linkerd2-proxy v2).
    pub fn goes_by(&self, profile: &Profile) -> bool {
        let overrides = !profile.routes.is_empty() || !profile.targets.is_empty();
        let instead = match &self.key {
            Key::Address(_) => false,
            Key::Name(_) => self.policy.borrow().as_known().is_none(),
            Key::Gateway(_) => true,
        };
        profile.name.is_some() && (overrides || instead)
    }

    /// The policy in force now. The same `Arc` until something changes, so that what is compiled from it can be kept.
    pub fn policy(&self) -> Arc<OutboundPolicy> {
        if let Some(policy) = self.policy.borrow().as_known() {
            return Arc::clone(policy);
        }
        let profile = self.profile();
        let mut synthesised = self.synthesised.borrow_mut();
        match &*synthesised {
            Some(known) if same(&known.from, &profile) => Arc::clone(&known.policy),
            _ => {
                let policy = Arc::new(synthesise(&self.key, profile.as_deref()));
                let made = Synthesised { from: profile, policy: Arc::clone(&policy) };
                *synthesised = Some(made);
                policy
            }
        }
    }

    /// What else is known now.
    pub fn profile(&self) -> Option<Arc<Profile>> {
        self.profile.as_ref()?.borrow().as_known().cloned()
    }

    /// Whether `known` is what [`Target::profile`] would say, without taking it.
    pub fn is_profile(&self, known: Option<&Arc<Profile>>) -> bool {
        let known = known.map(Arc::as_ptr);
        let now = |live: &Live<Profile>| live.borrow().as_known().map(Arc::as_ptr);
        self.profile.as_ref().and_then(now) == known
    }

    /// Counters of the application's own connections to this target, which is the one for `address`.
    pub fn accepted(&self, worker: &Worker, address: SocketAddr) -> &Arc<Transport> {
        self.accepted.get_or_init(|| accepted(worker, address))
    }

    /// Counters of what becomes of connections under `policy`.
    pub fn counters(&self, policy: &Arc<OutboundPolicy>) -> Rc<Counters> {
        let mut counters = self.counters.borrow_mut();
        match &*counters {
            Some(known) if known.are_of(policy) => Rc::clone(known),
            _ => Rc::clone(counters.insert(Rc::new(Counters::new(policy)))),
        }
    }

    /// Completes when the policy has changed since `self.policy()` was last looked at through the returned receiver.
    pub fn watch_policy(&self) -> Live<OutboundPolicy> {
        self.policy.clone()
    }
}

/// Counters of the application's own connections to `address`.
pub fn accepted(worker: &Worker, address: SocketAddr) -> Arc<Transport> {
    let labels = Labels::new()
        .direction(Direction::Outbound)
        .with("peer", PeerEnd::Source.as_str())
        .target(address)
        .tls_accepted(&Tls::None(NoTls::Loopback));
    worker.metrics.tcp.transport(labels, None)
}

fn same(a: &Option<Arc<Profile>>, b: &Option<Arc<Profile>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The policy for a target that the control plane has none for: to the endpoint that its profile names, else to the
/// address itself in plaintext; nothing is retried and no endpoint is held to be broken (linkerd2-proxy does so). A
/// name leads to the endpoints of the Service that its profile names.
fn synthesise(key: &Key, profile: Option<&Profile>) -> OutboundPolicy {
    let name = match (key, profile) {
        (Key::Gateway(_), _) => "gateway",
        (_, Some(_)) => "endpoint",
        (_, None) => "fallback",
    };
    let meta = Meta::default(name);
    let endpoint = profile.and_then(|profile| profile.endpoint.clone());
    let service = profile.and_then(|profile| profile.name.as_deref());
    let target = match (endpoint, key, service) {
        (Some(endpoint), _, _) => BackendTarget::Forward(endpoint),
        (None, Key::Address(address), _) => {
            BackendTarget::Forward(Arc::new(Endpoint::bare(*address)))
        }
        (None, Key::Name(name) | Key::Gateway(name), Some(service)) => BackendTarget::Balance {
            authority: Authority::new(service, name.port()),
            load: Load::default(),
            balancing: Arc::default(),
        },
        (None, Key::Name(name) | Key::Gateway(name), None) => {
            BackendTarget::Invalid(format!("nothing is known of {name} any more").into())
        }
    };
    let backend = Arc::new(Backend { meta: meta.clone(), target, queue: Queue::default() });
    let http = http_policy(&meta, &backend);
    let opaque = OpaqueRoute {
        meta: meta.clone(),
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![RouteBackend { filters: Vec::new(), backend }]),
    };
    OutboundPolicy {
        parent: meta,
        protocol: OutboundProtocol::Detect {
            timeout: DISCOVERY_TIMEOUT,
            http1: http.clone(),
            http2: http,
            opaque: vec![opaque],
        },
    }
}

fn http_policy(meta: &Meta, backend: &Arc<Backend>) -> HttpPolicy {
    let to_backend = RouteBackend { filters: Vec::new(), backend: Arc::clone(backend) };
    let action = RuleAction {
        filters: Vec::new(),
        backends: Distribution::FirstAvailable(vec![to_backend]),
        timeouts: Timeouts::default(),
        retry: None,
        allow_l5d_request_headers: false,
    };
    let rules = vec![Rule { matches: Vec::new(), action }];
    let route = HttpRoute { meta: meta.clone(), route: Route { hosts: Vec::new(), rules } };
    HttpPolicy { routes: Arc::new([route]), failure_accrual: None }
}

/// The targets of one worker.
#[derive(Debug)]
pub struct Targets {
    idle_timeout: Duration,
    known: RefCell<HashMap<Key, Entry>>,
    is_swept: Cell<bool>,
}

#[derive(Debug)]
struct Entry {
    target: Rc<Target>,
    used_at: Instant,
}

impl Targets {
    /// No targets yet.
    pub fn new(config: &Config) -> Self {
        Self {
            idle_timeout: config.outbound.side.discovery_idle_timeout,
            known: RefCell::default(),
            is_swept: Cell::new(false),
        }
    }

    /// What is known of the target `key`; asks the control plane if it is nothing.
    pub fn get(worker: &Rc<Worker>, key: Key) -> Rc<Target> {
        let targets = &worker.targets;
        let mut known = targets.known.borrow_mut();
        let now = Instant::now();
        if let Some(entry) = known.get_mut(&key) {
            entry.used_at = now;
            return Rc::clone(&entry.target);
        }
        let target = Rc::new(Target::new(key.clone(), &worker.directory, &worker.config.outbound));
        if known.len() >= TARGETS_MAX {
            forget_idle(&mut known, now, Duration::ZERO);
        }
        if known.len() < TARGETS_MAX {
            known.insert(key, Entry { target: Rc::clone(&target), used_at: now });
        }
        if !targets.is_swept.replace(true) {
            worker.tasks.spawn_local("targets", sweep(Rc::clone(worker)));
        }
        target
    }

    /// Targets remembered now.
    pub fn len(&self) -> usize {
        self.known.borrow().len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Forgets idle targets until there are none left, so that a worker without traffic does not wake up.
async fn sweep(worker: Rc<Worker>) {
    let targets = &worker.targets;
    let pause = targets.idle_timeout.max(Duration::from_millis(100));
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = worker.shutdown.ended() => return,
        }
        let mut known = targets.known.borrow_mut();
        if worker.directory.is_reachable() {
            forget_idle(&mut known, Instant::now(), targets.idle_timeout);
        }
        if known.is_empty() {
            targets.is_swept.set(false);
            return;
        }
    }
}

fn forget_idle(known: &mut HashMap<Key, Entry>, now: Instant, idle_timeout: Duration) {
    known.retain(|_, entry| {
        if Rc::strong_count(&entry.target) > 1 {
            entry.used_at = now;
        }
        Rc::strong_count(&entry.target) > 1 || now.duration_since(entry.used_at) < idle_timeout
    });
}
