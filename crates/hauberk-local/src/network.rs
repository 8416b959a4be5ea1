//! How pods hang together: one veth pair each, routed by the lab's own network namespace.
//!
//! The lab's namespace is the router. It has the gateway's addresses on its loopback interface; each
//! pod has its addresses as single hosts (/32 and /128) and a default route to the gateway, and each
//! packet between pods passes the router. A bridge would save a hop, but the answers of a service's
//! pod would then go past the router, and the translation of service addresses
//! ([`crate::virtual_ip`]) would need the sender's address to be hidden, which policies look at.
//! Neighbours are written down on both sides, so no pod ever waits for an address to be resolved.
//!
//! Called by the runtime at its start and by each pod's supervisor, on threads that may block.

use std::fs;
use std::io;
use std::net::IpAddr;

use hauberk_linux::link::{Batch, End, LinkError, Mac, Route};
use hauberk_linux::namespace::{Namespace, inside};

use crate::address::{GATEWAY, Pair};

/// Interface numbers: the loopback's is the kernel's, the pod's is ours.
const LOOPBACK: u32 = 1;
const POD_INTERFACE: u32 = 2;
/// Interfaces of the router are numbered from here.
const ROUTER_FIRST: u32 = 100;

/// A pod's place in the lab's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plug {
    /// Number that no other pod has, now.
    pub number: u32,
    /// The pod's addresses.
    pub addresses: Pair,
}

impl Plug {
    /// Name of the interface in the lab's namespace.
    pub fn interface_name(self) -> String {
        format!("pod{}", self.number)
    }

    fn router_index(self) -> u32 {
        ROUTER_FIRST + self.number
    }

    /// Locally administered addresses that contain the number.
    fn macs(self) -> (Mac, Mac) {
        let [_, a, b, c] = self.number.to_be_bytes();
        (Mac([0x02, 0x68, 1, a, b, c]), Mac([0x02, 0x68, 2, a, b, c]))
    }
}

/// Makes the calling process's network namespace the router.
///
/// # Errors
/// When the kernel refuses, for example because IPv6 is switched off.
pub fn become_router() -> anyhow::Result<()> {
    let mut batch = Batch::new();
    batch.up(LOOPBACK);
    for address in GATEWAY.both() {
        batch.address(LOOPBACK, address, full(address));
    }
    batch.apply()?;
    for (setting, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/{setting}");
        fs::write(&path, value)
            .map_err(|error| anyhow::anyhow!("cannot write {value} to {path}: {error}"))?;
    }
    Ok(())
}

/// Connects a pod's namespace with the router, the calling process's namespace.
///
/// # Errors
/// When the kernel refuses; then the interface may be left, and goes with the pod's namespace.
pub fn plug(pod: &Namespace, uts: &Namespace, hostname: &str, plug: Plug) -> Result<(), LinkError> {
    let (router_mac, pod_mac) = plug.macs();
    let name = plug.interface_name();
    let here = End { name: &name, index: plug.router_index(), mac: router_mac };
    let there = End { name: "eth0", index: POD_INTERFACE, mac: pod_mac };
    let mut router = Batch::new();
    router.veth(here, there, pod);
    let mut own = Batch::new();
    own.up(LOOPBACK).up(POD_INTERFACE);
    for (gateway, address) in GATEWAY.both().into_iter().zip(plug.addresses.both()) {
        let unspecified: IpAddr =
            if address.is_ipv4() { [0_u8; 4].into() } else { [0_u8; 16].into() };
        router.neighbour(here.index, address, pod_mac).route(Route {
            destination: address,
            prefix: full(address),
            via: None,
            interface: here.index,
            source: Some(gateway),
        });
        own.address(POD_INTERFACE, address, full(address))
            .neighbour(POD_INTERFACE, gateway, router_mac)
            .route(Route {
                destination: unspecified,
                prefix: 0,
                via: Some(gateway),
                interface: POD_INTERFACE,
                source: None,
            });
    }
    router.apply()?;
    let name_or_io = |source: io::Error| LinkError { what: format!("set up {hostname}"), source };
    inside(&[pod, uts], || {
        // Containers bind low ports without privilege, as container runtimes let them.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        // Handshakes with a sidecar that is being replaced go on with its successor, for both
        // families; before Linux 5.14 those of that very moment are reset.
        let _ = fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1");
        nix::unistd::sethostname(hostname).map_err(|error| name_or_io(error.into()))?;
        own.apply()
    })
    .map_err(name_or_io)?
}

/// Takes a pod's interface away, at once; the kernel would take its time.
pub fn unplug(plug: Plug) {
    let mut batch = Batch::new();
    batch.delete(plug.router_index());
    if let Err(error) = batch.apply() {
        tracing::debug!(%error, "interface was gone before");
    }
}

fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
