//! Leaving HTTP: WebSocket and other upgrades, and `CONNECT`.
//!
//! The client of the request has one HTTP/1 connection, the endpoint is reached by another of its own
//! (never the shared HTTP/2 connection). When the response agrees to the upgrade, both give up
//! their streams, with what was read too far; [`join`] passes bytes between them until both
//! sides are done. Draining waits for that and does not cut it off (linkerd2-proxy v2).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::oneshot;

use crate::copy;
use crate::io::Io;

/// How long the endpoint's side may take to be given back. It is ready as soon as the response
/// head has been read, so this only bounds a defect.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has left HTTP.
#[derive(Debug)]
pub struct Raw {
    io: Io,
}

impl Raw {
    /// `io`, with the bytes that were read beyond the message head.
    pub fn new(mut io: Io, read: Bytes) -> Self {
        io.unread(read);
        Self { io }
    }
}

/// Whether a response ends HTTP on its connection.
pub fn is_upgrade(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (*method == Method::CONNECT && status.is_success())
}

/// Passes bytes between a client and the endpoint it was upgraded to.
pub async fn join(mut client: Raw, endpoint: oneshot::Receiver<Raw>) {
    match tokio::time::timeout(HANDOVER_TIMEOUT, endpoint).await {
        Ok(Ok(mut endpoint)) => {
            if let Err(error) = copy::both_ways(&mut client.io, &mut endpoint.io).await {
                tracing::debug!(%error, "upgraded connection failed");
            }
        }
        Ok(Err(_)) | Err(_) => tracing::debug!("the endpoint closed instead of upgrading"),
    }
}
