//! The latest scrapes of each target, for as long as a question may look back.
//!
//! Only the families that questions are about are kept, already summed over the labels nobody asks
//! for, so a scrape takes a few hundred bytes however many routes a proxy has.

use crate::prom_text;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Which side of a proxy a measurement is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the application of its pod.
    Inbound,
    /// From the application of its pod.
    Outbound,
}

/// A scraped pod and the workload it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// Namespace of the pod.
    pub namespace: String,
    /// Kind and name of what owns the pod, `deployment/web`.
    pub workload: String,
    /// Name of the pod.
    pub pod: String,
}

/// Counters of one direction at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Responses that were good.
    pub success: f64,
    /// Responses that failed.
    pub failure: f64,
    /// Responses by upper bound of their latency in milliseconds, cumulative.
    pub latency_ms: BTreeMap<Bound, f64>,
    /// Connections opened with mutual TLS.
    pub connections_secured: f64,
    /// All connections opened that could have been secured.
    pub connections: f64,
}

/// Upper bound of a histogram bucket, ordered as a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound(pub f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Both directions of one pod at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Towards the application.
    pub inbound: Counters,
    /// From the application.
    pub outbound: Counters,
}

impl Snapshot {
    /// The counters of a direction.
    pub fn direction(&self, direction: Direction) -> &Counters {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Reads the text of a proxy's `/metrics` page.
    pub fn parse(text: &str) -> Self {
        const WANTED: [&str; 3] =
            ["response_total", "response_latency_ms_bucket", "tcp_open_total"];
        /// The addresses that stand for all of a machine's.
        const UNSPECIFIED: [&str; 2] = ["::", "0.0.0.0"];
        let mut snapshot = Self::default();
        let mut probes = 0.0;
        for sample in prom_text::parse(text, |name| WANTED.contains(&name)).samples {
            // linkerd2-proxy counts what reaches its own admin port as inbound traffic; its target is
            // the address that the port listens on.
            if UNSPECIFIED.contains(&sample.label("target_ip")) {
                continue;
            }
            let counters = match sample.label("direction") {
                "inbound" => &mut snapshot.inbound,
                "outbound" => &mut snapshot.outbound,
                _ => continue,
            };
            // Probes are the kubelet's affair: they are neither load nor failures of callers.
            if sample.label("route_name") == "probe" {
                probes += if sample.name == "response_total" { sample.value } else { 0.0 };
                continue;
            }
            match (sample.name, sample.label("classification")) {
                ("response_total", "success") => counters.success += sample.value,
                ("response_total", "failure") => counters.failure += sample.value,
                ("response_latency_ms_bucket", _) => {
                    let bound = match sample.label("le") {
                        "+Inf" => f64::INFINITY,
                        number => number.parse().unwrap_or(f64::INFINITY),
                    };
                    *counters.latency_ms.entry(Bound(bound)).or_default() += sample.value;
                }
                ("tcp_open_total", _) => counters.add_connections(&sample),
                _ => {}
            }
        }
        snapshot.inbound.forget_probes(probes);
        snapshot
    }
}

impl Counters {
    /// Takes out the connections of probes. The counters of connections do not tell them apart, but
    /// each probe has a connection of its own (Kubernetes closes it after the answer), never with
    /// mutual TLS.
    fn forget_probes(&mut self, probes: f64) {
        let unsecured = self.connections - self.connections_secured;
        self.connections -= probes.min(unsecured);
    }

    /// Counts connections that crossed, or could have crossed, the network between two pods: on
    /// the inbound side those from clients, on the outbound side those to endpoints. Connections
    /// between a proxy and its own application stay inside the pod.
    fn add_connections(&mut self, sample: &prom_text::Sample<'_>) {
        let crosses = match sample.label("direction") {
            "inbound" => sample.label("peer") == "src",
            _ => sample.label("peer") == "dst",
        };
        // The kubelet and metrics scrapers reach the proxy's own ports; they are no application's.
        let loopback =
            sample.label("tls") == "loopback" || sample.label("no_tls_reason") == "loopback";
        if crosses && !loopback {
            self.connections += sample.value;
            if sample.label("tls") == "true" {
                self.connections_secured += sample.value;
            }
        }
    }
}

/// Scrapes of all targets, bounded in number and age.
#[derive(Debug)]
pub struct Store {
    window: Duration,
    targets: BTreeMap<TargetKey, VecDeque<(Instant, Snapshot)>>,
}

/// Most scrapes kept of one target.
const SNAPSHOTS_MAX: usize = 120;

impl Store {
    /// A store that looks back over `window`.
    pub fn new(window: Duration) -> Self {
        Self { window, targets: BTreeMap::new() }
    }

    /// Keeps a scrape of `target` taken at `now`, and forgets those that are too old.
    ///
    /// One scrape from before the window stays, so that the window has a beginning.
    pub fn add(&mut self, target: TargetKey, now: Instant, snapshot: Snapshot) {
        let snapshots = self.targets.entry(target).or_default();
        snapshots.push_back((now, snapshot));
        let too_old = |at: &Instant| now.saturating_duration_since(*at) > self.window;
        while snapshots.len() > SNAPSHOTS_MAX
            || snapshots.get(1).is_some_and(|(second, _)| too_old(second))
        {
            snapshots.pop_front();
        }
    }

    /// Forgets targets that `keep` does not want, pods that are gone.
    pub fn retain(&mut self, keep: impl Fn(&TargetKey) -> bool) {
        self.targets.retain(|target, _| keep(target));
    }

    /// For each target the oldest and newest scrape of the window; the same one if there is one.
    pub fn spans(&self) -> impl Iterator<Item = (&TargetKey, Span<'_>)> {
        self.targets.iter().filter_map(|(target, snapshots)| {
            let (first, last) = (snapshots.front()?, snapshots.back()?);
            let elapsed = last.0.saturating_duration_since(first.0);
            Some((target, Span { first: &first.1, last: &last.1, elapsed }))
        })
    }
}

/// Two scrapes and the time between them.
#[derive(Clone, Copy, Debug)]
pub struct Span<'s> {
    /// The older one.
    pub first: &'s Snapshot,
    /// The newer one.
    pub last: &'s Snapshot,
    /// Time between them.
    pub elapsed: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
response_total{direction="inbound",tls="true",classification="success",status_code="200"} 8
response_total{direction="inbound",tls="true",classification="success",status_code="204"} 1
response_total{direction="inbound",tls="true",classification="failure",status_code="500"} 3
response_total{direction="inbound",route_name="probe",classification="success",status_code="200"} 7
response_latency_ms_bucket{direction="inbound",route_name="probe",le="1"} 7
tcp_open_total{direction="inbound",peer="src",tls="no_identity",no_tls_reason="no_tls_from_remote"} 7
response_latency_ms_bucket{direction="inbound",le="1"} 5
response_latency_ms_bucket{direction="inbound",le="+Inf"} 12
tcp_open_total{direction="inbound",peer="src",tls="true"} 2
tcp_open_total{direction="inbound",peer="src",tls="no_identity"} 1
tcp_open_total{direction="inbound",peer="dst",tls="no_identity"} 9
tcp_open_total{direction="outbound",peer="src",tls="loopback"} 4
tcp_open_total{direction="outbound",peer="dst",tls="true"} 4
request_total{direction="inbound"} 99
"#;

    #[test]
    fn sums_what_questions_are_about() {
        let snapshot = Snapshot::parse(TEXT);
        assert_eq!((snapshot.inbound.success, snapshot.inbound.failure), (9.0, 3.0));
        assert_eq!(snapshot.inbound.latency_ms.values().copied().collect::<Vec<_>>(), [5.0, 12.0]);
        assert_eq!(
            (snapshot.inbound.connections_secured, snapshot.inbound.connections),
            (2.0, 3.0)
        );
        assert_eq!(
            (snapshot.outbound.connections_secured, snapshot.outbound.connections),
            (4.0, 4.0)
        );
    }

    /// Lines of the page of linkerd2-proxy 29637b64 (August 2026), shortened.
    #[test]
    fn requests_to_the_admin_port_of_linkerds_proxy_are_nobodys_load() {
        let snapshot = Snapshot::parse(
            r#"
response_total{direction="inbound",target_addr="10.42.0.13:8080",target_ip="10.42.0.13",target_port="8080",tls="true",client_id="web",route_name="default",status_code="200",classification="success",grpc_status="0",error=""} 125
response_total{direction="inbound",target_addr="[::]:4191",target_ip="::",target_port="4191",tls="no_identity",no_tls_reason="no_tls_from_remote",route_name="default",status_code="200",classification="success",grpc_status="",error=""} 5
response_total{direction="inbound",target_addr="[::]:4191",target_ip="::",target_port="4191",tls="no_identity",no_tls_reason="no_tls_from_remote",route_name="probe",status_code="200",classification="success",grpc_status="",error=""} 4
tcp_open_total{direction="inbound",peer="src",target_addr="10.42.0.13:8080",target_ip="10.42.0.13",target_port="8080",tls="true",client_id="web"} 1
tcp_open_total{direction="inbound",peer="src",target_addr="[::]:4191",target_ip="::",target_port="4191",tls="no_identity",no_tls_reason="no_tls_from_remote"} 9
tcp_open_total{direction="inbound",peer="dst",tls="no_identity",no_tls_reason="loopback"} 1
"#,
        );
        assert_eq!(snapshot.inbound.success, 125.0);
        assert_eq!(
            (snapshot.inbound.connections_secured, snapshot.inbound.connections),
            (1.0, 1.0)
        );
    }

    #[test]
    fn forgets_old_scrapes_but_keeps_the_beginning_of_the_window() {
        let target = || TargetKey {
            namespace: "ns".into(),
            workload: "deployment/web".into(),
            pod: "web-1".into(),
        };
        let begin = Instant::now();
        let mut store = Store::new(Duration::from_secs(10));
        for second in 0..60 {
            store.add(target(), begin + Duration::from_secs(second), Snapshot::default());
        }
        let (_, span) = store.spans().next().expect("one target");
        assert_eq!(span.elapsed, Duration::from_secs(11));
        store.retain(|_| false);
        assert!(store.spans().next().is_none());
    }
}
