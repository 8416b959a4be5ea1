//! An HTTP/1 connection, and the two ends of it that messages see.
//!
//! A [`Connection`] belongs to the loop that reads and writes heads. While a message with a body comes in, reading is lent
//! to its [`Received`], which may live in another task of the thread; it gives reading back at the end of the body, or
//! when it is dropped. [`Sending`] sends a body, polled by whoever sends the message.
//!
//! Nothing is borrowed while somebody else's body is polled, so that a body may come from anywhere.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};

use super::Error;
use super::body::{Decoder, Encoder, Last, Piece};
use super::wire::Wire;
use crate::http::body::Body;
use crate::io::Io;

/// A connection. See the module documentation.
#[derive(Debug)]
pub struct Connection {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) wire: Wire,
    reading: Reading,
    /// Whom to wake when reading is given back.
    waker: Option<Waker>,
    /// The loop is running, and will look by itself.
    is_polled: bool,
    /// Nothing but the response is to be written.
    is_answered: bool,
}

/// Who reads.
#[derive(Debug)]
pub enum Reading {
    /// The loop.
    Loop,
    /// A body.
    Lent,
    /// The loop again; the body was dropped before its end, or is broken.
    Abandoned(Decoder),
}

/// What a peer said while nothing was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It has closed the connection, or the connection is broken.
    Gone,
    /// It has sent more already.
    Spoke,
}

impl Connection {
    /// A connection about which nothing is known.
    pub fn new(io: Io) -> Self {
        let inner = Inner {
            wire: Wire::new(io),
            reading: Reading::Loop,
            waker: None,
            is_polled: false,
            is_answered: false,
        };
        Self { inner: RefCell::new(inner) }
    }

    /// The stream, and what was read too far.
    pub fn into_parts(self) -> (Io, Bytes) {
        self.inner.into_inner().wire.into_parts()
    }

    /// Looks at, or works with, the stream. Not while a body is polled.
    pub fn with<T>(&self, work: impl FnOnce(&mut Wire) -> T) -> T {
        work(&mut self.inner.borrow_mut().wire)
    }

    /// Runs a poll of the loop. A body that gives reading back meanwhile need not wake it.
    pub fn poll_loop<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.inner.borrow_mut().is_polled = true;
        let polled = poll();
        self.inner.borrow_mut().is_polled = false;
        polled
    }

    /// A message begins: the last one's answer is no longer under way.
    pub fn begin(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_answered = false;
        inner.wire.written = 0;
    }

    /// The answer begins; 100 is not said any more.
    pub fn answered(&self) {
        self.inner.borrow_mut().is_answered = true;
    }

    /// Waits until the body that reads has ended or was dropped, and takes reading back. What is left of the body, if it
    /// has not ended.
    pub fn poll_reading(&self, cx: &mut Context<'_>) -> Poll<Option<Decoder>> {
        let mut inner = self.inner.borrow_mut();
        match std::mem::replace(&mut inner.reading, Reading::Loop) {
            Reading::Loop => Poll::Ready(None),
            Reading::Abandoned(left) => Poll::Ready(Some(left)),
            Reading::Lent => {
                inner.reading = Reading::Lent;
                inner.wake_later(cx);
                Poll::Pending
            }
        }
    }

    /// Watches the peer while it has nothing to say. Never ready while a body reads, or when more has come already.
    pub fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<Watched> {
        let mut inner = self.inner.borrow_mut();
        match inner.reading {
            Reading::Loop if inner.wire.ahead.is_empty() => {
                match ready!(inner.wire.poll_fill(cx)) {
                    Ok(0) | Err(_) => Poll::Ready(Watched::Gone),
                    Ok(_) => Poll::Ready(Watched::Spoke),
                }
            }
            Reading::Loop | Reading::Abandoned(_) => Poll::Pending,
            Reading::Lent => {
                inner.wake_later(cx);
                Poll::Pending
            }
        }
    }

    /// Whether nothing is under way, so that the connection may carry another message.
    pub fn is_idle(&self) -> bool {
        let inner = self.inner.borrow();
        matches!(inner.reading, Reading::Loop)
            && inner.wire.ahead.is_empty()
            && inner.wire.outgoing.is_empty()
    }

    /// Whether the connection cannot be used although it is idle: the peer has closed it, or speaks unasked.
    /// Otherwise the context is woken when that changes.
    pub fn poll_unusable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_idle() {
            return Poll::Ready(());
        }
        self.poll_watch(cx).map(|_| ())
    }

    /// Lends reading to a body.
    pub fn lend(self: &Rc<Self>, decoder: Decoder, duty: Duty) -> Received {
        if decoder.is_done() {
            if duty == Duty::Close {
                self.say_goodbye();
            }
            return Received::empty();
        }
        self.inner.borrow_mut().reading = Reading::Lent;
        Received { connection: Some(Rc::clone(self)), decoder, duty }
    }

    /// Tells the peer that nothing more comes, as far as that is possible at once; the stream is about to be dropped.
    /// Without this a peer could not tell the end of a TLS stream from its being cut off.
    pub fn say_goodbye(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        // Fails when the peer has closed first.
        let _ = self.with(|wire| wire.poll_shutdown(&mut cx));
    }
}

impl Inner {
    fn wake_later(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
    }

    fn give_back(&mut self, reading: Reading) {
        self.reading = reading;
        if let Some(waker) = self.waker.take()
            && !self.is_polled
        {
            waker.wake();
        }
    }
}

/// What a body has to do besides being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing.
    None,
    /// Its sender waits for 100, which is to be said when the body is wanted.
    Continue,
    /// Nothing comes after it; the connection is closed with its end.
    Close,
}

/// A body that is read from a connection.
#[derive(Debug)]
pub struct Received {
    /// None when reading has been given back.
    connection: Option<Rc<Connection>>,
    decoder: Decoder,
    duty: Duty,
}

impl Received {
    /// No body.
    pub fn empty() -> Self {
        Self { connection: None, decoder: Decoder::Done, duty: Duty::None }
    }

    fn give_back(&mut self, reading: Reading) {
        if let Some(connection) = self.connection.take() {
            if self.duty == Duty::Close {
                connection.say_goodbye();
            }
            connection.inner.borrow_mut().give_back(reading);
        }
    }

    /// The body is broken; nobody can read on.
    fn broken(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.give_back(Reading::Abandoned(Decoder::UntilEnd));
        self.decoder = Decoder::Done;
        Poll::Ready(Some(Err(error)))
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            let Some(connection) = &this.connection else { return Poll::Ready(None) };
            let mut inner = connection.inner.borrow_mut();
            let decoded = this.decoder.decode(&mut inner.wire.ahead);
            // A client that sends its body waits no more.
            let is_waiting = this.duty == Duty::Continue;
            if is_waiting && !matches!(decoded, Ok(None)) {
                this.duty = Duty::None;
            }
            let frame = match decoded {
                Ok(Some(Piece::Data(data))) => Some(Frame::data(data)),
                Ok(Some(Piece::Trailers(trailers))) => Some(Frame::trailers(trailers)),
                Ok(Some(Piece::End)) => None,
                Ok(None) => {
                    if is_waiting && !inner.is_answered {
                        this.duty = Duty::None;
                        inner.wire.outgoing.bytes(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    if !inner.is_answered && !inner.wire.outgoing.is_empty() {
                        // What does not go out now goes before the answer.
                        let _ = inner.wire.poll_flush(cx);
                    }
                    match ready!(inner.wire.poll_fill(cx)) {
                        Ok(0) => {
                            drop(inner);
                            if this.decoder.ends_with_connection() {
                                this.decoder = Decoder::Done;
                                this.give_back(Reading::Loop);
                                return Poll::Ready(None);
                            }
                            return this.broken(Error::Incomplete);
                        }
                        Ok(_) => continue,
                        Err(error) => {
                            drop(inner);
                            return this.broken(Error::Io(error));
                        }
                    }
                }
                Err(bad) => {
                    drop(inner);
                    return this.broken(Error::Body(bad));
                }
            };
            drop(inner);
            if this.decoder.is_done() {
                this.give_back(Reading::Loop);
            }
            return Poll::Ready(frame.map(Ok));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut self.decoder, Decoder::Done);
        // A client that waits for 100 sends nothing, or does; nobody knows.
        let left = if self.duty == Duty::Continue { Decoder::UntilEnd } else { left };
        self.give_back(Reading::Abandoned(left));
    }
}

/// A message's body on its way out, behind its head.
#[derive(Debug)]
pub struct Sending {
    encoder: Encoder,
    /// All of it has been given to the stream.
    is_ended: bool,
}

impl Sending {
    /// The head is to be written already.
    pub fn new(encoder: Encoder) -> Self {
        Self { is_ended: encoder.is_done(), encoder }
    }

    /// Whether the body has been taken completely.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether the body's end can be told from its breaking off.
    pub fn tells_end(&self) -> bool {
        !matches!(self.encoder, Encoder::UntilEnd)
    }

    /// Sends `body`; ready when all is written. Writes when the body has nothing more for now, so that the head and what
    /// there is of the body go out together.
    pub fn poll(
        &mut self,
        connection: &Connection,
        mut body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if self.is_ended || connection.with(|wire| wire.outgoing.is_full()) {
                ready!(connection.with(|wire| wire.poll_flush(cx)))?;
                if self.is_ended {
                    return Poll::Ready(Ok(()));
                }
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => {
                    return match connection.with(|wire| wire.poll_flush(cx)) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let is_last = if body.is_end_stream() { Last::Yes } else { Last::No };
                    self.send(connection, frame, is_last)?;
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Error::Sender(error.to_string())));
                }
                Poll::Ready(None) => {
                    self.is_ended = true;
                    connection.with(|wire| self.encoder.end(&mut wire.outgoing, None))?;
                }
            }
        }
    }

    fn send(
        &mut self,
        connection: &Connection,
        frame: Frame<Bytes>,
        is_last: Last,
    ) -> Result<(), Error> {
        match frame.into_data() {
            Ok(data) => {
                self.is_ended = is_last == Last::Yes;
                connection.with(|wire| self.encoder.data(&mut wire.outgoing, data, is_last))?;
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.is_ended = true;
                    connection
                        .with(|wire| self.encoder.end(&mut wire.outgoing, Some(&trailers)))?;
                }
            }
        }
        Ok(())
    }
}

/// Reads and forgets what is left of a body, as far as it is there: how many bytes that were, and whether it was all.
pub fn poll_discard(
    connection: &Connection,
    left: &mut Decoder,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Error>> {
    connection.with(|wire| {
        let count = ready!(wire.poll_fill(cx))?;
        discard(&mut wire.ahead, left)?;
        Poll::Ready(if count == 0 { Err(Error::Incomplete) } else { Ok(count) })
    })
}

/// Forgets what is there of a body.
pub fn discard(ahead: &mut BytesMut, left: &mut Decoder) -> Result<(), Error> {
    while !left.is_done() {
        match left.decode(ahead)? {
            Some(Piece::Data(_)) => {}
            Some(Piece::Trailers(_) | Piece::End) => return Ok(()),
            None => return Ok(()),
        }
    }
    Ok(())
}

impl From<io::ErrorKind> for Error {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn connection() -> (Rc<Connection>, DuplexStream) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (Rc::new(Connection::new(Io::memory(near))), far)
    }

    async fn frame(body: &mut Received) -> Option<Result<Frame<Bytes>, Error>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    fn is_pending<T>(poll: Poll<T>) -> bool {
        poll.is_pending()
    }

    #[tokio::test]
    async fn nothing_is_held_between_two_messages() {
        let (connection, mut far) = connection();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            connection.begin();
            far.write_all(b"hello").await.unwrap();
            let mut body = connection.lend(Decoder::length(5), Duty::None);
            let data = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(data, "hello");
            assert!(body.is_end_stream());
            connection.with(|wire| wire.outgoing.bytes(b"head "));
            let mut sending = Sending::new(Encoder::length(0));
            let mut empty = Body::Empty;
            poll_fn(|cx| sending.poll(&connection, Pin::new(&mut empty), cx)).await.unwrap();
            let mut answer = [0; 5];
            far.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"head ");
            assert!(connection.poll_unusable(&mut cx).is_pending(), "it can be used again");
            assert_eq!(connection.with(|wire| wire.held()), 0);
        }
        let size = size_of::<Connection>();
        assert!(size <= 512, "{size} bytes");
    }

    #[tokio::test]
    async fn reading_comes_back_at_the_end_of_a_body_and_when_it_is_dropped() {
        let (connection, mut far) = connection();
        let mut cx = Context::from_waker(Waker::noop());
        far.write_all(b"5\r\nhello\r\n0\r\n\r\nnext").await.unwrap();
        let mut body = connection.lend(Decoder::chunked(), Duty::None);
        assert!(is_pending(connection.poll_reading(&mut cx)), "it is lent");
        assert!(frame(&mut body).await.unwrap().unwrap().is_data());
        assert!(matches!(connection.poll_reading(&mut cx), Poll::Ready(None)));
        assert!(frame(&mut body).await.is_none());
        assert_eq!(connection.with(|wire| wire.ahead.split()), b"next"[..]);

        far.write_all(b"hel").await.unwrap();
        let mut body = connection.lend(Decoder::length(5), Duty::None);
        assert!(frame(&mut body).await.unwrap().unwrap().is_data());
        drop(body);
        let Poll::Ready(Some(mut left)) = connection.poll_reading(&mut cx) else {
            panic!("it was abandoned")
        };
        assert_eq!(left.left(), Some(2));
        far.write_all(b"lo").await.unwrap();
        let count = poll_fn(|cx| poll_discard(&connection, &mut left, cx)).await.unwrap();
        assert_eq!((count, left.is_done()), (2, true));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error_unless_the_end_ends_it() {
        for (decoder, is_whole) in
            [(Decoder::length(6), false), (Decoder::chunked(), false), (Decoder::UntilEnd, true)]
        {
            let (connection, mut far) = connection();
            far.write_all(b"6\r\nab").await.unwrap();
            drop(far);
            let mut body = connection.lend(decoder, Duty::None);
            assert!(frame(&mut body).await.unwrap().unwrap().is_data());
            match frame(&mut body).await {
                None => assert!(is_whole),
                Some(Err(Error::Incomplete)) => assert!(!is_whole),
                other => panic!("{other:?}"),
            }
            assert!(frame(&mut body).await.is_none(), "an error is told once");
        }
    }

    #[tokio::test]
    async fn says_100_once_when_the_body_is_wanted_and_not_after_the_answer() {
        let (connection, mut far) = connection();
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = connection.lend(Decoder::length(4), Duty::Continue);
        assert!(is_pending(Pin::new(&mut body).poll_frame(&mut cx)));
        assert!(is_pending(Pin::new(&mut body).poll_frame(&mut cx)));
        let mut interim = [0; 64];
        let count = far.read(&mut interim).await.unwrap();
        assert_eq!(&interim[..count], b"HTTP/1.1 100 Continue\r\n\r\n");
        drop(body);
        let mut body = connection.lend(Decoder::length(4), Duty::Continue);
        connection.answered();
        assert!(is_pending(Pin::new(&mut body).poll_frame(&mut cx)));
        assert_eq!(connection.with(|wire| wire.written), 25);
    }
}
