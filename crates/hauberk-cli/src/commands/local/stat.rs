//! `hauberk local stat`: what the lab's workloads do, from the metrics of their sidecars.
//!
//! Each sidecar's metrics page is fetched through the lab, kept for a short window and summed per
//! workload by `hauberk-viz`. Also called by `hauberk local up --stat`, which shows the table until
//! the lab ends.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use hauberk_local::{
    api::{Answer, PodRow, Request},
    client::{Client, StateDirectory},
};
use hauberk_viz::{Side, Store, TargetKey, WorkloadStats, store::Snapshot};

use super::fleet::{self, ADMIN_PORT, workload};
use crate::output;

/// Time the figures of a followed lab are taken over: long enough for shares to settle.
const FOLLOW_WINDOW: Duration = Duration::from_secs(30);

/// The figures are of the side that serves; for a workload that only calls others (marked `out`)
/// they are of its calls.
#[derive(Args, Debug)]
pub(super) struct Stat {
    /// Time the figures are taken over, in seconds; without --watch it is waited for
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    window: u64,
    /// Show it again every so many seconds until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=60))]
    watch: Option<u64>,
    /// How to show it
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people.
    Table,
    /// One array of objects.
    Json,
}

/// Runs the command against that lab.
pub(super) fn run(state: &StateDirectory, stat: &Stat) -> anyhow::Result<()> {
    let mut sampler = Sampler::new(state.clone(), Duration::from_secs(stat.window));
    // Two samples make a rate.
    sampler.sample()?;
    if stat.watch.is_none() {
        output::note(&format!("measuring for {} s\n", stat.window));
        std::thread::sleep(Duration::from_secs(stat.window));
    } else {
        std::thread::sleep(Duration::from_secs(1));
    }
    loop {
        sampler.sample()?;
        match stat.output {
            Format::Table => {
                let clear = stat.watch.is_some() && std::io::stdout().is_terminal();
                output::artefact(&screen(&sampler.table(), clear))?;
            }
            Format::Json => output::artefact(&format!("{}\n", sampler.json()?))?,
        }
        match stat.watch {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            None => return Ok(()),
        }
    }
}

/// Shows the table every few seconds until the lab is gone.
pub(super) fn follow(state: &StateDirectory) -> anyhow::Result<()> {
    let mut sampler = Sampler::new(state.clone(), FOLLOW_WINDOW);
    while sampler.sample().is_ok() {
        output::artefact(&screen(&sampler.table(), std::io::stdout().is_terminal()))?;
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

/// The table, in place of the former one on a terminal and below it elsewhere.
pub(super) fn screen(table: &str, clear: bool) -> String {
    if clear { format!("\x1b[H\x1b[2J\x1b[3J{table}") } else { format!("{table}\n") }
}

/// Fetches pages again and again.
struct Sampler {
    state: StateDirectory,
    store: Store,
    pods: Vec<PodRow>,
    unreachable: usize,
}

impl Sampler {
    fn new(state: StateDirectory, window: Duration) -> Self {
        Self { state, store: Store::new(window), pods: Vec::new(), unreachable: 0 }
    }

    /// Fetches every sidecar's page once.
    fn sample(&mut self) -> anyhow::Result<()> {
        self.pods = match Client::connect(&self.state)?.ask(&Request::Pods)? {
            Answer::Pods { pods } => pods,
            other => bail!("the lab answered {other:?}"),
        };
        self.pods.retain(|pod| !pod.owner.is_empty() || pod.meshed);
        let meshed: Vec<_> = self.pods.iter().filter(|pod| pod.meshed && pod.ready).collect();
        let pages = fetch_all(&self.state, &meshed);
        self.unreachable = pages.iter().filter(|page| page.is_err()).count();
        for (pod, page) in meshed.iter().zip(pages) {
            if let Ok((at, page)) = page {
                self.store.add(target(pod), at, Snapshot::parse(&page));
            }
        }
        let pods = &self.pods;
        self.store.retain(|key| pods.iter().any(|pod| target(pod) == *key));
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let stats = hauberk_viz::stats(&self.store);
        let stats: BTreeMap<_, _> =
            stats.into_iter().map(|s| ((s.namespace.clone(), s.workload.clone()), s)).collect();
        let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
        for pod in &self.pods {
            let key = (pod.namespace.clone(), workload(pod));
            let row = rows.entry(key.clone()).or_insert_with(|| Row {
                namespace: key.0.clone(),
                workload: key.1.clone(),
                pods: 0,
                meshed: 0,
                stats: stats.get(&key).cloned(),
            });
            row.pods += 1;
            row.meshed += usize::from(pod.meshed);
        }
        rows.into_values().collect()
    }

    fn table(&self) -> String {
        let mut table = vec![HEADER.map(str::to_owned)];
        table.extend(self.rows().iter().map(Row::columns));
        let widths: Vec<_> = (0..HEADER.len())
            .map(|at| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &table {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names are aligned to the left, figures to the right.
                let cell =
                    if at < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                line.push_str(&cell);
                line.push_str("   ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if self.unreachable > 0 {
            text += &format!("\n{} sidecars did not answer\n", self.unreachable);
        }
        text
    }

    fn json(&self) -> anyhow::Result<String> {
        let row = |row: &Row| {
            let mut value = serde_json::json!({
                "namespace": row.namespace, "workload": row.workload,
                "pods": row.pods, "meshed": row.meshed,
            });
            value["stats"] = serde_json::to_value(&row.stats)?;
            Ok(value)
        };
        let rows: Result<Vec<_>, serde_json::Error> = self.rows().iter().map(row).collect();
        Ok(serde_json::to_string_pretty(&rows?)?)
    }
}

const HEADER: [&str; 9] =
    ["NAMESPACE", "NAME", "MESHED", "SUCCESS", "RPS", "P50", "P95", "P99", "SECURED"];

/// A workload and its figures.
struct Row {
    namespace: String,
    workload: String,
    pods: usize,
    meshed: usize,
    stats: Option<WorkloadStats>,
}

impl Row {
    fn columns(&self) -> [String; 9] {
        let percent =
            |share: Option<f64>| share.map_or("-".to_owned(), |s| format!("{:.1}%", s * 100.0));
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}ms"));
        let stats = self.stats.as_ref();
        let out = stats.is_some_and(|s| s.side == Side::Outbound);
        let rate = stats.and_then(|s| s.requests_per_second);
        [
            self.namespace.clone(),
            format!("{}{}", self.workload, if out { " (out)" } else { "" }),
            format!("{}/{}", self.meshed, self.pods),
            percent(stats.and_then(|s| s.success_rate)),
            rate.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
            ms(stats.and_then(|s| s.latency_ms_p50)),
            ms(stats.and_then(|s| s.latency_ms_p95)),
            ms(stats.and_then(|s| s.latency_ms_p99)),
            percent(stats.and_then(|s| s.secured)),
        ]
    }
}

fn target(pod: &PodRow) -> TargetKey {
    TargetKey { namespace: pod.namespace.clone(), workload: workload(pod), pod: pod.name.clone() }
}

/// Fetches the pages of all pods, a few at a time; answers are in the order of the pods.
fn fetch_all(state: &StateDirectory, pods: &[&PodRow]) -> Vec<anyhow::Result<(Instant, String)>> {
    let fetch = |pod: &&PodRow| {
        let at = Instant::now();
        fleet::get(state, pod, ADMIN_PORT, "/metrics").map(|page| (at, page))
    };
    fleet::each(pods, fleet::FETCHERS, fetch, |_| true).into_iter().flatten().collect()
}
