//! A connection's byte stream, whatever carries it.
//!
//! One closed enum instead of a trait object: plain TCP, TLS we accepted, TLS we dialled, and an in-memory pipe
//! for tests. Bytes that were read while looking (protocol detection, the transport header) go back in front with
//! [`Io::unread`] and are seen again by whoever reads next.
//!
//! A [`Sensor`] set with [`Io::observe`] counts bytes above TLS and remembers the error that ended the stream;
//! it is dropped with the stream, which is when `tcp_close_total` counts.
//!
//! `Io` is `Send` only when its parts are; the data path does not need it to be. Size: under 200 bytes, because the
//! TLS states are boxed once per connection and nothing is boxed per read or write.

use crate::telemetry::tcp::Sensor;
use bytes::{Buf, Bytes};
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// The socket under everything.
#[derive(Debug)]
pub enum Raw {
    /// A kernel socket.
    Tcp(TcpStream),
    /// An in-memory pipe; only tests make one.
    Memory(DuplexStream),
}

/// A socket below TLS, with bytes in front that somebody already took out of it.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    raw: Raw,
}

#[derive(Debug)]
enum Stream {
    Plain(Raw),
    Accepted(Box<server::TlsStream<Prefixed>>),
    Connected(Box<client::TlsStream<Prefixed>>),
}

/// A connection's byte stream. See the module documentation.
#[derive(Debug)]
pub struct Io {
    prefix: Bytes,
    stream: Stream,
    sensor: Option<Sensor>,
}

impl Io {
    /// A plain TCP connection.
    pub fn plain(socket: TcpStream) -> Self {
        Self::new(Stream::Plain(Raw::Tcp(socket)))
    }

    /// An in-memory connection, for tests of the paths above sockets.
    pub fn memory(pipe: DuplexStream) -> Self {
        Self::new(Stream::Plain(Raw::Memory(pipe)))
    }

    /// TLS that a peer opened to us.
    pub fn accepted(tls: server::TlsStream<Prefixed>) -> Self {
        Self::new(Stream::Accepted(Box::new(tls)))
    }

    /// TLS that we opened to a peer.
    pub fn connected(tls: client::TlsStream<Prefixed>) -> Self {
        Self::new(Stream::Connected(Box::new(tls)))
    }

    fn new(stream: Stream) -> Self {
        Self { prefix: Bytes::new(), stream, sensor: None }
    }

    /// Puts `bytes` back in front: the next reads return them first.
    pub fn unread(&mut self, bytes: Bytes) {
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else if !bytes.is_empty() {
            let mut joined = bytes::BytesMut::with_capacity(bytes.len() + self.prefix.len());
            joined.extend_from_slice(&bytes);
            joined.extend_from_slice(&self.prefix);
            self.prefix = joined.freeze();
        }
    }

    /// Counts this stream's bytes and its end with `sensor`.
    pub fn observe(&mut self, sensor: Sensor) {
        self.sensor = Some(sensor);
    }

    /// The socket below, with the bytes put back: what a TLS handshake starts from. `None` if TLS is already on.
    pub fn into_prefixed(self) -> Option<Prefixed> {
        match self.stream {
            Stream::Plain(raw) => Some(Prefixed { prefix: self.prefix, raw }),
            Stream::Accepted(_) | Stream::Connected(_) => None,
        }
    }

    /// Whether bytes are encrypted between us and the other end of this stream.
    pub fn is_tls(&self) -> bool {
        !matches!(self.stream, Stream::Plain(_))
    }

    /// The kernel socket, if there is one.
    pub fn socket(&self) -> Option<&TcpStream> {
        let raw = match &self.stream {
            Stream::Plain(raw) => raw,
            Stream::Accepted(tls) => &tls.get_ref().0.raw,
            Stream::Connected(tls) => &tls.get_ref().0.raw,
        };
        match raw {
            Raw::Tcp(socket) => Some(socket),
            Raw::Memory(_) => None,
        }
    }

    /// Makes the coming drop of this stream a reset (RST) where the kernel lets us, so that the other end sees the
    /// connection as broken and not as finished.
    pub fn abort(&self) {
        if let Some(socket) = self.socket() {
            // The socket may already be gone; the close that follows is then all that can be done.
            let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let (Err(error), Some(sensor)) = (&result, &self.sensor) {
            sensor.failed(error);
        }
        result
    }
}

impl Prefixed {
    /// A socket with nothing in front.
    pub fn bare(raw: Raw) -> Self {
        Self { prefix: Bytes::new(), raw }
    }
}

/// Bytes taken from a socket at once for TLS, which itself asks for 4 KiB at a time: a record of 16 KiB would cost five
/// calls of the kernel.
const AHEAD_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where a socket's bytes are read to. Shared by the thread's connections: one that waits holds no buffer.
    static AHEAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; AHEAD_BYTES].into());
}

/// A message of up to this many bytes is copied together: `send` costs the kernel less than `writev`, by more than so
/// short a copy takes.
const JOINED_BYTES_MAX: usize = 2048;

/// Writes the slices, in one piece if they are few bytes.
fn poll_write_slices(
    socket: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = slices {
        return socket.poll_write(cx, only);
    }
    let mut joined = [0; JOINED_BYTES_MAX];
    let mut len = 0;
    for slice in slices {
        let Some(place) = joined.get_mut(len..len + slice.len()) else {
            return socket.poll_write_vectored(cx, slices);
        };
        place.copy_from_slice(slice);
        len += slice.len();
    }
    socket.poll_write(cx, &joined[..len])
}

fn read_prefix(prefix: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if prefix.is_empty() || buf.remaining() == 0 {
        return false;
    }
    let count = prefix.len().min(buf.remaining());
    buf.put_slice(&prefix[..count]);
    prefix.advance(count);
    if prefix.is_empty() {
        // Free the allocation now; the connection may live for days.
        *prefix = Bytes::new();
    }
    true
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !read_prefix(&mut this.prefix, buf) {
            let result = ready!(match &mut this.stream {
                Stream::Plain(raw) => Pin::new(raw).poll_read(cx, buf),
                Stream::Accepted(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
                Stream::Connected(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
            });
            this.note(result)?;
        }
        if let Some(sensor) = &this.sensor {
            sensor.read(buf.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(match &mut this.stream {
            Stream::Plain(raw) => Pin::new(raw).poll_write(cx, bytes),
            Stream::Accepted(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
            Stream::Connected(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        });
        let count = this.note(result)?;
        if let Some(sensor) = &this.sensor {
            sensor.wrote(count);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(match &mut this.stream {
            Stream::Plain(raw) => Pin::new(raw).poll_write_vectored(cx, slices),
            Stream::Accepted(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, slices),
            Stream::Connected(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, slices),
        });
        let count = this.note(result)?;
        if let Some(sensor) = &this.sensor {
            sensor.wrote(count);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(raw) => raw.is_write_vectored(),
            Stream::Accepted(tls) => tls.is_write_vectored(),
            Stream::Connected(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(match &mut this.stream {
            Stream::Plain(raw) => Pin::new(raw).poll_flush(cx),
            Stream::Accepted(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Stream::Connected(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        });
        Poll::Ready(this.note(result))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(match &mut this.stream {
            Stream::Plain(raw) => Pin::new(raw).poll_shutdown(cx),
            Stream::Accepted(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Stream::Connected(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        });
        Poll::Ready(this.note(result))
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if read_prefix(&mut this.prefix, buf) {
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= AHEAD_BYTES {
            return Pin::new(&mut this.raw).poll_read(cx, buf);
        }
        AHEAD.with_borrow_mut(|ahead| {
            let mut ahead = ReadBuf::new(ahead);
            ready!(Pin::new(&mut this.raw).poll_read(cx, &mut ahead))?;
            let (now, later) = ahead.filled().split_at(buf.remaining().min(ahead.filled().len()));
            buf.put_slice(now);
            if !later.is_empty() {
                this.prefix = Bytes::copy_from_slice(later);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().raw).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().raw).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.raw.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().raw).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().raw).poll_shutdown(cx)
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Raw::Memory(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Raw::Memory(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(socket) => poll_write_slices(Pin::new(socket), cx, slices),
            Raw::Memory(pipe) => Pin::new(pipe).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Raw::Tcp(socket) => socket.is_write_vectored(),
            Raw::Memory(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Raw::Memory(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Raw::Memory(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn returns_unread_bytes_before_the_stream() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b" world").await.unwrap();
        drop(far);
        let mut io = Io::memory(near);
        io.unread(Bytes::from_static(b"llo"));
        io.unread(Bytes::from_static(b"he"));
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[test]
    fn stays_small() {
        assert!(std::mem::size_of::<Io>() <= 256, "{} bytes", std::mem::size_of::<Io>());
    }
}
