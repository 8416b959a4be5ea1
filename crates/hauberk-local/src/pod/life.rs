//! The life of one container: start, watch, restart, stop. How its process is replaced while it runs
//! is in [`super::upgrade`].

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hauberk_linux::process::Ended;
use hauberk_process::Tasks;
use rustix::process::Signal;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::upgrade::{Former, Upgrade};
use super::{Pod, Surroundings};
use crate::container::{Child, no_input};
use crate::logs::{Log, follow};
use crate::plan::{Action, ContainerKind, ContainerPlan, ProbePlan};
use crate::probe::{Execute, act};
use crate::spec::RestartPolicy;
use crate::status::State;

/// Pause before a crashed container is started again: doubled each time from the first to the last,
/// and forgotten after it has run for a while. Kubernetes waits ten times as long; people who sit in
/// front of a lab do not.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_LAST: Duration = Duration::from_secs(30);
const BACK_OFF_FORGOTTEN: Duration = Duration::from_secs(60);
/// Pauses between probes of a program that is not up yet, for the first ten seconds.
const EAGER_FIRST: Duration = Duration::from_millis(10);
const EAGER_LAST: Duration = Duration::from_millis(200);
const EAGER_ATTEMPTS: u32 = 50;
/// Time for a hook after the start.
const POST_START_TIMEOUT: Duration = Duration::from_secs(30);

/// How a container ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// By itself, and it is not to be started again.
    Finished(i32),
    /// It was stopped.
    Stopped,
}

impl Fate {
    pub(super) fn is_success(self) -> bool {
        self == Self::Finished(0)
    }
}

/// Runs a container until it has ended for good. `stop` gets the moment at which it is killed.
pub(super) async fn container_life(
    pod: Arc<Pod>,
    surroundings: Surroundings,
    plan: ContainerPlan,
    policy: RestartPolicy,
    mut stop: watch::Receiver<Option<Instant>>,
    mut upgrades: mpsc::Receiver<Upgrade>,
) -> Fate {
    let mut container = Container { pod, surroundings, plan };
    let mut former = Former::default();
    let mut back_off = BACK_OFF_FIRST;
    let mut successor = None;
    loop {
        let began = Instant::now();
        let running = successor.take();
        let ended = container.run_once(running, &mut stop, &mut upgrades, &mut former).await;
        let exit_code = match ended {
            Ok(ended) => ended.exit_code(),
            Err(error) => {
                let text = format!("{error:#}");
                container.pod.log(&container.plan.name).inspect(|log| {
                    log.append(format!("hauberk: {text}\n").as_bytes());
                });
                container.set_state(State::Waiting { reason: "CannotStart".into(), message: text });
                START_FAILED
            }
        };
        let stopped = stop.borrow().is_some();
        if stopped || !restarts(policy, exit_code) {
            former.end().await;
            container.set_state(State::Terminated { exit_code });
            return if stopped { Fate::Stopped } else { Fate::Finished(exit_code) };
        }
        if began.elapsed() >= BACK_OFF_FORGOTTEN {
            back_off = BACK_OFF_FIRST;
        }
        if exit_code != START_FAILED {
            let message = format!("ended with code {exit_code}");
            container.set_state(State::Waiting { reason: "CrashLoopBackOff".into(), message });
        }
        let upgrade = tokio::select! {
            () = sleep(back_off) => None,
            upgrade = upgrades.recv() => upgrade,
            _ = stop.wait_for(Option::is_some) => None,
        };
        // A new program may be what helps.
        if let Some(upgrade) = upgrade {
            tokio::select! {
                child = container.revive(upgrade) => successor = child,
                _ = stop.wait_for(Option::is_some) => {}
            }
        }
        if successor.is_none() && stop.borrow().is_some() {
            former.end().await;
            container.set_state(State::Terminated { exit_code });
            return Fate::Stopped;
        }
        back_off = (back_off * 2).min(BACK_OFF_LAST);
        container.pod.update_container(&container.plan.name, |one| one.restarts += 1);
    }
}

/// What container runtimes report for a program that could not be started.
const START_FAILED: i32 = 128;

fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

pub(super) struct Container {
    pub(super) pod: Arc<Pod>,
    pub(super) surroundings: Surroundings,
    pub(super) plan: ContainerPlan,
}

/// Why a process is not left alone any more.
enum Turn {
    /// It has ended.
    Ended(Ended),
    /// It is to end until then.
    Terminate(Instant),
}

impl Container {
    /// Starts the program, unless it is `running`, and sees it to its end. A process that takes over
    /// meanwhile is the one that is seen to its end.
    async fn run_once(
        &mut self,
        running: Option<Child>,
        stop: &mut watch::Receiver<Option<Instant>>,
        upgrades: &mut mpsc::Receiver<Upgrade>,
        former: &mut Former,
    ) -> anyhow::Result<Ended> {
        let mut child = match running {
            Some(child) => child,
            None => self.start(self.plan.clone(), Vec::new()).await?.0,
        };
        self.set_state(State::Running { pid: child.host_pid(), lab_pid: child.pid() });
        let mut command = self.plan.command.clone();
        let turn = {
            let mut unhealthy = pin!(self.until_unhealthy());
            loop {
                let upgrade = tokio::select! {
                    // Biased: a process that has ended needs neither probes nor signals.
                    biased;
                    turn = self.turn(&child, stop, unhealthy.as_mut()) => break turn,
                    Some(upgrade) = upgrades.recv() => upgrade,
                };
                // Until the new process serves, all goes on as before.
                tokio::select! {
                    biased;
                    turn = self.turn(&child, stop, unhealthy.as_mut()) => break turn,
                    started = self.successor(&upgrade, &command) => match started {
                        Ok((new, new_command)) => {
                            let old = std::mem::replace(&mut child, new);
                            self.took_over(&child);
                            upgrade.succeeded(Some(&old), &child);
                            former.drain(self, old, stop.clone());
                            command = new_command;
                        }
                        Err(problem) => upgrade.failed(problem),
                    },
                }
            }
        };
        // What is restarted is the newest program.
        self.plan.command = command;
        Ok(match turn {
            Turn::Ended(ended) => ended,
            Turn::Terminate(deadline) => self.terminate(&child, deadline).await,
        })
    }

    /// Waits until something is to be done about a process. Cancel-safe.
    async fn turn(
        &self,
        child: &Child,
        stop: &mut watch::Receiver<Option<Instant>>,
        unhealthy: Pin<&mut impl Future<Output = String>>,
    ) -> Turn {
        tokio::select! {
            biased;
            ended = child.wait() => Turn::Ended(ended),
            deadline = stop.wait_for(Option::is_some) => Turn::Terminate(
                deadline.ok().and_then(|deadline| *deadline).unwrap_or_else(Instant::now),
            ),
            reason = unhealthy => {
                tracing::warn!(pod = %self.pod.plan.name, container = %self.plan.name, reason, "restarting");
                Turn::Terminate(Instant::now() + self.pod.plan.grace)
            }
        }
    }

    /// Starts a program whose output goes to the container's log and to `logs`. The task ends when
    /// all output was read.
    pub(super) async fn start(
        &self,
        plan: ContainerPlan,
        mut logs: Vec<Arc<Log>>,
    ) -> anyhow::Result<(Child, JoinHandle<()>)> {
        let (output, input) = std::io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let pod = Arc::clone(&self.pod);
        let machine = Arc::clone(&self.surroundings.machine);
        let start = move || {
            let home = pod.home().ok_or_else(|| anyhow::anyhow!("the pod has no namespaces"))?;
            let stdio = [no_input()?, input.try_clone()?.into(), input.into()];
            home.start(&pod.plan, &plan, &machine, stdio)
        };
        let child = tokio::task::spawn_blocking(start).await??;
        logs.extend(self.pod.log(&self.plan.name).cloned());
        Ok((child, self.surroundings.tasks.spawn("container log", follow(output, logs))))
    }

    async fn terminate(&self, child: &Child, deadline: Instant) -> Ended {
        let orderly = async {
            if let Some(hook) = &self.plan.pre_stop {
                let time = deadline.saturating_duration_since(Instant::now());
                if let Err(error) = act(hook, time, self).await {
                    tracing::warn!(container = %self.plan.name, error, "preStop hook failed");
                }
            }
            child.signal(Signal::TERM);
            child.wait().await
        };
        tokio::select! {
            ended = orderly => return ended,
            () = sleep_until(deadline) => {}
        }
        child.signal(Signal::KILL);
        child.wait().await
    }

    /// Watches the container's health and says when it is to be restarted, and why.
    async fn until_unhealthy(&self) -> String {
        if let Some(probe) = &self.plan.startup {
            sleep(probe.initial_delay).await;
            let give_up = Instant::now() + probe.period * probe.failure_threshold;
            let mut attempts = 0;
            while let Err(error) = act(&probe.action, probe.timeout, self).await {
                if Instant::now() >= give_up {
                    return format!("startup probe: {error}");
                }
                attempts += 1;
                sleep(startup_pause(probe, attempts)).await;
            }
        }
        self.pod.update_container(&self.plan.name, |one| one.started = true);
        if let Some(hook) = &self.plan.post_start
            && let Err(error) = act(hook, POST_START_TIMEOUT, self).await
        {
            return format!("postStart hook: {error}");
        }
        tokio::select! {
            never = self.keep_readiness() => match never {},
            reason = self.until_dead() => reason,
        }
    }

    async fn keep_readiness(&self) -> std::convert::Infallible {
        let set = |ready| self.pod.update_container(&self.plan.name, |one| one.ready = ready);
        let Some(probe) = &self.plan.readiness else {
            set(self.plan.kind != ContainerKind::Init);
            return std::future::pending().await;
        };
        sleep(probe.initial_delay).await;
        let mut streak = Streak::default();
        let mut ready = false;
        let mut attempts = 0;
        loop {
            let good = act(&probe.action, probe.timeout, self).await.is_ok();
            ready = streak.next(good, ready, probe);
            set(ready);
            attempts += 1;
            sleep(if ready { probe.period } else { startup_pause(probe, attempts) }).await;
        }
    }

    async fn until_dead(&self) -> String {
        let Some(probe) = &self.plan.liveness else { return std::future::pending().await };
        sleep(probe.initial_delay).await;
        let mut streak = Streak::default();
        loop {
            let result = act(&probe.action, probe.timeout, self).await;
            if !streak.next(result.is_ok(), true, probe)
                && let Err(error) = result
            {
                return format!("liveness probe: {error}");
            }
            sleep(probe.period).await;
        }
    }

    fn set_state(&self, state: State) {
        self.pod.update_container(&self.plan.name, |one| {
            (one.started, one.ready) = (false, false);
            if let State::Terminated { exit_code: 0 } = state {
                one.ready = one.kind == ContainerKind::Init;
            }
            one.state = state;
        });
    }
}

/// What has not been up yet is asked more often than the period says, so that a program which needs
/// 30 ms is not declared up after ten seconds. The time until giving up is not shortened.
fn startup_pause(probe: &ProbePlan, attempts: u32) -> Duration {
    if matches!(probe.action, Action::Exec(_)) || attempts >= EAGER_ATTEMPTS {
        return probe.period;
    }
    let eager = EAGER_FIRST.saturating_mul(2_u32.saturating_pow(attempts));
    eager.min(EAGER_LAST).min(probe.period)
}

/// Counts equal results in a row.
#[derive(Default)]
struct Streak {
    good: bool,
    length: u32,
}

impl Streak {
    /// The state after one more result: it changes when enough of them agree.
    fn next(&mut self, good: bool, state: bool, probe: &ProbePlan) -> bool {
        self.length = if self.good == good { self.length.saturating_add(1) } else { 1 };
        self.good = good;
        let threshold = if good { probe.success_threshold } else { probe.failure_threshold };
        if self.length >= threshold { good } else { state }
    }
}

impl Execute for Container {
    async fn execute(&self, command: &[String]) -> Result<(), String> {
        let child = start_beside(&self.pod, &self.surroundings, &self.plan.name, command).await;
        let child = child.map_err(|error| format!("{error:#}"))?;
        match KillOnDrop::new(child, &self.surroundings.tasks).wait().await {
            Ended::Code(0) => Ok(()),
            Ended::Code(code) => Err(format!("{command:?} ended with code {code}")),
            Ended::Signal(signal) => Err(format!("{command:?} was ended by signal {signal}")),
        }
    }
}

/// A process that nobody wants when this is dropped. It is collected then: a pod's namespaces are gone
/// only when all their processes have been waited for.
pub(super) struct KillOnDrop {
    child: Option<Child>,
    tasks: Tasks,
}

impl KillOnDrop {
    pub(super) fn new(child: Child, tasks: &Tasks) -> Self {
        Self { child: Some(child), tasks: tasks.clone() }
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> Ended {
        let ended = match &self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        };
        self.child = None;
        ended
    }

    /// It is wanted after all.
    pub(super) fn keep(mut self) -> Option<Child> {
        self.child.take()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.signal(Signal::KILL);
            self.tasks.spawn("killed process", async move { child.wait().await });
        }
    }
}

async fn start_beside(
    pod: &Arc<Pod>,
    surroundings: &Surroundings,
    container: &str,
    command: &[String],
) -> anyhow::Result<Child> {
    let null = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let stdio = [null()?.into(), null()?.into(), null()?.into()];
    super::execute(pod, &surroundings.machine, container, command, stdio).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(success_threshold: u32, failure_threshold: u32) -> ProbePlan {
        let second = Duration::from_secs(1);
        let action = Action::Sleep(second);
        ProbePlan {
            action,
            initial_delay: second,
            period: 10 * second,
            timeout: second,
            success_threshold,
            failure_threshold,
        }
    }

    #[test]
    fn readiness_changes_after_enough_equal_results() {
        let probe = probe(2, 3);
        let mut streak = Streak::default();
        let mut ready = false;
        let mut states = String::new();
        for result in "+-++--+---+".chars() {
            ready = streak.next(result == '+', ready, &probe);
            states.push(if ready { 'r' } else { '.' });
        }
        assert_eq!(states, "...rrrrrr..");
    }

    #[test]
    fn a_program_that_is_not_up_yet_is_asked_soon_and_then_less_often() {
        let probe = probe(1, 3);
        let pauses: Vec<_> = [1, 2, 5, 60].map(|n| startup_pause(&probe, n).as_millis()).into();
        assert_eq!(pauses, [20, 40, 200, 10_000]);
    }

    #[test]
    fn policies_decide_about_restarts() {
        use RestartPolicy::{Always, Never, OnFailure};
        let cases =
            [(Always, 0), (Always, 1), (OnFailure, 0), (OnFailure, 1), (Never, 0), (Never, 1)];
        let restarted = cases.map(|(policy, code)| restarts(policy, code));
        assert_eq!(restarted, [true, true, false, true, false, false]);
    }
}
