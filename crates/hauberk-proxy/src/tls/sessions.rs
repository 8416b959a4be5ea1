//! TLS sessions by the peer they were made with, for the opaque connections of one worker.
//!
//! Only opaque connections resume: HTTP keeps a connection to each peer and has nothing to gain. Tickets of one peer
//! mean nothing to another one behind the same name, so they are kept by address and expected identity.

use hauberk_identity::Sessions;
use hauberk_model::WorkloadId;
use std::{cell::RefCell, collections::HashMap, net::SocketAddr, sync::Arc};

/// Peers whose sessions a worker keeps; with full lists of tickets that is 3 MiB. Beyond it, all are forgotten and a
/// new beginning is made: whoever speaks with so many peers reconnects to few of them within a ticket's life.
const PEERS_MAX: usize = 64;

/// The sessions of one worker.
#[derive(Debug, Default)]
pub struct ByPeer {
    known: RefCell<HashMap<(SocketAddr, WorkloadId), Arc<Sessions>>>,
}

impl ByPeer {
    /// The sessions with the peer at `address` that must be `identity`.
    pub fn get(&self, address: SocketAddr, identity: &WorkloadId) -> Arc<Sessions> {
        let mut known = self.known.borrow_mut();
        let key = (address, identity.clone());
        if known.len() >= PEERS_MAX && !known.contains_key(&key) {
            known.clear();
        }
        Arc::clone(known.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_apart_and_bounded() {
        let by_peer = ByPeer::default();
        let id = |name: &str| WorkloadId::service_account(name, "ns", "linkerd", "cluster.local");
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let first = by_peer.get(address(1), &id("a"));
        assert!(Arc::ptr_eq(&first, &by_peer.get(address(1), &id("a"))));
        assert!(!Arc::ptr_eq(&first, &by_peer.get(address(1), &id("b"))));
        assert!(!Arc::ptr_eq(&first, &by_peer.get(address(2), &id("a"))));
        for port in 0..1000 {
            by_peer.get(address(port), &id("a"));
            assert!(by_peer.known.borrow().len() <= PEERS_MAX);
        }
    }
}
