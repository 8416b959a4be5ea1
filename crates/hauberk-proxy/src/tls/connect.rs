//! Opening mesh TLS to a peer that must prove to be who we expect.

use crate::io::{Io, Prefixed, Raw};
use crate::tls::Handshake;
use hauberk_identity::{Certified, verify::expect_identity};
use hauberk_model::endpoints::EndpointTls;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection on which the server proved to be who we expect.
#[derive(Debug)]
pub struct Connected {
    /// The plaintext.
    pub io: Io,
    /// Whether the transport header was agreed on.
    pub is_transport_header_agreed: bool,
    /// How it was agreed on.
    pub handshake: Handshake,
}

/// Does the client's part of the handshake and checks the server's identity; `config` is one of `certified`. The caller
/// limits the time.
pub async fn connect(
    socket: TcpStream,
    certified: &Certified,
    config: Arc<ClientConfig>,
    peer: &EndpointTls,
) -> io::Result<Connected> {
    let name = ServerName::try_from(peer.server_name.to_string()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "the endpoint's server name is not a DNS name")
    })?;
    let tls = TlsConnector::from(config).connect(name, Prefixed::bare(Raw::Tcp(socket))).await?;
    let session = tls.get_ref().1;
    let handshake = Handshake::of(certified, session)?;
    expect_identity(session.peer_certificates(), &peer.identity)
        .map_err(|wrong| io::Error::new(io::ErrorKind::PermissionDenied, wrong))?;
    let is_transport_header_agreed = session.alpn_protocol() == Some(crate::transport_header::ALPN);
    Ok(Connected { io: Io::connected(tls), is_transport_header_agreed, handshake })
}
