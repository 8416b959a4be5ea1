//! Ending mesh TLS that a peer opened to us.

use crate::{
    detect::Sniffed,
    io::Io,
    tls::{
        Handshake,
        client_hello::{self, Hello},
    },
};
use hauberk_identity::{Alpn, Certified, verify::client_identity};
use hauberk_model::WorkloadId;
use std::{io, sync::Arc};
use tokio_rustls::TlsAcceptor;

/// What a client's first bytes say about TLS, for a server of a given name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Mesh TLS for us.
    Ours,
    /// TLS for somebody else.
    Foreign(String),
    /// No TLS, or TLS without a server name.
    None,
}

/// Reads until it is clear whether the client wants mesh TLS with `server_name`. The bytes stay in `sniffed`.
/// Cancel-safe. The caller limits the time.
pub async fn offer(io: &mut Io, sniffed: &mut Sniffed, server_name: &str) -> io::Result<Offer> {
    loop {
        match client_hello::parse(sniffed.bytes()) {
            Hello::Partial if sniffed.is_ended() => return Ok(Offer::None),
            Hello::Partial => sniffed.more(io).await?,
            Hello::NotTls | Hello::Tls { sni: None } => return Ok(Offer::None),
            Hello::Tls { sni: Some(sni) } if sni == server_name => return Ok(Offer::Ours),
            Hello::Tls { sni: Some(sni) } => return Ok(Offer::Foreign(sni)),
        }
    }
}

/// A connection whose TLS ends here.
#[derive(Debug)]
pub struct Accepted {
    /// The plaintext.
    pub io: Io,
    /// Whom the client proved to be, if it showed a certificate.
    pub client_id: Option<WorkloadId>,
    /// Whether the transport header was agreed on.
    pub is_transport_header_agreed: bool,
    /// How it was agreed on.
    pub handshake: Handshake,
}

/// Does the server's part of the handshake and, if a session was resumed, checks that it may be. The caller limits
/// the time.
pub async fn accept(io: Io, certified: &Certified, alpn: Alpn) -> io::Result<Accepted> {
    let socket = io.into_prefixed().ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "mesh TLS inside mesh TLS is not spoken")
    })?;
    let config = Arc::clone(certified.server(alpn));
    let tls = TlsAcceptor::from(config).accept(socket).await?;
    let session = tls.get_ref().1;
    let handshake = Handshake::of(certified, session)?;
    let client_id = client_identity(session.peer_certificates());
    let is_transport_header_agreed = session.alpn_protocol() == Some(crate::transport_header::ALPN);
    Ok(Accepted { io: Io::accepted(tls), client_id, is_transport_header_agreed, handshake })
}
