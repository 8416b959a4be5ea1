//! What a scrape is answered with, and in which format.

use http::HeaderMap;
use http::header::ACCEPT;

use super::distribution::Snapshot;
use super::protobuf::Protobuf;
use super::registry::Kind;
use super::text::Text;

/// A value of one sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter, or any number that is not below zero.
    Count(u64),
    /// Of a gauge.
    Integer(i64),
    /// Any number.
    Real(f64),
    /// Of a histogram.
    Distribution(Box<Snapshot>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format, version 0.0.4.
    Text,
    /// Messages `io.prometheus.client.MetricFamily`, each after its length. The only format that has native histograms.
    Protobuf,
}

impl Format {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// What a client prefers: text, unless it names our kind of protobuf and does not prefer text (RFC 9110 section
    /// 12.5.1).
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let (mut text, mut protobuf) = (0.0_f32, 0.0_f32);
        for value in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in value.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
                let parameters: Vec<(&str, &str)> =
                    parts.filter_map(|part| part.split_once('=')).collect();
                let find = |name: &str| {
                    let found =
                        parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.trim_matches('"'))
                };
                let quality = find("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
                match kind.as_str() {
                    "application/vnd.google.protobuf"
                        if find("proto") == Some("io.prometheus.client.MetricFamily")
                            && find("encoding").is_none_or(|encoding| encoding == "delimited") =>
                    {
                        protobuf = protobuf.max(quality);
                    }
                    "text/plain" | "application/openmetrics-text" => text = text.max(quality),
                    _ => {}
                }
            }
        }
        if protobuf > 0.0 && protobuf >= text { Self::Protobuf } else { Self::Text }
    }
}

/// Families and samples on their way out.
#[derive(Debug)]
pub enum Exposition {
    /// As text.
    Text(Text),
    /// As protobuf.
    Protobuf(Protobuf),
}

impl Exposition {
    /// Nothing yet.
    pub fn new(format: Format) -> Self {
        match format {
            Format::Text => Self::Text(Text::default()),
            Format::Protobuf => Self::Protobuf(Protobuf::default()),
        }
    }

    /// Begins a family; its samples follow at once. The name is the full one, with `_total` if it has that.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        match self {
            Self::Text(text) => text.family(name, kind, help),
            Self::Protobuf(protobuf) => protobuf.family(name, kind, help),
        }
    }

    /// One sample of the family begun last. Label names must be legal.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let value = value.into();
        match self {
            Self::Text(text) => text.sample(labels, &value),
            Self::Protobuf(protobuf) => protobuf.sample(labels, &value),
        }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// What to answer with.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.finish().into_bytes(),
            Self::Protobuf(protobuf) => protobuf.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn check(accept: &str, expect: Format) {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]);
        assert_eq!(Format::negotiate(&headers), expect, "{accept}");
    }

    #[test]
    fn protobuf_is_for_those_who_prefer_it() {
        assert_eq!(Format::negotiate(&HeaderMap::new()), Format::Text);
        check("*/*", Format::Text);
        check("text/plain", Format::Text);
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check(protobuf, Format::Protobuf);
        // What Prometheus sends with native histograms, and without.
        check(
            &format!(
                "{protobuf};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
            ),
            Format::Protobuf,
        );
        check(
            &format!(
                "application/openmetrics-text;version=1.0.0;q=0.6,{protobuf};q=0.5,text/plain;q=0.4"
            ),
            Format::Text,
        );
        check("application/vnd.google.protobuf", Format::Text);
        check(&protobuf.replace("delimited", "text"), Format::Text);
        check(&format!("{protobuf};q=0"), Format::Text);
    }
}
