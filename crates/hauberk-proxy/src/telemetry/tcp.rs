//! Counting connections: opened, open, closed, and the bytes above TLS.
//!
//! Family names and labels are those of linkerd2-proxy (`tcp_open_total`, `tcp_open_connections`, `tcp_close_total`,
//! `tcp_read_bytes_total`, `tcp_write_bytes_total`). A [`Transport`] is resolved when labels are known; each
//! connection then carries a [`Sensor`], whose drop counts the end.
//!
//! A dialled endpoint also counts its bytes by how near it is, `outbound_tcp_transfer_cost_bytes_total`: clouds bill
//! what crosses zones.
//!
//! Targets come and go, so their series must too. Nothing holds the handles of a [`Transport`] that has no connection
//! and no endpoint, so the registry lets go of them when the time of the settings is over, as linkerd2-proxy does.

use crate::telemetry::labels::Labels;
use hauberk_process::metrics::{Counter, Family, Gauge, Registry};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

/// The transport families.
#[derive(Clone, Debug)]
pub struct Families {
    /// Every combination of labels that is in use. Locked for a look-up when a connection begins.
    known: Arc<Mutex<HashMap<Labels, Weak<Transport>>>>,
    open: Family<Labels, Counter>,
    open_now: Family<Labels, Gauge>,
    close: Family<Labels, Counter>,
    read: Family<Labels, Counter>,
    write: Family<Labels, Counter>,
    cost: Family<Labels, Counter>,
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
    close: Family<Labels, Counter>,
    open: Counter,
    open_now: Gauge,
    read: Counter,
    write: Counter,
    /// What is received and sent, where it may cost.
    cost: Option<[Counter; 2]>,
    /// By how connections ended, found when they first do.
    closed: Mutex<Vec<(&'static str, Counter)>>,
}

/// How near an endpoint is, by what the control plane says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneLocality {
    /// In our zone.
    Local,
    /// In another one.
    Remote,
    /// Nobody knows.
    Unknown,
}

impl ZoneLocality {
    /// By the value of the endpoint's label `zone_locality`, in any case.
    pub fn new(label: Option<&str>) -> Self {
        match label {
            Some(label) if label.eq_ignore_ascii_case("local") => Self::Local,
            Some(label) if label.eq_ignore_ascii_case("remote") => Self::Remote,
            _ => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Remote => "Remote",
            Self::Unknown => "Unknown",
        }
    }
}

impl Families {
    /// Registers all families.
    pub fn register(registry: &mut Registry) -> Self {
        let mut counters = |name: &str, help: &str| {
            let family = Family::<Labels, Counter>::default().forgetful();
            registry.register(name, help, family.clone());
            family
        };
        let families = Self {
            known: Arc::default(),
            open: counters("tcp_open", "Connections opened"),
            close: counters("tcp_close", "Connections closed"),
            read: counters("tcp_read_bytes", "Bytes read from peers"),
            write: counters("tcp_write_bytes", "Bytes written to peers"),
            cost: counters(
                "outbound_tcp_transfer_cost_bytes",
                "Bytes exchanged with endpoints, by whether they are in our zone",
            ),
            open_now: Family::default().forgetful(),
        };
        let help = "Connections open now";
        registry.register("tcp_open_connections", help, families.open_now.clone());
        families
    }

    /// Resolves the counters for `labels`, which begin with `direction` and `peer`.
    pub fn transport(&self, labels: Labels, zone: Option<ZoneLocality>) -> Arc<Transport> {
        let mut known = self.known.lock();
        if let Some(transport) = known.get(&labels).and_then(Weak::upgrade) {
            return transport;
        }
        let cost = |op: &'static str, zone: ZoneLocality| {
            let labels = Labels::new().with("op", op).with("zone_locality", zone.as_str());
            self.cost.get_or_create(&labels)
        };
        let transport = Arc::new(Transport {
            open: self.open.get_or_create(&labels),
            open_now: self.open_now.get_or_create(&labels),
            read: self.read.get_or_create(&labels),
            write: self.write.get_or_create(&labels),
            cost: zone.map(|zone| [cost("Recv", zone), cost("Send", zone)]),
            close: self.close.clone(),
            labels: labels.clone(),
            closed: Mutex::default(),
        });
        known.insert(labels, Arc::downgrade(&transport));
        transport
    }

    /// Forgets combinations of labels that are not in use. To be called now and then; cost: linear in their number.
    pub fn forget_unused(&self) {
        self.known.lock().retain(|_, transport| transport.strong_count() > 0);
    }
}

impl Transport {
    fn closed(&self, errno: &'static str) {
        let mut closed = self.closed.lock();
        if let Some((_, count)) = closed.iter().find(|(known, _)| *known == errno) {
            count.inc();
            return;
        }
        let count = self.close.get_or_create(&self.labels.clone().with("errno", errno));
        count.inc();
        closed.push((errno, count));
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
        if let Some([received, _]) = &self.transport.cost {
            received.inc_by(bytes as u64);
        }
    }

    /// Bytes were written.
    pub fn wrote(&self, bytes: usize) {
        self.transport.write.inc_by(bytes as u64);
        if let Some([_, sent]) = &self.transport.cost {
            sent.inc_by(bytes as u64);
        }
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
        transport.closed(self.error.get().map_or("", errno_name));
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
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn counts_a_connection_from_opening_to_its_error() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let transport = families
            .transport(Labels::new().with("direction", "inbound").with("peer", "src"), None);
        let one = Sensor::open(&transport);
        let two = Sensor::open(&transport);
        one.read(5);
        one.wrote(7);
        one.failed(&io::Error::from_raw_os_error(libc::ECONNRESET));
        one.failed(&io::Error::from_raw_os_error(libc::EPIPE));
        drop(one);
        let text = registry.text();
        for line in [
            "tcp_open_total{direction=\"inbound\",peer=\"src\"} 2",
            "tcp_open_connections{direction=\"inbound\",peer=\"src\"} 1",
            "tcp_read_bytes_total{direction=\"inbound\",peer=\"src\"} 5",
            "tcp_write_bytes_total{direction=\"inbound\",peer=\"src\"} 7",
            "tcp_close_total{direction=\"inbound\",peer=\"src\",errno=\"ECONNRESET\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("cost"), "{text}");
        drop(two);
    }

    #[test]
    fn counts_what_crosses_zones() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let labels = || Labels::new().with("peer", "dst");
        let remote = ZoneLocality::new(Some("remote"));
        let far = Sensor::open(&families.transport(labels(), Some(remote)));
        far.read(5);
        far.wrote(7);
        let near = labels().with("target_ip", "::1");
        let near = Sensor::open(&families.transport(near, Some(ZoneLocality::new(None))));
        near.wrote(1);
        let text = registry.text();
        let name = "outbound_tcp_transfer_cost_bytes_total";
        for line in [
            "{op=\"Recv\",zone_locality=\"Remote\"} 5",
            "{op=\"Send\",zone_locality=\"Remote\"} 7",
            "{op=\"Send\",zone_locality=\"Unknown\"} 1",
        ] {
            assert!(text.contains(&format!("{name}{line}\n")), "{line} in\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_series_without_connections_and_begins_them_anew() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let labels = Labels::new().with("peer", "dst");
        let retain = Duration::from_secs(600);
        let forget = |registry: &Registry| {
            families.forget_unused();
            registry.forget_idle(Instant::now(), retain);
        };
        let sensor = Sensor::open(&families.transport(labels.clone(), None));
        forget(&registry);
        tokio::time::advance(retain * 2).await;
        forget(&registry);
        assert!(registry.text().contains("tcp_open_total{peer=\"dst\"} 1"));

        drop(sensor);
        forget(&registry);
        assert!(registry.text().contains("tcp_close_total{peer=\"dst\",errno=\"\"} 1"));
        // The first look after its use finds that nobody uses it; from then on time counts.
        forget(&registry);
        tokio::time::advance(retain).await;
        forget(&registry);
        assert!(!registry.text().contains("peer"), "{}", registry.text());

        let _sensor = Sensor::open(&families.transport(labels, None));
        assert!(registry.text().contains("tcp_open_total{peer=\"dst\"} 1"));
    }
}
