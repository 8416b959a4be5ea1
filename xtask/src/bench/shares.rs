//! Shares of a CPU: each worker thread of the proxies may run for a part of the time only.
//!
//! So two workers can be set beside one where there are too few CPUs for both proxies with two, the
//! load and the application: the CPUs are never used up, and what is scarce is what the workers may
//! have. A group of the kernel's cpu controller holds one thread, in either version: its own
//! hierarchy (cgroup v1), or a threaded group in the unified one (v2).
//!
//! The groups of a run lie in one of its own, named after the process outside of the enclosure. They
//! are removed with each set-up. What a killed run leaves is removed by a process that waits for its
//! end ([`Guard`]), and if that was killed too, by the next run.

use super::clock::wait_for;
use anyhow::{Context, ensure};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The beginning of the names of groups of runs; the process id follows.
const PREFIX: &str = "hauberk-bench-";

/// How often a share is dealt out, in microseconds. Within it a thread runs for its share and then
/// waits; the shorter, the closer to a slow CPU that is. The kernel looks after at most a tick (4 ms
/// at 250 Hz), and what was taken too much is held back afterwards.
const PERIOD_US: u32 = 10_000;

/// How long the kernel may take to forget threads that have ended.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(2);

/// Waits for the end of its input, then removes a directory of groups, whose threads may take a
/// moment to end.
const REMOVE: &str = r#"
trap "" INT TERM HUP
cat >/dev/null
for attempt in $(seq 100); do
  rmdir "$1"/* "$1" 2>/dev/null
  [ -e "$1" ] || exit 0
  sleep 0.1
done
"#;

/// The kernel's cpu controller, where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Controller {
    /// With a hierarchy of its own (cgroup v1).
    Own(PathBuf),
    /// In the unified hierarchy (cgroup v2).
    Unified(PathBuf),
}

impl Controller {
    fn find() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        let has_cpu = |unified: &Path| {
            let controllers = fs::read_to_string(unified.join("cgroup.controllers"));
            controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "cpu"))
        };
        Self::among(&mounts, has_cpu).context(
            "no cpu controller of cgroups is mounted, so no worker can be held to a share of a CPU",
        )
    }

    /// The controller in a text of mounts: lines of device, directory, type, options (proc_mounts(5)).
    fn among(mounts: &str, unified_has_cpu: impl Fn(&Path) -> bool) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let point = PathBuf::from(point);
            match kind {
                "cgroup" if options.split(',').any(|it| it == "cpu") => Some(Self::Own(point)),
                "cgroup2" if unified_has_cpu(&point) => Some(Self::Unified(point)),
                _ => None,
            }
        })
    }

    fn root(&self) -> &Path {
        match self {
            Self::Own(root) | Self::Unified(root) => root,
        }
    }

    /// Makes the group of a run, in which so many threads weigh what they weigh outside.
    fn make_run(&self, group: &Path, threads: u32) -> anyhow::Result<()> {
        make(group)?;
        match self {
            Self::Own(_) => write(group, "cpu.shares", threads * 1024),
            Self::Unified(root) => {
                write(root, "cgroup.subtree_control", "+cpu")?;
                write(group, "cpu.weight", threads * 100)
            }
        }
    }

    /// Puts a process into the group of the run where its threads could not move otherwise: in the
    /// unified hierarchy, only among the groups below the one that their process is in. All of its
    /// threads come along, so this is before any has a group of its own.
    fn enter(&self, run: &Path, process: u32) -> anyhow::Result<()> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Unified(_) => write(run, "cgroup.procs", process),
        }
    }

    /// Puts a thread into a group of its own within that of the run.
    fn hold(&self, run: &Path, thread: u32, percent: u32) -> anyhow::Result<()> {
        let group = run.join(thread.to_string());
        make(&group)?;
        let quota_us = PERIOD_US * percent / 100;
        match self {
            Self::Own(_) => {
                write(&group, "cpu.cfs_period_us", PERIOD_US)?;
                write(&group, "cpu.cfs_quota_us", quota_us)?;
                write(&group, "tasks", thread)
            }
            Self::Unified(_) => {
                write(&group, "cgroup.type", "threaded")?;
                write(run, "cgroup.subtree_control", "+cpu")?;
                write(&group, "cpu.max", format!("{quota_us} {PERIOD_US}"))?;
                write(&group, "cgroup.threads", thread)
            }
        }
    }
}

fn make(group: &Path) -> anyhow::Result<()> {
    fs::create_dir(group).with_context(|| format!("cannot make the cgroup {}", group.display()))
}

fn write(group: &Path, file: &str, value: impl ToString) -> anyhow::Result<()> {
    let (path, value) = (group.join(file), value.to_string());
    fs::write(&path, &value).with_context(|| format!("cannot write {value} to {}", path.display()))
}

/// Removes a group of a run and those in it; nothing of it may run any more.
fn remove(run: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(run)?.flatten() {
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(run)
}

/// The name of the group of the run that this process stands for.
pub(super) fn own_name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Removes the groups of this run when this process ends, however it ends.
pub(super) struct Guard(Option<Child>);

impl Guard {
    /// Begins to wait; removes what earlier runs have left. Without a controller there is nothing to
    /// guard, and whoever wants it will be told.
    pub(super) fn start() -> anyhow::Result<Self> {
        let Ok(controller) = Controller::find() else { return Ok(Self(None)) };
        remove_left_overs(controller.root(), &|process| {
            Path::new("/proc").join(process.to_string()).exists()
        });
        Self::of(&controller.root().join(own_name()))
    }

    fn of(group: &Path) -> anyhow::Result<Self> {
        // In a session of its own, Ctrl-C does not reach it.
        let child = Command::new("setsid")
            .args(["sh", "-c", REMOVE, "sh"])
            .arg(group)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start what removes cgroups")?;
        Ok(Self(Some(child)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// Removes groups of runs that have ended. One that cannot be removed is in use, or not ours.
fn remove_left_overs(root: &Path, lives: &dyn Fn(u32) -> bool) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if process.is_some_and(|process| !lives(process)) {
            let _ = remove(&entry.path());
        }
    }
}

/// A worker thread that is held to its share.
#[derive(Clone, Copy, Debug)]
struct Worker {
    process: u32,
    thread: u32,
}

impl Worker {
    /// CPU it has used since its start, in seconds: the first figure of its schedstat, in
    /// nanoseconds (the kernel's sched-stats document).
    fn cpu(self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/task/{}/schedstat", self.process, self.thread);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let nanoseconds = text.split_whitespace().next().and_then(|it| it.parse::<f64>().ok());
        Ok(nanoseconds.with_context(|| format!("{path} has no figure"))? / 1e9)
    }
}

/// The workers of a pair of proxies, each with its share of a CPU.
pub(super) struct Shares {
    run: PathBuf,
    percent: u32,
    workers: [Vec<Worker>; 2],
}

/// What the workers of one proxy have used between two readings, as parts of what they might have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Used {
    pub(super) mean: f64,
    /// Of the worker that had least to do.
    pub(super) least: f64,
}

/// What is to be held.
pub(super) struct Held<'a> {
    /// The name of the run's group.
    pub(super) name: &'a str,
    /// The processes of the client's proxy and of the server's.
    pub(super) processes: [Vec<u32>; 2],
    /// The beginning of the names of worker threads, of which each proxy has so many.
    pub(super) prefix: &'a str,
    pub(super) workers: u32,
    /// How much of a CPU each may use.
    pub(super) percent: u32,
}

impl Shares {
    /// Holds all workers of a pair to their shares.
    pub(super) fn hold(held: &Held<'_>) -> anyhow::Result<Self> {
        let controller = Controller::find()?;
        let [client, server] = &held.processes;
        let workers = [find(held, client)?, find(held, server)?];
        let run = controller.root().join(held.name);
        // From here on, dropping it removes what was made.
        let shares = Self { run, percent: held.percent, workers };
        shares.put(&controller)?;
        Ok(shares)
    }

    fn put(&self, controller: &Controller) -> anyhow::Result<()> {
        let workers: Vec<_> = self.workers.iter().flatten().collect();
        controller.make_run(&self.run, u32::try_from(workers.len())?)?;
        let processes: BTreeSet<_> = workers.iter().map(|it| it.process).collect();
        processes.iter().try_for_each(|it| controller.enter(&self.run, *it))?;
        workers.iter().try_for_each(|it| controller.hold(&self.run, it.thread, self.percent))
    }

    /// CPU that each worker of both proxies has used since its start, in seconds.
    pub(super) fn cpu(&self) -> anyhow::Result<[Vec<f64>; 2]> {
        let of =
            |workers: &[Worker]| workers.iter().map(|it| it.cpu()).collect::<anyhow::Result<_>>();
        Ok([of(&self.workers[0])?, of(&self.workers[1])?])
    }

    /// What was used in so many seconds.
    pub(super) fn used(
        &self,
        before: &[Vec<f64>; 2],
        after: &[Vec<f64>; 2],
        seconds: f64,
    ) -> [Used; 2] {
        let most = seconds * f64::from(self.percent) / 100.0;
        [0, 1].map(|side| used(&before[side], &after[side], most))
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        let gone = || Ok((!self.run.exists() || remove(&self.run).is_ok()).then_some(()));
        if let Err(error) = wait_for("removing cgroups", FORGOTTEN_WITHIN, gone) {
            println!("bench: {error:#}");
        }
    }
}

fn used(before: &[f64], after: &[f64], most: f64) -> Used {
    let parts: Vec<f64> = before.iter().zip(after).map(|(b, a)| (a - b) / most).collect();
    Used {
        mean: parts.iter().sum::<f64>() / parts.len().max(1) as f64,
        least: parts.iter().copied().fold(f64::INFINITY, f64::min),
    }
}

/// The worker threads of a proxy.
fn find(held: &Held<'_>, processes: &[u32]) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for process in processes {
        let tasks = format!("/proc/{process}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let task = task?;
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let thread = task.file_name().to_string_lossy().parse();
            if let (true, Ok(thread)) = (name.starts_with(held.prefix), thread) {
                workers.push(Worker { process: *process, thread });
            }
        }
    }
    let (found, wanted) = (workers.len(), held.workers);
    ensure!(
        found == wanted as usize,
        "a proxy has {found} threads named {}…, not {wanted}",
        held.prefix
    );
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0";
    const OTHER: &str = "cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0";
    const UNIFIED: &str = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0";

    /// A directory that stands for the kernel's.
    fn fake(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        root
    }

    #[test]
    fn finds_the_controller_in_either_version() {
        let check = |mounts: &[&str], unified: bool, expect: Option<Controller>| {
            let mounts = mounts.join("\n");
            assert_eq!(Controller::among(&mounts, |_| unified), expect, "{mounts}");
        };
        let own = Some(Controller::Own("/sys/fs/cgroup/cpu".into()));
        let unified = Some(Controller::Unified("/sys/fs/cgroup/unified".into()));
        check(&["proc /proc proc rw 0 0", OTHER, OWN, UNIFIED], false, own);
        check(&[OTHER, UNIFIED], true, unified);
        // Mounted without the controller, which another hierarchy may have.
        check(&[OTHER, UNIFIED], false, None);
        check(&[], true, None);
    }

    #[test]
    fn a_thread_gets_its_share_in_the_words_of_either_version() {
        let check = |controller: &dyn Fn(PathBuf) -> Controller, expect: &[(&str, &str)]| {
            let root = fake("hauberk-bench-shares-words");
            let controller = controller(root.clone());
            let run = root.join("run");
            controller.make_run(&run, 4).unwrap();
            controller.enter(&run, 70).unwrap();
            controller.hold(&run, 71, 20).unwrap();
            for (file, value) in expect {
                let written = fs::read_to_string(root.join(file)).unwrap();
                assert_eq!(written, *value, "{file} of {controller:?}");
            }
            fs::remove_dir_all(root).unwrap();
        };
        check(
            &Controller::Own,
            &[
                ("run/cpu.shares", "4096"),
                ("run/71/cpu.cfs_period_us", "10000"),
                ("run/71/cpu.cfs_quota_us", "2000"),
                ("run/71/tasks", "71"),
            ],
        );
        check(
            &Controller::Unified,
            &[
                ("cgroup.subtree_control", "+cpu"),
                ("run/cpu.weight", "400"),
                ("run/71/cgroup.type", "threaded"),
                ("run/cgroup.procs", "70"),
                ("run/71/cpu.max", "2000 10000"),
                ("run/71/cgroup.threads", "71"),
            ],
        );
    }

    #[test]
    fn what_dead_runs_left_is_removed_and_nothing_else() {
        let root = fake("hauberk-bench-shares-left");
        for group in ["hauberk-bench-7/71", "hauberk-bench-8/81", "other-7", "hauberk-bench-x"] {
            fs::create_dir_all(root.join(group)).unwrap();
        }
        remove_left_overs(&root, &|process| process == 8);
        let mut left: Vec<_> =
            fs::read_dir(&root).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        fs::remove_dir_all(root).unwrap();
        assert_eq!(left, ["hauberk-bench-8", "hauberk-bench-x", "other-7"]);
    }

    #[test]
    fn the_guard_removes_groups_when_its_input_ends_and_waits_for_what_is_in_use() {
        let root = fake("hauberk-bench-shares-guard");
        let group = root.join("run");
        fs::create_dir_all(group.join("71")).unwrap();
        // Stands for a thread that is still there: a directory that is not empty stays.
        fs::write(group.join("71/tasks"), "71").unwrap();
        let guard = Guard::of(&group).unwrap();
        assert!(group.exists());
        let gone = std::thread::scope(|scope| {
            scope.spawn(|| drop(guard));
            fs::remove_file(group.join("71/tasks")).unwrap();
            wait_for("the guard", Duration::from_secs(20), || Ok((!group.exists()).then_some(())))
        });
        fs::remove_dir_all(root).unwrap();
        gone.unwrap();
    }

    #[test]
    fn shares_are_told_by_mean_and_least() {
        let used = used(&[1.0, 2.0], &[3.0, 3.0], 2.0);
        assert_eq!(used, Used { mean: 0.75, least: 0.5 });
    }

    /// The kernel's own words: where it lets us, a busy thread is held to its share.
    #[test]
    fn a_busy_process_is_held_and_its_group_removed_after_it() {
        let name = format!("{PREFIX}test-{}", std::process::id());
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let held = Held {
            name: &name,
            processes: [vec![busy.id()], vec![]],
            prefix: "sh",
            workers: 1,
            percent: 20,
        };
        let held = hold_one(&held);
        let shares = match held {
            Ok(shares) => shares,
            Err(error) => {
                busy.kill().unwrap();
                busy.wait().unwrap();
                let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
                assert!(!required, "no group can be made: {error:#}");
                println!("SKIPPED: {error:#}");
                return;
            }
        };
        let cpu = || shares.cpu().unwrap()[0][0];
        // Measured in the kernel's periods, not by a clock: until it has been held back often enough.
        let throttled = || {
            let text = fs::read_to_string(shares.run.join(busy.id().to_string()).join("cpu.stat"));
            let text = text.unwrap();
            let number = |label: &str| -> f64 {
                let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap();
                line.trim().parse().unwrap()
            };
            (number("nr_periods "), number("nr_throttled "))
        };
        let (before, (periods, _)) = (cpu(), throttled());
        let (ended, held_back) = wait_for("being held back", Duration::from_secs(20), || {
            Ok(Some(throttled()).filter(|(now, _)| *now >= periods + 50.0))
        })
        .unwrap();
        let used = cpu() - before;
        busy.kill().unwrap();
        busy.wait().unwrap();
        let run = shares.run.clone();
        drop(shares);
        // A tick more than its share in the beginning, and what has begun since.
        let most = (ended - periods) * f64::from(PERIOD_US) / 1e6 * 0.2 + 0.05;
        assert!(held_back > 0.0 && used <= most, "{used} s, at most {most} s");
        assert!(!run.exists(), "{} is still there", run.display());
    }

    /// Holds the first process only.
    fn hold_one(held: &Held<'_>) -> anyhow::Result<Shares> {
        let controller = Controller::find()?;
        let workers = [find(held, &held.processes[0])?, Vec::new()];
        let run = controller.root().join(held.name);
        let shares = Shares { run, percent: held.percent, workers };
        shares.put(&controller)?;
        Ok(shares)
    }
}
