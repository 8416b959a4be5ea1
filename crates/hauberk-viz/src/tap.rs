//! Watching requests through a proxy's tap port.
//!
//! The caller reaches the port, in plaintext by the pod's loopback address or inside mesh TLS, and
//! hands the connection over. Needs a tokio runtime. What is asked for and what comes back are the
//! mesh's words (`hauberk_model::tap`).

use hauberk_model::tap::{Tap, TapEvent};
use hauberk_wire::{
    api::tap::{TapEvent as Message, tap_client::TapClient},
    tap as wire,
};
use hyper_util::rt::TokioIo;
use std::{io, sync::Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The connection failed.
    #[error("the connection to the tap port failed: {0}")]
    Connection(#[from] tonic::transport::Error),
    /// The proxy refuses, or has gone.
    #[error("the proxy ended the tap: {0}")]
    Ended(#[from] tonic::Status),
}

/// A connection to a proxy's tap port.
#[derive(Clone, Debug)]
pub struct Watcher {
    client: TapClient<Channel>,
}

/// What one tap reports.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<Message>,
}

impl Watcher {
    /// Speaks over a connection to the port.
    ///
    /// # Errors
    /// If the other end does not speak HTTP/2.
    pub async fn new<I>(io: I) -> Result<Self, TapError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = Mutex::new(Some(io));
        let connect = tower::service_fn(move |_| {
            let io = io.lock().ok().and_then(|mut io| io.take());
            // The one connection cannot be made again.
            let io = io.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { io.map(TokioIo::new) }
        });
        // The authority is for form's sake; the connection is made.
        let channel = Endpoint::from_static("http://tap").connect_with_connector(connect).await?;
        Ok(Self { client: TapClient::new(channel) })
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// If the proxy refuses.
    pub async fn observe(&mut self, tap: &Tap) -> Result<Events, TapError> {
        let stream = self.client.observe(wire::to_wire(tap)).await?.into_inner();
        Ok(Events { stream })
    }
}

impl Events {
    /// The next event; none when the tap's limit is reached. What cannot be understood is left out.
    ///
    /// # Errors
    /// If the proxy has gone.
    pub async fn next(&mut self) -> Result<Option<TapEvent>, TapError> {
        while let Some(message) = self.stream.message().await? {
            if let Ok(event) = wire::event_from_wire(message) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}
