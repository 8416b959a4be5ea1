//! When an endpoint that keeps failing is left alone, and how it comes back.
//!
//! Fed by leases (one outcome per request), asked by the balancer at each pick. Pure: time and
//! randomness are arguments. Parameters come from the policy
//! ([`hauberk_model::failure_accrual`]); states and rules are those of linkerd2-proxy v2:
//!
//! - *open*: requests flow. So many failures in a row, and it shuts; one success begins anew. With
//!   the unified kind also when too few of the last while's requests went well. "Too busy" (429,
//!   gRPC code 8) ends a row of failures and counts against the share.
//! - *shut*: no request until the back-off is over, or until the endpoint's own `Retry-After` where
//!   that is honoured. What still arrives from before is ignored.
//! - *probation*: exactly one request at a time. Its success opens and forgets the past, its failure
//!   shuts again with the next longer back-off; given up without an answer, another request may probe. "Too busy" is
//!   a failure of the probe for the unified kind.
//!
//! Not here: how many endpoints may be shut at once; the caller says whether this one may.

use std::time::Duration;

use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use tokio::time::Instant;

use super::window::Window;

/// How a request ended, as far as the health of its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint did what it should.
    Success,
    /// The endpoint is well, and refused because there is too much.
    Limited,
    /// The endpoint failed.
    Failure,
}

/// How a request ended, with what else the breaker wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Well or not.
    pub outcome: Outcome,
    /// What [`Breaker::begin`] said about it.
    pub probe: bool,
    /// How long the endpoint wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// Longest `Retry-After` that is believed; beyond it an endpoint would have to be removed to be
/// replaced.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What trips the breaker.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Failures in a row; 0 is never.
    max_failures: u32,
    rate: Option<Rate>,
    backoff: Backoff,
    /// A busy endpoint fails its probe.
    is_strict: bool,
    honors_retry_after: bool,
}

/// A share of successes that is too low.
#[derive(Clone, Copy, Debug)]
struct Rate {
    threshold: f64,
    min_requests: u32,
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
    /// Boxed, since few policies ask for it and every endpoint has a breaker.
    window: Option<Box<Window>>,
}

impl Breaker {
    /// A breaker that is open; without parameters it never shuts.
    pub fn new(accrual: Option<&FailureAccrual>, now: Instant) -> Self {
        let mut window = None;
        let rule = accrual.map(|accrual| match accrual.kind {
            FailureAccrualKind::Consecutive { max_failures, backoff } => Rule {
                max_failures,
                rate: None,
                backoff,
                is_strict: false,
                honors_retry_after: false,
            },
            FailureAccrualKind::Unified {
                max_consecutive,
                success_rate_threshold,
                window: length,
                min_requests,
                backoff,
                honor_retry_after,
            } => {
                let rate = Rate { threshold: success_rate_threshold, min_requests };
                let rate = (success_rate_threshold > 0.0).then_some(rate);
                window = rate.map(|_| Box::new(Window::new(length, now)));
                Rule {
                    max_failures: max_consecutive,
                    rate,
                    backoff,
                    is_strict: true,
                    honors_retry_after: honor_retry_after,
                }
            }
        });
        Self { rule, state: State::Open { failures: 0 }, window }
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

    /// A request has ended. `may_shut` is false while too few other endpoints are left; `random` is
    /// uniform in 0 to 1. Returns whether the breaker's availability changed.
    pub fn end(
        &mut self,
        ended: Ended,
        may_shut: impl FnOnce() -> bool,
        now: Instant,
        random: f32,
    ) -> bool {
        let Some(rule) = self.rule else { return false };
        let shut = |trips: u32| {
            let asked = ended.retry_after.filter(|_| rule.honors_retry_after);
            let asked = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
            State::Shut { until: now + rule.backoff.delay(trips, random).max(asked), trips }
        };
        let probe_fails = match ended.outcome {
            Outcome::Success => false,
            Outcome::Limited => rule.is_strict,
            Outcome::Failure => true,
        };
        let next = match self.state {
            State::Open { failures } => {
                let failures = match ended.outcome {
                    Outcome::Failure => failures.saturating_add(1),
                    Outcome::Success | Outcome::Limited => 0,
                };
                let in_a_row = rule.max_failures > 0 && failures >= rule.max_failures;
                // Recorded in any case; the row is looked at first.
                let too_few = self.is_rate_low(rule, ended.outcome, now);
                let is_bad = ended.outcome != Outcome::Success;
                if is_bad && (in_a_row || too_few) && may_shut() {
                    shut(0)
                } else {
                    State::Open { failures }
                }
            }
            State::Probation { trips, .. } if ended.probe && probe_fails => shut(trips + 1),
            State::Probation { .. } if ended.probe => {
                if let Some(window) = &mut self.window {
                    window.clear();
                }
                State::Open { failures: 0 }
            }
            State::Shut { .. } | State::Probation { .. } => return false,
        };
        let changed = std::mem::discriminant(&next) != std::mem::discriminant(&self.state);
        self.state = next;
        changed
    }

    fn is_rate_low(&mut self, rule: Rule, outcome: Outcome, now: Instant) -> bool {
        let (Some(rate), Some(window)) = (rule.rate, &mut self.window) else { return false };
        let counts = window.record(outcome == Outcome::Success, now);
        counts.total() >= rate.min_requests && counts.success_rate() < rate.threshold
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
        Breaker::new(Some(&FailureAccrual { kind, min_ready_endpoints: 0 }), Instant::now())
    }

    fn end(breaker: &mut Breaker, outcome: Outcome, probe: bool, now: Instant) -> bool {
        breaker.end(Ended { outcome, probe, retry_after: None }, || true, now, 0.0)
    }

    fn fail(breaker: &mut Breaker, now: Instant) {
        let probe = breaker.begin(now);
        end(breaker, Outcome::Failure, probe, now);
    }

    fn succeed(breaker: &mut Breaker, now: Instant) {
        let probe = breaker.begin(now);
        end(breaker, Outcome::Success, probe, now);
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
        assert!(!end(&mut breaker, Outcome::Success, false, now), "a straggler decides nothing");
        assert!(!breaker.is_available(now));
        end(&mut breaker, Outcome::Failure, true, now);
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
        assert!(!end(&mut breaker, Outcome::Success, false, now));
        assert!(!breaker.is_available(now));
    }

    #[test]
    fn stays_open_while_it_may_not_shut_and_without_parameters() {
        let now = Instant::now();
        let mut kept = breaker(1);
        for _ in 0..5 {
            let ended = Ended { outcome: Outcome::Failure, probe: false, retry_after: None };
            kept.end(ended, || false, now, 0.0);
        }
        assert!(kept.is_open());
        let mut never = Breaker::new(None, now);
        for _ in 0..100 {
            fail(&mut never, now);
        }
        assert!(never.is_open());
    }

    fn unified(max_consecutive: u32, threshold: f64, honor_retry_after: bool) -> Breaker {
        let kind = FailureAccrualKind::Unified {
            max_consecutive,
            success_rate_threshold: threshold,
            window: 10 * SECOND,
            min_requests: 10,
            backoff: Backoff::new(SECOND, 60 * SECOND, 0.0).unwrap(),
            honor_retry_after,
        };
        let accrual = FailureAccrual { kind, min_ready_endpoints: 0 };
        Breaker::new(Some(&accrual), Instant::now())
    }

    #[test]
    fn shuts_when_too_few_of_the_window_went_well() {
        let now = Instant::now();
        let mut breaker = unified(0, 0.5, false);
        for _ in 0..4 {
            fail(&mut breaker, now);
            succeed(&mut breaker, now);
        }
        fail(&mut breaker, now);
        assert!(breaker.is_open(), "nine requests are too few to judge");
        fail(&mut breaker, now);
        assert!(!breaker.is_open());
        // The probe's success forgets the window: one failure alone does not shut it again.
        let later = now + SECOND;
        succeed(&mut breaker, later);
        fail(&mut breaker, later);
        assert!(breaker.is_open());
    }

    #[test]
    fn old_failures_are_forgotten() {
        let now = Instant::now();
        let mut breaker = unified(0, 0.5, false);
        for _ in 0..9 {
            fail(&mut breaker, now);
        }
        for _ in 0..9 {
            fail(&mut breaker, now + 20 * SECOND);
        }
        assert!(breaker.is_open());
    }

    #[test]
    fn busy_ends_a_row_but_lowers_the_share_and_fails_a_strict_probe() {
        let now = Instant::now();
        let mut row = unified(2, 0.0, false);
        for _ in 0..9 {
            fail(&mut row, now);
            end(&mut row, Outcome::Limited, false, now);
        }
        assert!(row.is_open(), "never two in a row");
        let mut share = unified(0, 0.5, false);
        for _ in 0..10 {
            end(&mut share, Outcome::Limited, false, now);
        }
        assert!(!share.is_open());
        let probe = share.begin(now + SECOND);
        end(&mut share, Outcome::Limited, probe, now + SECOND);
        assert_eq!(share.available_at(), Some(now + 3 * SECOND), "strict");
        let mut lenient = self::breaker(1);
        fail(&mut lenient, now);
        let probe = lenient.begin(now + SECOND);
        end(&mut lenient, Outcome::Limited, probe, now + SECOND);
        assert!(lenient.is_open());
    }

    #[test]
    fn both_switched_off_never_shut() {
        let now = Instant::now();
        let mut off = unified(0, 0.0, true);
        for _ in 0..100 {
            fail(&mut off, now);
        }
        assert!(off.is_open());
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time() {
        let check = |honors, asked: u64, expect: u64| {
            let now = Instant::now();
            let mut breaker = unified(1, 0.0, honors);
            let retry_after = Some(Duration::from_secs(asked));
            let ended = Ended { outcome: Outcome::Failure, probe: false, retry_after };
            breaker.end(ended, || true, now, 0.0);
            assert_eq!(breaker.available_at(), Some(now + Duration::from_secs(expect)));
        };
        check(false, 20, 1);
        check(true, 20, 20);
        check(true, 0, 1);
        check(true, 100_000, 300);
    }
}
