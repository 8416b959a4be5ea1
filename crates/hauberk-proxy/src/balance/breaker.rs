//! When an endpoint that keeps failing is left alone, and how it comes back.
//!
//! Fed by leases (one outcome per request), asked by the balancer at each pick. Pure: time and
//! randomness are arguments. Parameters come from the policy
//! ([`hauberk_model::failure_accrual`]); states and rules are those of linkerd2-proxy v2:
//!
//! - *open*: requests flow. So many failures in a row, and it shuts; one success begins anew.
//! - *shut*: no request until the back-off is over. What still arrives from before is ignored.
//! - *probation*: exactly one request at a time. Its success opens, its failure shuts again with
//!   the next longer back-off; given up without an answer, another request may probe.
//!
//! Only failures in a row are judged here; a share of successes over a window is not.

use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use tokio::time::Instant;

/// How a request ended, as far as the health of its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint did what it should.
    Success,
    /// The endpoint failed.
    Failure,
}

/// What trips the breaker.
#[derive(Clone, Copy, Debug)]
struct Rule {
    max_failures: u32,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open { failures: u32 },
    Shut { until: Instant, trips: u32 },
    Probation { trips: u32, probing: bool },
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    rule: Option<Rule>,
    state: State,
}

impl Breaker {
    /// A breaker that is open; without parameters it never shuts.
    pub fn new(accrual: Option<&FailureAccrual>) -> Self {
        let rule = accrual.and_then(|accrual| match &accrual.kind {
            FailureAccrualKind::Consecutive { max_failures, backoff } => {
                Some(Rule { max_failures: *max_failures, backoff: *backoff })
            }
            FailureAccrualKind::Unified { max_consecutive: 0, .. } => None,
            FailureAccrualKind::Unified { max_consecutive, backoff, .. } => {
                Some(Rule { max_failures: *max_consecutive, backoff: *backoff })
            }
        });
        Self { rule, state: State::Open { failures: 0 } }
    }

    /// Whether a request may be sent now.
    pub fn is_available(&self, now: Instant) -> bool {
        match self.state {
            State::Open { .. } => true,
            State::Shut { until, .. } => until <= now,
            State::Probation { probing, .. } => !probing,
        }
    }

    /// When a shut breaker lets the next probe pass, if that is known.
    pub fn available_at(&self) -> Option<Instant> {
        match self.state {
            State::Shut { until, .. } => Some(until),
            State::Open { .. } | State::Probation { .. } => None,
        }
    }

    /// Whether requests flow without restriction.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// A request is being sent; true if it is the probe that decides.
    pub fn begin(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { .. } => false,
            State::Shut { until, trips } if until <= now => {
                self.state = State::Probation { trips, probing: true };
                true
            }
            State::Probation { trips, probing: false } => {
                self.state = State::Probation { trips, probing: true };
                true
            }
            // The balancer asks `is_available` first; a request sent nevertheless decides nothing.
            State::Shut { .. } | State::Probation { probing: true, .. } => false,
        }
    }

    /// A request has ended. `probe` is what [`Breaker::begin`] said about it; `may_shut` is false
    /// while too few other endpoints are left; `random` is uniform in 0 to 1. Returns whether the
    /// breaker's availability changed.
    pub fn end(
        &mut self,
        outcome: Outcome,
        probe: bool,
        may_shut: impl FnOnce() -> bool,
        now: Instant,
        random: f32,
    ) -> bool {
        let Some(rule) = self.rule else { return false };
        let shut =
            |trips: u32| State::Shut { until: now + rule.backoff.delay(trips, random), trips };
        let next = match (self.state, outcome, probe) {
            (State::Open { .. }, Outcome::Success, _) => State::Open { failures: 0 },
            (State::Open { failures }, Outcome::Failure, _) => {
                let failures = failures.saturating_add(1);
                if failures >= rule.max_failures && may_shut() {
                    shut(0)
                } else {
                    State::Open { failures }
                }
            }
            (State::Probation { .. }, Outcome::Success, true) => State::Open { failures: 0 },
            (State::Probation { trips, .. }, Outcome::Failure, true) => shut(trips + 1),
            (State::Shut { .. } | State::Probation { .. }, _, _) => return false,
        };
        let changed = std::mem::discriminant(&next) != std::mem::discriminant(&self.state);
        self.state = next;
        changed
    }

    /// A probe was given up before anything was known; another one may pass.
    pub fn abandon(&mut self) {
        if let State::Probation { probing, .. } = &mut self.state {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(max_failures: u32) -> Breaker {
        let backoff = Backoff::new(SECOND, 60 * SECOND, 0.0).unwrap();
        let kind = FailureAccrualKind::Consecutive { max_failures, backoff };
        Breaker::new(Some(&FailureAccrual { kind, min_ready_endpoints: 0 }))
    }

    fn fail(breaker: &mut Breaker, now: Instant) {
        let probe = breaker.begin(now);
        breaker.end(Outcome::Failure, probe, || true, now, 0.0);
    }

    fn succeed(breaker: &mut Breaker, now: Instant) {
        let probe = breaker.begin(now);
        breaker.end(Outcome::Success, probe, || true, now, 0.0);
    }

    #[test]
    fn shuts_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = breaker(3);
        fail(&mut breaker, now);
        fail(&mut breaker, now);
        succeed(&mut breaker, now);
        fail(&mut breaker, now);
        fail(&mut breaker, now);
        assert!(breaker.is_available(now));
        fail(&mut breaker, now);
        assert!(!breaker.is_available(now));
        assert_eq!(breaker.available_at(), Some(now + SECOND));
    }

    #[test]
    fn lets_one_probe_pass_and_backs_off_further_when_it_fails() {
        let start = Instant::now();
        let mut breaker = breaker(1);
        fail(&mut breaker, start);
        let now = start + SECOND;
        assert!(breaker.is_available(now));
        assert!(breaker.begin(now), "the first one after the back-off is the probe");
        assert!(!breaker.is_available(now), "and nobody else passes");
        assert!(
            !breaker.end(Outcome::Success, false, || true, now, 0.0),
            "a straggler decides nothing"
        );
        assert!(!breaker.is_available(now));
        breaker.end(Outcome::Failure, true, || true, now, 0.0);
        assert_eq!(breaker.available_at(), Some(now + 2 * SECOND));
    }

    #[test]
    fn a_successful_probe_opens_and_resets_the_back_off() {
        let start = Instant::now();
        let mut breaker = breaker(1);
        fail(&mut breaker, start);
        fail(&mut breaker, start + SECOND);
        succeed(&mut breaker, start + 3 * SECOND);
        assert!(breaker.is_open());
        fail(&mut breaker, start + 4 * SECOND);
        assert_eq!(breaker.available_at(), Some(start + 5 * SECOND));
    }

    #[test]
    fn an_abandoned_probe_makes_room_for_another() {
        let start = Instant::now();
        let mut breaker = breaker(1);
        fail(&mut breaker, start);
        let now = start + SECOND;
        assert!(breaker.begin(now));
        breaker.abandon();
        assert!(breaker.is_available(now));
        assert!(breaker.begin(now));
    }

    #[test]
    fn what_ends_while_shut_is_ignored() {
        let now = Instant::now();
        let mut breaker = breaker(1);
        fail(&mut breaker, now);
        assert!(!breaker.end(Outcome::Success, false, || true, now, 0.0));
        assert!(!breaker.is_available(now));
    }

    #[test]
    fn stays_open_while_it_may_not_shut_and_without_parameters() {
        let now = Instant::now();
        let mut kept = breaker(1);
        for _ in 0..5 {
            kept.end(Outcome::Failure, false, || false, now, 0.0);
        }
        assert!(kept.is_open());
        let mut never = Breaker::new(None);
        for _ in 0..100 {
            fail(&mut never, now);
        }
        assert!(never.is_open());
    }
}
