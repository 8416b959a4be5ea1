//! Passing bytes both ways until both sides are done.
//!
//! A connection that waits holds no buffer: bytes are read into the thread's scratch buffer and written on at once.
//! Only what the receiver does not take is kept, and nothing more is read until it is gone, so memory per connection
//! is at most one scratch buffer each way and usually nothing.
//!
//! Estimate per chunk of up to 64 KiB on a plain leg: one read, one write, no allocation; a wake-up only when a side
//! is not ready.
//!
//! Half-close goes through: the end of one direction is passed on (FIN, or TLS close_notify and FIN) while the other
//! goes on. An error in either direction ends both. There is no idle timeout; keep-alive and the user timeout of the
//! sockets find dead peers.

use crate::{
    detect::{SCRATCH_BYTES, poll_read_scratch},
    io::Io,
};
use bytes::{Buf, BytesMut};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// Passes bytes between `a` and `b` until both directions have ended or one has failed.
///
/// When it fails, both sides are reset rather than closed, so that nobody takes a broken stream for a finished one. A
/// peer that closed without TLS's goodbye (close_notify) is an exception: what it sent before may still be under way
/// to the other side and is not cut off by a reset.
pub async fn both_ways(a: &mut Io, b: &mut Io) -> io::Result<()> {
    let (mut forth, mut back) = (OneWay::default(), OneWay::default());
    let result: io::Result<()> = poll_fn(|cx| {
        // Both directions are polled each time; a direction that has ended answers at once.
        let forth = forth.poll(cx, a, b)?;
        let back = back.poll(cx, b, a)?;
        if forth.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
        a.abort();
        b.abort();
    }
    result
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Copying,
    Closing,
    Done,
}

/// One direction.
#[derive(Debug, Default)]
struct OneWay {
    /// Read but not yet written.
    left: BytesMut,
    needs_flush: bool,
    phase: Phase,
}

/// Chunks moved before other tasks of the thread get their turn.
const CHUNKS_PER_TURN: usize = 16;

impl OneWay {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<io::Result<()>> {
        for _ in 0..CHUNKS_PER_TURN {
            match self.phase {
                Phase::Done => return Poll::Ready(Ok(())),
                Phase::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.phase = Phase::Done;
                }
                Phase::Copying if !self.left.is_empty() => {
                    let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.left))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    self.left.advance(count);
                    if self.left.is_empty() {
                        self.left = BytesMut::new();
                    }
                }
                Phase::Copying => {
                    if self.poll_chunk(cx, from, to)?.is_pending() {
                        if self.needs_flush {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.needs_flush = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a chunk and writes as much of it as goes at once.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> Poll<io::Result<()>> {
        let moved = ready!(poll_read_scratch(from, cx, SCRATCH_BYTES, |cx, bytes| {
            if bytes.is_empty() {
                self.phase = Phase::Closing;
                return Ok(());
            }
            self.needs_flush = true;
            let written = match Pin::new(to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => 0,
            };
            self.left.extend_from_slice(&bytes[written..]);
            Ok(())
        }))?;
        Poll::Ready(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn passes_more_than_any_buffer_holds_and_both_ends() {
        let (mut client, near) = duplex(1000);
        let (far, mut server) = duplex(7);
        let (mut near, mut far) = (Io::memory(near), Io::memory(far));
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let client_side = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server_side = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(b"after the end of the request").await.unwrap();
            server.shutdown().await.unwrap();
            got
        };
        let (copied, answer, got) =
            tokio::join!(both_ways(&mut near, &mut far), client_side, server_side);
        copied.unwrap();
        assert_eq!(got, sent);
        assert_eq!(answer, "after the end of the request");
    }

    #[tokio::test]
    async fn ends_both_ways_when_one_fails() {
        let (client, near) = duplex(100);
        let (far, server) = duplex(100);
        let (mut near, mut far) = (Io::memory(near), Io::memory(far));
        drop(server);
        let mut client = client;
        client.write_all(b"nobody reads this").await.unwrap();
        let error = both_ways(&mut near, &mut far).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
