//! What stands in a certificate, as far as the mesh reads it: names and validity.

use std::time::SystemTime;

use hauberk_model::workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::moment::from_unix_seconds;

/// The bytes are not an X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is malformed")]
pub struct MalformedCertificate;

/// The span of time in which a certificate is valid, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

/// The identities a certificate bears: its subject alternative names of kind DNS and URI, in
/// their order. Others, and those that cannot be read, are left out.
///
/// # Errors
/// When the bytes are no certificate.
pub fn identities(certificate: &[u8]) -> Result<Vec<WorkloadId>, MalformedCertificate> {
    let parsed = parse(certificate)?;
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Ok(Vec::new());
    };
    Ok(names.value.general_names.iter().filter_map(identity).collect())
}

/// The identity that a name in a certificate or request means. A DNS name that looks like a URI,
/// or the other way round, is none: the kind is part of what was certified.
pub(crate) fn identity(name: &GeneralName<'_>) -> Option<WorkloadId> {
    match name {
        GeneralName::DNSName(text) => {
            text.parse().ok().filter(|id| matches!(id, WorkloadId::Dns(_)))
        }
        GeneralName::URI(text) => text.parse().ok().filter(|id| matches!(id, WorkloadId::Uri(_))),
        _ => None,
    }
}

/// When a certificate is valid.
///
/// # Errors
/// When the bytes are no certificate.
pub fn validity(certificate: &[u8]) -> Result<Validity, MalformedCertificate> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    let moment = |seconds: i64| from_unix_seconds(u64::try_from(seconds).unwrap_or(0));
    Ok(Validity {
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
    })
}

/// Whether subject and issuer are the same, as in a trust anchor.
pub(crate) fn is_self_issued(certificate: &[u8]) -> Result<bool, MalformedCertificate> {
    let parsed = parse(certificate)?;
    Ok(parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// The subject in readable form, for messages.
pub fn subject(certificate: &[u8]) -> Result<String, MalformedCertificate> {
    Ok(parse(certificate)?.subject().to_string())
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, MalformedCertificate> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok((_, _)) | Err(_) => Err(MalformedCertificate),
    }
}

/// All certificates in a PEM text. Other sections are passed over.
///
/// # Errors
/// When a section is not well-formed.
pub fn from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}

/// Certificates as PEM, one after the other.
pub fn to_pem<'a, C: AsRef<[u8]> + 'a>(certificates: impl IntoIterator<Item = &'a C>) -> String {
    certificates.into_iter().map(|der| pem("CERTIFICATE", der.as_ref())).collect()
}

/// One PEM section (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
