//! From `raw.csv` to tables and a plot: the median of all rounds for each scenario and system.

use super::{
    plot::{self, Panel},
    record::{self, Measured, Record},
    scale,
    scenario::{Scenario, Unit},
    summary,
    systems::System,
    targets::{self, TARGETS},
};
use anyhow::Context;
use clap::ValueEnum;
use std::{fmt::Write, fs, path::Path};

/// What the plot shows.
const COST: &str = "CPU-seconds of both proxies per 100,000 requests (less is better)";

/// Writes `README.md` and `cost.svg` beside `raw.csv` and shows the tables.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    let scale = scale::table(directory)?;
    // The control plane may have been measured alone.
    let records = match record::read(directory) {
        Err(_) if !scale.is_empty() => Vec::new(),
        records => records?,
    };
    let machine = fs::read_to_string(directory.join("machine.txt")).unwrap_or_default();
    let tables = if records.is_empty() { scale } else { tables(&records) + &scale };
    let machine: String = machine.lines().map(|line| format!("- {line}\n")).collect();
    let panels = panels(&records);
    let plot = if panels.is_empty() { String::new() } else { format!("![{COST}](cost.svg)\n\n") };
    let text = format!(
        "# A run of the benchmark\n\n\
         Medians of what `raw.csv` holds; what is measured and how: `docs/reference/benchmark.md`.\n\
         Absolute figures compare within this run only.\n\n{machine}\n{plot}{tables}"
    );
    let path = directory.join("README.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    if !panels.is_empty() {
        let path = directory.join("cost.svg");
        fs::write(&path, plot::draw(COST, &panels))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{tables}");
    println!("bench: written to {}", directory.display());
    Ok(())
}

/// Makes tables and plot of a run, as [`fn@write`] has made them, part of the documentation.
pub(super) fn publish(root: &Path, directory: &Path) -> anyhow::Result<()> {
    let documents = root.join("docs/reference");
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let run = directory.file_name().unwrap_or_default().display().to_string();
    let text = fs::read_to_string(directory.join("README.md"))?;
    let text = text
        .replace("# A run of the benchmark\n", &format!("{}{run}\n", summary::TITLE))
        .replace("`docs/reference/benchmark.md`", "[benchmark.md](benchmark.md)")
        .replace("`raw.csv`", &format!("`bench/runs/{run}/raw.csv`"))
        .replace("(cost.svg)", "(benchmark-results.svg)");
    let path = documents.join("benchmark-results.md");
    fs::write(&path, text).with_context(|| cannot(&path))?;
    let plot = directory.join("cost.svg");
    if plot.exists() {
        let path = documents.join("benchmark-results.svg");
        fs::copy(plot, &path).with_context(|| cannot(&path))?;
    }
    summary::publish(root, &run)?;
    println!("bench: published in {} and README.md", documents.display());
    Ok(())
}

/// One section per scenario that was measured.
fn tables(records: &[Record]) -> String {
    let mut text = String::new();
    for scenario in Scenario::value_variants() {
        let name = scenario.name();
        let of_scenario: Vec<_> = records.iter().filter(|it| it.scenario == name).collect();
        if of_scenario.is_empty() {
            continue;
        }
        let columns = columns(*scenario);
        let head: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "## {name}\n\n{}.\n", scenario.text());
        let _ = writeln!(text, "| system | {} |", head.join(" | "));
        let _ = writeln!(text, "|---{}|", "|---:".repeat(columns.len()));
        for system in System::value_variants() {
            let name = system.name();
            let of_system = of_scenario.iter().filter(|it| it.system == name);
            let of_system: Vec<_> = of_system.copied().collect();
            if !of_system.is_empty() {
                let _ = writeln!(text, "| {name} | {} |", row(&of_system, &columns).join(" | "));
            }
        }
        text.push('\n');
    }
    text + &more_workers(records) + &targets(records) + &legend(records)
}

/// What a second worker thread brings, and what it costs; nothing if it was not measured.
fn more_workers(records: &[Record]) -> String {
    let mut rows = String::new();
    for scenario in Scenario::value_variants() {
        for (one, two) in [(System::Hauberk, System::Hauberk2), (System::Envoy, System::Envoy2)] {
            let ratio = |figure: fn(&Measured) -> Option<f64>| {
                let of = |system| median_of(records, *scenario, system, figure);
                Some(of(two)? / of(one).filter(|value| *value > 0.0)?)
            };
            let requests = ratio(|it| it.per_second("requests"));
            let cost = ratio(|it| it.both_per("cpu_{}_s", "requests", 1e5));
            let (Some(requests), Some(cost)) = (requests, cost) else { continue };
            let verdict = match one {
                System::Hauberk if scenario.shape().share_percent.is_some() => {
                    let met = targets::two_workers_do(requests, cost);
                    if met { "met" } else { "missed" }
                }
                _ => "",
            };
            let (scenario, one) = (scenario.name(), one.name());
            // Writing to a string does not fail.
            let _ =
                writeln!(rows, "| {scenario} | {one} | {requests:.2} | {cost:.2} | {verdict} |");
        }
    }
    if rows.is_empty() {
        return rows;
    }
    let most = targets::TWO_WORKERS_CPU;
    let least = targets::TWO_WORKERS_REQUESTS;
    format!(
        "## Two workers against one\n\nTargets: at least {least} × the requests, at most {most} × \
         the CPU. They are judged where each worker is held to a share of a CPU, so that nothing else \
         is scarce.\n\n\
         | scenario | system | requests × | CPU per request × | |\n|---|---|---:|---:|---|\n{rows}\n"
    )
}

/// The median of a figure over the rounds in which a system's measurement succeeded.
pub(super) fn median_of(
    records: &[Record],
    scenario: Scenario,
    system: System,
    figure: fn(&Measured) -> Option<f64>,
) -> Option<f64> {
    let (scenario, system) = (scenario.name(), system.name());
    let of_both = records.iter().filter(|it| it.scenario == scenario && it.system == system);
    median(of_both.filter_map(|it| figure(&it.measured)).collect())
}

/// Hauberk's figures beside its targets; nothing if it was not measured.
fn targets(records: &[Record]) -> String {
    let mut rows = String::new();
    for target in TARGETS {
        let figure = median_of(records, target.scenario, System::Hauberk, target.figure);
        let Some(figure) = figure else { continue };
        let scenario = target.scenario.name();
        let verdict = if target.bound.is_met_by(figure) { "met" } else { "missed" };
        let (bound, figure) = (target.bound.shown(), shown(figure));
        // Writing to a string does not fail.
        let _ = writeln!(rows, "| {scenario} | {} | {bound} | {figure} | {verdict} |", target.what);
    }
    if rows.is_empty() {
        return rows;
    }
    let head = "| scenario | figure | target | hauberk | |\n|---|---|---:|---:|---|\n";
    format!("## Targets\n\n{head}{rows}\n")
}

/// What requests cost, for each scenario in which any were measured.
fn panels(records: &[Record]) -> Vec<Panel> {
    let scenarios = Scenario::value_variants().iter();
    let scenarios = scenarios.filter(|scenario| scenario.unit() == Unit::Requests);
    let panels = scenarios.map(|scenario| {
        let bars = System::value_variants().iter().filter_map(|system| {
            let cost = |it: &Measured| it.both_per("cpu_{}_s", "requests", 1e5);
            Some((system.name(), median_of(records, *scenario, *system, cost)?))
        });
        Panel { title: format!("{}: {}", scenario.name(), scenario.text()), bars: bars.collect() }
    });
    panels.filter(|panel| !panel.bars.is_empty()).collect()
}

/// The systems in the tables, in words.
fn legend(records: &[Record]) -> String {
    let was_measured = |system: &&System| records.iter().any(|it| it.system == system.name());
    let systems = System::value_variants().iter().filter(was_measured);
    let lines = systems.map(|system| format!("- `{}`: {}\n", system.name(), system.text()));
    format!("## Systems\n\n{}", lines.collect::<String>())
}

/// A column: its title and how its figure comes from one measurement.
type Column = (&'static str, fn(&Measured) -> Option<f64>);

fn columns(scenario: Scenario) -> Vec<Column> {
    let resident: [Column; 2] = [
        ("MiB out", |it| Some(it.get("resident_out_kib")? / 1024.0)),
        ("MiB in", |it| Some(it.get("resident_in_kib")? / 1024.0)),
    ];
    let peak: [Column; 2] = [
        ("peak MiB out", |it| Some(it.get("peak_out_kib")? / 1024.0)),
        ("peak MiB in", |it| Some(it.get("peak_in_kib")? / 1024.0)),
    ];
    let shares: [Column; 4] = [
        ("share used out, %", |it| Some(it.get("share_used_out")? * 100.0)),
        ("least used out, %", |it| Some(it.get("share_used_least_out")? * 100.0)),
        ("share used in, %", |it| Some(it.get("share_used_in")? * 100.0)),
        ("least used in, %", |it| Some(it.get("share_used_least_in")? * 100.0)),
    ];
    match scenario.unit() {
        Unit::Requests if scenario.shape().share_percent.is_some() => {
            let mut columns: Vec<Column> = vec![
                ("per second", |it| it.per_second("requests")),
                ("CPU-s per 100k, both", |it| it.both_per("cpu_{}_s", "requests", 1e5)),
                ("p50 µs", |it| it.get("p50_us")),
                ("p99 µs", |it| it.get("p99_us")),
            ];
            columns.extend(shares);
            columns
        }
        Unit::Memory => {
            let mut columns: Vec<Column> = resident.to_vec();
            columns.push(("KiB per connection out", |it| growth(it, "out")));
            columns.push(("KiB per connection in", |it| growth(it, "in")));
            columns.push(("CPU ms per s, both", |it| {
                // Only measured where nothing but rest happened.
                it.get("start_s")?;
                Some(it.both("cpu_{}_s")? * 1e3 / it.get("seconds")?)
            }));
            columns.push(("start s", |it| it.get("start_s")));
            columns
        }
        Unit::Requests => {
            let mut columns: Vec<Column> = vec![
                ("per second", |it| it.per_second("requests")),
                ("CPU-s per 100k, both", |it| it.both_per("cpu_{}_s", "requests", 1e5)),
                ("p50 µs", |it| it.get("p50_us")),
                ("p99 µs", |it| it.get("p99_us")),
                ("p99.9 µs", |it| it.get("p999_us")),
                ("switches per request, both", |it| it.both_per("switches_{}", "requests", 1.0)),
                ("system calls per request, both", |it| {
                    it.both_per("syscalls_{}", "counted_requests", 1.0)
                }),
                ("allocations per request, both", |it| {
                    it.both_per("allocations_{}", "counted_requests", 1.0)
                }),
            ];
            columns.extend(peak);
            columns
        }
        Unit::Bytes => {
            let mut columns: Vec<Column> = vec![
                ("GB/s", |it| Some(it.per_second("bytes")? / 1e9)),
                ("CPU-s per GB, both", |it| it.both_per("cpu_{}_s", "bytes", 1e9)),
            ];
            columns.extend(peak);
            columns
        }
    }
}

/// Memory that a held connection added to one side.
pub(super) fn growth(measured: &Measured, side: &str) -> Option<f64> {
    // Each has carried one request.
    let connections = measured.get("requests").filter(|count| *count > 0.0)?;
    let after = measured.get(&format!("resident_{side}_kib"))?;
    Some((after - measured.get(&format!("resident_before_{side}_kib"))?) / connections)
}

fn row(records: &[&Record], columns: &[Column]) -> Vec<String> {
    let good: Vec<_> = records.iter().filter(|it| it.failure.is_empty()).collect();
    if good.is_empty() {
        let mut row = vec!["-".to_owned(); columns.len()];
        row[0] = "failed".to_owned();
        return row;
    }
    let figure = |(_, figure): &Column| {
        let values = good.iter().filter_map(|record| figure(&record.measured)).collect();
        median(values).map_or_else(|| "-".to_owned(), shown)
    };
    columns.iter().map(figure).collect()
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => values.get(middle).copied(),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Three digits that matter.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_middle_of_rounds() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn shows_medians_and_failures() {
        let record = |system: &str, result: &str, failure: &str| Record {
            system: system.to_owned(),
            scenario: "http1-32".to_owned(),
            failure: failure.to_owned(),
            measured: Measured::parse(&format!("RESULT seconds=2 {result}")).unwrap(),
        };
        let records = [
            record("relay", "requests=200000 cpu_out_s=1 cpu_in_s=2", ""),
            record("relay", "requests=400000 cpu_out_s=1 cpu_in_s=2", ""),
            record("relay", "requests=0", "broke"),
            record("nginx", "requests=0", "broke"),
        ];
        let text = tables(&records);
        assert!(text.contains("| relay | 150000 | 1.12 | - |"), "{text}");
        assert!(text.contains("| nginx | failed | - | - |"), "{text}");
        assert!(!text.contains("## Two workers"), "{text}");
        assert!(!text.contains("| envoy |"), "{text}");
        assert!(!text.contains("## Targets"), "{text}");
    }

    #[test]
    fn sets_two_workers_beside_one() {
        let record = |scenario: &str, system: &str, result: &str| Record {
            system: system.to_owned(),
            scenario: scenario.to_owned(),
            failure: String::new(),
            measured: Measured::parse(&format!("RESULT seconds=1 {result}")).unwrap(),
        };
        let (free, shared) = ("http1-32", "cores-http1-256");
        let one = "requests=100000 cpu_out_s=1 cpu_in_s=1";
        let two = "requests=160000 cpu_out_s=2 cpu_in_s=2";
        let shares = "share_used_out=0.99 share_used_least_out=0.98 share_used_in=0.5";
        let records = [
            record(free, "hauberk", one),
            record(free, "hauberk-2", two),
            // Counting adds a measurement without these figures.
            record(free, "hauberk", "counted_requests=100 syscalls_out=300 syscalls_in=100"),
            record(shared, "hauberk", one),
            record(shared, "hauberk-2", &format!("{two} {shares}")),
            record(shared, "envoy", one),
            record(shared, "envoy-2", two),
        ];
        let text = tables(&records);
        for row in [
            "| http1-32 | hauberk | 1.60 | 1.25 |  |",
            "| hauberk | 100000 | 2.00 | - | - | - | - | 4.00 | - |",
            "| cores-http1-256 | hauberk | 1.60 | 1.25 | missed |",
            "| cores-http1-256 | envoy | 1.60 | 1.25 |  |",
            "| hauberk-2 | 160000 | 2.50 | - | - | 99.0 | 98.0 | 50.0 | - |",
        ] {
            assert!(text.contains(row), "{row} is not in {text}");
        }
    }

    #[test]
    fn sets_figures_beside_targets() {
        let record = Record {
            system: "hauberk".to_owned(),
            scenario: "http1-32".to_owned(),
            failure: String::new(),
            measured: Measured::parse("RESULT requests=100000 cpu_out_s=1 cpu_in_s=2").unwrap(),
        };
        let text = targets(&[record]);
        let row = "| http1-32 | CPU-s per 100k, both | at most 2.2 | 3.00 | missed |";
        assert!(text.contains(row), "{text}");
    }
}
