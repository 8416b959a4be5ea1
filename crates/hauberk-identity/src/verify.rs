//! Who is at the other end.
//!
//! During the handshake a client checks only that the server's certificate leads to a trust
//! anchor and that the server holds the key; the name it dialled (SNI) may differ from the
//! identity it expects, for example when that is a SPIFFE URI. The identity is compared right
//! after the handshake by [`expect_identity`], before a byte of payload is sent.

use std::sync::Arc;

use hauberk_model::workload_id::WorkloadId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::verify_tls13_signature;
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{MalformedCertificate, identities};
use crate::provider::provider;

/// The server is not who it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPeer {
    /// The handshake is not complete, or the peer showed nothing.
    #[error("the server presented no certificate; expected {expected}")]
    NoCertificate {
        /// Who it should be.
        expected: WorkloadId,
    },
    /// The leaf cannot be read.
    #[error("cannot read the server's certificate: {0}")]
    Malformed(#[from] MalformedCertificate),
    /// It is somebody else.
    #[error("the server is {}; expected {expected}", list(presented))]
    Other {
        /// Who it should be.
        expected: WorkloadId,
        /// Who it says it is.
        presented: Vec<WorkloadId>,
    },
}

fn list(ids: &[WorkloadId]) -> String {
    if ids.is_empty() {
        return "nobody".to_owned();
    }
    ids.iter().map(WorkloadId::as_str).collect::<Vec<_>>().join(", ")
}

/// Checks, after a handshake, that the server is who it should be: any of the names in its leaf
/// may say so. Takes what rustls' `peer_certificates()` returns.
///
/// # Errors
/// Says who it is instead.
pub fn expect_identity(
    peer_certificates: Option<&[CertificateDer<'_>]>,
    expected: &WorkloadId,
) -> Result<(), WrongPeer> {
    let Some(leaf) = peer_certificates.and_then(<[_]>::first) else {
        return Err(WrongPeer::NoCertificate { expected: expected.clone() });
    };
    let presented = identities(leaf)?;
    if presented.contains(expected) {
        Ok(())
    } else {
        Err(WrongPeer::Other { expected: expected.clone(), presented })
    }
}

/// Who the client is, after a handshake: the first name in its leaf that is an identity. Nobody,
/// if it presented no certificate or one without such a name.
pub fn client_identity(peer_certificates: Option<&[CertificateDer<'_>]>) -> Option<WorkloadId> {
    let leaf = peer_certificates?.first()?;
    identities(leaf).ok()?.into_iter().next()
}

/// Accepts servers whose certificate leads to a trust anchor, whatever their name.
#[derive(Debug)]
pub(crate) struct AnchoredServer {
    roots: Arc<RootCertStore>,
}

impl AnchoredServer {
    pub(crate) fn new(roots: Arc<RootCertStore>) -> Self {
        Self { roots }
    }
}

impl ServerCertVerifier for AnchoredServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The configurations allow no other version, so rustls never asks.
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
