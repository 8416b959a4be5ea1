//! HTTP/2 as frames on a socket, for what no well-behaved client sends (RFC 9113, RFC 7541).

use crate::world::PATIENCE;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of 24 bits").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field without any compression (RFC 7541 section 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        number(text.len(), 7, &mut bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// RFC 7541 section 5.1, the first byte's other bits being zero.
pub(crate) fn number(value: usize, bits: u8, into: &mut Vec<u8>) {
    let full = (1 << bits) - 1;
    if value < full {
        into.push(value as u8);
        return;
    }
    into.push(full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        into.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    into.push(rest as u8);
}

/// The head of a GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", path)]
        .into_iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A connection that has sent its preface and these settings.
pub(crate) fn open(mut socket: TcpStream, settings: &[(u16, u32)]) -> TcpStream {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &payload));
    socket.write_all(&bytes).expect("send the preface");
    socket.set_read_timeout(Some(PATIENCE)).expect("limit reads");
    socket
}

/// The next frame.
///
/// # Errors
/// At the end of the stream, and when it breaks or is silent for too long.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Ok(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// Reads on until a frame is wanted or the stream ends.
pub(crate) fn read_until(
    from: &mut impl Read,
    mut wanted: impl FnMut(&Frame) -> bool,
) -> io::Result<Frame> {
    let mut last_words = None;
    loop {
        let frame = read(from).map_err(|error| match &last_words {
            Some(words) => io::Error::new(error.kind(), format!("{error} after {words:?}")),
            None => error,
        })?;
        if wanted(&frame) {
            return Ok(frame);
        }
        if frame.kind == GOAWAY {
            last_words = Some(frame);
        }
    }
}

/// How a connection ended for who did something it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// GOAWAY with this code.
    GoAway(u32),
    /// Closed or reset without a word.
    Closed,
}

/// Reads until the peer ends the connection.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub(crate) fn ended(socket: &mut TcpStream) -> Ended {
    match read_until(socket, |frame| frame.kind == GOAWAY) {
        Ok(frame) => {
            let code = frame.payload[4..8].try_into().expect("a code");
            Ended::GoAway(u32::from_be_bytes(code))
        }
        Err(error) => {
            use io::ErrorKind::{TimedOut, WouldBlock};
            assert!(!matches!(error.kind(), WouldBlock | TimedOut), "the connection goes on");
            Ended::Closed
        }
    }
}
