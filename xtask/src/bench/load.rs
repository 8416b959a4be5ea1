//! Puts loads on a system and reads what they and the proxies say.
//!
//! CPU is read before and after the load program runs, so it includes what making the connections
//! costs; all requests of that time are counted, so nothing is paid for by others.

use super::{
    clock::wait_for,
    enclosure::Workshop,
    options::Options,
    place::Side,
    process::{self, Process},
    record::Measured,
    scenario::Scenario,
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

/// What a load may take beyond its time.
const GRACE: Duration = Duration::from_secs(15);

/// Rest before memory is read: what is released late is released by then.
const REST: Duration = Duration::from_secs(1);

/// Connections that are held idle.
const IDLE_CONNECTIONS: u32 = 1_000;

/// Measures one scenario.
pub(super) fn measure(
    workshop: &Workshop,
    setup: &Setup,
    scenario: Scenario,
    options: &Options,
) -> anyhow::Result<Measured> {
    let load = Load { workshop, setup };
    let (seconds, warm_up) = (options.seconds(), options.warm_up_seconds());
    let measured = match scenario {
        Scenario::Idle => load.rest(seconds)?,
        Scenario::IdleHttp => load.hold(Port::Http1)?,
        Scenario::IdleOpaque => load.hold(Port::Opaque)?,
        _ => {
            if warm_up > 0 {
                load.run(scenario, warm_up)?;
            }
            let before = load.setup.usage()?;
            let mut measured = load.run(scenario, seconds)?;
            if let (Some(before), Some(after)) = (before, load.setup.usage()?) {
                measured.add_usage(&before, &after);
            }
            let requests = measured.get("requests").unwrap_or(0.0);
            let errors = measured.get("errors").unwrap_or(0.0);
            ensure!(requests > 0.0, "not one request succeeded");
            // A wrong answer is often a fast one.
            ensure!(errors * 100.0 <= requests, "{errors} of {requests} requests failed");
            measured
        }
    };
    Ok(measured)
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
            Scenario::Http1On32 => self.wrk(Port::Http1, 32, &[], seconds),
            Scenario::Http1On128 => self.wrk(Port::Http1, 128, &[], seconds),
            Scenario::Opaque => self.wrk(Port::Opaque, 32, &[], seconds),
            Scenario::ConnectHttp => self.wrk(Port::Http1, 32, &closing, seconds),
            Scenario::ConnectOpaque => self.wrk(Port::Opaque, 32, &closing, seconds),
            Scenario::Http2On4 => self.h2load(4, 32, "/", seconds),
            Scenario::Http2On32 => self.h2load(32, 1, "/", seconds),
            Scenario::Grpc => self.h2load(4, 32, GRPC_PATH, seconds),
            Scenario::BulkTcp => self.own("bulk", Port::Opaque, seconds),
            Scenario::BulkHttp => self.own("bulk", Port::Http1, seconds),
            Scenario::Rate => self.own("open-loop", Port::Http1, seconds),
            Scenario::Idle | Scenario::IdleHttp | Scenario::IdleOpaque => {
                unreachable!("rest is no load")
            }
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
    fn own(&self, load: &str, port: Port, seconds: u32) -> anyhow::Result<Measured> {
        let mut command = self.own_command(load, self.setup.address(port));
        command.args(["--seconds", &seconds.to_string()]);
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
    fn hold(&self, port: Port) -> anyhow::Result<Measured> {
        let before = self.setup.usage()?.context("there is no proxy")?;
        let mut command = self.own_command("hold", self.setup.address(port));
        command.args(["--connections", &IDLE_CONNECTIONS.to_string()]);
        let log = self.file("hold.out");
        let mut holder = Process::start("the holder of connections", &mut command, &log)?;
        let output = wait_for("opening idle connections", 2 * GRACE, || {
            holder.check_alive()?;
            Ok(fs::read_to_string(&log).ok().filter(|output| output.contains('\n')))
        })?;
        let mut measured = Measured::parse(&output)?;
        std::thread::sleep(REST);
        measured.add_usage(&before, &self.setup.usage()?.context("there is no proxy")?);
        Ok(measured)
    }

    fn output(&self, name: &str, command: &mut Command, seconds: u32) -> anyhow::Result<String> {
        let limit = Duration::from_secs(u64::from(seconds) * 2) + GRACE;
        process::output(name, command, &self.file("load.out"), limit)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.workshop.scratch.join(name)
    }
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
