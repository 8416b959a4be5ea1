//! The instruments without labels. Each is a handle: cloning copies one `Arc`, and all clones count together.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::exposition::{Exposition, Value};
use super::registry::Kind;

/// What can be registered.
pub trait Instrument: Send + Sync + 'static {
    /// What it measures.
    fn kind(&self) -> Kind;

    /// What its kind adds to its name.
    fn suffix(&self) -> &'static str {
        match self.kind() {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    /// Shows its samples, after the family has been begun.
    fn collect(&self, out: &mut Exposition);

    /// Whether there is nothing to show.
    fn is_empty(&self) -> bool {
        false
    }

    /// It was registered; what it cannot keep is to be counted there.
    fn joined(&self, _overflows: &Counter) {}

    /// See [`super::Metrics::forget_idle`].
    fn forget_idle(&self, _now: Instant, _retain: Duration) {}
}

/// An instrument that can be one series of a family.
pub trait Series: Clone + Send + Sync + 'static {
    /// What it measures.
    const KIND: Kind;

    /// Its value now.
    fn value(&self) -> Value;

    /// Whether anybody but the family has a handle.
    fn is_held(&self) -> bool;
}

/// Only rises.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `count`.
    pub fn inc_by(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A whole number that rises and falls.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `count`, which may be below zero.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Makes it `value`.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Any number; the last one set counts. Zero at first.
#[derive(Clone, Debug, Default)]
pub struct Real(Arc<AtomicU64>);

impl Real {
    /// Makes it `value`.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Facts that do not change, as labels of a sample that is always 1.
#[derive(Clone, Debug)]
pub struct Info(Vec<(&'static str, String)>);

impl Info {
    /// These facts, by their names.
    pub fn new(facts: Vec<(&'static str, String)>) -> Self {
        Self(facts)
    }
}

impl Instrument for Info {
    fn kind(&self) -> Kind {
        Kind::Gauge
    }

    fn suffix(&self) -> &'static str {
        "_info"
    }

    fn collect(&self, out: &mut Exposition) {
        let facts: Vec<(&str, &str)> =
            self.0.iter().map(|(name, value)| (*name, value.as_str())).collect();
        out.sample(&facts, 1_u64);
    }
}

impl Series for Counter {
    const KIND: Kind = Kind::Counter;

    fn value(&self) -> Value {
        Value::Count(self.get())
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Series for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn value(&self) -> Value {
        Value::Integer(self.get())
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Series for Real {
    const KIND: Kind = Kind::Gauge;

    fn value(&self) -> Value {
        Value::Real(self.get())
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// A single instrument is a family of one without labels.
macro_rules! single {
    ($($instrument:ty),*) => {$(
        impl Instrument for $instrument {
            fn kind(&self) -> Kind {
                <Self as Series>::KIND
            }

            fn collect(&self, out: &mut Exposition) {
                out.sample(&[], self.value());
            }
        }
    )*};
}

single!(Counter, Gauge, Real, super::Distribution);
