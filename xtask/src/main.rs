//! Development tasks: `cargo xtask tidy`, `cargo xtask deny`, `cargo xtask ci`,
//! `cargo xtask bench`, `cargo xtask dist`, `cargo xtask fuzz`.

mod bench;
mod ci;
mod deny;
mod dist;
mod fuzz;
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
    /// Check licences, bans and sources of dependencies with cargo-deny, which is installed if needed.
    Deny,
    /// Everything a change must pass: format, lints, docs, tests, tidy.
    Ci,
    /// Measure a pair of proxies beside peers and beside none. Needs root.
    Bench(Box<bench::Options>),
    /// Build the proxy as it is shipped, trained by the benchmark's loads. Needs root and llvm.
    Dist(dist::Options),
    /// Give parsers of foreign bytes made-up input. Needs nightly and cargo-fuzz.
    Fuzz(fuzz::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Tidy => tidy::run(&root()),
        Task::Deny => deny::run(&root()),
        Task::Ci => ci::run(&root()),
        Task::Bench(options) => bench::run(&root(), &options),
        Task::Dist(options) => dist::run(&root(), &options),
        Task::Fuzz(options) => fuzz::run(&root(), &options),
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask lies inside the checkout").to_owned()
}
