//! Success rates, request rates, percentiles and the secured share, per workload.

use crate::store::{Bound, Counters, Direction, Store};
use std::collections::BTreeMap;

pub use crate::store::Direction as Side;

/// What a workload did during the window of the store.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct WorkloadStats {
    /// Namespace.
    pub namespace: String,
    /// Kind and name, `deployment/web`.
    pub workload: String,
    /// Which side was measured: what came in, or for a workload that only calls others, what went
    /// out.
    pub side: Side,
    /// Pods measured.
    pub pods: usize,
    /// Share of responses that were good, 0 to 1; nothing without responses.
    pub success_rate: Option<f64>,
    /// Responses per second; nothing before the second scrape.
    pub requests_per_second: Option<f64>,
    /// Latency in milliseconds that half of the responses stayed below.
    pub latency_ms_p50: Option<f64>,
    /// The same for 95 %.
    pub latency_ms_p95: Option<f64>,
    /// The same for 99 %.
    pub latency_ms_p99: Option<f64>,
    /// Share of connections with mutual TLS, 0 to 1, since the pods began; nothing without
    /// connections.
    pub secured: Option<f64>,
}

/// Sums over the pods of a workload.
#[derive(Default)]
struct Sums {
    pods: usize,
    seconds: f64,
    inbound: SideSums,
    outbound: SideSums,
}

/// Sums of one side.
#[derive(Default)]
struct SideSums {
    success: f64,
    failure: f64,
    per_second: f64,
    latency_ms: BTreeMap<Bound, f64>,
    secured: f64,
    connections: f64,
}

/// One row for each workload, by namespace and name.
pub fn stats(store: &Store) -> Vec<WorkloadStats> {
    let mut workloads: BTreeMap<(&str, &str), Sums> = BTreeMap::new();
    for (target, span) in store.spans() {
        let sums = workloads.entry((&target.namespace, &target.workload)).or_default();
        let seconds = span.elapsed.as_secs_f64();
        sums.pods += 1;
        sums.seconds = sums.seconds.max(seconds);
        for direction in [Direction::Inbound, Direction::Outbound] {
            let side = match direction {
                Direction::Inbound => &mut sums.inbound,
                Direction::Outbound => &mut sums.outbound,
            };
            side.add(span.first.direction(direction), span.last.direction(direction), seconds);
        }
    }
    workloads
        .into_iter()
        .map(|((namespace, workload), sums)| sums.row(namespace, workload))
        .collect()
}

impl SideSums {
    fn add(&mut self, first: &Counters, last: &Counters, seconds: f64) {
        let success = increase(first.success, last.success);
        let failure = increase(first.failure, last.failure);
        self.success += success;
        self.failure += failure;
        if seconds > 0.0 {
            self.per_second += (success + failure) / seconds;
        }
        for (bound, count) in &last.latency_ms {
            let before = first.latency_ms.get(bound).copied().unwrap_or(0.0);
            *self.latency_ms.entry(*bound).or_default() += increase(before, *count);
        }
        self.secured += last.connections_secured;
        self.connections += last.connections;
    }
}

impl Sums {
    fn row(self, namespace: &str, workload: &str) -> WorkloadStats {
        let inbound_idle = self.inbound.success + self.inbound.failure == 0.0;
        let outbound_busy = self.outbound.success + self.outbound.failure > 0.0;
        let (side, sums) = if inbound_idle && outbound_busy {
            (Side::Outbound, self.outbound)
        } else {
            (Side::Inbound, self.inbound)
        };
        let responses = sums.success + sums.failure;
        WorkloadStats {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            side,
            pods: self.pods,
            success_rate: share(sums.success, responses),
            requests_per_second: (self.seconds > 0.0).then_some(sums.per_second),
            latency_ms_p50: quantile(&sums.latency_ms, 0.50),
            latency_ms_p95: quantile(&sums.latency_ms, 0.95),
            latency_ms_p99: quantile(&sums.latency_ms, 0.99),
            secured: share(sums.secured, sums.connections),
        }
    }
}

/// How much a counter grew; a counter that shrank began again at zero.
fn increase(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// The value below which a share `q` of a cumulative histogram lies, by linear interpolation
/// inside the bucket (as Prometheus' `histogram_quantile` does). In the last, open bucket the
/// greatest finite bound is returned.
pub fn quantile(buckets: &BTreeMap<Bound, f64>, q: f64) -> Option<f64> {
    let total = *buckets.values().last()?;
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (Bound(upper), count) in buckets {
        if *count >= rank && *count > below {
            if upper.is_infinite() {
                return Some(lower);
            }
            return Some(lower + (upper - lower) * ((rank - below) / (count - below)).max(0.0));
        }
        (lower, below) = (*upper, *count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Snapshot, TargetKey};
    use std::time::{Duration, Instant};

    fn buckets(pairs: &[(f64, f64)]) -> BTreeMap<Bound, f64> {
        pairs.iter().map(|(bound, count)| (Bound(*bound), *count)).collect()
    }

    #[test]
    fn interpolates_quantiles() {
        let inf = f64::INFINITY;
        let check = |pairs: &[(f64, f64)], q: f64, expect: Option<f64>| {
            assert_eq!(quantile(&buckets(pairs), q), expect, "{pairs:?} {q}");
        };
        check(&[(1.0, 50.0), (2.0, 100.0), (inf, 100.0)], 0.5, Some(1.0));
        check(&[(1.0, 50.0), (2.0, 100.0), (inf, 100.0)], 0.75, Some(1.5));
        check(&[(1.0, 0.0), (2.0, 0.0), (inf, 10.0)], 0.5, Some(2.0));
        check(&[(1.0, 0.0), (inf, 0.0)], 0.5, None);
        check(&[], 0.5, None);
    }

    #[test]
    fn rows_sum_pods_and_survive_restarts() {
        let mut store = Store::new(Duration::from_secs(30));
        let begin = Instant::now();
        let counters = |success, failure| Counters { success, failure, ..Counters::default() };
        let mut add = |pod: &str, at: u64, inbound: Counters, outbound: Counters| {
            let target = TargetKey {
                namespace: "ns".into(),
                workload: "deployment/web".into(),
                pod: pod.into(),
            };
            store.add(target, begin + Duration::from_secs(at), Snapshot { inbound, outbound });
        };
        add("a", 0, counters(100.0, 0.0), Counters::default());
        add("a", 10, counters(140.0, 10.0), counters(9.0, 9.0));
        add("b", 0, counters(500.0, 0.0), Counters::default());
        // This pod's proxy was started again: its counters began at zero.
        add("b", 10, counters(50.0, 0.0), Counters::default());
        let [row] = &stats(&store)[..] else { panic!("one workload") };
        assert_eq!((row.side, row.pods), (Side::Inbound, 2));
        assert_eq!(row.success_rate, Some(0.9));
        assert_eq!(row.requests_per_second, Some(10.0));
    }

    #[test]
    fn a_workload_that_only_calls_shows_what_went_out() {
        let mut store = Store::new(Duration::from_secs(30));
        let target = TargetKey {
            namespace: "ns".into(),
            workload: "deployment/bot".into(),
            pod: "bot-1".into(),
        };
        let now = Instant::now();
        store.add(target.clone(), now, Snapshot::default());
        let outbound = Counters { success: 3.0, failure: 1.0, ..Counters::default() };
        let snapshot = Snapshot { outbound, ..Snapshot::default() };
        store.add(target, now + Duration::from_secs(1), snapshot);
        let row = &stats(&store)[0];
        assert_eq!((row.side, row.success_rate), (Side::Outbound, Some(0.75)));
    }
}
