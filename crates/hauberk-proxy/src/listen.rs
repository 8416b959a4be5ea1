//! Accepting connections.
//!
//! Each worker has a listener of its own on every address (`SO_REUSEPORT`), so no connection changes threads. Sockets
//! are bound before the first certificate is there and accepted from only afterwards: the kernel's queue holds early
//! connections. Accepting ends when draining begins.

use crate::{
    connection::{Direction, Facts, NoTls, Tls},
    inbound,
    io::Io,
    outbound,
    settings::{Config, Side},
    worker::Worker,
};
use hauberk_linux::{
    original_dst::{canonical, original_dst_for},
    socket::{self, ListenOptions},
};
use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// Where a connection was going before the kernel turned it to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalDst {
    /// Ask the kernel.
    Kernel,
    /// Always there; for tests, which have no capture rules.
    Fixed(SocketAddr),
}

/// The listeners of one worker.
#[derive(Debug)]
pub struct Listeners {
    /// For the application's own connections.
    pub outbound: Vec<StdListener>,
    /// For everybody else's.
    pub inbound: StdListener,
}

/// Binds the listeners of all workers.
///
/// # Errors
/// With the address in the text. An outbound address of a family that this kernel lacks is left out, unless it is the
/// only one.
pub fn bind(config: &Config) -> io::Result<Vec<Listeners>> {
    let mut inbound =
        listeners(config.inbound.listen, config.workers, &config.inbound.side)?.into_iter();
    let mut outbound = Vec::new();
    for address in &config.outbound.listen {
        match listeners(*address, config.workers, &config.outbound.side) {
            Ok(bound) => outbound.push(bound.into_iter()),
            Err(error) if config.outbound.listen.len() > 1 && address.is_ipv6() => {
                tracing::warn!(%address, %error, "cannot listen on this address, going on without");
            }
            Err(error) => return Err(error),
        }
    }
    let workers = (0..config.workers).map(|_| Listeners {
        outbound: outbound.iter_mut().filter_map(Iterator::next).collect(),
        inbound: inbound.next().expect("one inbound listener was bound for each worker"),
    });
    Ok(workers.collect())
}

fn listeners(address: SocketAddr, count: usize, side: &Side) -> io::Result<Vec<StdListener>> {
    let backlog = side.backlog.unwrap_or(socket::BACKLOG_DEFAULT);
    let options = ListenOptions { backlog, nonblocking: true, ..ListenOptions::default() };
    let listeners = socket::listen_shared(address, count, &options)?;
    for listener in &listeners {
        // Set here once, and not on each connection, which has what its listener has. Connections work without.
        if let Err(error) = socket::configure(listener, &side.accept) {
            tracing::warn!(%address, %error, "cannot set options of accepted connections");
        }
    }
    Ok(listeners)
}

/// Accepting waits so long after a failure, which usually means that descriptors have run out: some connection must
/// end first.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections and serves each in a task of its own, until draining begins.
pub async fn accept(
    worker: Rc<Worker>,
    listener: StdListener,
    direction: Direction,
    original: OriginalDst,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot register a listener");
            return;
        }
    };
    let mut is_failing = false;
    let shutdown = worker.shutdown.clone();
    let draining = shutdown.draining();
    tokio::pin!(draining);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => return,
        };
        match accepted {
            Ok((socket, client)) => {
                is_failing = false;
                begin(&worker, socket, client, direction, original);
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, direction = direction.as_str(), "cannot accept connections");
                }
                is_failing = true;
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Errors about a connection that ended before we took it, as opposed to the listener (accept(2)).
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn begin(
    worker: &Rc<Worker>,
    socket: TcpStream,
    client: SocketAddr,
    direction: Direction,
    original: OriginalDst,
) {
    let original_dst = match original {
        OriginalDst::Fixed(address) => address,
        OriginalDst::Kernel => match original_dst_for(&socket, client) {
            Ok(address) => address,
            Err(error) => {
                tracing::debug!(%client, %error, "cannot find the original destination");
                return;
            }
        },
    };
    let facts = Facts {
        direction,
        client: canonical(client),
        original_dst: canonical(original_dst),
        tls: Tls::None(match direction {
            Direction::Inbound => NoTls::NotFromRemote,
            Direction::Outbound => NoTls::Loopback,
        }),
        accepted_at: Instant::now(),
    };
    let (guard, worker) = (worker.shutdown.guard(), Rc::clone(worker));
    let connections = worker.connections.clone();
    match direction {
        Direction::Inbound => connections.spawn_local(async move {
            inbound::serve(worker, Io::plain(socket), facts).await;
            drop(guard);
        }),
        Direction::Outbound => connections.spawn_local(async move {
            outbound::serve(worker, Io::plain(socket), facts).await;
            drop(guard);
        }),
    };
}
