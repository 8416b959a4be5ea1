//! The admin port: the shared server's routes, in plaintext or inside mesh TLS.
//!
//! Kubelets probe in plaintext; a meshed scraper dials the port with mesh TLS, because discovery told it our identity.
//! The port is exempt from capture, so connections arrive here directly.

use crate::{
    detect::Sniffed,
    io::Io,
    tls::{
        Identity,
        accept::{self, Offer},
    },
};
use hauberk_identity::Alpn;
use hauberk_linux::original_dst::canonical;
use hauberk_process::{Shutdown, Tasks, admin::Admin};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 128;

/// For the first bytes and the TLS handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin port until the process has ended.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, identity: Identity, tasks: Tasks) {
    let connections = tasks.kind("admin-connection");
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shutdown = tasks.shutdown().clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.ended() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept admin connections");
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (admin, identity, shutdown) = (Arc::clone(&admin), identity.clone(), shutdown.clone());
        let executor = connections.clone();
        connections.spawn(async move {
            match tokio::time::timeout(OPEN_TIMEOUT, open(Io::plain(socket), &identity)).await {
                Ok(Ok(io)) => {
                    admin.serve_connection(io, Some(canonical(peer)), executor, &shutdown).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "admin connection failed"),
                Err(_elapsed) => {}
            }
            drop(permit);
        });
    }
}

/// Ends mesh TLS if the client speaks it.
async fn open(mut io: Io, identity: &Identity) -> io::Result<Io> {
    let mut sniffed = Sniffed::default();
    let offer = accept::offer(&mut io, &mut sniffed, &identity.server_name).await?;
    sniffed.give_back(&mut io);
    match (offer, identity.certified()) {
        (Offer::Ours, Some(certified)) => Ok(accept::accept(io, &certified, Alpn::None).await?.io),
        (Offer::Ours | Offer::Foreign(_) | Offer::None, _) => Ok(io),
    }
}

/// The routes of the shared server that need a shutdown handle only when the settings allow it.
pub fn with_shutdown(admin: Admin, is_enabled: bool, shutdown: &Shutdown) -> Admin {
    if is_enabled { admin.with_shutdown(shutdown.clone()) } else { admin }
}
