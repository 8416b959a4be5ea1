//! The transport header: how one proxy tells another where opaque bytes should go.
//!
//! After the TLS handshake on a peer's inbound proxy port, with ALPN `transport.l5d.io/v1` agreed, the client
//! writes this header once and then the session's own bytes. `dial` writes it, `inbound::direct` reads it.
//!
//! ```text
//! "transport.l5d.io/v1\r\n\r\n"   23 bytes
//! u32, big endian                 length of the message
//! protobuf message                { int32 port = 1; string name = 2; SessionProtocol session_protocol = 3; }
//! ```
//!
//! `SessionProtocol` is a choice between two empty messages, `http1 = 1` and `http2 = 2`; anything else means opaque
//! (linkerd2-proxy behaves so). Decoding is pure and total: [`decode`] says "more bytes" only while the bytes so far
//! are a true beginning of a header, so a wrong first byte is refused at once instead of waiting for a timeout.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// The ALPN name under which the header is spoken.
pub const ALPN: &[u8] = b"transport.l5d.io/v1";

const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";
const LENGTH_END: usize = PREFACE.len() + 4;

/// Longest message we accept. A port, a DNS name (at most 253 bytes) and a session protocol need under 300 bytes;
/// the rest is room for fields that do not exist yet.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What protocol the session's bytes are in, as far as the sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// Bytes to be passed on as they are.
    Opaque,
    /// HTTP/1 requests.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A decoded transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportHeader {
    /// The port on the target.
    pub port: u16,
    /// Set when the receiver is to act as a gateway to this name instead of passing bytes to its own application.
    pub name: Option<String>,
    /// The protocol of what follows.
    pub session: Session,
}

/// What a look at the first bytes says.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A true beginning; read more.
    Partial,
    /// A header, and how many bytes it took.
    Complete(TransportHeader, usize),
}

/// Why bytes are not a transport header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first bytes differ from the preface.
    #[error("the connection does not begin with a transport header")]
    Preface,
    /// The message is longer than any sender makes it.
    #[error("transport header of {0} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// The message cannot be decoded.
    #[error("transport header is not a valid message")]
    Message,
    /// The port is zero or does not fit.
    #[error("transport header names port {0}, which is not a port")]
    Port(i32),
    /// The name is no DNS name.
    #[error("transport header names a target that is not a DNS name")]
    Name,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMessage {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    session_protocol: Option<SessionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionMessage {
    #[prost(oneof = "SessionKind", tags = "1, 2")]
    kind: Option<SessionKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SessionKind {
    #[prost(message, tag = "1")]
    Http1(Empty),
    #[prost(message, tag = "2")]
    Http2(Empty),
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

impl TransportHeader {
    /// The bytes to write before the session's own.
    pub fn encode(&self) -> Bytes {
        let message = HeaderMessage {
            port: i32::from(self.port),
            name: self.name.clone().unwrap_or_default(),
            session_protocol: match self.session {
                Session::Opaque => None,
                Session::Http1 => Some(SessionMessage { kind: Some(SessionKind::Http1(Empty {})) }),
                Session::Http2 => Some(SessionMessage { kind: Some(SessionKind::Http2(Empty {})) }),
            },
        };
        let length = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(LENGTH_END + length);
        bytes.put_slice(PREFACE);
        bytes.put_u32(u32::try_from(length).expect("a name is at most 253 bytes long"));
        message.encode(&mut bytes).expect("the buffer grows");
        bytes.freeze()
    }
}

/// Reads a header from the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Malformed> {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] != PREFACE[..seen] {
        return Err(Malformed::Preface);
    }
    let Some(length) = bytes.get(PREFACE.len()..LENGTH_END) else {
        return Ok(Decoded::Partial);
    };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes were taken")) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Malformed::TooLong(length));
    }
    let end = LENGTH_END + length;
    let Some(message) = bytes.get(LENGTH_END..end) else {
        return Ok(Decoded::Partial);
    };
    let message = HeaderMessage::decode(message).map_err(|_| Malformed::Message)?;
    let port = u16::try_from(message.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(Malformed::Port(message.port))?;
    let name = match message.name {
        name if name.is_empty() => None,
        name if is_dns_name(&name) => Some(name),
        _ => return Err(Malformed::Name),
    };
    let session = match message.session_protocol.and_then(|protocol| protocol.kind) {
        Some(SessionKind::Http1(_)) => Session::Http1,
        Some(SessionKind::Http2(_)) => Session::Http2,
        None => Session::Opaque,
    };
    Ok(Decoded::Complete(TransportHeader { port, name, session }, end))
}

/// RFC 1035 section 2.3.1 with the underscore that real names have; a final dot is allowed.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(port: u16, name: Option<&str>, session: Session) -> TransportHeader {
        TransportHeader { port, name: name.map(str::to_owned), session }
    }

    #[test]
    fn encodes_as_linkerd2_proxy_does() {
        let bytes = header(8080, None, Session::Http2).encode();
        assert_eq!(&bytes[..23], b"transport.l5d.io/v1\r\n\r\n");
        assert_eq!(&bytes[23..], [0, 0, 0, 7, 0x08, 0x90, 0x3f, 0x1a, 0x02, 0x12, 0x00]);
    }

    #[test]
    fn decodes_what_it_encodes_and_leaves_the_rest() {
        for header in [
            header(1, None, Session::Opaque),
            header(65535, Some("web-svc.emojivoto.svc.cluster.local"), Session::Http1),
            header(4143, Some("a."), Session::Http2),
        ] {
            let mut bytes = header.encode().to_vec();
            let end = bytes.len();
            bytes.extend_from_slice(b"session bytes");
            assert_eq!(decode(&bytes), Ok(Decoded::Complete(header, end)));
        }
    }

    #[test]
    fn asks_for_more_at_every_true_beginning() {
        let bytes = header(8080, Some("example.com"), Session::Http1).encode();
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(Decoded::Partial), "at {end}");
        }
    }

    #[test]
    fn refuses_malformed_headers() {
        let with_message = |message: &[u8]| {
            let mut bytes = PREFACE.to_vec();
            bytes.put_u32(message.len() as u32);
            bytes.extend_from_slice(message);
            bytes
        };
        let long = [PREFACE, &0xffff_ffff_u32.to_be_bytes()].concat();
        for (bytes, expect) in [
            (b"G".to_vec(), Malformed::Preface),
            (b"transport.l5d.io/v2\r\n\r\n".to_vec(), Malformed::Preface),
            (b"transport.l5d.io/v1\n\n".to_vec(), Malformed::Preface),
            (long, Malformed::TooLong(0xffff_ffff)),
            (with_message(&[]), Malformed::Port(0)),
            (with_message(&[0x08, 0x00]), Malformed::Port(0)),
            (with_message(&[0x08, 0x80, 0x80, 0x04]), Malformed::Port(65536)),
            (
                with_message(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
                Malformed::Port(-1),
            ),
            (with_message(&[0x08]), Malformed::Message),
            (with_message(&[0x12, 0x05, b'a']), Malformed::Message),
            (with_message(&[0x12, 0x02, 0xff, 0xfe, 0x08, 0x50]), Malformed::Message),
            (with_message(&[0x08, 0x50, 0x12, 0x03, b'a', b'/', b'b']), Malformed::Name),
            (with_message(&[0x08, 0x50, 0x12, 0x02, b'.', b'.']), Malformed::Name),
        ] {
            assert_eq!(decode(&bytes), Err(expect), "{bytes:?}");
        }
    }

    #[test]
    fn takes_unknown_fields_and_unknown_protocols_as_opaque() {
        let mut bytes = PREFACE.to_vec();
        let message = [0x08, 0x50, 0x1a, 0x02, 0x1a, 0x00, 0x20, 0x01];
        bytes.put_u32(message.len() as u32);
        bytes.extend_from_slice(&message);
        let end = bytes.len();
        assert_eq!(decode(&bytes), Ok(Decoded::Complete(header(80, None, Session::Opaque), end)));
    }
}
