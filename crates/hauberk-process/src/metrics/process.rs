//! The `process_*` families that dashboards expect of every program, read from `/proc/self`.
//!
//! Names and meanings follow the Prometheus client guidelines, "standard and runtime collectors".
//! A value that cannot be read is left out. Reading happens at each scrape and costs about four
//! small file reads and a directory listing.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Exposition, Kind, Metrics};
use crate::Tasks;

/// Ticks per second of the times in `/proc`. The kernel's ABI fixes it at 100 on all
/// architectures Hauberk runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers the `process_*` families. `started` is the wall clock at the start of the process.
pub fn register(metrics: &Metrics, started: SystemTime) {
    let start_seconds = started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    metrics.add_collector(move |out| {
        let start = "Unix time at which the process started, in seconds";
        out.single("process_start_time_seconds", Kind::Gauge, start, start_seconds);
        write(out, &Sample::read());
    });
}

/// Registers how many tasks run, and how many have panicked, by name.
pub fn register_tasks(metrics: &Metrics, tasks: &Tasks) {
    let tasks = tasks.clone();
    metrics.add_collector(move |out| {
        let states = tasks.states();
        out.family("process_tasks", Kind::Gauge, "Tasks now running");
        for state in &states {
            out.sample(&[("task", state.name)], state.running as u64);
        }
        out.family("process_task_panics_total", Kind::Counter, "Tasks that panicked");
        for state in &states {
            out.sample(&[("task", state.name)], state.panics);
        }
    });
}

/// What `/proc/self` says.
#[derive(Debug, Default, PartialEq)]
struct Sample {
    cpu_seconds: Option<f64>,
    threads: Option<u64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Sample {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let mut sample = Self::parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
        );
        // One descriptor is the directory that is being listed.
        let listed = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        sample.open_fds = listed.map(|count| (count as u64).saturating_sub(1));
        sample
    }

    fn parse(stat: &str, status: &str, limits: &str) -> Self {
        // The second field is the program's name in parentheses and may contain anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = |index| after_name.split_ascii_whitespace().nth(index)?.parse::<f64>().ok();
        let status = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Self {
            // Fields 14 and 15 of proc_pid_stat(5); the third is the first after the name.
            cpu_seconds: ticks(11)
                .zip(ticks(12))
                .map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            threads: status("Threads:"),
            resident_bytes: status("VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: status("VmSize:").map(|kib| kib * 1024),
            open_fds: None,
            max_fds: limit.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()),
        }
    }
}

fn write(out: &mut Exposition, sample: &Sample) {
    let Sample { cpu_seconds, threads, resident_bytes, virtual_bytes, open_fds, max_fds } = sample;
    if let Some(value) = cpu_seconds {
        let help = "User and system CPU time spent, in seconds";
        out.single("process_cpu_seconds_total", Kind::Counter, help, *value);
    }
    let gauges = [
        ("process_threads", "Threads of the operating system", threads),
        ("process_resident_memory_bytes", "Resident memory, in bytes", resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory, in bytes", virtual_bytes),
        ("process_open_fds", "Open file descriptors", open_fds),
        ("process_max_fds", "Most file descriptors that may be open", max_fds),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            out.single(name, Kind::Gauge, help, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_text() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 150 0 0 20 0 3 0 100 0 0";
        let status = "Name:\ta\nVmSize:\t   2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(
            Sample::parse(stat, status, limits),
            Sample {
                cpu_seconds: Some(4.0),
                threads: Some(3),
                resident_bytes: Some(1024 * 1024),
                virtual_bytes: Some(2048 * 1024),
                open_fds: None,
                max_fds: Some(1024),
            }
        );
        assert_eq!(Sample::parse("", "", ""), Sample::default());
    }

    #[test]
    fn this_process_can_be_read() {
        let metrics = Metrics::new();
        register(&metrics, UNIX_EPOCH);
        let text = metrics.render();
        for name in ["process_start_time_seconds 0", "process_open_fds ", "process_threads "] {
            assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
        }
    }
}
