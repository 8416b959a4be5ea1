//! Reading and writing a stream without a buffer of one's own.
//!
//! A thread's connections share one block that they read into. What was read is copied out of it if it is short, and
//! cut off without a copy if it is long; a connection that waits holds nothing. Writes are collected in a buffer that
//! the thread lends for as long as something is in it; long data are not copied but sent beside it. So a message with
//! a short body is one read and one write, and a long body is copied by the kernel only.

use std::cell::RefCell;
use std::collections::VecDeque;
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

/// Long pieces that are written at once, and about how many bytes of them: a body that came in frames of 16 KiB goes
/// out with one system call for sixteen.
const LONG_PIECES_MAX: usize = 16;
const LONG_BYTES_MAX: usize = 256 * 1024;

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

/// What is to be written: collected bytes, and long pieces of data between them.
#[derive(Debug, Default)]
pub struct Outgoing {
    collected: Vec<u8>,
    /// How much of `collected` is written.
    sent: usize,
    /// Long pieces that are not copied, each with how much of `collected` goes before it.
    long: VecDeque<(usize, Bytes)>,
    long_bytes: usize,
}

impl Outgoing {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.collected.len() == self.sent && self.long.is_empty()
    }

    /// Whether it should be written before more is added.
    pub fn is_full(&self) -> bool {
        self.long.len() >= LONG_PIECES_MAX
            || self.long_bytes >= LONG_BYTES_MAX
            || self.collected.len() > COLLECTED_BYTES_MAX
    }

    /// A buffer to add bytes to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
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
            self.bytes(&data);
        } else {
            self.long_bytes += data.len();
            self.long.push_back((self.collected.len(), data));
        }
        if !tail.is_empty() {
            self.bytes(tail);
        }
    }

    fn poll_write(
        &mut self,
        mut io: Pin<&mut Io>,
        cx: &mut Context<'_>,
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let polled = if self.long.is_empty() {
                io.as_mut().poll_write(cx, &self.collected[self.sent..])
            } else {
                let mut slices = [IoSlice::new(&[]); 2 * LONG_PIECES_MAX + 1];
                let count = self.slices(&mut slices);
                io.as_mut().poll_write_vectored(cx, &slices[..count])
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

    /// All that is to be written in its order; how many slices that are, none of them empty.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.sent;
        let mut count = 0;
        let mut add = |slice: &'a [u8]| {
            if !slice.is_empty() && count < slices.len() {
                slices[count] = IoSlice::new(slice);
                count += 1;
            }
        };
        for (before, data) in &self.long {
            add(&self.collected[at..*before]);
            add(data);
            at = *before;
        }
        add(&self.collected[at..]);
        count
    }

    fn wrote(&mut self, mut count: usize) {
        while let Some((before, data)) = self.long.front_mut() {
            let of_collected = count.min(*before - self.sent);
            self.sent += of_collected;
            count -= of_collected;
            let of_data = count.min(data.len());
            data.advance(of_data);
            self.long_bytes -= of_data;
            count -= of_data;
            if !data.is_empty() {
                return;
            }
            self.long.pop_front();
        }
        self.sent += count;
        if self.sent == self.collected.len() {
            self.sent = 0;
            self.long = VecDeque::new();
            give_back(std::mem::take(&mut self.collected));
        }
    }
}

/// Keeps a buffer for the next connection that writes.
fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE_BYTES_MAX {
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
            self.ahead.capacity()
                + self.outgoing.collected.capacity()
                + self.outgoing.long_bytes
                + self.outgoing.long.capacity()
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
        // A pipe that takes little at a time, and one that takes nearly everything.
        for room in [777, 300_000] {
            let (near, mut far) = tokio::io::duplex(room);
            let mut wire = Wire::new(Io::memory(near));
            let long = Bytes::from((0..20_000).map(|n: u32| n as u8).collect::<Vec<_>>());
            let mut expect = b"head".to_vec();
            wire.outgoing.bytes(b"head");
            wire.outgoing.data(long.clone(), b"");
            expect.extend_from_slice(&long);
            while !wire.outgoing.is_full() {
                wire.outgoing.data(long.clone(), b"\r\n");
                expect.extend_from_slice(&long);
                expect.extend_from_slice(b"\r\n");
                wire.outgoing.data(Bytes::from_static(b"short"), b"");
                wire.outgoing.bytes(b"er");
                expect.extend_from_slice(b"shorter");
            }
            assert!(expect.len() > LONG_BYTES_MAX && expect.len() < LONG_BYTES_MAX + 30_000);
            let mut got = vec![0; expect.len()];
            let writing = poll_fn(|cx| wire.poll_flush(cx));
            let (written, read) = tokio::join!(writing, far.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            assert!(got == expect, "pipe of {room}");
            assert!(wire.outgoing.is_empty());
            assert_eq!((wire.held(), wire.written), (0, expect.len() as u64));
        }
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
