//! Whether a request is tried again: the rules of a route, and the course of one request.
//!
//! Called by the outbound request path after each attempt. Pure: time and randomness are
//! arguments. The rules are those of linkerd2-proxy v2 with two additions: a retry also needs a
//! place in the rule's [`Budget`], and a connection that failed is tried again where the response
//! that would be made up for it is (502, or gRPC code 14).

use std::ops::RangeInclusive;
use std::time::Duration;

use hauberk_model::backoff::Backoff;
use hauberk_model::retry::{GrpcConditions, HttpConditions, Retry, RetryBudget};
use tokio::time::Instant;

use super::budget::Budget;

/// The rules of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Most attempts after the first one.
    pub max_retries: u16,
    /// Largest request body kept for another attempt, in bytes.
    pub max_request_bytes: usize,
    /// HTTP statuses that are tried again.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// gRPC codes that are tried again.
    pub codes: GrpcConditions,
    /// Longest wait for the response's head of an attempt that is not the last.
    pub timeout: Option<Duration>,
    /// Wait before another attempt.
    pub backoff: Option<Backoff>,
    /// Who decides.
    pub by: By,
}

/// By what a response is held to have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Its status or code, which the rules name. Requests pay into the budget when they come.
    Conditions,
    /// Its class. Requests pay into the budget when they succeed (service profiles).
    Class,
}

impl Default for Rules {
    /// What a request's own headers stand on when its route has no rules (linkerd2-proxy v2).
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            max_retries: 1,
            max_request_bytes: 64 * 1024,
            statuses: Vec::new(),
            codes: GrpcConditions::default(),
            timeout: None,
            backoff: Some(Backoff::new(ms(25), ms(250), 1.0).expect("25 ms are below 250 ms")),
            by: By::Conditions,
        }
    }
}

/// Conditions of either protocol.
pub trait Conditions {
    /// Statuses and codes.
    fn parts(&self) -> (Vec<RangeInclusive<u16>>, GrpcConditions);
}

impl Conditions for HttpConditions {
    fn parts(&self) -> (Vec<RangeInclusive<u16>>, GrpcConditions) {
        (self.0.clone(), GrpcConditions::default())
    }
}

impl Conditions for GrpcConditions {
    fn parts(&self) -> (Vec<RangeInclusive<u16>>, GrpcConditions) {
        (Vec::new(), *self)
    }
}

impl<C: Conditions> From<&Retry<C>> for Rules {
    fn from(retry: &Retry<C>) -> Self {
        let (statuses, codes) = retry.conditions.parts();
        Self {
            max_retries: retry.max_retries,
            max_request_bytes: retry.max_request_bytes,
            statuses,
            codes,
            timeout: retry.timeout,
            backoff: retry.backoff,
            by: By::Conditions,
        }
    }
}

impl Rules {
    /// Those of a service profile's routes: at once, as often as the budget allows.
    pub fn of_profile() -> Self {
        Self { max_retries: u16::MAX, backoff: None, by: By::Class, ..Self::default() }
    }

    /// Whether a response is tried again.
    pub fn wants(&self, status: u16, code: Option<u16>) -> bool {
        self.statuses.iter().any(|range| range.contains(&status))
            || code.is_some_and(|code| self.codes.contains(u32::from(code)))
    }

    /// Whether codes matter, which may stand in the trailers.
    pub fn has_codes(&self) -> bool {
        self.by == By::Class || self.codes != GrpcConditions::default()
    }
}

/// What bounds retries of a rule that says nothing about it: ten per second over ten seconds, and
/// one for each request. Twice the load at most when everything fails, however high its limit is.
pub const BUDGET: RetryBudget =
    RetryBudget { retry_ratio: 1.0, min_retries_per_second: 10, ttl: Duration::from_secs(10) };

/// How far one request has come.
#[derive(Debug, Default)]
pub struct Course {
    /// Retries begun.
    pub done: u16,
}

/// What happens with the result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, after so long.
    Again(Duration),
    /// It is the answer.
    Deliver(Why),
}

/// Why a result is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not one to be tried again.
    Final,
    /// It is, but the limit of the rule is reached.
    Limit,
    /// It is, but the budget is used up.
    Budget,
    /// It is, but the request cannot be repeated, or not in time.
    Unrepeatable,
}

/// An attempt's result as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Result {
    /// The rules want another attempt.
    pub is_wanted: bool,
    /// Nothing of the request is lost.
    pub is_repeatable: bool,
}

impl Course {
    /// Whether the rules allow another attempt after the one that begins.
    pub fn may_repeat(&self, rules: &Rules) -> bool {
        self.done < rules.max_retries
    }

    /// Decides. `deadline` is that of the whole request; `random` is uniform in 0 to 1.
    pub fn next(
        &mut self,
        rules: &Rules,
        result: Result,
        budget: &mut Budget,
        (now, deadline): (Instant, Option<Instant>),
        random: f32,
    ) -> Next {
        if !result.is_wanted {
            return Next::Deliver(Why::Final);
        }
        if !result.is_repeatable {
            return Next::Deliver(Why::Unrepeatable);
        }
        if !self.may_repeat(rules) {
            return Next::Deliver(Why::Limit);
        }
        let wait = |backoff: Backoff| backoff.delay(u32::from(self.done), random);
        let wait = rules.backoff.map_or(Duration::ZERO, wait);
        // What is known now is worth more to the client than the end of its time.
        if deadline.is_some_and(|deadline| now + wait >= deadline) {
            return Next::Deliver(Why::Unrepeatable);
        }
        if !budget.withdraw(now) {
            return Next::Deliver(Why::Budget);
        }
        self.done += 1;
        Next::Again(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Result = Result { is_wanted: true, is_repeatable: true };

    fn rules(max_retries: u16) -> Rules {
        Rules { max_retries, statuses: vec![500..=599], ..Rules::default() }
    }

    #[test]
    fn statuses_and_codes_are_looked_at() {
        let codes = GrpcConditions { unavailable: true, ..GrpcConditions::default() };
        let rules = Rules { codes, ..rules(1) };
        assert!(rules.wants(503, None) && rules.wants(200, Some(14)) && rules.has_codes());
        assert!(!rules.wants(404, None) && !rules.wants(200, Some(13)) && !rules.wants(200, None));
    }

    #[test]
    fn tries_again_up_to_the_limit_with_growing_pauses() {
        let now = Instant::now();
        let mut budget = Budget::new(BUDGET, now);
        let mut course = Course::default();
        let ms = Duration::from_millis;
        let mut next = |result| course.next(&rules(2), result, &mut budget, (now, None), 0.0);
        assert_eq!(next(BAD), Next::Again(ms(25)));
        assert_eq!(next(BAD), Next::Again(ms(50)));
        assert_eq!(next(BAD), Next::Deliver(Why::Limit));
        let good = Result { is_wanted: false, ..BAD };
        assert_eq!(next(good), Next::Deliver(Why::Final));
    }

    #[test]
    fn neither_what_is_lost_nor_what_comes_too_late_is_tried_again() {
        let now = Instant::now();
        let mut budget = Budget::new(BUDGET, now);
        let mut course = Course::default();
        let lost = Result { is_repeatable: false, ..BAD };
        let next = course.next(&rules(2), lost, &mut budget, (now, None), 0.0);
        assert_eq!(next, Next::Deliver(Why::Unrepeatable));
        let soon = Some(now + Duration::from_millis(10));
        let next = course.next(&rules(2), BAD, &mut budget, (now, soon), 0.0);
        assert_eq!((next, course.done), (Next::Deliver(Why::Unrepeatable), 0));
    }

    #[test]
    fn the_budget_bounds_all_requests_together() {
        let now = Instant::now();
        let mut budget = Budget::new(BUDGET, now);
        let mut retried = 0;
        for _ in 0..50 {
            budget.deposit(now);
            let mut course = Course::default();
            while let Next::Again(_) = course.next(&rules(10), BAD, &mut budget, (now, None), 0.0) {
                retried += 1;
            }
        }
        assert_eq!(retried, 150, "a reserve of 100 and one for each request");
    }
}
