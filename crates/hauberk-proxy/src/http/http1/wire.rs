//! Reading and writing a stream without a buffer of one's own.
//!
//! A thread's connections share one block that they read into. What was read is copied out of it if it is short, and
//! cut off without a copy if it is long; a connection that waits holds nothing. Writes are collected in a buffer that
//! the thread lends for as long as something is in it; long data are not copied but sent beside it. So a message with
//! a short body is one read and one write, and a long body is copied by the kernel only.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::io::Io;

/// Size of the block that is read into: what hyper's buffer grows to when a body is long, so that the kernel is asked as
/// seldom.
const BLOCK_BYTES: usize = 256 * 1024;

/// A block with less room than this is given up.
const ROOM_BYTES_MIN: usize = 64 * 1024;

/// Read at once below TLS: a record. The library clears what it is given room for.
const RECORD_BYTES: usize = 16 * 1024;

/// Up to so many bytes are copied out of the block. Whoever holds a longer piece holds the block too, and so at most 32
/// times what it uses.
const COPIED_BYTES_MAX: usize = 8 * 1024;

/// Up to so many bytes of data are copied behind what is to be written anyway.
const JOINED_BYTES_MAX: usize = 8 * 1024;

/// Bytes collected before they are written.
const COLLECTED_BYTES_MAX: usize = 32 * 1024;

/// Buffers that a thread keeps to lend, how large a new one is, and how large one that is kept may be.
const SPARE_MAX: usize = 8;
const BUFFER_BYTES: usize = 4 * 1024;
const SPARE_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A stream with what was read too far and what is still to be written.
#[derive(Debug)]
pub struct Wire {
    io: Io,
    /// Bytes that were read and that nobody has understood yet.
    pub ahead: BytesMut,
    /// What is to be written.
    pub outgoing: Outgoing,
    /// Bytes written since somebody began to count.
    pub written: u64,
}

impl Wire {
    /// A stream about which nothing is known.
    pub fn new(io: Io) -> Self {
        Self { io, ahead: BytesMut::new(), outgoing: Outgoing::default(), written: 0 }
    }

    /// The stream, and what was read too far.
    pub fn into_parts(self) -> (Io, Bytes) {
        (self.io, self.ahead.freeze())
    }

    /// The stream.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Reads more; how many bytes came, none at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() {
            // Although empty, it may hold what was cut off from it.
            self.ahead = BytesMut::new();
        }
        BLOCK.with_borrow_mut(|block| {
            let room = block.capacity() - block.len();
            if room < ROOM_BYTES_MIN {
                // Takes the old block again if nobody holds a piece of it.
                block.reserve(BLOCK_BYTES);
            }
            let limit = if self.io.is_tls() { RECORD_BYTES } else { BLOCK_BYTES };
            let mut limited = (&mut *block).limit(limit);
            // Holds no state, so it may be dropped after each poll.
            let count = ready!(pin!(self.io.read_buf(&mut limited)).poll(cx))?;
            if self.ahead.is_empty() {
                self.ahead = match count {
                    ..=COPIED_BYTES_MAX => BytesMut::from(&block[..count]),
                    _ => block.split_to(count),
                };
            } else {
                self.ahead.extend_from_slice(&block[..count]);
            }
            block.clear();
            Poll::Ready(Ok(count))
        })
    }

    /// Writes all that is to be written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.io);
        let polled = self.outgoing.poll_write(io, cx, &mut self.written);
        ready!(polled)?;
        if self.io.is_tls() { Pin::new(&mut self.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Tells the peer that nothing more comes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What is to be written: collected bytes, then at most one long piece of data and what ends it.
#[derive(Debug, Default)]
pub struct Outgoing {
    collected: Vec<u8>,
    /// How much of `collected` is written.
    sent: usize,
    data: Bytes,
    tail: &'static [u8],
}

impl Outgoing {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.collected.len() == self.sent && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether it should be written before more is added.
    pub fn is_full(&self) -> bool {
        !self.data.is_empty() || !self.tail.is_empty() || self.collected.len() > COLLECTED_BYTES_MAX
    }

    /// A buffer to add bytes to. Not while it is full.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.data.is_empty() && self.tail.is_empty(), "data come last");
        if self.collected.capacity() == 0 {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.collected = spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        }
        &mut self.collected
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// Adds data and what ends them.
    pub fn data(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= JOINED_BYTES_MAX {
            let buffer = self.buffer();
            buffer.extend_from_slice(&data);
            buffer.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
    }

    fn poll_write(
        &mut self,
        mut io: Pin<&mut Io>,
        cx: &mut Context<'_>,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let collected = &self.collected[self.sent..];
            let polled = if self.data.is_empty() && self.tail.is_empty() {
                io.as_mut().poll_write(cx, collected)
            } else {
                let slices = [collected, &self.data, self.tail].map(IoSlice::new);
                let from = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
                io.as_mut().poll_write_vectored(cx, &slices[from..])
            };
            match ready!(polled)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    *written += count as u64;
                    self.wrote(count);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, count: usize) {
        let of_collected = count.min(self.collected.len() - self.sent);
        self.sent += of_collected;
        let of_data = (count - of_collected).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[count - of_collected - of_data..];
        if self.data.is_empty() {
            self.data = Bytes::new();
        }
        if self.sent == self.collected.len() && self.collected.capacity() > 0 {
            self.sent = 0;
            give_back(std::mem::take(&mut self.collected));
        }
    }
}

/// Keeps a buffer for the next connection that writes.
fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|list| {
        if list.len() < SPARE_MAX {
            list.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    impl Wire {
        /// Bytes of buffers that it holds.
        pub(crate) fn held(&self) -> usize {
            self.ahead.capacity() + self.outgoing.collected.capacity() + self.outgoing.data.len()
        }
    }

    #[tokio::test]
    async fn who_waits_holds_no_buffer() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let mut wire = Wire::new(Io::memory(near));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(wire.poll_fill(&mut cx).is_pending());
        assert_eq!(wire.held(), 0);
        far.write_all(b"hello").await.unwrap();
        assert_eq!(poll_fn(|cx| wire.poll_fill(cx)).await.unwrap(), 5);
        assert_eq!(wire.ahead.split().freeze(), "hello");
        wire.ahead = BytesMut::new();
        wire.outgoing.bytes(b"and back");
        assert!(wire.held() > 0);
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        assert_eq!((wire.held(), wire.written), (0, 8));
        let mut back = [0; 8];
        far.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"and back");
    }

    #[tokio::test]
    async fn long_and_short_pieces_arrive_in_their_order() {
        // A pipe that takes little at a time.
        let (near, mut far) = tokio::io::duplex(777);
        let mut wire = Wire::new(Io::memory(near));
        let long = Bytes::from((0..100_000).map(|n: u32| n as u8).collect::<Vec<_>>());
        let mut expect = b"head".to_vec();
        expect.extend_from_slice(&long);
        expect.extend_from_slice(b"tail");
        wire.outgoing.bytes(b"head");
        wire.outgoing.data(long, b"tail");
        assert!(wire.outgoing.is_full());
        let mut got = vec![0; expect.len()];
        let writing = poll_fn(|cx| wire.poll_flush(cx));
        let (written, read) = tokio::join!(writing, far.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        assert_eq!(got, expect);
        assert!(wire.outgoing.is_empty());
        assert_eq!(wire.held(), 0);
    }

    #[tokio::test]
    async fn long_reads_are_cut_off_and_short_ones_copied() {
        let (near, mut far) = tokio::io::duplex(BLOCK_BYTES);
        let mut wire = Wire::new(Io::memory(near));
        for size in [10, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1, 100_000] {
            let sent = vec![7; size];
            far.write_all(&sent).await.unwrap();
            let mut got = Vec::new();
            while got.len() < size {
                poll_fn(|cx| wire.poll_fill(cx)).await.unwrap();
                if size <= COPIED_BYTES_MAX {
                    assert_eq!(wire.ahead.capacity(), size, "no more than it needs");
                }
                got.extend_from_slice(&wire.ahead.split());
                wire.ahead = BytesMut::new();
            }
            assert_eq!(got, sent);
        }
    }
}
