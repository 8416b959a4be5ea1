//! Who may talk: the one function that decides, for the proxy and for everyone who explains.
//!
//! The first authorization that fits decides (linkerd2-proxy v2: order matters only for the labels
//! of metrics, since all authorizations permit).

use crate::{
    WorkloadId,
    inbound::{Authentication, Authorization},
};
use std::net::IpAddr;

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer<'p> {
    /// Its address.
    pub address: IpAddr,
    /// What it has proven.
    pub tls: PeerTls<'p>,
}

/// What a client has proven by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTls<'p> {
    /// It speaks no mesh TLS.
    None,
    /// It speaks mesh TLS but showed no certificate.
    Anonymous,
    /// It proved this identity.
    Identity(&'p WorkloadId),
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Permitted by this authorization.
    Allow(&'a Authorization),
    /// Nothing permits it.
    Deny,
}

/// Whether `peer` is permitted by one of `authorizations`, and by which.
pub fn authorize<'a>(
    authorizations: impl IntoIterator<Item = &'a Authorization>,
    peer: &Peer<'_>,
) -> Decision<'a> {
    let permits = |authorization: &&Authorization| {
        authorization.networks.iter().any(|network| network.contains(peer.address))
            && authenticates(&authorization.authentication, peer.tls)
    };
    match authorizations.into_iter().find(permits) {
        Some(authorization) => Decision::Allow(authorization),
        None => Decision::Deny,
    }
}

fn authenticates(wanted: &Authentication, proven: PeerTls<'_>) -> bool {
    match (wanted, proven) {
        (Authentication::Unauthenticated, _) => true,
        (Authentication::TlsUnauthenticated, PeerTls::None) => false,
        (Authentication::TlsUnauthenticated, PeerTls::Anonymous | PeerTls::Identity(_)) => true,
        (Authentication::TlsAuthenticated(_), PeerTls::None | PeerTls::Anonymous) => false,
        (Authentication::TlsAuthenticated(wanted), PeerTls::Identity(id)) => {
            wanted.iter().any(|m| m.matches(id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Meta, Network, workload_id::IdentityMatch};

    fn authorization(net: &str, authentication: Authentication) -> Authorization {
        let networks = vec![Network::new(net.parse().expect("net"))];
        Authorization { meta: Meta::default("test"), networks, authentication }
    }

    fn check(authorization: &Authorization, address: &str, tls: PeerTls<'_>, expect: bool) {
        let peer = Peer { address: address.parse().expect("ip"), tls };
        let allowed = matches!(authorize([authorization], &peer), Decision::Allow(_));
        assert_eq!(allowed, expect, "{authorization:?} {peer:?}");
    }

    #[test]
    fn network_and_authentication_must_both_fit() {
        let web: WorkloadId = "web.ns.example".parse().expect("id");
        let open = authorization("10.0.0.0/8", Authentication::Unauthenticated);
        check(&open, "10.1.1.1", PeerTls::None, true);
        check(&open, "11.1.1.1", PeerTls::Identity(&web), false);
        let any = authorization("0.0.0.0/0", Authentication::any_identity());
        check(&any, "10.1.1.1", PeerTls::Identity(&web), true);
        check(&any, "10.1.1.1", PeerTls::Anonymous, false);
        check(&any, "10.1.1.1", PeerTls::None, false);
        check(&any, "2001:db8::1", PeerTls::Identity(&web), false);
        let tls = authorization("0.0.0.0/0", Authentication::TlsUnauthenticated);
        check(&tls, "10.1.1.1", PeerTls::Anonymous, true);
        check(&tls, "10.1.1.1", PeerTls::None, false);
        let only = IdentityMatch::parse("*.ns.example").expect("match");
        let only = authorization("0.0.0.0/0", Authentication::TlsAuthenticated(vec![only]));
        check(&only, "10.1.1.1", PeerTls::Identity(&web), true);
        let other: WorkloadId = "web.other.example".parse().expect("id");
        check(&only, "10.1.1.1", PeerTls::Identity(&other), false);
    }

    #[test]
    fn nothing_permits_nobody() {
        let peer = Peer { address: [10, 0, 0, 1].into(), tls: PeerTls::None };
        assert_eq!(authorize([], &peer), Decision::Deny);
    }
}
