//! Open-loop latency: requests are due at fixed times, and each is measured from when it was
//! due, not from when it could be sent.
//!
//! So a server that stalls is charged for every request that had to wait meanwhile ("coordinated
//! omission" is what tools do that wait with it). wrk only sends as fast as it is answered;
//! wrk2 and oha do this too but are not packaged in Debian.
//!
//! Each connection has a thread of its own that sleeps until its next request is due: a runtime's
//! timers have a resolution of a millisecond, more than what is measured here. The kernel's timer
//! slack of 50 µs is switched off.

use crate::{latency::Percentiles, request::Connection};
use anyhow::Context;
use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// What is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Requests per second over all connections.
    pub(crate) rate: u32,
    /// Connections that take turns.
    pub(crate) connections: u32,
    /// How long.
    pub(crate) lasts: Duration,
}

impl Plan {
    /// When a request is due, counted from the beginning; `None` when the plan is over.
    ///
    /// Request `n` of connection `c` is request `n * connections + c` of all.
    fn due(self, connection: u32, number: u32) -> Option<Duration> {
        let of_all = u64::from(number) * u64::from(self.connections) + u64::from(connection);
        let due = Duration::from_secs_f64(of_all as f64 / f64::from(self.rate));
        Some(due).filter(|due| *due < self.lasts)
    }
}

/// What one connection saw.
struct Seen {
    latencies: Vec<Duration>,
    errors: u64,
}

/// Runs the plan and prints the percentiles.
pub(crate) fn run(address: SocketAddr, plan: Plan) -> anyhow::Result<()> {
    anyhow::ensure!(plan.rate > 0 && plan.connections > 0, "nothing to send");
    // New threads inherit the slack. Without it each request would be 50 µs late.
    std::fs::write("/proc/self/timerslack_ns", "1").context("cannot set the timer slack")?;
    // Connections are made before the first request is due; making them is another scenario.
    let connections: Result<Vec<_>, _> =
        (0..plan.connections).map(|_| Connection::open(address, "/", 16 * 1024)).collect();
    let mut connections = connections?;
    for connection in &mut connections {
        connection.exchange(|| true)?;
    }
    let began = Instant::now() + Duration::from_millis(10);
    let seen: Vec<Seen> = thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(connections)
            .map(|(index, connection)| {
                scope.spawn(move || serve(address, plan, index, connection, began))
            })
            .collect();
        threads.into_iter().map(|it| it.join().expect("a sender does not panic")).collect()
    });
    let errors: u64 = seen.iter().map(|seen| seen.errors).sum();
    let latencies: Vec<_> = seen.into_iter().flat_map(|seen| seen.latencies).collect();
    println!(
        "RESULT requests={} seconds={} errors={errors} {}",
        latencies.len(),
        began.elapsed().as_secs_f64(),
        Percentiles::new(latencies)
    );
    Ok(())
}

/// Sends the requests of one connection. A failed one opens a new connection.
fn serve(
    address: SocketAddr,
    plan: Plan,
    index: u32,
    connection: Connection,
    began: Instant,
) -> Seen {
    let mut connection = Some(connection);
    let mut seen = Seen { latencies: Vec::new(), errors: 0 };
    // A server that has gone altogether must not keep us: each failure may take seconds.
    let ends = began + 2 * plan.lasts;
    let mut number = 0;
    while let Some(due) = plan.due(index, number)
        && Instant::now() < ends
    {
        number += 1;
        let due = began + due;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(address, "/", 16 * 1024),
        };
        let answered = open.and_then(|mut open| open.exchange(|| true).map(|_| open));
        match answered {
            Ok(open) => {
                seen.latencies.push(due.elapsed());
                connection = Some(open);
            }
            Err(_) => seen.errors += 1,
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_connections_are_evenly_due() {
        let plan = Plan { rate: 10, connections: 2, lasts: Duration::from_secs(1) };
        let mut due: Vec<_> = (0..2)
            .flat_map(|connection| (0..).map_while(move |n| plan.due(connection, n)))
            .collect();
        due.sort_unstable();
        let expect: Vec<_> = (0..10).map(|n| Duration::from_millis(n * 100)).collect();
        assert_eq!(due, expect);
    }
}
