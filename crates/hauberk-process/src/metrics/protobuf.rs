//! Writes families as `io.prometheus.client.MetricFamily`, each after its length: the format in which Prometheus takes
//! native histograms.

use prost::Message;

use super::exposition::Value;
use super::native;
use super::registry::Kind;

/// The messages of Prometheus' data model that are written here.
///
/// Numbers and types are those of `metrics.proto` in <https://github.com/prometheus/client_model>; fields that are
/// never set are left out.
pub mod messages {
    /// All series of one name.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricFamily {
        /// Full name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// For people.
        #[prost(string, tag = "2")]
        pub help: String,
        /// A [`MetricType`].
        #[prost(enumeration = "MetricType", tag = "3")]
        pub r#type: i32,
        /// The series.
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
    }

    /// What is measured.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum MetricType {
        /// A counter.
        Counter = 0,
        /// A gauge.
        Gauge = 1,
        /// A histogram.
        Histogram = 4,
    }

    /// One series.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        /// What it differs by.
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<LabelPair>,
        /// Set if it is a gauge.
        #[prost(message, optional, tag = "2")]
        pub gauge: Option<Number>,
        /// Set if it is a counter.
        #[prost(message, optional, tag = "3")]
        pub counter: Option<Number>,
        /// Set if it is a histogram.
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }

    /// A label.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LabelPair {
        /// Its name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Its value.
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// `Gauge` and `Counter`, which look the same.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Number {
        /// The number.
        #[prost(double, tag = "1")]
        pub value: f64,
    }

    /// A histogram, classic and native.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        /// Observations.
        #[prost(uint64, tag = "1")]
        pub sample_count: u64,
        /// Their sum.
        #[prost(double, tag = "2")]
        pub sample_sum: f64,
        /// Classic buckets.
        #[prost(message, repeated, tag = "3")]
        pub bucket: Vec<Bucket>,
        /// How fine native buckets are.
        #[prost(sint32, tag = "5")]
        pub schema: i32,
        /// What counts as zero.
        #[prost(double, tag = "6")]
        pub zero_threshold: f64,
        /// Observations that count as zero.
        #[prost(uint64, tag = "7")]
        pub zero_count: u64,
        /// Runs of native buckets.
        #[prost(message, repeated, tag = "12")]
        pub positive_span: Vec<BucketSpan>,
        /// Counts of native buckets, each as the difference from the one before.
        #[prost(sint64, repeated, tag = "13")]
        pub positive_delta: Vec<i64>,
    }

    /// A classic bucket.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Bucket {
        /// Observations in it and below.
        #[prost(uint64, tag = "1")]
        pub cumulative_count: u64,
        /// The largest that is in it.
        #[prost(double, tag = "2")]
        pub upper_bound: f64,
    }

    /// A run of native buckets.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct BucketSpan {
        /// Gap to the run before; the index of the first bucket if there is none.
        #[prost(sint32, tag = "1")]
        pub offset: i32,
        /// Buckets in it.
        #[prost(uint32, tag = "2")]
        pub length: u32,
    }
}

use messages::{
    Bucket, BucketSpan, Histogram, LabelPair, Metric, MetricFamily, MetricType, Number,
};

/// Bytes that grow by families.
#[derive(Debug, Default)]
pub struct Protobuf {
    bytes: Vec<u8>,
    family: Option<MetricFamily>,
}

impl Protobuf {
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }

    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.flush();
        let kind = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        self.family = Some(MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            r#type: kind.into(),
            metric: Vec::new(),
        });
    }

    fn flush(&mut self) {
        if let Some(family) = self.family.take() {
            family.encode_length_delimited(&mut self.bytes).expect("a Vec has room");
        }
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: &Value) {
        let Some(family) = &mut self.family else { return };
        let label = labels.iter();
        let label = label.map(|(name, value)| LabelPair {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        });
        let mut metric = Metric { label: label.collect(), ..Metric::default() };
        let number = match value {
            Value::Count(value) => *value as f64,
            Value::Integer(value) => *value as f64,
            Value::Real(value) => *value,
            Value::Distribution(_) => 0.0,
        };
        match (value, family.r#type()) {
            (Value::Distribution(snapshot), _) => {
                let (spans, positive_delta) = native::spans(&snapshot.native);
                let spans = spans.into_iter();
                let mut cumulative_count = 0;
                let bucket = snapshot.classic.iter().map(|(upper_bound, count)| {
                    cumulative_count += count;
                    Bucket { cumulative_count, upper_bound: *upper_bound }
                });
                metric.histogram = Some(Histogram {
                    bucket: bucket.collect(),
                    sample_count: snapshot.count,
                    sample_sum: snapshot.sum,
                    schema: native::SCHEMA,
                    zero_threshold: native::ZERO_THRESHOLD,
                    zero_count: snapshot.native_zero,
                    positive_span: spans
                        .map(|(offset, length)| BucketSpan { offset, length })
                        .collect(),
                    positive_delta,
                });
            }
            (_, MetricType::Counter) => metric.counter = Some(Number { value: number }),
            (_, MetricType::Gauge | MetricType::Histogram) => {
                metric.gauge = Some(Number { value: number });
            }
        }
        family.metric.push(metric);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Counter, Distribution, Family, Format, Metrics, Real};
    use super::*;

    #[test]
    fn numbers_have_the_bytes_of_the_published_format() {
        let mut protobuf = Protobuf::default();
        protobuf.family("a_total", Kind::Counter, "A");
        protobuf.sample(&[("b", "c")], &Value::Count(2));
        // Written down by hand from metrics.proto and the encoding rules of protobuf.
        let mut expect = vec![34, 0x0a, 7];
        expect.extend_from_slice(b"a_total\x12\x01A");
        expect.extend_from_slice(&[0x22, 19, 0x0a, 6, 0x0a, 1, b'b', 0x12, 1, b'c']);
        expect.extend_from_slice(&[0x1a, 9, 0x09]);
        expect.extend_from_slice(&2_f64.to_le_bytes());
        expect[0] = (expect.len() - 1) as u8;
        assert_eq!(protobuf.finish(), expect);
    }

    #[test]
    fn a_scrape_has_classic_and_native_buckets() {
        let metrics = Metrics::new();
        let latency = Family::<Vec<(&str, &str)>, _>::new(|| Distribution::new(&[1.0, 2.5]));
        let (requests, start) = (Counter::default(), Real::default());
        metrics.register(|registry| {
            registry.register("request", "Requests", requests.clone());
            registry.register("response_latency_ms", "Latency", latency.clone());
            registry.register("start_time_seconds", "Start", start.clone());
        });
        requests.inc_by(3);
        start.set(1.5);
        let series = latency.get_or_create(&vec![("direction", "inbound")]);
        for value in [0.0, 1.0, 1.05, 2.0, 100.0, 100.0] {
            series.observe(value);
        }

        let bytes = metrics.render_as(Format::Protobuf);
        let mut rest = bytes.as_slice();
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).expect("well-formed"));
        }
        let [requests, latency, start] = &families[..] else { panic!("{families:?}") };
        assert_eq!(
            (requests.name.as_str(), requests.r#type()),
            ("request_total", MetricType::Counter)
        );
        assert_eq!(requests.metric[0].counter, Some(Number { value: 3.0 }));
        assert_eq!(start.metric[0].gauge, Some(Number { value: 1.5 }));
        let label = LabelPair { name: "direction".to_owned(), value: "inbound".to_owned() };
        assert_eq!(
            (latency.r#type(), &latency.metric[0].label),
            (MetricType::Histogram, &vec![label])
        );
        let histogram = latency.metric[0].histogram.as_ref().expect("a histogram");
        let classic: Vec<_> =
            histogram.bucket.iter().map(|b| (b.upper_bound, b.cumulative_count)).collect();
        assert_eq!(classic, [(1.0, 2), (2.5, 4), (f64::INFINITY, 6)]);
        assert_eq!((histogram.sample_count, histogram.sample_sum), (6, 204.05));
        assert_eq!((histogram.schema, histogram.zero_count), (3, 1));
        // 1 is the bound of bucket 0, 1.05 is in the next, 2 is the bound of 8, 100 lies below 2^(54/8) = 107.6.
        let span = |offset, length| BucketSpan { offset, length };
        assert_eq!(histogram.positive_span, [span(0, 2), span(6, 1), span(45, 1)]);
        assert_eq!(histogram.positive_delta, [1, 0, 0, 1]);
    }
}
