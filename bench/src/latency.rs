//! Percentiles of what was measured, exact: all values are kept and sorted.

use std::{fmt, time::Duration};

/// Sorted durations.
#[derive(Debug)]
pub(crate) struct Percentiles {
    sorted: Vec<Duration>,
}

impl Percentiles {
    /// Sorts them.
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self { sorted: durations }
    }

    /// The smallest value that this share of all values does not exceed; zero if there is none.
    pub(crate) fn at(&self, share: f64) -> Duration {
        let rank = (self.sorted.len() as f64 * share).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// As part of a result line, in microseconds.
impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            write!(f, "{name}={} ", self.at(share).as_micros())?;
        }
        write!(f, "max_us={}", self.at(1.0).as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted = Percentiles::new((1..=1_000).rev().map(Duration::from_micros).collect());
        assert_eq!(sorted.to_string(), "p50_us=500 p99_us=990 p999_us=999 max_us=1000");
        assert_eq!(Percentiles::new(Vec::new()).at(0.5), Duration::ZERO);
    }
}
