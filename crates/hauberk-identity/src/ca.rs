//! Founds a mesh: makes a trust anchor and issuers under it.
//!
//! For labs, tests and first installs. The anchor's key is needed only to make issuers; an
//! installation may keep it offline or throw it away.

use std::time::{Duration, SystemTime};

use rand::RngCore;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;

use crate::anchors::{AnchorsError, TrustAnchors};
use crate::certificate;
use crate::issuer::random_serial;
use crate::key::{Key, KeyError};
use crate::moment::{earlier, later, offset_date_time};
use crate::request::common_name;

/// Added before the moment of making, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A trust anchor with its key.
#[derive(Debug)]
pub struct Anchor {
    certificate: CertificateDer<'static>,
    key_pem: String,
    signer: rcgen::Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM. The key is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateAndKey {
    /// `CERTIFICATE` sections.
    pub certificate_pem: String,
    /// One `PRIVATE KEY` section.
    pub key_pem: String,
}

impl std::fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAndKey").finish_non_exhaustive()
    }
}

/// Why nothing was made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate is unusable.
    #[error(transparent)]
    Anchor(#[from] AnchorsError),
    /// The library failed.
    #[error("cannot make the certificate: {0}")]
    Certificate(String),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        CaError::Certificate(error.to_string())
    }
}

impl Anchor {
    /// A self-signed anchor. Linkerd's convention for the name is `root.linkerd.cluster.local`.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(
        name: &str,
        lifetime: Duration,
        now: SystemTime,
        rng: &mut impl RngCore,
    ) -> Result<Self, CaError> {
        let key = Key::generate()?;
        let params = authority(name, IsCa::Ca(BasicConstraints::Unconstrained), lifetime, now, rng);
        let certificate = params.self_signed(key.pair())?.der().clone();
        let key_pem = key.secret_pem();
        Ok(Self { certificate, key_pem, signer: rcgen::Issuer::new(params, key.into_pair()) })
    }

    /// Reads an anchor that was made earlier, here or elsewhere.
    ///
    /// # Errors
    /// When certificate or key are malformed.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let anchors = TrustAnchors::from_pem(certificate_pem)?;
        let certificate = anchors.certificates()[0].clone();
        let key = Key::from_pem(key_pem)?;
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, key.into_pair())?;
        Ok(Self { certificate, key_pem: key_pem.to_owned(), signer })
    }

    /// A new issuer under this anchor, which may sign leaves and nothing else. Linkerd's
    /// convention for the name is `identity.linkerd.cluster.local`.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn issuer(
        &self,
        name: &str,
        lifetime: Duration,
        now: SystemTime,
        rng: &mut impl RngCore,
    ) -> Result<CertificateAndKey, CaError> {
        let key = Key::generate()?;
        let constraints = IsCa::Ca(BasicConstraints::Constrained(0));
        let mut params = authority(name, constraints, lifetime, now, rng);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.signer)?;
        Ok(CertificateAndKey {
            certificate_pem: certificate::to_pem([certificate.der()]),
            key_pem: key.secret_pem(),
        })
    }

    /// The anchor as PEM, with its key.
    pub fn to_pem(&self) -> CertificateAndKey {
        CertificateAndKey {
            certificate_pem: certificate::to_pem([&self.certificate]),
            key_pem: self.key_pem.clone(),
        }
    }

    /// The anchor alone, as a bundle of one.
    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_der(vec![self.certificate.clone()]).expect("an anchor is one")
    }
}

fn authority(
    name: &str,
    constraints: IsCa,
    lifetime: Duration,
    now: SystemTime,
    rng: &mut impl RngCore,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial(rng));
    params.distinguished_name = common_name(name);
    params.not_before = offset_date_time(earlier(now, CLOCK_SKEW));
    params.not_after = offset_date_time(later(now, lifetime));
    params.is_ca = constraints;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
