//! `hauberk local proxies`: every sidecar of a lab, a line each, and settings for all of them.
//!
//! What a line says comes from the sidecar's own metrics page; a sidecar that does not answer is a
//! line that says so. Below them is how many there are of each version, and which differ from the
//! control plane's or this command's.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use hauberk_local::{
    api::{PROXY_CONTAINER, PodRow},
    client::StateDirectory,
};
use hauberk_viz::fleet::{ProxyFacts, Skew};
use serde_json::{Value, json};

use super::{fleet, show, stat::screen};
use crate::{
    commands::version::CLIENT,
    output::{self, Colour, Sign},
};

/// Port of the control plane's metrics page.
const CONTROL_PORT: u16 = 9990;

#[derive(Args, Debug)]
#[command(subcommand_precedence_over_arg = true)]
pub(super) struct Proxies {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    meant: Meant,
    /// Show it again every so many seconds until interrupted, with requests a second
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=60))]
    watch: Option<u64>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

/// Which sidecars.
#[derive(Args, Debug)]
struct Meant {
    /// Pods, or what owns them: web-7c9-x2x, web, deploy/web; all by default
    #[arg(value_name = "[NAMESPACE/]WORKLOAD")]
    workloads: Vec<String>,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Change a setting of running sidecars; it holds until they start anew
    Set(Set),
}

#[derive(Args, Debug)]
struct Set {
    #[command(subcommand)]
    setting: Setting,
}

#[derive(Debug, Subcommand)]
enum Setting {
    /// What the sidecars log, as warn,hauberk=debug
    LogLevel(LogLevel),
}

#[derive(Args, Debug)]
struct LogLevel {
    /// Filter, as the setting LINKERD2_PROXY_LOG
    filter: String,
    /// Sidecars that are asked at the same time
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    #[command(flatten)]
    meant: Meant,
}

impl Meant {
    fn find(&self, state: &StateDirectory) -> anyhow::Result<Vec<PodRow>> {
        fleet::sidecars(state, &self.workloads, self.namespace.as_deref())
    }
}

pub(super) fn run(proxies: &Proxies, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let Proxies { action, meant, .. } = proxies;
    if action.is_some() && (!meant.workloads.is_empty() || meant.namespace.is_some()) {
        bail!("which sidecars are meant belongs to the end, after what is set");
    }
    match action {
        Some(Action::Set(Set { setting: Setting::LogLevel(level) })) => set_log_level(level, state),
        None => list(proxies, state),
    }
}

/// Tells all, also after a failure: what one refuses, others may take.
fn set_log_level(level: &LogLevel, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let pods = level.meant.find(state)?;
    if pods.is_empty() {
        bail!("there is no sidecar; hint: `hauberk local ps` lists the pods");
    }
    let put =
        |pod: &PodRow| fleet::put(state, pod, fleet::ADMIN_PORT, "/proxy-log-level", &level.filter);
    let results = fleet::each(&pods, usize::from(level.parallel), put, |_| true);
    let failures: Vec<_> = pods
        .iter()
        .zip(results.into_iter().flatten())
        .filter_map(|(pod, result)| Some((pod, result.err()?)))
        .collect();
    for (pod, error) in &failures {
        let sign = Sign::Bad.render(Colour::of_stderr());
        output::note(&format!("{sign} {}/{} not set: {error:#}\n", pod.namespace, pod.name));
    }
    let (set, failed) = (pods.len() - failures.len(), failures.len());
    output::note(&format!("{set} set, {failed} failed\n"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(proxies: &Proxies, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let mut before = BTreeMap::new();
    loop {
        let fleet = Fleet::ask(state, &proxies.meant, &before)?;
        match proxies.output {
            Format::Table => {
                let clear = proxies.watch.is_some() && std::io::stdout().is_terminal();
                let text = fleet.table(SystemTime::now());
                let text = if proxies.watch.is_some() { screen(&text, clear) } else { text };
                output::artefact(&text)?;
            }
            Format::Json => {
                output::artefact(&format!("{}\n", serde_json::to_string_pretty(&fleet.json())?))?;
            }
        }
        before = fleet.counts();
        match proxies.watch {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Requests that a process had answered, and when; the process is known by its start.
type Counts = BTreeMap<(String, String), (Instant, f64, Option<f64>)>;

/// All sidecars at a moment.
struct Fleet {
    rows: Vec<Row>,
    /// Version of the control plane, if it says one.
    control: Option<String>,
}

struct Row {
    namespace: String,
    pod: String,
    workload: String,
    ready: bool,
    pid: Option<u32>,
    draining: Vec<u32>,
    at: Instant,
    facts: Result<ProxyFacts, String>,
    requests_per_second: Option<f64>,
}

impl Fleet {
    fn ask(state: &StateDirectory, meant: &Meant, before: &Counts) -> anyhow::Result<Self> {
        let pods = meant.find(state)?;
        let row = |pod: &PodRow| Row::ask(state, pod, before);
        let rows = fleet::each(&pods, fleet::FETCHERS, row, |_| true);
        let is_control = |pod: &PodRow| {
            pod.namespace == "linkerd" && fleet::workload(pod) == "deployment/linkerd-destination"
        };
        let control = fleet::pods(state)?.into_iter().find(is_control).and_then(|pod| {
            let page = fleet::get(state, &pod, CONTROL_PORT, "/metrics").ok()?;
            ProxyFacts::parse(&page).version
        });
        Ok(Self { rows: rows.into_iter().flatten().collect(), control })
    }

    fn counts(&self) -> Counts {
        let count = |row: &Row| {
            let facts = row.facts.as_ref().ok()?;
            let key = (row.namespace.clone(), row.pod.clone());
            Some((key, (row.at, facts.requests, facts.started)))
        };
        self.rows.iter().filter_map(count).collect()
    }

    fn skew(&self) -> Skew {
        // Who does not answer has no version that differs.
        Skew::new(self.rows.iter().filter_map(|row| Some(row.facts.as_ref().ok()?.build())))
    }

    fn silent(&self) -> usize {
        self.rows.iter().filter(|row| row.facts.is_err()).count()
    }

    fn warnings(&self) -> Vec<String> {
        let skew = self.skew();
        let mut warnings = Vec::new();
        let expected =
            [("the control plane's", self.control.as_deref()), ("this command's", Some(CLIENT))];
        for (whose, version) in expected {
            let Some(version) = version else { continue };
            match skew.differing(version) {
                0 => {}
                1 => warnings.push(format!("1 proxy differs from {whose} version, {version}")),
                n => warnings.push(format!("{n} proxies differ from {whose} version, {version}")),
            }
        }
        match self.silent() {
            0 => {}
            1 => warnings.push("1 proxy did not answer".to_owned()),
            n => warnings.push(format!("{n} proxies did not answer")),
        }
        warnings
    }

    fn table(&self, now: SystemTime) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut text = show::table(HEADER, self.rows.iter().map(|row| row.columns(now)));
        text += &format!("\n{}\n", self.skew());
        for warning in self.warnings() {
            text += &format!("{} {warning}\n", Sign::Warning.render(Colour::Off));
        }
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({
            "proxies": rows,
            "versions": self.skew(),
            "controlPlaneVersion": self.control,
            "clientVersion": CLIENT,
            "warnings": self.warnings(),
        })
    }
}

const HEADER: [&str; 11] = [
    "NAMESPACE",
    "POD",
    "WORKLOAD",
    "VERSION",
    "AGE",
    "READY",
    "CERTIFICATE",
    "CONNECTIONS",
    "MEMORY",
    "RPS",
    "MESSAGE",
];

impl Row {
    fn ask(state: &StateDirectory, pod: &PodRow, before: &Counts) -> Self {
        let at = Instant::now();
        let page = fleet::get(state, pod, fleet::ADMIN_PORT, "/metrics");
        let facts = page.map(|page| ProxyFacts::parse(&page)).map_err(|error| format!("{error:#}"));
        let known = before.get(&(pod.namespace.clone(), pod.name.clone()));
        let requests_per_second = known.zip(facts.as_ref().ok()).and_then(|(known, facts)| {
            let (then, requests, started) = known;
            let seconds = at.duration_since(*then).as_secs_f64();
            // A successor counts anew.
            let is_same = *started == facts.started && seconds > 0.0;
            is_same.then(|| (facts.requests - requests) / seconds)
        });
        let sidecar = pod.containers.iter().find(|one| one.name == PROXY_CONTAINER);
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            workload: fleet::workload(pod),
            ready: sidecar.is_some_and(|one| one.ready),
            pid: sidecar.and_then(|one| one.pid),
            draining: sidecar.map(|one| one.draining.clone()).unwrap_or_default(),
            at,
            facts,
            requests_per_second,
        }
    }

    fn columns(&self, now: f64) -> [String; 11] {
        let none = || "-".to_owned();
        let facts = self.facts.as_ref().ok();
        let message = match (&self.facts, self.draining.len()) {
            (Err(error), _) => error.clone(),
            (Ok(_), 0) => String::new(),
            (Ok(_), count) => format!("{count} former draining"),
        };
        let ends = facts.and_then(|facts| facts.certificate_ends);
        let megabytes = |bytes: f64| format!("{:.1}Mi", bytes / f64::from(1 << 20));
        [
            self.namespace.clone(),
            self.pod.clone(),
            self.workload.clone(),
            facts.and_then(ProxyFacts::build).unwrap_or_else(none),
            facts.and_then(|facts| facts.started).map_or_else(none, |start| age(now - start)),
            if self.ready { "yes" } else { "no" }.to_owned(),
            match ends {
                Some(ends) if ends > now => age(ends - now),
                Some(_) => "expired".to_owned(),
                None => none(),
            },
            facts.map_or_else(none, |facts| format!("{:.0}", facts.connections)),
            facts.and_then(|facts| facts.resident_bytes).map_or_else(none, megabytes),
            self.requests_per_second.map_or_else(none, |rate| format!("{rate:.1}")),
            message,
        ]
    }

    fn json(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "pod": self.pod,
            "workload": self.workload,
            "ready": self.ready,
            "pid": self.pid,
            "draining": self.draining,
            "facts": self.facts.as_ref().ok(),
            "error": self.facts.as_ref().err(),
            "requestsPerSecond": self.requests_per_second,
        })
    }
}

/// A time as kubectl shows it: the two largest units, one from days on.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pod: &str, facts: Result<ProxyFacts, String>) -> Row {
        Row {
            namespace: "shop".into(),
            pod: pod.into(),
            workload: "deployment/web".into(),
            ready: facts.is_ok(),
            pid: Some(7),
            draining: Vec::new(),
            at: Instant::now(),
            facts,
            requests_per_second: None,
        }
    }

    fn facts(version: &str) -> ProxyFacts {
        ProxyFacts {
            version: Some(version.into()),
            started: Some(1000.0),
            certificate_ends: Some(87_400.0),
            connections: 3.0,
            resident_bytes: Some(12.5 * 1_048_576.0),
            ..ProxyFacts::default()
        }
    }

    #[test]
    fn a_fleet_of_several_versions_with_a_dead_proxy_is_shown() {
        let rows = vec![
            row("web-1", Ok(facts("0.0.9"))),
            row("web-2", Ok(facts(CLIENT))),
            row("web-3", Err("connection refused".into())),
        ];
        let mut fleet = Fleet { rows, control: Some("0.0.9".into()) };
        fleet.rows[1].draining = vec![5];
        let text = fleet.table(UNIX_EPOCH + Duration::from_secs(1065));
        let expect = "\
NAMESPACE   POD     WORKLOAD         VERSION   AGE    READY   CERTIFICATE   CONNECTIONS   MEMORY   RPS   MESSAGE
shop        web-1   deployment/web   0.0.9     1m5s   yes     23h58m        3             12.5Mi   -
shop        web-2   deployment/web   CLIENT     1m5s   yes     23h58m        3             12.5Mi   -     1 former draining
shop        web-3   deployment/web   -         -      no      -             -             -        -     connection refused

2 versions: 0.0.9 (1), CLIENT (1)
‼ 1 proxy differs from the control plane's version, 0.0.9
‼ 1 proxy differs from this command's version, CLIENT
‼ 1 proxy did not answer
";
        assert_eq!(text, expect.replace("CLIENT", CLIENT));
        let json = fleet.json();
        assert_eq!(json["versions"], json!({"0.0.9": 1, CLIENT: 1}));
        assert_eq!(json["proxies"][2]["error"], "connection refused");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, expect) in
            [(-3.0, "0s"), (59.9, "59s"), (61.0, "1m1s"), (7260.0, "2h1m"), (200_000.0, "2d")]
        {
            assert_eq!(age(seconds), expect);
        }
    }
}
