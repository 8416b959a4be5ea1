//! How many retries are allowed in proportion to requests.
//!
//! One per route rule, or per service profile, and worker. Pure: the time is an argument. Each request
//! deposits a share, each retry takes a whole one; both are forgotten after the budget's time, and
//! a reserve (so many per second) is always there, so that quiet routes may retry at all. When a
//! whole service fails, retries add at most the ratio to its load instead of multiplying it.
//!
//! The window moves in tenths. Cost: one look at the time; memory 64 bytes.

use std::time::Duration;

use hauberk_model::retry::RetryBudget;
use tokio::time::Instant;

const SLOTS: usize = 10;

/// What is left of a budget.
#[derive(Debug)]
pub struct Budget {
    ratio: f32,
    reserve: f32,
    slot_time: Duration,
    /// Deposits less withdrawals, by the tenth of the window they fell into.
    slots: [f32; SLOTS],
    current: usize,
    began: Instant,
}

impl Budget {
    /// A budget of which nothing has been used.
    pub fn new(settings: RetryBudget, now: Instant) -> Self {
        let reserve = settings.min_retries_per_second as f32 * settings.ttl.as_secs_f32();
        Self {
            ratio: settings.retry_ratio,
            reserve,
            slot_time: settings.ttl.max(Duration::from_millis(10)) / SLOTS as u32,
            slots: [0.0; SLOTS],
            current: 0,
            began: now,
        }
    }

    /// A request came.
    pub fn deposit(&mut self, now: Instant) {
        self.advance(now);
        self.slots[self.current] += self.ratio;
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.advance(now);
        let left = self.reserve + self.slots.iter().sum::<f32>();
        let is_enough = left >= 1.0;
        if is_enough {
            self.slots[self.current] -= 1.0;
        }
        is_enough
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        let steps = elapsed.as_nanos() / self.slot_time.as_nanos();
        let steps = usize::try_from(steps).unwrap_or(usize::MAX);
        if steps == 0 {
            return;
        }
        if steps >= SLOTS {
            self.slots = [0.0; SLOTS];
            self.began = now;
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = 0.0;
        }
        self.began += self.slot_time * steps as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(ratio: f32, min: u32, now: Instant) -> Budget {
        let ttl = Duration::from_secs(10);
        Budget::new(RetryBudget { retry_ratio: ratio, min_retries_per_second: min, ttl }, now)
    }

    fn withdrawals(budget: &mut Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn requests_pay_for_retries() {
        let now = Instant::now();
        let mut budget = budget(0.5, 0, now);
        assert_eq!(withdrawals(&mut budget, now), 0);
        for _ in 0..10 {
            budget.deposit(now);
        }
        assert_eq!(withdrawals(&mut budget, now), 5);
    }

    #[test]
    fn a_reserve_comes_back_with_time() {
        let now = Instant::now();
        let mut budget = budget(0.2, 2, now);
        assert_eq!(withdrawals(&mut budget, now), 20);
        assert_eq!(withdrawals(&mut budget, now + Duration::from_secs(5)), 0);
        assert_eq!(withdrawals(&mut budget, now + Duration::from_secs(11)), 20);
    }

    #[test]
    fn requests_are_forgotten() {
        let now = Instant::now();
        let mut budget = budget(1.0, 0, now);
        for _ in 0..10 {
            budget.deposit(now);
        }
        assert_eq!(withdrawals(&mut budget, now + Duration::from_secs(11)), 0);
        // More than one retry per request is legal.
        let mut generous = self::budget(3.0, 0, now);
        generous.deposit(now);
        assert_eq!(withdrawals(&mut generous, now), 3);
    }
}
