//! What is registered, under which name.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::exposition::Exposition;
use super::instrument::{Counter, Instrument};

/// What a family measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// What numbers are counted in; part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// The instruments of a process, in the order in which they are shown.
#[derive(Default)]
pub struct Registry {
    registered: Vec<Registered>,
    overflows: Counter,
}

struct Registered {
    name: String,
    help: String,
    instrument: Box<dyn Instrument>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.registered.iter().map(|registered| &registered.name)).finish()
    }
}

impl Registry {
    /// Adds an instrument. The name of a counter gets `_total`, that of an info `_info`.
    pub fn register(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        instrument: impl Instrument,
    ) {
        let mut name = name.into();
        name.push_str(instrument.suffix());
        instrument.joined(&self.overflows);
        self.registered.push(Registered {
            name,
            help: help.into(),
            instrument: Box::new(instrument),
        });
    }

    /// Adds an instrument whose name ends with its unit, before what [`Registry::register`] appends.
    pub fn register_with_unit(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        unit: Unit,
        instrument: impl Instrument,
    ) {
        let unit = match unit {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
        };
        self.register(name.into() + unit, help, instrument);
    }

    /// Shows everything.
    pub fn collect(&self, out: &mut Exposition) {
        for Registered { name, help, instrument } in &self.registered {
            if !instrument.is_empty() {
                out.family(name, instrument.kind(), help);
                instrument.collect(out);
            }
        }
        if self.overflows.get() > 0 {
            let help = "Look-ups of series that were not kept because their family was full";
            out.family("hauberk_metrics_overflows_total", Kind::Counter, help);
            out.sample(&[], self.overflows.get());
        }
    }

    /// Everything, as text; for tests of parts.
    pub fn text(&self) -> String {
        let mut out = Exposition::new(super::Format::Text);
        self.collect(&mut out);
        String::from_utf8(out.finish()).expect("the text format is UTF-8")
    }

    /// See [`super::Metrics::forget_idle`].
    pub fn forget_idle(&self, now: Instant, retain: Duration) {
        for registered in &self.registered {
            registered.instrument.forget_idle(now, retain);
        }
    }
}
