//! What single proxies are and hold, and whether they are all of one version.
//!
//! [`ProxyFacts`] is read from a proxy's own page, so a proxy is what it says it is. [`Skew`] counts
//! versions. Both are pure; who fetches and draws is elsewhere.

use std::{collections::BTreeMap, fmt};

use crate::prom_text;

/// What builds without a known revision say.
const UNKNOWN: &str = "unknown";

/// Letters of a revision that are enough to tell builds apart.
const REVISION_LETTERS: usize = 7;

/// What a page says of the process that served it. What it does not say is none.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyFacts {
    /// Version of the program.
    pub version: Option<String>,
    /// Revision of its source.
    pub revision: Option<String>,
    /// Unix time at which the process began, in seconds.
    pub started: Option<f64>,
    /// Unix time at which its certificate ends, in seconds; none without a certificate.
    pub certificate_ends: Option<f64>,
    /// Connections that it has accepted and that are open.
    pub connections: f64,
    /// Resident memory in bytes.
    pub resident_bytes: Option<f64>,
    /// Requests since it began, both ways.
    pub requests: f64,
}

impl ProxyFacts {
    /// Reads the text of a `/metrics` page, of a proxy or of the control plane.
    pub fn parse(text: &str) -> Self {
        const WANTED: [&str; 7] = [
            "proxy_build_info",
            "control_build_info",
            "process_start_time_seconds",
            "control_identity_cert_expiration_timestamp_seconds",
            "process_resident_memory_bytes",
            "tcp_open_connections",
            "request_total",
        ];
        let mut facts = Self::default();
        for sample in prom_text::parse(text, |name| WANTED.contains(&name)).samples {
            let positive = (sample.value > 0.0).then_some(sample.value);
            match sample.name {
                "proxy_build_info" | "control_build_info" => {
                    let said = |name| {
                        Some(sample.label(name)).filter(|text| !text.is_empty() && *text != UNKNOWN)
                    };
                    facts.version = said("version").map(str::to_owned);
                    facts.revision = said("git_sha").map(str::to_owned);
                }
                "process_start_time_seconds" => facts.started = positive,
                "process_resident_memory_bytes" => facts.resident_bytes = positive,
                "tcp_open_connections" if sample.label("peer") == "src" => {
                    facts.connections += sample.value;
                }
                "request_total" => facts.requests += sample.value,
                "tcp_open_connections" => {}
                _ => facts.certificate_ends = positive,
            }
        }
        facts
    }

    /// Version and, if known, revision: `0.1.0`, or `0.1.0+1a2b3c4`.
    pub fn build(&self) -> Option<String> {
        let version = self.version.clone()?;
        Some(match &self.revision {
            Some(revision) => {
                let short: String = revision.chars().take(REVISION_LETTERS).collect();
                format!("{version}+{short}")
            }
            None => version,
        })
    }
}

/// How many proxies there are of each version.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Skew(BTreeMap<String, usize>);

impl Skew {
    /// Counts versions; a proxy that does not say its own counts as `unknown`.
    pub fn new(builds: impl IntoIterator<Item = Option<String>>) -> Self {
        let mut counts = BTreeMap::new();
        for build in builds {
            *counts.entry(build.unwrap_or_else(|| UNKNOWN.to_owned())).or_default() += 1;
        }
        Self(counts)
    }

    /// Proxies whose version is not `expected`, whatever their revision.
    pub fn differing(&self, expected: &str) -> usize {
        let version = |build: &str| build.split('+').next().map(str::to_owned);
        let others = self.0.iter().filter(|(build, _)| version(build).as_deref() != Some(expected));
        others.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Skew {
    /// `2 versions: 0.1.0 (12), 0.1.1 (1)`, the most frequent first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(build, count)| (std::cmp::Reverse(*count), *build));
        let list: Vec<_> = all.iter().map(|(build, count)| format!("{build} ({count})")).collect();
        match list.len() {
            0 => f.write_str("no proxies"),
            1 => write!(f, "1 version: {}", list[0]),
            count => write!(f, "{count} versions: {}", list.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = "\
proxy_build_info{version=\"0.1.0\",git_sha=\"1a2b3c4d5e\",profile=\"debug\",vendor=\"hauberk\"} 1
process_start_time_seconds 1700000000.5
process_resident_memory_bytes 8388608
control_identity_cert_expiration_timestamp_seconds 1700086400
tcp_open_connections{direction=\"inbound\",peer=\"src\"} 3
tcp_open_connections{direction=\"outbound\",peer=\"src\"} 2
tcp_open_connections{direction=\"outbound\",peer=\"dst\"} 9
request_total{direction=\"inbound\"} 10
request_total{direction=\"outbound\"} 5
";
        let facts = ProxyFacts::parse(page);
        let expect = ProxyFacts {
            version: Some("0.1.0".into()),
            revision: Some("1a2b3c4d5e".into()),
            started: Some(1_700_000_000.5),
            certificate_ends: Some(1_700_086_400.0),
            connections: 5.0,
            resident_bytes: Some(8_388_608.0),
            requests: 15.0,
        };
        assert_eq!(facts, expect);
        assert_eq!(facts.build().as_deref(), Some("0.1.0+1a2b3c4"));
        assert_eq!(ProxyFacts::parse("odd {"), ProxyFacts::default());
        let control = "control_build_info{version=\"0.2.0\",git_sha=\"unknown\"} 1\n";
        assert_eq!(ProxyFacts::parse(control).build().as_deref(), Some("0.2.0"));
    }

    #[test]
    fn versions_are_counted_and_compared() {
        let builds = |list: &[(&str, usize)]| -> Vec<Option<String>> {
            let many = |(build, count): &(&str, usize)| vec![Some((*build).to_owned()); *count];
            list.iter().flat_map(many).collect()
        };
        let one = Skew::new(builds(&[("0.1.0", 3)]));
        assert_eq!((one.to_string().as_str(), one.differing("0.1.0")), ("1 version: 0.1.0 (3)", 0));
        let two = Skew::new(builds(&[("0.1.1", 1), ("0.1.0", 12)]));
        assert_eq!(two.to_string(), "2 versions: 0.1.0 (12), 0.1.1 (1)");
        assert_eq!((two.differing("0.1.0"), two.differing("0.2.0")), (1, 13));
        let revisions = Skew::new(builds(&[("0.1.0+a", 1), ("0.1.0+b", 1)]));
        assert_eq!(revisions.to_string(), "2 versions: 0.1.0+a (1), 0.1.0+b (1)");
        assert_eq!(revisions.differing("0.1.0"), 0);
        let unknown = Skew::new([None]);
        assert_eq!(unknown.to_string(), "1 version: unknown (1)");
        assert_eq!(unknown.differing("0.1.0"), 1);
        assert_eq!(Skew::default().to_string(), "no proxies");
    }
}
