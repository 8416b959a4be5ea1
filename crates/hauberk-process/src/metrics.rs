//! The metrics registry of a process, and the few instruments the usual crate lacks.
//!
//! [`Metrics`] wraps one `prometheus_client` registry behind a handle, so that parts can register
//! families while the process is being built. Parts that keep their numbers sharded by worker
//! thread register a writer instead, which sums and writes text when somebody scrapes
//! ([`Metrics::add_writer`] with [`TextWriter`]). Rendering puts the writers' text first and ends
//! with `# EOF`, the layout of linkerd2-proxy.
//!
//! [`Distribution`] is a histogram that is updated without a lock. [`process`] adds the
//! `process_*` families. Not here: any family that belongs to the mesh.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

pub use prometheus_client;

mod distribution;
pub mod process;
mod text;

pub use distribution::Distribution;
pub use text::{Kind, TextWriter};

/// The content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Writer = Box<dyn Fn(&mut TextWriter) + Send + Sync>;

/// The registry of a process. Cloning copies one `Arc`.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Mutex<Registry>,
    writers: Mutex<Vec<Writer>>,
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

    /// Gives access to the registry, to register families. Counters get `_total` when rendered,
    /// families registered with a unit its name before that.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.inner.registry.lock())
    }

    /// Adds families that are written, rather than registered. The function runs at each scrape,
    /// on the scraping task: it must be quick and must not call back into this registry.
    pub fn add_writer(&self, writer: impl Fn(&mut TextWriter) + Send + Sync + 'static) {
        self.inner.writers.lock().push(Box::new(writer));
    }

    /// Everything as text. Costs time and memory in proportion to the number of series.
    pub fn render(&self) -> String {
        let mut text = TextWriter::new();
        for writer in self.inner.writers.lock().iter() {
            writer(&mut text);
        }
        let mut text = text.finish();
        let registry = self.inner.registry.lock();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;

    #[test]
    fn renders_the_names_that_linkerd_has() {
        let metrics = Metrics::new();
        let requests = Family::<Vec<(String, String)>, Counter>::default();
        let latency =
            Family::<Vec<(String, String)>, Distribution, _>::new_with_constructor(|| {
                Distribution::new(&[1.0, 2.5])
            });
        let start = Gauge::<i64>::default();
        metrics.register(|registry| {
            registry.register("request", "Requests", requests.clone());
            registry.register("response_latency_ms", "Latency", latency.clone());
            registry.register_with_unit(
                "process_start_time",
                "Start",
                Unit::Seconds,
                start.clone(),
            );
        });
        metrics.add_writer(|text| {
            text.family("tcp_open_total", Kind::Counter, "Opened connections");
            text.sample("tcp_open_total", &[("peer", "src")], 3_u64);
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
             # HELP request Requests.\n\
             # TYPE request counter\n\
             request_total{direction=\"inbound\"} 1\n\
             # HELP response_latency_ms Latency.\n\
             # TYPE response_latency_ms histogram\n\
             response_latency_ms_sum{direction=\"inbound\"} 2.0\n\
             response_latency_ms_count{direction=\"inbound\"} 1\n\
             response_latency_ms_bucket{le=\"1.0\",direction=\"inbound\"} 0\n\
             response_latency_ms_bucket{le=\"2.5\",direction=\"inbound\"} 1\n\
             response_latency_ms_bucket{le=\"+Inf\",direction=\"inbound\"} 1\n\
             # HELP process_start_time_seconds Start.\n\
             # TYPE process_start_time_seconds gauge\n\
             # UNIT process_start_time_seconds seconds\n\
             process_start_time_seconds 17\n\
             # EOF\n"
        );
    }
}
