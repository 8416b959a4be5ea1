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
mod plot;
mod process;
mod record;
mod report;
mod scenario;
mod systems;
mod targets;

pub(crate) use options::Options;

use clock::Budget;
use enclosure::Workshop;
use place::Place;
use record::{Measured, Records};
use scenario::{Scenario, Unit};
use std::path::Path;
use systems::System;

/// Runs the benchmark, or makes the tables of an earlier run again.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if let Some(directory) = &options.report {
        return report::write(directory);
    }
    match &options.inside {
        None => enclosure::enter(root, options),
        Some(target) => measure(root, target, options),
    }
}

/// The run itself, inside the enclosure.
fn measure(root: &Path, target: &Path, options: &Options) -> anyhow::Result<()> {
    let workshop = Workshop::set_up(root, target, options)?;
    let directory = options.directory(root);
    let mut records = Records::create(&directory)?;
    machine::describe(&workshop, options, &directory)?;
    let budget = Budget::new(options.time_limit());
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
/// that has grown once serves later connections for nothing.
fn groups(scenarios: Vec<Scenario>) -> Vec<Vec<Scenario>> {
    let (memory, loads): (Vec<_>, Vec<_>) =
        scenarios.into_iter().partition(|scenario| scenario.unit() == Unit::Memory);
    let alone = memory.into_iter().map(|scenario| vec![scenario]);
    alone.chain([loads]).filter(|group| !group.is_empty()).collect()
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
    /// Measures all scenarios the system takes part in.
    fn measure(&mut self) -> anyhow::Result<()> {
        let scenarios = self.options.scenarios().into_iter();
        let scenarios = scenarios.filter(|scenario| self.system.takes_part_in(*scenario));
        groups(scenarios.collect()).iter().try_for_each(|group| self.measure_group(group))
    }

    /// Sets the system up, measures, and takes it down. What fails is recorded as such; only
    /// recording itself can fail.
    fn measure_group(&mut self, scenarios: &[Scenario]) -> anyhow::Result<()> {
        if self.budget.is_spent() {
            return Ok(());
        }
        let setup = Place::new()
            .and_then(|place| systems::start(self.system, self.workshop, self.options, place));
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
            let measured = load::measure(self.workshop, &setup, *scenario, self.options)
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
    fn memory_is_measured_in_fresh_proxies() {
        let scenarios = vec![Scenario::Idle, Scenario::IdleHttp, Scenario::Rate, Scenario::Opaque];
        let expect = [
            vec![Scenario::Idle],
            vec![Scenario::IdleHttp],
            vec![Scenario::Rate, Scenario::Opaque],
        ];
        assert_eq!(groups(scenarios), expect);
    }
}
