//! Processes: started, watched, measured, and ended when dropped.

use super::{TOUCHED, clock::wait_for, training};
use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Ticks a second in which Linux tells CPU time to programs (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// Lines of a log that an error shows.
const LOG_LINES: usize = 5;

/// How long a proxy in training may take to leave its counts.
const TRAINED_WITHIN: Duration = Duration::from_secs(20);

/// A process in the background.
pub(super) struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
    /// Where what it did is left, if it is in training.
    counts: Option<PathBuf>,
}

/// What a process and its children have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// In user and kernel mode, since the start.
    pub(super) cpu: Duration,
    /// Resident memory now.
    pub(super) resident_kib: u64,
    /// The most that was resident since [`Process::forget_peak`], or ever.
    pub(super) peak_kib: u64,
    /// How often threads went to sleep or were made to, since the start.
    pub(super) switches: u64,
}

impl Process {
    /// Starts a process; what it prints goes to a file. Its input is empty and ends with the value.
    pub(super) fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: Some(log.to_owned()), counts: None })
    }

    /// Starts a process and waits for its first byte.
    pub(super) fn start_and_hear(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut process = Self { name: name.to_owned(), child, log: None, counts: None };
        let output = process.child.stdout.as_mut().context("stdout is piped")?;
        output.read_exact(&mut [0]).with_context(|| format!("{name} ended at once"))?;
        Ok(process)
    }

    /// In the end it leaves in `counts` which pages it has touched, and is given time to leave what
    /// its instruments counted; others are killed at once.
    pub(super) fn in_training(mut self, counts: &Path) -> Self {
        self.counts = Some(counts.to_owned());
        self
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if the process has ended, with the end of its log.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.last_words()),
        }
    }

    /// The last lines of the log in one.
    pub(super) fn last_words(&self) -> String {
        let log = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok());
        last_lines(&log.unwrap_or_default())
    }

    /// Ends its input and waits for it to end by itself; returns what it printed.
    pub(super) fn finish(mut self, limit: Duration) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        let status = wait_for(&self.name, limit, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("{} failed ({status}): {}", self.name, self.last_words());
        }
        let log = self.log.as_ref().with_context(|| format!("{} has no log", self.name))?;
        fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))
    }

    /// The ids of it and all processes it started.
    pub(super) fn ids(&self) -> anyhow::Result<Vec<u32>> {
        let stats = stats().context("cannot read /proc")?;
        Ok(stats.keys().copied().filter(|id| descends(*id, self.id(), &stats)).collect())
    }

    /// Lets [`Usage::peak_kib`] begin at what is resident now (proc_pid_clear_refs(5)).
    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        for id in self.ids()? {
            fs::write(format!("/proc/{id}/clear_refs"), "5")
                .with_context(|| format!("cannot reset the peak of {}", self.name))?;
        }
        Ok(())
    }

    /// What it and all processes it started have used.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let stats = stats().context("cannot read /proc")?;
        let mut usage = Usage::default();
        for (id, stat) in &stats {
            if descends(*id, self.id(), &stats) {
                let status = fs::read_to_string(format!("/proc/{id}/status"))?;
                usage.cpu += stat.cpu;
                usage.resident_kib += number_after(&status, "VmRSS:");
                usage.peak_kib += number_after(&status, "VmHWM:");
                usage.switches += switches(*id);
            }
        }
        if usage.resident_kib == 0 {
            bail!("{} is gone: {}", self.name, self.last_words());
        }
        Ok(usage)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        if let Some(counts) = &self.counts {
            let file = counts.join(format!("{}.{TOUCHED}", self.child.id()));
            if let Err(error) = training::write_touched(self.child.id(), &file) {
                println!("bench: {}: {error:#}", self.name);
            }
            let _ = run(Command::new("kill").arg(self.child.id().to_string()));
            let _ = wait_for(&self.name, TRAINED_WITHIN, || Ok(self.child.try_wait()?));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{:?} failed ({}): {}",
            command,
            output.status,
            last_lines(&String::from_utf8_lossy(&output.stderr))
        );
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed. `log` is overwritten.
pub(super) fn output(
    name: &str,
    command: &mut Command,
    log: &Path,
    limit: Duration,
) -> anyhow::Result<String> {
    let mut process = Process::start(name, command, log)?;
    let status = wait_for(name, limit, || Ok(process.child.try_wait()?))?;
    if !status.success() {
        bail!("{name} failed ({status}): {}", process.last_words());
    }
    fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

/// What `/proc/<id>/stat` says.
struct Stat {
    parent: u32,
    cpu: Duration,
}

/// All processes of the enclosure, which are few.
fn stats() -> anyhow::Result<BTreeMap<u32, Stat>> {
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse() else { continue };
        // A process may have ended meanwhile.
        let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stats.extend(parse_stat(&text).map(|stat| (id, stat)));
    }
    Ok(stats)
}

/// Reads proc_pid_stat(5). The name in parentheses may contain anything, so reading begins behind.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let cpu = ticks(11)? + ticks(12)?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu: Duration::from_millis(cpu * 1_000 / TICKS_PER_SECOND),
    })
}

fn descends(id: u32, from: u32, stats: &BTreeMap<u32, Stat>) -> bool {
    let mut id = id;
    // Parents form no circle, and the chain ends at a process without a known parent.
    while id != from {
        match stats.get(&id) {
            Some(stat) => id = stat.parent,
            None => return false,
        }
    }
    true
}

/// Voluntary and involuntary context switches of all threads.
fn switches(id: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        number_after(&status, "\nvoluntary_ctxt_switches:")
            + number_after(&status, "nonvoluntary_ctxt_switches:")
    };
    tasks.map(of_task).sum()
}

fn number_after(text: &str, label: &str) -> u64 {
    let after = text.split_once(label).map_or("", |(_, after)| after);
    after.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_time_whatever_the_name_of_the_process() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 1 0 100 1 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.cpu), (3, Duration::from_secs(2)));
        assert!(parse_stat("7 (a) S 3").is_none());
    }

    #[test]
    fn counts_children_of_children() {
        let stat = |parent| Stat { parent, cpu: Duration::ZERO };
        let stats = BTreeMap::from([(1, stat(0)), (5, stat(1)), (6, stat(5)), (7, stat(1))]);
        let of_5: Vec<_> = (1..8).filter(|id| descends(*id, 5, &stats)).collect();
        assert_eq!(of_5, [5, 6]);
    }

    #[test]
    fn finds_numbers_by_their_label() {
        let status =
            "VmRSS:\t  123 kB\nvoluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t5";
        assert_eq!(number_after(status, "VmRSS:"), 123);
        assert_eq!(number_after(status, "\nvoluntary_ctxt_switches:"), 4);
        assert_eq!(number_after(status, "nonvoluntary_ctxt_switches:"), 5);
        assert_eq!(number_after(status, "VmHWM:"), 0);
    }
}
