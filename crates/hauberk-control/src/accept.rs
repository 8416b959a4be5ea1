//! Accepting connections until the process drains: the loop that all listeners share.
//!
//! At most so many connections at a time; more are closed at once, so that a stranger cannot exhaust
//! descriptors. Each is served in a task of its own, which holds a guard: draining waits for it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hauberk_process::{DrainGuard, Shutdown, Spawner};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Pause after a failed accept, which usually means that descriptors have run out.
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves what connects to `socket`, at most `max` at a time; returns when draining begins. `name` is
/// for logs, `connections` starts the tasks.
pub(crate) async fn accept<S, F, E>(
    (name, socket): (&'static str, TcpListener),
    max: usize,
    connections: &Spawner,
    shutdown: &Shutdown,
    serve: S,
) where
    S: Fn(TcpStream, SocketAddr, DrainGuard) -> F,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let permits = Arc::new(Semaphore::new(max));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shutdown.draining() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(listener = name, %error, "cannot accept");
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            debug!(listener = name, %peer, "too many connections, closed");
            continue;
        };
        let serving = serve(stream, peer, shutdown.guard());
        connections.spawn(async move {
            if let Err(reason) = serving.await {
                debug!(listener = name, %peer, %reason, "connection ended");
            }
            drop(permit);
        });
    }
}
