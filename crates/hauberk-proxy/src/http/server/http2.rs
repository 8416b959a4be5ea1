//! The server's side of an HTTP/2 connection: accepts streams, starts a task for each, and sends its answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use hauberk_process::Spawner;
use http::header::{CONTENT_LENGTH, TE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request};
use http_body::Body as _;

use super::Answered;
use crate::http::client::HEADER_LIST_BYTES_MAX;
use crate::http::corked::Corked;
use crate::http::headers;
use crate::http::incoming::Incoming;
use crate::http::keeper::{Advice, KeepAlive, Keeper};
use crate::http::pipe::Pipe;
use crate::settings::Http2Server;

/// Bytes a peer may send on a stream, and on a connection, before we have read them, when nothing is set. linkerd2-proxy
/// v2 grants 64 KiB and 1 MiB: a large body then costs a wake-up of all four parties for every 64 KiB. The ratio is the
/// same, so that as many streams may stall before a connection does.
const WINDOWS_DEFAULT: (u32, u32) = (256 * 1024, 4 * 1024 * 1024);

/// Largest send buffer of a stream when nothing is set (hyper 1).
const SEND_BUFFER_BYTES: usize = 400 * 1024;

/// Streams that we may reset because of the peer's errors until the connection is ended (CVE-2024-2758 and its like).
const ERROR_RESETS_MAX: usize = 1024;

/// A connection; ready when it has ended.
pub(super) struct Http2<H> {
    state: State,
    corked: Corked,
    streams: Spawner,
    answer: Rc<H>,
    keep_alive: Option<KeepAlive>,
    /// The initial window, if it follows the measured bandwidth.
    adaptive: Option<u32>,
    is_ending: bool,
}

enum State {
    Handshaking(Box<Handshake<Corked, Bytes>>),
    Serving { connection: Box<Connection<Corked, Bytes>>, keeper: Option<Box<Keeper>> },
}

impl<H> Http2<H> {
    /// Serves what comes over `corked`; each request is given to `answer` in a task of `streams`.
    pub(super) fn new(corked: Corked, streams: Spawner, settings: &Http2Server, answer: H) -> Self {
        let handshake = builder(settings).handshake(corked.clone());
        let keep_alive = settings.keep_alive.map(|(interval, timeout)| KeepAlive {
            interval,
            timeout,
            // A client that is gone holds memory here, busy or not.
            while_idle: true,
        });
        let (window, _) = settings.windows.unwrap_or(WINDOWS_DEFAULT);
        Self {
            state: State::Handshaking(Box::new(handshake)),
            corked,
            streams,
            answer: Rc::new(answer),
            keep_alive,
            adaptive: settings.adaptive_flow_control.then_some(window),
            is_ending: false,
        }
    }

    /// Ends the connection after the streams that have begun.
    pub(super) fn graceful_shutdown(mut self: Pin<&mut Self>) {
        if let State::Serving { connection, .. } = &mut self.state {
            connection.graceful_shutdown();
        }
        self.is_ending = true;
    }
}

impl<H, F> Future for Http2<H>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answered> + 'static,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Handshaking(handshake) => {
                    let mut connection = Box::new(ready!(Pin::new(&mut **handshake).poll(cx))?);
                    if this.is_ending {
                        connection.graceful_shutdown();
                    }
                    let keeper =
                        Keeper::new(|| connection.ping_pong(), this.keep_alive, this.adaptive);
                    let keeper = keeper.map(Box::new);
                    this.state = State::Serving { connection, keeper };
                }
                State::Serving { connection, keeper } => {
                    if let Some(keeper) = keeper {
                        match keeper.poll(cx, this.corked.received(), false) {
                            Poll::Ready(Advice::Window(bytes)) => {
                                connection.set_target_window_size(bytes);
                                connection.set_initial_window_size(bytes)?;
                            }
                            Poll::Ready(Advice::Gone) => {
                                tracing::debug!("the client does not answer pings");
                                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                            }
                            Poll::Pending => {}
                        }
                    }
                    let Some(accepted) = ready!(connection.poll_accept(cx)) else {
                        return Poll::Ready(Ok(()));
                    };
                    let (request, mut reply) = accepted?;
                    if !has_path(&request) {
                        reply.send_reset(h2::Reason::PROTOCOL_ERROR);
                        continue;
                    }
                    let (head, stream) = request.into_parts();
                    let body = Incoming::stream(stream, &head.headers, None);
                    // Boxed, because the tasks around it would move the future several times.
                    let answering = Box::pin((this.answer)(Request::from_parts(head, body)));
                    this.streams.spawn_local(serve_stream(answering, reply));
                }
            }
        }
    }
}

/// Whether the request says what it asks for: a path, or `*`; only `CONNECT` has neither (RFC 9113 section 8.3.1). h2
/// leaves this to us, and a target such as `x` would mean to an HTTP/1 application whatever it likes.
fn has_path<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    request.method() == Method::CONNECT || path.starts_with('/') || path == "*"
}

async fn serve_stream<F>(mut answering: Pin<Box<F>>, mut reply: SendResponse<Bytes>)
where
    F: Future<Output = Answered>,
{
    let answered = poll_fn(|cx| match answering.as_mut().poll(cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        // The client may not want it any more.
        Poll::Pending => reply.poll_reset(cx).map(|_| None),
    });
    let Some(answered) = answered.await else { return };
    drop(answering);
    let response = match answered {
        Ok(response) => response,
        Err(error) => return reply.send_reset(error.reason()),
    };
    let (mut head, body) = response.into_parts();
    if head.headers.keys().any(headers::is_not_for_http2) {
        headers::strip_connection_headers(&mut head.headers);
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(TE);
    }
    let is_empty = body.is_end_stream();
    if !is_empty && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    match reply.send_response(http::Response::from_parts(head, ()), is_empty) {
        Ok(stream) if !is_empty => Pipe::new(body, stream).await,
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "response cannot be sent");
            reply.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

fn builder(settings: &Http2Server) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    let (stream, connection) = settings.windows.unwrap_or(WINDOWS_DEFAULT);
    builder
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_header_list_size(settings.max_header_list_size.unwrap_or(HEADER_LIST_BYTES_MAX))
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .max_send_buffer_size(
            settings.max_send_buf_size.map_or(SEND_BUFFER_BYTES, |bytes| bytes as usize),
        );
    if let Some(max) = settings.max_frame_size {
        builder.max_frame_size(max);
    }
    if let Some(max) = settings.max_concurrent_streams {
        builder.max_concurrent_streams(max);
    }
    if let Some(max) = settings.max_pending_accept_reset_streams {
        builder.max_pending_accept_reset_streams(max as usize);
    }
    builder
}
