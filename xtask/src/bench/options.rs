//! The command line of `cargo xtask bench`.

use super::{
    scenario::{Scenario, Unit},
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

/// Seconds of load before a measurement that is long enough to have it.
const WARM_UP_SECONDS: u32 = 2;

/// Seconds for setting a system up and taking it down, about.
const SETUP_SECONDS: f64 = 1.5;

/// Seconds for counting one scenario, about.
const COUNT_SECONDS: f64 = 4.5;

/// How much of the given time is planned; estimates are only that.
const SHARE_PLANNED: f64 = 0.92;

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
    /// Measure the control plane instead, over clusters of these sizes
    #[arg(long, conflicts_with_all = ["quick", "minutes", "systems", "scenarios"])]
    pub(super) scale: bool,
    /// Sizes of these clusters, in pods
    #[arg(long, value_delimiter = ',', value_name = "PODS,…", requires = "scale",
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
        if self.seconds() <= 2 { 0 } else { WARM_UP_SECONDS }
    }

    /// Whether system calls and allocations are counted.
    pub(super) fn counts(&self) -> bool {
        !self.quick && !self.without_counts
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        match self.minutes {
            Some(minutes) => Some(Duration::from_secs(u64::from(minutes) * 60)),
            None => self.quick.then_some(QUICK),
        }
    }

    /// How often and for how long everything is measured.
    fn pace(&self) -> Pace {
        match self.minutes {
            Some(minutes) => Work::of(self).pace(f64::from(minutes) * 60.0 * SHARE_PLANNED),
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

/// How often and for how long everything is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    rounds: u32,
    /// Per measurement.
    seconds: u32,
}

/// What a run has to do.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Seconds that are spent once: counting, and what is not repeated.
    once: f64,
    /// Seconds of each round that do not depend on the seconds per measurement.
    each: f64,
    /// Measurements of each round that do.
    measurements: f64,
}

impl Work {
    fn of(options: &Options) -> Self {
        let mut work = Self { once: 0.0, each: 0.0, measurements: 0.0 };
        for system in options.systems() {
            let scenarios = options.scenarios().into_iter();
            let scenarios: Vec<_> = scenarios.filter(|it| system.takes_part_in(*it)).collect();
            for group in super::groups(scenarios.clone()) {
                for scenario in &group {
                    let more = scenario.more_seconds() + SETUP_SECONDS / group.len() as f64;
                    match scenario.is_costly_to_repeat() {
                        true => work.once += more,
                        false => work.each += more,
                    }
                    let lasts = scenario.unit() != Unit::Memory || *scenario == Scenario::Idle;
                    work.measurements += f64::from(u8::from(lasts));
                }
            }
            let counted = scenarios.iter().filter(|scenario| scenario.is_counted()).count();
            if options.counts() && system.is_counted() && counted > 0 {
                work.once += SETUP_SECONDS + counted as f64 * COUNT_SECONDS;
            }
        }
        work
    }

    /// The pace at which this takes so many seconds. Rounds matter more than long measurements,
    /// because medians need some, but only while measurements are not too short to mean anything.
    fn pace(self, seconds: f64) -> Pace {
        let each = |rounds: u32| {
            let left = (seconds - self.once) / f64::from(rounds) - self.each;
            left / self.measurements.max(1.0)
        };
        let rounds = (2..=3).rev().find(|rounds| each(*rounds) >= 2.0).unwrap_or(1);
        // The cast is of a small positive number.
        let each = each(rounds).clamp(1.0, 30.0) as u32;
        // Longer measurements have a warm-up, which is part of what each takes.
        let is_long = each > 2 + WARM_UP_SECONDS;
        let seconds = if is_long { each - WARM_UP_SECONDS } else { each.min(2) };
        Pace { rounds, seconds }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_fill_the_time_that_there_is() {
        let work = Work { once: 100.0, each: 50.0, measurements: 100.0 };
        let check = |seconds: f64, rounds: u32, each: u32| {
            assert_eq!(work.pace(seconds), Pace { rounds, seconds: each }, "{seconds} s");
        };
        // Too short for a second round, and then for anything but a second each.
        check(400.0, 1, 2);
        check(120.0, 1, 1);
        check(620.0, 2, 2);
        check(900.0, 3, 2);
        check(3_000.0, 3, 7);
        check(1e9, 3, 28);
    }
}
