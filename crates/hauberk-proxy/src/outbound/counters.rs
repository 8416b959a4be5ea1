//! Counters of one original destination, resolved once.
//!
//! Finding a counter by its labels takes some formatting, a dozen allocations and a hash over all of it: about a tenth
//! of what a connection of one request costs. Labels of a connection that begins are the same for all connections to
//! one destination under one policy, so a [`Counters`] is kept with the destination.

use crate::{
    detect::{Decided, Why},
    http::Version,
    telemetry::{labels::Labels, metrics::Outbound},
};
use hauberk_model::OutboundPolicy;
use hauberk_process::metrics::{Counter, Distribution};
use std::{cell::OnceCell, sync::Arc};

/// Counters of the connections to one destination under one policy. Each is looked for when it first counts.
#[derive(Debug)]
pub struct Counters {
    policy: Arc<OutboundPolicy>,
    protocols: [OnceCell<Counter>; 4],
    detections: [OnceCell<Counter>; 5],
    detect_duration: OnceCell<Distribution>,
}

/// What a connection was found to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// HTTP of that version.
    Http(Version),
    /// Anything.
    Opaque,
    /// TLS of the application's own.
    Tls,
}

impl Carries {
    /// Value of the label `protocol`.
    fn as_str(self) -> &'static str {
        match self {
            Self::Http(Version::Http1) => "http/1",
            Self::Http(Version::Http2) => "http/2",
            Self::Opaque => "opaq",
            Self::Tls => "tls",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Http(Version::Http1) => 0,
            Self::Http(Version::Http2) => 1,
            Self::Opaque => 2,
            Self::Tls => 3,
        }
    }
}

impl Counters {
    /// Nothing has been counted under `policy` yet.
    pub fn new(policy: &Arc<OutboundPolicy>) -> Self {
        Self {
            policy: Arc::clone(policy),
            protocols: Default::default(),
            detections: Default::default(),
            detect_duration: OnceCell::new(),
        }
    }

    /// Whether these are the counters for `policy`.
    pub fn are_of(&self, policy: &Arc<OutboundPolicy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    /// A connection is known to carry that.
    pub fn carries(&self, families: &Outbound, what: Carries) {
        let find = || {
            let labels = Labels::new().with("protocol", what.as_str()).parent(&self.policy.parent);
            families.protocol.get_or_create(&labels)
        };
        self.protocols[what.index()].get_or_init(find).inc();
    }

    /// Looking at the first bytes ended so, after `seconds`.
    pub fn detected<C>(
        &self,
        families: &Outbound,
        decided: &std::io::Result<Decided<C>>,
        seconds: f64,
    ) {
        let (index, result) = match decided {
            Ok(Decided::Http1) => (0, "http/1"),
            Ok(Decided::Http2) => (1, "http/2"),
            Ok(Decided::Opaque(_, Why::Bytes | Why::ServerSpokeFirst)) => (2, "not_http"),
            Ok(Decided::Opaque(_, Why::Timeout)) => (3, "read_timeout"),
            Err(_) => (4, "error"),
        };
        let labels = || Labels::new().parent(&self.policy.parent);
        let duration = || families.detect_duration.get_or_create(&labels());
        self.detect_duration.get_or_init(duration).observe(seconds);
        let find = || families.detect_results.get_or_create(&labels().with("result", result));
        self.detections[index].get_or_init(find).inc();
    }
}
