//! Certificate signing requests (PKCS#10): made by the proxy, checked by the issuer.
//!
//! A request that went through [`Request::parse`] is worth signing: its signature proves that the
//! asker holds the key, the key is one that proxies understand, and it names the one identity that
//! was asked for and nothing else. Whether the asker may have that identity is proved by a token
//! and is not known here. What a request says about usage or constraints is not honoured: the
//! issuer decides that.

use hauberk_model::workload_id::WorkloadId;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::certificate::identity;
use crate::key::Key;

/// Object identifier of ECDSA and ECDH public keys (RFC 5480 section 2.1.1).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
/// Object identifiers of the curves P-256 and P-384 (RFC 5480 section 2.1.1.1).
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// A request that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    identity: WorkloadId,
    public_key: SubjectPublicKeyInfo,
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request in DER, or bytes follow it.
    #[error("the certificate signing request is malformed")]
    Malformed,
    /// The signature does not match: the asker does not hold the key.
    #[error("the signature of the certificate signing request does not match its key")]
    Signature,
    /// Neither P-256 nor P-384.
    #[error("the key in the certificate signing request is not ECDSA on P-256 or P-384")]
    KeyKind,
    /// Only DNS-like identities are issued.
    #[error("cannot issue a certificate for {0}: only DNS names are issued")]
    IdentityKind(WorkloadId),
    /// No name at all.
    #[error("the certificate signing request names nobody; expected {expected}")]
    NoName {
        /// The identity asked for.
        expected: WorkloadId,
    },
    /// More than one name, or one that is not a DNS name.
    #[error("the certificate signing request has more names than the DNS name {expected}: {extra}")]
    ExtraName {
        /// The identity asked for.
        expected: WorkloadId,
        /// The name that should not be there.
        extra: String,
    },
    /// One name, but another than was asked for.
    #[error("the certificate signing request names {found}; expected {expected}")]
    WrongName {
        /// The identity asked for.
        expected: WorkloadId,
        /// The name in the request.
        found: String,
    },
    /// The subject's common name is neither empty nor the identity.
    #[error("the certificate signing request has the common name {found:?}; expected {expected}")]
    CommonName {
        /// The identity asked for.
        expected: WorkloadId,
        /// The common name in the request.
        found: String,
    },
}

/// Writes a request for this identity, signed with this key. Deterministic but for the signature.
///
/// # Errors
/// When the identity is not a DNS name.
pub fn write(
    key: &Key,
    identity: &WorkloadId,
) -> Result<CertificateSigningRequestDer<'static>, RequestError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(identity.as_str());
    params.subject_alt_names = vec![dns_name(identity)?];
    let request = params.serialize_request(key.pair()).map_err(|_| RequestError::Malformed)?;
    Ok(request.into())
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// The identity as a name in a certificate.
fn dns_name(identity: &WorkloadId) -> Result<SanType, RequestError> {
    let refused = || RequestError::IdentityKind(identity.clone());
    match identity {
        WorkloadId::Dns(name) => {
            let name = name.to_string().try_into().map_err(|_| refused())?;
            Ok(SanType::DnsName(name))
        }
        WorkloadId::Uri(_) => Err(refused()),
    }
}

impl Request {
    /// Reads and checks a request for this identity.
    ///
    /// # Errors
    /// Says which check failed.
    pub fn parse(der: &[u8], expected: &WorkloadId) -> Result<Self, RequestError> {
        if matches!(expected, WorkloadId::Uri(_)) {
            return Err(RequestError::IdentityKind(expected.clone()));
        }
        let Ok(([], parsed)) = X509CertificationRequest::from_der(der) else {
            return Err(RequestError::Malformed);
        };
        let info = &parsed.certification_request_info;
        if !is_accepted_key(&info.subject_pki) {
            return Err(RequestError::KeyKind);
        }
        parsed.verify_signature().map_err(|_| RequestError::Signature)?;
        check_common_name(&parsed, expected)?;
        check_names(&parsed, expected)?;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|_| RequestError::KeyKind)?;
        Ok(Self { identity: expected.clone(), public_key })
    }

    /// Whose certificate is asked for.
    pub fn identity(&self) -> &WorkloadId {
        &self.identity
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }

    pub(crate) fn alternative_name(&self) -> SanType {
        dns_name(&self.identity).expect("checked when parsed")
    }
}

fn is_accepted_key(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    key.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY
        && curve.is_some_and(|oid| CURVES.contains(&oid.to_id_string().as_str()))
}

fn check_common_name(
    parsed: &X509CertificationRequest<'_>,
    expected: &WorkloadId,
) -> Result<(), RequestError> {
    for name in parsed.certification_request_info.subject.iter_common_name() {
        let found = name.as_str().unwrap_or("?");
        if !found.is_empty() && found != expected.as_str() {
            let found = found.to_owned();
            return Err(RequestError::CommonName { expected: expected.clone(), found });
        }
    }
    Ok(())
}

/// Demands exactly one subject alternative name: the expected one.
fn check_names(
    parsed: &X509CertificationRequest<'_>,
    expected: &WorkloadId,
) -> Result<(), RequestError> {
    let mut names: Vec<&GeneralName<'_>> = Vec::new();
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
            names.extend(&alternative.general_names);
        }
    }
    let expected = expected.clone();
    match *names {
        [] => Err(RequestError::NoName { expected }),
        [GeneralName::DNSName(_)] if identity(names[0]).as_ref() == Some(&expected) => Ok(()),
        [GeneralName::DNSName(found)] => {
            Err(RequestError::WrongName { expected, found: found.to_string() })
        }
        ref all => {
            let surplus = |name: &&&GeneralName<'_>| identity(name).as_ref() != Some(&expected);
            let extra = all.iter().find(surplus).unwrap_or(&all[0]).to_string();
            Err(RequestError::ExtraName { expected, extra })
        }
    }
}
