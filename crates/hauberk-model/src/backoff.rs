//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off: the n-th wait is `min * 2^n`, plus a random share of it, at most `max`.
///
/// The same rule serves reconnecting, failure accrual and retries (as linkerd2-proxy does).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter_ratio: f32,
}

/// Why a back-off is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// The upper bound lies below the lower one.
    #[error("the maximum back-off must not be below the minimum")]
    Reversed,
    /// Waiting zero time for ever would spin.
    #[error("the maximum back-off must be above zero")]
    Zero,
    /// A share that is negative, above 100 or not a number.
    #[error("the jitter ratio must be between 0.0 and 100.0")]
    Jitter,
}

impl Backoff {
    /// A back-off between `min` and `max`, with a random addition of up to `jitter_ratio` times
    /// the wait.
    pub fn new(min: Duration, max: Duration, jitter_ratio: f32) -> Result<Self, InvalidBackoff> {
        if max.is_zero() {
            Err(InvalidBackoff::Zero)
        } else if min > max {
            Err(InvalidBackoff::Reversed)
        } else if !(0.0..=100.0).contains(&jitter_ratio) {
            Err(InvalidBackoff::Jitter)
        } else {
            Ok(Self { min, max, jitter_ratio })
        }
    }

    /// Shortest wait.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// Longest wait.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Largest random addition, as a share of the wait.
    pub fn jitter_ratio(&self) -> f32 {
        self.jitter_ratio
    }

    /// The wait before attempt `n` (0 is the first), with `random` drawn uniformly from 0 to 1.
    pub fn delay(&self, n: u32, random: f32) -> Duration {
        let base = self.min.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.max);
        let jitter = base.mul_f64(f64::from(self.jitter_ratio) * f64::from(random.clamp(0.0, 1.0)));
        base.saturating_add(jitter).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let ms = Duration::from_millis;
        let backoff = Backoff::new(ms(100), ms(1000), 0.5).expect("valid");
        let delays: Vec<_> = [0, 1, 2, 3, 4, 40].map(|n| backoff.delay(n, 0.0)).into();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(ms));
        assert_eq!(backoff.delay(0, 1.0), ms(150));
        assert_eq!(backoff.delay(9, 1.0), ms(1000));
    }

    #[test]
    fn refuses_impossible_bounds() {
        let s = Duration::from_secs;
        assert_eq!(Backoff::new(s(2), s(1), 0.0), Err(InvalidBackoff::Reversed));
        assert_eq!(Backoff::new(s(0), s(0), 0.0), Err(InvalidBackoff::Zero));
        assert_eq!(Backoff::new(s(1), s(1), f32::NAN), Err(InvalidBackoff::Jitter));
        assert_eq!(Backoff::new(s(1), s(1), -0.1), Err(InvalidBackoff::Jitter));
    }
}
