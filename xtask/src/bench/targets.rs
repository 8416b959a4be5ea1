//! What Hauberk wants to reach, beside what was measured.
//!
//! The targets hold for one worker per proxy and two CPUs that do nothing else. Most are what the
//! best peer costs on such a machine (HAProxy), some lie below because the design allows it.

use super::{record::Measured, report::growth, scenario::Scenario};

/// One figure to reach.
pub(super) struct Target {
    pub(super) scenario: Scenario,
    /// The figure, with its unit.
    pub(super) what: &'static str,
    pub(super) bound: Bound,
    /// How it comes from one measurement.
    pub(super) figure: fn(&Measured) -> Option<f64>,
}

/// On which side of a target the good figures are.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    pub(super) fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    /// The bound in words.
    pub(super) fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("at most {most}"),
            Self::AtLeast(least) => format!("at least {least}"),
        }
    }
}

/// How many times the requests of one worker two carry, at least, where nothing but them is scarce.
pub(super) const TWO_WORKERS_REQUESTS: f64 = 1.6;

/// How many times the CPU a request then costs, at most.
pub(super) const TWO_WORKERS_CPU: f64 = 1.1;

/// Whether two workers do what they should.
pub(super) fn two_workers_do(requests: f64, cpu: f64) -> bool {
    requests >= TWO_WORKERS_REQUESTS && cpu <= TWO_WORKERS_CPU
}

const CPU: &str = "CPU-s per 100k, both";
const CPU_OF_CONNECTION: &str = "CPU ms per connection, mean of both";

/// All targets, in the order of the scenarios.
pub(super) const TARGETS: &[Target] = &[
    at_most(Scenario::Idle, "MiB, the larger", 8.0, |it| {
        Some(larger(it, |it, side| it.get(&format!("resident_{side}_kib")))? / 1024.0)
    }),
    at_most(Scenario::IdleHttp, "KiB per connection, the larger", 4.0, |it| larger(it, growth)),
    at_most(Scenario::IdleOpaque, "KiB per connection, the larger", 20.0, |it| larger(it, growth)),
    at_most(Scenario::IdleHttpMany, "KiB per connection, the larger", 4.0, |it| larger(it, growth)),
    at_most(Scenario::IdleOpaqueMany, "KiB per connection, the larger", 20.0, |it| {
        larger(it, growth)
    }),
    at_most(Scenario::Rate, CPU, 15.0, cpu_per_100k),
    at_most(Scenario::Rate, "p50 µs", 280.0, |it| it.get("p50_us")),
    at_most(Scenario::Http1On32, CPU, 2.2, cpu_per_100k),
    at_most(Scenario::Http2On4, CPU, 2.6, cpu_per_100k),
    at_most(Scenario::Http2On32, CPU, 3.2, cpu_per_100k),
    at_most(Scenario::Grpc, CPU, 2.6, cpu_per_100k),
    at_most(Scenario::Opaque, CPU, 1.85, cpu_per_100k),
    Target {
        scenario: Scenario::ConnectHttp,
        what: "connections per second",
        bound: Bound::AtLeast(15_000.0),
        figure: |it| it.per_second("requests"),
    },
    at_most(Scenario::ConnectOpaque, CPU_OF_CONNECTION, 0.22, cpu_per_connection),
    at_most(Scenario::ConnectOpaqueAnew, CPU_OF_CONNECTION, 0.45, cpu_per_connection),
    at_most(Scenario::BulkTcp, "CPU-s per GB, both", 1.5, cpu_per_gb),
    at_most(Scenario::BulkHttp, "CPU-s per GB, both", 1.5, cpu_per_gb),
];

const fn at_most(
    scenario: Scenario,
    what: &'static str,
    most: f64,
    figure: fn(&Measured) -> Option<f64>,
) -> Target {
    Target { scenario, what, bound: Bound::AtMost(most), figure }
}

fn cpu_per_100k(measured: &Measured) -> Option<f64> {
    measured.both_per("cpu_{}_s", "requests", 1e5)
}

fn cpu_per_connection(measured: &Measured) -> Option<f64> {
    Some(measured.both_per("cpu_{}_s", "requests", 1e3)? / 2.0)
}

fn cpu_per_gb(measured: &Measured) -> Option<f64> {
    measured.both_per("cpu_{}_s", "bytes", 1e9)
}

/// The larger of both proxies' figures.
pub(super) fn larger(
    measured: &Measured,
    figure: fn(&Measured, &str) -> Option<f64>,
) -> Option<f64> {
    Some(figure(measured, "out")?.max(figure(measured, "in")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_include_themselves() {
        assert!(Bound::AtMost(2.2).is_met_by(2.2) && !Bound::AtMost(2.2).is_met_by(2.3));
        assert!(Bound::AtLeast(9.0).is_met_by(9.0) && !Bound::AtLeast(9.0).is_met_by(8.9));
    }

    #[test]
    fn the_costlier_side_counts() {
        let text = "RESULT requests=1000 resident_before_out_kib=1000 resident_out_kib=5000 \
                    resident_before_in_kib=1000 resident_in_kib=9000";
        let measured = Measured::parse(text).unwrap();
        assert_eq!(larger(&measured, growth), Some(8.0));
    }
}
