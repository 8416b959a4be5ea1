//! The tap port: `io.linkerd.proxy.tap.Tap/Observe` for the one workload that may watch.
//!
//! Served on the admin runtime, so that watchers cost data workers nothing but the events themselves. Who may watch is
//! decided once per connection: the workload that the settings name, over mesh TLS, and whoever is on loopback, in
//! plaintext (linkerd2-proxy v2). Everybody else gets `UNAUTHENTICATED` for each call, not a closed connection, so
//! that the reason is seen.
//!
//! The port is exempt from capture. Streams end when their limit is reached, the client goes away, or draining begins.

use super::{Events, Taps};
use crate::{
    detect::Sniffed,
    io::Io,
    tls::{
        Identity,
        accept::{self, Accepted, Offer},
    },
};
use hauberk_identity::Alpn;
use hauberk_linux::original_dst::canonical;
use hauberk_model::WorkloadId;
use hauberk_process::{Shutdown, Spawner, Tasks};
use hauberk_wire::{
    api::tap::{
        ObserveRequest, TapEvent,
        tap_server::{Tap, TapServer},
    },
    tap as wire,
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{Request, Response, Status};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 32;

/// Calls at a time on one connection.
const STREAMS_MAX: u32 = 32;

/// For the first bytes and the TLS handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a watcher may take to read the ends of its streams while the process drains.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed accept.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// A watcher that has died without a word is noticed after these two.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server needs.
#[derive(Clone, Debug)]
pub struct Server {
    /// The taps it opens.
    pub taps: Taps,
    /// Who may tap.
    pub client: WorkloadId,
    /// Who we are.
    pub identity: Identity,
    /// The process's tasks.
    pub tasks: Tasks,
}

impl Server {
    /// Serves the tap port until draining begins.
    pub async fn serve(self, listener: TcpListener) {
        let connections = self.tasks.kind("tap-connection");
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let shutdown = self.tasks.shutdown().clone();
        let server = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.draining() => break,
            };
            let (socket, peer) = match accepted {
                Ok((socket, peer)) => (socket, canonical(peer)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept tap connections");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (server, executor) = (Arc::clone(&server), connections.clone());
            connections.spawn(async move {
                match tokio::time::timeout(OPEN_TIMEOUT, server.open(Io::plain(socket), peer)).await
                {
                    Ok(Ok((io, access))) => server.connection(io, access, executor).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "tap connection failed"),
                    Err(_elapsed) => {}
                }
                drop(permit);
            });
        }
        server.taps.close();
    }

    /// Ends mesh TLS if the client speaks it, and decides what the client may do.
    async fn open(&self, mut io: Io, peer: SocketAddr) -> io::Result<(Io, Access)> {
        let mut sniffed = Sniffed::default();
        let offer = accept::offer(&mut io, &mut sniffed, &self.identity.server_name).await?;
        sniffed.give_back(&mut io);
        match (offer, self.identity.certified()) {
            (Offer::Ours, Some(certified)) => {
                let Accepted { io, client_id, .. } =
                    accept::accept(io, &certified, Alpn::None).await?;
                let access = match client_id {
                    Some(id) if id == self.client => Access::Granted(self.taps.clone()),
                    Some(id) => Access::Refused(id.to_string().into()),
                    None => Access::Refused("a client without an identity".into()),
                };
                Ok((io, access))
            }
            (Offer::None, _) if peer.ip().is_loopback() => {
                Ok((io, Access::Granted(self.taps.clone())))
            }
            (Offer::Ours | Offer::Foreign(_) | Offer::None, _) => {
                Ok((io, Access::Refused("a client without mesh TLS".into())))
            }
        }
    }

    async fn connection(&self, io: Io, access: Access, executor: Spawner) {
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX);
        let service = TowerToHyperService::new(TapServer::new(access));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let shutdown: &Shutdown = self.tasks.shutdown();
        // The process must not end between the end of a stream and its last frame.
        let _guard = shutdown.guard();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = tokio::time::sleep(END_TIMEOUT) => return,
                    () = shutdown.ended() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "tap connection ended");
        }
    }
}

/// What the client of a connection may do.
#[derive(Clone, Debug)]
enum Access {
    /// Watch.
    Granted(Taps),
    /// Nothing, being who it is.
    Refused(Arc<str>),
}

#[tonic::async_trait]
impl Tap for Access {
    type ObserveStream = EventStream;

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let taps = match self {
            Access::Granted(taps) => taps,
            Access::Refused(who) => {
                tracing::info!(client = %who, "tap refused");
                return Err(Status::unauthenticated(format!("{who} may not tap")));
            }
        };
        let tap = wire::from_wire(request.into_inner())
            .map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let events =
            taps.open(tap).map_err(|too_many| Status::resource_exhausted(too_many.to_string()))?;
        Ok(Response::new(EventStream { events }))
    }
}

/// What happened, as it is said to the watcher.
#[derive(Debug)]
struct EventStream {
    events: Events,
}

impl futures::Stream for EventStream {
    type Item = Result<TapEvent, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let event = self.events.receiver.poll_recv(cx);
        event.map(|event| event.map(|event| Ok(wire::event_to_wire(&event))))
    }
}
