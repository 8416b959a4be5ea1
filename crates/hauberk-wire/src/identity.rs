//! Asking for a certificate and getting one, each way.

use std::time::SystemTime;

use hauberk_model::WorkloadId;

use crate::api::identity as wire;
use crate::invalid::{Invalid, Required};

/// A request for a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The identity asked for.
    pub identity: WorkloadId,
    /// Proof of being that workload: its service account token.
    pub token: Vec<u8>,
    /// Certificate signing request, DER.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for Request {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Request");
        shown.field("identity", &self.identity).field("csr_bytes", &self.csr.len());
        shown.finish_non_exhaustive()
    }
}

/// A certificate with its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The workload's certificate, DER.
    pub leaf: Vec<u8>,
    /// Certificates between it and the trust anchor, DER, the direct issuer first.
    pub intermediates: Vec<Vec<u8>>,
    /// When the certificate ends to be valid.
    pub valid_until: SystemTime,
}

/// Says a request.
pub fn request_to_wire(from: &Request) -> wire::CertifyRequest {
    wire::CertifyRequest {
        identity: from.identity.as_str().to_owned(),
        token: from.token.clone(),
        certificate_signing_request: from.csr.clone(),
    }
}

/// Understands a request.
///
/// # Errors
/// If a part is missing or the identity is no identity.
pub fn request_from_wire(wire: wire::CertifyRequest) -> Result<Request, Invalid> {
    const IDENTITY: &str = "CertifyRequest.identity";
    let text = wire.identity;
    let present = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(bytes);
    if text.is_empty() {
        return Err(Invalid::missing(IDENTITY));
    }
    Ok(Request {
        identity: text.parse().map_err(|error| Invalid::malformed(IDENTITY, &text, error))?,
        token: present(wire.token).required("CertifyRequest.token")?,
        csr: present(wire.certificate_signing_request)
            .required("CertifyRequest.certificate_signing_request")?,
    })
}

/// Says a certificate.
pub fn to_wire(from: &Certified) -> wire::CertifyResponse {
    wire::CertifyResponse {
        leaf_certificate: from.leaf.clone(),
        intermediate_certificates: from.intermediates.clone(),
        valid_until: Some(from.valid_until.into()),
    }
}

/// Understands a certificate. Whether it is any good is for `hauberk-identity` to say.
///
/// # Errors
/// If the certificate or its end is missing.
pub fn from_wire(wire: wire::CertifyResponse) -> Result<Certified, Invalid> {
    const VALID_UNTIL: &str = "CertifyResponse.valid_until";
    if wire.leaf_certificate.is_empty() {
        return Err(Invalid::missing("CertifyResponse.leaf_certificate"));
    }
    let valid_until = wire.valid_until.required(VALID_UNTIL)?;
    let seconds = valid_until.seconds;
    Ok(Certified {
        leaf: wire.leaf_certificate,
        intermediates: wire.intermediate_certificates,
        valid_until: SystemTime::try_from(valid_until)
            .map_err(|_| Invalid::out_of_range(VALID_UNTIL, seconds))?,
    })
}
