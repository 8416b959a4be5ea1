//! Listeners: who may connect, in which form, and HTTP/2.
//!
//! A connection that begins with a TLS handshake is ended here with the control plane's own
//! certificate; a client certificate is asked for and not required, since a proxy has none before
//! its first request to the identity service. A connection in the clear is taken from the same host
//! only: from loopback, or from the address it was made to (a sidecar in the same pod). Everything
//! is HTTP/2 by prior knowledge, as gRPC between proxies and control plane always was.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections a listener, [`HANDSHAKE_TIMEOUT`] for the first byte and
//! for the handshake, pings for clients that vanished. While draining nothing is accepted, clients
//! are told to go away (RFC 9113, section 6.8), and streams end by themselves.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hauberk_identity::{Alpn, Certified};
use hauberk_process::{DrainGuard, Spawner, Tasks};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tracing::{debug, warn};

use crate::accept::accept;

/// Connections served at a time on one listener; more are closed at once. A proxy holds one or two.
const CONNECTIONS_MAX: usize = 20_000;

/// Streams on one connection. A proxy has one for each target and port it deals with, so the usual
/// limit of 100 or 200 would starve proxies in front of big clients.
const STREAMS_MAX: u32 = 100_000;

/// Time for the first byte, and again for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle client is pinged, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// One of the control plane's ports.
pub(crate) struct Listener {
    /// For logs.
    pub(crate) name: &'static str,
    /// Bound already.
    pub(crate) socket: TcpListener,
    /// The certificate to show; none where the control plane has no issuer.
    pub(crate) certificate: Option<watch::Receiver<Certified>>,
    /// What is served.
    pub(crate) routes: Routes,
}

/// Binds an address. Where IPv6 is switched off, the IPv6 wildcard becomes the one of IPv4.
///
/// # Errors
/// What the kernel said about the address that was asked for.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            let v4 = SocketAddr::new(IpAddr::from([0; 4]), address.port());
            TcpListener::bind(v4).await.map_err(|_| error)
        }
        result => result,
    }
}

impl Listener {
    /// Serves until the process drains.
    pub(crate) fn serve(self, tasks: &Tasks) {
        let shutdown = tasks.shutdown().clone();
        let connections = tasks.kind("grpc connection");
        tasks.spawn_essential("grpc listener", async move {
            let Self { name, socket, certificate, routes } = self;
            let (routes, has_warned) = (routes.prepare(), AtomicBool::new(false));
            let service = Arc::new(Service { name, has_warned, certificate, routes });
            let serve = |stream, peer, guard| {
                let (service, executor) = (Arc::clone(&service), connections.clone());
                async move { service.connection(stream, peer, executor, &guard).await }
            };
            accept((name, socket), CONNECTIONS_MAX, &connections, &shutdown, serve).await;
        });
    }
}

/// Serves one connection that did not come through a listener, until it ends or the process drains.
pub(crate) fn serve_connection<I>(io: I, routes: Routes, tasks: &Tasks)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (guard, executor) = (tasks.shutdown().guard(), tasks.kind("grpc connection"));
    let service =
        Service { name: "memory", has_warned: AtomicBool::new(false), certificate: None, routes };
    executor.clone().spawn(async move {
        if let Err(reason) = service.http(io, executor, &guard).await {
            debug!(%reason, "connection ended");
        }
    });
}

/// What the connections of one listener share.
struct Service {
    name: &'static str,
    /// Whether plaintext from elsewhere was reported already.
    has_warned: AtomicBool,
    certificate: Option<watch::Receiver<Certified>>,
    routes: Routes,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nothing arrived in time")]
    Silent,
    #[error("plaintext is served to this host only")]
    Plaintext,
    #[error("there is no certificate to speak TLS with")]
    NoCertificate,
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

impl Service {
    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        executor: Spawner,
        guard: &DrainGuard,
    ) -> Result<(), Ended> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        let peeked = tokio::select! {
            peeked = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)) => peeked,
            () = guard.draining() => return Ok(()),
        };
        match peeked {
            Err(_elapsed) => return Err(Ended::Silent),
            Ok(Err(error)) => return Err(error.into()),
            // A probe that connects and closes.
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
        }
        if first[0] != TLS_HANDSHAKE {
            return match is_same_host(&stream, peer) {
                true => self.http(stream, executor, guard).await,
                false => {
                    // Once: whoever is configured wrongly tries again and again.
                    if !self.has_warned.swap(true, Relaxed) {
                        warn!(listener = self.name, %peer, "plaintext from another host refused");
                    }
                    Err(Ended::Plaintext)
                }
            };
        }
        let certificate = self.certificate.as_ref().ok_or(Ended::NoCertificate)?;
        let config = Arc::clone(certificate.borrow().server(Alpn::None));
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => self.http(stream, executor, guard).await,
            Ok(Err(error)) => Err(Ended::Handshake(error)),
            Err(_elapsed) => Err(Ended::Silent),
        }
    }

    async fn http<I>(&self, io: I, executor: Spawner, guard: &DrainGuard) -> Result<(), Ended>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX);
        let service = TowerToHyperService::new(self.routes.clone());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            () = guard.draining() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }
}

fn is_same_host(stream: &TcpStream, peer: SocketAddr) -> bool {
    let peer = peer.ip().to_canonical();
    let own = stream.local_addr().map(|own| own.ip().to_canonical());
    peer.is_loopback() || own.is_ok_and(|own| own == peer)
}
