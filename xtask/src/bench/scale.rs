//! `cargo xtask bench --scale`: what the control plane costs as the cluster grows.
//!
//! `bench-tools scale` measures one size; here are the sizes, the file `scale.csv` and the table.
//! No namespaces and no root are needed: everything is on loopback.

use super::{
    enclosure::{self, Workshop},
    machine,
    options::Options,
    process,
    record::Measured,
    report,
};
use anyhow::{Context, ensure};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The file's name in the directory of a run.
const FILE: &str = "scale.csv";

/// Most that the control plane holds in memory at 10,000 pods, in MB.
const RESIDENT_MB_MAX: f64 = 150.0;

/// Longest until 99 of 100 of a thousand subscribers have heard of a change, in milliseconds.
const ALL_P99_MS_MAX: f64 = 100.0;

/// How many times what it costs at the smallest size a change costs at the largest, at most. Not
/// one: a search goes deeper among more objects, and caches hold less of them.
const GROWTH_MAX: f64 = 2.0;

/// A column of file and table: the figure's name, its title, and what it is divided by.
const COLUMNS: &[(&str, &str, f64)] = &[
    ("pods", "pods", 1.0),
    ("services", "Services", 1.0),
    ("routes", "routes", 1.0),
    ("load_s", "ready after s", 1.0),
    ("resident_kib", "MB", 1e3 / 1.024),
    ("peak_kib", "peak MB", 1e3 / 1.024),
    ("subscribed_kib", "MB subscribed", 1e3 / 1.024),
    ("index_us", "index µs", 1.0),
    ("answer_us", "answer µs", 1.0),
    ("server_us", "server µs", 1.0),
    ("change_recomputed", "answers derived", 1.0),
    ("change_cpu_us", "CPU µs", 1.0),
    ("change_p50_us", "p50 ms", 1e3),
    ("change_p99_us", "p99 ms", 1e3),
    ("all_recomputed", "answers derived, all", 1.0),
    ("all_cpu_us", "CPU µs, all", 1.0),
    ("all_p50_us", "p50 ms, all", 1e3),
    ("all_p99_us", "p99 ms, all", 1e3),
    ("all_max_us", "max ms, all", 1e3),
];

/// Measures every size inside of a run of everything. That it fails is told, and stops nothing else.
pub(super) fn measure(
    workshop: &Workshop,
    options: &Options,
    directory: &Path,
) -> anyhow::Result<()> {
    // A new network namespace has it down.
    process::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let programs =
        Programs { tool: workshop.tool(), controller: workshop.program("hauberk-controller") };
    if let Err(error) = sizes(&programs, &options.pods, directory) {
        println!("bench: the control plane was not measured: {error:#}");
    }
    Ok(())
}

/// Measures every size alone and makes the table.
pub(super) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let directory = options.directory(root);
    fs::create_dir_all(&directory)?;
    let profile = options.profile.of_others();
    let built = enclosure::target_directory(root)?.join(profile.directory());
    println!("bench: building bench-tools, hauberk-control ({})", profile.name());
    enclosure::cargo_build(root, profile, &["bench-tools", "hauberk-control"], &[])?;
    if !directory.join("machine.txt").exists() {
        machine::describe_basics(&directory)?;
    }
    let programs =
        Programs { tool: built.join("bench-tools"), controller: built.join("hauberk-controller") };
    sizes(&programs, &options.pods, &directory)?;
    report::write(&directory)
}

/// The programs that measure and are measured.
struct Programs {
    tool: PathBuf,
    controller: PathBuf,
}

/// Measures every size and writes the file.
fn sizes(programs: &Programs, pods: &[u32], directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(FILE);
    ensure!(!path.exists(), "{} exists; hint: remove it or choose --output", path.display());
    let write = || format!("cannot write {}", path.display());
    let mut file = fs::File::create(&path).with_context(write)?;
    let names: Vec<_> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    writeln!(file, "{}", names.join(",")).with_context(write)?;
    for pods in pods {
        println!("bench: control plane, {pods} pods");
        let output = Command::new(&programs.tool)
            .arg("scale")
            .arg(&programs.controller)
            .args(["--pods", &pods.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run bench-tools")?;
        ensure!(output.status.success(), "measuring {pods} pods failed ({})", output.status);
        let measured = Measured::parse(&String::from_utf8_lossy(&output.stdout))?;
        let figure = |name: &&str| measured.get(name).map_or_else(String::new, |it| it.to_string());
        let figures: Vec<_> = names.iter().map(figure).collect();
        writeln!(file, "{}", figures.join(",")).with_context(write)?;
    }
    Ok(())
}

/// The section about the control plane; empty if it was not measured.
pub(super) fn table(directory: &Path) -> anyhow::Result<String> {
    let path = directory.join(FILE);
    if !path.exists() {
        return Ok(String::new());
    }
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(shown(&text))
}

fn shown(csv: &str) -> String {
    let sizes: Vec<_> = csv.lines().skip(1).map(Size::parse).collect();
    let titles: Vec<_> = COLUMNS.iter().map(|(_, title, _)| *title).collect();
    let mut text = format!(
        "## Control plane\n\nOne endpoint changes in one file. First with a thousand subscribers of \
         which one follows its service, then with a thousand that all do (all). Delays are from \
         moving the file into place until a subscriber has the update.\n\n| {} |\n|{}\n",
        titles.join(" | "),
        "---:|".repeat(titles.len())
    );
    for size in &sizes {
        let cells = size.0.iter().map(|figure| figure.map_or("-".into(), report::shown));
        let cells: Vec<String> = cells.collect();
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text + &targets(&sizes)
}

/// The figures of one size in the order of the columns.
struct Size(Vec<Option<f64>>);

impl Size {
    fn parse(line: &str) -> Self {
        let figures = line.split(',').zip(COLUMNS);
        Self(figures.map(|(text, (.., unit))| Some(text.parse::<f64>().ok()? / unit)).collect())
    }

    fn get(&self, name: &str) -> Option<f64> {
        let column = COLUMNS.iter().position(|(column, ..)| *column == name)?;
        *self.0.get(column)?
    }
}

fn targets(sizes: &[Size]) -> String {
    let mut rows = String::new();
    let mut row = |what: &str, most: f64, figure: Option<f64>| {
        if let Some(figure) = figure {
            let verdict = if figure <= most { "met" } else { "missed" };
            let figure = report::shown(figure);
            rows += &format!("| {what} | at most {most} | {figure} | {verdict} |\n");
        }
    };
    let (Some(small), Some(large)) = (sizes.first(), sizes.last()) else { return String::new() };
    if large.get("pods") == Some(10_000.0) {
        row("MB at 10,000 pods", RESIDENT_MB_MAX, large.get("resident_kib"));
        row("p99 ms until all of 1,000 know", ALL_P99_MS_MAX, large.get("all_p99_us"));
    }
    row("answers derived for a change", 1.0, large.get("change_recomputed"));
    for (name, what) in [
        ("index_us", "index µs, largest against smallest"),
        ("answer_us", "answer µs, largest against smallest"),
        ("server_us", "server µs, largest against smallest"),
        ("change_cpu_us", "CPU µs of a change, largest against smallest"),
    ] {
        let growth = || Some(large.get(name)? / small.get(name).filter(|it| *it > 0.0)?);
        row(what, GROWTH_MAX, growth());
    }
    format!("\n| figure | target | hauberk | |\n|---|---:|---:|---|\n{rows}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stand_beside_the_targets() {
        let names: Vec<_> = COLUMNS.iter().map(|(name, ..)| *name).collect();
        let size = |pods: &str, change_cpu: &str| {
            let figure = |name: &&str| match *name {
                "pods" => pods.to_owned(),
                "change_cpu_us" => change_cpu.to_owned(),
                "resident_kib" => "97656.25".to_owned(),
                "all_p99_us" => "250000".to_owned(),
                _ => "1".to_owned(),
            };
            names.iter().map(figure).collect::<Vec<_>>().join(",")
        };
        let csv = [names.join(","), size("100", "100"), size("10000", "150")].join("\n");
        let text = shown(&csv);
        for row in [
            "| MB at 10,000 pods | at most 150 | 100 | met |",
            "| p99 ms until all of 1,000 know | at most 100 | 250 | missed |",
            "| answers derived for a change | at most 1 | 1.00 | met |",
            "| CPU µs of a change, largest against smallest | at most 2 | 1.50 | met |",
        ] {
            assert!(text.contains(row), "{row} is not in {text}");
        }
    }
}
