//! What a run would do and for how long: how often everything is repeated, how long each measurement
//! is, and the list that `--plan` prints.
//!
//! Times besides the measurements' own are estimates from runs on two CPUs; a run given minutes ends
//! with them whatever was estimated.

use super::{
    options::Options,
    scenario::{Scenario, Unit},
    systems::System,
};

/// Seconds for counting one scenario, about.
const COUNT_SECONDS: f64 = 4.5;

/// Seconds for measuring the control plane over clusters of the usual sizes, about.
const SCALE_SECONDS: f64 = 120.0;

/// How much of the given time is planned; estimates are only that.
const SHARE_PLANNED: f64 = 0.92;

/// Longest measurement that is planned, in seconds.
const SECONDS_MAX: u32 = 28;

/// How often and for how long everything is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) rounds: u32,
    /// Per measurement.
    pub(super) seconds: u32,
}

/// Seconds of load before a measurement. Short ones cannot afford any.
pub(super) fn warm_up_seconds(seconds: u32) -> u32 {
    match seconds {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

/// The pace at which a run with these options takes so many minutes.
pub(super) fn pace(options: &Options, minutes: u32) -> Pace {
    let mut work = Work::default();
    for item in items(options) {
        work.add(&item);
    }
    work.pace(f64::from(minutes) * 60.0 * SHARE_PLANNED)
}

/// Prints what a run with these options would do.
pub(super) fn print(options: &Options) {
    print!("{}", shown(&items(options), options.pace(), options.minutes()));
}

/// What is done for one scenario, or for counting, or for the control plane.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    name: String,
    systems: Vec<System>,
    /// Every round, or the first only.
    is_repeated: bool,
    /// Seconds, for all systems together, that do not depend on the pace.
    fixed: f64,
    /// Measurements whose length does.
    measurements: u32,
}

impl Item {
    fn rounds(&self, pace: Pace) -> u32 {
        if self.is_repeated { pace.rounds } else { 1 }
    }

    fn seconds(&self, pace: Pace) -> f64 {
        let each = f64::from(self.measurements * (pace.seconds + warm_up_seconds(pace.seconds)));
        (self.fixed + each) * f64::from(self.rounds(pace))
    }
}

/// Everything that a run does, in the order of the scenarios.
fn items(options: &Options) -> Vec<Item> {
    let mut items: Vec<Item> = options.scenarios().into_iter().map(of_scenario).collect();
    let mut counts = Item { name: "system calls and allocations".to_owned(), ..nothing() };
    for system in options.systems() {
        let scenarios = options.scenarios().into_iter();
        let scenarios: Vec<_> = scenarios.filter(|it| system.takes_part_in(*it)).collect();
        for group in super::groups(scenarios.clone()) {
            for scenario in &group {
                let item = items.iter_mut().find(|it| it.name == scenario.name());
                let item = item.expect("every scenario of a system is among all");
                item.systems.push(system);
                let set_up = scenario.shape().set_up_seconds() / group.len() as f64;
                item.fixed += scenario.more_seconds() + set_up;
                let lasts = scenario.unit() != Unit::Memory || *scenario == Scenario::Idle;
                item.measurements += u32::from(lasts);
            }
        }
        let counted = scenarios.iter().filter(|scenario| scenario.is_counted()).count();
        if options.counts() && system.is_counted() && counted > 0 {
            counts.systems.push(system);
            counts.fixed += Scenario::Idle.shape().set_up_seconds();
            counts.fixed += counted as f64 * COUNT_SECONDS;
        }
    }
    items.push(counts);
    if options.includes_scale() {
        let name = "control plane".to_owned();
        let systems = vec![System::Hauberk];
        items.push(Item { name, systems, fixed: SCALE_SECONDS, ..nothing() });
    }
    items.retain(|item| !item.systems.is_empty());
    items
}

fn of_scenario(scenario: Scenario) -> Item {
    Item { name: scenario.name(), is_repeated: !scenario.is_costly_to_repeat(), ..nothing() }
}

fn nothing() -> Item {
    Item {
        name: String::new(),
        systems: Vec::new(),
        is_repeated: false,
        fixed: 0.0,
        measurements: 0,
    }
}

fn shown(items: &[Item], pace: Pace, minutes: Option<u32>) -> String {
    let Pace { rounds, seconds } = pace;
    let warm_up = warm_up_seconds(seconds);
    let mut text = format!(
        "bench: {rounds} round(s), {seconds} s per measurement after {warm_up} s of the same load\n"
    );
    for item in items {
        let systems: Vec<_> = item.systems.iter().map(|it| it.name()).collect();
        let (rounds, seconds) = (item.rounds(pace), item.seconds(pace));
        let (name, systems) = (&item.name, systems.join(", "));
        text += &format!("bench:   {name:<30} {rounds} × , about {seconds:>4.0} s: {systems}\n");
    }
    let sum = items.iter().map(|item| item.seconds(pace)).sum::<f64>() / 60.0;
    let given = minutes.map_or_else(String::new, |minutes| format!(" of {minutes}"));
    text + &format!("bench: about {sum:.1}{given} minutes, once everything is built\n")
}

/// What a run has to do.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// Seconds that are spent once: counting, and what is not repeated.
    once: f64,
    /// Seconds of each round that do not depend on the seconds per measurement.
    each: f64,
    /// Measurements of each round that do.
    measurements: f64,
}

impl Work {
    fn add(&mut self, item: &Item) {
        match item.is_repeated {
            true => self.each += item.fixed,
            false => self.once += item.fixed,
        }
        self.measurements += f64::from(item.measurements);
    }

    /// The pace at which this takes so many seconds. Rounds matter more than long measurements,
    /// because medians need some, but only while measurements are not too short to have the same load
    /// before them, and at all not too short to mean anything.
    fn pace(self, seconds: f64) -> Pace {
        let longest = |rounds: u32| {
            let left = (seconds - self.once) / f64::from(rounds) - self.each;
            let each = left / self.measurements.max(1.0);
            let fits = |it: &u32| f64::from(*it + warm_up_seconds(*it)) <= each;
            (1..=SECONDS_MAX).rev().find(fits).unwrap_or(1)
        };
        let wanted = [(3, 3), (2, 3), (3, 2), (2, 2)];
        let good = wanted.into_iter().find(|(rounds, least)| longest(*rounds) >= *least);
        let rounds = good.map_or(1, |(rounds, _)| rounds);
        Pace { rounds, seconds: longest(rounds) }
    }
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
        // Two that have a load before them are better than three that have none.
        check(1_000.0, 2, 3);
        check(1_450.0, 3, 3);
        check(3_000.0, 3, 7);
        check(1e9, 3, 28);
    }

    #[test]
    fn a_plan_adds_up() {
        let pace = Pace { rounds: 2, seconds: 3 };
        let of = |name: &str, is_repeated, fixed, measurements| Item {
            name: name.to_owned(),
            systems: vec![System::Direct, System::Hauberk],
            is_repeated,
            fixed,
            measurements,
        };
        let items = [of("a", true, 10.0, 5), of("b", false, 60.0, 0)];
        let text = shown(&items, pace, Some(5));
        // Each measurement has a second before its three.
        assert!(
            text.contains("a                              2 × , about   60 s: direct"),
            "{text}"
        );
        assert!(text.contains("b                              1 × , about   60 s"), "{text}");
        assert!(text.ends_with("about 2.0 of 5 minutes, once everything is built\n"), "{text}");
    }
}
