//! `cargo xtask fuzz`: cargo-fuzz on one target or all, with the versions the workspace is locked to.
//!
//! What libFuzzer finds interesting goes to `target/fuzz/corpus`, never into the source tree; inputs
//! that break a law go to `fuzz/artifacts/<target>/`. See `docs/guides/fuzzing.md`.

use anyhow::{Context, bail};
use std::{fs, path::Path, process::Command};

/// What to fuzz and how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name of a target; all in turn when left out.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes; ends with an error when a law was broken.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let fuzz = root.join("fuzz");
    fs::copy(root.join("Cargo.lock"), fuzz.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    let targets = match &options.target {
        Some(target) => vec![target.clone()],
        None => folders(&fuzz.join("corpus"))?,
    };
    let mut broken = Vec::new();
    for target in targets {
        println!("==> {target}: {} s", options.seconds);
        if !one(root, &target, options.seconds)? {
            broken.push(target);
        }
    }
    if !broken.is_empty() {
        bail!("laws were broken, see fuzz/artifacts: {}", broken.join(", "));
    }
    Ok(())
}

fn folders(corpus: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(corpus).context("cannot list fuzz/corpus")?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    let mut names = entries.map(name).collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Whether all laws held. Without a sanitizer: the code is safe Rust, and it is twice as fast so.
fn one(root: &Path, target: &str, seconds: u32) -> anyhow::Result<bool> {
    let found = root.join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&found).context("cannot create the folder for found inputs")?;
    let status = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none"])
        .args(["--target-dir", "target/fuzz/build", target])
        .arg(&found)
        .arg(root.join("fuzz/corpus").join(target))
        .args(["--", "-timeout=10", "-rss_limit_mb=2048"])
        .arg(format!("-max_total_time={seconds}"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .current_dir(root)
        .status()
        .context("cannot run cargo; cargo-fuzz comes with `cargo install cargo-fuzz`")?;
    Ok(status.success())
}
