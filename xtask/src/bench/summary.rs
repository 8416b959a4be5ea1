//! The table in the root README: a few figures of the run that is published.
//!
//! It stands between two comments and is never written by hand: `--publish` writes it, and
//! `cargo xtask tidy` compares it with the run that `docs/reference/benchmark-results.md` names.

use super::{
    record::{self, Measured, Record},
    report::{growth, median_of, shown},
    scenario::Scenario,
    systems::System,
    targets::{Bound, TARGETS, larger},
};
use anyhow::Context;
use std::{fmt::Write, fs, path::Path};

/// The comments around the table.
const BEGIN: &str = "<!-- Made by `cargo xtask bench --report DIR --publish`; do not edit. -->\n";
const END: &str = "<!-- End of what is made. -->\n";

/// The title of the published results, before the name of the run.
pub(super) const TITLE: &str = "# Results of the benchmark, ";

/// Where those results are.
const RESULTS: &str = "docs/reference/benchmark-results.md";

/// The columns.
const SYSTEMS: &[(&str, System)] = &[
    ("none", System::Direct),
    ("plain relay", System::Relay),
    ("HAProxy", System::Haproxy),
    ("nginx", System::Nginx),
    ("Envoy", System::Envoy),
    ("Hauberk", System::Hauberk),
];

/// A row of the table.
struct Row {
    scenario: Scenario,
    what: &'static str,
    /// The name of the figure among [`TARGETS`], if it has a target.
    target: &'static str,
    figure: fn(&Measured) -> Option<f64>,
}

const CPU: &str = "CPU-s per 100k, both";

const ROWS: &[Row] = &[
    row(Scenario::Rate, "HTTP/1.1, 1,000 requests/s: p50, µs", "p50 µs", p50),
    row(Scenario::Rate, "the same: p99, µs", "", |it| it.get("p99_us")),
    row(Scenario::Rate, "the same: CPU-s per 100,000", CPU, cost),
    row(Scenario::Http1On32, "HTTP/1.1, 32 connections: requests/s", "", rate),
    row(Scenario::Http1On32, "the same: CPU-s per 100,000", CPU, cost),
    row(Scenario::Http2On4, "HTTP/2, 4 × 32 streams: requests/s", "", rate),
    row(Scenario::Http2On4, "the same: CPU-s per 100,000", CPU, cost),
    row(Scenario::Grpc, "gRPC, 4 × 32 streams: calls/s", "", rate),
    row(Scenario::Grpc, "the same: CPU-s per 100,000", CPU, cost),
    row(Scenario::Opaque, "opaque TCP, 32 connections: CPU-s per 100,000", CPU, cost),
    row(
        Scenario::ConnectHttp,
        "a connection for each HTTP request: requests/s",
        "connections per second",
        rate,
    ),
    row(Scenario::ConnectOpaque, "a mutual TLS connection for each message: messages/s", "", rate),
    row(Scenario::BulkTcp, "one large TCP flow: CPU-s per GB", "CPU-s per GB, both", |it| {
        it.both_per("cpu_{}_s", "bytes", 1e9)
    }),
    row(Scenario::Idle, "idle: MiB, the larger proxy", "MiB, the larger", |it| {
        larger(it, |it, side| Some(it.get(&format!("resident_{side}_kib"))? / 1024.0))
    }),
    row(
        Scenario::IdleHttp,
        "an idle HTTP connection: KiB, the larger proxy",
        "KiB per connection, the larger",
        |it| larger(it, growth),
    ),
    row(
        Scenario::IdleOpaque,
        "an idle opaque connection: KiB, the larger proxy",
        "KiB per connection, the larger",
        |it| larger(it, growth),
    ),
];

const fn row(
    scenario: Scenario,
    what: &'static str,
    target: &'static str,
    figure: fn(&Measured) -> Option<f64>,
) -> Row {
    Row { scenario, what, target, figure }
}

fn p50(measured: &Measured) -> Option<f64> {
    measured.get("p50_us")
}

fn rate(measured: &Measured) -> Option<f64> {
    measured.per_second("requests")
}

fn cost(measured: &Measured) -> Option<f64> {
    measured.both_per("cpu_{}_s", "requests", 1e5)
}

/// Puts the table of a run into the README.
pub(super) fn publish(root: &Path, run: &str) -> anyhow::Result<()> {
    let path = root.join("README.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table = of_run(root, run)?;
    let replaced = replaced(&text, &table).context("README.md has no comments for the table")?;
    fs::write(&path, replaced).with_context(|| format!("cannot write {}", path.display()))
}

/// A finding if the table in the README is not that of the published run.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let read = |name: &str| {
        fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let results = read(RESULTS)?;
    let run = results.lines().next().and_then(|title| title.strip_prefix(TITLE));
    let run = run.with_context(|| format!("{RESULTS} names no run"))?;
    let readme = read("README.md")?;
    let expect = replaced(&readme, &of_run(root, run)?);
    if expect.as_ref() == Some(&readme) {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "README.md does not show the figures of the run {run}; hint: cargo xtask bench --report \
         bench/runs/{run} --publish"
    )])
}

/// The text with this between the comments; none if they are not there.
fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn of_run(root: &Path, run: &str) -> anyhow::Result<String> {
    Ok(table(run, &record::read(&root.join("bench/runs").join(run))?))
}

/// The words and the table; rows of which Hauberk has no figure are left out.
fn table(run: &str, records: &[Record]) -> String {
    let systems: Vec<_> = SYSTEMS
        .iter()
        .filter(|(_, system)| records.iter().any(|it| it.system == system.name()))
        .collect();
    let names: Vec<_> = systems.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "A pair of each, one worker per proxy, in one run on one machine \
         ([all figures]({RESULTS}), [raw](bench/runs/{run})):\n\n\
         | | {} | target |\n|---|{}---:|\n",
        names.join(" | "),
        "---:|".repeat(names.len())
    );
    for row in ROWS {
        let of = |system| median_of(records, row.scenario, system, row.figure);
        if of(System::Hauberk).is_none() {
            continue;
        }
        let figure = |(_, system): &&(&str, System)| of(*system).map_or_else(String::new, grouped);
        let figures: Vec<_> = systems.iter().map(figure).collect();
        let target = TARGETS
            .iter()
            .find(|target| target.scenario == row.scenario && target.what == row.target)
            .map_or_else(String::new, |target| bound(target.bound));
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} | {} | {target} |", row.what, figures.join(" | "));
    }
    text
}

fn bound(bound: Bound) -> String {
    let exact = |value: f64| if value >= 1e3 { grouped(value) } else { value.to_string() };
    match bound {
        Bound::AtMost(most) => format!("≤ {}", exact(most)),
        Bound::AtLeast(least) => format!("≥ {}", exact(least)),
    }
}

/// The figure with commas between thousands.
fn grouped(value: f64) -> String {
    let shown = shown(value);
    let (digits, fraction) = match shown.split_once('.') {
        Some((digits, fraction)) => (digits, format!(".{fraction}")),
        None => (&*shown, String::new()),
    };
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + &fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let record = |system: &str, scenario: &str, result: &str| Record {
            system: system.to_owned(),
            scenario: scenario.to_owned(),
            failure: String::new(),
            measured: Measured::parse(&format!("RESULT {result}")).unwrap(),
        };
        vec![
            record("direct", "http1-32", "seconds=1 requests=1234567"),
            record("hauberk", "http1-32", "seconds=1 requests=40000 cpu_out_s=0.5 cpu_in_s=0.5"),
            // Of a scenario without Hauberk there is no row.
            record("direct", "opaque-32", "seconds=1 requests=5"),
        ]
    }

    #[test]
    fn figures_stand_beside_peers_and_targets() {
        let text = table("2026-01-01-x", &records());
        for line in [
            "| | none | Hauberk | target |",
            "| HTTP/1.1, 32 connections: requests/s | 1,234,567 | 40,000 |  |",
            "| the same: CPU-s per 100,000 |  | 2.50 | ≤ 2.2 |",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("opaque") && text.contains("(bench/runs/2026-01-01-x)"), "{text}");
    }

    #[test]
    fn every_named_target_is_one() {
        for row in ROWS.iter().filter(|row| !row.target.is_empty()) {
            let mut targets = TARGETS.iter();
            let found = targets.any(|it| it.scenario == row.scenario && it.what == row.target);
            assert!(found, "{} has no target {}", row.scenario.name(), row.target);
        }
    }

    #[test]
    fn only_what_is_between_the_comments_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(replaced("before\n", "new\n"), None);
    }

    #[test]
    fn a_table_of_other_figures_is_found() {
        let root =
            std::env::temp_dir().join(format!("hauberk-bench-readme-{}", std::process::id()));
        let run = root.join("bench/runs/r");
        fs::create_dir_all(&run).unwrap();
        fs::create_dir_all(root.join("docs/reference")).unwrap();
        fs::write(root.join(RESULTS), format!("{TITLE}r\n")).unwrap();
        let raw = "round,system,scenario,failure,seconds,requests\n1,hauberk,http1-32,,1,40000\n";
        fs::write(run.join("raw.csv"), raw).unwrap();
        fs::write(root.join("README.md"), format!("# x\n{BEGIN}{END}")).unwrap();
        let before = check(&root).unwrap();
        publish(&root, "r").unwrap();
        let published = check(&root).unwrap();
        fs::write(run.join("raw.csv"), raw.replace("40000", "50000")).unwrap();
        let changed = check(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((before.len(), published.len(), changed.len()), (1, 0, 1));
        assert!(changed[0].contains("bench/runs/r --publish"), "{changed:?}");
    }
}
