//! Development tasks: `cargo xtask tidy`, `cargo xtask ci`.

mod ci;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

/// Development tasks of Hauberk.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check what no compiler checks: the direction of dependencies, banned crates and words.
    Tidy,
    /// Everything a change must pass: format, lints, docs, tests, tidy.
    Ci,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Tidy => tidy::run(&root()),
        Task::Ci => ci::run(&root()),
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask lies inside the checkout").to_owned()
}
