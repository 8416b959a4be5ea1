//! How a client of the mesh speaks TLS.
//!
//! A configuration is built once per certificate and ALPN set and shared by all connections;
//! building one costs some allocations, using one an `Arc`.

use std::sync::Arc;

use rustls::client::{ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, SignatureScheme};

use crate::anchors::TrustAnchors;
use crate::provider::provider;
use crate::{Alpn, Sessions, TlsSettings};

/// The configuration of a client that shows no certificate, such as a proxy that asks for its
/// first one.
pub fn without_certificate(
    anchors: &TrustAnchors,
    alpn: Alpn,
    settings: &TlsSettings,
) -> Arc<ClientConfig> {
    build(anchors, None, alpn, settings)
}

/// The configuration of a client that shows a certificate if the server asks for one and
/// understands its signature.
pub(crate) fn with_certificate(
    anchors: &TrustAnchors,
    certified: Arc<CertifiedKey>,
    alpn: Alpn,
    settings: &TlsSettings,
) -> Arc<ClientConfig> {
    build(anchors, Some(certified), alpn, settings)
}

fn build(
    anchors: &TrustAnchors,
    certified: Option<Arc<CertifiedKey>>,
    alpn: Alpn,
    settings: &TlsSettings,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::clone(&settings.time))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites and groups of TLS 1.3")
        // "Dangerous" because it is not the verifier of the web; see `verify` for what it checks.
        .dangerous()
        .with_custom_certificate_verifier(anchors.server_verifier())
        .with_client_cert_resolver(Arc::new(Own(certified)));
    config.alpn_protocols = alpn.protocols();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The same, resuming sessions that are kept in `sessions`. Costs a few allocations.
pub(crate) fn resuming(config: &ClientConfig, sessions: &Arc<Sessions>) -> Arc<ClientConfig> {
    let sessions: Arc<dyn ClientSessionStore> = Arc::clone(sessions) as _;
    let mut config = config.clone();
    config.resumption = Resumption::store(sessions);
    Arc::new(config)
}

/// Our certificate, if we have one.
#[derive(Debug)]
struct Own(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().filter(|own| own.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
