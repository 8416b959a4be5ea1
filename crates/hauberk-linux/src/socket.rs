//! Listeners and options of TCP sockets that the standard library does not set.
//!
//! The proxy, the capture tests and the local runtime open their sockets here. Everything is a thin
//! layer over `socket2`; the value is in the defaults and in what counts as tolerable: IPv6 may be
//! missing, and marking a packet may be forbidden.
//!
//! Sockets come out non-blocking exactly when asked for ([`ListenOptions::nonblocking`]), always
//! close-on-exec, so that `tokio::net::TcpListener::from_std` takes them as they are.
//!
//! Deliberately not here: the original destination (see [`crate::original_dst`]) and connecting.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that wait to be accepted. A burst of clients that close at once overruns the usual 128
/// and then costs each of them a retransmission of a second. The kernel caps it at `somaxconn`
/// (4096 since Linux 5.4).
pub const BACKLOG_DEFAULT: i32 = 4096;

/// How a listener is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Number of connections that may wait to be accepted.
    pub backlog: i32,
    /// Whether several listeners may share the address; the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Whether accepting returns `WouldBlock` instead of waiting, as async runtimes need it.
    pub nonblocking: bool,
    /// When connections are taken.
    pub begin: Begin,
}

/// When a listener takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// From the moment it is opened.
    AtOnce,
    /// From the call of [`begin`]. Until then the address is reserved and others that share it get
    /// all connections.
    Later,
}

impl Default for ListenOptions {
    fn default() -> Self {
        let begin = Begin::AtOnce;
        Self { backlog: BACKLOG_DEFAULT, reuse_port: false, nonblocking: false, begin }
    }
}

/// Opens a TCP listener.
///
/// `[::]` takes IPv4 clients too, whatever `net.ipv6.bindv6only` says; any other IPv6 address takes
/// only IPv6.
///
/// # Errors
/// What the kernel says to socket, bind or listen, with the address in the text.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    open(address, options).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Opens a listener for every address of the machine: both families, or IPv4 alone where the kernel
/// has no IPv6.
///
/// # Errors
/// As [`listen`].
pub fn listen_everywhere(port: u16, options: &ListenOptions) -> io::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let only_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match open(both, options) {
        Err(error) if is_family_missing(&error) => listen(only_v4, options),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("cannot listen on {both}: {error}")))
        }
        Ok(listener) => Ok(listener),
    }
}

/// Opens `count` listeners on one address, for one worker each (`SO_REUSEPORT`).
///
/// With port 0 all of them share the port that the first one was given. All or none: an error closes
/// those already open.
///
/// # Errors
/// As [`listen`].
pub fn listen_shared(
    address: SocketAddr,
    count: usize,
    options: &ListenOptions,
) -> io::Result<Vec<TcpListener>> {
    let options = ListenOptions { reuse_port: true, ..*options };
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = listen(address, &options)?;
        address.set_port(listener.local_addr()?.port());
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Lets a listener that was opened with [`Begin::Later`] take connections. One that does already keeps
/// them, and only its backlog changes (listen(2)).
///
/// # Errors
/// What the kernel says.
pub fn begin(listener: &impl AsFd, backlog: i32) -> io::Result<()> {
    SockRef::from(listener).listen(backlog)
}

/// Refuses an address that somebody listens on, even if that one would share it (`SO_REUSEPORT`).
/// Port 0 is always fine.
///
/// # Errors
/// As [`listen`]; most often `AddrInUse`.
pub fn ensure_free(address: SocketAddr) -> io::Result<()> {
    let options = ListenOptions { begin: Begin::Later, ..ListenOptions::default() };
    listen(address, &options).map(drop)
}

/// Whether the error says that the kernel, or this namespace, has no such address family.
pub fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted proxy must get its port back although old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_nonblocking(options.nonblocking)?;
    socket.bind(&address.into())?;
    if options.begin == Begin::AtOnce {
        socket.listen(options.backlog)?;
    }
    Ok(socket.into())
}

/// Options of an established connection, or of a socket about to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// Send small writes at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Idle time before keep-alive probes, and the interval between them. `None` leaves them off.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged before the connection is dead
    /// (`TCP_USER_TIMEOUT`, RFC 5482). `None` leaves it to the kernel's retransmissions.
    pub user_timeout: Option<Duration>,
}

/// Sets the options on `socket`, any TCP socket including tokio's.
///
/// Costs one system call for each option asked for (keep-alive: three). Set on a listener, they are those of every
/// connection it accepts from then on (Linux copies the listening socket), which costs an accepted connection nothing.
///
/// # Errors
/// What the kernel says; options before the failing one stay set.
pub fn configure(socket: &impl AsFd, options: &ConnectionOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(time) = options.keepalive {
        // The kernel counts whole seconds and refuses zero.
        let time = time.max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time))?;
    }
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// What became of the wish to mark a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Every packet of the socket carries the mark.
    Yes,
    /// The process has neither `CAP_NET_ADMIN` nor `CAP_NET_RAW` here; nothing changed.
    NotPermitted,
}

/// Marks every packet that `socket` will send (`SO_MARK`), so that the capture rules leave it alone.
///
/// Must be called before connecting: rules look at the first packet of a connection.
///
/// # Errors
/// What the kernel says, except for a missing right: a sidecar in a pod has none, runs under the
/// exempted user id instead, and goes on.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<Marked> {
    match SockRef::from(socket).set_mark(mark) {
        Ok(()) => Ok(Marked::Yes),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Marked::NotPermitted),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn shared_listeners_have_one_port() {
        let listeners = listen_shared(loopback(), 3, &ListenOptions::default()).unwrap();

        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn unshared_address_is_refused_with_its_name() {
        let first = listen(loopback(), &ListenOptions::default()).unwrap();
        let address = first.local_addr().unwrap();

        let error = listen(address, &ListenOptions::default()).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn listening_everywhere_takes_ipv4_clients() {
        let listener = listen_everywhere(0, &ListenOptions::default()).unwrap();
        let port = listener.local_addr().unwrap().port();

        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();

        let (_server, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
    }

    #[test]
    fn nonblocking_listener_does_not_wait() {
        let options = ListenOptions { nonblocking: true, ..ListenOptions::default() };
        let listener = listen(loopback(), &options).unwrap();

        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_successor_shares_the_address_and_takes_over_when_it_begins() {
        let shared = |address, begin| {
            let options =
                ListenOptions { reuse_port: true, nonblocking: true, begin, ..Default::default() };
            listen(address, &options).unwrap()
        };
        let old = shared(loopback(), Begin::AtOnce);
        let address = old.local_addr().unwrap();
        assert_eq!(ensure_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        let new = shared(address, Begin::Later);
        let _clients: Vec<_> = (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(new.accept().is_err(), "it has not begun");
        assert_eq!(std::iter::from_fn(|| old.accept().ok()).count(), 32, "the old one got all");

        begin(&new, BACKLOG_DEFAULT).unwrap();
        drop(old);
        let _client = TcpStream::connect(address).unwrap();
        new.accept().unwrap();
        drop(new);
        ensure_free(address).unwrap();
    }

    #[test]
    fn connection_options_arrive_at_the_socket() {
        let listener = TcpListener::bind(loopback()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let options = ConnectionOptions {
            nodelay: true,
            keepalive: Some(Duration::from_secs(10)),
            user_timeout: Some(Duration::from_millis(1500)),
        };

        configure(&client, &options).unwrap();

        let socket = SockRef::from(&client);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let listener = listen(loopback(), &ListenOptions::default()).unwrap();
        let options = ConnectionOptions {
            nodelay: true,
            keepalive: Some(Duration::from_secs(10)),
            user_timeout: Some(Duration::from_millis(1500)),
        };
        configure(&listener, &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let (accepted, _) = listener.accept().unwrap();

        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn mark_is_set_or_politely_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();

        match set_mark(&socket, 0x539).unwrap() {
            Marked::Yes => assert_eq!(socket.mark().unwrap(), 0x539),
            Marked::NotPermitted => assert_eq!(socket.mark().unwrap(), 0),
        }
    }
}
