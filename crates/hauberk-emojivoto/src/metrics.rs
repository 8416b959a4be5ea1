//! What the gRPC services count, for Prometheus.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    grpc_service: &'static str,
    grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Choice {
    emoji: String,
}

/// Upper bounds of the histogram's buckets, in seconds.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics of one service.
pub(crate) struct Metrics {
    registry: Registry,
    handling_seconds: Family<Call, Histogram>,
    votes: Family<Choice, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let handling_seconds: Family<Call, Histogram> =
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        let votes = Family::<Choice, Counter>::default();
        let help = "Time until a call was answered";
        registry.register("grpc_server_handling_seconds", help, handling_seconds.clone());
        registry.register("emojivoto_votes", "Votes counted", votes.clone());
        Self { registry, handling_seconds, votes }
    }

    /// A call of `procedure` was answered after `took`.
    pub(crate) fn handled(&self, service: &'static str, procedure: &str, took: Duration) {
        let call = Call { grpc_service: service, grpc_method: procedure.to_owned() };
        self.handling_seconds.get_or_create(&call).observe(took.as_secs_f64());
    }

    /// A vote was counted.
    pub(crate) fn voted(&self, shortcode: &str) {
        self.votes.get_or_create(&Choice { emoji: shortcode.to_owned() }).inc();
    }

    /// Everything in the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}
