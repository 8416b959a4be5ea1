//! Idle connections, so that their cost in memory can be read.
//!
//! Each carries one request first: only then is the way behind it, up to the server, complete.

use crate::request::Connection;
use anyhow::Context;
use std::{io::Read, net::SocketAddr};

/// A response of the benchmark's server fits.
const BUFFER_BYTES: usize = 4 * 1024;

/// Opens the connections, says so, and keeps them until standard input ends.
pub(crate) fn run(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let failed = || format!("connection {number} failed");
        let mut connection = Connection::open(address, "/", BUFFER_BYTES).with_context(failed)?;
        connection.exchange(|| true).with_context(failed)?;
        held.push(connection);
    }
    println!("RESULT requests={count} errors=0");
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    drop(held);
    Ok(())
}
