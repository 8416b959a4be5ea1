//! The client's side of HTTP/1: one request over one connection, by whoever sends it.
//!
//! There is no task and no channel: the request is written and its response's head read in the future of the request;
//! the response's body is read by whoever takes it. A server may answer before it has had the whole request; then a task
//! sends the rest.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::http::body::Body;
use crate::http::http1::body::Encoder;
use crate::http::http1::connection::Duty;
use crate::http::http1::head::{self, Told};
use crate::http::http1::{Connection, Error, Sending};
use crate::http::incoming::Incoming;
use crate::http::upgrade;
use crate::worker::Worker;

/// A response, and what it leaves behind.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) response: Response<Incoming>,
    /// The connection can be used again when the response has ended.
    pub(super) is_reusable: bool,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) error: Error,
    /// Whether any byte of the request was sent.
    pub(super) is_sent: bool,
    /// Whether the server has said anything.
    pub(super) is_heard: bool,
}

/// Sends `request` and waits for the head of its response. The request is left as it is but for its body, of which nothing
/// is taken if it is empty. Dropped before it is ready, the request is broken off.
pub(super) async fn send(
    worker: &Worker,
    connection: &Rc<Connection>,
    request: &mut Request<Body>,
) -> Result<Got, Lost> {
    connection.begin();
    let body = request.body();
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let written =
        connection.with(|wire| head::write_request(wire.outgoing.buffer(), request, length));
    let encoder = written.map_err(|bad| lost(connection, bad.into()))?;
    let method = request.method().clone();
    let mut exchange = Exchange::new(encoder);
    let body = request.body_mut();
    let head = poll_fn(|cx| exchange.poll(connection, Pin::new(&mut *body), &method, cx));
    let (response, told) = head.await.map_err(|error| lost(connection, error))?;

    let is_upgrade = upgrade::is_upgrade(&method, response.status());
    let mut is_reusable = told.keep_alive && !is_upgrade;
    is_reusable &= exchange.is_sent;
    let is_over = !is_reusable && !is_upgrade && exchange.is_sent;
    let body = connection.lend(told.body, if is_over { Duty::Close } else { Duty::None });
    if !exchange.is_sent && exchange.broke.is_none() {
        let rest = std::mem::take(request.body_mut());
        let upload = upload(Rc::clone(connection), exchange.sending, rest);
        worker.tasks.spawn_local("http1 upload", upload);
    }
    Ok(Got { response: response.map(|()| Incoming::Http1(body)), is_reusable })
}

fn lost(connection: &Connection, error: Error) -> Lost {
    let (is_sent, is_heard) = connection.with(|wire| (wire.written > 0, !wire.ahead.is_empty()));
    Lost { error, is_sent, is_heard }
}

/// A request on its way out and a head on its way in.
struct Exchange {
    sending: Sending,
    is_sent: bool,
    /// Why the request cannot be written any more. The server may have answered before it closed.
    broke: Option<Error>,
    /// Bytes that have come and are no head yet.
    seen: usize,
}

impl Exchange {
    fn new(encoder: Encoder) -> Self {
        Self { sending: Sending::new(encoder), is_sent: false, broke: None, seen: 0 }
    }

    fn poll(
        &mut self,
        connection: &Connection,
        body: Pin<&mut Body>,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, Told), Error>> {
        if !self.is_sent && self.broke.is_none() {
            match self.sending.poll(connection, body, cx) {
                Poll::Ready(Ok(())) => self.is_sent = true,
                Poll::Ready(Err(error @ Error::Io(_))) => self.broke = Some(error),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        let head = ready!(self.poll_head(connection, method, cx));
        // What stopped the writing says more than that nothing could be read afterwards.
        Poll::Ready(head.map_err(|error| self.broke.take().unwrap_or(error)))
    }

    /// Reads the head of the final response; others are not passed on.
    fn poll_head(
        &mut self,
        connection: &Connection,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, Told), Error>> {
        connection.with(|wire| {
            loop {
                if wire.ahead.len() > self.seen {
                    match head::parse_response(&mut wire.ahead, self.seen, method)? {
                        Some((response, told)) => {
                            self.seen = 0;
                            let status = response.status();
                            if !status.is_informational()
                                || status == StatusCode::SWITCHING_PROTOCOLS
                            {
                                return Poll::Ready(Ok((response, told)));
                            }
                            continue;
                        }
                        None => self.seen = wire.ahead.len(),
                    }
                }
                if ready!(wire.poll_fill(cx))? == 0 {
                    return Poll::Ready(Err(Error::Incomplete));
                }
            }
        })
    }
}

/// Sends the rest of a request that has its response already.
async fn upload(connection: Rc<Connection>, mut sending: Sending, mut body: Body) {
    let sent = poll_fn(|cx| sending.poll(&connection, Pin::new(&mut body), cx)).await;
    if let Err(error) = sent {
        tracing::debug!(%error, "request body broke off after its response began");
        // The server learns that no more comes; what it still says is read by whoever has the response.
        let _ = poll_fn(|cx| connection.with(|wire| wire.poll_shutdown(cx))).await;
    }
}
