//! What protocol is this? Looking at the first bytes of a connection without consuming them.
//!
//! The decisions are pure functions over the bytes so far: [`http`](fn@http) over what the client sent,
//! [`server_first`] over what the server sent while the client was silent. [`Sniffed`] collects the bytes; it holds
//! no buffer while nothing has arrived.
//!
//! Three rules make detection wait as little as possible and as long as needed:
//! - Bytes are accumulated. A client that dribbles `GE`, `T /` is still recognised (linkerd2-proxy looks at a single
//!   read).
//! - A decision falls as soon as the bytes allow only one answer. `SSH-2.0-x\r` cannot be HTTP, because a carriage
//!   return is not part of a request target or of a method.
//! - What still could be HTTP only by an unusual method (`HELLO`) is given [`UNUSUAL_METHOD_WAIT`], not the whole
//!   detection timeout, because a client of another protocol may now be waiting for its answer.
//!
//! Who decides what to do on a timeout is not here: `outbound` and `inbound` do.

use crate::io::Io;
use bytes::{Bytes, BytesMut};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, ReadBuf};

#[cfg(test)]
mod tests;

/// How long a first word that is no usual HTTP method may stay alone before it counts as another protocol. Two
/// segments of one request line are a round trip apart at most; this is a transatlantic one.
pub const UNUSUAL_METHOD_WAIT: Duration = Duration::from_millis(250);

/// How long a client may be silent before the server is asked whether it speaks first. Clients that speak first do
/// so within their connection's first round trip inside one host; the price of asking too early is a connection to
/// the server that is not used.
pub const CLIENT_SILENCE: Duration = Duration::from_millis(10);

/// A request line longer than this without an end is taken for HTTP/1: it has been method, space and target so far,
/// and the limit of heads then applies.
const REQUEST_LINE_BYTES_MAX: usize = 8192;

/// Longest method token; the longest registered one has 16 letters.
const METHOD_BYTES_MAX: usize = 32;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Registered methods by how they begin; a first word in here deserves the full detection timeout.
const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// What the client's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// A beginning that most likely becomes HTTP.
    LikelyHttp,
    /// A beginning that would be HTTP only with an unusual method.
    UnlikelyHttp,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Something else.
    Other,
}

/// Decides by the bytes a client sent first (RFC 9112 section 3, RFC 9113 section 3.4).
pub fn http(bytes: &[u8]) -> Detection {
    let seen = bytes.len().min(HTTP2_PREFACE.len());
    if seen > 0 && bytes[..seen] == HTTP2_PREFACE[..seen] {
        return if seen == HTTP2_PREFACE.len() { Detection::Http2 } else { Detection::LikelyHttp };
    }
    // RFC 9112 section 2.2: a server should ignore at least one empty line before the request line.
    let line = match bytes {
        [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
        [b'\r'] => return Detection::UnlikelyHttp,
        rest => rest,
    };
    let method_end = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
    let method = &line[..method_end];
    if method.len() > METHOD_BYTES_MAX {
        return Detection::Other;
    }
    let begins_method = METHODS.iter().any(|known| known.starts_with(method));
    let undecided = if begins_method { Detection::LikelyHttp } else { Detection::UnlikelyHttp };
    let rest = match &line[method_end..] {
        [] => return undecided,
        [b' ', rest @ ..] if !method.is_empty() => rest,
        _ => return Detection::Other,
    };
    let undecided =
        if METHODS.contains(&method) { Detection::LikelyHttp } else { Detection::UnlikelyHttp };
    let target_end = rest.iter().position(|byte| !is_target(*byte)).unwrap_or(rest.len());
    let version = match &rest[target_end..] {
        [] if bytes.len() > REQUEST_LINE_BYTES_MAX => return Detection::Http1,
        [] => return undecided,
        [b' ', version @ ..] if target_end > 0 => version,
        _ => return Detection::Other,
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', ..] => Detection::Http1,
        version
            if version.len() < 8 && b"HTTP/1.".starts_with(&version[..version.len().min(7)]) =>
        {
            undecided
        }
        _ => Detection::Other,
    }
}

/// What a server's first bytes, sent to a silent client, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFirst {
    /// Too few bytes to tell.
    Undecided,
    /// An HTTP server: a timeout answer (`HTTP/1.1 408`), or the SETTINGS frame that HTTP/2 servers may send before
    /// they have seen the client's preface (RFC 9113 section 3.4). The client will speak HTTP; keep waiting for it.
    Http,
    /// A protocol in which the server speaks first.
    Opaque,
}

/// Decides by the bytes a server sent before its client said anything.
pub fn server_first(bytes: &[u8]) -> ServerFirst {
    const HTTP1: &[u8] = b"HTTP/";
    let seen = bytes.len().min(HTTP1.len());
    if bytes[..seen] == HTTP1[..seen] {
        return if seen == HTTP1.len() { ServerFirst::Http } else { ServerFirst::Undecided };
    }
    // A frame header: 24 bits of length, a multiple of six; type 4; no flags; stream 0 (RFC 9113 section 6.5).
    let settings = |at: usize, byte: u8| match at {
        0 => byte == 0,
        1 | 2 => true,
        3 => byte == 4,
        _ => byte == 0,
    };
    let seen = bytes.len().min(9);
    if !bytes[..seen].iter().enumerate().all(|(at, byte)| settings(at, *byte)) {
        return ServerFirst::Opaque;
    }
    match bytes {
        [_, high, low, _, _, _, _, _, _, ..]
            if u16::from_be_bytes([*high, *low]).is_multiple_of(6) =>
        {
            ServerFirst::Http
        }
        bytes if bytes.len() < 9 => ServerFirst::Undecided,
        _ => ServerFirst::Opaque,
    }
}

/// RFC 9110 section 5.6.2, `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a request target may consist of, as httparse reads it: visible ASCII and, though no URI has them, high bytes.
fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Size of the buffer that all connections of a worker read into before anybody knows where the bytes go.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Reads once into the thread's scratch buffer and hands the bytes to `take`, so that a connection that waits holds
/// no buffer of its own. No bytes mean the end of the stream. `take` must not come back here.
pub fn poll_read_scratch<R: AsyncRead + Unpin, T>(
    reader: &mut R,
    cx: &mut Context<'_>,
    limit: usize,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let limit = limit.min(scratch.len());
        let mut buf = ReadBuf::new(&mut scratch[..limit]);
        ready!(Pin::new(reader).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(take(cx, buf.filled())))
    })
}

/// The first bytes of a connection, collected for a decision and given back by [`Sniffed::give_back`].
#[derive(Debug, Default)]
pub struct Sniffed {
    bytes: BytesMut,
    ended: bool,
}

/// Most bytes read at once while looking.
const LOOK_BYTES: usize = 16 * 1024;

impl Sniffed {
    /// What has been read so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the peer has sent everything it will ever send.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Waits for more bytes or for the end. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn more(&mut self, io: &mut Io) -> io::Result<()> {
        let count = poll_fn(|cx| {
            poll_read_scratch(io, cx, LOOK_BYTES, |_, bytes| {
                self.bytes.extend_from_slice(bytes);
                bytes.len()
            })
        })
        .await?;
        self.ended |= count == 0;
        Ok(())
    }

    /// Waits until [`http`](fn@http) decides, and returns its answer; at the end of the stream, [`Detection::Other`].
    /// Cancel-safe. The caller limits the time.
    pub async fn http(&mut self, io: &mut Io) -> io::Result<Detection> {
        loop {
            let decision = http(&self.bytes);
            match decision {
                _ if self.bytes.is_empty() && !self.ended => self.more(io).await?,
                Detection::LikelyHttp | Detection::UnlikelyHttp if self.ended => {
                    return Ok(Detection::Other);
                }
                Detection::LikelyHttp => self.more(io).await?,
                Detection::UnlikelyHttp => {
                    match tokio::time::timeout(UNUSUAL_METHOD_WAIT, self.more(io)).await {
                        Ok(result) => result?,
                        Err(_elapsed) => return Ok(Detection::Other),
                    }
                }
                Detection::Http1 | Detection::Http2 | Detection::Other => return Ok(decision),
            }
        }
    }

    /// Forgets the first `count` bytes, which somebody has understood.
    pub fn skip(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.bytes, count);
    }

    /// Puts the bytes back in front of `io`.
    pub fn give_back(self, io: &mut Io) {
        io.unread(Bytes::from(self.bytes));
    }
}

/// A connection to the server that was made before the client spoke.
pub trait Early {
    /// Its byte stream.
    fn io(&mut self) -> &mut Io;
}

impl Early for Io {
    fn io(&mut self) -> &mut Io {
        self
    }
}

/// How looking at a connection ended.
#[derive(Debug)]
pub enum Decided<C> {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Neither. If the server was asked early, its connection is here, with what it said put back in front.
    Opaque(Option<C>, Why),
}

/// Why a connection counts as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The bytes are not HTTP.
    Bytes,
    /// The server spoke first.
    ServerSpokeFirst,
    /// The client began and did not go on in time.
    Timeout,
}

/// Who spoke first.
#[derive(Debug)]
pub enum First<C> {
    /// The client, or it ended its side; the connection to the server is there if it was asked early.
    Client(Option<C>),
    /// The server; the connection is opaque. What it said is back in front.
    Server(C),
    /// Nobody, and the server cannot be asked.
    Nobody,
}

/// Waits for the first word, without making a client wait whose server speaks first.
///
/// A client that stays silent for [`CLIENT_SILENCE`] may be waiting for its server. Then `early` is polled: it connects
/// to the server, **or gives `None` if the client is not authorized to hear from it**. If the server speaks while the
/// client is still silent, the connection is opaque; nothing the client sent has been forwarded before that decision,
/// and nothing the server said reaches a client whom connection-level authorization refuses. What HTTP servers say
/// unasked ([`server_first`]) does not count.
///
/// `timeout` counts only if the server cannot be asked: as long as both are silent, waiting costs neither anything,
/// and a browser's spare connection stays HTTP.
pub async fn first_word<C: Early>(
    io: &mut Io,
    sniffed: &mut Sniffed,
    timeout: Duration,
    early: impl Future<Output = Option<C>>,
) -> io::Result<First<C>> {
    if !is_silent(sniffed) {
        return Ok(First::Client(None));
    }
    if let Ok(spoke) = tokio::time::timeout(CLIENT_SILENCE, sniffed.more(io)).await {
        return spoke.map(|()| First::Client(None));
    }
    let server = tokio::select! {
        spoke = sniffed.more(io) => return spoke.map(|()| First::Client(None)),
        server = early => server,
    };
    if let Some(mut server) = server {
        match wait_for_either(io, sniffed, server.io()).await? {
            Spoke::Client => return Ok(First::Client(Some(server))),
            Spoke::Server => return Ok(First::Server(server)),
            Spoke::ServerGaveUp => {}
        }
    }
    match tokio::time::timeout(timeout, sniffed.more(io)).await {
        Ok(spoke) => spoke.map(|()| First::Client(None)),
        Err(_elapsed) => Ok(First::Nobody),
    }
}

/// Finds out what a client speaks: [`first_word`], then [`http`](fn@http) within `timeout` of the client's first byte.
pub async fn protocol<C: Early>(
    io: &mut Io,
    sniffed: &mut Sniffed,
    timeout: Duration,
    early: impl Future<Output = Option<C>>,
) -> io::Result<Decided<C>> {
    let server = match first_word(io, sniffed, timeout, early).await? {
        First::Client(server) => server,
        First::Server(server) => {
            return Ok(Decided::Opaque(Some(server), Why::ServerSpokeFirst));
        }
        First::Nobody => return Ok(Decided::Opaque(None, Why::Timeout)),
    };
    match tokio::time::timeout(timeout, sniffed.http(io)).await {
        Ok(Ok(Detection::Http1)) => Ok(Decided::Http1),
        Ok(Ok(Detection::Http2)) => Ok(Decided::Http2),
        Ok(Ok(Detection::Other | Detection::LikelyHttp | Detection::UnlikelyHttp)) => {
            Ok(Decided::Opaque(server, Why::Bytes))
        }
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Ok(Decided::Opaque(server, Why::Timeout)),
    }
}

fn is_silent(sniffed: &Sniffed) -> bool {
    sniffed.bytes().is_empty() && !sniffed.is_ended()
}

enum Spoke {
    Client,
    Server,
    /// The server closed, failed, or turned out to be an HTTP server.
    ServerGaveUp,
}

async fn wait_for_either(
    client: &mut Io,
    sniffed: &mut Sniffed,
    server: &mut Io,
) -> io::Result<Spoke> {
    let mut said = Sniffed::default();
    loop {
        tokio::select! {
            spoke = sniffed.more(client) => {
                spoke?;
                said.give_back(server);
                return Ok(Spoke::Client);
            }
            spoke = said.more(server) => match server_first(said.bytes()) {
                _ if spoke.is_err() => return Ok(Spoke::ServerGaveUp),
                ServerFirst::Undecided if said.is_ended() && said.bytes().is_empty() => {
                    return Ok(Spoke::ServerGaveUp);
                }
                ServerFirst::Undecided if !said.is_ended() => {}
                ServerFirst::Http => return Ok(Spoke::ServerGaveUp),
                ServerFirst::Undecided | ServerFirst::Opaque => {
                    said.give_back(server);
                    return Ok(Spoke::Server);
                }
            },
        }
    }
}
