//! Real signals, sent to this test's own process; the only test in this file for that reason.

use std::time::Duration;

use hauberk_process::shutdown::{Cause, Outcome, on_signals};
use hauberk_process::{Shutdown, Tasks};
use nix::sys::signal::{Signal, raise};

#[tokio::test]
async fn the_first_signal_drains_and_the_second_forces() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    on_signals(&tasks).expect("handlers are allowed");
    let held = shutdown.guard();

    raise(Signal::SIGTERM).expect("to oneself");
    let deadline = Duration::from_secs(10);
    tokio::time::timeout(deadline, shutdown.draining()).await.expect("drains");
    assert_eq!(shutdown.cause(), Some(&Cause::Signal(15)));

    let finish = shutdown.finish(Duration::from_secs(60));
    raise(Signal::SIGINT).expect("to oneself");
    let exit = tokio::time::timeout(deadline, finish).await.expect("forced");
    assert_eq!((exit.outcome, exit.code()), (Outcome::Forced, 143));
    drop(held);
    tasks.join(deadline).await.expect("the listening task ends too");
}
