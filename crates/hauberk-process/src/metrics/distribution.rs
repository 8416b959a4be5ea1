//! A histogram without a lock, classic and native at once.
//!
//! An observation is a search among the classic bounds, a look at the number's exponent for the native bucket, and
//! three atomic writes: about 20 ns. A scrape that runs beside an observation may see its bucket but not yet its sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::exposition::Value;
use super::instrument::Series;
use super::native::Native;
use super::registry::Kind;

/// Counts observations by size. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub struct Distribution {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bounds: &'static [f64],
    /// One more than there are bounds; the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
    native: Native,
}

/// A distribution at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Upper bounds with the number of observations in each bucket, not cumulated; the last bound is infinity.
    pub classic: Vec<(f64, u64)>,
    /// Sum of all observations.
    pub sum: f64,
    /// Number of all observations.
    pub count: u64,
    /// Observations too small for a native bucket.
    pub native_zero: u64,
    /// Native buckets that are not empty, by index, rising.
    pub native: Vec<(i32, u64)>,
}

impl Distribution {
    /// Empty, with the given inclusive upper bounds in rising order; infinity is implied.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds rise");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let (sum, native) = (AtomicU64::new(0), Native::default());
        Self { inner: Arc::new(Inner { bounds, counts, sum, native }) }
    }

    /// Counts one observation. Numbers below zero count as zero in native buckets.
    pub fn observe(&self, value: f64) {
        let Inner { bounds, counts, sum, native } = &*self.inner;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Relaxed);
        native.observe(value);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never declines, so this never fails.
        let _ = sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// Sum of all observations.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.inner.sum.load(Relaxed))
    }

    /// Upper bounds with the number of observations in each bucket (not cumulated); the last
    /// bound is infinity.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.inner.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.inner.counts.iter().map(|count| count.load(Relaxed)))
    }

    /// Number of all observations.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// Everything now. Prometheus refuses a native histogram whose count is not that of its buckets, so both kinds of
    /// buckets are read again until they agree.
    pub fn snapshot(&self) -> Snapshot {
        const ATTEMPTS: usize = 8;
        let read = || {
            let classic: Vec<(f64, u64)> = self.buckets().collect();
            let (native_zero, native) = self.inner.native.read();
            let count = classic.iter().map(|(_, count)| count).sum();
            Snapshot { classic, sum: self.sum(), count, native_zero, native }
        };
        let native_count =
            |s: &Snapshot| s.native_zero + s.native.iter().map(|(_, count)| count).sum::<u64>();
        let mut snapshot = read();
        for _ in 1..ATTEMPTS {
            if native_count(&snapshot) == snapshot.count {
                return snapshot;
            }
            snapshot = read();
        }
        // So busy that one is always on its way: it is in both, at the end where it does least harm.
        let native = native_count(&snapshot);
        snapshot.native_zero += snapshot.count.saturating_sub(native);
        let missing = native.saturating_sub(snapshot.count);
        if let Some((_, largest)) = snapshot.classic.last_mut() {
            *largest += missing;
        }
        snapshot.count += missing;
        snapshot
    }
}

impl Series for Distribution {
    const KIND: Kind = Kind::Histogram;

    fn value(&self) -> Value {
        Value::Distribution(Box::new(self.snapshot()))
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_nothing_is_lost() {
        let distribution = Distribution::new(&[1.0, 10.0]);
        for value in [0.0, 1.0, 1.5, 10.0, 11.0] {
            distribution.observe(value);
        }
        let buckets: Vec<_> = distribution.buckets().collect();
        assert_eq!(buckets, [(1.0, 2), (10.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(distribution.count(), 5);
        assert_eq!(distribution.sum(), 23.5);
        let snapshot = distribution.snapshot();
        assert_eq!((snapshot.count, snapshot.native_zero, snapshot.native.len()), (5, 1, 4));
    }

    #[test]
    fn threads_lose_no_observation() {
        let distribution = Distribution::new(&[5.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| distribution.observe(2.0)));
            }
            scope.spawn(|| {
                for _ in 0..100 {
                    let Snapshot { count, native_zero, native, .. } = distribution.snapshot();
                    let of_native = native.iter().map(|(_, count)| count).sum::<u64>();
                    assert_eq!(native_zero + of_native, count);
                }
            });
        });
        assert_eq!((distribution.count(), distribution.sum()), (4000, 8000.0));
        assert_eq!(distribution.snapshot().native, [(8, 4000)]);
    }
}
