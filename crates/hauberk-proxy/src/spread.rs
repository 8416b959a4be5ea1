//! Which worker serves a connection.
//!
//! The kernel deals connections out to the workers' listeners by a hash of their addresses (`SO_REUSEPORT`, socket(7)).
//! For many connections that is even, for few it is a lottery: between two proxies there is one HTTP/2 connection for
//! each worker of the client's, and of two such connections both come to the same worker of the server's proxy every
//! other time, while another has nothing to do, for as long as they live. So a worker that has clearly more open
//! connections of a kind than another one hands new ones over to it (`docs/decisions/0032`). Of a kind are those from one address to one
//! destination: counted together, idle connections from elsewhere would send both of the two to the same worker too.
//!
//! Used by `listen`, for each direction apart. A connection that is handed over costs a wake-up of the other thread
//! and two calls of `epoll_ctl` (not measured by itself); with one worker nothing is ever handed over. Not here: connections that
//! are served already, which stay where they are, and how much each has to do, which nobody knows beforehand.

use hauberk_process::DrainGuard;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{SocketAddr, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpStream, sync::mpsc};

/// Connections that wait for the worker that is to serve them. What is beyond stays with the worker that accepted it.
const WAITING_MAX: usize = 64;

/// Kinds of connections that are told apart. Two that share a number are spread as one, which is even as well.
const KINDS: usize = 64;

/// How one worker spreads the connections that it accepts.
#[derive(Debug)]
pub struct Spread {
    /// The place of this worker among all of them.
    own: usize,
    workers: Vec<Peer>,
}

/// What every worker knows of each.
#[derive(Clone, Debug)]
struct Peer {
    open: Arc<Open>,
    hand_over: mpsc::Sender<Arrival<StdStream>>,
}

/// Connections that a worker serves or is about to.
#[derive(Debug)]
struct Open {
    all: AtomicUsize,
    of_kind: [AtomicUsize; KINDS],
}

impl Default for Open {
    fn default() -> Self {
        Self { all: AtomicUsize::new(0), of_kind: [const { AtomicUsize::new(0) }; KINDS] }
    }
}

/// Connections from one address to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OfKind(u8);

impl OfKind {
    fn of(client: SocketAddr, original_dst: SocketAddr) -> Self {
        let mut hasher = DefaultHasher::new();
        (client.ip(), original_dst).hash(&mut hasher);
        Self((hasher.finish() % KINDS as u64) as u8)
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Arrival<S = TcpStream> {
    /// The connection.
    pub socket: S,
    /// Who has made it.
    pub client: SocketAddr,
    /// Where it was going.
    pub original_dst: SocketAddr,
    /// What it counts for, until it has ended.
    pub stay: Stay,
}

/// An open connection counts for its worker, and keeps a draining process alive, until this is dropped.
#[derive(Debug)]
pub struct Stay {
    open: Arc<Open>,
    kind: OfKind,
    _guard: DrainGuard,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.open.all.fetch_sub(1, Ordering::Relaxed);
        self.open.of_kind[usize::from(self.kind.0)].fetch_sub(1, Ordering::Relaxed);
    }
}

/// What others hand over to a worker.
#[derive(Debug)]
pub struct HandedOver(mpsc::Receiver<Arrival<StdStream>>);

/// For each of so many workers how it spreads connections, and what it is handed over.
pub fn spread(workers: usize) -> Vec<(Spread, HandedOver)> {
    let (peers, handed_over): (Vec<_>, Vec<_>) = (0..workers)
        .map(|_| {
            let (hand_over, handed_over) = mpsc::channel(WAITING_MAX);
            (Peer { open: Arc::default(), hand_over }, HandedOver(handed_over))
        })
        .unzip();
    let spreads = (0..workers).map(|own| Spread { own, workers: peers.clone() });
    spreads.zip(handed_over).collect()
}

impl Spread {
    /// Returns an accepted connection if this worker is to serve it, or else has handed it over.
    pub fn place(
        &self,
        socket: TcpStream,
        (client, original_dst): (SocketAddr, SocketAddr),
        guard: DrainGuard,
    ) -> Option<Arrival> {
        let kind = OfKind::of(client, original_dst);
        let chosen = self.choose(kind);
        if chosen == self.own {
            return Some(self.keep(socket, (client, original_dst), guard));
        }
        let other = &self.workers[chosen];
        let Ok(place) = other.hand_over.try_reserve() else {
            return Some(self.keep(socket, (client, original_dst), guard));
        };
        match socket.into_std() {
            Ok(socket) => {
                place.send(Arrival { socket, client, original_dst, stay: other.stay(kind, guard) });
            }
            Err(error) => tracing::warn!(%client, %error, "cannot hand a connection over"),
        }
        None
    }

    /// An accepted connection for this worker.
    pub fn keep(
        &self,
        socket: TcpStream,
        (client, original_dst): (SocketAddr, SocketAddr),
        guard: DrainGuard,
    ) -> Arrival {
        let stay = self.workers[self.own].stay(OfKind::of(client, original_dst), guard);
        Arrival { socket, client, original_dst, stay }
    }

    fn choose(&self, kind: OfKind) -> usize {
        let open = self.workers.iter().map(|it| {
            let of_kind = it.open.of_kind[usize::from(kind.0)].load(Ordering::Relaxed);
            (of_kind, it.open.all.load(Ordering::Relaxed))
        });
        choose(self.own, open)
    }
}

impl Peer {
    fn stay(&self, kind: OfKind, guard: DrainGuard) -> Stay {
        self.open.all.fetch_add(1, Ordering::Relaxed);
        self.open.of_kind[usize::from(kind.0)].fetch_add(1, Ordering::Relaxed);
        Stay { open: Arc::clone(&self.open), kind, _guard: guard }
    }
}

/// The worker for one more connection, from how many of its kind and of all each has: the one with the fewest, if this
/// one has over a quarter more of its kind, or as many of its kind and over a quarter more of all. Nearly even is good
/// enough for many connections, and cheaper than handing over every other one.
fn choose(own: usize, open: impl Iterator<Item = (usize, usize)> + Clone) -> usize {
    let least = open.clone().enumerate().min_by_key(|(_, open)| *open);
    let (Some((fewest, (of_kind, all))), Some(ours)) = (least, open.clone().nth(own)) else {
        return own;
    };
    let has_more = |ours: usize, least: usize| ours > least + least / 4;
    if has_more(ours.0, of_kind) || (ours.0 == of_kind && has_more(ours.1, all)) {
        fewest
    } else {
        own
    }
}

impl HandedOver {
    /// The next connection; none once [`HandedOver::close`] has been called and all were taken. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arrival> {
        while let Some(Arrival { socket, client, original_dst, stay }) = self.0.recv().await {
            match TcpStream::from_std(socket) {
                Ok(socket) => return Some(Arrival { socket, client, original_dst, stay }),
                Err(error) => tracing::warn!(%client, %error, "cannot register a connection"),
            }
        }
        None
    }

    /// Takes no more; who wants to hand over must keep.
    pub fn close(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_process::Shutdown;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[test]
    fn hands_over_to_the_worker_with_clearly_fewer_connections() {
        let check_of_all = |own: usize, open: &[(usize, usize)], expect: usize| {
            assert_eq!(choose(own, open.iter().copied()), expect, "{own} of {open:?}");
        };
        let check = |own: usize, open: &[usize], expect: usize| {
            let open: Vec<_> = open.iter().map(|of_kind| (*of_kind, 1_000)).collect();
            check_of_all(own, &open, expect);
        };
        check(0, &[0, 0], 0);
        check(0, &[1, 0], 1);
        check(1, &[1, 0], 1);
        check(1, &[0, 1], 0);
        check(0, &[2, 1, 1], 1);
        // A fifth more is no reason yet.
        check(0, &[5, 4], 0);
        check(0, &[6, 4], 1);
        check(1, &[200, 251], 0);
        check(1, &[200, 250], 1);
        check(0, &[9], 0);
        // Others count where there are as many of its kind.
        check_of_all(0, &[(0, 2), (0, 1)], 1);
        check_of_all(0, &[(1, 1), (0, 9)], 1);
        check_of_all(0, &[(0, 9), (1, 1)], 0);
        check_of_all(0, &[(5, 90), (4, 10)], 0);
    }

    #[test]
    fn a_kind_is_an_address_and_a_destination_whatever_the_port_of_the_client() {
        let kind =
            |client: &str, to: &str| OfKind::of(client.parse().unwrap(), to.parse().unwrap());
        assert_eq!(kind("10.0.0.1:1", "10.0.0.9:80"), kind("10.0.0.1:2", "10.0.0.9:80"));
        let others = (1..100).map(|port| kind("10.0.0.1:1", &format!("10.0.0.9:{port}")));
        let different = others.filter(|it| *it != kind("10.0.0.1:1", "10.0.0.9:80")).count();
        assert!(different > 80, "{different} of 99");
    }

    /// A client's end and the accepted one.
    async fn connection(
        listener: &TcpListener,
    ) -> (TcpStream, TcpStream, (SocketAddr, SocketAddr)) {
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (accepted, from) = accepted.unwrap();
        (client.unwrap(), accepted, (from, address))
    }

    #[tokio::test]
    async fn of_two_connections_each_worker_has_one_whoever_accepts_them() {
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [(first, _of_first), (second, mut handed_over)] =
            <[_; 2]>::try_from(spread(2)).expect("two workers");

        let (_one, accepted, from) = connection(&listener).await;
        let kept = first.place(accepted, from, shutdown.guard()).expect("kept");
        let (mut two, accepted, from) = connection(&listener).await;
        assert!(first.place(accepted, from, shutdown.guard()).is_none());
        let mut other = handed_over.next().await.unwrap();
        assert_eq!(((other.client, other.original_dst), shutdown.guards()), (from, 2));
        // It works where it came to.
        two.write_all(b"x").await.unwrap();
        assert_eq!(other.socket.read_u8().await.unwrap(), b'x');

        // Even again, the third stays; where one has ended there is room first.
        let (_three, accepted, from) = connection(&listener).await;
        let third = second.place(accepted, from, shutdown.guard()).expect("kept");
        drop(kept);
        let (_four, accepted, from) = connection(&listener).await;
        assert!(second.place(accepted, from, shutdown.guard()).is_none());
        drop((other, third));
        assert_eq!(shutdown.guards(), 1, "the one that waits keeps the process alive");
    }

    #[tokio::test]
    async fn a_worker_that_takes_no_more_is_handed_nothing_and_keeps_what_waits() {
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [(first, _), (_, mut handed_over)] =
            <[_; 2]>::try_from(spread(2)).expect("two workers");
        let mut clients = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..2 {
            let (client, accepted, from) = connection(&listener).await;
            clients.push(client);
            kept.extend(first.place(accepted, from, shutdown.guard()));
        }
        assert_eq!(kept.len(), 1);
        handed_over.close();
        for _ in 0..3 {
            let (client, accepted, from) = connection(&listener).await;
            clients.push(client);
            kept.extend(first.place(accepted, from, shutdown.guard()));
        }
        assert_eq!(kept.len(), 4);
        assert!(handed_over.next().await.is_some());
        assert!(handed_over.next().await.is_none());
    }
}
