//! Ceilings for what a connection holds while it waits: the future of its task.
//!
//! A future is as large as its largest branch, so the branches that an idle or opaque connection never takes are
//! boxed when they are entered.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_proxy::{
    connection::Direction,
    http::{Version, http1::Connection, server},
    inbound,
    io::Io,
    outbound,
};
use std::rc::Rc;
use support::{facts, worker};

fn io() -> Io {
    Io::memory(tokio::io::duplex(1).0)
}

#[tokio::test]
async fn connections_stay_small() {
    let (worker, _) = worker();
    let outbound = outbound::begin(Rc::clone(&worker), io(), facts(Direction::Outbound));
    let inbound = inbound::begin(worker, io(), facts(Direction::Inbound));
    let (outbound, inbound) = (size_of_val(&outbound), size_of_val(&inbound));
    println!("outbound {outbound}, inbound {inbound}");
    assert!(outbound <= 2048, "outbound {outbound} bytes");
    assert!(inbound <= 2560, "inbound {inbound} bytes");
}

/// With the stream's own state this is all that an idle HTTP/1 connection holds: what it was before it was known to be HTTP
/// is gone, requests are boxed, buffers are lent.
#[tokio::test]
async fn idle_http1_connections_stay_small() {
    let (worker, _) = worker();
    let task = outbound::serve(Rc::clone(&worker), io(), facts(Direction::Outbound));
    let control = Rc::new(server::Control::default());
    let answer = |_| std::future::pending();
    let serving = server::serve(worker, io(), Version::Http1, Direction::Inbound, control, answer);
    let sizes = [size_of_val(&task), size_of_val(&*serving), size_of::<Connection>()];
    println!("task, serving, connection: {sizes:?}");
    assert!(sizes.iter().sum::<usize>() <= 1024, "{sizes:?} bytes");
}
