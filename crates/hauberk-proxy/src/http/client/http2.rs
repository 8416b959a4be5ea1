//! The client's side of an HTTP/2 connection.
//!
//! A [`Handle`] sends requests over a connection that a task of its own reads and writes. Whoever sends a request
//! talks to h2's state directly and is woken by it; there is no channel and no task between, except for a request
//! body that cannot be sent at once.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::http::body::Body;
use crate::http::corked::{Corked, Uncorking};
use crate::http::incoming::Incoming;
use crate::http::keeper::{Advice, KeepAlive, Keeper};
use crate::http::pipe::Pipe;
use crate::io::Io;
use crate::worker::Worker;

/// A connection that takes requests. Clones are the same connection, which ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    is_closed: Cell<bool>,
    /// Shared with every stream, so that its number tells whether any is open.
    open: Rc<()>,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection takes no more requests; nothing was sent.
    Closed(Box<Request<Body>>, h2::Error),
    /// The request may have been sent.
    Failed(h2::Error),
}

/// What a connection does besides carrying streams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Care {
    pub(super) keep_alive: Option<KeepAlive>,
    /// The initial window, if it is to follow the measured bandwidth.
    pub(super) adaptive: Option<u32>,
}

/// Begins HTTP/2 on `io`.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    io: Io,
    builder: &Builder,
    care: Care,
) -> Result<Handle, h2::Error> {
    let corked = Corked::new(io);
    let handshake = builder.handshake::<_, Bytes>(corked.clone());
    let (sender, mut connection) = Uncorking::new(corked.clone(), Box::pin(handshake)).await?;
    let state = Rc::new(State { is_closed: Cell::new(false), open: Rc::new(()) });
    let keeper = Keeper::new(|| connection.ping_pong(), care.keep_alive, care.adaptive);
    let serving = Serving {
        connection,
        keeper: keeper.map(Box::new),
        corked: corked.clone(),
        state: Rc::clone(&state),
    };
    worker.tasks.spawn_local("http2 client", Uncorking::new(corked, serving));
    Ok(Handle { sender, state })
}

impl Handle {
    /// Whether the connection takes no more requests: it has ended, or the peer has said that it will (GOAWAY).
    pub(super) fn is_closed(&mut self) -> bool {
        // Never pending, because this handle has opened no stream that waits.
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.state.is_closed.get()
            || matches!(self.sender.poll_ready(&mut context), Poll::Ready(Err(_)))
    }

    /// Sends a request and waits for the head of its response. A request that is given up is reset.
    pub(super) async fn send(
        mut self,
        worker: &Worker,
        request: Box<Request<Body>>,
    ) -> Result<Response<Incoming>, Unsent> {
        let open = Rc::clone(&self.state.open);
        if let Err(error) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            return Err(Unsent::Closed(request, error));
        }
        let (mut head, body) = request.into_parts();
        let is_empty = body.is_end_stream();
        if let Some(length) = body.size_hint().exact()
            && (length > 0 || has_content(&head.method))
        {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        let sent = self.sender.send_request(Request::from_parts(head, ()), is_empty);
        let (response, stream) = sent.map_err(Unsent::Failed)?;
        let upload = if is_empty { None } else { Upload::begin(worker, body, stream) };
        let response = response.await.map_err(Unsent::Failed)?;
        if let Some(upload) = upload {
            upload.goes_on();
        }
        let (head, stream) = response.into_parts();
        let body = Incoming::stream(stream, &head.headers, Some(open));
        Ok(Response::from_parts(head, body))
    }
}

/// Methods whose requests say that they have no content by a length of zero (RFC 9110 section 8.6).
fn has_content(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT)
}

/// A request body that is being sent by a task. Dropped before there is a response, it resets the stream.
struct Upload(Option<oneshot::Sender<()>>);

impl Upload {
    /// None if all of it could be given to the connection at once.
    fn begin(worker: &Worker, body: Body, stream: h2::SendStream<Bytes>) -> Option<Self> {
        let mut pipe = Pipe::new(body, stream);
        // With a waker that does nothing: if it has to wait, the task polls it again.
        let mut context = Context::from_waker(std::task::Waker::noop());
        if Pin::new(&mut pipe).poll(&mut context).is_ready() {
            return None;
        }
        let (give_up, given_up) = oneshot::channel();
        worker.tasks.spawn_local("http2 upload", async move {
            tokio::select! {
                biased;
                Ok(()) = given_up => pipe.reset(h2::Reason::CANCEL),
                () = &mut pipe => {}
            }
        });
        Some(Self(Some(give_up)))
    }

    /// There is a response; the body is sent to its end all the same.
    fn goes_on(mut self) {
        self.0 = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(give_up) = self.0.take() {
            // Fails when the body has been sent.
            let _ = give_up.send(());
        }
    }
}

/// The connection in its task.
struct Serving {
    connection: Connection<Corked, Bytes>,
    keeper: Option<Box<Keeper>>,
    corked: Corked,
    state: Rc<State>,
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        while let Some(keeper) = &mut this.keeper {
            let is_idle = Rc::strong_count(&this.state.open) == 1;
            match keeper.poll(cx, this.corked.received(), is_idle) {
                Poll::Ready(Advice::Window(bytes)) => {
                    this.connection.set_target_window_size(bytes);
                    if this.connection.set_initial_window_size(bytes).is_err() {
                        this.keeper = None;
                    }
                }
                // Streams are told when the connection is dropped.
                Poll::Ready(Advice::Gone) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        // Requests first, then what has come. A server that ends the connection sends GOAWAY and PING, and takes what
        // arrives before the answer to PING (h2, gRPC); h2 would send that answer ahead of requests that wait.
        let mut connection = Pin::new(&mut this.connection);
        if this.corked.poll_deaf(|| connection.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        // Each stream is told of its own end.
        connection.poll(cx).map(|_| ())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.state.is_closed.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_connection_ends_with_the_last_handle() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let corked = Corked::new(Io::memory(near));
        let handshake = Builder::new().handshake::<_, Bytes>(corked.clone());
        let client = Uncorking::new(corked.clone(), Box::pin(handshake));
        let (client, server) = tokio::join!(client, h2::server::handshake(far));
        let ((sender, connection), mut server) = (client.unwrap(), server.unwrap());
        let state = Rc::new(State { is_closed: Cell::new(false), open: Rc::new(()) });
        let serving =
            Serving { connection, keeper: None, corked: corked.clone(), state: Rc::clone(&state) };
        let mut serving = std::pin::pin!(Uncorking::new(corked, serving));
        let handle = Handle { sender, state };
        let mut other = handle.clone();
        drop(handle);
        let idle = tokio::time::timeout(Duration::from_millis(50), serving.as_mut()).await;
        assert!(idle.is_err() && !other.is_closed(), "one handle is left");
        drop(other);
        let accepting = poll_fn(|cx| server.poll_accept(cx));
        let (ended, accepted) = tokio::time::timeout(Duration::from_secs(5), async {
            tokio::join!(serving, accepting)
        })
        .await
        .expect("both sides see the end");
        assert_eq!((ended, accepted.is_none()), ((), true));
    }
}
