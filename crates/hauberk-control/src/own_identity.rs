//! The control plane's own certificates, issued by its own issuer.
//!
//! Proxies expect `linkerd-destination…` and `linkerd-identity…` behind the control plane's
//! addresses. Whoever holds the issuer's key can issue these without asking anybody, and does so at
//! the start, at 70 % of a certificate's life, and when the issuer changes.

use std::sync::Arc;
use std::time::SystemTime;

use hauberk_identity::renewal::{self, Bounds};
use hauberk_identity::request::Request;
use hauberk_identity::{Certified, Credentials, Issuer, TlsSettings};
use hauberk_model::WorkloadId;
use hauberk_process::Tasks;
use tokio::sync::watch;
use tracing::{info, warn};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OwnIdentityError {
    /// No key, or the identity is no DNS name.
    #[error("cannot make credentials for {identity}: {error}")]
    Credentials {
        /// Who we want to be.
        identity: WorkloadId,
        /// Why not.
        error: hauberk_identity::credentials::CredentialsError,
    },
    /// The issuer does not issue, or issues what peers would refuse.
    #[error("cannot issue a certificate for {identity}: {reason}")]
    Issue {
        /// Who we want to be.
        identity: WorkloadId,
        /// Why not.
        reason: String,
    },
}

/// A certificate for `identity` that is renewed until the process drains.
///
/// # Errors
/// If the first one cannot be issued. Later failures are logged, and tried again in time.
pub(crate) fn keep(
    identity: WorkloadId,
    mut issuer: watch::Receiver<Arc<Issuer>>,
    now: fn() -> SystemTime,
    tasks: &Tasks,
) -> Result<watch::Receiver<Certified>, OwnIdentityError> {
    let credentials = Credentials::generate(identity.clone())
        .map_err(|error| OwnIdentityError::Credentials { identity, error })?;
    let first = issue(&credentials, &issuer.borrow_and_update(), now())?;
    let mut expires = first.validity().not_after;
    let (sender, receiver) = watch::channel(first);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("own-identity", async move {
        loop {
            let wait = renewal::wait(now(), Some(expires), Bounds::default());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = issuer.changed() => {}
                () = sender.closed() => return,
                () = shutdown.draining() => return,
            }
            let newest = Arc::clone(&issuer.borrow_and_update());
            match issue(&credentials, &newest, now()) {
                Ok(certified) => {
                    expires = certified.validity().not_after;
                    info!(identity = %credentials.identity(), "own certificate renewed");
                    sender.send_replace(certified);
                }
                Err(error) => warn!(%error, "keeping the old certificate"),
            }
        }
    });
    Ok(receiver)
}

fn issue(
    credentials: &Credentials,
    issuer: &Issuer,
    now: SystemTime,
) -> Result<Certified, OwnIdentityError> {
    let identity = credentials.identity();
    let failed = |error: &dyn std::fmt::Display| OwnIdentityError::Issue {
        identity: identity.clone(),
        reason: error.to_string(),
    };
    let request =
        Request::parse(credentials.request_der(), identity).map_err(|error| failed(&error))?;
    let issued = issuer.issue(&request, now, &mut rand::rng()).map_err(|error| failed(&error))?;
    let settings = TlsSettings::default();
    credentials
        .certify(issued.leaf, issued.intermediates, issuer.anchors(), &settings, now)
        .map_err(|error| failed(&error))
}
