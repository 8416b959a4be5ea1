//! Accepting connections.
//!
//! Each worker has a listener of its own on every address (`SO_REUSEPORT`) and serves what comes there, unless another
//! worker has clearly fewer connections ([`crate::spread`]); no connection changes threads later. Sockets are bound before the first certificate is there and accepted from only afterwards: the kernel's queue holds early
//! connections. Accepting ends when draining begins, after what already waits in the queue has been accepted: closing
//! would reset it.
//!
//! A successor ([`Start::TakeOver`]) shares the addresses of the proxy that runs, and begins to listen only when it can
//! serve. Handshakes that the old listener's end would cut off go on with the successor where
//! `net.ipv4.tcp_migrate_req` is set (Linux 5.14).

use crate::{
    connection::{Direction, Facts, NoTls, Tls},
    inbound,
    io::Io,
    outbound,
    settings::{Config, Side},
    spread::{Arrival, HandedOver, Spread, spread},
    worker::Worker,
};
use hauberk_linux::{
    original_dst::{canonical, original_dst_for},
    socket::{self, Begin, ListenOptions},
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

/// Whether the proxy is the first one at its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody else may listen there.
    Fresh,
    /// Another proxy of the same user serves there and will be told to leave once this one serves too.
    TakeOver,
}

/// The listeners of one worker.
#[derive(Debug)]
pub struct Listeners {
    /// For the application's own connections.
    pub outbound: Vec<StdListener>,
    /// For everybody else's.
    pub inbound: StdListener,
    /// Which worker serves what is accepted, and what others have for this one.
    pub outbound_spread: (Spread, HandedOver),
    /// The same for inbound connections.
    pub inbound_spread: (Spread, HandedOver),
}

/// Binds the listeners of all workers.
///
/// # Errors
/// With the address in the text. An outbound address of a family that this kernel lacks is left out, unless it is the
/// only one.
pub fn bind(config: &Config, start: Start) -> io::Result<Vec<Listeners>> {
    let side = &config.inbound.side;
    let mut inbound = shared(config.inbound.listen, config.workers, side, start)?.into_iter();
    let mut outbound = Vec::new();
    for address in &config.outbound.listen {
        match shared(*address, config.workers, &config.outbound.side, start) {
            Ok(bound) => outbound.push(bound.into_iter()),
            Err(error) if config.outbound.listen.len() > 1 && address.is_ipv6() => {
                tracing::warn!(%address, %error, "cannot listen on this address, going on without");
            }
            Err(error) => return Err(error),
        }
    }
    let spreads = spread(config.workers).into_iter().zip(spread(config.workers));
    let workers = spreads.map(|(outbound_spread, inbound_spread)| Listeners {
        outbound: outbound.iter_mut().filter_map(Iterator::next).collect(),
        inbound: inbound.next().expect("one inbound listener was bound for each worker"),
        outbound_spread,
        inbound_spread,
    });
    Ok(workers.collect())
}

/// Binds the listener of the admin or tap server.
///
/// # Errors
/// With the address in the text.
pub fn bind_server(address: SocketAddr, config: &Config, start: Start) -> io::Result<StdListener> {
    let listeners = shared(address, 1, &config.inbound.side, start)?;
    Ok(listeners.into_iter().next().expect("one listener was asked for"))
}

/// Binds listeners that share an address with each other and with a successor.
fn shared(
    address: SocketAddr,
    count: usize,
    side: &Side,
    start: Start,
) -> io::Result<Vec<StdListener>> {
    let begin = match start {
        Start::Fresh => {
            // Sharing would hide that another proxy is there.
            socket::ensure_free(address)?;
            Begin::AtOnce
        }
        Start::TakeOver => Begin::Later,
    };
    let options =
        ListenOptions { backlog: backlog(side), nonblocking: true, begin, ..Default::default() };
    let listeners = socket::listen_shared(address, count, &options)?;
    for listener in &listeners {
        // Set here once, and not on each connection, which has what its listener has. Connections work without.
        if let Err(error) = socket::configure(listener, &side.accept) {
            tracing::warn!(%address, %error, "cannot set options of accepted connections");
        }
    }
    Ok(listeners)
}

fn backlog(side: &Side) -> i32 {
    side.backlog.unwrap_or(socket::BACKLOG_DEFAULT)
}

impl Listeners {
    /// Takes connections from now on, if not already.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(&self, config: &Config) -> io::Result<()> {
        socket::begin(&self.inbound, backlog(&config.inbound.side))?;
        let backlog = backlog(&config.outbound.side);
        self.outbound.iter().try_for_each(|listener| socket::begin(listener, backlog))
    }
}

/// The listener of the admin or tap server, taking connections from now on.
///
/// # Errors
/// What the kernel says.
pub fn begin_server(listener: StdListener, config: &Config) -> io::Result<TcpListener> {
    socket::begin(&listener, backlog(&config.inbound.side))?;
    TcpListener::from_std(listener)
}

/// Accepting waits so long after a failure, which usually means that descriptors have run out: some connection must
/// end first.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Where connections of one direction come in at a worker.
#[derive(Debug)]
pub struct Entrance {
    /// Who serves them.
    pub worker: Rc<Worker>,
    /// Their direction.
    pub direction: Direction,
    /// Where they were going.
    pub original: OriginalDst,
    /// Which of them are served here.
    pub spread: Spread,
}

impl Entrance {
    /// Who has made a connection, and where it was going. None if the kernel does not know any more.
    fn way(&self, socket: &TcpStream, client: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        let original_dst = match self.original {
            OriginalDst::Fixed(address) => Ok(address),
            OriginalDst::Kernel => original_dst_for(socket, client),
        };
        match original_dst {
            Ok(original_dst) => Some((client, original_dst)),
            Err(error) => {
                tracing::debug!(%client, %error, "cannot find the original destination");
                None
            }
        }
    }
}

/// Accepts connections and serves each in a task of its own, or hands it over, until draining begins.
pub async fn accept(entrance: Rc<Entrance>, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot register a listener");
            return;
        }
    };
    let mut is_failing = false;
    let shutdown = entrance.worker.shutdown.clone();
    let draining = shutdown.draining();
    tokio::pin!(draining);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => break,
        };
        match accepted {
            Ok((socket, client)) => {
                is_failing = false;
                let Some(way) = entrance.way(&socket, client) else { continue };
                if let Some(arrival) = entrance.spread.place(socket, way, shutdown.guard()) {
                    begin(&entrance, arrival);
                }
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                if !is_failing {
                    let direction = entrance.direction;
                    tracing::warn!(%error, direction = direction.as_str(), "cannot accept connections");
                }
                is_failing = true;
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
    match listener.into_std() {
        Ok(listener) => take_rest(&entrance, &listener),
        Err(error) => tracing::warn!(%error, "cannot accept the connections that wait"),
    }
}

/// Serves what other workers hand over, until draining begins.
pub async fn adopt(entrance: Rc<Entrance>, mut handed_over: HandedOver) {
    let shutdown = entrance.worker.shutdown.clone();
    let draining = shutdown.draining();
    tokio::pin!(draining);
    loop {
        tokio::select! {
            Some(arrival) = handed_over.next() => begin(&entrance, arrival),
            () = &mut draining => break,
        }
    }
    handed_over.close();
    while let Some(arrival) = handed_over.next().await {
        begin(&entrance, arrival);
    }
}

/// Connections accepted after draining has begun; more than a queue holds, so that a listener that is filled as fast
/// as it is emptied does not keep a draining worker.
const REST_MAX: usize = 8192;

/// Accepts what waits in the queue. Tokio may not know of it yet, so the kernel is asked.
fn take_rest(entrance: &Entrance, listener: &StdListener) {
    for _ in 0..REST_MAX {
        let accepted = listener.accept().and_then(|(socket, client)| {
            socket.set_nonblocking(true)?;
            Ok((TcpStream::from_std(socket)?, client))
        });
        match accepted {
            Ok((socket, client)) => {
                let Some(way) = entrance.way(&socket, client) else { continue };
                let guard = entrance.worker.shutdown.guard();
                begin(entrance, entrance.spread.keep(socket, way, guard));
            }
            Err(error) if is_of_connection(&error) => {}
            Err(_) => return, // The queue is empty, or descriptors have run out.
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

fn begin(entrance: &Entrance, arrival: Arrival) {
    let Arrival { socket, client, original_dst, stay } = arrival;
    let direction = entrance.direction;
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
    let worker = Rc::clone(&entrance.worker);
    let connections = worker.connections.clone();
    match direction {
        Direction::Inbound => {
            let serving = inbound::serve(worker, Io::plain(socket), facts);
            connections.spawn_local(async move {
                serving.await;
                drop(stay);
            });
        }
        Direction::Outbound => {
            let serving = outbound::serve(worker, Io::plain(socket), facts);
            connections.spawn_local(async move {
                serving.await;
                drop(stay);
            });
        }
    }
}
