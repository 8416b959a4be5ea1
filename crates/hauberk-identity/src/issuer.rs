//! Signs leaves.
//!
//! An [`Issuer`] is an intermediate certificate with its key, proved at load to lead to a trust
//! anchor. It is immutable; rotation means to load another one and swap the `Arc`. Every leaf is
//! verified against the anchors before it is handed out, so an issuer that has expired since it was
//! loaded, or that peers would not accept for any other reason, is found out here and not by them.

use std::time::{Duration, SystemTime};

use hauberk_model::workload_id::WorkloadId;
use rand::RngCore;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SerialNumber};
use rustls_pki_types::CertificateDer;

use crate::anchors::{ChainError, TrustAnchors};
use crate::certificate::{self, MalformedCertificate, Validity};
use crate::key::{Key, KeyError};
use crate::moment::{earlier, later, offset_date_time};
use crate::request::{self, Request};

/// How long leaves live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// From the moment of issue; the flag `-identity-issuance-lifetime` of Linkerd.
    pub leaf: Duration,
    /// Added at both ends, for peers whose clock differs; `-identity-clock-skew-allowance`.
    pub clock_skew: Duration,
}

impl Default for Lifetimes {
    /// 24 hours and 20 seconds, the values Linkerd installs.
    fn default() -> Self {
        Self { leaf: Duration::from_secs(24 * 60 * 60), clock_skew: Duration::from_secs(20) }
    }
}

/// Signs leaves for requests.
#[derive(Debug)]
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    /// From the issuer itself towards the root.
    chain: Vec<CertificateDer<'static>>,
    /// The earliest end in the chain.
    not_after: SystemTime,
    anchors: TrustAnchors,
    lifetimes: Lifetimes,
}

/// A signed leaf with all that a peer needs to verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Who it is for.
    pub identity: WorkloadId,
    /// The certificate.
    pub leaf: CertificateDer<'static>,
    /// The direct issuer first, then towards the root.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// The last moment at which it is valid.
    pub valid_until: SystemTime,
}

/// Why an issuer cannot be loaded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IssuerError {
    /// The key is unusable.
    #[error("cannot use the issuer's key: {0}")]
    Key(#[from] KeyError),
    /// No certificate, or not well-formed.
    #[error("cannot read the issuer's certificate: {0}")]
    Certificate(String),
    /// What it signs would not be accepted by peers: expired, from another anchor, not a CA, or
    /// the key is not the certificate's.
    #[error("certificates signed by this issuer would not be accepted: {0}")]
    NotAccepted(#[from] ChainError),
}

impl From<MalformedCertificate> for IssuerError {
    fn from(error: MalformedCertificate) -> Self {
        IssuerError::Certificate(error.to_string())
    }
}

/// Why no leaf was issued.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// The issuer, or a certificate above it, is no longer accepted. Nobody gets a certificate
    /// until another issuer is loaded.
    #[error("the issuer is no longer accepted: {0}")]
    Issuer(#[from] ChainError),
    /// The library failed to sign.
    #[error("cannot sign the certificate: {0}")]
    Sign(String),
}

impl Issuer {
    /// Loads an issuer: its certificate first, then those between it and the anchor, if any.
    ///
    /// # Errors
    /// When something is malformed or peers would not accept what it signs at this moment.
    pub fn from_pem(
        certificates: &str,
        key: &str,
        anchors: &TrustAnchors,
        lifetimes: Lifetimes,
        now: SystemTime,
    ) -> Result<Self, IssuerError> {
        let unreadable =
            |error: &dyn std::fmt::Display| IssuerError::Certificate(error.to_string());
        let certificates =
            certificate::from_pem(certificates).map_err(|error| unreadable(&error))?;
        let Some((own, above)) = certificates.split_first() else {
            return Err(unreadable(&"there is none in the PEM text"));
        };
        let mut chain = vec![own.clone()];
        for certificate in above {
            // Peers have the root already.
            if !certificate::is_self_issued(certificate)? {
                chain.push(certificate.clone());
            }
        }
        let mut not_after = certificate::validity(own)?.not_after;
        for certificate in &chain {
            not_after = not_after.min(certificate::validity(certificate)?.not_after);
        }
        let key = Key::from_pem(key)?;
        let signer = rcgen::Issuer::from_ca_cert_der(own, key.into_pair())
            .map_err(|error| unreadable(&error))?;
        let issuer = Self { signer, chain, not_after, anchors: anchors.clone(), lifetimes };
        issuer.prove(now)?;
        Ok(issuer)
    }

    /// Signs a throw-away leaf and verifies it as a peer would.
    fn prove(&self, now: SystemTime) -> Result<(), IssuerError> {
        let identity: WorkloadId = "probe.invalid".parse().expect("a DNS name");
        let key = Key::generate()?;
        let csr = request::write(&key, &identity).expect("a DNS name can be requested");
        let probe = Request::parse(&csr, &identity).expect("what was written can be parsed");
        let serial = SerialNumber::from_slice(&[1]);
        match self.sign(&probe, now, serial) {
            Ok(_) => Ok(()),
            Err(IssueError::Issuer(error)) => Err(error.into()),
            Err(IssueError::Sign(error)) => Err(IssuerError::Certificate(error)),
        }
    }

    /// Signs a leaf. Costs a signature and the verification of the chain, together about 0.1 ms.
    ///
    /// # Errors
    /// When the issuer is no longer accepted.
    pub fn issue(
        &self,
        request: &Request,
        now: SystemTime,
        rng: &mut impl RngCore,
    ) -> Result<Issued, IssueError> {
        self.sign(request, now, random_serial(rng))
    }

    fn sign(
        &self,
        request: &Request,
        now: SystemTime,
        serial: SerialNumber,
    ) -> Result<Issued, IssueError> {
        let validity = self.validity(now);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial);
        params.not_before = offset_date_time(validity.not_before);
        params.not_after = offset_date_time(validity.not_after);
        params.distinguished_name = request::common_name(request.identity().as_str());
        params.subject_alt_names = vec![request.alternative_name()];
        // Not `keyEncipherment`, which RFC 8813 section 3 forbids for ECDSA keys.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(request.public_key(), &self.signer)
            .map_err(|error| IssueError::Sign(error.to_string()))?;
        self.anchors.verify_chain(leaf.der(), &self.chain, now)?;
        Ok(Issued {
            identity: request.identity().clone(),
            leaf: leaf.der().clone(),
            intermediates: self.chain.clone(),
            valid_until: validity.not_after,
        })
    }

    /// A leaf never outlives its issuer; otherwise a workload would believe to have a valid
    /// certificate that nobody accepts.
    fn validity(&self, now: SystemTime) -> Validity {
        let Lifetimes { leaf, clock_skew } = self.lifetimes;
        Validity {
            not_before: earlier(now, clock_skew),
            not_after: later(later(now, leaf), clock_skew).min(self.not_after),
        }
    }

    /// The last moment at which the issuer, and all above it, is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The issuer's certificate, then those towards the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The anchors it was proved against.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }
}

/// 127 random bits, positive and not zero (RFC 5280 section 4.1.2.2 wants unique, and no more than
/// 20 octets).
pub(crate) fn random_serial(rng: &mut impl RngCore) -> SerialNumber {
    let mut bytes = [0_u8; 16];
    rng.fill_bytes(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
