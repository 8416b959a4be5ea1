//! Who a workload is, proved by certificates: the mesh's public key infrastructure and its TLS.
//!
//! Two chains of trust meet here. A *trust anchor* signs an *issuer*, which signs a *leaf* for each
//! workload; a leaf lives for a day and names the workload's service account
//! ([`hauberk_model::workload_id::WorkloadId`]). A *token* proves to the issuer that the asker runs
//! under that account.
//!
//! | Step | Where | Module |
//! |---|---|---|
//! | make a key and a request | proxy | [`credentials`], [`request`], [`key`] |
//! | check token and request, sign | control plane | [`token`], [`request`], [`issuer`] |
//! | accept the certificate, build TLS configurations once | proxy | [`credentials`] |
//! | connect and accept | both | [`client_config`], [`server_config`] |
//! | who is the peer? | both | [`verify`] |
//! | connect again without a second proof | both | [`resumption`] |
//! | when to ask again | proxy | [`renewal`] |
//! | found a mesh | CLI, lab, tests | [`ca`] |
//! | answer callers from outside of the mesh | control plane | [`https`] |
//!
//! Within the mesh TLS is version 1.3 only. A client checks that the server's certificate leads to a trust anchor
//! and, after the handshake, that it bears the expected identity ([`verify::expect_identity`]); the
//! server name in the handshake is used to route and proves nothing. A server asks for a client
//! certificate and accepts its absence; whether that is enough is for policy to say.
//!
//! Pure: no IO, no task, no clock (`now` is an argument; only rustls reads the clock during a
//! handshake, through a source that can be replaced). Keys come from the operating system's
//! randomness, as aws-lc provides it. Not here: revocation (leaves are short-lived instead),
//! SPIFFE workload API, and anything that sends bytes.

pub mod anchors;
pub mod ca;
pub mod certificate;
pub mod client_config;
pub mod credentials;
pub mod https;
pub mod issuer;
pub mod key;
mod moment;
mod provider;
pub mod renewal;
pub mod request;
pub mod resumption;
pub mod server_config;
pub mod token;
pub mod verify;

use std::sync::Arc;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

pub use anchors::TrustAnchors;
pub use credentials::{Certified, Credentials};
pub use issuer::{Issued, Issuer};
pub use key::Key;
pub use provider::provider;
pub use resumption::{Sessions, Tickets};
pub use rustls;

/// The protocol, negotiated by ALPN, in which a transport header precedes the payload.
pub const TRANSPORT_PROTOCOL: &[u8] = b"transport.l5d.io/v1";

/// What is negotiated inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Nothing: the payload follows at once.
    None,
    /// [`TRANSPORT_PROTOCOL`].
    Transport,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Alpn::None => Vec::new(),
            Alpn::Transport => vec![TRANSPORT_PROTOCOL.to_vec()],
        }
    }
}

/// What a process chooses about its TLS; the protocol's parameters are fixed.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Whether servers let clients resume sessions; see [`resumption`].
    pub tickets: Tickets,
    /// The clock that handshakes read to judge the peer's certificate.
    pub time: Arc<dyn TimeProvider>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { tickets: Tickets::Off, time: Arc::new(DefaultTimeProvider) }
    }
}
