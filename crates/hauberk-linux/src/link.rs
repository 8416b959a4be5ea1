//! Interfaces, addresses, routes and neighbours, through the kernel's route netlink.
//!
//! Called by the local runtime to plug a pod into the lab, and by tests. The few messages needed
//! (RTM_NEWLINK for veth pairs, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_DELLINK;
//! `linux/rtnetlink.h`, rtnetlink(7)) are encoded here, because one blocking socket and one system
//! call for a whole [`Batch`] make a pod in about a millisecond, on whichever thread has entered
//! the pod's namespace.
//!
//! Promised: a batch is applied in order, every message is answered, and the first refusal is the
//! error. What came before it stays applied; a namespace that failed is thrown away whole.
//!
//! Deliberately not here: listing, changing, and everything a lab does not need.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// The kernel answers at once; a wait this long means that it never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// Interface number, chosen by the caller so that it need not be asked for. Unique per namespace.
    pub index: u32,
    /// Hardware address.
    pub mac: Mac,
}

/// Where packets for a destination go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// First address of the destination.
    pub destination: IpAddr,
    /// How many leading bits count; 0 is the default route.
    pub prefix: u8,
    /// The router, if the destination is not on the link itself. It need not be in any subnet.
    pub via: Option<IpAddr>,
    /// The interface's number.
    pub interface: u32,
    /// The address to send from, where the kernel's choice is not wanted.
    pub source: Option<IpAddr>,
}

/// Why a batch was refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct LinkError {
    /// The message that was refused, as a verb phrase.
    pub what: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// Messages to the kernel, collected to be sent with one system call.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    purposes: Vec<String>,
}

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h: attribute numbers that
// libc does not name for every target.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const RTNH_F_ONLINK: u32 = 4;
const NLMSG_HEADER: usize = 16;
const IF_INFO: usize = 16;

impl Batch {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a veth pair: `here` in the socket's namespace, `there` in `namespace`. `here` is up.
    pub fn veth(&mut self, here: End<'_>, there: End<'_>, namespace: &impl AsFd) -> &mut Self {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.message(
            format!("make the interface pair {}", here.name),
            libc::RTM_NEWLINK,
            flags,
            |m| {
                m.interface_info(here.index, Flag::Up);
                m.text(libc::IFLA_IFNAME, here.name);
                m.bytes(libc::IFLA_ADDRESS, &here.mac.0);
                m.nested(libc::IFLA_LINKINFO, |m| {
                    m.text(IFLA_INFO_KIND, "veth");
                    m.nested(IFLA_INFO_DATA, |m| {
                        m.nested(VETH_INFO_PEER, |m| {
                            m.interface_info(there.index, Flag::Down);
                            m.text(libc::IFLA_IFNAME, there.name);
                            m.bytes(libc::IFLA_ADDRESS, &there.mac.0);
                            let namespace = namespace.as_fd().as_raw_fd();
                            m.bytes(libc::IFLA_NET_NS_FD, &namespace.to_ne_bytes());
                        });
                    });
                });
            },
        )
    }

    /// Sets an interface up. The loopback interface has number 1 in every namespace.
    pub fn up(&mut self, index: u32) -> &mut Self {
        self.message(format!("set interface {index} up"), libc::RTM_NEWLINK, 0, |m| {
            m.interface_info(index, Flag::Up);
        })
    }

    /// Removes an interface, and with it the other end of a pair.
    pub fn delete(&mut self, index: u32) -> &mut Self {
        self.message(format!("remove interface {index}"), libc::RTM_DELLINK, 0, |m| {
            m.interface_info(index, Flag::Down);
        })
    }

    /// Gives an interface an address, usable at once: IPv6 does not look for duplicates first.
    pub fn address(&mut self, index: u32, address: IpAddr, prefix: u8) -> &mut Self {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        let purpose = format!("add the address {address}/{prefix}");
        self.message(purpose, libc::RTM_NEWADDR, flags, |m| {
            let no_dad = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
            m.raw(&[family(address), prefix, no_dad, libc::RT_SCOPE_UNIVERSE]);
            m.raw(&index.to_ne_bytes());
            m.bytes(libc::IFA_LOCAL, &octets(address));
            m.bytes(libc::IFA_ADDRESS, &octets(address));
        })
    }

    /// Adds a route.
    pub fn route(&mut self, route: Route) -> &mut Self {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        let purpose = format!("add the route to {}/{}", route.destination, route.prefix);
        self.message(purpose, libc::RTM_NEWROUTE, flags, |m| {
            let scope =
                if route.via.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
            m.raw(&[family(route.destination), route.prefix, 0, 0]);
            m.raw(&[libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST]);
            // The router is on the link although no subnet says so.
            m.raw(&if route.via.is_some() { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
            if route.prefix > 0 {
                m.bytes(libc::RTA_DST, &octets(route.destination));
            }
            if let Some(via) = route.via {
                m.bytes(libc::RTA_GATEWAY, &octets(via));
            }
            if let Some(source) = route.source {
                m.bytes(libc::RTA_PREFSRC, &octets(source));
            }
            m.bytes(libc::RTA_OIF, &route.interface.to_ne_bytes());
        })
    }

    /// Says for good which hardware address a neighbour has, so that it is never asked for.
    pub fn neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> &mut Self {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.message(format!("add the neighbour {address}"), libc::RTM_NEWNEIGH, flags, |m| {
            m.raw(&[family(address), 0, 0, 0]);
            m.raw(&index.to_ne_bytes());
            m.raw(&libc::NUD_PERMANENT.to_ne_bytes());
            m.raw(&[0, 0]);
            m.bytes(libc::NDA_DST, &octets(address));
            m.bytes(libc::NDA_LLADDR, &mac.0);
        })
    }

    /// Sends everything to the network namespace of the calling thread.
    ///
    /// # Errors
    /// The first message that the kernel refused.
    pub fn apply(self) -> Result<(), LinkError> {
        let all = || format!("send {} network settings", self.purposes.len());
        let transport = |source| LinkError { what: all(), source };
        let mut socket = open().map_err(transport)?;
        socket.write_all(&self.bytes).map_err(transport)?;
        let mut answered = 0;
        let mut buffer = vec![0_u8; 32 * 1024];
        while answered < self.purposes.len() {
            let length = socket.read(&mut buffer).map_err(transport)?;
            for (sequence, errno) in acknowledgements(&buffer[..length]) {
                answered += 1;
                if errno != 0 {
                    let what = self.purposes.get(sequence as usize).cloned();
                    let source = io::Error::from_raw_os_error(-errno);
                    return Err(LinkError { what: what.unwrap_or_else(all), source });
                }
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        purpose: String,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut Message<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        let sequence = self.purposes.len() as u32;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16 | flags;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        write(&mut Message { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.purposes.push(purpose);
        self
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// The sequence number and error number of each acknowledgement in a datagram.
fn acknowledgements(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) =
        (u32_at(bytes, 0), bytes.get(4..6), u32_at(bytes, 8))
    {
        let length = (length as usize).max(NLMSG_HEADER);
        if u16::from_ne_bytes([kind[0], kind[1]]) == libc::NLMSG_ERROR as u16
            && let Some(errno) = u32_at(bytes, NLMSG_HEADER)
        {
            found.push((sequence, errno as i32));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[derive(Clone, Copy)]
enum Flag {
    Up,
    Down,
}

/// Appends the body of one message. Everything is aligned to four bytes (`NLA_ALIGNTO`).
struct Message<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Message<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// `struct ifinfomsg`.
    fn interface_info(&mut self, index: u32, flag: Flag) {
        let mut info = [0_u8; IF_INFO];
        info[4..8].copy_from_slice(&index.to_ne_bytes());
        if matches!(flag, Flag::Up) {
            info[8..12].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
            info[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        }
        self.raw(&info);
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |m| m.raw(value));
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |m| {
            m.raw(value.as_bytes());
            m.raw(&[0]);
        });
    }

    fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Message<'_>)) {
        self.attribute(kind | libc::NLA_F_NESTED as u16, write);
    }

    fn attribute(&mut self, kind: u16, write: impl FnOnce(&mut Message<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        write(&mut Message { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::namespace::{Kind, Namespace, inside};
    use crate::process::{Running, hold};

    struct Holder(Running);

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.signal(rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }

    fn network() -> Option<(Holder, Namespace)> {
        match hold(&[Kind::Network]) {
            Ok(running) => {
                let namespace = Namespace::of_process(running.pid(), Kind::Network).unwrap();
                Some((Holder(running), namespace))
            }
            Err(error) => {
                assert!(
                    std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_none(),
                    "no network namespace: {error}"
                );
                eprintln!("SKIPPED: no network namespace: {error}");
                None
            }
        }
    }

    #[test]
    fn two_namespaces_joined_by_a_pair_talk_in_both_families_at_once() {
        let Some((_first, router)) = network() else { return };
        let Some((_second, pod)) = network() else { return };
        let (router_mac, pod_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let gateways = [address("10.1.0.1"), address("fd01::1")];
        let addresses = [address("10.1.0.2"), address("fd01::2")];

        inside(&[&router], || {
            let mut batch = Batch::new();
            let here = End { name: "pod1", index: 101, mac: router_mac };
            let there = End { name: "eth0", index: 2, mac: pod_mac };
            batch.up(1).veth(here, there, &pod);
            for (gateway, address) in gateways.into_iter().zip(addresses) {
                let full = if address.is_ipv4() { 32 } else { 128 };
                batch.address(1, gateway, full).neighbour(101, address, pod_mac);
                let source = Some(gateway);
                let route =
                    Route { destination: address, prefix: full, via: None, interface: 101, source };
                batch.route(route);
            }
            batch.apply().unwrap();
        })
        .unwrap();
        let listeners = inside(&[&pod], || {
            let mut batch = Batch::new();
            batch.up(1).up(2);
            for (gateway, address) in gateways.into_iter().zip(addresses) {
                let (full, any) = if address.is_ipv4() {
                    (32, IpAddr::from([0; 4]))
                } else {
                    (128, IpAddr::from([0; 16]))
                };
                batch.address(2, address, full).neighbour(2, gateway, router_mac).route(Route {
                    destination: any,
                    prefix: 0,
                    via: Some(gateway),
                    interface: 2,
                    source: None,
                });
            }
            batch.apply().unwrap();
            addresses.map(|address| TcpListener::bind((address, 80)).unwrap())
        })
        .unwrap();
        inside(&[&router], || {
            for (gateway, listener) in gateways.into_iter().zip(&listeners) {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                assert_eq!(stream.local_addr().unwrap().ip(), gateway);
            }
            let mut batch = Batch::new();
            batch.delete(101);
            batch.apply().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn names_the_message_that_was_refused() {
        let Some((_holder, namespace)) = network() else { return };
        let error = inside(&[&namespace], || {
            let mut batch = Batch::new();
            batch.up(1).up(77).up(1);
            batch.apply().unwrap_err()
        })
        .unwrap();
        assert_eq!(error.what, "set interface 77 up");
    }
}
