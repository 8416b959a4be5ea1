//! The endpoints of one target, as one worker sees them, and the choice among them.
//!
//! Used by the outbound HTTP path for every request, by the inbound path with the application as
//! the only endpoint, and by the opaque path for every connection. `E` is what a user keeps for
//! each endpoint (connections, metric handles); the balancer only hands it out.
//!
//! What it promises:
//! - [`Balancer::pick`] chooses inline, by power of two choices over load (see [`p2c`],
//!   [`load`](super::load)); a request waits in [`Balancer::acquire`] only while nothing is
//!   available, within the bounds of [`queue`](super::queue).
//! - An endpoint that is removed gets no further request and keeps those it has: each [`Lease`]
//!   holds its endpoint until the request is over.
//! - An endpoint that could not be reached is left alone for a growing time, then tried by one
//!   request; one that answers badly is left alone by its [`breaker`](super::breaker).
//! - Where the settings ask for it, an endpoint that joins others begins with a small share
//!   ([`slow_start`]), and what has a key goes to the key's endpoint
//!   ([`affinity`]).
//!
//! State belongs to one worker (`Rc`, `Cell`); no lock is taken. Cost of a pick with every endpoint
//! well: two random draws and two cost readings, about 60 ns, and no allocation; counting it adds
//! three additions. Slow start costs a
//! look at each endpoint, but only while one is new; affinity does so for each request that has a
//! key.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::Meta;
use hauberk_model::backoff::Backoff;
use hauberk_model::balancing::Affinity;
use hauberk_model::endpoints::{Endpoint, Endpoints};
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::outbound::{PeakEwma, Queue};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::affinity::{self, Candidate, Key, Memory, Place};
use super::breaker::{Breaker, Ended, Outcome};
use super::load::Load;
use super::p2c;
use super::queue::{Gate, Refusal};
use super::slow_start;
use crate::http::health::Health;
use crate::telemetry::balancer::Series;

/// Parameters of a balancer; they do not change while it lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How load is estimated.
    pub load: PeakEwma,
    /// What failures count as there; none if as what they took.
    pub penalty: Option<Penalty>,
    /// Bounds of waiting.
    pub queue: Queue,
    /// When an endpoint that answers badly is left alone.
    pub accrual: Option<FailureAccrual>,
    /// How long an endpoint that could not be reached is left alone.
    pub connect_backoff: Backoff,
    /// How long the share of an endpoint that joins others grows.
    pub slow_start: Option<Duration>,
    /// What goes to the same endpoint.
    pub affinity: Option<Affinity>,
    /// The route whose breaker this is, so that it shares endpoint states with nobody else.
    pub owner: Option<Meta>,
}

/// How long a failed answer is held to have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// At least so long.
    pub least: Duration,
    /// At most so long, if the endpoint asks for more by `Retry-After`.
    pub most: Duration,
}

/// The endpoints of one target. See the module documentation.
#[derive(Debug)]
pub struct Balancer<E> {
    shared: Rc<Shared<E>>,
}

#[derive(Debug)]
struct Shared<E> {
    settings: Settings,
    slots: RefCell<Vec<Rc<Slot<E>>>>,
    gate: Gate,
    /// Woken when an endpoint may have become available.
    changed: Notify,
    rng: RefCell<SmallRng>,
    /// Until when an endpoint is new; only with slow start.
    warming_until: Cell<Option<Instant>>,
    /// Which key has which endpoint; only with affinity that remembers.
    memory: RefCell<Memory>,
    /// None where nobody counts: the application beside us, a known address.
    series: Option<Series>,
}

/// One endpoint.
#[derive(Debug)]
struct Slot<E> {
    source: Arc<Endpoint>,
    endpoint: E,
    load: Load,
    breaker: RefCell<Breaker>,
    reach: Cell<Reach>,
    removed: Cell<bool>,
    /// When it joined others; only with slow start.
    joined: Option<Instant>,
    /// Where it stands among scores; only with affinity.
    place: Place,
}

/// Whether connections to an endpoint succeed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// As far as we know.
    Good,
    /// Not since the last attempt; nobody tries before `until`, then one at a time.
    Bad { until: Instant, attempts: u32, trying: bool },
}

/// The set of endpoints changed in this way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Endpoints that are new, or whose metadata changed so that they were rebuilt.
    pub added: usize,
    /// Endpoints that are gone or were rebuilt.
    pub removed: usize,
}

impl<E> Clone for Balancer<E> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<E> Balancer<E> {
    /// A balancer without endpoints. `seed` makes its choices repeatable.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self::counted(settings, seed, None)
    }

    /// The same, with counters.
    pub fn counted(settings: Settings, seed: u64, series: Option<Series>) -> Self {
        let shared = Shared {
            gate: Gate::new(settings.queue),
            settings,
            slots: RefCell::default(),
            changed: Notify::new(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
            warming_until: Cell::default(),
            memory: RefCell::default(),
            series,
        };
        Self { shared: Rc::new(shared) }
    }

    /// The parameters it was made with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Makes `wanted` the set of endpoints. Endpoints whose description is unchanged keep their
    /// connections and history; the others are built anew.
    ///
    /// Cost: linear in the number of endpoints; descriptions shared with the last set are compared
    /// by their place in memory only.
    pub fn update(
        &self,
        wanted: &Endpoints,
        now: Instant,
        mut build: impl FnMut(&Arc<Endpoint>) -> E,
    ) -> Updated {
        let mut updated = Updated::default();
        let old = std::mem::take(&mut *self.shared.slots.borrow_mut());
        let joins_others = !old.is_empty();
        let mut known: HashMap<SocketAddr, Rc<Slot<E>>> =
            old.into_iter().map(|slot| (slot.source.address, slot)).collect();
        let mut slots = Vec::with_capacity(wanted.by_address.len());
        for (address, source) in &wanted.by_address {
            let same =
                |slot: &Rc<Slot<E>>| Arc::ptr_eq(&slot.source, source) || slot.source == *source;
            match known.remove(address) {
                Some(slot) if same(&slot) => slots.push(slot),
                outdated => {
                    updated.added += 1;
                    let mut slot = self.slot(source, build(source), now);
                    slot.joined = match outdated {
                        // Described otherwise, but the same one.
                        Some(outdated) => {
                            outdated.removed.set(true);
                            updated.removed += 1;
                            outdated.joined
                        }
                        None if joins_others => self.warm_up(now),
                        None => None,
                    };
                    slots.push(Rc::new(slot));
                }
            }
        }
        for slot in known.into_values() {
            slot.removed.set(true);
            updated.removed += 1;
        }
        *self.shared.slots.borrow_mut() = slots;
        if let Some(series) = &self.shared.series {
            series.updated(updated.added, updated.removed);
        }
        self.shared.recount();
        self.shared.changed.notify_waiters();
        updated
    }

    fn slot(&self, source: &Arc<Endpoint>, endpoint: E, now: Instant) -> Slot<E> {
        Slot {
            source: Arc::clone(source),
            endpoint,
            load: Load::new(self.shared.settings.load, now),
            breaker: RefCell::new(Breaker::new(self.shared.settings.accrual.as_ref(), now)),
            reach: Cell::new(Reach::Good),
            removed: Cell::new(false),
            joined: None,
            place: self
                .shared
                .settings
                .affinity
                .as_ref()
                .map_or_else(Place::default, |_| Place::new(source.address)),
        }
    }

    /// Notes that an endpoint joins others now.
    fn warm_up(&self, now: Instant) -> Option<Instant> {
        let window = self.shared.settings.slow_start?;
        let until = now.checked_add(window)?;
        self.shared.warming_until.set(self.shared.warming_until.get().max(Some(until)));
        Some(now)
    }

    /// Chooses an endpoint now, or none if none is available.
    pub fn pick(&self, now: Instant) -> Option<Lease<E>> {
        self.pick_for(None, now)
    }

    /// Chooses the endpoint of that key now, or one by load if there is no key.
    pub fn pick_for(&self, key: Option<Key>, now: Instant) -> Option<Lease<E>> {
        let slots = self.shared.slots.borrow();
        let index = match (&self.shared.settings.affinity, key) {
            (Some(affinity), Some(key)) => self.shared.index_of(&slots, affinity, key, now),
            _ if self.shared.is_warming(now) => p2c::pick_by_share(
                slots.len(),
                &mut *self.shared.rng.borrow_mut(),
                |index| slots[index].is_available(now),
                |index| self.shared.share(&slots[index], now),
                |index| slots[index].load.cost(now),
            ),
            _ => p2c::pick(
                slots.len(),
                &mut *self.shared.rng.borrow_mut(),
                |index| slots[index].is_available(now),
                |index| slots[index].load.cost(now),
            ),
        }?;
        let slot = Rc::clone(&slots[index]);
        let probe = slot.breaker.borrow_mut().begin(now);
        let reach = slot.reach.get();
        if let Reach::Bad { until, attempts, .. } = reach {
            slot.reach.set(Reach::Bad { until, attempts, trying: true });
        }
        slot.load.begin();
        let trying = reach != Reach::Good;
        if !trying && !probe {
            self.shared.found();
        }
        let shared = Rc::clone(&self.shared);
        Some(Lease {
            slot,
            shared,
            began: now,
            probe,
            trying,
            judged: false,
            load: Measure::Due,
            health: Health::default(),
        })
    }

    /// Chooses an endpoint, waiting for one within the bounds of the queue.
    ///
    /// Cancel-safe: a place in the queue is given back when the future is dropped.
    pub async fn acquire(&self) -> Result<Lease<E>, Refusal> {
        self.acquire_for(None).await
    }

    /// The same for a key, if there is one.
    pub async fn acquire_for(&self, key: Option<Key>) -> Result<Lease<E>, Refusal> {
        let now = Instant::now();
        match self.pick_for(key, now) {
            Some(lease) => {
                if let Some(series) = &self.shared.series {
                    series.served();
                }
                Ok(lease)
            }
            // Boxed: rare, and the future of every request would have to hold it.
            None => Box::pin(self.park(key, now)).await,
        }
    }

    async fn park(&self, key: Option<Key>, now: Instant) -> Result<Lease<E>, Refusal> {
        let _waiting = self.shared.series.as_ref().map(Series::waits);
        let place = self.shared.gate.enter(now)?;
        let began = now;
        let mut now = now;
        let waited = |now: Instant| {
            if let Some(series) = &self.shared.series {
                series.waited(now.saturating_duration_since(began));
            }
        };
        loop {
            // Registered before looking, so that no change between the two is missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            if let Some(lease) = self.pick_for(key, now) {
                if lease.is_uncertain() {
                    place.tries();
                }
                waited(now);
                return Ok(lease);
            }
            if now >= place.deadline || self.shared.gate.is_shut() {
                let before = self.shared.gate.is_shut();
                self.shared.gate.expire(now);
                if let Some(series) = &self.shared.series
                    && !before
                    && self.shared.gate.is_shut()
                {
                    series.shut();
                }
                waited(now);
                return Err(Refusal::Failfast);
            }
            let wake = self.next_available(now).map_or(place.deadline, |at| at.min(place.deadline));
            // Whichever comes first; the reason does not matter.
            let _ = tokio::time::timeout_at(wake, changed).await;
            now = Instant::now();
        }
    }

    /// The next moment at which an endpoint becomes available by the passing of time.
    fn next_available(&self, now: Instant) -> Option<Instant> {
        let slots = self.shared.slots.borrow();
        slots.iter().filter_map(|slot| slot.available_at()).filter(|at| *at > now).min()
    }

    /// Whether a request would get an endpoint now or has a fair chance to; false while requests
    /// are refused at once, so that another backend should be preferred.
    pub fn is_available(&self, now: Instant) -> bool {
        !self.shared.gate.is_shut()
            || self.shared.slots.borrow().iter().any(|slot| slot.is_available(now))
    }

    /// Number of endpoints, and how many of them are available now.
    pub fn count(&self, now: Instant) -> (usize, usize) {
        let slots = self.shared.slots.borrow();
        (slots.len(), slots.iter().filter(|slot| slot.is_available(now)).count())
    }

    /// Requests waiting for an endpoint.
    pub fn waiting(&self) -> usize {
        self.shared.gate.waiting()
    }

    /// How often the gate in front of the endpoints has shut and opened again.
    pub fn gate_transitions(&self) -> (u64, u64) {
        self.shared.gate.transitions()
    }

    /// Visits every endpoint.
    pub fn each(&self, mut visit: impl FnMut(&E)) {
        for slot in self.shared.slots.borrow().iter() {
            visit(&slot.endpoint);
        }
    }
}

impl<E> Shared<E> {
    /// The endpoint of a key. It is remembered where the affinity remembers.
    fn index_of(
        &self,
        slots: &[Rc<Slot<E>>],
        affinity: &Affinity,
        key: Key,
        now: Instant,
    ) -> Option<usize> {
        let recalled = affinity.memory.and_then(|kept_for| {
            let address = self.memory.borrow().recall(key, kept_for, now)?;
            // Slots are in the order of addresses, as the set is.
            slots.binary_search_by_key(&address, |slot| slot.source.address).ok()
        });
        let is_warming = self.is_warming(now);
        let candidate = |index: usize| {
            let slot: &Slot<E> = &slots[index];
            let share = if is_warming { self.share(slot, now) } else { 1.0 };
            let candidate = Candidate { place: slot.place, under_way: slot.load.pending(), share };
            slot.is_available(now).then_some(candidate)
        };
        let index = affinity::pick(key, affinity.bound, recalled, slots.len(), candidate)?;
        // One that is only too busy at the moment keeps its key.
        let is_kept_elsewhere = recalled.is_some_and(|r| r != index && slots[r].is_available(now));
        if let Some(kept_for) = affinity.memory
            && !is_kept_elsewhere
        {
            let address = slots[index].source.address;
            self.memory.borrow_mut().keep(key, address, kept_for, now);
        }
        Some(index)
    }

    /// There is a sound endpoint.
    fn found(&self) {
        let was_shut = self.gate.is_shut();
        self.gate.found();
        if let Some(series) = self.series.as_ref().filter(|_| was_shut) {
            series.opened();
        }
    }

    /// Shows how many endpoints may be chosen. Called when one has become better or worse; cost: linear in their
    /// number.
    fn recount(&self) {
        let Some(series) = &self.series else { return };
        let slots = self.slots.borrow();
        let is_ready = |slot: &&Rc<Slot<E>>| {
            slot.reach.get() == Reach::Good && slot.breaker.borrow().is_open()
        };
        let ready = slots.iter().filter(is_ready).count();
        series.endpoints(ready, slots.len() - ready);
    }

    /// Whether some endpoint is new.
    fn is_warming(&self, now: Instant) -> bool {
        match self.warming_until.get() {
            None => false,
            Some(until) if now < until => true,
            Some(_) => {
                self.warming_until.set(None);
                false
            }
        }
    }

    /// The part of its full share that an endpoint gets now.
    fn share(&self, slot: &Slot<E>, now: Instant) -> f64 {
        match (slot.joined, self.settings.slow_start) {
            (Some(joined), Some(window)) => {
                slow_start::share(now.saturating_duration_since(joined), window)
            }
            _ => 1.0,
        }
    }
}

impl<E> Slot<E> {
    fn is_available(&self, now: Instant) -> bool {
        let reachable = match self.reach.get() {
            Reach::Good => true,
            Reach::Bad { until, trying, .. } => until <= now && !trying,
        };
        reachable && self.breaker.borrow().is_available(now)
    }

    fn available_at(&self) -> Option<Instant> {
        let reach = match self.reach.get() {
            Reach::Bad { until, trying: false, .. } => Some(until),
            Reach::Bad { trying: true, .. } | Reach::Good => None,
        };
        reach.max(self.breaker.borrow().available_at())
    }
}

/// The use of one endpoint by one request or connection.
///
/// Tell it what happened: [`Lease::connected`] or [`Lease::unreachable`], then
/// [`Lease::responded`], then [`Lease::judge`]. Dropped earlier, it counts as given up: the load
/// estimate gets the time so far, the breaker nothing.
#[derive(Debug)]
pub struct Lease<E> {
    slot: Rc<Slot<E>>,
    shared: Rc<Shared<E>>,
    began: Instant,
    /// The breaker waits for this request's outcome.
    probe: bool,
    /// Nobody else tries to reach the endpoint meanwhile.
    trying: bool,
    judged: bool,
    load: Measure,
    health: Health,
}

/// What the load estimate still expects from a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// The time to answer, and the end.
    Due,
    /// Only the end.
    Sampled,
    /// Nothing.
    Done,
}

impl<E> Lease<E> {
    /// What the user keeps for the endpoint.
    pub fn endpoint(&self) -> &E {
        &self.slot.endpoint
    }

    /// What discovery says about the endpoint.
    pub fn source(&self) -> &Arc<Endpoint> {
        &self.slot.source
    }

    /// Whether the endpoint was taken out of the set meanwhile.
    pub fn is_removed(&self) -> bool {
        self.slot.removed.get()
    }

    /// Whether the endpoint failed before and this use of it is to find out whether it is back.
    fn is_uncertain(&self) -> bool {
        self.trying || self.probe
    }

    /// A connection to the endpoint works.
    pub fn connected(&self) {
        if self.slot.reach.replace(Reach::Good) != Reach::Good {
            self.sound();
        }
    }

    fn sound(&self) {
        self.shared.found();
        self.shared.recount();
        self.shared.changed.notify_waiters();
    }

    /// The endpoint could not be reached: it is left alone for a while, and with it this lease.
    ///
    /// Many may find this out at once, of one and the same outage: the first of them begins the
    /// pause, and only who was sent to find out whether it is over makes the next one longer.
    pub fn unreachable(mut self, now: Instant) {
        let attempts = match self.slot.reach.get() {
            Reach::Good => Some(0),
            Reach::Bad { attempts, .. } if self.trying => Some(attempts.saturating_add(1)),
            Reach::Bad { .. } => None,
        };
        if let Some(attempts) = attempts {
            let random = self.shared.rng.borrow_mut().random();
            let until = now + self.shared.settings.connect_backoff.delay(attempts, random);
            self.slot.reach.set(Reach::Bad { until, attempts, trying: false });
            self.trying = false;
            if attempts == 0 {
                self.shared.recount();
            }
        }
        // A refused connection is quick; that must not make the endpoint look attractive.
        self.load = Measure::Done;
        self.slot.load.abandon();
        self.judge(Outcome::Failure, now);
    }

    /// The response (its first body frame, or its end) is here: the load estimate learns.
    pub fn responded(&mut self, now: Instant) {
        if self.load == Measure::Due {
            self.load = Measure::Done;
            let rtt = now.saturating_duration_since(self.began);
            self.slot.load.finish(self.penalized(rtt), now);
        }
    }

    /// What an answer after `rtt` counts as.
    fn penalized(&self, rtt: Duration) -> Duration {
        match self.shared.settings.penalty {
            Some(Penalty { least, most }) if self.health.is_bad => {
                rtt.max(self.health.retry_after.unwrap_or(least).clamp(least, most))
            }
            Some(_) | None => rtt,
        }
    }

    /// Whether [`Lease::heard`] makes a difference, so that a response's head need not be looked into
    /// otherwise.
    pub fn listens(&self) -> bool {
        let settings = &self.shared.settings;
        let honors = |accrual: &FailureAccrual| {
            matches!(accrual.kind, FailureAccrualKind::Unified { honor_retry_after: true, .. })
        };
        settings.penalty.is_some() || settings.accrual.as_ref().is_some_and(honors)
    }

    /// What the response's head says of the endpoint.
    pub fn heard(&mut self, health: Health) {
        self.health = health;
    }

    /// A connection is open and stays: the time it took is learnt, and it counts as under way until
    /// the lease is dropped.
    pub fn opened(&mut self, now: Instant) {
        self.connected();
        if self.load == Measure::Due {
            self.load = Measure::Sampled;
            self.slot.load.sample(now.saturating_duration_since(self.began), now);
        }
    }

    /// The breaker learns how the request ended; only the first word counts.
    pub fn judge(&mut self, outcome: Outcome, now: Instant) {
        if self.judged {
            return;
        }
        self.judged = true;
        // A request without a response is no better than one with a bad response.
        self.health.is_bad |= outcome == Outcome::Failure;
        let retry_after = self.health.retry_after;
        let random = self.shared.rng.borrow_mut().random();
        let may_shut = || self.others_open();
        let ended = Ended { outcome, probe: self.probe, retry_after };
        let changed = self.slot.breaker.borrow_mut().end(ended, may_shut, now, random);
        if changed {
            if self.slot.breaker.borrow().is_open() {
                self.sound();
            } else {
                self.shared.recount();
                self.shared.changed.notify_waiters();
            }
        }
    }

    /// Whether enough endpoints are left in use without this one.
    fn others_open(&self) -> bool {
        let min = self.shared.settings.accrual.as_ref().map_or(0, |a| a.min_ready_endpoints);
        if min == 0 {
            return true;
        }
        let slots = self.shared.slots.borrow();
        let others = slots.iter().filter(|slot| !Rc::ptr_eq(slot, &self.slot));
        others.filter(|slot| slot.breaker.borrow().is_open()).count() >= min as usize
    }
}

impl<E> Drop for Lease<E> {
    fn drop(&mut self) {
        match self.load {
            Measure::Due => self.responded(Instant::now()),
            Measure::Sampled => self.slot.load.abandon(),
            Measure::Done => {}
        }
        let probe_given_up = self.probe && !self.judged;
        if probe_given_up {
            self.slot.breaker.borrow_mut().abandon();
        }
        let reach = self.slot.reach.get();
        let try_given_up = self.trying && matches!(reach, Reach::Bad { .. });
        if try_given_up && let Reach::Bad { until, attempts, .. } = reach {
            self.slot.reach.set(Reach::Bad { until, attempts, trying: false });
        }
        if probe_given_up || try_given_up {
            self.shared.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
