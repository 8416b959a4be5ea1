//! Writes families in the Prometheus text format, version 0.0.4.
//!
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>. Ends with `# EOF`, a comment in this format, by
//! which readers of linkerd2-proxy's metrics know that they have everything.

use std::fmt::Write;

use super::exposition::Value;
use super::registry::Kind;

/// Text that grows by families and samples.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    /// Of the family begun last.
    name: String,
}

const INFALLIBLE: &str = "writing to a String does not fail";

impl Text {
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(INFALLIBLE);
        name.clone_into(&mut self.name);
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: &Value) {
        match value {
            Value::Count(value) => self.line("", None, labels, format_args!("{value}")),
            Value::Integer(value) => self.line("", None, labels, format_args!("{value}")),
            Value::Real(value) => self.line("", None, labels, format_args!("{value:?}")),
            Value::Distribution(snapshot) => {
                let mut count = 0;
                for (bound, bucket) in &snapshot.classic {
                    count += bucket;
                    self.line("_bucket", Some(*bound), labels, format_args!("{count}"));
                }
                self.line("_sum", None, labels, format_args!("{:?}", snapshot.sum));
                self.line("_count", None, labels, format_args!("{count}"));
            }
        }
    }

    fn line(
        &mut self,
        suffix: &str,
        le: Option<f64>,
        labels: &[(&str, &str)],
        value: std::fmt::Arguments<'_>,
    ) {
        let Self { text, name } = self;
        text.push_str(name);
        text.push_str(suffix);
        let mut before = '{';
        match le {
            Some(bound) if bound.is_infinite() => text.push_str("{le=\"+Inf\""),
            Some(bound) => write!(text, "{{le=\"{bound:?}\"").expect(INFALLIBLE),
            None => {}
        }
        if le.is_some() {
            before = ',';
        }
        for (name, value) in labels {
            text.push(before);
            before = ',';
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        if before == ',' {
            text.push('}');
        }
        writeln!(text, " {value}").expect(INFALLIBLE);
    }
}

fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Distribution;
    use super::super::instrument::Series;
    use super::*;

    #[test]
    fn escapes_label_values_and_cumulates_buckets() {
        let distribution = Distribution::new(&[1.0, 2.0]);
        distribution.observe(0.5);
        distribution.observe(7.0);
        let mut text = Text::default();
        text.family("latency_ms", Kind::Histogram, "How long\nit took");
        text.sample(&[("path", "a\"b\\c\n")], &distribution.value());
        text.family("up", Kind::Gauge, "Whether it is");
        text.sample(&[], &Value::Integer(1));
        assert_eq!(
            text.finish(),
            "# HELP latency_ms How long\\nit took\n\
             # TYPE latency_ms histogram\n\
             latency_ms_bucket{le=\"1.0\",path=\"a\\\"b\\\\c\\n\"} 1\n\
             latency_ms_bucket{le=\"2.0\",path=\"a\\\"b\\\\c\\n\"} 1\n\
             latency_ms_bucket{le=\"+Inf\",path=\"a\\\"b\\\\c\\n\"} 2\n\
             latency_ms_sum{path=\"a\\\"b\\\\c\\n\"} 7.5\n\
             latency_ms_count{path=\"a\\\"b\\\\c\\n\"} 2\n\
             # HELP up Whether it is\n\
             # TYPE up gauge\n\
             up 1\n\
             # EOF\n"
        );
    }
}
