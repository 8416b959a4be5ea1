//! `cargo xtask dist`: the proxy as it is shipped.
//!
//! Statically linked, optimised as a whole, and laid out by a profile of its own execution: an
//! instrumented proxy carries the loads of the benchmark for a while, and what it counted tells the
//! compiler which way branches go and which code is never run, and which functions should lie
//! together ([`order`]; `docs/decisions/0029`). The profile is made anew when the instrumented program
//! has changed, and kept in the build directory.
//!
//! | what | where, in the build directory |
//! |---|---|
//! | the instrumented proxy | `training/hauberk-proxy` |
//! | counts and touched pages of each of its processes | `training/rest`, `training/work` |
//! | the profile made of them | `training/profile-N.profdata` |
//! | the order of functions | `training/profile-N.order` |
//! | the program that is shipped | `dist/hauberk-proxy` |

mod order;

use crate::bench;
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The program.
const PROXY: &str = "hauberk-proxy";

/// Statically linked, with small tables of relocations (`docs/decisions/0025`).
const LINKED: [&str; 4] =
    ["-C", "target-feature=+crt-static", "-C", "link-arg=-Wl,-z,pack-relative-relocs"];

/// Counts what runs, and keeps the names of functions. Where counts go is told by the environment of
/// the process.
const INSTRUMENTED: [&str; 4] = ["-C", "profile-generate", "-C", "strip=none"];

/// The end of the name of a file with names of functions.
const ORDER: &str = "order";

/// How the proxy is built.
#[derive(Args)]
pub(crate) struct Options {
    /// Build without a profile of its execution: quicker, needs no root, and 5 to 10 % slower
    #[arg(long)]
    untrained: bool,
}

/// Builds the proxy and says where it is.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let target = bench::target_directory(root)?;
    let program = match options.untrained {
        true => build_with(root, &target, None)?,
        false => build(root, &target)?,
    };
    println!("dist: built {}", program.display());
    Ok(())
}

/// Builds the proxy, after training if its source has changed since the last one.
pub(crate) fn build(root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let merge = merger()?;
    let training = target.join("training");
    build_instrumented(root, target)?;
    let profile = match newest_profile(&training)? {
        Some(profile) if changed(&profile)? > changed(&training.join(PROXY))? => profile,
        _ => train(root, target, &merge)?,
    };
    build_with(root, target, Some(&profile))
}

/// Builds the proxy that counts what it runs.
pub(crate) fn build_instrumented(root: &Path, target: &Path) -> anyhow::Result<()> {
    println!("dist: building the instrumented proxy");
    let training = target.join("training");
    let flags = LINKED.iter().chain(&INSTRUMENTED).map(|it| (*it).to_owned());
    let built = cargo_build(root, &training.join("build"), flags.collect())?;
    copy_if_newer(&built, &training.join(PROXY))
}

/// Lets the instrumented proxy rest and work, and makes a profile of what it counted.
fn train(root: &Path, target: &Path, merge: &Path) -> anyhow::Result<PathBuf> {
    println!("dist: training");
    let training = target.join("training");
    let [rest, work] = ["rest", "work"].map(|name| training.join(name));
    observe(root, target, bench::REST, &rest)?;
    observe(root, target, bench::WORK, &work)?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    // A name of its own for each, so that cargo sees the difference.
    let profile = training.join(format!("profile-{}.profdata", now.as_secs()));
    merge_counts(merge, &[&rest, &work], &profile)?;
    let of_rest = rest.join("merged");
    merge_counts(merge, &[&rest], &of_rest)?;

    let program = training.join(PROXY);
    let headers = text_of(Path::new("readelf"), &["--program-headers", "--wide"], &program)?;
    let symbols = text_of(Path::new("readelf"), &["--symbols", "--wide"], &program)?;
    let show = |profile| text_of(merge, &["show", "--all-functions", "--counts"], profile);
    let (of_rest, of_all) = (show(&of_rest)?, show(&profile)?);
    let mut names = Vec::new();
    for (shown, observed) in [(&of_rest, &rest), (&of_all, &work)] {
        let touched = order::touched(&headers, &symbols, &touched_pages(observed)?)?;
        names.extend(order::order(&order::counted(shown), &touched));
    }
    ensure!(names.len() > 1000, "the training has run only {} functions", names.len());
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    names.push("");
    fs::write(profile.with_extension(ORDER), names.join("\n")).context("cannot write the order")?;
    Ok(profile)
}

/// Lets pairs of proxies do that; what they counted and touched is in `directory` then.
fn observe(root: &Path, target: &Path, scenarios: &str, directory: &Path) -> anyhow::Result<()> {
    let (counts, results) = (target.join(bench::COUNTS), directory.join("results"));
    for old in [&counts, directory] {
        if old.exists() {
            fs::remove_dir_all(old).context("cannot remove what an earlier training left")?;
        }
    }
    fs::create_dir_all(&counts)?;
    // The proxies run as a user of their own.
    let mut open = Command::new("chmod");
    ensure!(open.arg("a+rwx").arg(&counts).status()?.success(), "cannot open up the counts");
    bench::train(root, &results, scenarios)?;
    for counted in fs::read_dir(&counts)? {
        let path = counted?.path();
        let name = path.file_name().context("an entry has a name")?;
        fs::rename(&path, directory.join(name))?;
    }
    Ok(())
}

/// Makes one profile of what all proxies counted whose counts are in these directories.
fn merge_counts(merge: &Path, from: &[&Path], profile: &Path) -> anyhow::Result<()> {
    let mut raw = Vec::new();
    for directory in from {
        let counts = files_in(directory, "profraw")?;
        ensure!(!counts.is_empty(), "the proxies have left no counts in {}", directory.display());
        raw.extend(counts);
    }
    let mut command = Command::new(merge);
    let status = command.args(["merge", "--output"]).arg(profile).args(raw).status();
    let status = status.with_context(|| format!("cannot run {}", merge.display()))?;
    ensure!(status.success(), "the counts cannot be merged into {}", profile.display());
    Ok(())
}

/// What proxies touched: offsets in the program file, a line each.
fn touched_pages(directory: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let mut pages = BTreeSet::new();
    for path in files_in(directory, bench::TOUCHED)? {
        for line in fs::read_to_string(&path)?.lines() {
            let page = line.parse();
            pages.insert(page.with_context(|| format!("{}: \"{line}\"", path.display()))?);
        }
    }
    Ok(pages)
}

/// What a program prints about a file.
fn text_of(program: &Path, arguments: &[&str], file: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} cannot read {}", program.display(), file.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Builds what is shipped, by a profile if there is one.
fn build_with(root: &Path, target: &Path, profile: Option<&Path>) -> anyhow::Result<PathBuf> {
    println!("dist: building the proxy");
    let mut flags: Vec<_> = LINKED.map(str::to_owned).to_vec();
    if let Some(profile) = profile {
        let order = profile.with_extension(ORDER);
        for flag in [
            format!("profile-use={}", profile.display()),
            format!("link-arg=-Wl,--symbol-ordering-file={}", order.display()),
            // Functions that are inlined everywhere in the end are in the order but not there.
            "link-arg=-Wl,--no-warn-symbol-ordering".to_owned(),
            // What the profile calls hot or never run stays together in spite of the order.
            "link-arg=-Wl,-z,keep-text-section-prefix".to_owned(),
        ] {
            flags.extend(["-C".to_owned(), flag]);
        }
    }
    let built = cargo_build(root, target, flags)?;
    let program = target.join("dist").join(PROXY);
    copy_if_newer(&built, &program)?;
    Ok(program)
}

/// Builds the proxy and all it is made of with these flags of the compiler; returns the program.
fn cargo_build(root: &Path, target: &Path, flags: Vec<String>) -> anyhow::Result<PathBuf> {
    // With a named target the flags hold for what runs there only, not for build scripts.
    let host = host()?;
    let status = cargo()
        .args(["build", "--quiet", "--profile", "dist", "--package", PROXY, "--bin", PROXY])
        .args(["--target", &host, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .current_dir(root)
        .status()
        .context("cannot run cargo build")?;
    ensure!(status.success(), "the build of the proxy failed");
    Ok(target.join(host).join("dist").join(PROXY))
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")))
}

/// Copies a program unless the copy is newer.
fn copy_if_newer(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() && changed(to)? >= changed(from)? {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a program lies in a directory")?)?;
    // Put aside and renamed: the old one may be running.
    let aside = to.with_extension("new");
    fs::copy(from, &aside).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&aside, to).with_context(|| format!("cannot replace {}", to.display()))
}

fn changed(file: &Path) -> anyhow::Result<SystemTime> {
    let metadata = fs::metadata(file).with_context(|| format!("cannot see {}", file.display()))?;
    Ok(metadata.modified()?)
}

/// The newest profile of earlier trainings.
fn newest_profile(training: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut newest = None;
    for path in files_in(training, "profdata")? {
        newest = newest.max(Some((changed(&path)?, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Files in a directory whose names end so.
fn files_in(directory: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension() == Some(OsStr::new(extension))).collect())
}

/// The machine this compiler builds for.
fn host() -> anyhow::Result<String> {
    rustc_says("host: ")
}

/// A line of what the compiler says of itself.
fn rustc_says(what: &str) -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    Ok(line.with_context(|| format!("rustc does not tell its \"{what}\""))?.to_owned())
}

/// The program that merges counts. It must know the compiler's format.
fn merger() -> anyhow::Result<PathBuf> {
    let version = rustc_says("LLVM version: ")?;
    let major = version.split('.').next().unwrap_or_default();
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let own = sysroot.join("lib/rustlib").join(host()?).join("bin/llvm-profdata");
    for program in [own, format!("llvm-profdata-{major}").into()] {
        if Command::new(&program).arg("--version").output().is_ok_and(|it| it.status.success()) {
            return Ok(program);
        }
    }
    bail!(
        "training needs llvm-profdata {major}; hint: apt install llvm-{major}, or \
         rustup component add llvm-tools, or build with --untrained"
    )
}
