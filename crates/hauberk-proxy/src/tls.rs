//! Mesh TLS: our certificate as ready-made configurations, and the handshakes that use them.
//!
//! Configurations are built once per certificate, not per connection. [`Identity`] is the handle data threads hold;
//! the admin runtime renews what is behind it. rustls lives here and in `hauberk-identity`.

pub mod accept;
pub mod client_hello;
pub mod connect;

use hauberk_model::WorkloadId;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use tokio::sync::watch;

/// TLS configurations made from one certificate.
#[derive(Debug)]
pub struct Configs {
    /// For peers that connect to an application's port.
    pub server: Arc<ServerConfig>,
    /// For peers that connect to our own port; agrees on the transport header by ALPN.
    pub server_direct: Arc<ServerConfig>,
    /// For endpoints reached at the application's port.
    pub client: Arc<ClientConfig>,
    /// For endpoints reached at their proxy's port; offers the transport header by ALPN.
    pub client_direct: Arc<ClientConfig>,
}

/// Who we are, and the newest certificate that proves it. Cloning copies an `Arc` or two.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The identity in our certificate.
    pub local: WorkloadId,
    /// The server name by which peers ask for us.
    pub server_name: Arc<str>,
    configs: watch::Receiver<Option<Arc<Configs>>>,
}

impl Identity {
    /// A handle on what `configs` publishes.
    pub fn new(
        local: WorkloadId,
        server_name: Arc<str>,
        configs: watch::Receiver<Option<Arc<Configs>>>,
    ) -> Self {
        Self { local, server_name, configs }
    }

    /// The newest configurations; `None` before the first certificate.
    pub fn configs(&self) -> Option<Arc<Configs>> {
        self.configs.borrow().clone()
    }

    /// Waits for the first certificate. Cancel-safe; never returns if the publisher has gone before it.
    pub async fn ready(&self) {
        let mut configs = self.configs.clone();
        if configs.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The identity of a certificate: its first DNS or URI name that reads as one.
fn peer_identity(_leaf: &rustls_pki_types::CertificateDer<'_>) -> Option<WorkloadId> {
    None
}

/// Whether a certificate carries `expected` among its names.
fn proves(_leaf: &rustls_pki_types::CertificateDer<'_>, _expected: &WorkloadId) -> bool {
    false
}
