//! The certificates in which all trust begins.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error as TlsError};
use rustls_pki_types::CertificateDer;

use crate::certificate;
use crate::moment::unix_time;
use crate::provider::provider;
use crate::verify::AnchoredServer;

/// One or more trust anchors. Cloning copies `Arc`s.
///
/// More than one are there while an old anchor is being replaced: first both are distributed, then
/// issuers move to the new one, then the old one is taken away. The validity of an anchor itself
/// is not checked, as usual in WebPKI and in linkerd2-proxy: what is in the bundle is trusted.
#[derive(Clone, Debug)]
pub struct TrustAnchors {
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<AnchoredServer>,
}

/// Why a bundle cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorsError {
    /// Not PEM.
    #[error("the trust anchors are not well-formed PEM: {0}")]
    Pem(String),
    /// No certificate in it.
    #[error("there is no certificate among the trust anchors")]
    Empty,
    /// One of the certificates cannot be an anchor.
    #[error("trust anchor number {number} cannot be used: {reason}")]
    Certificate {
        /// Position in the bundle, counted from 1.
        number: usize,
        /// Why.
        reason: String,
    },
}

/// Why a chain of certificates does not lead to an anchor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// A certificate of the chain is no longer valid.
    #[error("the certificate has expired")]
    Expired,
    /// A certificate of the chain is not valid yet; usually clocks differ.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// No path leads to a trust anchor.
    #[error("the certificate does not lead to a trust anchor")]
    UnknownIssuer,
    /// Anything else that is wrong with it.
    #[error("the certificate is not acceptable: {0}")]
    Other(TlsError),
}

impl From<TlsError> for ChainError {
    fn from(error: TlsError) -> Self {
        let TlsError::InvalidCertificate(reason) = &error else {
            return ChainError::Other(error);
        };
        match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ChainError::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ChainError::NotYetValid
            }
            // A signature that does not match comes from an issuer of the same name but another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ChainError::UnknownIssuer
            }
            _ => ChainError::Other(error),
        }
    }
}

impl TrustAnchors {
    /// Reads a bundle, the content of `LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS` or `ca-bundle.crt`.
    ///
    /// # Errors
    /// When it is malformed, empty, or contains what cannot be an anchor.
    pub fn from_pem(text: &str) -> Result<Self, AnchorsError> {
        let certificates =
            certificate::from_pem(text).map_err(|error| AnchorsError::Pem(error.to_string()))?;
        Self::from_der(certificates)
    }

    /// Takes certificates in DER.
    ///
    /// # Errors
    /// When there are none, or one cannot be an anchor.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, AnchorsError> {
        if certificates.is_empty() {
            return Err(AnchorsError::Empty);
        }
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| AnchorsError::Certificate {
                number: index + 1,
                reason: error.to_string(),
            })?;
        }
        let roots = Arc::new(roots);
        // Without hints a client presents whatever it has, and the request is shorter.
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()
            .expect("there is at least one root and there are no revocation lists");
        let servers = Arc::new(AnchoredServer::new(Arc::clone(&roots)));
        Ok(Self { certificates: certificates.into(), roots, clients, servers })
    }

    /// The certificates, in the order of the bundle.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The bundle as PEM.
    pub fn to_pem(&self) -> String {
        certificate::to_pem(self.certificates.iter())
    }

    /// Checks that a chain leads to an anchor and is valid at the moment. Costs a signature
    /// verification per certificate, about 40 µs each.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), ChainError> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            unix_time(now),
            algorithms,
        )?;
        Ok(())
    }

    pub(crate) fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.clients)
    }

    pub(crate) fn server_verifier(&self) -> Arc<dyn ServerCertVerifier> {
        Arc::<AnchoredServer>::clone(&self.servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_bundles_that_cannot_be_used() {
        assert_eq!(TrustAnchors::from_pem("").expect_err("empty"), AnchorsError::Empty);
        let garbage = certificate::pem("CERTIFICATE", b"garbage");
        let error = TrustAnchors::from_pem(&garbage).expect_err("no certificate");
        assert!(matches!(error, AnchorsError::Certificate { number: 1, .. }), "{error}");
        let error = TrustAnchors::from_pem("-----BEGIN CERTIFICATE-----\n").expect_err("cut off");
        assert!(matches!(error, AnchorsError::Pem(_)), "{error}");
    }
}
