//! A real `hauberk-controller` over a directory, on loopback: started, watched and ended.

use anyhow::{Context, bail, ensure};
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for it to have read everything.
const READY_MAX: Duration = Duration::from_secs(120);

/// Between two looks whether it is ready.
const PAUSE: Duration = Duration::from_millis(5);

/// Longest wait for an answer of its admin server.
const SILENCE_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Controller {
    child: Child,
    admin: SocketAddr,
    /// Where discovery is served.
    pub(crate) destination: SocketAddr,
    /// From starting the process until it had read the directory.
    pub(crate) start: Duration,
}

impl Controller {
    /// Starts it without identity, in the clear, and waits until it is ready.
    pub(crate) fn start(program: &Path, source: &Path) -> anyhow::Result<Self> {
        // Bound and let go again: nobody else takes ports here meanwhile, or starting fails.
        let ports: Result<Vec<_>, _> =
            (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
        let ports = ports.context("no free port")?;
        let addresses: Result<Vec<_>, _> = ports.iter().map(TcpListener::local_addr).collect();
        let addresses = addresses?;
        drop(ports);
        let began = Instant::now();
        let mut command = Command::new(program);
        command.arg("--source-dir").arg(source).stdin(Stdio::null()).stdout(Stdio::null());
        for (flag, address) in
            ["--destination-addr", "--policy-addr", "--admin-addr"].iter().zip(&addresses)
        {
            command.args([flag, &*address.to_string()]);
        }
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let (destination, admin) = (addresses[0], addresses[2]);
        let mut controller = Self { child, admin, destination, start: Duration::ZERO };
        while controller.ask("/ready").is_err() {
            if let Some(status) = controller.child.try_wait()? {
                bail!("the control plane ended ({status})");
            }
            ensure!(began.elapsed() < READY_MAX, "the control plane does not get ready");
            thread::sleep(PAUSE);
        }
        controller.start = began.elapsed();
        Ok(controller)
    }

    /// Resident memory now, and at its highest so far.
    pub(crate) fn resident_kib(&self) -> anyhow::Result<[u64; 2]> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name}"))
        };
        Ok([figure("VmRSS:")?, figure("VmHWM:")?])
    }

    /// CPU time of all its threads, to the nanosecond (proc_pid_schedstat(5)).
    ///
    /// Threads that have ended are forgotten; the runtime keeps its own, and those that read files
    /// stay for ten seconds after their last work.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let spent = text.split_whitespace().next().and_then(|it| it.parse::<u64>().ok());
            sum += spent.unwrap_or_default();
        }
        Ok(Duration::from_nanos(sum))
    }

    /// How many answers it has derived again.
    pub(crate) fn recomputed(&self) -> anyhow::Result<u64> {
        let metrics = self.ask("/metrics")?;
        let name = "control_answers_recomputed_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    }

    /// The body of a response of the admin server, if its status is 200.
    fn ask(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response.split_once("\r\n\r\n").context("no response")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path} was answered {head}");
        Ok(body.to_owned())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
