//! The metrics registry of a process, its instruments, and the two forms in which they are scraped.
//!
//! Parts register instruments while the process is being built, under the names that Prometheus' naming rules give
//! them: a unit is appended, then `_total` for counters ([`Registry::register`], [`Registry::register_with_unit`]).
//! What does not live in an instrument is read when somebody scrapes ([`Metrics::add_collector`]). [`process`] adds the
//! `process_*` families. Not here: any family that belongs to the mesh.
//!
//! - Updating an instrument takes no lock and no look-up of labels; handles are resolved beforehand.
//! - A [`Family`] has a largest number of series and, if it is [forgetful](Family::forgetful), lets go of series that
//!   nobody uses ([`Metrics::forget_idle`]).
//! - A [`Distribution`] is a classic and a native histogram at once. Text shows the classic one; whoever asks for
//!   protobuf gets both ([`Format::negotiate`]).
//!
//! Why this is written here: `docs/decisions/0030-metrics-of-our-own.md`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

mod distribution;
mod exposition;
mod family;
mod instrument;
mod native;
pub mod process;
mod protobuf;
mod registry;
mod text;

pub use distribution::{Distribution, Snapshot};
pub use exposition::{Exposition, Format, Value};
pub use family::{Family, LabelSet};
pub use instrument::{Counter, Gauge, Info, Instrument, Real};
pub use protobuf::messages;
pub use registry::{Kind, Registry, Unit};

type Collector = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// The registry of a process. Cloning copies one `Arc`.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Mutex<Registry>,
    collectors: Mutex<Vec<Collector>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives access to the registry, to register instruments.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.inner.registry.lock())
    }

    /// Adds families that are read, rather than kept. The function runs at each scrape, on the scraping task: it must
    /// be quick and must not call back into this registry.
    pub fn add_collector(&self, collect: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        self.inner.collectors.lock().push(Box::new(collect));
    }

    /// Everything, in that format. Costs time and memory in proportion to the number of series.
    pub fn render_as(&self, format: Format) -> Vec<u8> {
        let mut exposition = Exposition::new(format);
        for collect in self.inner.collectors.lock().iter() {
            collect(&mut exposition);
        }
        self.inner.registry.lock().collect(&mut exposition);
        exposition.finish()
    }

    /// Everything, as text.
    pub fn render(&self) -> String {
        String::from_utf8(self.render_as(Format::Text)).expect("the text format is UTF-8")
    }

    /// Drops the series of forgetful families that have not been used for `retain`. To be called now and then; cost:
    /// linear in the number of series.
    pub fn forget_idle(&self, now: Instant, retain: Duration) {
        self.inner.registry.lock().forget_idle(now, retain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_the_names_that_linkerd_has() {
        let metrics = Metrics::new();
        let requests = Family::<Vec<(String, String)>, Counter>::default();
        let latency = Family::<Vec<(String, String)>, _>::new(|| Distribution::new(&[1.0, 2.5]));
        let start = Gauge::default();
        metrics.register(|registry| {
            registry.register("request", "Requests", requests.clone());
            registry.register("response_latency_ms", "Latency", latency.clone());
            registry.register_with_unit(
                "process_start_time",
                "Start",
                Unit::Seconds,
                start.clone(),
            );
            let nobody = Family::<Vec<(String, String)>, Counter>::default();
            registry.register("nobody_asked_for_these", "None", nobody);
        });
        metrics.add_collector(|out| {
            out.family("tcp_open_total", Kind::Counter, "Opened connections");
            out.sample(&[("peer", "src")], 3_u64);
        });
        let labels = vec![("direction".to_owned(), "inbound".to_owned())];
        requests.get_or_create(&labels).inc();
        latency.get_or_create(&labels).observe(2.0);
        start.set(17);
        assert_eq!(
            metrics.render(),
            "# HELP tcp_open_total Opened connections\n\
             # TYPE tcp_open_total counter\n\
             tcp_open_total{peer=\"src\"} 3\n\
             # HELP request_total Requests\n\
             # TYPE request_total counter\n\
             request_total{direction=\"inbound\"} 1\n\
             # HELP response_latency_ms Latency\n\
             # TYPE response_latency_ms histogram\n\
             response_latency_ms_bucket{le=\"1.0\",direction=\"inbound\"} 0\n\
             response_latency_ms_bucket{le=\"2.5\",direction=\"inbound\"} 1\n\
             response_latency_ms_bucket{le=\"+Inf\",direction=\"inbound\"} 1\n\
             response_latency_ms_sum{direction=\"inbound\"} 2.0\n\
             response_latency_ms_count{direction=\"inbound\"} 1\n\
             # HELP process_start_time_seconds Start\n\
             # TYPE process_start_time_seconds gauge\n\
             process_start_time_seconds 17\n\
             # EOF\n"
        );
    }
}
