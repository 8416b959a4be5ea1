//! Metrics as proxies write them.

use hauberk_viz::prom_text::{SAMPLES_MAX, Sample, parse};

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = parse(&text, |_| true);
    let lines = text.lines().map(str::trim);
    let meant = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert_eq!(parsed.samples.len() + parsed.skipped, meant, "every line counts once");
    assert!(parsed.samples.len() <= SAMPLES_MAX);
    let nothing = parse(&text, |_| false);
    assert_eq!((nothing.samples.len(), nothing.skipped), (0, 0), "nothing was wanted");
    for sample in &parsed.samples {
        if is_name(sample.name) && sample.labels.keys().all(|name| is_name(name)) {
            reads_what_is_written(sample);
        }
    }
}

/// Prometheus' data model: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

fn reads_what_is_written(sample: &Sample<'_>) {
    let label = |(name, value): (&&str, &std::borrow::Cow<'_, str>)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    let labels: Vec<_> = sample.labels.iter().map(label).collect();
    let line = format!("{}{{{}}} {}", sample.name, labels.join(","), sample.value);
    let parsed = parse(&line, |_| true);
    assert_eq!(parsed.skipped, 0, "{line:?}");
    let again = &parsed.samples[0];
    assert_eq!((again.name, &again.labels), (sample.name, &sample.labels), "{line:?}");
    assert!(again.value == sample.value || again.value.is_nan() && sample.value.is_nan());
}
