//! The server's side of an HTTP/1 connection: one request after the other, answered in the connection's own task.
//!
//! Between two requests nothing is held but the stream. While a request is answered the client is watched: one that
//! closes gives its request up. What a client sends ahead is read once and left until its turn (pipelining).
//!
//! The first bytes of a head start a clock; a client that does not finish its head in time is answered 408.
//!
//! A response may be over before its request is. What the client still sends is read for a while, so that the connection
//! can go on, or so that a close does not cut off the response (RFC 9112 section 9.6).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Answered, Control};
use crate::http::body::Body;
use crate::http::http1::body::{Decoder, Encoder};
use crate::http::http1::connection::{self, Duty, Watched};
use crate::http::http1::head::{self, Asked, Asker};
use crate::http::http1::{Connection, Error, Sending};
use crate::http::incoming::Incoming;
use crate::http::upgrade::{self, Raw};
use crate::worker::Worker;

/// Bytes of an unwanted request body that are read so that the connection can go on, and how long that may take. More
/// would cost more than a new connection.
const DRAINED_BYTES_MAX: usize = 256 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read and forgotten after the last response, so that the client sees it before it sees a reset, and how long
/// that may take.
const LINGERED_BYTES_MAX: usize = 1024 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(super) async fn serve<H, F>(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    head_timeout: Duration,
    control: Rc<Control>,
    answer: H,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answered>,
{
    // One for all pauses, so that a pause costs no place in the list of those who wait.
    let mut draining = pin!(async {
        worker.shutdown.draining().await;
        if worker.shutdown.is_replaced() {
            std::future::pending().await
        }
    });
    loop {
        let outcome = {
            // Nothing is awaited inside this match: what it is about is large, and would be kept.
            let next = match next(draining.as_mut(), &connection, head_timeout).await {
                // Boxed, so that a connection that waits for a request does not hold room for one.
                Next::Request(request, asked) => {
                    Ok(Box::pin(exchange(&worker, &connection, &control, request, asked, &answer)))
                }
                Next::Refused(status) => {
                    tracing::debug!(%status, "request head refused");
                    connection.with(|wire| head::write_refusal(wire.outgoing.buffer(), status));
                    Err(Outcome::Last(Lingers::Yes))
                }
                Next::Ended => Err(Outcome::Last(Lingers::No)),
                Next::Broken => Err(Outcome::Broken),
            };
            match next {
                Ok(exchanging) => exchanging.await,
                Err(outcome) => outcome,
            }
        };
        match outcome {
            Outcome::GoesOn => {}
            Outcome::Last(lingers) => return Box::pin(close(&connection, lingers)).await,
            Outcome::Broken => return,
            Outcome::Upgraded => {
                let endpoint = control.upgrade.take();
                if let (Some(endpoint), Some(connection)) = (endpoint, Rc::into_inner(connection)) {
                    let (io, ahead) = connection.into_parts();
                    Box::pin(upgrade::join(Raw::new(io, ahead), endpoint)).await;
                }
                return;
            }
        }
    }
}

/// What a client says next.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Next {
    Request(Request<()>, Asked),
    Refused(StatusCode),
    /// It has closed, or is to be closed, between two requests.
    Ended,
    Broken,
}

/// Waits for a head.
async fn next(
    draining: Pin<&mut impl Future<Output = ()>>,
    connection: &Connection,
    head_timeout: Duration,
) -> Next {
    let parse = |seen| {
        connection.with(|wire| match head::parse_request(&mut wire.ahead, seen) {
            Ok(None) => None,
            Ok(Some((request, asked))) => Some(Next::Request(request, asked)),
            Err(bad) => Some(Next::Refused(bad.status())),
        })
    };
    if let Some(next) = parse(0) {
        return next;
    }
    if connection.with(|wire| wire.ahead.is_empty()) {
        let filling = poll_fn(|cx| connection.with(|wire| wire.poll_fill(cx)));
        let filled = tokio::select! {
            // Biased: what has come is answered before the connection ends.
            biased;
            filled = filling => filled,
            () = draining => return Next::Ended,
        };
        match filled {
            Ok(0) => return Next::Ended,
            Ok(_) => {}
            Err(_) => return Next::Broken,
        }
        if let Some(next) = parse(0) {
            return next;
        }
    }
    // Boxed, since it is rare.
    Box::pin(rest_of_head(connection, head_timeout, parse)).await
}

/// Waits for the rest of a head that has begun.
async fn rest_of_head(
    connection: &Connection,
    head_timeout: Duration,
    parse: impl Fn(usize) -> Option<Next>,
) -> Next {
    let until = Instant::now() + head_timeout;
    loop {
        let seen = connection.with(|wire| wire.ahead.len());
        let filling = poll_fn(|cx| connection.with(|wire| wire.poll_fill(cx)));
        match timeout_at(until, filling).await {
            Ok(Ok(0)) | Ok(Err(_)) => return Next::Broken,
            Ok(Ok(_)) => {}
            Err(_elapsed) => return Next::Refused(StatusCode::REQUEST_TIMEOUT),
        }
        if let Some(next) = parse(seen) {
            return next;
        }
    }
}

/// How an exchange left the connection.
enum Outcome {
    GoesOn,
    Last(Lingers),
    Upgraded,
    Broken,
}

/// Whether the client may still be sending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lingers {
    Yes,
    No,
}

/// Answers one request.
async fn exchange<H, F>(
    worker: &Worker,
    connection: &Rc<Connection>,
    control: &Control,
    request: Request<()>,
    asked: Asked,
    answer: &H,
) -> Outcome
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answered>,
{
    connection.begin();
    let (method, version) = (request.method().clone(), request.version());
    let duty = if asked.expects_continue { Duty::Continue } else { Duty::None };
    let body = connection.lend(asked.body, duty);
    let answered = {
        let mut answering = pin!(answer(request.map(|()| Incoming::Http1(body))));
        let answered = poll_fn(|cx| {
            connection.poll_loop(|| match answering.as_mut().poll(cx) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => match connection.poll_watch(cx) {
                    Poll::Ready(Watched::Gone) => Poll::Ready(None),
                    Poll::Ready(Watched::Spoke) | Poll::Pending => Poll::Pending,
                },
            })
        });
        answered.await
    };
    let response = match answered {
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            tracing::debug!(%error, "request failed without an answer");
            return Outcome::Broken;
        }
        None => {
            tracing::debug!("the client went away");
            return Outcome::Broken;
        }
    };

    let leaves_http = upgrade::is_upgrade(&method, response.status());
    let is_upgrade = leaves_http && control.upgrade.borrow().is_some();
    let is_closing = worker.shutdown.is_draining() || control.is_closing() || leaves_http;
    let mut asker = Asker {
        method: &method,
        version,
        takes_trailers: asked.takes_trailers,
        keep_alive: asked.keep_alive && !is_closing,
    };
    respond(connection, response, &mut asker, is_upgrade).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "response broke off");
        Outcome::Broken
    })
}

/// Sends a response, and takes reading back.
async fn respond(
    connection: &Connection,
    mut response: Response<Body>,
    asker: &mut Asker<'_>,
    is_upgrade: bool,
) -> Result<Outcome, Error> {
    let status = response.status();
    if status.is_informational() && !is_upgrade {
        // Only a final response answers a request.
        return Err(Error::Sender(format!("status {status} is no answer")));
    }
    if is_upgrade {
        asker.keep_alive = true;
    } else if head::closes(response.headers()) {
        asker.keep_alive = false;
        if asker.version == Version::HTTP_10 {
            response.headers_mut().remove(CONNECTION);
        } else {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    connection.answered();
    let body = response.body();
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let encoder = connection
        .with(|wire| head::write_response(wire.outgoing.buffer(), &response, length, *asker));
    let goes_on = asker.keep_alive && !matches!(encoder, Encoder::UntilEnd);
    let mut sending = Sending::new(encoder);
    let mut body = pin!(response.into_body());
    let sent = poll_fn(|cx| {
        connection.poll_loop(|| match sending.poll(connection, body.as_mut(), cx) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => match connection.poll_watch(cx) {
                Poll::Ready(Watched::Gone) => Poll::Ready(Err(Error::Incomplete)),
                Poll::Ready(Watched::Spoke) | Poll::Pending => Poll::Pending,
            },
        })
    });
    if let Err(error) = sent.await {
        if !sending.tells_end() {
            // Without a reset the client would take what it has for the whole.
            connection.with(|wire| wire.io().abort());
        }
        return Err(error);
    }
    if is_upgrade {
        return Ok(Outcome::Upgraded);
    }
    let left = poll_fn(|cx| connection.poll_reading(cx)).await;
    let is_read = match left {
        None => true,
        // Boxed, since it is rare.
        Some(left) => goes_on && Box::pin(drained(connection, left)).await,
    };
    Ok(if goes_on && is_read {
        Outcome::GoesOn
    } else if is_read && connection.with(|wire| wire.ahead.is_empty()) {
        Outcome::Last(Lingers::No)
    } else {
        Outcome::Last(Lingers::Yes)
    })
}

/// Reads the rest of a request body that nobody wants; whether its end was reached.
async fn drained(connection: &Connection, mut left: Decoder) -> bool {
    if left.ends_with_connection() {
        return left.is_done();
    }
    let draining = async {
        connection.with(|wire| connection::discard(&mut wire.ahead, &mut left))?;
        let mut total = 0;
        while !left.is_done() && total < DRAINED_BYTES_MAX {
            total += poll_fn(|cx| connection::poll_discard(connection, &mut left, cx)).await?;
        }
        Ok::<_, Error>(left.is_done())
    };
    matches!(timeout(DRAIN_TIMEOUT, draining).await, Ok(Ok(true)))
}

/// Closes the connection; a client that may still be sending is listened to until it has seen the end.
async fn close(connection: &Connection, lingers: Lingers) {
    // Fails when the client has closed first.
    let ending = poll_fn(|cx| connection.with(|wire| wire.poll_shutdown(cx)));
    if lingers == Lingers::No {
        let _ = ending.await;
        return;
    }
    let lingering = async {
        if ending.await.is_err() {
            return;
        }
        let mut total = 0;
        while total < LINGERED_BYTES_MAX {
            let filled = poll_fn(|cx| {
                connection.with(|wire| {
                    wire.ahead.clear();
                    wire.poll_fill(cx)
                })
            });
            match filled.await {
                Ok(0) | Err(_) => return,
                Ok(count) => total += count,
            }
        }
    };
    // Boxed, since it is rare.
    let _ = timeout(LINGER_TIMEOUT, Box::pin(lingering)).await;
}
