//! From `raw.csv` to tables and a plot: the median of all rounds for each scenario and system.

use super::{
    plot::{self, Panel},
    record::{self, Measured, Record},
    scenario::{Scenario, Unit},
    systems::System,
    targets::TARGETS,
};
use anyhow::Context;
use clap::ValueEnum;
use std::{fmt::Write, fs, path::Path};

/// Connections held in the scenarios of idle connections.
const IDLE_CONNECTIONS: f64 = 1_000.0;

/// Writes `README.md` and `cost.svg` beside `raw.csv` and shows the tables.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    let records = record::read(directory)?;
    let machine = fs::read_to_string(directory.join("machine.txt")).unwrap_or_default();
    let tables = tables(&records);
    let machine: String = machine.lines().map(|line| format!("- {line}\n")).collect();
    let text = format!(
        "# A run of the benchmark\n\n\
         Medians of what `raw.csv` holds; what is measured and how: `docs/reference/benchmark.md`.\n\
         Absolute figures compare within this run only.\n\n{machine}\n{tables}"
    );
    let path = directory.join("README.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let heading = "CPU-seconds of both proxies per 100,000 requests (less is better)";
    let panels = panels(&records);
    if !panels.is_empty() {
        let path = directory.join("cost.svg");
        fs::write(&path, plot::draw(heading, &panels))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{tables}");
    println!("bench: written to {}", directory.display());
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
        let columns = columns(scenario.unit());
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
    text + &targets(records) + &legend(records)
}

/// Hauberk's figures beside its targets; nothing if it was not measured.
fn targets(records: &[Record]) -> String {
    let mut rows = String::new();
    for target in TARGETS {
        let (scenario, system) = (target.scenario.name(), System::Hauberk.name());
        let of_both = records.iter().filter(|it| it.scenario == scenario && it.system == system);
        let figures = of_both.filter_map(|it| (target.figure)(&it.measured)).collect();
        let Some(figure) = median(figures) else { continue };
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
            let (scenario, system) = (scenario.name(), system.name());
            let of_both =
                records.iter().filter(|it| it.scenario == scenario && it.system == system);
            let costs = of_both.filter_map(|it| it.measured.both_per("cpu_{}_s", "requests", 1e5));
            let cost = median(costs.collect())?;
            Some((system, cost))
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

fn columns(unit: Unit) -> Vec<Column> {
    let resident: [Column; 2] = [
        ("MiB out", |it| Some(it.get("resident_out_kib")? / 1024.0)),
        ("MiB in", |it| Some(it.get("resident_in_kib")? / 1024.0)),
    ];
    match unit {
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
            ];
            columns.extend(resident);
            columns
        }
        Unit::Bytes => {
            let mut columns: Vec<Column> = vec![
                ("GB/s", |it| Some(it.per_second("bytes")? / 1e9)),
                ("CPU-s per GB, both", |it| it.both_per("cpu_{}_s", "bytes", 1e9)),
            ];
            columns.extend(resident);
            columns
        }
    }
}

/// Memory that a held connection added to one side.
pub(super) fn growth(measured: &Measured, side: &str) -> Option<f64> {
    measured.get("requests")?;
    let after = measured.get(&format!("resident_{side}_kib"))?;
    Some((after - measured.get(&format!("resident_before_{side}_kib"))?) / IDLE_CONNECTIONS)
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
fn shown(value: f64) -> String {
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
        assert!(!text.contains("| envoy |"), "{text}");
        assert!(!text.contains("## Targets"), "{text}");
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
