//! Sending requests to one endpoint, or to the application beside us.
//!
//! A [`Client`] belongs to one endpoint on one worker and is kept by the balancer. It holds a pool
//! of HTTP/1 connections and one shared HTTP/2 connection, both made on demand. Which is used:
//!
//! | request | endpoint's proxy | goes over |
//! |---|---|---|
//! | HTTP/2 | any | the HTTP/2 connection |
//! | HTTP/1 | hints HTTP/2 | the HTTP/2 connection, marked by [`orig_proto`] |
//! | HTTP/1 that wants an upgrade | any | an HTTP/1 connection of its own |
//! | HTTP/1.0, or without `Host` | hints nothing | an HTTP/1 connection of its own |
//! | HTTP/1 | hints nothing | the pool |
//!
//! What can go wrong is told apart where it happens ([`SendError`]): a request of which nothing
//! was sent comes back and may go elsewhere; a connection that broke is the endpoint's failure; a
//! stream that the peer reset is passed on with its code.
//!
//! Estimate per request on a warm connection: over HTTP/1 one write, one read, two wake-ups by the
//! kernel and an allocation for the response's head (decision 0027); over HTTP/2 h2's work (about
//! 2 µs) and one wake-up, because requests talk to the connection's state directly (decision 0026).

mod http1;
mod http2;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::Endpoint;
use hauberk_model::endpoints::ProtocolHint;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use tokio::sync::{Notify, oneshot};

use super::body::Body;
use super::classify::Break;
use super::failure::{Failure, What};
use super::headers::{self, L5D_DST_CANONICAL};
use super::http1::Connection;
use super::incoming::{Incoming, StreamError};
use super::keeper::KeepAlive;
use super::orig_proto;
use super::pool::Pool;
use super::upgrade;
use crate::dial::{self, Found};
use crate::inbound::forward;
use crate::io::Io;
use crate::settings::Side;
use crate::telemetry::http::Series;
use crate::telemetry::labels::IsLocal;
use crate::transport_header::Session;
use crate::worker::Worker;
use http1::{Got, Lost};
use http2::Unsent;

/// Largest header block we accept in a response over HTTP/2. Larger than the 16 KiB of hyper, so
/// that what came in by HTTP/1 can travel between proxies.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Streams opened before the peer has said how many it allows.
const FIRST_STREAMS_MAX: usize = 100;

/// Streams that we may reset because of the peer's errors until the connection is ended.
const ERROR_RESETS_MAX: usize = 1024;

/// Largest send buffer of a stream when nothing is set (linkerd2-proxy v2).
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// A connection idle for this long may be about to be closed by a peer whose patience is shorter
/// than ours; a request over it is kept ready to be sent again. Busy connections pay nothing.
const STALE_AFTER: Duration = Duration::from_millis(50);

/// Connections to one endpoint. Cloning copies one `Rc`.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    way: Way,
    /// HTTP/1 requests travel over HTTP/2.
    carries_http1: bool,
    authority_override: Option<Authority>,
    series: Option<Rc<Series>>,
    pool: Rc<Pool>,
    http2: RefCell<Http2>,
}

/// How the endpoint is reached.
#[derive(Debug)]
enum Way {
    Endpoint(Arc<Endpoint>, Found),
    Application(SocketAddr),
}

/// The shared HTTP/2 connection.
#[derive(Debug, Default)]
enum Http2 {
    #[default]
    None,
    Dialling(Rc<Dialling>),
    Ready(http2::Handle),
}

/// A connection being made, by a task of its own, so that no request that goes away stops it.
#[derive(Debug, Default)]
struct Dialling {
    done: Notify,
    result: RefCell<Option<Result<http2::Handle, Rc<Failure>>>>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    /// The response; headers of the hop are removed unless it is an upgrade.
    pub response: Response<Incoming>,
    /// The connection, to be used again when the response has ended.
    pub keep: Keep,
    /// Where the raw connection comes from if the response is an upgrade.
    pub upgrade: Option<oneshot::Receiver<upgrade::Raw>>,
}

/// A connection that may be used again.
#[derive(Debug, Default)]
pub enum Keep {
    /// It is shared, or not to be used again.
    #[default]
    Nothing,
    /// It goes back to its pool.
    Http1(Rc<Worker>, Rc<Pool>, Rc<Connection>),
}

impl Keep {
    /// The response has ended; the connection goes back to its pool.
    pub fn reuse(self) {
        if let Keep::Http1(worker, pool, connection) = self {
            pool.put(&worker, connection);
        }
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError {
    /// Nothing of the request was sent; it may go elsewhere.
    Unsent(Box<Request<Body>>, Rc<Failure>),
    /// The connection broke with the request under way.
    Broken(Failure),
    /// The peer reset the stream; the code is passed on.
    Reset(StreamError),
}

impl Client {
    /// A client for an endpoint that discovery named.
    pub fn endpoint(
        worker: &Worker,
        endpoint: &Arc<Endpoint>,
        found: Found,
        series: Rc<Series>,
    ) -> Self {
        let is_local = dial::is_local(worker, endpoint) == IsLocal::Yes;
        let carries_http1 = endpoint.hint == ProtocolHint::Http2 && !is_local;
        let text = endpoint.authority_override.as_deref().filter(|_| !is_local);
        let authority_override = text.and_then(|text| text.parse().ok());
        let way = Way::Endpoint(Arc::clone(endpoint), found);
        let side = &worker.config.outbound.side;
        Self::new(way, carries_http1, authority_override, Some(series), side)
    }

    /// A client for the application beside us.
    pub fn application(worker: &Worker, address: SocketAddr) -> Self {
        let side = &worker.config.inbound.side;
        Self::new(Way::Application(address), false, None, None, side)
    }

    fn new(
        way: Way,
        carries_http1: bool,
        authority_override: Option<Authority>,
        series: Option<Rc<Series>>,
        side: &Side,
    ) -> Self {
        let pool = Pool::new(side.idle_connections_max, side.pool_idle_timeout);
        let http2 = RefCell::default();
        let inner = Inner { way, carries_http1, authority_override, series, pool, http2 };
        Self { inner: Rc::new(inner) }
    }

    /// Counters of the endpoint; the application has none of its own.
    pub fn series(&self) -> Option<&Rc<Series>> {
        self.inner.series.as_ref()
    }

    /// Idle HTTP/1 connections.
    pub fn idle(&self) -> usize {
        self.inner.pool.len()
    }

    /// Sends a request and waits for the response's head. Headers of the client's hop are removed
    /// already.
    pub async fn send(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Answer, SendError> {
        if let Some(authority) = &self.inner.authority_override {
            override_authority(&mut request, authority);
        }
        match request.version() {
            // What is rare or happens once per connection is boxed below, here and in the balancer:
            // this future is part of every request's, which is allocated per HTTP/2 stream.
            Version::HTTP_2 => self.send_http2(worker, request).await,
            version if headers::wants_upgrade(version, request.method(), request.headers()) => {
                Box::pin(self.send_upgrade(worker, request)).await
            }
            _ if self.inner.carries_http1 => self.send_carried(worker, request).await,
            _ => self.send_http1(worker, request).await,
        }
    }

    /// HTTP/1 over the shared HTTP/2 connection. Nobody behind it speaks HTTP/2, so a reset is a
    /// broken connection to them.
    async fn send_carried(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Answer, SendError> {
        let uri = request.uri().clone();
        let version = orig_proto::upgrade(&mut request);
        match self.send_http2(worker, request).await {
            Ok(mut answer) => {
                orig_proto::restore_response(&mut answer.response, version);
                Ok(answer)
            }
            Err(SendError::Reset(error)) => Err(SendError::Broken(io_failure(error))),
            Err(SendError::Unsent(mut request, failure)) => {
                // Back to what it was; the next endpoint may not want it carried.
                request.headers_mut().remove(headers::L5D_ORIG_PROTO);
                *request.version_mut() = version;
                *request.uri_mut() = uri;
                Err(SendError::Unsent(request, failure))
            }
            Err(broken @ SendError::Broken(_)) => Err(broken),
        }
    }

    async fn send_http2(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Answer, SendError> {
        let version = request.version();
        // A connection that was closed under us is noticed at the first request; the second try
        // is over a new one.
        for is_last in [false, true] {
            let handle = match self.ready_http2() {
                Some(handle) => handle,
                None => match Box::pin(self.connected_http2(worker)).await {
                    Ok(handle) => handle,
                    Err(failure) => return Err(SendError::Unsent(request, failure)),
                },
            };
            if request.uri().authority().is_none() {
                // Without an authority h2 wants to be told that this is legal, as it is for a
                // request that a proxy passes on.
                *request.version_mut() = Version::HTTP_11;
            }
            match handle.send(worker, request).await {
                Ok(response) => return Ok(Answer::new(response, Keep::Nothing)),
                Err(Unsent::Closed(mut unsent, error)) if is_last => {
                    *unsent.version_mut() = version;
                    return Err(SendError::Unsent(unsent, Rc::new(io_failure(error))));
                }
                Err(Unsent::Closed(unsent, _)) => request = unsent,
                Err(Unsent::Failed(error)) => return Err(sent_error(error.into())),
            }
        }
        unreachable!("the last round returns")
    }

    async fn send_http1(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Answer, SendError> {
        let version = request.version();
        let is_pooled = version == Version::HTTP_11
            && request.headers().get(HOST).is_some_and(|host| !host.is_empty());
        while is_pooled && let Some((connection, since)) = self.inner.pool.take() {
            let is_repeatable = since.elapsed() >= STALE_AFTER && is_repeatable(&request);
            let is_empty = http_body::Body::is_end_stream(request.body());
            match http1::send(worker, &connection, &mut request).await {
                Ok(got) => return self.answer_http1(worker, connection, got),
                // Closed by the peer, which cannot have known of the request.
                Err(Lost { error, is_sent, is_heard }) if error.is_closed() && !is_heard => {
                    if !(is_repeatable || (is_empty && !is_sent)) {
                        return Err(sent_error(error.into()));
                    }
                }
                Err(lost) => return Err(sent_error(lost.error.into())),
            }
        }
        let io = match Box::pin(self.dial(worker, Session::Http1)).await {
            Ok(io) => io,
            Err(failure) => return Err(SendError::Unsent(request, Rc::new(failure))),
        };
        let connection = Rc::new(Connection::new(io));
        let is_empty = http_body::Body::is_end_stream(request.body());
        match http1::send(worker, &connection, &mut request).await {
            Ok(mut got) => {
                got.is_reusable &= is_pooled;
                self.answer_http1(worker, connection, got)
            }
            Err(lost) => Err(unsent_or_broken(request, lost, is_empty)),
        }
    }

    fn answer_http1(
        &self,
        worker: &Rc<Worker>,
        connection: Rc<Connection>,
        got: Got,
    ) -> Result<Answer, SendError> {
        let Got { response, is_reusable } = got;
        let response = unless_switched(response)?;
        let keep = match is_reusable {
            true => Keep::Http1(Rc::clone(worker), Rc::clone(&self.inner.pool), connection),
            false => Keep::Nothing,
        };
        Ok(Answer::new(response, keep))
    }

    /// A connection of its own, given up to raw bytes if the response agrees.
    async fn send_upgrade(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Answer, SendError> {
        let io = match self.dial(worker, Session::Http1).await {
            Ok(io) => io,
            Err(failure) => return Err(SendError::Unsent(request, Rc::new(failure))),
        };
        let connection = Rc::new(Connection::new(io));
        let is_empty = http_body::Body::is_end_stream(request.body());
        let Got { mut response, .. } = match http1::send(worker, &connection, &mut request).await {
            Ok(got) => got,
            Err(lost) => return Err(unsent_or_broken(request, lost, is_empty)),
        };
        if !upgrade::is_upgrade(request.method(), response.status()) {
            return Ok(Answer::new(response, Keep::Nothing));
        }
        let status = response.status();
        if *request.method() == http::Method::CONNECT {
            headers::strip_connect_framing(status, response.headers_mut());
        }
        let (give, raw) = oneshot::channel();
        // A server that switches before it has had the whole request gets no raw bytes; the channel closes.
        if let Some(connection) = Rc::into_inner(connection) {
            let (io, ahead) = connection.into_parts();
            let _ = give.send(upgrade::Raw::new(io, ahead));
        }
        Ok(Answer { response, keep: Keep::Nothing, upgrade: Some(raw) })
    }

    async fn dial(&self, worker: &Rc<Worker>, session: Session) -> Result<Io, Failure> {
        match &self.inner.way {
            // Boxed: rare, and large enough (TLS) to weigh on every request's future otherwise.
            Way::Endpoint(endpoint, found) => {
                Box::pin(dial::dial(worker, (endpoint, found), session)).await
            }
            Way::Application(address) => Box::pin(forward::connect(worker, *address)).await,
        }
    }

    /// The shared connection, if there is one.
    fn ready_http2(&self) -> Option<http2::Handle> {
        match &mut *self.inner.http2.borrow_mut() {
            Http2::Ready(handle) => (!handle.is_closed()).then(|| handle.clone()),
            Http2::Dialling(_) | Http2::None => None,
        }
    }

    /// The shared connection, made if there is none. Requests that come meanwhile wait for the
    /// same attempt.
    async fn connected_http2(&self, worker: &Rc<Worker>) -> Result<http2::Handle, Rc<Failure>> {
        if let Some(handle) = self.ready_http2() {
            return Ok(handle);
        }
        let dialling = match &mut *self.inner.http2.borrow_mut() {
            Http2::Dialling(dialling) => Rc::clone(dialling),
            state @ (Http2::None | Http2::Ready(_)) => {
                let dialling = Rc::new(Dialling::default());
                *state = Http2::Dialling(Rc::clone(&dialling));
                let (client, worker_) = (self.clone(), Rc::clone(worker));
                let task = client.dial_http2(worker_, Rc::clone(&dialling));
                worker.tasks.spawn_local("http2 dial", task);
                dialling
            }
        };
        loop {
            let mut done = std::pin::pin!(dialling.done.notified());
            done.as_mut().enable();
            if let Some(result) = &*dialling.result.borrow() {
                return result.clone();
            }
            // Bounded by the connect timeout, within which the task ends.
            done.await;
        }
    }

    async fn dial_http2(self, worker: Rc<Worker>, dialling: Rc<Dialling>) {
        let result = self.connect_http2(&worker).await.map_err(Rc::new);
        *self.inner.http2.borrow_mut() = match &result {
            Ok(sender) => Http2::Ready(sender.clone()),
            Err(_) => Http2::None,
        };
        *dialling.result.borrow_mut() = Some(result);
        dialling.done.notify_waiters();
    }

    async fn connect_http2(&self, worker: &Rc<Worker>) -> Result<http2::Handle, Failure> {
        let io = self.dial(worker, Session::Http2).await?;
        let (builder, care) = self.http2_settings(worker);
        http2::connect(worker, io, &builder, care).await.map_err(io_failure)
    }

    fn http2_settings(&self, worker: &Worker) -> (h2::client::Builder, http2::Care) {
        let (side, params) = match &self.inner.way {
            Way::Endpoint(endpoint, _) => {
                (&worker.config.outbound.side, endpoint.http2.unwrap_or_default())
            }
            Way::Application(_) => (&worker.config.inbound.side, Default::default()),
        };
        let ours = side.http2_client;
        let mut builder = h2::client::Builder::new();
        let stream = params.initial_stream_window.unwrap_or(ours.initial_stream_window);
        let connection = params.initial_connection_window.unwrap_or(ours.initial_connection_window);
        builder
            .enable_push(false)
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .initial_max_send_streams(FIRST_STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
            .max_send_buffer_size(
                params.max_send_buf_size.map_or(SEND_BUFFER_BYTES, |bytes| bytes as usize),
            );
        if let Some(max) = params.max_frame_size {
            builder.max_frame_size(max);
        }
        if let Some(max) = params.max_concurrent_reset_streams {
            builder.max_concurrent_reset_streams(max as usize);
        }
        let keep_alive = params.keep_alive.map(|alive| KeepAlive {
            interval: alive.interval,
            timeout: alive.timeout,
            while_idle: alive.while_idle,
        });
        let adaptive = params.adaptive_flow_control.then_some(stream);
        (builder, http2::Care { keep_alive, adaptive })
    }
}

impl Answer {
    fn new(mut response: Response<Incoming>, keep: Keep) -> Self {
        headers::strip_connection_headers(response.headers_mut());
        Self { response, keep, upgrade: None }
    }
}

/// Whether a request may be sent again if a kept connection turns out to be closed: safe or idempotent
/// (RFC 9110 section 9.2.2), and without a body.
fn is_repeatable(request: &Request<Body>) -> bool {
    http_body::Body::is_end_stream(request.body()) && request.method().is_idempotent()
}

/// Asks for `authority` instead of what the request names (gateways of other clusters). A target in origin form stays
/// so: the application would see the difference.
fn override_authority(request: &mut Request<Body>, authority: &Authority) {
    request.headers_mut().remove(L5D_DST_CANONICAL);
    if request.version() == Version::HTTP_2 {
        request.headers_mut().remove(HOST);
    } else {
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is printable");
        request.headers_mut().insert(HOST, host);
        if !headers::is_absolute_form(request.uri()) {
            return;
        }
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority.clone());
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all given");
}

/// What became of a request over a new connection. It comes back if nothing of it was sent and nothing of its body
/// was taken.
fn unsent_or_broken(request: Box<Request<Body>>, lost: Lost, is_empty: bool) -> SendError {
    if is_empty && !lost.is_sent {
        return SendError::Unsent(request, Rc::new(io_failure(lost.error)));
    }
    sent_error(lost.error.into())
}

fn sent_error(error: StreamError) -> SendError {
    match error.how() {
        Break::Reset(_) => SendError::Reset(error),
        Break::Timeout(_) | Break::Withdrawn | Break::Unclassified => {
            SendError::Broken(io_failure(error))
        }
    }
}

/// The response to a request that asked for no upgrade. A switch of protocols is none: client and
/// server would no longer agree on what is spoken (RFC 9110 section 15.2.2).
fn unless_switched<B>(response: Response<B>) -> Result<Response<B>, SendError> {
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let error = io::Error::other("the server switched protocols unasked");
    Err(SendError::Broken(Failure::peer(What::Io(error))))
}

fn io_failure(error: impl Into<StreamError>) -> Failure {
    Failure::peer(What::Io(io::Error::other(error.into())))
}
