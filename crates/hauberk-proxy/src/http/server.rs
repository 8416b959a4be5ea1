//! Serving one HTTP connection: hyper's state machine, polled in the connection's own task.
//!
//! Called by [`serve_outbound`](super::serve_outbound) and [`serve_inbound`](super::serve_inbound)
//! with a function that answers one request. HTTP/1 requests are answered one after the other
//! inside this task; each HTTP/2 stream is a task of its own on the same thread.
//!
//! The connection ends when the peer closes; gracefully (HTTP/1 after the current exchange with
//! `connection: close`, HTTP/2 with GOAWAY) when the process drains or an answer asks for it; and
//! as raw bytes when an answer upgrades it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, oneshot};

use super::Version;
use super::body::Body;
use super::client::HEADER_LIST_BYTES_MAX;
use super::upgrade::{self, Raw};
use crate::io::Io;
use crate::settings::Http2Server;
use crate::worker::Worker;

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
pub type Answered = Result<Response<Body>, hyper::Error>;

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
    let service = service_fn(move |request| Box::pin(answer(request)));
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
    let builder = http2_builder(worker, settings);
    // Boxed, because hyper and the task around it would move the future several times.
    let service = service_fn(move |request| Box::pin(answer(request)));
    let connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = gracefully(worker, control, connection, |connection| {
        connection.graceful_shutdown();
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

fn http2_builder(
    worker: &Worker,
    settings: &Http2Server,
) -> http2::Builder<hauberk_process::LocalSpawner> {
    let mut builder = http2::Builder::new(worker.http_executor.clone());
    let (stream, connection) = settings.windows.unwrap_or(WINDOWS_DEFAULT);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_frame_size(settings.max_frame_size)
        .max_header_list_size(settings.max_header_list_size.unwrap_or(HEADER_LIST_BYTES_MAX));
    if settings.adaptive_flow_control {
        builder.adaptive_window(true);
    }
    if let Some((interval, timeout)) = settings.keep_alive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    if let Some(max) = settings.max_pending_accept_reset_streams {
        builder.max_pending_accept_reset_streams(max as usize);
    }
    if let Some(max) = settings.max_send_buf_size {
        builder.max_send_buf_size(max as usize);
    }
    builder
}

/// Ceiling for what a request under way holds in its future. Raise it only with a reason.
const REQUEST_FUTURE_BYTES_MAX: usize = 3072;

/// Bytes a peer may send on a stream, and on a connection, before we have read them, when nothing
/// is set (linkerd2-proxy v2).
const WINDOWS_DEFAULT: (u32, u32) = (65_535, 1024 * 1024);
