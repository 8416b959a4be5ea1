//! Getting a certificate, and a new one before it ends.
//!
//! The token is read for each attempt, because it rotates. The key is made once, in memory, unless another program
//! has left one with its request in the identity directory. A certificate that peers would not accept is refused and
//! the old one kept. Renewal is after 70 % of the remaining life; before the first certificate, attempts follow each
//! other quickly, since nothing works without it.

use super::client::Connector;
use crate::{
    settings::{Config, Identity as Settings},
    telemetry::{labels::Labels, metrics::Identity as Counters},
};
use hauberk_identity::{Certified, Credentials, Tickets, TlsSettings, TrustAnchors, renewal};
use hauberk_model::backoff::Backoff;
use hauberk_process::Shutdown;
use hauberk_wire::{self as wire, api::identity::identity_client::IdentityClient};
use rustls_pki_types::CertificateDer;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// One attempt: connecting, asking, answering.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a proxy without a certificate says so.
const WAITING_REPORT: Duration = Duration::from_secs(15);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The token's file is empty.
    #[error("the token in {0} is empty")]
    EmptyToken(String),
    /// Key and request cannot be made or used.
    #[error(transparent)]
    Credentials(#[from] hauberk_identity::credentials::CredentialsError),
    /// The identity service refused or could not be reached.
    #[error("the identity service answered {:?}: {}", .0.code(), .0.message())]
    Refused(Box<tonic::Status>),
    /// The answer could not be understood.
    #[error(transparent)]
    Invalid(#[from] wire::Invalid),
    /// The certificate is of no use.
    #[error(transparent)]
    Useless(#[from] hauberk_identity::credentials::CertifyError),
    /// The service said that it has ended already.
    #[error("the certificate has already expired")]
    Expired,
    /// The service did not answer.
    #[error("the identity service did not answer in time")]
    Timeout,
}

/// Reads key and request from the identity directory, or makes them in memory.
///
/// # Errors
/// If files are there but cannot be used.
pub fn credentials(settings: &Settings) -> Result<Credentials, IdentityError> {
    let Some(directory) = &settings.directory else {
        return Ok(Credentials::generate(settings.local.clone())?);
    };
    let (key, request) = (directory.join("key.p8"), directory.join("csr.der"));
    if !key.exists() || !request.exists() {
        return Ok(Credentials::generate(settings.local.clone())?);
    }
    Ok(Credentials::from_der(settings.local.clone(), &read(&key)?, &read(&request)?)?)
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path)
        .map_err(|error| IdentityError::File { path: path.display().to_string(), error })
}

/// Keeps a certificate fresh; see [`Certifier::run`].
#[derive(Debug)]
pub struct Certifier {
    settings: Settings,
    tls: TlsSettings,
    credentials: Credentials,
    anchors: Arc<TrustAnchors>,
    connector: Connector,
    publish: watch::Sender<Option<Arc<Certified>>>,
    metrics: Counters,
    backoff: Backoff,
}

impl Certifier {
    /// Prepares to get certificates for `credentials` and to publish them.
    pub fn new(
        config: &Config,
        credentials: Credentials,
        anchors: Arc<TrustAnchors>,
        connector: Connector,
        publish: watch::Sender<Option<Arc<Certified>>>,
        metrics: Counters,
    ) -> Self {
        let settings = config.identity.clone();
        let backoff = config.outbound.side.connect_backoff;
        let tickets = if config.inbound.tls_resumption { Tickets::On } else { Tickets::Off };
        let tls = TlsSettings { tickets, ..TlsSettings::default() };
        Self { settings, tls, credentials, anchors, connector, publish, metrics, backoff }
    }

    /// Gets certificates until the process ends.
    pub async fn run(self, shutdown: Shutdown) {
        let bounds =
            renewal::Bounds { min: self.settings.refresh_min, max: self.settings.refresh_max };
        let mut failures = 0;
        let mut reported_at = tokio::time::Instant::now();
        loop {
            let result = tokio::select! {
                result = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt()) => result,
                () = shutdown.ended() => return,
            };
            let error = match result {
                Ok(Ok(certified)) => {
                    failures = 0;
                    self.take(certified);
                    None
                }
                Ok(Err(error)) => Some(error),
                Err(_elapsed) => Some(IdentityError::Timeout),
            };
            if let Some(error) = error {
                self.count("error");
                tracing::warn!(%error, "cannot obtain a certificate");
            }
            let expires = self.publish.borrow().as_ref().map(|known| known.validity().not_after);
            let mut pause = renewal::wait(SystemTime::now(), expires, bounds);
            if expires.is_none() {
                pause = pause.min(self.backoff.delay(failures, rand::random()));
                failures = failures.saturating_add(1);
                if reported_at.elapsed() >= WAITING_REPORT {
                    reported_at = tokio::time::Instant::now();
                    tracing::warn!(identity = %self.settings.local, "waiting for identity to be certified");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.ended() => return,
            }
        }
    }

    /// Asks once.
    async fn attempt(&self) -> Result<Certified, IdentityError> {
        let path = &self.settings.token_file;
        let token = read(path)?;
        if token.trim_ascii().is_empty() {
            return Err(IdentityError::EmptyToken(path.display().to_string()));
        }
        let request = wire::identity::request_to_wire(&wire::identity::Request {
            identity: self.settings.local.clone(),
            token,
            csr: self.credentials.request_der().to_vec(),
        });
        // A connection of its own for each attempt: it is needed once a day.
        let mut client = IdentityClient::new(self.connector.channel(&self.settings.service));
        let response = client.certify(request).await;
        let response = response.map_err(|status| IdentityError::Refused(Box::new(status)))?;
        let issued = wire::identity::from_wire(response.into_inner())?;
        let now = SystemTime::now();
        if issued.valid_until <= now {
            return Err(IdentityError::Expired);
        }
        let certified = self.credentials.certify(
            CertificateDer::from(issued.leaf),
            issued.intermediates.into_iter().map(CertificateDer::from).collect(),
            &self.anchors,
            &self.tls,
            now,
        )?;
        Ok(certified)
    }

    fn take(&self, certified: Certified) {
        let is_first = self.publish.borrow().is_none();
        let expires = unix_seconds(certified.validity().not_after);
        self.publish.send_replace(Some(Arc::new(certified)));
        self.count("ok");
        self.metrics.expiration.set(expires);
        self.metrics.refresh.set(unix_seconds(SystemTime::now()));
        if is_first {
            tracing::info!(id = %self.settings.local, "Certified identity");
        } else {
            tracing::debug!(id = %self.settings.local, "certificate renewed");
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics.refreshes.get_or_create(&Labels::new().with("result", result)).inc();
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
