//! Idle connections, so that their cost in memory can be read.
//!
//! Each carries one request first: only then is the way behind it, up to the server, complete.

use crate::request::Connection;
use anyhow::Context;
use std::{io::Read, net::SocketAddr, thread};

/// A response of the benchmark's server fits.
const BUFFER_BYTES: usize = 2 * 1024;

/// Connections that are being opened at once. One after the other, 10,000 handshakes would take
/// most of a minute.
const OPENERS: usize = 8;

/// Opens the connections, says so, and keeps them until standard input ends.
pub(crate) fn run(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let held = thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|first| {
                scope.spawn(move || {
                    let numbers = (first..count).step_by(OPENERS);
                    numbers.map(|number| open(address, number)).collect::<anyhow::Result<Vec<_>>>()
                })
            })
            .collect();
        let opened = openers.into_iter().map(|it| it.join().expect("an opener does not panic"));
        opened.collect::<anyhow::Result<Vec<_>>>()
    })?;
    println!("RESULT requests={count} errors=0");
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    drop(held);
    Ok(())
}

fn open(address: SocketAddr, number: usize) -> anyhow::Result<Connection> {
    let failed = || format!("connection {number} failed");
    let mut connection = Connection::open(address, "/", BUFFER_BYTES).with_context(failed)?;
    connection.exchange(|| true).with_context(failed)?;
    Ok(connection)
}
