//! The life of a pod, from its namespaces to its last process.
//!
//! One task for each pod ([`supervise`]) and one for each of its containers (`container_life`).
//! The order is Kubernetes': init containers one after the other; sidecars among them are started and
//! waited for until they are up; then the containers proper together. At the end the containers
//! proper are stopped first and the sidecars after them, last started first stopped.
//!
//! The lab's one writer gets each new state as a [`Report`]; it asks for the end through
//! [`Pod::stop`]. Nothing is decided here about whether a pod should exist.
//!
//! A container can be upgraded while it runs ([`Pod::upgrade`]): a new process starts beside the old
//! one and takes over. Nothing else of the pod takes notice.

mod life;
mod upgrade;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hauberk_process::Tasks;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::api::Upgraded;
use crate::container::{Home, Machine};
use crate::logs::Log;
use crate::network::Plug;
use crate::plan::{ContainerKind, ContainerPlan, Content, FileText, PodPlan};
use crate::spec::RestartPolicy;
use crate::status::{ContainerStatus, Phase, PodStatus, State};

use life::{Fate, container_life};
use upgrade::Upgrade;

/// Sidecars get at least this long to end after the containers proper.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// Between taking a pod out of its services and asking it to end: time for the news to reach the
/// proxies that send to it. Kubernetes leaves this to a `preStop` hook.
const ENDPOINT_GRACE: Duration = Duration::from_millis(500);
/// Tokens are renewed when this share of their life is over, as the kubelet does.
const TOKEN_RENEWAL: f64 = 0.8;

/// News of a pod.
#[derive(Debug)]
pub struct Report {
    /// The pod's unique id.
    pub uid: String,
    /// What it is doing.
    pub status: PodStatus,
    /// Whether it was the last report: nothing of the pod is left.
    pub gone: bool,
}

/// What a pod's task needs of its surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Shared by all pods.
    pub machine: Arc<Machine>,
    /// Where tasks are started.
    pub tasks: Tasks,
    /// To the lab's writer.
    pub reports: mpsc::Sender<Report>,
}

/// A running pod, shared by its tasks and whoever looks at it.
#[derive(Debug)]
pub struct Pod {
    /// What it is made of.
    pub plan: PodPlan,
    plug: Plug,
    logs: BTreeMap<String, Arc<Log>>,
    home: OnceLock<Home>,
    stop: watch::Sender<bool>,
    status: Mutex<PodStatus>,
    changed: Notify,
    /// To the tasks of containers that have been started.
    upgrades: Mutex<BTreeMap<String, mpsc::Sender<Upgrade>>>,
}

impl Pod {
    /// A pod that has not begun to live.
    pub fn new(plan: PodPlan, plug: Plug) -> Self {
        let all: Vec<&ContainerPlan> = plan.init.iter().chain(&plan.containers).collect();
        let logs = all.iter().map(|one| (one.name.clone(), Arc::default())).collect();
        let containers = all.iter().map(|one| ContainerStatus::new(&one.name, one.kind)).collect();
        let status = Mutex::new(PodStatus { containers, ..PodStatus::default() });
        let (home, stop, changed) = (OnceLock::new(), watch::Sender::new(false), Notify::new());
        let upgrades = Mutex::default();
        Self { plan, plug, logs, home, stop, status, changed, upgrades }
    }

    /// Asks the pod to end. May be called again.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The output of a container.
    pub fn log(&self, container: &str) -> Option<&Arc<Log>> {
        self.logs.get(container)
    }

    /// A container, and its process inside the lab if it runs now.
    pub fn container(&self, name: &str) -> Option<(&ContainerPlan, Option<u32>)> {
        let plan =
            self.plan.init.iter().chain(&self.plan.containers).find(|one| one.name == name)?;
        let status = self.lock();
        let lab_pid =
            status.containers.iter().find(|one| one.name == name).and_then(|one| match one.state {
                State::Running { lab_pid, .. } => Some(lab_pid),
                State::Waiting { .. } | State::Terminated { .. } => None,
            });
        Some((plan, lab_pid))
    }

    /// The container that is meant when none is named: the first one proper.
    pub fn main_container(&self) -> Option<&str> {
        self.plan.containers.first().map(|one| one.name.as_str())
    }

    /// Its namespaces, once they are made.
    pub fn home(&self) -> Option<&Home> {
        self.home.get()
    }

    /// Replaces the process of a container by one of `program`, or of the same program as its file
    /// is by now, and returns when the new one serves. The program must know how to take over, as
    /// `hauberk-proxy` does.
    ///
    /// # Errors
    /// Why the old process goes on instead.
    pub async fn upgrade(
        &self,
        container: &str,
        program: Option<PathBuf>,
        timeout: Duration,
    ) -> Result<Upgraded, String> {
        let name = &self.plan.name;
        let none = || format!("pod {name} has no container {container} that was started");
        let sender = self.upgrade_sender(container).ok_or_else(none)?;
        let (answer, answered) = oneshot::channel();
        sender.try_send(Upgrade { program, timeout, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                format!("another upgrade of {container} in pod {name} is under way")
            }
            mpsc::error::TrySendError::Closed(_) => none(),
        })?;
        let ended = |_| format!("{container} of pod {name} ended meanwhile");
        answered.await.map_err(ended)?
    }

    fn upgrade_sender(&self, container: &str) -> Option<mpsc::Sender<Upgrade>> {
        self.upgrades.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PodStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut PodStatus)) {
        let mut status = self.lock();
        let before = status.clone();
        change(&mut status);
        let is_new = *status != before;
        drop(status);
        if is_new {
            self.changed.notify_one();
        }
    }

    fn update_container(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.update(|status| {
            if let Some(one) = status.containers.iter_mut().find(|one| one.name == name) {
                change(one);
            }
        });
    }

    async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|stop| *stop).await; // The sender lives in `self`.
    }
}

/// Runs a pod to its end and reports what happens on the way.
pub async fn supervise(pod: Arc<Pod>, surroundings: Surroundings) {
    let report = async |gone: bool| {
        let (uid, status) = (pod.plan.uid.clone(), pod.lock().clone());
        // The writer is gone only when the whole lab ends.
        let _ = surroundings.reports.send(Report { uid, status, gone }).await;
    };
    let life = live(&pod, &surroundings);
    tokio::pin!(life);
    loop {
        tokio::select! {
            () = &mut life => break,
            () = pod.changed.notified() => report(false).await,
        }
    }
    report(true).await;
}

async fn live(pod: &Arc<Pod>, surroundings: &Surroundings) {
    if let Err(error) = make_home(pod, surroundings).await {
        tracing::error!(pod = %pod.plan.name, error = format!("{error:#}"), "cannot make a pod");
        pod.update(|status| status.message = format!("{error:#}"));
        pod.stopping().await;
        return;
    }
    surroundings.tasks.spawn("pod tokens", renew_tokens(Arc::clone(pod), surroundings.clone()));
    let mut started = Started { pod, surroundings, sidecars: Vec::new(), containers: Vec::new() };
    let end = tokio::select! {
        end = started.run() => end,
        () = pod.stopping() => None,
    };
    let was_ready = pod.lock().is_ready();
    if end.is_none() {
        pod.update(|status| status.stopping = true);
        if was_ready {
            tokio::time::sleep(ENDPOINT_GRACE).await;
        }
    }
    started.stop().await;
    pod.stop(); // For the tasks that wait for the end.
    if let Some(home) = pod.home() {
        home.kill();
        home.gone().await;
    }
    if let Some(phase) = end {
        pod.update(|status| status.phase = phase);
    }
}

async fn make_home(pod: &Arc<Pod>, surroundings: &Surroundings) -> anyhow::Result<()> {
    let (pod, machine) = (Arc::clone(pod), Arc::clone(&surroundings.machine));
    let make = move || -> anyhow::Result<()> {
        let home = Home::create(&pod.plan, pod.plug, &machine)?;
        let network_namespace = home.network_namespace();
        let _ = pod.home.set(home); // Only this function sets it, once.
        pod.update(|status| status.network_namespace = network_namespace);
        Ok(())
    };
    // The handle of the runtime is in the context of its blocking threads, as the pidfd needs.
    tokio::task::spawn_blocking(make).await?
}

async fn renew_tokens(pod: Arc<Pod>, surroundings: Surroundings) {
    let files = pod.plan.volumes.iter().filter_map(|volume| match &volume.content {
        Content::Files(files) => Some(files),
        Content::Empty | Content::Host(_) => None,
    });
    let lifetimes = files.flatten().filter_map(|file| match file.text {
        FileText::Token { lifetime, .. } => Some(lifetime),
        FileText::Bytes(_) => None,
    });
    let Some(shortest) = lifetimes.min() else { return };
    let period = shortest.mul_f64(TOKEN_RENEWAL).max(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = pod.stopping() => return,
            () = tokio::time::sleep(period) => {}
        }
        let renewed = pod.home().map(|home| home.renew_tokens(&pod.plan, &surroundings.machine));
        if let Some(Err(error)) = renewed {
            tracing::warn!(pod = %pod.plan.name, error = format!("{error:#}"), "cannot renew tokens");
        }
    }
}

/// A container's task, and the way to end it.
struct Task {
    stop: watch::Sender<Option<Instant>>,
    handle: tokio::task::JoinHandle<Fate>,
}

impl Task {
    async fn end(&mut self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
        let _ = (&mut self.handle).await; // A panic was reported by the set of tasks.
    }
}

/// The containers that have been started so far.
struct Started<'a> {
    pod: &'a Arc<Pod>,
    surroundings: &'a Surroundings,
    sidecars: Vec<Task>,
    containers: Vec<Task>,
}

impl Started<'_> {
    /// Runs until all containers proper have ended for good, and tells the final phase. Cancel-safe:
    /// what was started is known to `self`.
    async fn run(&mut self) -> Option<Phase> {
        let pod = self.pod;
        for plan in &pod.plan.init {
            match plan.kind {
                ContainerKind::Sidecar => {
                    let task = self.start(plan, RestartPolicy::Always);
                    self.sidecars.push(task);
                    self.until_started(&plan.name).await;
                }
                ContainerKind::Init | ContainerKind::Main => {
                    let policy = match pod.plan.restart {
                        RestartPolicy::Never => RestartPolicy::Never,
                        RestartPolicy::Always | RestartPolicy::OnFailure => {
                            RestartPolicy::OnFailure
                        }
                    };
                    let task = self.start(plan, policy);
                    self.containers.push(task);
                    if !self.finished().await {
                        return Some(Phase::Failed);
                    }
                }
            }
        }
        for plan in &pod.plan.containers {
            let task = self.start(plan, pod.plan.restart);
            self.containers.push(task);
        }
        pod.update(|status| status.phase = Phase::Running);
        let mut good = true;
        while !self.containers.is_empty() {
            good &= self.finished().await;
        }
        Some(if good { Phase::Succeeded } else { Phase::Failed })
    }

    /// Waits for the last container of the list, which is taken off when it has ended.
    async fn finished(&mut self) -> bool {
        let Some(task) = self.containers.last_mut() else { return true };
        let fate = (&mut task.handle).await;
        self.containers.pop();
        fate.is_ok_and(Fate::is_success)
    }

    async fn until_started(&self, name: &str) {
        loop {
            let is_started = {
                let status = self.pod.lock();
                status.containers.iter().any(|one| one.name == name && one.started)
            };
            if is_started {
                return;
            }
            // States change a few times in a pod's life; nobody else may take the notification.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn start(&self, plan: &ContainerPlan, policy: RestartPolicy) -> Task {
        let stop = watch::Sender::new(None);
        let (sender, upgrades) = mpsc::channel(1);
        let mut all = self.pod.upgrades.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(plan.name.clone(), sender);
        drop(all);
        let life = container_life(
            Arc::clone(self.pod),
            self.surroundings.clone(),
            plan.clone(),
            policy,
            stop.subscribe(),
            upgrades,
        );
        Task { stop, handle: self.surroundings.tasks.spawn("container", life) }
    }

    async fn stop(&mut self) {
        let deadline = Instant::now() + self.pod.plan.grace;
        for task in &self.containers {
            task.stop.send_replace(Some(deadline));
        }
        for task in &mut self.containers {
            task.end(deadline).await;
        }
        for task in self.sidecars.iter_mut().rev() {
            task.end(deadline.max(Instant::now() + SIDECAR_GRACE)).await;
        }
    }
}

/// Starts another program in the place of a running container.
///
/// # Errors
/// When there is no such container, it does not run, or the program cannot be started.
pub async fn execute(
    pod: &Arc<Pod>,
    machine: &Arc<Machine>,
    container: &str,
    command: &[String],
    stdio: [std::os::fd::OwnedFd; 3],
) -> anyhow::Result<crate::container::Child> {
    let (pod, machine) = (Arc::clone(pod), Arc::clone(machine));
    let (container, command) = (container.to_owned(), command.to_owned());
    let start = move || {
        let found = pod.container(&container);
        let (plan, lab_pid) =
            found.ok_or_else(|| anyhow::anyhow!("there is no container {container}"))?;
        let lab_pid =
            lab_pid.ok_or_else(|| anyhow::anyhow!("container {container} is not running"))?;
        let home = pod.home().ok_or_else(|| anyhow::anyhow!("the pod has no namespaces"))?;
        home.start_beside(plan, lab_pid, &command, &machine, stdio)
    };
    tokio::task::spawn_blocking(start).await?
}
