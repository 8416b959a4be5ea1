//! Mesh TLS: our certificate as ready-made configurations, and the handshakes that use them.
//!
//! Configurations are built once per certificate, not per connection. [`Identity`] is the handle data threads hold;
//! the admin runtime renews what is behind it. rustls lives here and in `hauberk-identity`.

pub mod accept;
pub mod client_hello;
pub mod connect;
pub mod sessions;

use hauberk_identity::Certified;
use hauberk_model::WorkloadId;
use rustls::{CommonState, HandshakeKind};
use std::{io, sync::Arc};
use tokio::sync::watch;

/// Who we are, and the newest certificate that proves it. Cloning copies an `Arc` or two.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The identity in our certificate.
    pub local: WorkloadId,
    /// The server name by which peers ask for us.
    pub server_name: Arc<str>,
    certified: watch::Receiver<Option<Arc<Certified>>>,
}

impl Identity {
    /// A handle on what `certified` publishes.
    pub fn new(
        local: WorkloadId,
        server_name: Arc<str>,
        certified: watch::Receiver<Option<Arc<Certified>>>,
    ) -> Self {
        Self { local, server_name, certified }
    }

    /// The newest certificate with its TLS configurations; `None` before the first.
    pub fn certified(&self) -> Option<Arc<Certified>> {
        self.certified.borrow().clone()
    }

    /// Waits for the first certificate. Cancel-safe; never returns if the publisher has gone before it.
    pub async fn ready(&self) {
        let mut certified = self.certified.clone();
        if certified.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How two proxies agreed on TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Both proved who they are.
    Full,
    /// Both went on from an earlier connection on which they did.
    Resumed,
}

impl Handshake {
    /// Value of the metric label `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }

    /// Of a completed handshake. Refuses a resumed session whose peer could not prove itself again now, because its
    /// certificate has ended.
    fn of(certified: &Certified, session: &CommonState) -> io::Result<Self> {
        if session.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(Self::Full);
        }
        if certified.still_holds(session.peer_certificates()) {
            return Ok(Self::Resumed);
        }
        let why = "the peer's certificate has expired since its session began";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}
