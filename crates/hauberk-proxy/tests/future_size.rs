//! Ceilings for what a connection holds while it waits: the future of its task.
//!
//! A future is as large as its largest branch, so the branches that an idle or opaque connection never takes are
//! boxed when they are entered.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_process::{Shutdown, Tasks, metrics::Metrics as Registry};
use hauberk_proxy::{
    connection::{Direction, Facts, NoTls, Tls},
    control::Directory,
    inbound,
    io::Io,
    outbound,
    telemetry::metrics::Metrics,
    tls::Identity,
    worker::{Parts, Worker},
};
use std::{rc::Rc, sync::Arc};

/// A worker that nobody has told anything.
fn worker() -> Rc<Worker> {
    let (_, certified) = tokio::sync::watch::channel(None);
    let identity = support::identity("web");
    let name = identity.as_str().into();
    Worker::new(Parts {
        config: Arc::new(support::config("127.0.0.1:1", "web", "anchors", "/token", &[])),
        directory: Directory::unconnected().0,
        identity: Identity::new(identity, name, certified),
        metrics: Arc::new(Metrics::register(&Registry::new())),
        tasks: Tasks::new(Shutdown::new()),
        seed: 1,
    })
}

fn facts(direction: Direction) -> Facts {
    Facts {
        direction,
        client: "10.0.0.1:1".parse().unwrap(),
        original_dst: "10.0.0.2:2".parse().unwrap(),
        tls: Tls::None(NoTls::Loopback),
        accepted_at: tokio::time::Instant::now(),
    }
}

fn io() -> Io {
    Io::memory(tokio::io::duplex(1).0)
}

#[tokio::test]
async fn connections_stay_small() {
    let worker = worker();
    let outbound = outbound::serve(Rc::clone(&worker), io(), facts(Direction::Outbound));
    let inbound = inbound::serve(worker, io(), facts(Direction::Inbound));
    let (outbound, inbound) = (size_of_val(&outbound), size_of_val(&inbound));
    println!("outbound {outbound}, inbound {inbound}");
    assert!(outbound <= 2048, "outbound {outbound} bytes");
    assert!(inbound <= 2560, "inbound {inbound} bytes");
}
