//! Where a captured connection was going before the kernel redirected it.
//!
//! The proxy calls [`original_dst`] once for each accepted connection, before anything else.
//! Netfilter's `REDIRECT` rewrites the destination address of a connection, keeps the old one in the
//! connection's conntrack entry and gives it out through the socket option `SO_ORIGINAL_DST`
//! (`linux/netfilter_ipv4.h`, and `IP6T_SO_ORIGINAL_DST` for IPv6). Three answers exist:
//!
//! - translated: the address the client wanted;
//! - tracked, but not translated: the socket's own address comes back. Somebody dialled the listener
//!   directly; a proxy that forwarded this would dial itself for ever ([`OriginalDst::is_redirected`]);
//! - not tracked (`ENOENT`), or no netfilter at all (`ENOPROTOOPT`): the socket's own address is the
//!   truth. Under TPROXY it is the original destination itself.
//!
//! On a dual-stack `[::]` listener a client that came by IPv4 has the address `::ffff:a.b.c.d`; its
//! conntrack entry is an IPv4 one, so the IPv4 option must be asked. All addresses given out here are
//! canonical: an IPv4 client is always a [`SocketAddr::V4`].
//!
//! Deliberately not here: what a proxy does with the answer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{SockAddr, SockRef};

/// Both ends of the redirect of one accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDst {
    /// The address the client asked for.
    pub address: SocketAddr,
    /// The address of the accepted socket, after a redirect that of the listener.
    pub local: SocketAddr,
}

impl OriginalDst {
    /// Whether the kernel changed the destination on the way here.
    ///
    /// False on a plain listener, under TPROXY (the packet keeps its destination), and when a client
    /// dialled the proxy's own port. The last case is the loop to refuse: `address.port()` is then the
    /// port of the listener itself.
    pub fn is_redirected(&self) -> bool {
        self.address != self.local
    }
}

/// Asks the kernel where the accepted connection `socket` was going.
///
/// Costs two system calls. Any socket that was dialled or accepted over TCP may be given, also tokio's.
///
/// # Errors
/// Only what the system calls themselves report, for example `ENOTCONN` for a socket without a peer;
/// a missing conntrack entry is no error.
pub fn original_dst(socket: &impl AsFd) -> io::Result<OriginalDst> {
    let socket = SockRef::from(socket);
    let local = inet(&socket.local_addr()?)?;
    let asked = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let address = match asked {
        Ok(address) => inet(&address)?,
        Err(error) if is_untracked(&error) => local,
        Err(error) => return Err(error),
    };
    Ok(OriginalDst { address, local })
}

/// The address with an IPv4-mapped IPv6 address turned into the IPv4 address that it stands for.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// What [`original_dst`] gives as address, for a connection of which is known who the client is.
///
/// The client's family is that of the connection, so the socket's own address need not be asked for: costs one system
/// call for a connection that was redirected, two for others.
///
/// # Errors
/// As [`original_dst`].
pub fn original_dst_for(socket: &impl AsFd, client: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let is_ipv4 = canonical(client).is_ipv4();
    let asked = if is_ipv4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match asked {
        Ok(address) => inet(&address),
        Err(error) if is_untracked(&error) => inet(&socket.local_addr()?),
        Err(error) => Err(error),
    }
}

fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().map(canonical).ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "the socket is not an internet socket")
    })
}

/// `ENOENT`: conntrack does not know the connection. `ENOPROTOOPT`: the kernel has no netfilter for
/// this family. `EOPNOTSUPP`: gVisor's answer for the same.
fn is_untracked(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;
    use crate::socket::{ListenOptions, listen};

    fn accepted(listener: &TcpListener, dial: SocketAddr) -> (TcpStream, OriginalDst) {
        let client = TcpStream::connect(dial).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let answer = original_dst(&server).unwrap();
        assert_eq!(original_dst_for(&server, peer).unwrap(), answer.address);
        (client, answer)
    }

    #[test]
    fn plain_ipv4_connection_keeps_its_own_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();

        let (_client, answer) = accepted(&listener, address);

        assert_eq!(answer, OriginalDst { address, local: address });
        assert!(!answer.is_redirected());
    }

    #[test]
    fn ipv4_client_of_a_dual_stack_listener_is_seen_as_ipv4() {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let Ok(listener) = listen(any, &ListenOptions::default()) else {
            println!("SKIPPED: this machine has no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let dial = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

        let (_client, answer) = accepted(&listener, dial);

        assert_eq!(answer.address, dial);
    }

    #[test]
    fn canonical_leaves_real_ipv6_alone() {
        let v6: SocketAddr = "[fd77:1::2]:8080".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.77.1.2]:8080".parse().unwrap();

        assert_eq!(canonical(v6), v6);
        assert_eq!(canonical(mapped), "10.77.1.2:8080".parse().unwrap());
    }

    #[test]
    fn a_socket_that_is_not_internet_is_an_error() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();

        assert_eq!(original_dst(&one).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
