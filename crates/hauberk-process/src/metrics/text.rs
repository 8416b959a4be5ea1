//! Writes families in the Prometheus text format, version 0.0.4.
//!
//! For numbers that do not live in a registry. See
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};

use super::Distribution;

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

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Text that grows by families and samples.
#[derive(Debug, Default)]
pub struct TextWriter {
    text: String,
}

impl TextWriter {
    /// No text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    /// Begins a family; its samples must follow at once. The name is the full one, with `_total`
    /// if it has that.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
    }

    /// One sample. Label values are escaped, names must be legal.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.series(name, "", labels, None);
        self.value(value);
    }

    /// One sample whose labels are written already, in the form `a="b",c="d"`.
    pub fn sample_with(&mut self, name: &str, labels: &str, value: impl Display) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            self.text.push_str(labels);
            self.text.push('}');
        }
        self.value(value);
    }

    /// All samples of one histogram; the name is without `_bucket`.
    pub fn distribution(&mut self, name: &str, labels: &[(&str, &str)], values: &Distribution) {
        let mut count = 0;
        for (bound, bucket) in values.buckets() {
            count += bucket;
            self.series(name, "_bucket", labels, Some(bound));
            self.value(count);
        }
        self.series(name, "_count", labels, None);
        self.value(count);
        self.series(name, "_sum", labels, None);
        self.value(values.sum());
    }

    /// Writes labels in the form that [`TextWriter::sample_with`] takes, for callers that keep
    /// them.
    pub fn labels(labels: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for (name, value) in labels {
            push_label(&mut text, name, value);
        }
        text
    }

    fn series(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], le: Option<f64>) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let mut written = Self::labels(labels);
        if let Some(bound) = le {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            push_label(&mut written, "le", &bound);
        }
        if !written.is_empty() {
            self.text.push('{');
            self.text.push_str(&written);
            self.text.push('}');
        }
    }

    fn value(&mut self, value: impl Display) {
        writeln!(self.text, " {value}").expect("writing to a String does not fail");
    }
}

fn push_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_label_values_and_cumulates_buckets() {
        let distribution = Distribution::new(&[1.0, 2.0]);
        distribution.observe(0.5);
        distribution.observe(7.0);
        let mut text = TextWriter::new();
        text.family("latency_ms", Kind::Histogram, "How long\nit took");
        text.distribution("latency_ms", &[("path", "a\"b\\c\n")], &distribution);
        text.sample("up", &[], 1);
        assert_eq!(
            text.finish(),
            "# HELP latency_ms How long\\nit took\n\
             # TYPE latency_ms histogram\n\
             latency_ms_bucket{path=\"a\\\"b\\\\c\\n\",le=\"1\"} 1\n\
             latency_ms_bucket{path=\"a\\\"b\\\\c\\n\",le=\"2\"} 1\n\
             latency_ms_bucket{path=\"a\\\"b\\\\c\\n\",le=\"+Inf\"} 2\n\
             latency_ms_count{path=\"a\\\"b\\\\c\\n\"} 2\n\
             latency_ms_sum{path=\"a\\\"b\\\\c\\n\"} 7.5\n\
             up 1\n"
        );
    }
}
