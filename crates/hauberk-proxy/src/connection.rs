//! What is known of a connection: [`Facts`], filled in as we learn, passed by reference.

use hauberk_model::{
    WorkloadId,
    authorize::{Peer, PeerTls},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::time::Instant;

/// Which way a connection goes, seen from the application beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
}

impl Direction {
    /// Value of the metric label `direction`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is known of one accepted connection. All addresses are canonical: never an IPv4-mapped IPv6 address.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which way it goes.
    pub direction: Direction,
    /// Who connected to us.
    pub client: SocketAddr,
    /// Where the client wanted to go before the kernel turned the connection to us. On a direct connection (transport
    /// header) the port is the header's, so it always names the application's port.
    pub original_dst: SocketAddr,
    /// What TLS told us.
    pub tls: Tls,
    /// When it was accepted.
    pub accepted_at: Instant,
}

/// What TLS told us about the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// No TLS that concerns us, and why.
    None(NoTls),
    /// TLS of the application's own; bytes are passed on untouched.
    Passthrough {
        /// The server name the client asked for.
        sni: Arc<str>,
    },
    /// Mesh TLS, ended here.
    Established {
        /// Whom the client proved to be, if it showed a certificate.
        client_id: Option<WorkloadId>,
    },
}

/// Why there is no TLS. The text is the value of the metric label `no_tls_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTls {
    /// The other end is the application beside us.
    Loopback,
    /// The port is opaque; nobody looked.
    PortSkipped,
    /// The client spoke no mesh TLS.
    NotFromRemote,
    /// The control plane named no identity for the endpoint.
    NotProvidedByServiceDiscovery,
}

impl NoTls {
    /// Value of the metric label `no_tls_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::PortSkipped => "port_skipped",
            Self::NotFromRemote => "no_tls_from_remote",
            Self::NotProvidedByServiceDiscovery => "not_provided_by_service_discovery",
        }
    }
}

impl Facts {
    /// The client as authorization sees it.
    pub fn peer(&self) -> Peer<'_> {
        let tls = match &self.tls {
            Tls::None(_) | Tls::Passthrough { .. } => PeerTls::None,
            Tls::Established { client_id: None } => PeerTls::Anonymous,
            Tls::Established { client_id: Some(id) } => PeerTls::Identity(id),
        };
        Peer { address: self.client.ip(), tls }
    }

    /// The identity the client proved, if any.
    pub fn client_id(&self) -> Option<&WorkloadId> {
        match &self.tls {
            Tls::Established { client_id } => client_id.as_ref(),
            Tls::None(_) | Tls::Passthrough { .. } => None,
        }
    }
}
