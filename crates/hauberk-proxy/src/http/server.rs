//! Serving one HTTP connection in its own task: HTTP/1 by our own loop, HTTP/2 by h2's state machine.
//!
//! Called by [`serve_outbound`](super::serve_outbound) and [`serve_inbound`](super::serve_inbound)
//! with a function that answers one request. HTTP/1 requests are answered one after the other
//! inside this task; each HTTP/2 stream is a task of its own on the same thread.
//!
//! The connection ends when the peer closes; gracefully (HTTP/1 after the current exchange with
//! `connection: close`, HTTP/2 with GOAWAY) when the process drains or an answer asks for it; and
//! as raw bytes when an answer upgrades it.
//!
//! An idle HTTP/1 connection is closed when the process drains, and a request that its client sends
//! at that moment fails. When a successor has taken over there is no hurry: the connection is kept
//! until its next answer, which says `connection: close`, or the end of the grace period.

mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use http::{Request, Response};
use tokio::sync::{Notify, oneshot};

use super::Version;
use super::body::Body;
use super::corked::{Corked, Uncorking};
use super::incoming::{Incoming, StreamError};
use super::upgrade::Raw;
use crate::io::Io;
use crate::settings::{Http2Server, Side};
use crate::worker::Worker;
use http2::Http2;

/// What an answer may want of the connection it goes out on.
#[derive(Debug, Default)]
pub struct Control {
    close: Notify,
    is_closing: Cell<bool>,
    upgrade: RefCell<Option<oneshot::Receiver<Raw>>>,
}

impl Control {
    /// Ends the connection gracefully after what is under way.
    pub fn close(&self) {
        self.is_closing.set(true);
        self.close.notify_one();
    }

    /// Whether the connection is to be ended.
    fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// The answer is an upgrade; `endpoint` gives the other side.
    pub fn upgrade(&self, endpoint: oneshot::Receiver<Raw>) {
        *self.upgrade.borrow_mut() = Some(endpoint);
    }
}

/// An answer; an error resets the stream with the code inside the error, or ends an HTTP/1
/// connection.
pub type Answered = Result<Response<Body>, StreamError>;

/// Serves a connection until it ends.
pub async fn serve<H, F>(
    worker: &Worker,
    io: Io,
    version: Version,
    side: &Side,
    control: Rc<Control>,
    answer: H,
) where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Answered> + 'static,
{
    // Allocated per request; what is rare in it is boxed where it happens.
    const { assert!(size_of::<F>() <= REQUEST_FUTURE_BYTES_MAX) };
    match version {
        Version::Http1 => http1::serve(worker, io, side.http1_head_timeout, &control, answer).await,
        Version::Http2 => serve_http2(worker, io, &side.http2_server, &control, answer).await,
    }
}

async fn serve_http2<H, F>(
    worker: &Worker,
    io: Io,
    settings: &Http2Server,
    control: &Control,
    answer: H,
) where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Answered> + 'static,
{
    let corked = Corked::new(io);
    let connection = Http2::new(corked.clone(), worker.http_streams.clone(), settings, answer);
    let connection = pin!(Uncorking::new(corked, connection));
    let draining = worker.shutdown.draining();
    let ended = gracefully(draining, control, connection, |connection| {
        connection.connection().graceful_shutdown();
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

/// Polls a connection to its end; asks it to end when draining begins or an answer wants it.
async fn gracefully<C>(
    draining: impl Future<Output = ()>,
    control: &Control,
    mut connection: Pin<&mut C>,
    shut_down: impl FnOnce(Pin<&mut C>),
) -> C::Output
where
    C: Future,
{
    let asked = async {
        tokio::select! {
            () = draining => {}
            () = control.close.notified() => {}
        }
    };
    tokio::select! {
        // Biased: what has been read is answered before the connection is asked to end.
        biased;
        ended = connection.as_mut() => return ended,
        () = asked => shut_down(connection.as_mut()),
    }
    connection.await
}

/// Ceiling for what a request under way holds in its future. Raise it only with a reason.
const REQUEST_FUTURE_BYTES_MAX: usize = 3072;
