//! One flow of large bodies. curl would do, but it ends after a size, not after a time.

use crate::request::Connection;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Large enough that the reader is not the bottleneck.
const BUFFER_BYTES: usize = 256 * 1024;

/// Reads bodies until the time is over.
pub(crate) fn run(address: SocketAddr, path: &str, lasts: Duration) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, path, BUFFER_BYTES)?;
    let began = Instant::now();
    let (mut bytes, mut bodies) = (0, 0);
    while began.elapsed() < lasts {
        bytes += connection.exchange(|| began.elapsed() < lasts)?;
        bodies += 1;
    }
    println!(
        "RESULT requests={bodies} bytes={bytes} seconds={} errors=0",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}
