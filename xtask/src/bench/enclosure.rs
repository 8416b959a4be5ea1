//! The enclosure: namespaces for mounts, processes and networks in which the whole run takes place.
//!
//! The chain is: this program, `setpriv` (the kernel ends what follows when this program ends),
//! `unshare` (makes the namespaces and ends its child likewise), this program again as the first
//! process in there. When that one ends, the kernel ends every process in there, and with the last
//! of them all networks, mounts and files are gone. So Ctrl-C needs no handler, and `kill -9`
//! leaves nothing either.
//!
//! Building and downloading happen before, outside.

use super::{
    options::{Options, Profile},
    process::run,
    shares,
    systems::envoy,
    training,
};
use crate::dist;
use anyhow::{Context, bail, ensure};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs that are needed, and the Debian packages they come from.
const TOOLS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("prlimit", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
    ("wrk", "wrk"),
];

/// Directories that exist everywhere and may be covered by a mount of our own. One is taken that
/// the checkout does not lie in.
const MOUNT_POINTS: &[&str] = &["/mnt", "/media", "/srv"];

/// The proxy that counts its allocations, in the build directory.
pub(super) const COUNTING_PROXY: &str = "bench/hauberk-proxy-counting";

/// Open files that every program of a run may have, if possible.
const FILES_WANTED: u32 = 65_536;

/// Linux' own default.
const FILES_USUAL: u32 = 1_024;

/// The program that is shipped in a form of its own.
const PROXY: &str = "hauberk-proxy";

/// Bytes of the large body. It lies in memory, so that no disk is measured.
const BULK_BYTES: usize = 64 * 1024 * 1024;

/// Builds what is needed and runs the benchmark inside.
pub(super) fn enter(root: &Path, options: &Options) -> anyhow::Result<()> {
    check_machine(options)?;
    let target = target_directory(root)?;
    build(root, &target, options)?;
    if options.systems().iter().any(|system| system.is_envoy()) {
        envoy::install(&target)?;
    }
    let own = std::env::current_exe().context("cannot find this program")?;
    let _guard = shares::Guard::start()?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["prlimit", &format!("--nofile={}", files_to_allow())])
        .args(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .arg(&target)
        .args(["--groups", &shares::own_name()])
        .current_dir(root)
        .status()
        .context("cannot run setpriv")?;
    ensure!(status.success(), "the run inside its namespaces failed ({status})");
    Ok(())
}

/// What prlimit is to allow. Ten thousand connections through a proxy are twenty thousand files; the
/// usual limit is lower, and not everywhere may it be raised.
fn files_to_allow() -> String {
    let raised = format!("{FILES_WANTED}:{FILES_WANTED}");
    let may_raise = run(Command::new("prlimit").arg(format!("--nofile={raised}")).arg("true"));
    // Else the soft limit becomes the hard one.
    if may_raise.is_ok() { raised } else { format!("{}:", limit_of_files(Limit::Hard)) }
}

enum Limit {
    Soft,
    Hard,
}

/// How many files a process may open, from proc_pid_limits(5).
fn limit_of_files(limit: Limit) -> u32 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let column = match limit {
        Limit::Soft => 0,
        Limit::Hard => 1,
    };
    let number = line.and_then(|line| line.split_whitespace().nth(column)?.parse().ok());
    number.unwrap_or(FILES_USUAL)
}

/// How many connections a proxy can hold at once, at two files each and some for itself; at most
/// as many as are wanted.
pub(super) fn connections_at_most(wanted: u32) -> u32 {
    wanted.min(limit_of_files(Limit::Soft).saturating_sub(600) / 2)
}

fn check_machine(options: &Options) -> anyhow::Result<()> {
    let systems = options.systems();
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    ensure!(is_root, "namespaces with capture rules need root; hint: sudo -E cargo xtask bench");
    let counting: &[_] = if options.counts() { &[("perf", "linux-perf")] } else { &[] };
    let tools = TOOLS.iter().chain(counting);
    let tools = tools.chain(systems.iter().flat_map(|system| system.tools()));
    let missing: Vec<_> = tools.filter(|(tool, _)| find(tool).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(tool, _)| *tool).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    bail!("missing: {}; hint: apt install {}", names.join(", "), packages.join(" "))
}

/// Where a program, or a file given by its path, is.
fn find(tool: &str) -> Option<PathBuf> {
    if tool.starts_with('/') {
        return Some(PathBuf::from(tool)).filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|path| path.exists())
}

/// Where cargo builds.
pub(crate) fn target_directory(root: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let target = metadata["target_directory"].as_str();
    Ok(target.context("cargo metadata names no target directory")?.into())
}

/// Builds our programs, and before that the proxy that counts, which is put aside: it has the same
/// name as the other.
fn build(root: &Path, target: &Path, options: &Options) -> anyhow::Result<()> {
    let systems = options.systems();
    let packages = systems.iter().flat_map(|system| system.packages());
    let mut packages: Vec<_> = packages.copied().chain(["bench-tools"]).collect();
    packages.sort_unstable();
    packages.dedup();
    println!("bench: building {} ({})", packages.join(", "), options.profile.name());
    let (ours, profile) = (options.profile, options.profile.of_others());
    if options.counts() && packages.contains(&PROXY) {
        cargo_build(root, profile, &packages, &["hauberk-proxy/count-allocations"])?;
        let counting = target.join(COUNTING_PROXY);
        fs::create_dir_all(counting.parent().context("the path has two parts")?)?;
        let built = target.join(profile.directory()).join(PROXY);
        fs::copy(&built, &counting).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    if packages.contains(&PROXY) {
        match ours {
            Profile::Dist => drop(dist::build(root, target)?),
            Profile::Training => dist::build_instrumented(root, target)?,
            Profile::Release | Profile::Dev => {}
        }
    }
    if matches!(ours, Profile::Dist | Profile::Training) {
        packages.retain(|package| *package != PROXY);
    }
    cargo_build(root, profile, &packages, &[])
}

/// Builds these packages.
pub(super) fn cargo_build(
    root: &Path,
    profile: Profile,
    packages: &[&str],
    features: &[&str],
) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--profile", profile.name()])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(features.iter().flat_map(|feature| ["--features", feature]))
        .current_dir(root)
        .status()
        .context("cannot run cargo build")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

/// What a run has at hand, inside.
pub(super) struct Workshop {
    /// A directory in memory that only this run sees. Everybody may read in it.
    pub(super) scratch: PathBuf,
    /// The build directory, under a path that other users may enter whatever the real one is.
    pub(super) target: PathBuf,
    profile: Profile,
    /// The proxy in training, which lies apart.
    trained: Option<PathBuf>,
}

impl Workshop {
    /// Mounts, certificates, the large body. Changes nothing outside, and refuses to run there.
    pub(super) fn set_up(root: &Path, target: &Path, options: &Options) -> anyhow::Result<Self> {
        ensure!(std::process::id() == 1, "--inside is not for people");
        let free = |point: &&&str| !root.starts_with(point) && !target.starts_with(point);
        let scratch = MOUNT_POINTS.iter().find(free).context("no place for a mount")?;
        let scratch = PathBuf::from(scratch);
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"]).arg(&scratch))?;
        let target_here = scratch.join("target");
        let mut workshop =
            Self { target: target_here, scratch, profile: options.profile, trained: None };
        fs::create_dir(&workshop.target)?;
        run(Command::new("mount").arg("--bind").arg(target).arg(&workshop.target))?;

        if options.counts() {
            // perf finds the kernel's events there. Where they are not, counting fails and says so.
            let mut events = Command::new("mount");
            let _ = run(events.args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]));
        }

        if options.profile == Profile::Training {
            let proxy = training::lay_cold(&workshop.program(PROXY), &workshop.scratch)?;
            workshop.trained = Some(proxy);
        }

        fs::create_dir(workshop.credentials(""))?;
        run(Command::new(workshop.tool()).arg("credentials").arg(workshop.credentials("")))?;
        // Short-lived secrets of nobody, to be read by the proxies' user.
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(workshop.credentials("")))?;
        fs::create_dir(workshop.scratch.join("www"))?;
        fs::write(workshop.scratch.join("www/bulk"), vec![b'x'; BULK_BYTES])?;
        Ok(workshop)
    }

    /// The program in `bench/`.
    pub(super) fn tool(&self) -> PathBuf {
        self.program("bench-tools")
    }

    /// A program of this workspace.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        if let Some(proxy) = self.trained.as_ref().filter(|_| name == PROXY) {
            return proxy.clone();
        }
        let profile = if name == PROXY { self.profile } else { self.profile.of_others() };
        self.target.join(profile.directory()).join(name)
    }

    /// Whether the proxies are in training.
    pub(super) fn is_for_training(&self) -> bool {
        self.profile == Profile::Training
    }

    /// A file among the certificates, keys and tokens.
    pub(super) fn credentials(&self, name: &str) -> PathBuf {
        self.scratch.join("credentials").join(name)
    }

    /// An empty directory that the proxies' user may write in.
    pub(super) fn fresh_directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let directory = self.scratch.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        run(Command::new("chmod").arg("a+rwx").arg(&directory))?;
        Ok(directory)
    }
}
