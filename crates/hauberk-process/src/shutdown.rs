//! How a process ends: first it drains, then it is over.
//!
//! [`Shutdown`] is a cheap handle that everybody holds. It goes through three moments, each of
//! which can be waited for and never comes back:
//!
//! 1. *draining*: stop accepting, finish what has begun. Begun by a signal, the admin server, or
//!    a failure of something essential.
//! 2. *forced*: do not even finish what has begun. A second signal.
//! 3. *ended*: [`Shutdown::finish`] has returned; only servers that answer to the very end (admin)
//!    wait for this one.
//!
//! A process whose successor serves already ([`Cause::Replaced`]) is *replaced* when it drains: what
//! is addressed by port then belongs to the successor, and nobody waits for this process to be gone,
//! so it need not hurry its clients.
//!
//! Work that must be finished holds a [`DrainGuard`]. The process ends when the last guard is
//! dropped, when the grace period is over, or when it is forced, whichever comes first.
//! Not here: the joining of tasks (see [`crate::Tasks`]) and the call of `exit`.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::Tasks;

/// Why the process began to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM or SIGINT, with its number.
    Signal(i32),
    /// Somebody asked for it, for example by `POST /shutdown`.
    Requested,
    /// The work is done; nobody asked.
    Finished,
    /// A successor serves in its place.
    Replaced,
    /// Something the process cannot do without has failed. The text says what.
    Failure(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Signal(2) => f.write_str("SIGINT"),
            Cause::Signal(15) => f.write_str("SIGTERM"),
            Cause::Signal(number) => write!(f, "signal {number}"),
            Cause::Requested => f.write_str("requested"),
            Cause::Finished => f.write_str("finished"),
            Cause::Replaced => f.write_str("replaced"),
            Cause::Failure(what) => write!(f, "failure: {what}"),
        }
    }
}

/// How draining went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every guard was dropped in time.
    Drained,
    /// The grace period was over first; so many guards were still held.
    GraceOver {
        /// Guards that were still held.
        guards: usize,
    },
    /// A second signal, or a call of [`Shutdown::force`], came first.
    Forced,
}

/// Why and how the process ended; gives the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What began it.
    pub cause: Cause,
    /// How draining went.
    pub outcome: Outcome,
}

impl Exit {
    /// The code for `exit`: 1 after a failure, 128 + signal number when a signal forced the end
    /// (the shell's convention), else 0. An exhausted grace period is not an error of ours: peers
    /// that never close would otherwise fail every rollout.
    pub fn code(&self) -> u8 {
        match (&self.cause, self.outcome) {
            (Cause::Failure(_), _) => 1,
            (Cause::Signal(number), Outcome::Forced) => {
                u8::try_from(128 + number).unwrap_or(u8::MAX)
            }
            (Cause::Requested | Cause::Finished | Cause::Replaced, Outcome::Forced) => 1,
            (_, Outcome::Drained | Outcome::GraceOver { .. }) => 0,
        }
    }
}

/// The handle everybody holds. Cloning copies one `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cause: OnceLock<Cause>,
    draining: CancellationToken,
    replaced: CancellationToken,
    forced: CancellationToken,
    ended: CancellationToken,
    guards: TaskTracker,
}

impl Shutdown {
    /// A handle of a process that has not begun to end.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to drain. Only the first cause is kept; later calls do nothing.
    pub fn drain(&self, cause: Cause) {
        let is_replaced = cause == Cause::Replaced;
        if self.inner.cause.set(cause).is_ok() {
            self.inner.guards.close();
            if is_replaced {
                self.inner.replaced.cancel();
            }
            self.inner.draining.cancel();
        }
    }

    /// Ends without waiting for guards. Begins draining too, if nobody had.
    pub fn force(&self) {
        self.drain(Cause::Requested);
        self.inner.forced.cancel();
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.is_cancelled()
    }

    /// Why draining began, if it has.
    pub fn cause(&self) -> Option<&Cause> {
        self.inner.cause.get()
    }

    /// Waits until draining begins. Cancel-safe.
    pub async fn draining(&self) {
        self.inner.draining.cancelled().await;
    }

    /// Whether a successor serves in this process's place. Known before draining can be seen.
    pub fn is_replaced(&self) -> bool {
        self.inner.replaced.is_cancelled()
    }

    /// Waits until requests that are not part of what has begun belong to somebody else: a successor
    /// serves, or the process has ended. Cancel-safe.
    pub async fn ended_or_replaced(&self) {
        tokio::select! {
            () = self.inner.replaced.cancelled() => {}
            () = self.inner.ended.cancelled() => {}
        }
    }

    /// Waits until draining begins; the future owns what it needs, for use in stored futures.
    pub fn draining_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.draining.clone().cancelled_owned()
    }

    /// The token that is cancelled when draining begins, for libraries that want one.
    pub fn draining_token(&self) -> &CancellationToken {
        &self.inner.draining
    }

    /// Waits until the end is forced. Cancel-safe.
    pub async fn forced(&self) {
        self.inner.forced.cancelled().await;
    }

    /// Waits until [`Shutdown::finish`] has made up its mind. Cancel-safe.
    pub async fn ended(&self) {
        self.inner.ended.cancelled().await;
    }

    /// A guard that keeps a draining process alive until it is dropped. Costs two atomic
    /// increments, so one per connection is fine. Guards may still be taken while draining.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard { token: self.inner.guards.token(), shutdown: self.clone() }
    }

    /// The number of guards now held.
    pub fn guards(&self) -> usize {
        self.inner.guards.len()
    }

    /// Waits until draining begins, then for the guards, at most `grace`. To be called once, by
    /// the process's main function.
    pub async fn finish(&self, grace: Duration) -> Exit {
        self.draining().await;
        let cause = self.inner.cause.get().cloned().unwrap_or(Cause::Requested);
        tracing::info!(%cause, guards = self.guards(), ?grace, "draining");
        let outcome = tokio::select! {
            // Biased: an end that is both drained and forced counts as drained.
            biased;
            () = self.inner.guards.wait() => Outcome::Drained,
            () = self.forced() => Outcome::Forced,
            () = tokio::time::sleep(grace) => Outcome::GraceOver { guards: self.guards() },
        };
        self.inner.ended.cancel();
        match outcome {
            Outcome::Drained => tracing::info!("drained"),
            Outcome::GraceOver { guards } => {
                tracing::warn!(guards, ?grace, "grace period is over, connections are cut");
            }
            Outcome::Forced => tracing::warn!(guards = self.guards(), "forced to end"),
        }
        Exit { cause, outcome }
    }
}

/// Keeps a draining process alive until it is dropped.
#[derive(Debug)]
pub struct DrainGuard {
    token: TaskTrackerToken,
    shutdown: Shutdown,
}

impl DrainGuard {
    /// Waits until the holder should finish what it does.
    pub async fn draining(&self) {
        self.shutdown.draining().await;
    }

    /// Whether the holder should finish what it does.
    pub fn is_draining(&self) -> bool {
        self.shutdown.is_draining()
    }

    /// The process's handle.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        Self { token: self.token.clone(), shutdown: self.shutdown.clone() }
    }
}

/// Listens for SIGTERM and SIGINT: the first drains, the second forces.
///
/// The handlers are in place when this returns, so a signal that arrives during start is not lost.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When the operating system refuses a handler.
pub fn on_signals(tasks: &Tasks) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("signals", async move {
        loop {
            let kind = tokio::select! {
                Some(()) = terminate.recv() => SignalKind::terminate(),
                Some(()) = interrupt.recv() => SignalKind::interrupt(),
                () = shutdown.ended() => return,
                else => return,
            };
            if shutdown.is_draining() {
                shutdown.force();
            } else {
                shutdown.drain(Cause::Signal(kind.as_raw_value()));
            }
        }
    });
    Ok(())
}

/// Listens for SIGUSR2, by which whoever has started a successor says that it serves: the process
/// drains as [`Cause::Replaced`]. As [`on_signals`] otherwise.
///
/// # Errors
/// When the operating system refuses the handler.
pub fn on_replacement(tasks: &Tasks) -> io::Result<()> {
    let mut replaced = signal(SignalKind::user_defined2())?;
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("replacement", async move {
        tokio::select! {
            _ = replaced.recv() => shutdown.drain(Cause::Replaced),
            () = shutdown.ended() => {}
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_last_guard_is_dropped() {
        let shutdown = Shutdown::new();
        let (first, second) = (shutdown.guard(), shutdown.guard().clone());
        shutdown.drain(Cause::Signal(15));
        let finish = shutdown.finish(Duration::from_secs(60));
        let release = async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(second);
        };
        let began = tokio::time::Instant::now();
        let (exit, ()) = tokio::join!(finish, release);
        assert_eq!(exit.outcome, Outcome::Drained);
        assert_eq!(exit.code(), 0);
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_grace_period_is_over() {
        let shutdown = Shutdown::new();
        let _held = shutdown.guard();
        shutdown.drain(Cause::Signal(15));
        let exit = shutdown.finish(Duration::from_secs(60)).await;
        assert_eq!(exit.outcome, Outcome::GraceOver { guards: 1 });
        assert_eq!(exit.code(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_end_does_not_wait_and_gives_the_shells_code() {
        let shutdown = Shutdown::new();
        let _held = shutdown.guard();
        shutdown.drain(Cause::Signal(15));
        shutdown.force();
        let exit = shutdown.finish(Duration::from_secs(60)).await;
        assert_eq!(exit.outcome, Outcome::Forced);
        assert_eq!(exit.code(), 143);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_process_says_so_and_drains() {
        let ordinary = Shutdown::new();
        ordinary.drain(Cause::Signal(15));
        ordinary.drain(Cause::Replaced);
        assert!(!ordinary.is_replaced(), "it ends for another reason");
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_replaced());
        shutdown.drain(Cause::Replaced);
        assert!(shutdown.is_replaced());
        shutdown.ended_or_replaced().await;
        let exit = shutdown.finish(Duration::from_secs(1)).await;
        assert_eq!((exit.cause.to_string().as_str(), exit.code()), ("replaced", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_first_cause() {
        let shutdown = Shutdown::new();
        shutdown.drain(Cause::Failure("listener".into()));
        shutdown.drain(Cause::Requested);
        let exit = shutdown.finish(Duration::from_secs(1)).await;
        assert_eq!(exit.cause, Cause::Failure("listener".into()));
        assert_eq!(exit.code(), 1);
    }
}
