//! A histogram without a lock.
//!
//! The histogram of `prometheus_client` takes a mutex for each observation, which the data path
//! may not. This one has an atomic counter per bucket; an observation is a search among the bounds
//! and two atomic writes. A scrape that runs beside an observation may see its bucket but not yet
//! its sum; the count is derived from the buckets and therefore always agrees with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

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
}

impl Distribution {
    /// Empty, with the given inclusive upper bounds in rising order; infinity is implied.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds rise");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0) }) }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let Inner { bounds, counts, sum } = &*self.inner;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Relaxed);
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
}

impl TypedMetric for Distribution {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Distribution {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buckets: Vec<(f64, u64)> = self.buckets().collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
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
    }

    #[test]
    fn threads_lose_no_observation() {
        let distribution = Distribution::new(&[5.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| distribution.observe(2.0)));
            }
        });
        assert_eq!((distribution.count(), distribution.sum()), (4000, 8000.0));
    }
}
