//! The text format of Prometheus and OpenMetrics, as far as proxies write it.
//!
//! Lenient by design: a line that cannot be read is counted and left out, so that one odd family
//! never hides the others. Text comes from the network, so sizes are bounded.

use std::{borrow::Cow, collections::BTreeMap};

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most samples read from one scrape. A busy proxy has some thousands.
pub const SAMPLES_MAX: usize = 200_000;

/// One value of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'t> {
    /// Name of the metric, with suffixes such as `_total` or `_bucket`.
    pub name: &'t str,
    /// Labels by name.
    pub labels: BTreeMap<&'t str, Cow<'t, str>>,
    /// The value; may be infinite or not a number.
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label; empty if it is absent, as Prometheus holds it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", |value| value)
    }
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed<'t> {
    /// All samples that could be read, in order.
    pub samples: Vec<Sample<'t>>,
    /// Lines that could not be read, or were too many.
    pub skipped: usize,
}

/// Reads a scrape, keeping only metrics that `wanted` asks for by name.
pub fn parse(text: &str, wanted: impl Fn(&str) -> bool) -> Parsed<'_> {
    let mut parsed = Parsed::default();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = &line[..line.find(['{', ' ', '\t']).unwrap_or(line.len())];
        if !wanted(name) {
            continue;
        }
        let full = parsed.samples.len() >= SAMPLES_MAX || line.len() > LINE_BYTES_MAX;
        match (!full).then(|| sample(line)).flatten() {
            Some(sample) => parsed.samples.push(sample),
            None => parsed.skipped += 1,
        }
    }
    parsed
}

/// One line: `name{label="value",…} value [timestamp] [# exemplar]`.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    (!name.is_empty()).then_some(Sample { name, labels, value })
}

type Labels<'t> = BTreeMap<&'t str, Cow<'t, str>>;

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let quoted = after.trim_start().strip_prefix('"')?;
        let end = closing_quote(quoted)?;
        labels.insert(name.trim(), unescape(&quoted[..end]));
        rest = &quoted[end + 1..];
    }
}

/// Position of the first quote that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some(c)) => plain.push(c),
            (c, _) => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, name: &str, labels: &[(&str, &str)], value: f64) {
        let parsed = parse(line, |_| true);
        assert_eq!(parsed.skipped, 0, "{line}");
        let [sample] = &parsed.samples[..] else { panic!("one sample in {line}") };
        assert_eq!((sample.name, sample.value), (name, value), "{line}");
        let got: Vec<_> = sample.labels.iter().map(|(n, v)| (*n, &**v)).collect();
        assert_eq!(got, labels, "{line}");
    }

    #[test]
    fn reads_samples() {
        check("up 1", "up", &[], 1.0);
        check(
            "a_total{b=\"c\",d=\"\"} 2.5e3 1700000000",
            "a_total",
            &[("b", "c"), ("d", "")],
            2500.0,
        );
        check(r#"a{p="x\"y\\z\n,}"} 1"#, "a", &[("p", "x\"y\\z\n,}")], 1.0);
        check("a_bucket{le=\"+Inf\",} 3 # {trace=\"x\"} 1", "a_bucket", &[("le", "+Inf")], 3.0);
        check("g +Inf", "g", &[], f64::INFINITY);
    }

    #[test]
    fn leaves_out_broken_lines_and_comments() {
        let text = "# TYPE a counter\na{b=\"c} 1\na{b=c} 1\na x\n{} 1\na\nok 1\n";
        let parsed = parse(text, |_| true);
        assert_eq!(parsed.samples.len(), 1);
        assert_eq!(parsed.skipped, 5);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = parse(&text, |_| true);
        }

        #[test]
        fn label_values_survive(value in "\\PC{0,20}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let line = format!("m{{v=\"{escaped}\"}} 1");
            let parsed = parse(&line, |_| true);
            prop_assert_eq!(parsed.samples[0].label("v"), value);
        }
    }
}
