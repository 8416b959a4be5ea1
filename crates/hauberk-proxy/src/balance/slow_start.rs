//! The share that a new endpoint gets while its caches are cold.
//!
//! Asked by the balancer only while an endpoint is new, where slow start is on. Pure. The share
//! grows evenly with the endpoint's age, from a tenth, so that it has something to warm up with, to
//! the full one (Envoy's slow start with an aggression of 1 has the same line and the same tenth).
//!
//! New is an endpoint that joins others. Those of the first set are not, since nobody knows how
//! long they have been there, and when all are new there is nobody to spare them.

use std::time::Duration;

/// What a new endpoint gets at once.
const SHARE_MIN: f64 = 0.1;

/// The part of its full share that an endpoint gets at that age, 0.1 to 1.
pub fn share(age: Duration, window: Duration) -> f64 {
    if age >= window {
        return 1.0;
    }
    (age.as_secs_f64() / window.as_secs_f64()).max(SHARE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all() {
        let second = Duration::from_secs(1);
        let check = |age, expect: f64| {
            let share = share(age, 10 * second);
            assert!((share - expect).abs() < 1e-9, "{age:?}: {share} instead of {expect}");
        };
        check(Duration::ZERO, 0.1);
        check(second, 0.1);
        check(4 * second, 0.4);
        check(10 * second, 1.0);
        check(Duration::MAX, 1.0);
        assert_eq!(super::share(Duration::ZERO, Duration::ZERO), 1.0);
    }
}
