//! Local rate limits: so many requests per second for all clients, and for each client.
//!
//! Asked by the inbound request path after authorization and filters, so that refused requests use
//! up nothing. The generic cell rate algorithm (ITU-T I.371) with a burst of one second's worth,
//! as linkerd2-proxy v2 limits.
//!
//! A limiter belongs to one worker. With several workers each gets an equal share, rounded up;
//! connections that are spread unevenly over workers therefore see somewhat less than the limit.
//! Identities are remembered up to [`CLIENTS_MAX`]; beyond that, those that have used nothing for a
//! second are forgotten, and if that does not help, further clients share one bucket.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use hauberk_model::WorkloadId;
use hauberk_model::rate_limit::RateLimit;
use tokio::time::Instant;

/// Client identities remembered at a time.
pub const CLIENTS_MAX: usize = 10_000;

/// Which limit refused a request. The text is the value of the metric label `ratelimit_scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The one for all clients together.
    Total,
    /// The one for this client.
    Identity,
}

impl Scope {
    /// Value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Total => "total",
            Scope::Identity => "identity",
        }
    }
}

/// The limits of one server on one worker.
#[derive(Debug)]
pub struct Limiter {
    total: Option<Bucket>,
    identity: Option<Rate>,
    overrides: Vec<(Vec<WorkloadId>, Rate)>,
    clients: RefCell<HashMap<Option<WorkloadId>, Bucket>>,
    /// When a line was last logged about a refusal.
    said: Cell<Option<Instant>>,
    crowd: RefCell<HashMap<u64, Bucket>>,
}

/// Requests per second, as the time one request takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    step: Duration,
}

/// When the requests let through so far will have been paid for.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    paid_at: Cell<Option<Instant>>,
}

impl Limiter {
    /// Limits as the policy gives them, for one of `workers`.
    pub fn new(limit: &RateLimit, workers: usize) -> Self {
        let rate = |per_second: u32| Rate::new(per_second, workers);
        let overrides = limit.overrides.iter();
        Self {
            total: limit.total.map(|n| Bucket::new(rate(n))),
            identity: limit.identity.map(rate),
            overrides: overrides
                .map(|o| (o.clients.clone(), rate(o.requests_per_second)))
                .collect(),
            clients: RefCell::default(),
            said: Cell::default(),
            crowd: RefCell::default(),
        }
    }

    /// Whether a refusal is to be logged: one a second is.
    pub fn is_worth_a_line(&self, now: Instant) -> bool {
        let is_due = self.said.get().is_none_or(|said| now >= said + Duration::from_secs(1));
        if is_due {
            self.said.set(Some(now));
        }
        is_due
    }

    /// Lets a request of `client` through, or names the limit that does not.
    pub fn admit(&self, client: Option<&WorkloadId>, now: Instant) -> Result<(), Scope> {
        if let Some(total) = &self.total
            && !total.admit(now)
        {
            return Err(Scope::Total);
        }
        let named = client.and_then(|id| self.overrides.iter().find(|(ids, _)| ids.contains(id)));
        let Some(rate) = named.map(|(_, rate)| *rate).or(self.identity) else { return Ok(()) };
        let mut clients = self.clients.borrow_mut();
        let key = client.cloned();
        if !clients.contains_key(&key) && clients.len() >= CLIENTS_MAX {
            clients.retain(|_, bucket| !bucket.is_full(now));
        }
        let admitted = if clients.contains_key(&key) || clients.len() < CLIENTS_MAX {
            clients.entry(key).or_insert_with(|| Bucket::new(rate)).admit(now)
        } else {
            let mut crowd = self.crowd.borrow_mut();
            let step = rate.step.as_nanos() as u64;
            crowd.entry(step).or_insert_with(|| Bucket::new(rate)).admit(now)
        };
        if admitted { Ok(()) } else { Err(Scope::Identity) }
    }
}

impl Rate {
    fn new(per_second: u32, workers: usize) -> Self {
        let share = u64::from(per_second).div_ceil(workers.max(1) as u64).max(1);
        Self { step: Duration::from_nanos(1_000_000_000 / share) }
    }
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, paid_at: Cell::new(None) }
    }

    fn admit(&self, now: Instant) -> bool {
        let begins = self.paid_at.get().map_or(now, |at| at.max(now));
        let paid_at = begins + self.rate.step;
        let fits = paid_at.saturating_duration_since(now) <= Duration::from_secs(1);
        if fits {
            self.paid_at.set(Some(paid_at));
        }
        fits
    }

    /// Nothing is owed any more.
    fn is_full(&self, now: Instant) -> bool {
        self.paid_at.get().is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_model::Meta;
    use hauberk_model::rate_limit::RateLimitOverride;

    fn limit(total: Option<u32>, identity: Option<u32>) -> RateLimit {
        RateLimit { meta: Meta::default("test"), total, identity, overrides: Vec::new() }
    }

    fn admitted(
        limiter: &Limiter,
        client: Option<&WorkloadId>,
        now: Instant,
        tries: usize,
    ) -> usize {
        (0..tries).filter(|_| limiter.admit(client, now).is_ok()).count()
    }

    #[test]
    fn lets_a_second_worth_through_and_then_the_rate() {
        let limiter = Limiter::new(&limit(Some(10), None), 1);
        let now = Instant::now();
        assert_eq!(admitted(&limiter, None, now, 50), 10);
        assert_eq!(limiter.admit(None, now), Err(Scope::Total));
        assert_eq!(admitted(&limiter, None, now + Duration::from_millis(500), 50), 5);
        assert_eq!(admitted(&limiter, None, now + Duration::from_secs(60), 50), 10);
    }

    #[test]
    fn clients_have_buckets_of_their_own() {
        let web: WorkloadId = "web.ns".parse().unwrap();
        let vip: WorkloadId = "vip.ns".parse().unwrap();
        let mut limit = limit(None, Some(2));
        limit
            .overrides
            .push(RateLimitOverride { requests_per_second: 5, clients: vec![vip.clone()] });
        let limiter = Limiter::new(&limit, 1);
        let now = Instant::now();
        assert_eq!(admitted(&limiter, Some(&web), now, 9), 2);
        assert_eq!(limiter.admit(Some(&web), now), Err(Scope::Identity));
        assert_eq!(admitted(&limiter, None, now, 9), 2);
        assert_eq!(admitted(&limiter, Some(&vip), now, 9), 5);
    }

    #[test]
    fn workers_share() {
        let limiter = Limiter::new(&limit(Some(10), None), 4);
        assert_eq!(admitted(&limiter, None, Instant::now(), 50), 3);
    }
}
