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
    let outbound = outbound::serve(Rc::clone(&worker), io(), facts(Direction::Outbound));
    let inbound = inbound::serve(worker, io(), facts(Direction::Inbound));
    let (outbound, inbound) = (size_of_val(&outbound), size_of_val(&inbound));
    println!("outbound {outbound}, inbound {inbound}");
    assert!(outbound <= 2048, "outbound {outbound} bytes");
    assert!(inbound <= 2560, "inbound {inbound} bytes");
}

/// What serves HTTP/1 is boxed when a connection turns out to be that. With the stream's own state it is all that an idle
/// connection holds: requests are boxed, buffers are lent.
#[tokio::test]
async fn idle_http1_connections_stay_small() {
    let (worker, _) = worker();
    let control = Rc::new(server::Control::default());
    let side = &worker.config.inbound.side;
    let answer = |_| std::future::pending();
    let serving = server::serve(&worker, io(), Version::Http1, side, control, answer);
    let (serving, connection) = (size_of_val(&serving), size_of::<Connection>());
    println!("serving {serving}, connection {connection}");
    assert!(serving <= 2048, "serving {serving} bytes");
    assert!(connection <= 512, "connection {connection} bytes");
}
