//! Finding the server name in a TLS ClientHello, without a TLS library and without consuming bytes.
//!
//! [`parse`] is pure and total over foreign bytes. It decides as early as the bytes allow, expects the hello to come
//! in pieces (with X25519MLKEM768 it is about 1.5 KB, more than one segment), and puts a hello together that is split
//! over several TLS records, as RFC 8446 section 5.1 allows. linkerd2-proxy waits for its timeout on the latter.

use std::borrow::Cow;

/// What the first bytes of a connection say about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A true beginning of a hello; read more.
    Partial,
    /// Not TLS.
    NotTls,
    /// A ClientHello, with the server name in lower case if it names one.
    Tls {
        /// The server name (RFC 6066 section 3).
        sni: Option<String>,
    },
}

/// Longest hello we put together. Real ones stay under 4 KB; a receiver would refuse more than 64 KB.
const HELLO_BYTES_MAX: usize = 32 * 1024;

/// RFC 8446 section 5.1: the length of a plaintext record must not exceed 2^14 bytes.
const RECORD_BYTES_MAX: usize = 1 << 14;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// Reads the beginning of a connection.
pub fn parse(bytes: &[u8]) -> Hello {
    match handshake(bytes) {
        Ok(message) => match server_name(&message) {
            Some(sni) => Hello::Tls { sni },
            None => Hello::NotTls,
        },
        Err(Incomplete::NeedMore) => Hello::Partial,
        Err(Incomplete::NotTls) => Hello::NotTls,
    }
}

enum Incomplete {
    NeedMore,
    NotTls,
}

/// The body of the ClientHello message, put together from as many records as it takes.
fn handshake(mut bytes: &[u8]) -> Result<Cow<'_, [u8]>, Incomplete> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let fragment = record(bytes)?;
        let (content, complete) = (fragment.content, fragment.complete);
        if message.is_empty() {
            message = Cow::Borrowed(content);
        } else {
            message.to_mut().extend_from_slice(content);
        }
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Incomplete::NotTls);
        }
        if let Some(&[_, high, middle, low]) = message.get(..HANDSHAKE_HEADER) {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > HELLO_BYTES_MAX {
                return Err(Incomplete::NotTls);
            }
            let end = HANDSHAKE_HEADER + length;
            if message.len() >= end {
                return Ok(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[HANDSHAKE_HEADER..end]),
                    Cow::Owned(message) => Cow::Owned(message[HANDSHAKE_HEADER..end].to_vec()),
                });
            }
        }
        if !complete {
            return Err(Incomplete::NeedMore);
        }
        bytes = &bytes[RECORD_HEADER + content.len()..];
    }
}

/// Handshake message type (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

struct Fragment<'a> {
    content: &'a [u8],
    complete: bool,
}

/// One record of type handshake, perhaps cut off.
fn record(bytes: &[u8]) -> Result<Fragment<'_>, Incomplete> {
    // Type 22, and any version that begins with 3: servers must accept {03,XX} around a hello (RFC 5246 appendix E.1,
    // RFC 8446 section 5.1), and rustls does.
    if bytes.first().is_some_and(|kind| *kind != 22)
        || bytes.get(1).is_some_and(|major| *major != 3)
    {
        return Err(Incomplete::NotTls);
    }
    let Some(&[_, _, _, high, low]) = bytes.get(..RECORD_HEADER) else {
        return Err(Incomplete::NeedMore);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Handshake records of length zero are forbidden (RFC 8446 section 5.1).
    if length == 0 || length > RECORD_BYTES_MAX {
        return Err(Incomplete::NotTls);
    }
    let content = &bytes[RECORD_HEADER..];
    Ok(Fragment {
        content: &content[..length.min(content.len())],
        complete: content.len() >= length,
    })
}

/// Walks the message (RFC 8446 section 4.1.2); `None` if it is malformed.
#[expect(clippy::option_option, reason = "outer: malformed; inner: a hello without a name")]
fn server_name(message: &[u8]) -> Option<Option<String>> {
    let mut rest = Reader(message);
    // legacy_version: 3.x up to and including TLS 1.2's 3.3.
    let [3, 0..=3] = rest.take(2)? else { return None };
    rest.take(32)?;
    rest.vector8()?;
    rest.vector16()?;
    rest.vector8()?;
    if rest.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(rest.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        if kind == 0 {
            let mut names = Reader(Reader(content).vector16()?);
            while !names.0.is_empty() {
                let kind = names.take(1)?[0];
                let name = names.vector16()?;
                if kind == 0 {
                    return name_asked_for(name);
                }
            }
        }
    }
    Some(None)
}

/// The name, nothing for an address (RFC 6066 section 3 forbids it; it is passed over, as rustls
/// does), and no hello at all for what cannot be a name.
fn name_asked_for(name: &[u8]) -> Option<Option<String>> {
    let text = std::str::from_utf8(name).ok()?;
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Some(None);
    }
    rustls_pki_types::DnsName::try_from(text).ok()?;
    Some(Some(text.trim_end_matches('.').to_ascii_lowercase()))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello body with `padding` bytes of an unknown extension before the name.
    fn message(name: Option<&str>, padding: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        extensions.extend([0xfa, 0xfa]);
        extensions.extend(u16::try_from(padding).unwrap().to_be_bytes());
        extensions.resize(extensions.len() + padding, 0);
        if let Some(name) = name {
            let length = u16::try_from(name.len()).unwrap();
            extensions.extend([0, 0]);
            extensions.extend((length + 5).to_be_bytes());
            extensions.extend((length + 3).to_be_bytes());
            extensions.push(0);
            extensions.extend(length.to_be_bytes());
            extensions.extend(name.as_bytes());
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01]);
        body.extend([1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut message = vec![1, length[1], length[2], length[3]];
        message.extend(body);
        message
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for fragment in message.chunks(size) {
            bytes.extend([22, 3, 1]);
            bytes.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
            bytes.extend(fragment);
        }
        bytes
    }

    fn named(name: &str) -> Hello {
        Hello::Tls { sni: Some(name.to_owned()) }
    }

    #[test]
    fn finds_the_name_whatever_the_fragmentation() {
        for padding in [0, 1500, 9000] {
            let message = message(Some("Web.Example."), padding);
            for size in [1, 3, 4, 5, 100, 1400, 16384] {
                let bytes = records(&message, size);
                assert_eq!(parse(&bytes), named("web.example"), "{padding} {size}");
            }
        }
    }

    #[test]
    fn asks_for_more_at_every_true_beginning() {
        for size in [50, 16384] {
            let bytes = records(&message(Some("web.example"), 100), size);
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Hello::Partial, "{end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn a_hello_without_a_name_is_still_tls() {
        assert_eq!(parse(&records(&message(None, 10), 16384)), Hello::Tls { sni: None });
    }

    #[test]
    fn ignores_bytes_after_the_hello() {
        let mut bytes = records(&message(Some("a.b"), 0), 16384);
        bytes.extend(b"more");
        assert_eq!(parse(&bytes), named("a.b"));
    }

    #[test]
    fn records_may_claim_any_version_that_begins_with_three() {
        for minor in [0, 4, 5, 9, 255] {
            let mut bytes = records(&message(Some("a.b"), 0), 16384);
            bytes[2] = minor;
            assert_eq!(parse(&bytes), named("a.b"), "{minor}");
        }
    }

    #[test]
    fn passes_over_an_address_in_place_of_a_name() {
        let hello = records(&message(Some("192.0.2.1"), 0), 16384);
        assert_eq!(parse(&hello), Hello::Tls { sni: None });
    }

    #[test]
    fn refuses_at_the_first_byte_that_is_not_tls() {
        let hello = records(&message(Some("a.b"), 0), 16384);
        let changed = |at: usize, byte: u8| {
            let mut bytes = hello.clone();
            bytes[at] = byte;
            bytes
        };
        for bytes in [
            b"G".to_vec(),
            vec![23],
            vec![22, 2],
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0x40, 1],
            vec![22, 3, 1, 0, 1, 2],
            vec![22, 3, 1, 0, 4, 1, 1, 0, 0],
            changed(9, 2),
            changed(10, 4),
            changed(43, 200),
            records(&message(Some("not a name"), 0), 16384),
            records(&message(Some(""), 0), 16384),
        ] {
            assert_eq!(parse(&bytes), Hello::NotTls, "{bytes:?}");
        }
    }

    #[test]
    fn never_panics_on_a_damaged_hello() {
        let hello = records(&message(Some("a.b"), 3), 40);
        for at in 0..hello.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = hello.clone();
                bytes[at] = byte;
                let _ = parse(&bytes);
            }
        }
    }
}
