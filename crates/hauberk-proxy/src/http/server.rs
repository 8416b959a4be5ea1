//! Serving one HTTP connection in its own task: HTTP/1 by hyper's state machine, HTTP/2 by h2's.
//!
//! Called by [`serve_outbound`](super::serve_outbound) and [`serve_inbound`](super::serve_inbound)
//! with a function that answers one request. HTTP/1 requests are answered one after the other
//! inside this task; each HTTP/2 stream is a task of its own on the same thread.
//!
//! The connection ends when the peer closes; gracefully (HTTP/1 after the current exchange with
//! `connection: close`, HTTP/2 with GOAWAY) when the process drains or an answer asks for it; and
//! as raw bytes when an answer upgrades it.

mod http2;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, oneshot};

use super::Version;
use super::body::Body;
use super::corked::{Corked, Uncorking};
use super::incoming::{Incoming, StreamError};
use super::upgrade::{self, Raw};
use crate::io::Io;
use crate::settings::Http2Server;
use crate::worker::Worker;
use http2::Http2;

/// What an answer may want of the connection it goes out on.
#[derive(Debug, Default)]
pub struct Control {
    close: Notify,
    upgrade: RefCell<Option<oneshot::Receiver<Raw>>>,
}

impl Control {
    /// Ends the connection gracefully after what is under way.
    pub fn close(&self) {
        self.close.notify_one();
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
    settings: &Http2Server,
    control: Rc<Control>,
    answer: H,
) where
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Answered> + 'static,
{
    // Allocated per request; what is rare in it is boxed where it happens.
    const { assert!(size_of::<F>() <= REQUEST_FUTURE_BYTES_MAX) };
    match version {
        Version::Http1 => serve_http1(worker, io, &control, answer).await,
        Version::Http2 => serve_http2(worker, io, settings, &control, answer).await,
    }
}

async fn serve_http1<H, F>(worker: &Worker, io: Io, control: &Control, answer: H)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answered>,
{
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).header_read_timeout(None);
    let service =
        service_fn(move |request: Request<_>| Box::pin(answer(request.map(Incoming::from))));
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let ended = gracefully(worker, control, Pin::new(&mut connection), |connection| {
        connection.graceful_shutdown();
    })
    .await;
    match ended {
        Ok(()) => {
            if let Some(endpoint) = control.upgrade.take() {
                let parts = connection.into_parts();
                upgrade::join(Raw::new(parts.io.into_inner(), parts.read_buf), endpoint).await;
            }
        }
        Err(error) => tracing::debug!(%error, "HTTP/1 connection ended"),
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
    let ended = gracefully(worker, control, connection, |connection| {
        connection.connection().graceful_shutdown();
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

/// Polls a connection to its end; asks it to end when draining begins or an answer wants it.
async fn gracefully<C>(
    worker: &Worker,
    control: &Control,
    mut connection: Pin<&mut C>,
    shut_down: impl FnOnce(Pin<&mut C>),
) -> C::Output
where
    C: Future,
{
    let asked = async {
        tokio::select! {
            () = worker.shutdown.draining() => {}
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
