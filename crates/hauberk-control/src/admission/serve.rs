//! The webhooks' listeners: HTTPS with a certificate that is followed, and bounds of everything.
//!
//! | request | answer |
//! |---|---|
//! | `POST /` with a review | 200 and the reviewed review |
//! | `POST /` with anything else | 400 and why |
//! | another method, another path | 405, 404 |
//! | a body that is too long, too slow, or too much beside the others' | 413, 408, 503 |
//!
//! What the API server does without an answer is the `failurePolicy` of its configuration.
//!
//! Who calls is not asked: a webhook that validates tells nothing that its caller did not know, and
//! API servers have client certificates only if somebody gave them some. That is why a stranger
//! must not be able to use up memory, descriptors or the processor: [`CONNECTIONS_MAX`] connections
//! a listener, [`BODIES_BYTES_MAX`] of bodies at a time, [`REVIEWS_MAX`] reviews at a time, a
//! deadline for each step.
//!
//! A new certificate counts for connections that come after it; those that are open end by
//! themselves. TLS is 1.2 or newer, HTTP/1.1 or HTTP/2 by ALPN.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hauberk_identity::rustls::ServerConfig;
use hauberk_process::{DrainGuard, Spawner, Tasks};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::review::{self, Answer, Malformed};
use crate::accept::accept;
use crate::metrics::AdmissionMetrics;

/// Connections served at a time on one listener; more are closed at once. An API server holds one
/// or two.
const CONNECTIONS_MAX: usize = 256;

/// Streams on one connection of HTTP/2.
const STREAMS_MAX: u32 = 64;

/// Bytes of a body. A review holds an object twice at most, each at most 3 MiB (the API server's
/// own limit); Linkerd's injector has the same limit.
const BODY_BYTES_MAX: usize = 10 << 20;

/// Bytes of all bodies that are arriving or being reviewed.
const BODIES_BYTES_MAX: usize = 64 << 20;

/// Reviews under way at a time. Each may take some thirty times its body while it is read as JSON;
/// one of usual size is done in a tenth of a millisecond.
const REVIEWS_MAX: usize = 2;

/// From this size on a body is read on a thread of its own, so that other tasks are not held up.
const LONG_BODY_BYTES: usize = 64 << 10;

/// Time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a request's head; Linkerd's webhooks have the same.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for a request's body; the API server itself waits for 10 s by default.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle client of HTTP/2 is pinged, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What all webhooks share. Cloning copies some `Arc`s.
#[derive(Clone)]
pub(crate) struct Room {
    certificate: watch::Receiver<Arc<ServerConfig>>,
    metrics: AdmissionMetrics,
    tasks: Tasks,
    /// Bytes that bodies may still take.
    bytes: Arc<Semaphore>,
    /// Reviews that may still begin.
    reviews: Arc<Semaphore>,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nothing arrived in time")]
    Silent,
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Why a request has no review for an answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("there is nothing at this path; reviews are posted to /")]
    Path,
    #[error("reviews are posted")]
    Method,
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    Long,
    #[error("the body did not arrive within {} s", BODY_TIMEOUT.as_secs())]
    Slow,
    #[error("too many reviews at a time")]
    Busy,
    #[error("cannot read the body: {0}")]
    Broken(hyper::Error),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("the review was not finished")]
    Unfinished,
}

impl Room {
    /// A room whose connections show the newest certificate.
    pub(crate) fn new(
        certificate: watch::Receiver<Arc<ServerConfig>>,
        metrics: AdmissionMetrics,
        tasks: &Tasks,
    ) -> Self {
        Self {
            certificate,
            metrics,
            tasks: tasks.clone(),
            bytes: Arc::new(Semaphore::new(BODIES_BYTES_MAX)),
            reviews: Arc::new(Semaphore::new(REVIEWS_MAX)),
        }
    }

    /// Serves until the process drains.
    pub(crate) fn serve(&self, name: &'static str, socket: TcpListener) {
        let room = self.clone();
        let shutdown = self.tasks.shutdown().clone();
        let connections = self.tasks.kind("webhook connection");
        self.tasks.spawn_essential("webhook listener", async move {
            let serve = |stream, peer, guard| {
                let (room, executor) = (room.clone(), connections.clone());
                async move { room.connection(stream, peer, executor, &guard).await }
            };
            accept((name, socket), CONNECTIONS_MAX, &connections, &shutdown, serve).await;
        });
    }

    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        executor: Spawner,
        guard: &DrainGuard,
    ) -> Result<(), Ended> {
        stream.set_nodelay(true)?;
        let config = Arc::clone(&self.certificate.borrow());
        let handshake = TlsAcceptor::from(config).accept(stream);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake);
        let stream = tokio::select! {
            stream = handshake => stream,
            () = guard.draining() => return Ok(()),
        };
        match stream {
            Ok(Ok(stream)) => self.http(stream, peer, executor, guard).await,
            Ok(Err(error)) => Err(Ended::Handshake(error)),
            Err(_elapsed) => Err(Ended::Silent),
        }
    }

    async fn http(
        &self,
        stream: TlsStream<TcpStream>,
        peer: SocketAddr,
        executor: Spawner,
        guard: &DrainGuard,
    ) -> Result<(), Ended> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let has_asked = Arc::new(AtomicBool::new(false));
        let (room, asked) = (self.clone(), Arc::clone(&has_asked));
        let service = service_fn(move |request| {
            asked.store(true, Relaxed);
            let room = room.clone();
            async move { Ok::<_, Infallible>(room.answer(request, peer).await) }
        });
        let io = TokioIo::new(stream);
        if !is_http2 {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                result = connection.as_mut() => return Ok(result?),
                () = guard.draining() => connection.as_mut().graceful_shutdown(),
            }
            return Ok(connection.await?);
        }
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX);
        let mut connection = pin!(builder.serve_connection(io, service));
        // Pings begin with the connection's preface; before that nobody else looks at the time.
        let mut head = pin!(tokio::time::sleep(HEAD_TIMEOUT));
        let mut is_draining = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => return Ok(result?),
                () = guard.draining(), if !is_draining => {
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = head.as_mut(), if !has_asked.load(Relaxed) => return Err(Ended::Silent),
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        match self.review(request).await {
            Ok(Answer { review, kind, word, refusal }) => {
                if let Some(reason) = refusal {
                    info!(reason, "object refused");
                }
                self.metrics.review(kind, word);
                respond(StatusCode::OK, "application/json", review.to_string())
            }
            Err(failed) => {
                let (status, label) = failed.status();
                self.metrics.failure(label);
                debug!(%peer, reason = %failed, "webhook called in vain");
                let mut response = respond(status, "text/plain", format!("{failed}\n"));
                if let Failed::Method = failed {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                response
            }
        }
    }

    async fn review(&self, request: Request<Incoming>) -> Result<Answer, Failed> {
        if request.uri().path() != "/" {
            return Err(Failed::Path);
        }
        if request.method() != Method::POST {
            return Err(Failed::Method);
        }
        let mut taken = Taken { bytes: &self.bytes, count: 0 };
        let body = self.body(request.into_body(), &mut taken);
        let body = tokio::time::timeout(BODY_TIMEOUT, body).await.map_err(|_| Failed::Slow)??;
        let _permit = self.reviews.acquire().await.map_err(|_| Failed::Unfinished)?;
        if body.len() < LONG_BODY_BYTES {
            return Ok(review::answer(&body)?);
        }
        let reviewed = self.tasks.spawn_blocking("webhook review", move || review::answer(&body));
        Ok(reviewed.await.map_err(|_| Failed::Unfinished)??)
    }

    async fn body(&self, mut body: Incoming, taken: &mut Taken<'_>) -> Result<Vec<u8>, Failed> {
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(Failed::Long);
        }
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Failed::Broken)?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(Failed::Long);
            }
            taken.take(data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }
}

/// Bytes of a body, given back when it goes.
struct Taken<'a> {
    bytes: &'a Semaphore,
    count: usize,
}

impl Taken<'_> {
    fn take(&mut self, count: usize) -> Result<(), Failed> {
        let wanted = u32::try_from(count).map_err(|_| Failed::Long)?;
        self.bytes.try_acquire_many(wanted).map_err(|_| Failed::Busy)?.forget();
        self.count += count;
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.bytes.add_permits(self.count);
    }
}

impl Failed {
    /// The status of the answer, and the word in metrics.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Path => (StatusCode::NOT_FOUND, "path"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::Long => (StatusCode::PAYLOAD_TOO_LARGE, "long"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "slow"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Broken(_) => (StatusCode::BAD_REQUEST, "broken"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Unfinished => (StatusCode::INTERNAL_SERVER_ERROR, "unfinished"),
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
