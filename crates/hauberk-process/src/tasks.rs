//! The only place where tasks are started: each has a name and is joined at the end.
//!
//! [`Tasks`] is the set. `spawn` is for tasks that are started now and then; a hot path resolves
//! its name once with [`Tasks::kind`] and spawns through the [`Spawner`], which takes no lock and
//! doubles as the executor that hyper wants. A task that the process cannot do without is started
//! with `spawn_essential`: if it panics, or returns before draining began, the process drains with
//! a failure instead of limping on without it. The panic of any other task is logged and counted,
//! and ends that task only. (Release builds abort on panic; this is about tests and development.)
//!
//! Tasks are not cancelled by the set. They end by themselves when [`Shutdown`] says so, and
//! [`Tasks::join`] names those that did not; dropping the runtime cancels these.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::Shutdown;
use crate::shutdown::Cause;

/// The set of all tasks of a process. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub struct Tasks {
    set: Arc<Set>,
}

#[derive(Debug)]
struct Set {
    shutdown: Shutdown,
    tracker: TaskTracker,
    kinds: Mutex<BTreeMap<&'static str, Arc<Kind>>>,
}

/// The tasks of one name.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    running: AtomicUsize,
    panics: AtomicU64,
}

/// What is known about the tasks of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindState {
    /// The name given at spawn.
    pub name: &'static str,
    /// Tasks now running.
    pub running: usize,
    /// Tasks that have panicked since the start.
    pub panics: u64,
}

impl Tasks {
    /// An empty set, tied to the end of the process.
    pub fn new(shutdown: Shutdown) -> Self {
        let set = Set { shutdown, tracker: TaskTracker::new(), kinds: Mutex::default() };
        Self { set: Arc::new(set) }
    }

    /// The handle the tasks listen to.
    pub fn shutdown(&self) -> &Shutdown {
        &self.set.shutdown
    }

    /// Resolves a name, for spawning many tasks of one kind.
    pub fn kind(&self, name: &'static str) -> Spawner {
        let mut kinds = self.set.kinds.lock();
        let kind = kinds.entry(name).or_insert_with(|| {
            Arc::new(Kind { name, running: AtomicUsize::new(0), panics: AtomicU64::new(0) })
        });
        Spawner { set: Arc::clone(&self.set), kind: Arc::clone(kind) }
    }

    /// Starts a task on the current runtime.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.kind(name).spawn(future)
    }

    /// Starts a task on the given runtime.
    pub fn spawn_on<F>(
        &self,
        runtime: &Handle,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.kind(name).spawn_on(runtime, future)
    }

    /// Starts a task that need not be `Send`, on the current thread.
    ///
    /// # Panics
    /// Outside a `tokio::task::LocalSet`.
    pub fn spawn_local<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: 'static> + 'static,
    {
        self.kind(name).spawn_local(future)
    }

    /// Starts a task without which the process should not go on: its panic, or its return before
    /// draining began, drains the process with a failure.
    pub fn spawn_essential<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tracked = self.kind(name).track(future, Weight::Essential);
        Handle::current().spawn(tracked)
    }

    /// Runs blocking work (file reads, name look-ups by libc) on the runtime's blocking pool.
    pub fn spawn_blocking<T>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T>
    where
        T: Send + 'static,
    {
        let spawner = self.kind(name);
        let running = spawner.running(Weight::Ordinary);
        Handle::current().spawn_blocking(move || {
            let alarm = PanicAlarm(&running);
            let value = work();
            std::mem::forget(alarm);
            value
        })
    }

    /// What runs now, by name.
    pub fn states(&self) -> Vec<KindState> {
        let kinds = self.set.kinds.lock();
        let state = |kind: &Arc<Kind>| KindState {
            name: kind.name,
            running: kind.running.load(Relaxed),
            panics: kind.panics.load(Relaxed),
        };
        kinds.values().map(state).collect()
    }

    /// Waits until every task has ended, at most `deadline`.
    ///
    /// # Errors
    /// Names those that are still running.
    pub async fn join(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.set.tracker.close();
        match tokio::time::timeout(deadline, self.set.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => {
                let running = self.states().into_iter().filter(|state| state.running > 0);
                Err(Unfinished(running.map(|state| (state.name, state.running)).collect()))
            }
        }
    }
}

/// Tasks that did not end in time, with their numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unfinished(pub Vec<(&'static str, usize)>);

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("still running:")?;
        for (name, count) in &self.0 {
            write!(f, " {name}×{count}")?;
        }
        Ok(())
    }
}

/// Starts tasks of one name. Cloning copies two `Arc`s; spawning takes no lock.
#[derive(Clone, Debug)]
pub struct Spawner {
    set: Arc<Set>,
    kind: Arc<Kind>,
}

impl Spawner {
    /// Starts a task on the current runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn_on(&Handle::current(), future)
    }

    /// Starts a task on the given runtime.
    pub fn spawn_on<F>(&self, runtime: &Handle, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        runtime.spawn(self.track(future, Weight::Ordinary))
    }

    /// Starts a task that need not be `Send`, on the current thread.
    ///
    /// # Panics
    /// Outside a `tokio::task::LocalSet`.
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: 'static> + 'static,
    {
        tokio::task::spawn_local(self.track(future, Weight::Ordinary))
    }

    /// Tasks of this name now running.
    pub fn running_count(&self) -> usize {
        self.kind.running.load(Relaxed)
    }

    fn track<F: Future>(&self, future: F, weight: Weight) -> Tracked<F> {
        Tracked { future, running: self.running(weight) }
    }

    fn running(&self, weight: Weight) -> Running {
        self.kind.running.fetch_add(1, Relaxed);
        Running {
            shutdown: (weight == Weight::Essential).then(|| self.set.shutdown.clone()),
            kind: Arc::clone(&self.kind),
            _token: self.set.tracker.token(),
        }
    }
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.spawn(future);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Ordinary,
    Essential,
}

pin_project! {
    /// A future that is counted while it exists. Written by hand because an `async` block around
    /// the future would store it twice.
    struct Tracked<F> {
        #[pin]
        future: F,
        running: Running,
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let alarm = PanicAlarm(this.running);
        let poll = this.future.poll(context);
        std::mem::forget(alarm);
        if poll.is_ready() {
            this.running.returned();
        }
        poll
    }
}

/// Counts a task while it exists.
struct Running {
    kind: Arc<Kind>,
    /// Present in essential tasks only.
    shutdown: Option<Shutdown>,
    _token: TaskTrackerToken,
}

impl Running {
    fn returned(&self) {
        if let Some(shutdown) = &self.shutdown
            && !shutdown.is_draining()
        {
            tracing::error!(task = self.kind.name, "essential task ended early");
            shutdown.drain(Cause::Failure(format!("task {} ended early", self.kind.name)));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kind.running.fetch_sub(1, Relaxed);
    }
}

/// Dropped only while a panic unwinds through the task; the ordinary way forgets it.
struct PanicAlarm<'a>(&'a Running);

impl Drop for PanicAlarm<'_> {
    fn drop(&mut self) {
        let Running { kind, shutdown, .. } = self.0;
        kind.panics.fetch_add(1, Relaxed);
        tracing::error!(task = kind.name, essential = shutdown.is_some(), "task panicked");
        if let Some(shutdown) = shutdown {
            shutdown.drain(Cause::Failure(format!("task {} panicked", kind.name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn tasks() -> Tasks {
        Tasks::new(Shutdown::new())
    }

    #[tokio::test(start_paused = true)]
    async fn joins_what_ends_and_names_what_does_not() {
        let tasks = tasks();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("polite", async move { shutdown.draining().await });
        tasks.spawn("stubborn", std::future::pending::<()>());
        tasks.spawn("stubborn", std::future::pending::<()>());
        tasks.shutdown().drain(Cause::Requested);
        let left = tasks.join(Duration::from_secs(1)).await.expect_err("two never end");
        assert_eq!(left, Unfinished(vec![("stubborn", 2)]));
        assert_eq!(left.to_string(), "still running: stubborn×2");
    }

    #[tokio::test]
    async fn a_panic_in_an_essential_task_drains_with_a_failure() {
        let tasks = tasks();
        tasks.spawn_essential("admin", async { panic!("as the test wants") });
        let exit = tasks.shutdown().finish(Duration::from_secs(5)).await;
        assert_eq!(exit.cause, Cause::Failure("task admin panicked".into()));
        assert_eq!(exit.code(), 1);
    }

    #[tokio::test]
    async fn an_essential_task_may_not_end_early_but_may_end_while_draining() {
        let early = tasks();
        early.spawn_essential("admin", async {});
        let exit = early.shutdown().finish(Duration::from_secs(5)).await;
        assert_eq!(exit.cause, Cause::Failure("task admin ended early".into()));

        let polite = tasks();
        let shutdown = polite.shutdown().clone();
        polite.spawn_essential("admin", async move { shutdown.draining().await });
        polite.shutdown().drain(Cause::Finished);
        polite.join(Duration::from_secs(5)).await.expect("ends");
        assert_eq!(polite.shutdown().cause(), Some(&Cause::Finished));
    }

    #[tokio::test]
    async fn a_panic_in_another_task_is_counted_and_harms_nobody_else() {
        let tasks = tasks();
        tasks.spawn("worker", async { panic!("as the test wants") });
        tasks.join(Duration::from_secs(5)).await.expect("a panicked task has ended");
        assert!(!tasks.shutdown().is_draining());
        assert_eq!(tasks.states(), [KindState { name: "worker", running: 0, panics: 1 }]);
    }

    #[tokio::test]
    async fn local_tasks_need_not_be_send() {
        let tasks = tasks();
        let local = tokio::task::LocalSet::new();
        let value = Rc::new(7);
        let within = tasks.clone();
        let doubled = local
            .run_until(async move { within.spawn_local("local", async move { *value * 2 }).await })
            .await
            .expect("does not panic");
        assert_eq!(doubled, 14);
        tasks.join(Duration::from_secs(5)).await.expect("ended");
    }
}
