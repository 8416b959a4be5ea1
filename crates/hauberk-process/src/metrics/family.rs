//! Series of one name that differ by labels, and when they are let go of.
//!
//! Labels come from traffic: addresses, peers, names of servers. Without a bound, a client that invents names fills
//! the memory of a proxy. So a family
//!
//! - holds at most so many series. When it is full, those that nobody has used lately go first, then all that nobody
//!   holds a handle of; if all are held, a new series counts, but is not shown, and the registry counts that.
//! - may be [forgetful](Family::forgetful): series that nobody holds a handle of and nobody has looked up for the
//!   retention time are dropped. What holds a handle for as long as it may count (an endpoint, a connection) therefore
//!   never sees its counters begin anew.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::exposition::Exposition;
use super::instrument::{Counter, Instrument, Series};
use super::registry::Kind;

/// Series of a family, unless it says otherwise. A series with a dozen labels takes about 2 KiB.
const SERIES_MAX: usize = 20_000;

/// Label names with their values, in the order in which they are shown.
pub trait LabelSet: Clone + Eq + Hash + Send + Sync + 'static {
    /// Shows each label to `see`.
    fn each<'s>(&'s self, see: &mut dyn FnMut(&'s str, &'s str));
}

impl<N, V> LabelSet for Vec<(N, V)>
where
    N: AsRef<str> + Clone + Eq + Hash + Send + Sync + 'static,
    V: AsRef<str> + Clone + Eq + Hash + Send + Sync + 'static,
{
    fn each<'s>(&'s self, see: &mut dyn FnMut(&'s str, &'s str)) {
        for (name, value) in self {
            see(name.as_ref(), value.as_ref());
        }
    }
}

/// Series by their labels. Cloning copies one `Arc`.
pub struct Family<L, S> {
    inner: Arc<Inner<L, S>>,
}

struct Inner<L, S> {
    series: RwLock<HashMap<L, Entry<S>>>,
    make: Box<dyn Fn() -> S + Send + Sync>,
    max: usize,
    is_forgetful: bool,
    overflows: OnceLock<Counter>,
}

struct Entry<S> {
    series: S,
    /// Looked up since somebody last asked whether it is idle.
    used: AtomicBool,
    idle_since: Option<Instant>,
}

impl<L, S> Clone for Family<L, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<L, S> fmt::Debug for Family<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("series", &self.inner.series.read().len()).finish()
    }
}

impl<L, S: Default + 'static> Default for Family<L, S> {
    fn default() -> Self {
        Self::new(S::default)
    }
}

impl<L, S> Family<L, S> {
    /// A family whose series begin as `make` makes them. It remembers all of them, up to 20,000.
    pub fn new(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self::with(Box::new(make), SERIES_MAX, false)
    }

    fn with(make: Box<dyn Fn() -> S + Send + Sync>, max: usize, is_forgetful: bool) -> Self {
        let (series, overflows) = (RwLock::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { series, make, max, is_forgetful, overflows }) }
    }

    /// The same family, but one that lets go of series nobody uses. To be called before it is shared.
    #[must_use]
    pub fn forgetful(self) -> Self {
        let Inner { make, max, .. } = self.into_inner();
        Self::with(make, max, true)
    }

    /// The same family with another bound. To be called before it is shared.
    #[must_use]
    pub fn at_most(self, max: usize) -> Self {
        let Inner { make, is_forgetful, .. } = self.into_inner();
        Self::with(make, max, is_forgetful)
    }

    fn into_inner(self) -> Inner<L, S> {
        Arc::into_inner(self.inner).expect("a family is configured before it is shared")
    }
}

impl<L: LabelSet, S: Series> Family<L, S> {
    /// The series with those labels; a new one if there is none.
    pub fn get_or_create(&self, labels: &L) -> S {
        if let Some(entry) = self.inner.series.read().get(labels) {
            entry.used.store(true, Relaxed);
            return entry.series.clone();
        }
        let mut all = self.inner.series.write();
        if let Some(entry) = all.get(labels) {
            entry.used.store(true, Relaxed);
            return entry.series.clone();
        }
        let series = (self.inner.make)();
        if self.inner.make_room(&mut all) {
            let used = AtomicBool::new(true);
            let entry = Entry { series: series.clone(), used, idle_since: None };
            all.insert(labels.clone(), entry);
        } else if let Some(overflows) = self.inner.overflows.get() {
            overflows.inc();
        }
        series
    }

    /// Series there are now.
    pub fn len(&self) -> usize {
        self.inner.series.read().len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<L: LabelSet, S: Series> Inner<L, S> {
    /// Whether there is room for one more, once those that matter least are gone.
    fn make_room(&self, all: &mut HashMap<L, Entry<S>>) -> bool {
        if all.len() >= self.max {
            all.retain(|_, entry| entry.series.is_held() || entry.used.swap(false, Relaxed));
        }
        if all.len() >= self.max {
            all.retain(|_, entry| entry.series.is_held());
        }
        all.len() < self.max
    }
}

impl<L: LabelSet, S: Series> Instrument for Family<L, S> {
    fn kind(&self) -> Kind {
        S::KIND
    }

    fn collect(&self, out: &mut Exposition) {
        let mut labels = Vec::new();
        for (set, entry) in self.inner.series.read().iter() {
            labels.clear();
            set.each(&mut |name, value| labels.push((name, value)));
            out.sample(&labels, entry.series.value());
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn joined(&self, overflows: &Counter) {
        // The first registry counts; there is one in a process.
        let _ = self.inner.overflows.set(overflows.clone());
    }

    fn forget_idle(&self, now: Instant, retain: Duration) {
        if !self.inner.is_forgetful {
            return;
        }
        self.inner.series.write().retain(|_, entry| {
            if entry.series.is_held() || entry.used.swap(false, Relaxed) {
                entry.idle_since = None;
                return true;
            }
            let idle_since = *entry.idle_since.get_or_insert(now);
            now.duration_since(idle_since) < retain
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::*;

    type Labels = Vec<(&'static str, String)>;

    fn peer(name: usize) -> Labels {
        vec![("peer", name.to_string())]
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_what_nobody_uses_and_keeps_what_somebody_holds() {
        let family = Family::<Labels, Counter>::default().forgetful();
        let kept = Family::<Labels, Counter>::default();
        let mut registry = Registry::default();
        registry.register("a", "Some", family.clone());
        registry.register("b", "Others", kept.clone());
        let held = family.get_or_create(&peer(1));
        family.get_or_create(&peer(2)).inc();
        kept.get_or_create(&peer(3)).inc();
        let retain = Duration::from_secs(600);
        // Used since the last look; idle from now on.
        registry.forget_idle(Instant::now(), retain);
        registry.forget_idle(Instant::now(), retain);
        tokio::time::advance(retain - Duration::from_secs(1)).await;
        registry.forget_idle(Instant::now(), retain);
        assert_eq!(family.len(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        registry.forget_idle(Instant::now(), retain);
        held.inc();
        let text = registry.text();
        assert!(text.contains("a_total{peer=\"1\"} 1\n"), "{text}");
        assert!(!text.contains("peer=\"2\""), "{text}");
        assert!(text.contains("b_total{peer=\"3\"} 1\n"), "{text}");
        assert_eq!(family.get_or_create(&peer(2)).get(), 0);
    }

    #[test]
    fn is_bounded_whatever_clients_invent() {
        let family = Family::<Labels, Counter>::default().at_most(4);
        let mut registry = Registry::default();
        registry.register("a", "Some", family.clone());
        let held: Vec<Counter> = (0..3).map(|name| family.get_or_create(&peer(name))).collect();
        for name in 3..1000 {
            family.get_or_create(&peer(name)).inc();
            assert!(family.len() <= 4);
        }
        for counter in &held {
            counter.inc();
        }
        let text = registry.text();
        for name in 0..3 {
            assert!(text.contains(&format!("a_total{{peer=\"{name}\"}} 1\n")), "{text}");
        }
        assert!(!text.contains("overflows"), "{text}");

        // With all held, another one counts for its holder only, and the registry says so.
        let fourth = family.get_or_create(&peer(2000));
        let fifth = family.get_or_create(&peer(2001));
        fifth.inc();
        assert_eq!((fourth.get(), fifth.get(), family.len()), (0, 1, 4));
        let text = registry.text();
        assert!(text.contains("hauberk_metrics_overflows_total 1\n"), "{text}");
    }
}
