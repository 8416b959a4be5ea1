//! How a server of the mesh speaks TLS.
//!
//! Asks every client for a certificate and accepts its absence. Keeps no sessions; sends a session
//! ticket if there is something to seal it with ([`resumption`](crate::resumption)).

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;

use crate::anchors::TrustAnchors;
use crate::provider::provider;
use crate::{Alpn, TlsSettings};

/// The configuration of a server with this certificate.
pub(crate) fn with_certificate(
    anchors: &TrustAnchors,
    certified: Arc<CertifiedKey>,
    alpn: Alpn,
    settings: &TlsSettings,
    tickets: Option<&Arc<dyn ProducesTickets>>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(&settings.time))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites and groups of TLS 1.3")
        .with_client_cert_verifier(anchors.client_verifier())
        .with_cert_resolver(Arc::new(Own(certified)));
    config.alpn_protocols = alpn.protocols();
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = Arc::clone(tickets);
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// Our certificate, whatever name the client asked for: whether a connection is for us was decided
/// by that name before TLS began.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.0.key.choose_scheme(hello.signature_schemes());
        chosen.map(|_| Arc::clone(&self.0))
    }
}
