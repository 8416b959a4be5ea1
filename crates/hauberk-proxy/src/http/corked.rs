//! Writes of one poll of a connection, sent together at its end.
//!
//! An HTTP/2 connection serves many streams. Its codec writes and flushes after every larger frame, so that a response
//! of 1 KiB costs a TLS record and a system call of its own, and the system call (the whole way through the kernel to
//! the peer's socket) costs more than all the rest. What is written during one poll of the connection is therefore
//! kept here and goes out in as few records and calls as possible when the poll is over.
//!
//! [`Corked`] is what the codec writes to: it takes up to 64 KiB at once and then behaves like the
//! stream below, so a peer that does not read still holds back its sender. [`Uncorking`] polls the connection and then
//! flushes, also while earlier bytes wait for the socket. Between two polls nothing is held unless the socket is full.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::Io;

/// Bytes taken without asking the socket. Four full TLS records; more would only use memory.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Empty buffers that a thread keeps for the next connection that writes; one that waits holds none.
const SPARE_MAX: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A stream that collects what is written until [`Uncorking`] sends it. Clones are the same stream.
#[derive(Clone, Debug)]
pub struct Corked {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug)]
struct Inner {
    io: Io,
    held: Vec<u8>,
    /// Bytes of `held` that are written already.
    sent: usize,
    /// Why nothing can be written any more; told once, to whoever reads or writes next.
    broken: Option<io::Error>,
    /// Bytes read so far.
    received: u64,
    /// Nothing is read; see [`Corked::poll_deaf`].
    is_deaf: bool,
}

impl Corked {
    /// Collects the writes to `io`.
    pub fn new(io: Io) -> Self {
        let inner =
            Inner { io, held: Vec::new(), sent: 0, broken: None, received: 0, is_deaf: false };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Runs `poll` of a connection that reads and writes this stream without letting it read, so that it only writes
    /// what it has. No waker is kept: the connection has to be polled again in the same turn.
    pub fn poll_deaf<T>(&self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.inner.borrow_mut().is_deaf = true;
        let polled = poll();
        self.inner.borrow_mut().is_deaf = false;
        polled
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.inner.borrow().received
    }
}

impl Inner {
    /// Writes until at most `keep` bytes are held.
    fn poll_drain(&mut self, cx: &mut Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        while self.held.len() - self.sent > keep {
            let left = &self.held[self.sent..];
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, left))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        if self.sent == self.held.len() && self.held.capacity() > 0 {
            self.sent = 0;
            let mut spare = std::mem::take(&mut self.held);
            spare.clear();
            SPARE.with_borrow_mut(|list| {
                if list.len() < SPARE_MAX {
                    list.push(spare);
                }
            });
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much of `bytes` as there is room for.
    fn hold(&mut self, bytes: &[u8]) -> usize {
        if self.held.capacity() == 0 {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.held = spare.unwrap_or_else(|| Vec::with_capacity(HELD_BYTES_MAX));
        } else if self.sent > 0 && self.held.len() + bytes.len() > HELD_BYTES_MAX {
            self.held.drain(..self.sent);
            self.sent = 0;
        }
        let count = bytes.len().min(HELD_BYTES_MAX.saturating_sub(self.held.len()));
        self.held.extend_from_slice(&bytes[..count]);
        count
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes room for more; an error that a flush has met comes out here.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        if self.held.len() - self.sent < HELD_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx, HELD_BYTES_MAX - 1)
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(error) = inner.broken.take() {
            return Poll::Ready(Err(error));
        }
        if inner.is_deaf {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut inner.io).poll_read(cx, buf))?;
        inner.received += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_room(cx))?;
        Poll::Ready(Ok(inner.hold(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_room(cx))?;
        let mut taken = 0;
        for slice in slices {
            let count = inner.hold(slice);
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by [`Uncorking`], at the end of the poll in which this is called.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner.borrow_mut().broken.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_flush(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

pin_project! {
    /// A connection whose stream is [`Corked`]: what a poll of it has written is sent when the poll is over.
    #[derive(Debug)]
    pub struct Uncorking<C> {
        #[pin]
        connection: C,
        corked: Corked,
    }
}

impl<C> Uncorking<C> {
    /// Polls `connection`, which writes to (a clone of) `corked`.
    pub fn new(corked: Corked, connection: C) -> Self {
        Self { connection, corked }
    }

    /// The connection itself.
    pub fn connection(self: Pin<&mut Self>) -> Pin<&mut C> {
        self.project().connection
    }
}

impl<C: Future> Future for Uncorking<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let mut this = self.project();
        let polled = this.connection.as_mut().poll(cx);
        let flushed = this.corked.inner.borrow_mut().poll_flush(cx);
        match (polled, flushed) {
            // Its stream has been shut down, or has failed; nothing more can be sent.
            (Poll::Ready(output), _) => Poll::Ready(output),
            (Poll::Pending, Poll::Ready(Err(error))) => {
                this.corked.inner.borrow_mut().broken = Some(error);
                this.connection.poll(cx)
            }
            (Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Writes `pieces` with a flush after each, as a codec does, then waits for ever.
    async fn chatty(mut corked: Corked, pieces: Vec<Vec<u8>>) -> io::Result<()> {
        for piece in pieces {
            corked.write_all(&piece).await?;
            corked.flush().await?;
        }
        let mut byte = [0];
        corked.read_exact(&mut byte).await.map(|_| ())
    }

    #[tokio::test]
    async fn writes_of_one_poll_arrive_together() {
        let (near, mut far) = tokio::io::duplex(1024);
        let corked = Corked::new(Io::memory(near));
        let pieces = vec![b"one ".to_vec(), b"two ".to_vec(), b"three".to_vec()];
        let connection = chatty(corked.clone(), pieces);
        let mut connection = Box::pin(Uncorking::new(corked, connection));
        poll_fn(|cx| {
            assert!(connection.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let mut buffer = [0; 64];
        let count = far.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"one two three");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_back_the_sender() {
        const TOTAL: usize = 300 * 1024;
        let (near, mut far) = tokio::io::duplex(1024);
        let corked = Corked::new(Io::memory(near));
        let connection = chatty(corked.clone(), vec![vec![7; TOTAL]]);
        let mut connection = Box::pin(Uncorking::new(corked.clone(), connection));
        poll_fn(|cx| {
            assert!(connection.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(corked.inner.borrow().held.len() <= HELD_BYTES_MAX);
        let reading = async {
            let mut all = vec![0; TOTAL];
            far.read_exact(&mut all).await.unwrap();
            assert!(all.iter().all(|byte| *byte == 7));
            far
        };
        tokio::select! {
            ended = connection.as_mut() => panic!("the connection waits for a byte, but {ended:?}"),
            _far = reading => {}
        }
        assert!(corked.inner.borrow().held.is_empty());
        assert_eq!(corked.inner.borrow().held.capacity(), 0, "an idle connection holds no buffer");
    }

    #[tokio::test]
    async fn a_connection_learns_that_its_socket_is_broken() {
        let (near, far) = tokio::io::duplex(1024);
        let corked = Corked::new(Io::memory(near));
        drop(far);
        let mut stream = corked.clone();
        let connection = async move {
            stream.write_all(b"into the void").await?;
            // The end of this poll finds out; the next thing that is done with the stream tells.
            tokio::task::yield_now().await;
            stream.flush().await
        };
        let error = Uncorking::new(corked, Box::pin(connection)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
