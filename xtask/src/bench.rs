//! `cargo xtask bench`: what a pair of proxies costs, beside peers and beside none.
//!
//! The whole run happens inside namespaces that end with this process ([`enclosure`]): nothing it
//! sends leaves them and nothing is left behind, not even after `kill -9`. In there each system is
//! set up alone ([`systems`]) in two fresh network namespaces ([`place`]), carries the loads
//! ([`scenario`], [`load`]) and is taken down again; systems alternate, rounds repeat. Every
//! measurement is a line of `raw.csv` ([`record`]), from which medians and tables are made
//! ([`report`]).
//!
//! What is measured and why so: `docs/reference/benchmark.md`. Not here: the programs that make
//! loads, which are wrk, h2load and the crate in `bench/`.

mod clock;
mod enclosure;
mod load;
mod machine;
mod options;
mod place;
mod plan;
mod plot;
mod process;
mod record;
mod report;
mod scale;
mod scenario;
mod shares;
mod summary;
mod systems;
mod targets;
mod training;

pub(crate) use enclosure::target_directory;
pub(crate) use options::Options;
pub(crate) use summary::check as check_readme;

use anyhow::{Context, ensure};
use clock::Budget;
use enclosure::Workshop;
use place::Place;
use record::{Measured, Records};
use scenario::{Scenario, Unit};
use std::{path::Path, process::Command};
use systems::{Purpose, Setup, System};

/// Where instrumented proxies leave what they counted, in the build directory.
pub(crate) const COUNTS: &str = "training/counts";

/// The end of the names of files with the pages that a process has touched.
pub(crate) const TOUCHED: &str = "touched";

/// What proxies in training do: nothing, and then carry connections and requests of all kinds, fast
/// and slow.
pub(crate) const REST: &str = "idle";
pub(crate) const WORK: &str = "rate-1000,http1-1,http1-32,http2-4x32,http2-32x1,grpc-4x32,\
    grpc-stream-4x32,opaque-32,connect-http,connect-opaque,bulk-tcp,bulk-http,routes-100";

/// Runs the benchmark, or makes the tables of an earlier run again.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if let Some(directory) = &options.report {
        report::write(directory)?;
        return if options.publish { report::publish(root, directory) } else { Ok(()) };
    }
    if options.plan {
        plan::print(options);
        return Ok(());
    }
    if options.scale {
        return scale::run(root, options);
    }
    match &options.inside {
        None => enclosure::enter(root, options),
        Some(target) => measure(root, target, options),
    }
}

/// Lets pairs of instrumented proxies do this; they leave their counts in [`COUNTS`] in the build
/// directory.
pub(crate) fn train(root: &Path, output: &Path, scenarios: &str) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let status = Command::new(own)
        .args(["bench", "--profile", "training", "--systems", "hauberk", "--scenarios", scenarios])
        .args(["--rounds", "1", "--seconds", "2", "--without-counts", "--output"])
        .arg(output)
        .current_dir(root)
        .status()
        .context("cannot run the training")?;
    ensure!(status.success(), "the training failed ({status})");
    Ok(())
}

/// The run itself, inside the enclosure.
fn measure(root: &Path, target: &Path, options: &Options) -> anyhow::Result<()> {
    let workshop = Workshop::set_up(root, target, options)?;
    let directory = options.directory(root);
    let mut records = Records::create(&directory)?;
    machine::describe(&workshop, options, &directory)?;
    let budget = Budget::new(options.time_limit());
    if options.includes_scale() {
        scale::measure(&workshop, options, &directory)?;
    }
    for round in 0..options.rounds() {
        for system in in_turn(&options.systems(), round as usize) {
            if budget.is_spent() {
                println!("bench: the time is over; {} is left out", system.name());
                continue;
            }
            println!("bench: round {}, {}", round + 1, system.name());
            let (workshop, budget, records) = (&workshop, &budget, &mut records);
            Turn { workshop, options, budget, records, round: round + 1, system }.measure()?;
        }
    }
    report::write(&directory)
}

/// All systems, beginning with another one in each round: none always has the warmer machine.
fn in_turn(systems: &[System], round: usize) -> Vec<System> {
    let mut systems = systems.to_vec();
    let first = round % systems.len().max(1);
    systems.rotate_left(first);
    systems
}

/// Scenarios that share one set-up. Each that measures memory has one of its own, because a heap
/// that has grown once serves later connections for nothing; loads share one if they want the same.
fn groups(scenarios: Vec<Scenario>) -> Vec<Vec<Scenario>> {
    let mut groups: Vec<Vec<Scenario>> = Vec::new();
    for scenario in scenarios {
        let fits = |group: &&mut Vec<Scenario>| {
            let with = |it: &Scenario| it.unit() != Unit::Memory && it.shape() == scenario.shape();
            scenario.unit() != Unit::Memory && group.iter().all(with)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(scenario),
            None => groups.push(vec![scenario]),
        }
    }
    groups
}

/// What measuring one system has to work with.
struct Turn<'a> {
    workshop: &'a Workshop,
    options: &'a Options,
    budget: &'a Budget,
    records: &'a mut Records,
    round: u32,
    system: System,
}

impl Turn<'_> {
    /// Measures all scenarios the system takes part in, and counts in the first round.
    fn measure(&mut self) -> anyhow::Result<()> {
        let takes_part = |it: &Scenario| {
            self.system.takes_part_in(*it) && (self.round == 1 || !it.is_costly_to_repeat())
        };
        let scenarios: Vec<_> = self.options.scenarios().into_iter().filter(takes_part).collect();
        let counted = scenarios.iter().copied().filter(|scenario| scenario.is_counted()).collect();
        groups(scenarios).iter().try_for_each(|group| self.measure_group(group))?;
        if self.round == 1 && self.options.counts() && self.system.is_counted() {
            groups(counted).iter().try_for_each(|group| self.count_group(group))?;
        }
        Ok(())
    }

    fn measure_group(&mut self, scenarios: &[Scenario]) -> anyhow::Result<()> {
        let options = self.options;
        self.with_setup(scenarios, false, |workshop, setup, scenario| {
            load::measure(workshop, setup, scenario, options)
        })
    }

    /// The same loads again, for counting only.
    fn count_group(&mut self, scenarios: &[Scenario]) -> anyhow::Result<()> {
        self.with_setup(scenarios, true, load::count)
    }

    /// Sets the system up, measures, and takes it down. What fails is recorded as such; only
    /// recording itself can fail.
    fn with_setup(
        &mut self,
        scenarios: &[Scenario],
        counts: bool,
        measure: impl Fn(&Workshop, &Setup, Scenario) -> anyhow::Result<Measured>,
    ) -> anyhow::Result<()> {
        let Some(first) = scenarios.first().filter(|_| !self.budget.is_spent()) else {
            return Ok(());
        };
        let purpose = Purpose { shape: first.shape(), counts };
        let setup = Place::new().and_then(|place| {
            systems::start(self.system, self.workshop, self.options, purpose, place)
        });
        let mut setup = match setup {
            Ok(setup) => setup,
            Err(error) => {
                let error = format!("cannot start: {error:#}");
                return scenarios
                    .iter()
                    .try_for_each(|it| self.record(*it, Err(anyhow::anyhow!(error.clone()))));
            }
        };
        for scenario in scenarios {
            if self.budget.is_spent() {
                println!("bench:   {:<16} left out, the time is over", scenario.name());
                continue;
            }
            let measured = measure(self.workshop, &setup, *scenario)
                .and_then(|measured| setup.check_secured(self.workshop).map(|()| measured))
                .map_err(|error| setup.explain(error));
            self.record(*scenario, measured)?;
            // One that has died would fail the rest in a confusing way.
            if let Err(error) = setup.check_alive() {
                println!("bench: {error:#}");
                break;
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        scenario: Scenario,
        measured: anyhow::Result<Measured>,
    ) -> anyhow::Result<()> {
        let line = match &measured {
            Ok(measured) => measured.line(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("bench:   {:<16} {line}", scenario.name());
        self.records.add(self.round, self.system, scenario, measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_system() {
        let systems = [System::Direct, System::Relay, System::Haproxy];
        assert_eq!(in_turn(&systems, 0), systems);
        assert_eq!(in_turn(&systems, 4), [System::Relay, System::Haproxy, System::Direct]);
        assert_eq!(in_turn(&[], 1), []);
    }

    #[test]
    fn memory_is_measured_in_fresh_proxies_and_loads_share_what_they_want() {
        let scenarios = vec![
            Scenario::Idle,
            Scenario::IdleHttp,
            Scenario::Rate,
            Scenario::Opaque,
            Scenario::Routes10,
        ];
        let expect = [
            vec![Scenario::Idle],
            vec![Scenario::IdleHttp],
            vec![Scenario::Rate, Scenario::Opaque],
            vec![Scenario::Routes10],
        ];
        assert_eq!(groups(scenarios), expect);
    }
}
