//! The plain relay: the least that a hop through user space costs.
//!
//! One thread, edge-triggered epoll, no parsing, no encryption. Bytes are copied through one
//! buffer, or moved through a pipe per direction with `splice`. Copying is cheaper for small
//! messages, splicing for bulk, so the benchmark has both.
//!
//! A connection that fails is closed; only failing to listen or to wait ends the relay. One busy
//! flow may hold up the others, which a proxy must not do and a floor may.

use anyhow::Context;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventFlags},
    fd::OwnedFd,
    io::Errno,
    net::{self, AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use std::{collections::HashMap, net::SocketAddr, str::FromStr};

/// Bytes that one read takes at most. A pipe holds as many.
const CHUNK_BYTES: usize = 64 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// Where to listen and where to connect to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Route {
    listen: SocketAddr,
    target: SocketAddr,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, target) = text.split_once('=').ok_or("expected LISTEN=TARGET")?;
        let address = |text: &str| text.parse().map_err(|error| format!("'{text}': {error}"));
        Ok(Self { listen: address(listen)?, target: address(target)? })
    }
}

/// How bytes get from one socket to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Means {
    /// Read and write.
    Copy,
    /// Through a pipe, without entering user space.
    Splice,
}

/// Relays until the process is ended.
pub(crate) fn run(routes: &[Route], means: Means) -> anyhow::Result<()> {
    let mut relay = Relay::new(routes, means)?;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        for event in events.drain(..) {
            relay.handle(event.data.u64(), event.flags);
        }
    }
}

struct Relay {
    epoll: OwnedFd,
    means: Means,
    /// Listeners have the tokens below their number.
    listeners: Vec<(OwnedFd, SocketAddr)>,
    /// Both sockets of a connection have its key times two, plus one for the server's.
    connections: HashMap<u64, Connection>,
    next_key: u64,
    buffer: Vec<u8>,
}

impl Relay {
    fn new(routes: &[Route], means: Means) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot create epoll")?;
        let mut listeners = Vec::new();
        for (token, route) in (0..).zip(routes) {
            let listener = listen(route.listen)
                .with_context(|| format!("cannot listen on {}", route.listen))?;
            epoll::add(&epoll, &listener, epoll::EventData::new_u64(token), EventFlags::IN)?;
            listeners.push((listener, route.target));
        }
        let next_key = listeners.len() as u64;
        let buffer = vec![0; CHUNK_BYTES];
        Ok(Self { epoll, means, listeners, connections: HashMap::new(), next_key, buffer })
    }

    fn handle(&mut self, token: u64, flags: EventFlags) {
        let listener = usize::try_from(token).ok().and_then(|index| self.listeners.get(index));
        if let Some((listener, target)) = listener {
            // A client that has gone again, or no descriptors left: the relay goes on.
            if let Ok(client) = net::accept_with(listener, SocketFlags::NONBLOCK) {
                let _ = self.open(client, *target);
            }
            return;
        }
        let key = token / 2;
        let Some(connection) = self.connections.get_mut(&key) else { return };
        // With these the end of the stream may be near, and no further event would tell.
        let ending = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let moved = connection.pump(&mut self.buffer, ending);
        if moved.is_err() || connection.is_over() {
            self.connections.remove(&key);
        }
    }

    fn open(&mut self, client: OwnedFd, target: SocketAddr) -> rustix::io::Result<()> {
        let server = net::socket_with(
            family(target),
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        sockopt::set_tcp_nodelay(&client, true)?;
        sockopt::set_tcp_nodelay(&server, true)?;
        match net::connect(&server, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let key = self.next_key;
        self.next_key += 1;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &client, epoll::EventData::new_u64(key * 2), interest)?;
        epoll::add(&self.epoll, &server, epoll::EventData::new_u64(key * 2 + 1), interest)?;
        let connection = Connection {
            up: Direction::new(self.means)?,
            down: Direction::new(self.means)?,
            client,
            server,
        };
        self.connections.insert(key, connection);
        Ok(())
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family(address), SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

struct Connection {
    client: OwnedFd,
    server: OwnedFd,
    up: Direction,
    down: Direction,
}

impl Connection {
    /// Moves what can be moved now, both ways.
    fn pump(&mut self, buffer: &mut [u8], ending: bool) -> rustix::io::Result<()> {
        self.up.pump(&self.client, &self.server, buffer, ending)?;
        self.down.pump(&self.server, &self.client, buffer, ending)
    }

    fn is_over(&self) -> bool {
        self.up.ended && self.down.ended
    }
}

/// One direction of a connection.
struct Direction {
    kept: Kept,
    /// The source has ended and everything was delivered.
    ended: bool,
}

/// Bytes that were read and that the other side has not taken yet.
enum Kept {
    Copied(Vec<u8>),
    Piped { read: OwnedFd, write: OwnedFd, bytes: usize },
}

impl Direction {
    fn new(means: Means) -> rustix::io::Result<Self> {
        let kept = match means {
            Means::Copy => Kept::Copied(Vec::new()),
            Means::Splice => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                Kept::Piped { read, write, bytes: 0 }
            }
        };
        Ok(Self { kept, ended: false })
    }

    fn pump(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        buffer: &mut [u8],
        ending: bool,
    ) -> rustix::io::Result<()> {
        if self.ended {
            return Ok(());
        }
        let source = match &mut self.kept {
            Kept::Copied(kept) => copy(from, to, kept, buffer, ending)?,
            Kept::Piped { read, write, bytes } => move_through(from, to, read, write, bytes)?,
        };
        if source == Source::Ended {
            self.ended = true;
            net::shutdown(to, Shutdown::Write)?;
        }
        Ok(())
    }
}

/// What a source will do next.
#[derive(PartialEq)]
enum Source {
    /// An event will tell when there is more to do.
    Waits,
    /// Nothing will come, and everything that came was delivered.
    Ended,
}

fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    kept: &mut Vec<u8>,
    buffer: &mut [u8],
    ending: bool,
) -> rustix::io::Result<Source> {
    loop {
        if !kept.is_empty() {
            let Some(count) = or_later(rustix::io::write(to, kept))? else {
                return Ok(Source::Waits);
            };
            kept.drain(..count);
            continue;
        }
        let read = match or_later(rustix::io::read(from, &mut *buffer))? {
            None => return Ok(Source::Waits),
            Some(0) => return Ok(Source::Ended),
            Some(read) => read,
        };
        let written = or_later(rustix::io::write(to, &buffer[..read]))?.unwrap_or(0);
        kept.extend_from_slice(&buffer[written..read]);
        // A short read has emptied the socket (epoll(7)); asking again would be a wasted call.
        if kept.is_empty() && read < buffer.len() && !ending {
            return Ok(Source::Waits);
        }
    }
}

fn move_through(
    from: &OwnedFd,
    to: &OwnedFd,
    pipe_end: &OwnedFd,
    pipe_start: &OwnedFd,
    bytes: &mut usize,
) -> rustix::io::Result<Source> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        if *bytes > 0 {
            let Some(count) = or_later(splice(pipe_end, None, to, None, *bytes, flags))? else {
                return Ok(Source::Waits);
            };
            *bytes -= count;
            continue;
        }
        match or_later(splice(from, None, pipe_start, None, CHUNK_BYTES, flags))? {
            None => return Ok(Source::Waits),
            Some(0) => return Ok(Source::Ended),
            Some(count) => *bytes += count,
        }
    }
}

/// `None` when the call would have had to wait.
fn or_later(result: rustix::io::Result<usize>) -> rustix::io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    /// Sends more than any buffer holds through the relay to an echo server, and ends that
    /// direction; everything and the end must come back.
    fn check(means: Means) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut relay = Relay::new(&[Route { listen, target }], means).unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let expect = sent.clone();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(listen).unwrap();
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !client.is_finished() || !relay.connections.is_empty() {
            let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            epoll::wait(&relay.epoll, spare_capacity(&mut events), Some(&limit)).unwrap();
            for event in events.drain(..) {
                relay.handle(event.data.u64(), event.flags);
            }
        }
        assert!(client.join().unwrap() == expect, "{means:?}");
        echo.join().unwrap();
    }

    #[test]
    fn relays_everything_and_the_end_by_copying() {
        check(Means::Copy);
    }

    #[test]
    fn relays_everything_and_the_end_by_splicing() {
        check(Means::Splice);
    }

    #[test]
    fn reads_routes() {
        let expect = Route {
            listen: "127.0.0.1:80".parse().unwrap(),
            target: "10.0.0.1:81".parse().unwrap(),
        };
        assert_eq!("127.0.0.1:80=10.0.0.1:81".parse(), Ok(expect));
        assert!("127.0.0.1:80".parse::<Route>().is_err());
        assert!("80=81".parse::<Route>().is_err());
    }
}
