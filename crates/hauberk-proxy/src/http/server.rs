//! Serving one HTTP connection in its own task: HTTP/1 by hyper's state machine, HTTP/2 by h2's.
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

mod http2;

use std::cell::RefCell;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::rc::Rc;

use http::{HeaderValue, Request, Response, header};
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
        Version::Http1 => serve_http1(worker, io, control, answer).await,
        Version::Http2 => serve_http2(worker, io, settings, &control, answer).await,
    }
}

async fn serve_http1<H, F>(worker: &Worker, io: Io, control: Rc<Control>, answer: H)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answered>,
{
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).header_read_timeout(None);
    let service = service_fn(|request: Request<_>| {
        let answered = answer(request.map(Incoming::from));
        let control = &control;
        Box::pin(async move {
            let mut response = answered.await?;
            if worker.shutdown.is_replaced() && control.upgrade.borrow().is_none() {
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, StreamError>(response)
        })
    });
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let draining = async {
        worker.shutdown.draining().await;
        if worker.shutdown.is_replaced() {
            pending().await
        }
    };
    let ended = gracefully(draining, &control, Pin::new(&mut connection), |connection| {
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
