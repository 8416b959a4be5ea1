//! The command line of `cargo xtask bench`.

use super::{scenario::Scenario, systems::System};
use clap::{Args, ValueEnum};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A quick run begins nothing new after this, so that it ends within 5 minutes.
const QUICK: Duration = Duration::from_secs(280);

/// What is measured, for how long, and where it is written.
#[derive(Args)]
pub(crate) struct Options {
    /// One short round that ends within 5 minutes (once everything is built)
    #[arg(long)]
    quick: bool,
    /// Systems, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SYSTEM,…")]
    systems: Vec<System>,
    /// Scenarios, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SCENARIO,…")]
    scenarios: Vec<Scenario>,
    /// How often everything is repeated, systems in alternation [default: 3, or 1 if quick]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds per measurement [default: 10, or 2 if quick]
    #[arg(long)]
    seconds: Option<u32>,
    /// Worker threads or processes of each proxy
    #[arg(long, default_value_t = 1)]
    pub(super) workers: u32,
    /// How our programs are built; figures are only worth anything for `release`
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    pub(super) profile: Profile,
    /// Directory of the results [default: bench/runs/DATE-MACHINE]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Measure nothing; make the tables of an earlier run from its raw.csv again
    #[arg(long, value_name = "DIR", exclusive = true)]
    pub(super) report: Option<PathBuf>,
    /// Set by the run itself once it is inside its namespaces: the build directory
    #[arg(long, hide = true)]
    pub(super) inside: Option<PathBuf>,
}

/// A profile of Cargo.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Profile {
    Release,
    /// The proxy as it is shipped (whole-program optimisation, static), the rest as in `release`
    Dist,
    Dev,
}

impl Profile {
    /// The name Cargo knows it by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
            Self::Dev => "dev",
        }
    }

    /// The profile for everything but the proxy.
    pub(super) fn of_others(self) -> Self {
        match self {
            Self::Release | Self::Dist => Self::Release,
            Self::Dev => Self::Dev,
        }
    }

    /// The directory Cargo builds it in.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
            Self::Dev => "debug",
        }
    }
}

impl Options {
    pub(super) fn systems(&self) -> Vec<System> {
        if self.systems.is_empty() {
            return System::value_variants().to_vec();
        }
        self.systems.clone()
    }

    /// In their own order, whatever the order on the command line: memory is measured first.
    pub(super) fn scenarios(&self) -> Vec<Scenario> {
        let all = Scenario::value_variants().iter().copied();
        all.filter(|it| self.scenarios.is_empty() || self.scenarios.contains(it)).collect()
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub(super) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 10 }).max(1)
    }

    /// Seconds of load before each measurement. A quick run cannot afford any.
    pub(super) fn warm_up_seconds(&self) -> u32 {
        if self.quick || self.seconds() <= 2 { 0 } else { 2 }
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.quick.then_some(QUICK)
    }

    /// Where the results go.
    pub(super) fn directory(&self, root: &Path) -> PathBuf {
        match &self.output {
            Some(output) => output.clone(),
            None => root.join("bench/runs").join(format!("{}-{}", today(), super::machine::name())),
        }
    }
}

/// The date in UTC. `date` knows it without another dependency.
fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output();
    output.map_or_else(
        |_| "undated".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
