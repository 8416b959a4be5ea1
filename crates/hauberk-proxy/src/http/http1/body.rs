//! Where the body of an HTTP/1 message ends, and how the end of one is told (RFC 9112 sections 6 and 7).
//!
//! Pure. [`Decoder`] takes bytes as they come, however they are split, and gives the data without their frame.
//! [`Encoder`] puts data into a frame. Extensions of chunks are read and forgotten; they and trailers are bounded.
//! Trailers that would change how a message is read or who may see it are not passed on.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, HOST, MAX_FORWARDS, RANGE, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::{FIELDS_MAX, write_field};
use super::wire::Outgoing;

/// Bytes of extensions that all chunks of a body may have (hyper 1).
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;

/// Bytes that the trailers of a body may have (hyper 1).
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Why the frame of a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// A chunk does not begin with its size.
    #[error("malformed chunk size")]
    Size,
    /// A line does not end in CR and LF.
    #[error("malformed line end in a chunked body")]
    LineEnd,
    /// More extensions than anybody needs.
    #[error("chunk extensions too long")]
    Extensions,
    /// Trailers are no fields, or too many.
    #[error("malformed trailers")]
    Trailers,
}

/// Why a message cannot be sent as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// The body has more bytes than was said.
    #[error("the body is longer than its content-length")]
    TooLong,
    /// The body has fewer bytes than was said.
    #[error("the body is shorter than its content-length")]
    TooShort,
}

/// Frees a body from its frame.
#[derive(Debug)]
pub enum Decoder {
    /// Nothing comes any more.
    Done,
    /// So many bytes come.
    Length(u64),
    /// Everything until the connection ends is the body.
    UntilEnd,
    /// Chunks come.
    Chunked(Chunked),
}

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Data.
    Data(Bytes),
    /// The end, with trailers.
    Trailers(HeaderMap),
    /// The end.
    End,
}

/// Where in a chunked body we are.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Of the chunk: as far as it is known in its size line, what is left of it in its data.
    left: u64,
    extension_bytes: u32,
    /// Bytes of trailers that have been looked through.
    looked: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Begin,
    /// After a digit.
    Size,
    /// In blanks after a size.
    Blanks,
    Extension,
    /// After the CR of the size line.
    SizeEnd,
    Data,
    /// Before the CR after data, and before the LF.
    DataEnd,
    DataEndLf,
    Trailers,
    Broken(Bad),
}

impl Decoder {
    /// A body of so many bytes.
    pub fn length(bytes: u64) -> Self {
        if bytes == 0 { Self::Done } else { Self::Length(bytes) }
    }

    /// A body in chunks.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked { state: State::Begin, left: 0, extension_bytes: 0, looked: 0 })
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes of data are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(*left),
            Self::UntilEnd | Self::Chunked(_) => None,
        }
    }

    /// Takes the next part of the body from `bytes`; none if more bytes are needed, which is never so while data are
    /// there. Looks ahead behind data, so that a body whose end is there already has ended.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Bad> {
        match self {
            Self::Done => Ok(Some(Piece::End)),
            Self::UntilEnd | Self::Length(_) if bytes.is_empty() => Ok(None),
            Self::UntilEnd => Ok(Some(Piece::Data(bytes.split().freeze()))),
            Self::Length(left) => {
                let (data, rest) = take(bytes, *left);
                *self = Self::length(rest);
                Ok(Some(Piece::Data(data)))
            }
            Self::Chunked(chunked) => {
                let piece = chunked.decode(bytes)?;
                if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
                    *self = Self::Done;
                } else if matches!(piece, Some(Piece::Data(_))) {
                    // What is wrong comes out at the next call.
                    let is_at_end = chunked.skip_frame(bytes).is_ok()
                        && chunked.state == State::Trailers
                        && bytes.starts_with(b"\r\n");
                    if is_at_end {
                        bytes.advance(2);
                        *self = Self::Done;
                    }
                }
                Ok(piece)
            }
        }
    }

    /// The connection has ended. Whether the body has ended with it.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Done | Self::UntilEnd)
    }
}

/// Up to `left` bytes, and how many are left then.
fn take(bytes: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (bytes.split_to(count).freeze(), left - count as u64)
}

impl Chunked {
    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Bad> {
        self.skip_frame(bytes)?;
        match self.state {
            State::Data if !bytes.is_empty() => {
                let (data, left) = take(bytes, self.left);
                self.left = left;
                if left == 0 {
                    self.state = State::DataEnd;
                }
                Ok(Some(Piece::Data(data)))
            }
            State::Trailers => self.trailers(bytes),
            _ => Ok(None),
        }
    }

    /// Goes on to data or to trailers, as far as there are bytes.
    fn skip_frame(&mut self, bytes: &mut BytesMut) -> Result<(), Bad> {
        if let State::Broken(bad) = self.state {
            return Err(bad);
        }
        while !matches!(self.state, State::Data | State::Trailers) && !bytes.is_empty() {
            let byte = bytes.get_u8();
            self.state = self.step(byte).inspect_err(|bad| self.state = State::Broken(*bad))?;
        }
        Ok(())
    }

    /// The state after one byte of the frame.
    fn step(&mut self, byte: u8) -> Result<State, Bad> {
        match self.state {
            State::Begin | State::Size => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) => {
                    let left = self.left.checked_mul(16).ok_or(Bad::Size)?;
                    self.left = left + u64::from(digit);
                    // Zeros before a size are as good as an extension, and as bounded.
                    if self.left == 0 { self.extend(State::Size) } else { Ok(State::Size) }
                }
                (None, _) if self.state == State::Begin => Err(Bad::Size),
                (None, b' ' | b'\t') => self.extend(State::Blanks),
                (None, b';') => self.extend(State::Extension),
                (None, b'\r') => Ok(State::SizeEnd),
                (None, _) => Err(Bad::Size),
            },
            State::Blanks => match byte {
                b' ' | b'\t' => self.extend(State::Blanks),
                b';' => self.extend(State::Extension),
                b'\r' => Ok(State::SizeEnd),
                _ => Err(Bad::Size),
            },
            State::Extension => match byte {
                b'\r' => Ok(State::SizeEnd),
                b'\n' => Err(Bad::LineEnd),
                _ => self.extend(State::Extension),
            },
            State::SizeEnd => match byte {
                b'\n' if self.left == 0 => Ok(State::Trailers),
                b'\n' => Ok(State::Data),
                _ => Err(Bad::LineEnd),
            },
            State::DataEnd if byte == b'\r' => Ok(State::DataEndLf),
            State::DataEndLf if byte == b'\n' => Ok(State::Begin),
            State::DataEnd | State::DataEndLf => Err(Bad::LineEnd),
            State::Data | State::Trailers => Ok(self.state),
            State::Broken(bad) => Err(bad),
        }
    }

    fn extend(&mut self, state: State) -> Result<State, Bad> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err(Bad::Extensions) } else { Ok(state) }
    }

    /// What follows the last chunk: fields, and an empty line.
    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Bad> {
        match bytes[..] {
            [b'\r', b'\n', ..] => {
                bytes.advance(2);
                return Ok(Some(Piece::End));
            }
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let from = (self.looked as usize).saturating_sub(3);
        let end = bytes.get(from..).and_then(|new| new.windows(4).position(|w| w == b"\r\n\r\n"));
        let Some(end) = end.map(|at| from + at + 4) else {
            self.looked = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let is_too_long = bytes.len() > TRAILER_BYTES_MAX;
            return if is_too_long { self.fail(Bad::Trailers) } else { Ok(None) };
        };
        let block = bytes.split_to(end).freeze();
        match fields(&block).filter(|_| end <= TRAILER_BYTES_MAX) {
            Some(fields) => Ok(Some(Piece::Trailers(fields))),
            None => self.fail(Bad::Trailers),
        }
    }

    fn fail<T>(&mut self, bad: Bad) -> Result<T, Bad> {
        self.state = State::Broken(bad);
        Err(bad)
    }
}

/// The fields of a block that ends in an empty line.
fn fields(block: &Bytes) -> Option<HeaderMap> {
    // Every line has its CR: another reader might end the block at an empty line without.
    let mut lines = block.split(|byte| *byte == b'\n');
    let _after_last = lines.next_back();
    if !lines.all(|line| line.ends_with(b"\r")) {
        return None;
    }
    let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(block, &mut space) {
        Ok(httparse::Status::Complete((length, lines))) if length == block.len() => {
            let mut fields = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
                let value = HeaderValue::from_maybe_shared(block.slice_ref(line.value)).ok()?;
                fields.append(name, value);
            }
            Some(fields)
        }
        Ok(_) | Err(_) => None,
    }
}

/// Puts a body into its frame.
#[derive(Debug)]
pub enum Encoder {
    /// There is no body.
    Nothing,
    /// So many bytes are to be sent.
    Length(u64),
    /// In chunks.
    Chunked {
        /// Whether trailers are sent.
        trailers: bool,
    },
    /// The end of the connection ends the body.
    UntilEnd,
}

impl Encoder {
    /// A body of so many bytes.
    pub fn length(bytes: u64) -> Self {
        Self::Length(bytes)
    }

    /// A body in chunks, with trailers or without.
    pub fn chunked(trailers: bool) -> Self {
        Self::Chunked { trailers }
    }

    /// Whether nothing is to be sent any more, not even an end.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Nothing | Self::Length(0))
    }

    /// Sends data; `is_last` if the body ends with them.
    pub fn data(
        &mut self,
        to: &mut Outgoing,
        data: Bytes,
        is_last: Last,
    ) -> Result<(), Unsendable> {
        match self {
            Self::Nothing => {}
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unsendable::TooLong)?;
                to.data(data, b"");
            }
            Self::UntilEnd => to.data(data, b""),
            // A chunk of no bytes would be the end.
            Self::Chunked { .. } if data.is_empty() => {
                if is_last == Last::Yes {
                    to.bytes(b"0\r\n\r\n");
                }
            }
            Self::Chunked { .. } => {
                write_size(to, data.len());
                to.data(data, if is_last == Last::Yes { b"\r\n0\r\n\r\n" } else { b"\r\n" });
            }
        }
        if is_last == Last::Yes { self.ended() } else { Ok(()) }
    }

    /// Sends the end.
    pub fn end(
        &mut self,
        to: &mut Outgoing,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), Unsendable> {
        if let Self::Chunked { trailers: are_sent } = self {
            to.bytes(b"0\r\n");
            let trailers = trailers.filter(|_| *are_sent).into_iter().flatten();
            for (name, value) in trailers.filter(|(name, _)| may_trail(name)) {
                write_field(to.buffer(), name, value);
            }
            to.bytes(b"\r\n");
        }
        self.ended()
    }

    fn ended(&mut self) -> Result<(), Unsendable> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Length(1..) => Err(Unsendable::TooShort),
            Self::Nothing | Self::Length(0) | Self::Chunked { .. } | Self::UntilEnd => Ok(()),
        }
    }
}

/// Whether a body ends with a piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It does.
    Yes,
    /// More comes, or it is not known.
    No,
}

fn write_size(to: &mut Outgoing, size: usize) {
    let mut line = *b"0000000000000000\r\n";
    let mut at = 16;
    let mut rest = size;
    while rest > 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    to.bytes(&line[at..]);
}

/// Whether a field may come after the body: it does not frame the message, route it, or say who may read it (RFC 9110
/// section 6.5.1; the list is that of hyper 1 and what belongs to a hop).
fn may_trail(name: &HeaderName) -> bool {
    let forbidden = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        HOST,
        MAX_FORWARDS,
        RANGE,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    !forbidden.contains(name)
        && !matches!(name.as_str(), "keep-alive" | "proxy-connection")
        && !name.as_str().starts_with("l5d-")
}

#[cfg(test)]
mod tests;
