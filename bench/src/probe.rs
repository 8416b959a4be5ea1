//! Waits until a server answers. The time it took is part of the benchmark: from the start of
//! the proxies to the first good response through both.

use crate::request::Connection;
use anyhow::Context;
use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns when the server has answered once with 200.
pub(crate) fn run(address: SocketAddr, lasts_at_most: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answered =
            Connection::open(address, "/", 16 * 1024).and_then(|mut it| it.exchange(|| true));
        let waited = began.elapsed();
        match answered {
            Ok(_) => {
                println!("RESULT seconds={}", waited.as_secs_f64());
                return Ok(());
            }
            Err(error) if waited > lasts_at_most => {
                return Err(error).with_context(|| format!("{address} did not answer"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
