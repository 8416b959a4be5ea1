//! What the control plane counts.

use hauberk_process::metrics::{Counter, Family, Gauge, Metrics};
use hauberk_resources::Kind;
use tonic::Code;

/// One label and its value.
pub(crate) type Labels = Vec<(&'static str, &'static str)>;

/// The publisher's numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublisherMetrics {
    /// Events taken in.
    pub(crate) events: Counter,
    /// Answers derived again.
    pub(crate) recomputed: Counter,
    /// Answers that differed and were handed on.
    pub(crate) published: Counter,
    /// Keys somebody listens to.
    pub(crate) keys: Gauge,
    /// Annotations that cannot be read.
    pub(crate) unreadable: Gauge,
}

impl PublisherMetrics {
    /// Registers the families.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let mut add =
                |name, help, counter: &Counter| registry.register(name, help, counter.clone());
            add("control_events", "Changes of resources taken in", &own.events);
            add("control_answers_recomputed", "Answers derived again", &own.recomputed);
            add("control_answers_published", "Answers that changed", &own.published);
            registry.register("control_keys", "Questions somebody listens to", own.keys.clone());
            let help = "Annotations that cannot be read now and count as absent";
            registry.register("control_unreadable_annotations", help, own.unreadable.clone());
        });
        own
    }
}

/// Numbers of files that are followed.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileMetrics {
    contents: Family<Labels, Counter>,
}

impl FileMetrics {
    /// Registers the families.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        let help = "Changed contents of followed files, by whether they were taken into use";
        metrics.register(|registry| {
            registry.register("control_followed_contents", help, own.contents.clone());
        });
        own
    }

    /// Counts a content, good or not.
    pub(crate) fn content(&self, what: &'static str, outcome: &'static str) {
        self.contents.get_or_create(&vec![("what", what), ("outcome", outcome)]).inc();
    }
}

/// Numbers of the admission webhooks.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdmissionMetrics {
    reviews: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
}

impl AdmissionMetrics {
    /// Registers the families.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let help = "Objects that were reviewed, by kind and verdict";
            registry.register("control_admission_reviews", help, own.reviews.clone());
            let help = "Requests to the webhooks that were no reviews, by what is wrong with them";
            registry.register("control_admission_failures", help, own.failures.clone());
        });
        own
    }

    /// Counts an answer. Kinds that the mesh does not read count together.
    pub(crate) fn review(&self, kind: Option<Kind>, verdict: &'static str) {
        let (group, kind) = kind.map_or(("", "other"), |kind| (kind.group(), kind.name()));
        let labels = vec![("group", group), ("kind", kind), ("verdict", verdict)];
        self.reviews.get_or_create(&labels).inc();
    }

    /// Counts a request that has no answer.
    pub(crate) fn failure(&self, reason: &'static str) {
        self.failures.get_or_create(&vec![("reason", reason)]).inc();
    }
}

/// The services' numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceMetrics {
    streams: Family<Labels, Gauge>,
    messages: Family<Labels, Counter>,
    certificates: Family<Labels, Counter>,
}

impl ServiceMetrics {
    /// Registers the families.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let help = "Streams now open";
            registry.register("control_streams", help, own.streams.clone());
            let help = "Messages sent on streams";
            registry.register("control_stream_messages", help, own.messages.clone());
            let help = "Requests for certificates by outcome";
            registry.register("identity_certify", help, own.certificates.clone());
        });
        own
    }

    /// Counts a stream of a method while the value exists.
    pub(crate) fn stream(&self, method: &'static str) -> OpenStream {
        let labels = vec![("method", method)];
        let open = self.streams.get_or_create(&labels);
        open.inc();
        OpenStream { open, messages: self.messages.get_or_create(&labels) }
    }

    /// Counts the outcome of a request for a certificate.
    pub(crate) fn certify(&self, code: Code) {
        let code = match code {
            Code::Ok => "ok",
            Code::InvalidArgument => "invalid_argument",
            Code::FailedPrecondition => "failed_precondition",
            Code::Unavailable => "unavailable",
            _ => "error",
        };
        self.certificates.get_or_create(&vec![("code", code)]).inc();
    }
}

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    open: Gauge,
    messages: Counter,
}

impl OpenStream {
    /// Counts a message.
    pub(crate) fn sent(&self) {
        self.messages.inc();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}
