//! The admin server: what is alive, what is ready, what was counted, and how to change or end it.
//!
//! Speaks HTTP/1.1 and HTTP/2 by prior knowledge on one port. Routes, in the form linkerd2-proxy
//! has them:
//!
//! | Path | Method | From | Answer |
//! |---|---|---|---|
//! | `/live` | any | anywhere | 200 `live` |
//! | `/ready` | any | anywhere | 200 `ready`, or 503 `not ready` and what is missing |
//! | `/metrics` | any | anywhere | text for Prometheus, or protobuf if it prefers that; compressed for those who take gzip |
//! | `/proxy-log-level` | GET, PUT | loopback | the filter; 204 when replaced; 400 if malformed; 404 if logging is off |
//! | `/logs.json` | GET `?filter`, QUERY | loopback | log lines as JSON while the caller stays, by the filter in the query or body; 404 if logging is off |
//! | `/env.json` | GET | anywhere | the environment; `?A&B` selects; other than from loopback only `LINKERD2_PROXY_*` |
//! | `/shutdown` | POST | loopback | begins to drain; 404 unless enabled |
//!
//! A binary adds its own with [`Admin::with_route`]. The server answers until the process ends, also while it
//! drains, unless a successor answers on the same port. Bounds: 128 connections, 64 KiB of request body, 10 s for a
//! request to arrive, 4 streams of log lines.
//! Not here: TLS and policy; a proxy that applies them to its admin port terminates the connection
//! itself and calls [`Admin::serve_gated`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::logging::{Filter, LogHandle};
use crate::metrics::{Format, Metrics};
use crate::ready::Readiness;
use crate::shutdown::Cause;
use crate::{Shutdown, Spawner, Tasks};

#[cfg(test)]
mod tests;

/// Connections served at a time; more are closed at once, so that a scraper gone wild cannot
/// exhaust file descriptors.
const CONNECTIONS_MAX: usize = 128;
/// Bytes of a request body. Log filters are the only ones in the table above.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Time for a request's head, and again for its body, to arrive; also for a connection to ask for
/// anything at all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which usually means that descriptors have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time for answers in flight when the process ends, or a successor has taken over.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// Variables that callers from elsewhere may see: settings by contract, never secrets.
const PUBLIC_ENV_PREFIX: &str = "LINKERD2_PROXY_";

/// A response body; may stream.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// What a handler returns.
pub type Response = http::Response<Body>;

type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// A request whose body has arrived.
#[derive(Debug)]
pub struct Request {
    /// Who asks, if known.
    pub peer: Option<SocketAddr>,
    /// The method.
    pub method: Method,
    /// The path, without query.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 64 KiB.
    pub body: Bytes,
}

impl Request {
    /// Whether the caller is on this host (or in this pod). An IPv4 address in an IPv6 one counts
    /// as what it is.
    pub fn is_local(&self) -> bool {
        self.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }
}

/// The routes of an admin server.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    metrics: Metrics,
    log: Option<LogHandle>,
    environment: Arc<BTreeMap<String, String>>,
    shutdown: Option<Shutdown>,
    routes: BTreeMap<&'static str, Handler>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("routes", &self.routes.keys()).finish_non_exhaustive()
    }
}

impl Admin {
    /// Answers `/live`, `/ready` and `/metrics`; all else is added.
    pub fn new(readiness: Readiness, metrics: Metrics) -> Self {
        Self {
            readiness,
            metrics,
            log: None,
            environment: Arc::default(),
            shutdown: None,
            routes: BTreeMap::new(),
        }
    }

    /// Enables `/proxy-log-level`. Leave it out when logging is off.
    #[must_use]
    pub fn with_log_level(mut self, log: LogHandle) -> Self {
        self.log = Some(log);
        self
    }

    /// Enables `/shutdown`.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Gives `/env.json` its content.
    #[must_use]
    pub fn with_environment(mut self, vars: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = Arc::new(vars.into_iter().collect());
        self
    }

    /// Adds a route. A path that ends in `/` also stands for all below it. The routes of the
    /// table above cannot be replaced.
    #[must_use]
    pub fn with_route<F, R>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        self.routes.insert(path, Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// Accepts connections until the process has ended.
    pub fn serve(self, listener: TcpListener, tasks: &Tasks) {
        let connections = tasks.kind("admin connection");
        let shutdown = tasks.shutdown().clone();
        let admin = Arc::new(self);
        tasks.spawn_essential("admin", async move {
            let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = shutdown.ended_or_replaced() => return,
                };
                let (stream, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "admin server cannot accept");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                        continue;
                    }
                };
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    tracing::debug!(%peer, "admin server is full, connection closed");
                    continue;
                };
                let (admin, executor) = (Arc::clone(&admin), connections.clone());
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    admin.serve_connection(stream, Some(peer), executor, &shutdown).await;
                    drop(permit);
                });
            }
        });
    }

    /// Serves one connection until it closes, or the process has ended or been replaced.
    pub async fn serve_connection<I>(
        self: Arc<Self>,
        io: I,
        peer: Option<SocketAddr>,
        executor: Spawner,
        shutdown: &Shutdown,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_gated(io, peer, executor, shutdown, |_| Ok(())).await;
    }

    /// The same, where `gate` decides about each request by its head. What it returns as an error
    /// is the answer to a request that it turns away, whose body is not read.
    pub async fn serve_gated<I, G>(
        self: Arc<Self>,
        io: I,
        peer: Option<SocketAddr>,
        executor: Spawner,
        shutdown: &Shutdown,
        gate: G,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        G: Fn(&http::request::Parts) -> Result<(), (StatusCode, &'static str)>
            + Send
            + Sync
            + 'static,
    {
        let gate = Arc::new(gate);
        let has_asked = Arc::new(AtomicBool::new(false));
        let mut builder = auto::Builder::new(executor);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(REQUEST_TIMEOUT)
            .keep_alive_timeout(REQUEST_TIMEOUT)
            .max_concurrent_streams(32);
        let asks = Arc::clone(&has_asked);
        let service = hyper::service::service_fn(move |request| {
            asks.store(true, Ordering::Relaxed);
            let (admin, gate) = (Arc::clone(&self), Arc::clone(&gate));
            async move {
                let (head, body) = http::Request::into_parts(request);
                Ok::<_, Infallible>(match gate(&head) {
                    Ok(()) => admin.answer(head, body, peer).await,
                    Err((status, why)) => text(status, why),
                })
            }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        // hyper waits without end for the bytes that tell which version is spoken.
        let never_asked = async {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            if has_asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let result = tokio::select! {
            result = connection.as_mut() => Ok(result),
            () = never_asked => return tracing::debug!("admin connection asked for nothing"),
            () = shutdown.ended_or_replaced() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(END_TIMEOUT, connection).await
            }
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
            Err(_elapsed) => tracing::debug!("admin connection cut"),
        }
    }

    /// Reads the body, within bounds, and answers.
    async fn answer(
        &self,
        head: http::request::Parts,
        body: Incoming,
        peer: Option<SocketAddr>,
    ) -> Response {
        let body = Limited::new(body, BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(REQUEST_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                let status = if error.is::<http_body_util::LengthLimitError>() {
                    StatusCode::PAYLOAD_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                };
                return text(status, format!("{error}\n"));
            }
            Err(_elapsed) => return text(StatusCode::REQUEST_TIMEOUT, "request timed out\n"),
        };
        let request = Request {
            peer,
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            body,
        };
        self.handle(request).await
    }

    /// The answer to one request.
    pub async fn handle(&self, request: Request) -> Response {
        match request.path.as_str() {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => self.ready(),
            "/metrics" => self.render_metrics(&request),
            "/proxy-log-level" => self.log_level(&request),
            "/logs.json" => self.logs(&request),
            "/env.json" => self.env(&request),
            "/shutdown" => self.shut_down(&request),
            path => match self.find(path) {
                Some(handler) => handler(request).await,
                None => text(StatusCode::NOT_FOUND, "not found\n"),
            },
        }
    }

    fn find(&self, path: &str) -> Option<Handler> {
        let exact = self.routes.get(path);
        let below = || {
            let above = self
                .routes
                .iter()
                .filter(|(route, _)| route.ends_with('/') && path.starts_with(**route));
            above.max_by_key(|(route, _)| route.len()).map(|(_, handler)| handler)
        };
        exact.or_else(below).cloned()
    }

    fn ready(&self) -> Response {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            text(StatusCode::OK, "ready\n")
        } else {
            let body = format!("not ready\nwaiting for: {}\n", missing.join(", "));
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }

    fn render_metrics(&self, request: &Request) -> Response {
        let format = Format::negotiate(&request.headers);
        let bytes = self.metrics.render_as(format);
        if !takes_gzip(&request.headers) {
            return response(StatusCode::OK, format.content_type(), bytes.into());
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let compressed = gzip.write_all(&bytes).and_then(|()| gzip.finish());
        let compressed = compressed.expect("a Vec can be written to");
        let mut response = response(StatusCode::OK, format.content_type(), compressed.into());
        let value = header::HeaderValue::from_static("gzip");
        response.headers_mut().insert(header::CONTENT_ENCODING, value);
        response
    }

    /// Log lines as they come, until the caller goes away.
    fn logs(&self, request: &Request) -> Response {
        let Some(log) = &self.log else {
            return text(StatusCode::NOT_FOUND, "logging is off\n");
        };
        if !request.is_local() {
            return local_only();
        }
        let filter = match request.method.as_str() {
            "GET" => request.query.as_deref().unwrap_or_default().as_bytes(),
            "QUERY" => &request.body,
            _ => return not_allowed("GET, QUERY"),
        };
        let filter = match parse_filter(filter) {
            Ok(_) if filter.is_empty() => log.filter(),
            Ok(filter) => filter,
            Err((status, reason)) => return text(status, reason),
        };
        let Some(lines) = log.stream(filter) else {
            return text(StatusCode::TOO_MANY_REQUESTS, "too many streams of log lines\n");
        };
        let frames = futures::stream::unfold(lines, |mut lines| async {
            let line = lines.next().await?;
            Some((Ok(Frame::data(line)), lines))
        });
        let mut response = empty(StatusCode::OK);
        let content_type = header::HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        response
    }

    fn log_level(&self, request: &Request) -> Response {
        let Some(log) = &self.log else {
            return text(StatusCode::NOT_FOUND, "logging is off\n");
        };
        if !request.is_local() {
            return local_only();
        }
        match request.method {
            Method::GET => text(StatusCode::OK, log.filter().to_string()),
            Method::PUT => match replace_filter(log, &request.body) {
                Ok(()) => empty(StatusCode::NO_CONTENT),
                Err((status, reason)) => text(status, reason),
            },
            _ => not_allowed("GET, PUT"),
        }
    }

    fn env(&self, request: &Request) -> Response {
        if request.method != Method::GET {
            return not_allowed("GET");
        }
        let visible = |name: &str| request.is_local() || name.starts_with(PUBLIC_ENV_PREFIX);
        let mut object = serde_json::Map::new();
        match request.query.as_deref().filter(|query| !query.is_empty()) {
            Some(query) if query.contains('=') => {
                return text(StatusCode::BAD_REQUEST, "the query lists names: ?A&B\n");
            }
            Some(query) => {
                for name in query.split('&').filter(|name| !name.is_empty()) {
                    let value = self.environment.get(name).filter(|_| visible(name));
                    object.insert(name.to_owned(), value.cloned().into());
                }
            }
            None => {
                for (name, value) in self.environment.iter().filter(|(name, _)| visible(name)) {
                    object.insert(name.clone(), value.clone().into());
                }
            }
        }
        json(StatusCode::OK, &serde_json::Value::Object(object))
    }

    fn shut_down(&self, request: &Request) -> Response {
        let Some(shutdown) = &self.shutdown else {
            return text(StatusCode::NOT_FOUND, "shutdown endpoint is not enabled\n");
        };
        if request.method != Method::POST {
            return not_allowed("POST");
        }
        if !request.is_local() {
            return local_only();
        }
        shutdown.drain(Cause::Requested);
        text(StatusCode::OK, "shutdown\n")
    }
}

fn replace_filter(log: &LogHandle, body: &[u8]) -> Result<(), (StatusCode, String)> {
    let filter = parse_filter(body)?;
    let gone = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
    log.set_filter(filter).map_err(gone)?;
    tracing::info!(filter = %log.filter(), "log filter changed");
    Ok(())
}

fn parse_filter(text: &[u8]) -> Result<Filter, (StatusCode, String)> {
    let malformed = |reason: String| (StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let text = std::str::from_utf8(text).map_err(|error| malformed(error.to_string()))?;
    text.parse().map_err(|error| malformed(format!("{error}")))
}

/// Whether a client takes gzip (RFC 9110 section 12.5.3); one that says nothing may not.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    codings.into_iter().any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

/// A plain-text response.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    response(status, "text/plain; charset=utf-8", body.into())
}

/// A JSON response.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    response(status, "application/json", value.to_string().into())
}

/// A response of any type.
pub fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = empty(status);
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    *response.body_mut() = full(body);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn local_only() -> Response {
    text(StatusCode::FORBIDDEN, "only from loopback\n")
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}
