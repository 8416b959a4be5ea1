//! The buckets of a native histogram: eight for each power of two, made when they are needed.
//!
//! Bucket `i` of schema 3 holds what is above 2^((i-1)/8) and at most 2^(i/8) (Prometheus, "Native Histograms", schema):
//! neighbours differ by 9 %. From about a millionth to four thousand million, so that seconds, milliseconds and bytes all fit; what is
//! smaller is zero, what is larger counts in the last bucket. Memory: 208 bytes, and 256 for each four powers of two in
//! which something was observed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Base-2 logarithm of the number of buckets for each power of two.
pub(super) const SCHEMA: i32 = 3;
/// At most this much counts as zero: 2^-20.
pub(super) const ZERO_THRESHOLD: f64 = 1.0 / (1 << 20) as f64;

/// Where the buckets of a power of two end, as fractions of the next one: 2^(i/8 - 1).
const FRACTIONS: [f64; 8] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    0.707_106_781_186_547_5,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_5,
    0.917_004_043_204_671_2,
];

/// The first bucket, just above 2^-20, and the last one, which ends at 2^32.
const FIRST: i32 = -20 * 8 + 1;
const LAST: i32 = 32 * 8;
const CHUNK: usize = 32;
const CHUNKS: usize = (LAST - FIRST + 1) as usize / CHUNK;

#[derive(Debug, Default)]
pub(super) struct Native {
    zero: AtomicU64,
    chunks: [OnceLock<Box<[AtomicU64; CHUNK]>>; CHUNKS],
}

impl Native {
    /// Counts one observation.
    pub(super) fn observe(&self, value: f64) {
        if value.is_nan() || value <= ZERO_THRESHOLD {
            self.zero.fetch_add(1, Relaxed);
            return;
        }
        let at = (index(value).min(LAST) - FIRST) as usize;
        let chunk = self.chunks[at / CHUNK].get_or_init(Box::default);
        chunk[at % CHUNK].fetch_add(1, Relaxed);
    }

    /// What counts as zero, and the buckets that are not empty.
    pub(super) fn read(&self) -> (u64, Vec<(i32, u64)>) {
        let mut buckets = Vec::new();
        for (chunk, first) in self.chunks.iter().zip((FIRST..).step_by(CHUNK)) {
            let Some(chunk) = chunk.get() else { continue };
            let counts = chunk.iter().map(|count| count.load(Relaxed));
            buckets.extend((first..).zip(counts).filter(|(_, count)| *count > 0));
        }
        (self.zero.load(Relaxed), buckets)
    }
}

/// The bucket of a number above 2^-20.
fn index(value: f64) -> i32 {
    // An f64 is 1.m × 2^(e - 1023), so 0.1m × 2^(e - 1022) (IEEE 754); infinity has the largest e.
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i32 - 1022;
    let fraction = f64::from_bits((bits & ((1 << 52) - 1)) | (1022 << 52));
    let within = FRACTIONS.partition_point(|bound| *bound < fraction);
    within as i32 + (exponent - 1) * 8
}

/// Runs of neighbouring buckets, as (gap to the run before, length), and how each count differs from the one before.
pub(super) fn spans(buckets: &[(i32, u64)]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let mut spans: Vec<(i32, u32)> = Vec::new();
    let mut deltas = Vec::with_capacity(buckets.len());
    let (mut next, mut before) = (0, 0);
    for (index, count) in buckets {
        match spans.last_mut() {
            Some((_, length)) if *index == next => *length += 1,
            _ => spans.push((index - next, 1)),
        }
        next = index + 1;
        deltas.push(count.cast_signed() - before);
        before = count.cast_signed();
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_in_the_bucket_that_holds_it() {
        let bound = |index: i32| 2_f64.powf(f64::from(index) / 8.0);
        for at in FIRST..=LAST {
            // Exact at powers of two; elsewhere the bound itself is rounded.
            let within = (bound(at - 1) + bound(at)) / 2.0;
            assert_eq!(index(within), at, "{within}");
            if at % 8 == 0 {
                assert_eq!(index(bound(at)), at);
            }
        }
        let native = Native::default();
        for value in [0.0, -3.0, f64::NAN, ZERO_THRESHOLD, 1e300, f64::INFINITY] {
            native.observe(value);
        }
        assert_eq!(native.read(), (4, vec![(LAST, 2)]));
    }

    #[test]
    fn runs_of_buckets_become_spans() {
        let (spans, deltas) = spans(&[(-2, 5), (-1, 3), (4, 7), (5, 7)]);
        assert_eq!((spans, deltas), (vec![(-2, 2), (4, 2)], vec![5, -2, 4, 0]));
    }
}
