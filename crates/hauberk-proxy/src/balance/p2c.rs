//! Power of two choices: of two endpoints drawn at random, the less loaded one is used.
//!
//! Called by the balancer for each request or connection. Pure: randomness, availability and
//! load come in as arguments, so the laws (fairness, avoidance, never an unavailable endpoint)
//! are tested with a printed seed.
//!
//! Drawing two beats "least loaded of all" because workers that see stale numbers do not all run
//! to the same endpoint (Mitzenmacher 2001). Endpoint weights are not used, as in linkerd2-proxy
//! v2: zone preference is the control plane's business.
//!
//! Cost: when both draws are available, two draws and two cost readings, independent of the
//! number of endpoints. Only when one is unavailable the endpoints are scanned once.

use rand::Rng;

/// Chooses one of `count` endpoints, or `None` when none is available.
///
/// Equal costs go to the first draw; draws are uniform over the available endpoints.
pub fn pick(
    count: usize,
    rng: &mut impl Rng,
    available: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    match count {
        0 => None,
        1 => available(0).then_some(0),
        _ => {
            let (first, second) = draw(count, rng);
            if available(first) && available(second) {
                return Some(cheaper(first, second, &cost));
            }
            pick_among_available(count, rng, available, cost)
        }
    }
}

/// The same where endpoints get a `share` of their full share, 0 to 1: each one that is available
/// takes part in the draw with that probability. If that leaves none, all that are available do.
///
/// Cost: a look at each endpoint, a list, and a draw for each whose share is not the full one.
pub fn pick_by_share(
    count: usize,
    rng: &mut impl Rng,
    available: impl Fn(usize) -> bool,
    share: impl Fn(usize) -> f64,
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    let mut takes_part = |index| {
        let share = share(index);
        share >= 1.0 || rng.random::<f64>() < share
    };
    let left: Vec<usize> =
        (0..count).filter(|&index| available(index) && takes_part(index)).collect();
    among(&left, rng, &cost).or_else(|| pick_among_available(count, rng, available, cost))
}

/// The slow path: some endpoint is unavailable, so the draw is made over those that are left.
fn pick_among_available(
    count: usize,
    rng: &mut impl Rng,
    available: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    let left: Vec<usize> = (0..count).filter(|&index| available(index)).collect();
    among(&left, rng, &cost)
}

fn among(left: &[usize], rng: &mut impl Rng, cost: &impl Fn(usize) -> f64) -> Option<usize> {
    match left {
        [] => None,
        [only] => Some(*only),
        several => {
            let (first, second) = draw(several.len(), rng);
            Some(cheaper(left[first], left[second], cost))
        }
    }
}

/// Two distinct indices, uniformly; `count` is at least two.
fn draw(count: usize, rng: &mut impl Rng) -> (usize, usize) {
    let first = rng.random_range(0..count);
    let second = rng.random_range(0..count - 1);
    (first, if second >= first { second + 1 } else { second })
}

fn cheaper(first: usize, second: usize, cost: &impl Fn(usize) -> f64) -> usize {
    if cost(second) < cost(first) { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const SEED: u64 = 0x5eed;

    fn counts(
        endpoints: usize,
        draws: usize,
        available: impl Fn(usize) -> bool + Copy,
        cost: impl Fn(usize) -> f64 + Copy,
    ) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(SEED);
        let mut counts = vec![0; endpoints];
        for _ in 0..draws {
            if let Some(index) = pick(endpoints, &mut rng, available, cost) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn equal_endpoints_share_equally() {
        for endpoints in [2, 3, 7, 50] {
            let counts = counts(endpoints, 10_000, |_| true, |_| 1.0);
            let fair = 10_000 / endpoints;
            for count in &counts {
                assert!(
                    count.abs_diff(fair) < fair / 3,
                    "seed {SEED:#x}: {counts:?}, fair would be {fair}"
                );
            }
        }
    }

    #[test]
    fn the_most_expensive_endpoint_is_never_chosen() {
        let counts = counts(4, 4_000, |_| true, |index| if index == 2 { 9.0 } else { 1.0 });
        assert_eq!(counts[2], 0, "seed {SEED:#x}: {counts:?}");
        assert!(counts.iter().enumerate().all(|(index, &n)| index == 2 || n > 900), "{counts:?}");
    }

    #[test]
    fn unavailable_endpoints_get_nothing_and_the_rest_share() {
        let counts = counts(5, 6_000, |index| index % 2 == 0, |_| 1.0);
        assert_eq!((counts[1], counts[3]), (0, 0), "seed {SEED:#x}: {counts:?}");
        assert!([0, 2, 4].iter().all(|&i| counts[i].abs_diff(2_000) < 400), "{counts:?}");
    }

    #[test]
    fn an_endpoint_gets_its_share_of_a_full_share() {
        let mut rng = SmallRng::seed_from_u64(SEED);
        for share in [0.0, 0.1, 0.5, 1.0] {
            let mut counts = [0; 5];
            for _ in 0..20_000 {
                let of = |index| if index == 2 { share } else { 1.0 };
                counts[pick_by_share(5, &mut rng, |_| true, of, |_| 1.0).unwrap()] += 1;
            }
            let fair = 4_000.0 * share;
            assert!(
                (f64::from(counts[2]) - fair).abs() < 200.0,
                "seed {SEED:#x}: {counts:?} with a share of {share}"
            );
            let rest = (20_000 - counts[2]) / 4;
            assert!([0, 1, 3, 4].iter().all(|&i| i32::abs(counts[i] - rest) < 250), "{counts:?}");
        }
        let none = |_| 0.0;
        assert_eq!(pick_by_share(3, &mut rng, |index| index == 1, none, |_| 1.0), Some(1));
        assert_eq!(pick_by_share(3, &mut rng, |_| false, none, |_| 1.0), None);
    }

    #[test]
    fn nothing_available_is_nothing_chosen() {
        let mut rng = SmallRng::seed_from_u64(SEED);
        assert_eq!(pick(0, &mut rng, |_| true, |_| 1.0), None);
        assert_eq!(pick(1, &mut rng, |_| false, |_| 1.0), None);
        assert_eq!(pick(6, &mut rng, |_| false, |_| 1.0), None);
        assert_eq!(pick(6, &mut rng, |index| index == 4, |_| 1.0), Some(4));
    }
}
