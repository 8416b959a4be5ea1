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
use super::http1::Connection;
use super::incoming::{Incoming, StreamError};
use super::upgrade::Raw;
use crate::connection::Direction;
use crate::io::Io;
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

    /// Whether an upgrade is on its way.
    pub fn is_upgrading(&self) -> bool {
        self.upgrade.borrow().is_some()
    }

    /// The answer is an upgrade; `endpoint` gives the other side.
    pub fn upgrade(&self, endpoint: oneshot::Receiver<Raw>) {
        *self.upgrade.borrow_mut() = Some(endpoint);
    }
}

/// An answer; an error resets the stream with the code inside the error, or ends an HTTP/1
/// connection.
pub type Answered = Result<Response<Body>, StreamError>;

/// A connection that is being served; ready when it has ended. Boxed, so that its task holds nothing of what came before.
pub type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Serves a connection until it ends.
pub fn serve<H, F>(
    worker: Rc<Worker>,
    io: Io,
    version: Version,
    direction: Direction,
    control: Rc<Control>,
    answer: H,
) -> Serving
where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Answered> + 'static,
{
    // Allocated per request; what is rare in it is boxed where it happens.
    const { assert!(size_of::<F>() <= REQUEST_FUTURE_BYTES_MAX) };
    let side = match direction {
        Direction::Inbound => &worker.config.inbound.side,
        Direction::Outbound => &worker.config.outbound.side,
    };
    match version {
        Version::Http1 => {
            let (connection, head_timeout) = (Connection::new(io), side.http1_head_timeout);
            Box::pin(http1::serve(worker, Rc::new(connection), head_timeout, control, answer))
        }
        Version::Http2 => {
            let corked = Corked::new(io);
            let (streams, settings) = (worker.http_streams.clone(), &side.http2_server);
            let connection = Http2::new(corked.clone(), streams, settings, answer);
            Box::pin(serve_http2(worker, Uncorking::new(corked, connection), control))
        }
    }
}

async fn serve_http2<H, F>(
    worker: Rc<Worker>,
    connection: Uncorking<Http2<H>>,
    control: Rc<Control>,
) where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Answered> + 'static,
{
    let connection = pin!(connection);
    let draining = worker.shutdown.draining();
    let ended = gracefully(draining, &control, connection, |connection| {
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
