//! `io.linkerd.proxy.identity.Identity`: certificates for workloads.
//!
//! Checks in this order, so that a client learns first what it can mend itself:
//!
//! | check | status if it fails |
//! |---|---|
//! | identity, token and request are there; the request can be read and is signed by its key | `InvalidArgument` |
//! | the key is ECDSA on P-256 or P-384 | `Internal` |
//! | the request names the identity asked for and nothing else | `FailedPrecondition` |
//! | the token can be read, and its subject is a service account | `InvalidArgument` |
//! | its signature, audience, issuer and time are right | `FailedPrecondition` |
//! | the account's identity is the one asked for | `FailedPrecondition` |
//! | peers accept the issuer now (it may have expired) | `Unknown` |
//!
//! The codes are those of Linkerd's identity service. That one does not verify the request's own
//! signature; here a request signed by another key is refused.

use std::sync::Arc;
use std::time::SystemTime;

use hauberk_identity::request::{Request as SigningRequest, RequestError};
use hauberk_identity::token::{TokenError, TokenVerifier};
use hauberk_identity::{Issued, Issuer};
use hauberk_model::WorkloadId;
use hauberk_wire::api::identity::identity_server::Identity;
use hauberk_wire::api::identity::{CertifyRequest, CertifyResponse};
use hauberk_wire::identity::{Certified, request_from_wire, to_wire};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use super::{not_understood, shorten};
use crate::metrics::ServiceMetrics;

/// Signs certificates.
#[derive(Clone)]
pub(crate) struct IdentityService {
    /// The issuer in force.
    pub(crate) issuer: watch::Receiver<Arc<Issuer>>,
    /// The verifier in force.
    pub(crate) tokens: watch::Receiver<Arc<TokenVerifier>>,
    /// Part of every identity.
    pub(crate) control_plane_namespace: Arc<str>,
    /// The end of every identity.
    pub(crate) trust_domain: Arc<str>,
    /// The wall clock.
    pub(crate) now: fn() -> SystemTime,
    /// What is counted.
    pub(crate) metrics: ServiceMetrics,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let wanted = request.get_ref().identity.clone();
        let result = self.issue(request.into_inner());
        self.metrics.certify(result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok));
        match result {
            Ok(issued) => {
                let until = unix_seconds(issued.valid_until);
                info!(identity = %issued.identity, until, "certificate issued");
                Ok(Response::new(to_wire(&Certified {
                    leaf: issued.leaf.to_vec(),
                    intermediates: issued.intermediates.iter().map(|der| der.to_vec()).collect(),
                    valid_until: issued.valid_until,
                })))
            }
            Err(status) => {
                let wanted = shorten(wanted);
                warn!(identity = wanted, code = ?status.code(), reason = status.message(), "certificate refused");
                Err(status)
            }
        }
    }
}

impl IdentityService {
    /// Checks and signs. Costs about a third of a millisecond of computation.
    fn issue(&self, request: CertifyRequest) -> Result<Issued, Status> {
        let request = request_from_wire(request).map_err(|invalid| not_understood(&invalid))?;
        let signing = SigningRequest::parse(&request.csr, &request.identity);
        let signing = signing.map_err(|error| bad_request(&error))?;
        let now = (self.now)();
        self.authenticate(&request.token, &request.identity, now)?;
        let issuer = Arc::clone(&self.issuer.borrow());
        issuer.issue(&signing, now, &mut rand::rng()).map_err(|error| {
            error!(%error, "the issuer cannot issue certificates");
            Status::unknown(shorten(error.to_string()))
        })
    }

    /// Whether the token proves the right to the identity.
    fn authenticate(
        &self,
        token: &[u8],
        wanted: &WorkloadId,
        now: SystemTime,
    ) -> Result<(), Status> {
        let token = std::str::from_utf8(token)
            .map_err(|_| Status::invalid_argument("the token is not text"))?;
        let verifier = Arc::clone(&self.tokens.borrow());
        let verified = verifier.verify(token, now).map_err(|error| bad_token(&error))?;
        let account = verified.account;
        let proven = WorkloadId::service_account(
            &account.name,
            &account.namespace,
            &self.control_plane_namespace,
            &self.trust_domain,
        );
        if proven == *wanted {
            return Ok(());
        }
        let text = format!("the token is for {proven}, not for {wanted}");
        Err(Status::failed_precondition(shorten(text)))
    }
}

fn bad_request(error: &RequestError) -> Status {
    let text = shorten(error.to_string());
    match error {
        RequestError::Malformed | RequestError::Signature => Status::invalid_argument(text),
        RequestError::KeyKind => Status::internal(text),
        RequestError::IdentityKind(_)
        | RequestError::NoName { .. }
        | RequestError::ExtraName { .. }
        | RequestError::WrongName { .. }
        | RequestError::CommonName { .. } => Status::failed_precondition(text),
    }
}

fn bad_token(error: &TokenError) -> Status {
    let text = shorten(error.to_string());
    match error {
        TokenError::Malformed(_) | TokenError::Subject(_) => Status::invalid_argument(text),
        TokenError::Signature
        | TokenError::Audience { .. }
        | TokenError::Issuer { .. }
        | TokenError::Expired { .. }
        | TokenError::NotYetValid { .. } => Status::failed_precondition(text),
    }
}

/// Seconds since 1970, which log readers can convert and compare.
fn unix_seconds(moment: SystemTime) -> u64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
