//! The gates, in the order in which they fail fastest.

use anyhow::{Context, bail};
use std::{path::Path, process::Command, time::Instant};

const GATES: &[(&str, &[&str])] = &[
    ("lock file", &["tree", "--locked", "--workspace", "--depth=0"]),
    ("format", &["fmt", "--all", "--check"]),
    ("tidy", &["xtask", "tidy"]),
    ("deny", &["xtask", "deny"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("docs", &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]),
    ("binaries for the tests", &["build", "--workspace", "--bins"]),
    ("tests", &["test", "--workspace", "--no-fail-fast"]),
];

/// Runs all gates; the first that fails ends the run.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    for (name, arguments) in GATES {
        println!("==> {name}: cargo {}", arguments.join(" "));
        let began = Instant::now();
        let status = Command::new(env!("CARGO"))
            .args(*arguments)
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(root)
            .status()
            .with_context(|| format!("cannot run cargo {}", arguments[0]))?;
        if !status.success() {
            bail!("{name} failed");
        }
        println!("==> {name}: passed in {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}
