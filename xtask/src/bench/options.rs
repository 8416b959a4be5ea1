//! The command line of `cargo xtask bench`.

use super::{
    plan::{self, Pace},
    scenario::Scenario,
    systems::System,
};
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
    /// Seconds per measurement [default: 10, or 1 if quick]
    #[arg(long)]
    seconds: Option<u32>,
    /// Choose rounds and seconds so that the run takes about so many minutes, and end then
    #[arg(long, conflicts_with_all = ["quick", "rounds", "seconds"], value_name = "MINUTES",
        value_parser = clap::value_parser!(u32).range(5..=600))]
    minutes: Option<u32>,
    /// Count no system calls and allocations; a quick run never does
    #[arg(long)]
    without_counts: bool,
    /// Leave the control plane out of a run of everything; one that names systems without `hauberk`,
    /// or scenarios, does so anyway
    #[arg(long)]
    without_scale: bool,
    /// Measure nothing; print what would be measured, and for how long
    #[arg(long)]
    pub(super) plan: bool,
    /// Measure the control plane alone, over clusters of these sizes
    #[arg(long, conflicts_with_all = ["quick", "minutes", "systems", "scenarios"])]
    pub(super) scale: bool,
    /// Sizes of its clusters, in pods
    #[arg(long, value_delimiter = ',', value_name = "PODS,…",
        default_values_t = [100, 1_000, 10_000])]
    pub(super) pods: Vec<u32>,
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
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "minutes", "scale"])]
    pub(super) report: Option<PathBuf>,
    /// Put tables and plot of that run into the documentation
    #[arg(long, requires = "report")]
    pub(super) publish: bool,
    /// Set by the run itself once it is inside its namespaces: the build directory
    #[arg(long, hide = true)]
    pub(super) inside: Option<PathBuf>,
    /// Set likewise: the name of the run's cgroups
    #[arg(long, hide = true, default_value_t)]
    pub(super) groups: String,
}

/// A profile of Cargo.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Profile {
    Release,
    /// The proxy as it is shipped (whole-program optimisation, static), the rest as in `release`
    Dist,
    /// The proxy with instruments, to be trained (`cargo xtask dist`), the rest as in `release`
    #[value(hide = true)]
    Training,
    Dev,
}

impl Profile {
    /// The name Cargo knows it by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist | Self::Training => "dist",
            Self::Dev => "dev",
        }
    }

    /// The profile for everything but the proxy.
    pub(super) fn of_others(self) -> Self {
        match self {
            Self::Release | Self::Dist | Self::Training => Self::Release,
            Self::Dev => Self::Dev,
        }
    }

    /// The directory the programs are in, in the build directory.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
            Self::Training => "training",
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
        let is_wanted = |it: &Scenario| match self.scenarios.is_empty() {
            true => !(self.quick && it.is_left_out_if_quick()),
            false => self.scenarios.contains(it),
        };
        Scenario::value_variants().iter().copied().filter(is_wanted).collect()
    }

    pub(super) fn rounds(&self) -> u32 {
        self.pace().rounds
    }

    pub(super) fn seconds(&self) -> u32 {
        self.pace().seconds
    }

    /// Seconds of load before each measurement. Short ones cannot afford any.
    pub(super) fn warm_up_seconds(&self) -> u32 {
        plan::warm_up_seconds(self.seconds())
    }

    /// Whether system calls and allocations are counted.
    pub(super) fn counts(&self) -> bool {
        !self.quick && !self.without_counts
    }

    /// Whether the control plane is part of the run.
    pub(super) fn includes_scale(&self) -> bool {
        let is_everything = self.scenarios.is_empty() && self.systems().contains(&System::Hauberk);
        is_everything && !self.quick && !self.without_scale
    }

    /// The time that the run was given.
    pub(super) fn minutes(&self) -> Option<u32> {
        self.minutes
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        match self.minutes {
            Some(minutes) => Some(Duration::from_secs(u64::from(minutes) * 60)),
            None => self.quick.then_some(QUICK),
        }
    }

    /// How often and for how long everything is measured.
    pub(super) fn pace(&self) -> Pace {
        match self.minutes {
            Some(minutes) => plan::pace(self, minutes),
            None => Pace {
                rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }),
                seconds: self.seconds.unwrap_or(if self.quick { 1 } else { 10 }).max(1),
            },
        }
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
