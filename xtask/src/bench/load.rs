//! Puts loads on a system and reads what they and the proxies say.
//!
//! CPU is read before and after the load program runs, so it includes what making the connections
//! costs; all requests of that time are counted, so nothing is paid for by others.

use super::{
    clock::wait_for,
    enclosure::{Workshop, connections_at_most},
    options::Options,
    place::Side,
    process::{self, Process},
    record::Measured,
    scenario::Scenario,
    shares::Shares,
    systems::{Port, Setup},
};
use anyhow::{Context, ensure};
use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

/// Prints what wrk found as one line.
const WRK_REPORT: &str = include_str!("wrk-report.lua");

/// A gRPC message of 32 bytes with its prefix of 5.
pub(super) const GRPC_MESSAGE: &[u8; 37] = b"\0\0\0\0\x20\x0a\x1eaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Path of the unary gRPC method.
pub(super) const GRPC_PATH: &str = "/bench.Echo/Get";

/// The kernel's event for the beginning of any system call, as perf names it.
const SYSTEM_CALLS: &str = "raw_syscalls:sys_enter";

/// What a load may take beyond its time.
const GRACE: Duration = Duration::from_secs(15);

/// Rest before memory is read: what is released late is released by then.
const REST: Duration = Duration::from_secs(1);

/// For perf to attach to every thread of a proxy, which has begun when it says that it is ready.
const ATTACH: Duration = Duration::from_millis(200);

/// Seconds of a load during which is counted. Counts per request need no long time.
const COUNTED_SECONDS: u32 = 2;

/// Measures one scenario.
pub(super) fn measure(
    workshop: &Workshop,
    setup: &Setup,
    scenario: Scenario,
    options: &Options,
) -> anyhow::Result<Measured> {
    let load = Load { workshop, setup };
    let seconds = options.seconds();
    let warm_up = options.warm_up_seconds().max(scenario.warm_up_seconds_min());
    let measured = match scenario {
        Scenario::Idle => load.rest(seconds)?,
        Scenario::IdleHttp => load.hold(Port::Http1, 1_000)?,
        Scenario::IdleOpaque => load.hold(Port::Opaque, 1_000)?,
        Scenario::IdleHttpMany => load.hold(Port::Http1, connections_at_most(10_000))?,
        Scenario::IdleOpaqueMany => load.hold(Port::Opaque, connections_at_most(10_000))?,
        _ => {
            if warm_up > 0 {
                load.run(scenario, warm_up)?;
            }
            load.setup.forget_peak()?;
            let before = load.setup.usage()?;
            let shares = setup.shares.as_ref();
            let of_workers = shares.map(Shares::cpu).transpose()?;
            let mut measured = load.run(scenario, seconds)?;
            if let (Some(shares), Some(before)) = (shares, of_workers) {
                let lasted = measured.get("seconds").context("the load has no time")?;
                measured.add_shares(&shares.used(&before, &shares.cpu()?, lasted));
            }
            if let (Some(before), Some(after)) = (before, load.setup.usage()?) {
                measured.add_usage(&before, &after);
            }
            check_errors(&measured)?;
            measured
        }
    };
    Ok(measured)
}

/// Counts what requests of a scenario ask of the kernel, and of the allocator where the proxy can
/// tell. Counting costs time, so nothing else is measured meanwhile.
pub(super) fn count(
    workshop: &Workshop,
    setup: &Setup,
    scenario: Scenario,
) -> anyhow::Result<Measured> {
    let load = Load { workshop, setup };
    // Connections between the proxies are made before; a load makes its own anew.
    load.run(scenario, 1)?;
    let counters = load.count_system_calls()?;
    let before = setup.allocations(workshop)?;
    let loaded = load.run(scenario, COUNTED_SECONDS)?;
    check_errors(&loaded)?;
    let after = setup.allocations(workshop)?;
    let mut counted = Measured::default();
    counted.set("counted_requests", loaded.get("requests").context("no requests")?);
    for (side, counter) in ["out", "in"].iter().zip(counters) {
        let output = counter.finish(GRACE)?;
        counted.set(&format!("syscalls_{side}"), perf_count(&output)?);
    }
    if let (Some(before), Some(after)) = (before, after) {
        for (index, side) in ["out", "in"].iter().enumerate() {
            counted.set(&format!("allocations_{side}"), after[index] - before[index]);
        }
    }
    Ok(counted)
}

fn check_errors(measured: &Measured) -> anyhow::Result<()> {
    let requests = measured.get("requests").unwrap_or(0.0);
    let errors = measured.get("errors").unwrap_or(0.0);
    ensure!(requests > 0.0, "not one request succeeded");
    // A wrong answer is often a fast one.
    ensure!(errors * 100.0 <= requests, "{errors} of {requests} requests failed");
    Ok(())
}

struct Load<'a> {
    workshop: &'a Workshop,
    setup: &'a Setup,
}

impl Load<'_> {
    /// One load from its beginning to its end.
    fn run(&self, scenario: Scenario, seconds: u32) -> anyhow::Result<Measured> {
        let closing = ["-H", "Connection: close"];
        match scenario {
            Scenario::Http1On1 => self.wrk(Port::Http1, 1, &[], seconds),
            Scenario::Http1On32
            | Scenario::Routes10
            | Scenario::Routes100
            | Scenario::Routes1000
            | Scenario::Endpoints10
            | Scenario::Endpoints1000 => self.wrk(Port::Http1, 32, &[], seconds),
            Scenario::CoresHttp1 => self.wrk(Port::Http1, 256, &[], seconds),
            Scenario::CoresHttp2 => self.h2load(32, 16, "/", seconds),
            Scenario::Http1On128 => self.wrk(Port::Http1, 128, &[], seconds),
            Scenario::Opaque => self.wrk(Port::Opaque, 32, &[], seconds),
            Scenario::ConnectHttp => self.wrk(Port::Http1, 32, &closing, seconds),
            Scenario::ConnectOpaque | Scenario::ConnectOpaqueAnew => {
                self.wrk(Port::Opaque, 32, &closing, seconds)
            }
            Scenario::Http2On4 => self.h2load(4, 32, "/", seconds),
            Scenario::Http2On32 => self.h2load(32, 1, "/", seconds),
            Scenario::Grpc => self.h2load(4, 32, GRPC_PATH, seconds),
            Scenario::GrpcOn32 => self.h2load(32, 1, GRPC_PATH, seconds),
            Scenario::GrpcStream => self.own("stream", Port::Stream, &[], seconds),
            Scenario::BulkTcp => self.own("bulk", Port::Opaque, &[], seconds),
            Scenario::BulkHttp => self.own("bulk", Port::Http1, &[], seconds),
            Scenario::Rate => self.own("open-loop", Port::Http1, &[], seconds),
            Scenario::RateMany => {
                let more = ["--rate", "5000", "--connections", "64"];
                self.own("open-loop", Port::Http1, &more, seconds)
            }
            Scenario::Idle
            | Scenario::IdleHttp
            | Scenario::IdleOpaque
            | Scenario::IdleHttpMany
            | Scenario::IdleOpaqueMany => unreachable!("rest is no load"),
        }
    }

    fn wrk(
        &self,
        port: Port,
        connections: u32,
        more: &[&str],
        seconds: u32,
    ) -> anyhow::Result<Measured> {
        let script = self.file("wrk-report.lua");
        fs::write(&script, WRK_REPORT)?;
        let mut command = self.setup.place.command(Side::Client, "wrk");
        command.args(["--threads", "1", "--connections", &connections.to_string()]);
        command.args(["--duration", &format!("{seconds}s")]).arg("--script").arg(script).args(more);
        command.arg(format!("http://{}/", self.setup.address(port)));
        Measured::parse(&self.output("wrk", &mut command, seconds)?)
    }

    fn h2load(
        &self,
        connections: u32,
        streams: u32,
        path: &str,
        seconds: u32,
    ) -> anyhow::Result<Measured> {
        let log = self.file("h2load.log");
        // h2load appends.
        let _ = fs::remove_file(&log);
        let mut command = self.setup.place.command(Side::Client, "h2load");
        command.args(["--duration", &seconds.to_string(), "--clients", &connections.to_string()]);
        command.args(["--max-concurrent-streams", &streams.to_string()]);
        command.arg(format!("--log-file={}", log.display()));
        if path == GRPC_PATH {
            let message = self.file("grpc-message");
            fs::write(&message, GRPC_MESSAGE)?;
            command.arg(format!("--data={}", message.display()));
            command.args(["--header=content-type: application/grpc", "--header=te: trailers"]);
        }
        command.arg(format!("http://{}{path}", self.setup.address(Port::Http2)));
        let output = self.output("h2load", &mut command, seconds)?;
        let log = fs::read_to_string(&log).context("h2load wrote no log")?;
        h2load_result(&output, &log, seconds)
    }

    /// One of the loads in `bench/`.
    fn own(&self, load: &str, port: Port, more: &[&str], seconds: u32) -> anyhow::Result<Measured> {
        let mut command = self.own_command(load, self.setup.address(port));
        command.args(more).args(["--seconds", &seconds.to_string()]);
        Measured::parse(&self.output(load, &mut command, seconds)?)
    }

    fn own_command(&self, load: &str, address: SocketAddr) -> Command {
        let mut command = self.setup.place.command(Side::Client, self.workshop.tool());
        command.arg(load).arg(address.to_string());
        command
    }

    /// Nothing happens: what do the proxies hold, and what do they do for their own sake?
    fn rest(&self, seconds: u32) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        let before = self.setup.usage()?.context("there is no proxy")?;
        std::thread::sleep(Duration::from_secs(seconds.into()));
        measured.add_usage(&before, &self.setup.usage()?.context("there is no proxy")?);
        measured.set("seconds", seconds.into());
        measured.set("start_s", self.setup.start.as_secs_f64());
        Ok(measured)
    }

    /// Idle connections, complete up to the application.
    fn hold(&self, port: Port, count: u32) -> anyhow::Result<Measured> {
        let before = self.setup.usage()?.context("there is no proxy")?;
        let mut command = self.own_command("hold", self.setup.address(port));
        command.args(["--connections", &count.to_string()]);
        let log = self.file("hold.out");
        let mut holder = Process::start("the holder of connections", &mut command, &log)?;
        // Each may take some milliseconds of CPU for its handshake.
        let limit = GRACE + Duration::from_millis(u64::from(count) * 6);
        let output = wait_for("opening idle connections", limit, || {
            holder.check_alive()?;
            Ok(fs::read_to_string(&log).ok().filter(|output| output.contains('\n')))
        })?;
        let mut measured = Measured::parse(&output)?;
        std::thread::sleep(REST);
        measured.add_usage(&before, &self.setup.usage()?.context("there is no proxy")?);
        Ok(measured)
    }

    /// Begins to count the system calls of both proxies, until the counters' inputs end.
    fn count_system_calls(&self) -> anyhow::Result<[Process; 2]> {
        let [outbound, inbound] = self.setup.ids()?.context("there is no proxy")?;
        let counter = |name: &str, ids: &[u32]| {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            let mut command = Command::new("perf");
            command.args(["stat", "-x", ",", "-e", SYSTEM_CALLS, "-p", &ids.join(",")]);
            command.args(["--", "sh", "-c", "echo ready; exec cat"]);
            let log = self.file(&format!("perf-{name}.out"));
            let mut process = Process::start("perf", &mut command, &log)?;
            wait_for("attaching perf", GRACE, || {
                process.check_alive()?;
                Ok(fs::read_to_string(&log).ok().filter(|output| output.contains("ready")))
            })?;
            std::thread::sleep(ATTACH);
            Ok(process)
        };
        let counter: &dyn Fn(&str, &[u32]) -> anyhow::Result<Process> = &counter;
        Ok([counter("out", &outbound)?, counter("in", &inbound)?])
    }

    fn output(&self, name: &str, command: &mut Command, seconds: u32) -> anyhow::Result<String> {
        let limit = Duration::from_secs(u64::from(seconds) * 2) + GRACE;
        process::output(name, command, &self.file("load.out"), limit)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.workshop.scratch.join(name)
    }
}

/// Reads what `perf stat -x ,` prints: lines of a count, its unit, and the event.
fn perf_count(output: &str) -> anyhow::Result<f64> {
    let line = output.lines().find(|line| line.split(',').nth(2) == Some(SYSTEM_CALLS));
    let line = line.with_context(|| format!("perf has counted nothing: {output}"))?;
    let count = line.split(',').next().unwrap_or_default();
    count.parse().with_context(|| format!("perf has counted '{count}'"))
}

/// Reads h2load's summary, and the percentiles from its log of requests: lines of the moment, the
/// status and the duration in microseconds.
fn h2load_result(output: &str, log: &str, seconds: u32) -> anyhow::Result<Measured> {
    let counts = output.lines().find(|line| line.starts_with("requests: "));
    let counts = counts.with_context(|| format!("h2load has no summary: {output}"))?;
    let count = |what: &str| {
        let before = counts.split(what).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|number| number.parse::<f64>().ok())
    };
    let mut measured = Measured::default();
    measured.set("seconds", seconds.into());
    measured.set("requests", count(" succeeded").context("h2load counts no successes")?);
    measured.set("errors", count(" failed,").context("h2load counts no failures")?);
    let durations = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse::<u64>().ok());
    let mut durations: Vec<_> = durations.collect();
    durations.sort_unstable();
    for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        let rank = (durations.len() as f64 * share).ceil() as usize;
        if let Some(duration) = durations.get(rank.saturating_sub(1)) {
            measured.set(name, *duration as f64);
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_perf_prints() {
        let output = "ready\n2125,,raw_syscalls:sys_enter,1730070,100.00,,\n";
        assert_eq!(perf_count(output).unwrap(), 2125.0);
        assert!(perf_count("<not counted>,,raw_syscalls:sys_enter,0,100.00,,").is_err());
        assert!(perf_count("event syntax error").is_err());
    }

    #[test]
    fn reads_what_h2load_prints() {
        let output = "finished in 2.00s, 100 req/s\n\
            requests: 203 total, 203 started, 201 done, 200 succeeded, 1 failed, 0 errored, 0 timeout\n";
        let log = "100\t200\t30\n101\t200\t10\n102\t200\t20\n";
        let measured = h2load_result(output, log, 2).unwrap();
        assert_eq!(measured.per_second("requests"), Some(100.0));
        assert_eq!(measured.get("errors"), Some(1.0));
        assert_eq!(measured.get("p50_us"), Some(20.0));
        assert_eq!(measured.get("p999_us"), Some(30.0));
        assert!(h2load_result("nothing", log, 2).is_err());
    }
}
