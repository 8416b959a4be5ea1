//! The share of successes over the last while, for circuit breakers.
//!
//! Ten buckets that move with time; what is older than the window is forgotten a tenth at a time.
//! Pure: the time is an argument. Cost of a record: one look at the time and one addition.

use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: usize = 10;
/// Shortest window; shorter ones would hold no request (linkerd2-proxy v2).
const WINDOW_MIN: Duration = Duration::from_millis(10);

/// Successes and failures of the last while.
#[derive(Clone, Debug)]
pub struct Window {
    buckets: [Counts; BUCKETS],
    bucket_time: Duration,
    current: usize,
    began: Instant,
}

/// How many went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went well.
    pub successes: u32,
    /// Did not.
    pub failures: u32,
}

impl Counts {
    /// All together.
    pub fn total(self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// The share that went well, 0 to 1; 1 if there was nothing.
    pub fn success_rate(self) -> f64 {
        match self.total() {
            0 => 1.0,
            total => f64::from(self.successes) / f64::from(total),
        }
    }
}

impl Window {
    /// An empty window of that length.
    pub fn new(length: Duration, now: Instant) -> Self {
        let bucket_time = length.max(WINDOW_MIN) / BUCKETS as u32;
        Self { buckets: Default::default(), bucket_time, current: 0, began: now }
    }

    /// Records one, and gives the counts of the window with it.
    pub fn record(&mut self, is_success: bool, now: Instant) -> Counts {
        self.advance(now);
        let bucket = &mut self.buckets[self.current];
        let count = if is_success { &mut bucket.successes } else { &mut bucket.failures };
        *count = count.saturating_add(1);
        let add = |sum: Counts, bucket: &Counts| Counts {
            successes: sum.successes.saturating_add(bucket.successes),
            failures: sum.failures.saturating_add(bucket.failures),
        };
        self.buckets.iter().fold(Counts::default(), add)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets = Default::default();
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        let steps = elapsed.as_nanos() / self.bucket_time.as_nanos();
        if steps >= BUCKETS as u128 {
            self.clear();
            self.began = now;
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % BUCKETS;
            self.buckets[self.current] = Counts::default();
            self.began += self.bucket_time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_lies_within() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = Window::new(10 * second, start);
        window.record(false, start);
        let counts = window.record(true, start + 5 * second);
        assert_eq!(counts, Counts { successes: 1, failures: 1 });
        assert_eq!(counts.success_rate(), 0.5);
        let counts = window.record(true, start + 11 * second);
        assert_eq!(counts, Counts { successes: 2, failures: 0 }, "the failure is forgotten");
        let counts = window.record(false, start + 100 * second);
        assert_eq!(counts, Counts { successes: 0, failures: 1 }, "silence clears it");
    }
}
