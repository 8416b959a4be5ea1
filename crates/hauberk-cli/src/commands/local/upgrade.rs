//! `hauberk local upgrade`: another program for sidecars that run.
//!
//! The lab does it pod by pod ([`hauberk_local::pod`]); here is which pods, how many at a time, and
//! what becomes of the rest when one fails.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use hauberk_local::{
    api::{Answer, PodRow, Request, Upgraded},
    client::{Client, StateDirectory},
};
use serde_json::{Value, json};

use super::fleet;
use crate::output::{self, Colour, Sign};

/// The new process starts beside the old one and takes over when it can serve; the old one finishes
/// what it has. If the new one does not get so far, the old one stays.
#[derive(Args, Debug)]
pub(super) struct Upgrade {
    /// Pods, or what owns them: web-7c9-x2x, web, deploy/web, or with their namespace before it
    #[arg(value_name = "[NAMESPACE/]WORKLOAD", conflicts_with = "all")]
    workloads: Vec<String>,
    /// Every sidecar; with --proxy also those of pods that are made later
    #[arg(long)]
    all: bool,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The new program; without it the file that a sidecar runs, as it is by now
    #[arg(long, value_name = "PROGRAM")]
    proxy: Option<PathBuf>,
    /// Pods that are upgraded at the same time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Time that a new process gets until it serves, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Go on with the other pods after a failure
    #[arg(long)]
    keep_going: bool,
    /// Form of the report; text goes to standard error as it happens
    #[arg(short, long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(upgrade: &Upgrade, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    if upgrade.workloads.is_empty() && !upgrade.all {
        bail!("name the workloads whose sidecars are to be upgraded, or say --all");
    }
    let program = upgrade.proxy.as_deref().map(program).transpose()?;
    let pods = fleet::sidecars(state, &upgrade.workloads, upgrade.namespace.as_deref())?;
    if pods.is_empty() {
        bail!("there is no sidecar to upgrade; hint: `hauberk local ps` lists the pods");
    }
    let colour = Colour::of_stderr();
    let work = |pod: &PodRow| {
        let began = Instant::now();
        let result = replace(state, pod, program.clone(), upgrade.timeout);
        let name = format!("{}/{}", pod.namespace, pod.name);
        let (sign, what) = match &result {
            Ok(done) => {
                let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
                let pids = format!("{} -> {}", pid(done.pid_before), pid(done.pid_after));
                (
                    Sign::Good,
                    format!("upgraded, pid {pids}, {:.1} s", began.elapsed().as_secs_f64()),
                )
            }
            Err(error) => (Sign::Bad, format!("not upgraded: {error:#}")),
        };
        output::note(&format!("{} {name} {what}\n", sign.render(colour)));
        result
    };
    let go_on = |result: &anyhow::Result<Upgraded>| result.is_ok() || upgrade.keep_going;
    let results = fleet::each(&pods, usize::from(upgrade.parallel), work, go_on);

    let upgraded = results.iter().flatten().filter(|result| result.is_ok()).count();
    let failed = results.iter().flatten().filter(|result| result.is_err()).count();
    let untried = results.iter().filter(|result| result.is_none()).count();
    output::note(&format!("{upgraded} upgraded, {failed} failed, {untried} not tried\n"));
    if upgrade.output == Format::Json {
        let rows: Vec<_> =
            pods.iter().zip(&results).map(|(pod, result)| row(pod, result)).collect();
        output::artefact(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    }
    if upgraded < pods.len() {
        return Ok(ExitCode::FAILURE);
    }
    if let Some(program) = program.filter(|_| upgrade.all && upgrade.namespace.is_none()) {
        Client::connect(state)?.ask(&Request::UseProxy { program })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The program by a name that holds in the lab as well, which has another working directory.
fn program(path: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let context = || format!("cannot use {} as proxy", path.display());
    let path = path.canonicalize().with_context(context)?;
    let metadata = path.metadata().with_context(context)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        bail!("{}: it is no program", context());
    }
    Ok(path)
}

fn replace(
    state: &StateDirectory,
    pod: &PodRow,
    program: Option<PathBuf>,
    timeout_seconds: u64,
) -> anyhow::Result<Upgraded> {
    let request = Request::Upgrade { target: fleet::target(pod), program, timeout_seconds };
    match Client::connect(state)?.ask(&request)? {
        Answer::Upgraded(upgraded) => Ok(upgraded),
        other => bail!("the lab answered {other:?}"),
    }
}

fn row(pod: &PodRow, result: &Option<anyhow::Result<Upgraded>>) -> Value {
    let (what, pids, error) = match result {
        Some(Ok(done)) => ("upgraded", done.clone(), None),
        Some(Err(error)) => ("failed", Upgraded::default(), Some(format!("{error:#}"))),
        None => ("notTried", Upgraded::default(), None),
    };
    json!({
        "namespace": pod.namespace, "pod": pod.name, "workload": fleet::workload(pod),
        "result": what, "pidBefore": pids.pid_before, "pidAfter": pids.pid_after, "error": error,
    })
}
