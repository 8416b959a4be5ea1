//! A workload's side: key and request first, then the certificate and all that is built from it.
//!
//! [`Credentials`] live as long as the process; the key is not changed. Each renewal sends the
//! same request with a fresh token and turns the answer into a [`Certified`], an immutable
//! snapshot that is published and replaced as a whole. Connections that exist keep the snapshot
//! they began with.

use std::sync::Arc;
use std::time::SystemTime;

use hauberk_model::workload_id::WorkloadId;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::anchors::{ChainError, TrustAnchors};
use crate::certificate::{self, MalformedCertificate, Validity};
use crate::key::{Key, KeyError};
use crate::moment::from_unix_seconds;
use crate::request::{self, Request, RequestError};
use crate::resumption::{self, Sessions, Tickets};
use crate::verify::{WrongPeer, expect_identity};
use crate::{Alpn, TlsSettings, client_config, server_config};

/// A key and the request for its certificate.
#[derive(Debug)]
pub struct Credentials {
    identity: WorkloadId,
    key: Key,
    request: CertificateSigningRequestDer<'static>,
}

/// Why there are no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The request is unusable.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a certificate is not taken into use.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CertifyError {
    /// Our own peers would refuse it.
    #[error("the new certificate would not be accepted: {0}")]
    Chain(#[from] ChainError),
    /// It is for somebody else.
    #[error("the new certificate is not for {expected}: {reason}")]
    Identity {
        /// Who it should be for.
        expected: WorkloadId,
        /// What it says.
        reason: WrongPeer,
    },
    /// It is for another key.
    #[error("the new certificate does not belong to our key")]
    Key,
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] MalformedCertificate),
}

impl Credentials {
    /// A fresh key and its request.
    ///
    /// # Errors
    /// When there is no randomness, or the identity is not a DNS name.
    pub fn generate(identity: WorkloadId) -> Result<Self, CredentialsError> {
        let key = Key::generate()?;
        let request = request::write(&key, &identity)?;
        Ok(Self { identity, key, request })
    }

    /// The content of `key.p8` and `csr.der`, which another program has made.
    ///
    /// # Errors
    /// When one of them is malformed or they do not fit the identity.
    pub fn from_der(
        identity: WorkloadId,
        key_pkcs8: &[u8],
        request: &[u8],
    ) -> Result<Self, CredentialsError> {
        let key = Key::from_pkcs8_der(key_pkcs8)?;
        Request::parse(request, &identity)?;
        let request = CertificateSigningRequestDer::from(request.to_vec());
        Ok(Self { identity, key, request })
    }

    /// Who we want to be.
    pub fn identity(&self) -> &WorkloadId {
        &self.identity
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The request in DER, to be sent to the issuer.
    pub fn request_der(&self) -> &[u8] {
        &self.request
    }

    /// Takes a certificate into use, if peers with the same anchors would accept it now, it is for
    /// us, and it belongs to our key. Builds all TLS configurations.
    ///
    /// # Errors
    /// Says why it is of no use; what was in use before is not touched.
    pub fn certify(
        &self,
        leaf: CertificateDer<'static>,
        intermediates: Vec<CertificateDer<'static>>,
        anchors: &TrustAnchors,
        settings: &TlsSettings,
        now: SystemTime,
    ) -> Result<Certified, CertifyError> {
        anchors.verify_chain(&leaf, &intermediates, now)?;
        expect_identity(Some(std::slice::from_ref(&leaf)), &self.identity)
            .map_err(|reason| CertifyError::Identity { expected: self.identity.clone(), reason })?;
        let validity = certificate::validity(&leaf)?;
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).collect();
        let key = self.key.tls().map_err(|_| CertifyError::Key)?;
        let certified = Arc::new(CertifiedKey::new(chain, key));
        certified.keys_match().map_err(|_| CertifyError::Key)?;

        let client =
            |alpn| client_config::with_certificate(anchors, Arc::clone(&certified), alpn, settings);
        let tickets = match settings.tickets {
            Tickets::Off => None,
            Tickets::On => resumption::ticketer(&settings.time),
        };
        let server = |alpn| {
            let certified = Arc::clone(&certified);
            server_config::with_certificate(anchors, certified, alpn, settings, tickets.as_ref())
        };
        Ok(Certified {
            identity: self.identity.clone(),
            validity,
            clients: [client(Alpn::None), client(Alpn::Transport)],
            servers: [server(Alpn::None), server(Alpn::Transport)],
            time: Arc::clone(&settings.time),
            certified,
        })
    }
}

/// A certificate in use, with the TLS configurations that show it. Cloning copies `Arc`s.
#[derive(Clone, Debug)]
pub struct Certified {
    identity: WorkloadId,
    validity: Validity,
    clients: [Arc<ClientConfig>; 2],
    servers: [Arc<ServerConfig>; 2],
    certified: Arc<CertifiedKey>,
    time: Arc<dyn TimeProvider>,
}

impl Certified {
    /// Who we are.
    pub fn identity(&self) -> &WorkloadId {
        &self.identity
    }

    /// When the certificate is valid; `not_after` goes into [`crate::renewal::wait`].
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The leaf, then the intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// For connections we make. The expected identity must be checked after the handshake, with
    /// [`expect_identity`].
    pub fn client(&self, alpn: Alpn) -> &Arc<ClientConfig> {
        &self.clients[index(alpn)]
    }

    /// The same, for connections to one peer whose sessions are kept in `sessions`. After the
    /// handshake, [`Certified::still_holds`] must be asked as well.
    pub fn client_resuming(&self, alpn: Alpn, sessions: &Arc<Sessions>) -> Arc<ClientConfig> {
        client_config::resuming(self.client(alpn), sessions)
    }

    /// Whether what the peer proved with these certificates still holds: none of them has ended,
    /// and all have begun. A full handshake has just checked that, a resumed one has not. Takes
    /// what rustls' `peer_certificates()` returns; a peer that showed nothing proved nothing.
    pub fn still_holds(&self, peer_certificates: Option<&[CertificateDer<'_>]>) -> bool {
        let Some(now) = self.time.current_time() else { return false };
        let now = from_unix_seconds(now.as_secs());
        peer_certificates.unwrap_or_default().iter().all(|one| {
            // The end of an anchor does not count, in full handshakes neither.
            let is_anchor = certificate::is_self_issued(one).unwrap_or(false);
            let holds = |valid: Validity| valid.not_before <= now && now <= valid.not_after;
            is_anchor || certificate::validity(one).is_ok_and(holds)
        })
    }

    /// For connections we accept.
    pub fn server(&self, alpn: Alpn) -> &Arc<ServerConfig> {
        &self.servers[index(alpn)]
    }
}

fn index(alpn: Alpn) -> usize {
    match alpn {
        Alpn::None => 0,
        Alpn::Transport => 1,
    }
}
