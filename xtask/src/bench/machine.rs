//! On what a run was made: written to `machine.txt` beside the figures.

use super::{enclosure::Workshop, options::Options, systems::System};
use anyhow::Context;
use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Part of the name of a run's directory: processors and their kind, such as `2cpu-xeon`.
///
/// Not the host's name, which says nothing to strangers.
pub(super) fn name() -> String {
    let model = cpu_model().to_lowercase();
    let kinds = ["xeon", "epyc", "ryzen", "core", "graviton", "neoverse"];
    let kind = kinds.iter().find(|kind| model.contains(*kind)).unwrap_or(&"other");
    format!("{}cpu-{kind}", cpus())
}

/// Writes what a reader has to know to judge the figures.
pub(super) fn describe(
    workshop: &Workshop,
    options: &Options,
    directory: &Path,
) -> anyhow::Result<()> {
    let mut lines = basics();
    lines.extend([
        format!(
            "run: {} round(s), {} s per measurement after {} s of the same load, {} worker(s) per \
             proxy, {} build",
            options.rounds(),
            options.seconds(),
            options.warm_up_seconds(),
            options.workers,
            options.profile.name()
        ),
        format!("wrk: {}", first_line(Command::new("wrk").arg("-v"))),
        format!("h2load: {}", first_line(Command::new("h2load").arg("--version"))),
        format!("nginx: {}", first_line(Command::new("nginx").arg("-v"))),
    ]);
    let versions: BTreeSet<_> =
        options.systems().iter().filter_map(|system| version(workshop, *system)).collect();
    lines.extend(versions);
    write(&lines, directory)
}

/// The same for a run of our own programs alone.
pub(super) fn describe_basics(directory: &Path) -> anyhow::Result<()> {
    write(&basics(), directory)
}

fn basics() -> Vec<String> {
    let file = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let memory = file("/proc/meminfo");
    let memory = memory.lines().next().unwrap_or_default().replace("MemTotal:", "");
    let commit = first_line(Command::new("git").args(["describe", "--always", "--dirty"]));
    vec![
        format!("machine: {} CPUs, {}, {} memory", cpus(), cpu_model(), memory.trim()),
        format!("kernel: {}", file("/proc/sys/kernel/osrelease")),
        format!("load before the run: {}", file("/proc/loadavg")),
        format!("commit: {commit}"),
        format!("rustc: {}", first_line(Command::new("rustc").arg("--version"))),
    ]
}

fn write(lines: &[String], directory: &Path) -> anyhow::Result<()> {
    let path = directory.join("machine.txt");
    fs::write(&path, lines.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

fn version(workshop: &Workshop, system: System) -> Option<String> {
    let mut command = match system {
        System::Haproxy => Command::new("haproxy"),
        System::Envoy | System::EnvoyHttp1 | System::Envoy2 => {
            Command::new(super::systems::envoy::program(workshop))
        }
        System::Hauberk | System::Hauberk2 => Command::new(workshop.program("hauberk-proxy")),
        System::Direct | System::Relay | System::Splice | System::Nginx => return None,
    };
    let flag = if system == System::Haproxy { "-v" } else { "--version" };
    let line = first_line(command.arg(flag));
    let line = line.rsplit_once("version: ").map_or(&*line, |(_, version)| version);
    Some(format!("{}: {line}", system.name()))
}

/// The first line that is not empty, from whichever stream it comes.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}

/// How many CPUs there are.
pub(super) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model).to_owned()
}
