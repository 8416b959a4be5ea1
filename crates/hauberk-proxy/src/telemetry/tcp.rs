//! Counting connections: opened, open, closed, and the bytes above TLS.
//!
//! Family names and labels are those of linkerd2-proxy (`tcp_open_total`, `tcp_open_connections`, `tcp_close_total`,
//! `tcp_read_bytes_total`, `tcp_write_bytes_total`). A [`Transport`] is resolved when labels are known; each
//! connection then carries a [`Sensor`], whose drop counts the end.
//!
//! Targets come and go, so their series must too: [`Families::forget_idle`] removes those without a connection for
//! the time that the settings say, as linkerd2-proxy does.

use crate::telemetry::labels::Labels;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    cell::Cell,
    collections::HashMap,
    io,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// The transport families.
#[derive(Clone, Debug, Default)]
pub struct Families {
    /// Every series there is. Locked for a look-up when a connection begins.
    known: Arc<Mutex<HashMap<Labels, Series>>>,
    open: Family<Labels, Counter>,
    open_now: Family<Labels, Gauge>,
    close: Family<Labels, Counter>,
    read: Family<Labels, Counter>,
    write: Family<Labels, Counter>,
}

/// One combination of labels.
#[derive(Debug)]
struct Series {
    transport: Weak<Transport>,
    /// Since when there has been no connection, as far as [`Families::forget_idle`] has seen.
    idle_since: Option<Instant>,
}

/// Which end of the proxy a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// Accepted: the client.
    Source,
    /// Dialled: the server.
    Destination,
}

impl PeerEnd {
    /// Value of the metric label `peer`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
        }
    }
}

/// The counters of one kind of connection, resolved.
#[derive(Debug)]
pub struct Transport {
    labels: Labels,
    families: Families,
    open: Counter,
    open_now: Gauge,
    read: Counter,
    write: Counter,
    /// Of `close`, for connections that ended without an error; there from the first such end on.
    closed_well: OnceLock<Counter>,
}

impl Families {
    /// Registers all families.
    pub fn register(registry: &mut Registry) -> Self {
        let families = Self::default();
        registry.register("tcp_open", "Connections opened", families.open.clone());
        registry.register(
            "tcp_open_connections",
            "Connections open now",
            families.open_now.clone(),
        );
        registry.register("tcp_close", "Connections closed", families.close.clone());
        registry.register("tcp_read_bytes", "Bytes read from peers", families.read.clone());
        registry.register("tcp_write_bytes", "Bytes written to peers", families.write.clone());
        families
    }

    /// Resolves the counters for `labels`, which begin with `direction` and `peer`.
    pub fn transport(&self, labels: Labels) -> Arc<Transport> {
        let mut known = self.known.lock();
        if let Some(transport) = known.get(&labels).and_then(|series| series.transport.upgrade()) {
            return transport;
        }
        let transport = Arc::new(Transport {
            open: self.open.get_or_create_owned(&labels),
            open_now: self.open_now.get_or_create_owned(&labels),
            read: self.read.get_or_create_owned(&labels),
            write: self.write.get_or_create_owned(&labels),
            families: self.clone(),
            labels: labels.clone(),
            closed_well: OnceLock::new(),
        });
        known.insert(labels, Series { transport: Arc::downgrade(&transport), idle_since: None });
        transport
    }

    /// Removes series that have been without a connection for `retain`. To be called now and then; cost: linear in
    /// the number of series.
    pub fn forget_idle(&self, now: Instant, retain: Duration) {
        let mut known = self.known.lock();
        known.retain(|labels, series| {
            if series.transport.strong_count() > 0 {
                series.idle_since = None;
                return true;
            }
            let idle_since = *series.idle_since.get_or_insert(now);
            let is_kept = now.duration_since(idle_since) < retain;
            if !is_kept {
                self.remove(labels);
            }
            is_kept
        });
    }

    fn remove(&self, labels: &Labels) {
        self.open.remove(labels);
        self.open_now.remove(labels);
        self.read.remove(labels);
        self.write.remove(labels);
        for errno in ERRNO_NAMES.iter().map(|(_, name)| *name).chain(["", UNKNOWN_ERROR]) {
            self.close.remove(&labels.clone().with("errno", errno));
        }
    }
}

impl Transport {
    fn close(&self, errno: &'static str) -> Counter {
        let labels = self.labels.clone().with("errno", errno);
        self.families.close.get_or_create_owned(&labels)
    }
}

/// Counts one connection. Dropped with it.
#[derive(Debug)]
pub struct Sensor {
    transport: Arc<Transport>,
    error: Cell<Option<i32>>,
}

impl Sensor {
    /// Begins to count a connection that has just been opened.
    pub fn open(transport: &Arc<Transport>) -> Self {
        transport.open.inc();
        transport.open_now.inc();
        Self { transport: Arc::clone(transport), error: Cell::new(None) }
    }

    /// Bytes were read.
    pub fn read(&self, bytes: usize) {
        self.transport.read.inc_by(bytes as u64);
    }

    /// Bytes were written.
    pub fn wrote(&self, bytes: usize) {
        self.transport.write.inc_by(bytes as u64);
    }

    /// The connection failed; the first error counts.
    pub fn failed(&self, error: &io::Error) {
        if self.error.get().is_none() {
            self.error.set(Some(error.raw_os_error().unwrap_or(UNKNOWN_ERRNO)));
        }
    }
}

/// Stands for an error that the kernel did not name, such as a broken TLS record.
const UNKNOWN_ERRNO: i32 = 0;

impl Drop for Sensor {
    fn drop(&mut self) {
        let transport = &self.transport;
        transport.open_now.dec();
        match self.error.get() {
            None => transport.closed_well.get_or_init(|| transport.close("")).inc(),
            Some(errno) => transport.close(errno_name(errno)).inc(),
        };
    }
}

/// The names of error numbers as the kernel's headers have them; the few that end connections.
const ERRNO_NAMES: [(i32, &str); 10] = [
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::EPIPE, "EPIPE"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENOTCONN, "ENOTCONN"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENOBUFS, "ENOBUFS"),
];

/// Stands for every other error.
const UNKNOWN_ERROR: &str = "UNKNOWN";

fn errno_name(errno: i32) -> &'static str {
    let found = ERRNO_NAMES.iter().find(|(number, _)| *number == errno);
    found.map_or(UNKNOWN_ERROR, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_connection_from_opening_to_its_error() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let transport =
            families.transport(Labels::new().with("direction", "inbound").with("peer", "src"));
        let one = Sensor::open(&transport);
        let two = Sensor::open(&transport);
        one.read(5);
        one.wrote(7);
        one.failed(&io::Error::from_raw_os_error(libc::ECONNRESET));
        one.failed(&io::Error::from_raw_os_error(libc::EPIPE));
        drop(one);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "tcp_open_total{direction=\"inbound\",peer=\"src\"} 2",
            "tcp_open_connections{direction=\"inbound\",peer=\"src\"} 1",
            "tcp_read_bytes_total{direction=\"inbound\",peer=\"src\"} 5",
            "tcp_write_bytes_total{direction=\"inbound\",peer=\"src\"} 7",
            "tcp_close_total{direction=\"inbound\",peer=\"src\",errno=\"ECONNRESET\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        drop(two);
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_series_without_connections_and_begins_them_anew() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let labels = Labels::new().with("peer", "dst");
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let retain = Duration::from_secs(600);
        let sensor = Sensor::open(&families.transport(labels.clone()));
        tokio::time::advance(retain * 2).await;
        families.forget_idle(Instant::now(), retain);
        assert!(text(&registry).contains("tcp_open_total{peer=\"dst\"} 1"));

        drop(sensor);
        families.forget_idle(Instant::now(), retain);
        assert!(text(&registry).contains("tcp_close_total{peer=\"dst\",errno=\"\"} 1"));
        tokio::time::advance(retain).await;
        families.forget_idle(Instant::now(), retain);
        assert!(!text(&registry).contains("peer"), "{}", text(&registry));

        let _sensor = Sensor::open(&families.transport(labels));
        assert!(text(&registry).contains("tcp_open_total{peer=\"dst\"} 1"));
    }
}
