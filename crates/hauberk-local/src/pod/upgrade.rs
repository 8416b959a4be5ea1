//! Replacing a container's process while it runs.
//!
//! The new program starts beside the old one, in the same namespaces and with the same settings, and
//! with `--take-over`: it shares the old one's addresses and begins to listen when it can serve,
//! which it says through the socket in `NOTIFY_SOCKET` ([`hauberk_process::notify`]). From then on
//! it is the container's process; the old one is told by SIGUSR2, accepts nothing more, finishes
//! what it has and ends. Until then nothing of the old one changes, so an attempt that fails costs
//! nothing. It is no restart, probes go on, and no other container takes notice.
//!
//! Called by [`super::life`], which decides what of it happens when the container ends meanwhile.

use std::io::{self, Error};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hauberk_linux::process::Ended;
use hauberk_process::notify::{NOTIFY_SOCKET, READY};
use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::life::{Container, KillOnDrop};
use super::{Pod, SIDECAR_GRACE};
use crate::api::Upgraded;
use crate::container::Child;
use crate::logs::Log;
use crate::status::State;

/// A proxy ends itself after its grace period, two minutes unless set otherwise. One that is still
/// there after this hangs.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Former processes of one container; each is a whole proxy in memory.
const FORMER_MAX: usize = 4;
/// Time for the output of an ended process to be read.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of a failed program's output that the error shows.
const LAST_LINES: usize = 3;

/// A wish for another process.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Its program, if not the one that runs.
    pub(super) program: Option<PathBuf>,
    /// Time until it serves.
    pub(super) timeout: Duration,
    /// Where the outcome goes.
    pub(super) answer: oneshot::Sender<Result<Upgraded, String>>,
}

impl Upgrade {
    pub(super) fn succeeded(self, old: Option<&Child>, new: &Child) {
        let (pid_before, pid_after) = (old.and_then(Child::host_pid), new.host_pid());
        let _ = self.answer.send(Ok(Upgraded { pid_before, pid_after })); // The asker may have gone.
    }

    pub(super) fn failed(self, problem: String) {
        let _ = self.answer.send(Err(problem)); // As above.
    }
}

impl Container {
    /// Starts a successor and waits until it serves; gives it and its command. Dropped before that,
    /// or on failure, it leaves no process.
    pub(super) async fn successor(
        &self,
        upgrade: &Upgrade,
        command: &[String],
    ) -> Result<(Child, Vec<String>), String> {
        let name = &self.plan.name;
        let draining = self.pod.draining(name);
        if draining >= FORMER_MAX {
            return Err(format!(
                "{draining} former processes of {name} still finish what they have; hint: wait"
            ));
        }
        let mut command = command.to_vec();
        if let (Some(first), Some(program)) = (command.first_mut(), &upgrade.program) {
            *first = program.to_string_lossy().into_owned();
        }
        let program = command.first().cloned().unwrap_or_default();
        let failed = |error: &dyn std::fmt::Display| format!("cannot start {program}: {error}");
        let pod = Arc::clone(&self.pod);
        let open = tokio::task::spawn_blocking(move || {
            let home = pod.home().ok_or_else(|| Error::other("the pod has no namespaces"))?;
            home.ready_socket()
        });
        let opened = open.await.unwrap_or_else(|error| Err(error.into()));
        let (socket, told) = opened.map_err(|error| failed(&error))?;
        let told = UnixDatagram::from_std(told).map_err(|error| failed(&error))?;

        let mut plan = self.plan.clone();
        plan.command = command.clone();
        plan.command.push("--take-over".to_owned());
        plan.environment.push((NOTIFY_SOCKET.to_owned(), socket));
        let output = Arc::new(Log::default());
        let started = self.start(plan, vec![Arc::clone(&output)]).await;
        let (child, mut log) = started.map_err(|error| format!("{error:#}"))?;
        let mut child = KillOnDrop::new(child, &self.surroundings.tasks);
        let problem = tokio::select! {
            // Biased: who says that it serves and ends at once does not serve.
            biased;
            ended = child.wait() => {
                let _ = timeout(OUTPUT_TIMEOUT, &mut log).await; // Its output may be held open by others.
                match ended {
                    Ended::Code(code) => format!("{program} ended with code {code} instead of serving"),
                    Ended::Signal(signal) => format!("{program} was ended by signal {signal}"),
                }
            }
            result = until_ready(&told) => match (result, child.keep()) {
                (Ok(()), Some(child)) => return Ok((child, command)),
                (Ok(()), None) => failed(&"it has gone"),
                (Err(error), _) => failed(&error),
            },
            () = sleep(upgrade.timeout) => {
                format!("{program} did not serve within {:?}", upgrade.timeout)
            }
        };
        Err([vec![problem], output.last_lines(LAST_LINES)].concat().join("; "))
    }

    /// The process of this container is another one; its state stays.
    pub(super) fn took_over(&self, child: &Child) {
        tracing::info!(pod = %self.pod.plan.name, container = %self.plan.name, "upgraded");
        let (pid, lab_pid) = (child.host_pid(), child.pid());
        let state = State::Running { pid, lab_pid };
        self.pod.update_container(&self.plan.name, |one| one.state = state);
    }

    /// An upgrade while nothing runs, most often because the program crashes.
    pub(super) async fn revive(&mut self, upgrade: Upgrade) -> Option<Child> {
        match self.successor(&upgrade, &self.plan.command).await {
            Ok((child, command)) => {
                self.plan.command = command;
                upgrade.succeeded(None, &child);
                Some(child)
            }
            Err(problem) => {
                upgrade.failed(problem);
                None
            }
        }
    }
}

async fn until_ready(told: &UnixDatagram) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        // Other lines than this one may come too (sd_notify(3)).
        let length = told.recv(&mut buffer).await?;
        if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == READY) {
            return Ok(());
        }
    }
}

/// Processes that have been replaced and finish what they have.
#[derive(Default)]
pub(super) struct Former {
    tasks: Vec<JoinHandle<()>>,
}

impl Former {
    /// Tells a process that it was replaced, and sees to its end.
    pub(super) fn drain(
        &mut self,
        container: &Container,
        child: Child,
        stop: watch::Receiver<Option<Instant>>,
    ) {
        self.tasks.retain(|task| !task.is_finished());
        let (pod, name) = (Arc::clone(&container.pod), container.plan.name.clone());
        let pid = child.host_pid().unwrap_or_default();
        pod.update_container(&name, |one| one.draining.push(pid));
        child.signal(Signal::USR2);
        self.tasks.push(container.surroundings.tasks.spawn("former process", async move {
            see_off(child, stop).await;
            pod.update_container(&name, |one| one.draining.retain(|other| *other != pid));
        }));
    }

    /// Waits for the last one; they are in a hurry when the container is.
    pub(super) async fn end(&mut self) {
        for task in self.tasks.drain(..) {
            let _ = task.await; // A panic was reported by the set of tasks.
        }
    }
}

async fn see_off(child: Child, mut stop: watch::Receiver<Option<Instant>>) {
    let hurry = async {
        let deadline = stop.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline);
        let soon = Instant::now() + SIDECAR_GRACE;
        sleep_until(deadline.map_or(soon, |deadline| deadline.min(soon))).await;
    };
    tokio::select! {
        _ = child.wait() => return,
        () = hurry => {}
        () = sleep(DRAIN_MAX) => {}
    }
    child.signal(Signal::KILL);
    child.wait().await;
}

impl Pod {
    /// Former processes of a container that are still there.
    fn draining(&self, container: &str) -> usize {
        let status = self.lock();
        let found = status.containers.iter().find(|one| one.name == container);
        found.map_or(0, |one| one.draining.len())
    }
}
