//! When to ask for the next certificate.
//!
//! As linkerd2-proxy does: after 70 % of the time that is left, within bounds. The same rule holds
//! after a failure: with much time left it waits accordingly, with none it asks again after the
//! lower bound. There is no jitter, because leaves are issued when pods start, and those starts
//! are already spread.

use std::time::{Duration, SystemTime};

/// The share of the remaining life after which to renew, in percent.
const REMAINING_PERCENT: u32 = 70;

/// Bounds of the wait between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `LINKERD2_PROXY_IDENTITY_MIN_REFRESH`.
    pub min: Duration,
    /// `LINKERD2_PROXY_IDENTITY_MAX_REFRESH`.
    pub max: Duration,
}

impl Default for Bounds {
    /// 10 seconds and a day, the defaults of linkerd2-proxy.
    fn default() -> Self {
        Self { min: Duration::from_secs(10), max: Duration::from_secs(24 * 60 * 60) }
    }
}

/// How long to wait before the next attempt, given the end of the certificate held now. If the
/// bounds contradict each other, the lower one wins.
pub fn wait(now: SystemTime, expires: Option<SystemTime>, bounds: Bounds) -> Duration {
    let left = expires.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
    let wait = left / 100 * REMAINING_PERCENT;
    wait.min(bounds.max).max(bounds.min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_secs(3600);

    fn check(left: Option<Duration>, expect: Duration) {
        let now = UNIX_EPOCH + HOUR;
        assert_eq!(wait(now, left.map(|left| now + left), Bounds::default()), expect, "{left:?}");
    }

    #[test]
    fn renews_after_seventy_percent_of_what_is_left() {
        check(Some(24 * HOUR), Duration::from_secs(60_480));
        check(Some(10 * HOUR), 7 * HOUR);
        check(Some(100 * HOUR), 24 * HOUR);
        check(Some(Duration::from_secs(5)), Duration::from_secs(10));
        check(None, Duration::from_secs(10));
        let now = UNIX_EPOCH + HOUR;
        assert_eq!(wait(now, Some(UNIX_EPOCH), Bounds::default()), Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn stays_within_bounds_and_renews_in_time(left in 0_u64..1_000_000, min in 0_u64..100, more in 0_u64..100_000) {
            let bounds = Bounds { min: Duration::from_secs(min), max: Duration::from_secs(min + more) };
            let now = UNIX_EPOCH + HOUR;
            let wait = wait(now, Some(now + Duration::from_secs(left)), bounds);
            prop_assert!(wait >= bounds.min && wait <= bounds.max);
            prop_assert!(wait <= Duration::from_secs(left).max(bounds.min));
        }
    }
}
