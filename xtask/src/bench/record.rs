//! `raw.csv`: one line per measurement, written as soon as it is there.

use super::{process::Usage, scenario::Scenario, shares::Used, systems::System};
use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
};

/// The file's name in the directory of a run.
const FILE: &str = "raw.csv";

/// The figures of a measurement, in the order of the columns.
///
/// `out` is the client's proxy and `in` the server's; both are empty where there is none.
const FIGURES: &[&str] = &[
    "seconds",
    "requests",
    "errors",
    "bytes",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_out_s",
    "cpu_in_s",
    "resident_before_out_kib",
    "resident_before_in_kib",
    "resident_out_kib",
    "resident_in_kib",
    "peak_out_kib",
    "peak_in_kib",
    "switches_out",
    "switches_in",
    "start_s",
    "counted_requests",
    "syscalls_out",
    "syscalls_in",
    "allocations_out",
    "allocations_in",
    "share_used_out",
    "share_used_in",
    "share_used_least_out",
    "share_used_least_in",
];

/// What one measurement found, by the names in [`FIGURES`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured(BTreeMap<String, f64>);

impl Measured {
    /// Reads the line `RESULT key=value …` that every load prints.
    pub(super) fn parse(output: &str) -> anyhow::Result<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix("RESULT "));
        let line = line.with_context(|| format!("no result in: {output}"))?;
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        let figures = pairs.map(|(key, value)| Ok((key.to_owned(), value.parse()?)));
        figures.collect::<anyhow::Result<_>>().map(Self).context("a figure is no number")
    }

    pub(super) fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }

    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Adds what both proxies used between two readings.
    pub(super) fn add_usage(&mut self, before: &[Usage; 2], after: &[Usage; 2]) {
        for (index, side) in ["out", "in"].iter().enumerate() {
            let (before, after) = (&before[index], &after[index]);
            let cpu = after.cpu.saturating_sub(before.cpu);
            self.set(&format!("cpu_{side}_s"), cpu.as_secs_f64());
            self.set(&format!("resident_before_{side}_kib"), before.resident_kib as f64);
            self.set(&format!("resident_{side}_kib"), after.resident_kib as f64);
            self.set(&format!("peak_{side}_kib"), after.peak_kib as f64);
            let switches = after.switches.saturating_sub(before.switches);
            self.set(&format!("switches_{side}"), switches as f64);
        }
    }

    /// Adds what the workers of both proxies used of what they might.
    pub(super) fn add_shares(&mut self, used: &[Used; 2]) {
        for (used, side) in used.iter().zip(["out", "in"]) {
            self.set(&format!("share_used_{side}"), used.mean);
            self.set(&format!("share_used_least_{side}"), used.least);
        }
    }

    /// Requests or bytes per second.
    pub(super) fn per_second(&self, name: &str) -> Option<f64> {
        Some(self.get(name)? / self.get("seconds").filter(|seconds| *seconds > 0.0)?)
    }

    /// A figure of both proxies together, for this many requests or bytes.
    pub(super) fn both_per(&self, figure: &str, name: &str, count: f64) -> Option<f64> {
        let both = self.both(figure)?;
        Some(both * count / self.get(name).filter(|value| *value > 0.0)?)
    }

    /// A figure of both proxies together: `cpu_{}_s` and the like.
    pub(super) fn both(&self, figure: &str) -> Option<f64> {
        Some(self.get(&figure.replace("{}", "out"))? + self.get(&figure.replace("{}", "in"))?)
    }

    /// A short line for whoever is watching.
    pub(super) fn line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(bytes) = self.per_second("bytes").filter(|bytes| *bytes > 0.0) {
            parts.push(format!("{:.2} GB/s", bytes / 1e9));
        } else if let Some(requests) = self.per_second("requests") {
            parts.push(format!("{requests:.0}/s"));
        }
        if let Some(cpu) = self.both("cpu_{}_s") {
            parts.push(format!("{cpu:.2} CPU-s"));
        }
        if let Some(p99) = self.get("p99_us") {
            parts.push(format!("p99 {p99:.0} µs"));
        }
        if let Some(resident) = self.both("resident_{}_kib") {
            parts.push(format!("{:.1} MiB", resident / 1024.0));
        }
        for (figure, name) in [("syscalls_{}", "system calls"), ("allocations_{}", "allocations")] {
            if let Some(count) = self.both_per(figure, "counted_requests", 1.0) {
                parts.push(format!("{count:.2} {name} per request"));
            }
        }
        if let (Some(least_out), Some(least_in)) =
            (self.get("share_used_least_out"), self.get("share_used_least_in"))
        {
            let percent = |name| self.get(name).unwrap_or_default() * 100.0;
            let (out, inn) = (percent("share_used_out"), percent("share_used_in"));
            parts.push(format!(
                "shares used {out:.0} % and {inn:.0} % (at least {:.0} % and {:.0} %)",
                least_out * 100.0,
                least_in * 100.0
            ));
        }
        if let Some(errors) = self.get("errors").filter(|errors| *errors > 0.0) {
            parts.push(format!("{errors} ERRORS"));
        }
        parts.join(", ")
    }
}

/// The file while a run writes it.
pub(super) struct Records {
    file: File,
}

impl Records {
    /// Makes the directory and begins the file. Refuses to mix two runs.
    pub(super) fn create(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        if path.exists() {
            bail!("{} exists; hint: remove it or choose --output", path.display());
        }
        fs::create_dir_all(directory)
            .and_then(|()| File::create(&path))
            .and_then(|mut file| {
                writeln!(file, "round,system,scenario,failure,{}", FIGURES.join(","))?;
                Ok(Self { file })
            })
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes one measurement, or why there is none.
    pub(super) fn add(
        &mut self,
        round: u32,
        system: System,
        scenario: Scenario,
        result: anyhow::Result<Measured>,
    ) -> anyhow::Result<()> {
        let (failure, measured) = match result {
            Ok(measured) => (String::new(), measured),
            Err(error) => {
                (format!("{error:#}").replace([',', '\n', '"'], ";"), Measured::default())
            }
        };
        let figure = |name: &&str| measured.get(name).map_or_else(String::new, |v| v.to_string());
        let figures: Vec<_> = FIGURES.iter().map(figure).collect();
        let (system, scenario) = (system.name(), scenario.name());
        writeln!(self.file, "{round},{system},{scenario},{failure},{}", figures.join(","))
            .context("cannot write raw.csv")
    }
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) system: String,
    pub(super) scenario: String,
    /// Empty if the measurement succeeded.
    pub(super) failure: String,
    pub(super) measured: Measured,
}

/// Reads what a run has written.
pub(super) fn read(directory: &Path) -> anyhow::Result<Vec<Record>> {
    let path = directory.join(FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let record = |line: &str| {
        let fields: BTreeMap<_, _> = header.iter().copied().zip(line.split(',')).collect();
        let text = |name| fields.get(name).copied().unwrap_or_default().to_owned();
        let figures = FIGURES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), fields.get(name)?.parse().ok()?)));
        Record {
            system: text("system"),
            scenario: text("scenario"),
            failure: text("failure"),
            measured: Measured(figures.collect()),
        }
    };
    Ok(lines.map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_load_prints() {
        let measured = Measured::parse("noise\nRESULT requests=300 seconds=2\n").unwrap();
        assert_eq!(measured.per_second("requests"), Some(150.0));
        assert!(Measured::parse("requests=300").is_err());
        assert!(Measured::parse("RESULT requests=many").is_err());
    }

    #[test]
    fn cost_is_that_of_both_proxies() {
        let mut measured = Measured::parse("RESULT requests=50000 seconds=2").unwrap();
        assert_eq!(measured.both_per("cpu_{}_s", "requests", 1e5), None);
        measured.set("cpu_out_s", 1.0);
        measured.set("cpu_in_s", 0.5);
        assert_eq!(measured.both_per("cpu_{}_s", "requests", 1e5), Some(3.0));
    }

    #[test]
    fn reads_back_what_was_written() {
        let directory =
            std::env::temp_dir().join(format!("hauberk-bench-record-{}", std::process::id()));
        let mut records = Records::create(&directory).unwrap();
        let measured = Measured::parse("RESULT requests=3 seconds=2").unwrap();
        records.add(1, System::Direct, Scenario::Idle, Ok(measured.clone())).unwrap();
        let failed = Err(anyhow::anyhow!("no,\nnever"));
        records.add(1, System::Relay, Scenario::Idle, failed).unwrap();
        let refused = Records::create(&directory).is_err();
        let read = read(&directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(refused, "two runs in one file");
        assert_eq!(read[0].measured, measured);
        assert_eq!((&*read[1].system, &*read[1].failure), ("relay", "no;;never"));
    }
}
