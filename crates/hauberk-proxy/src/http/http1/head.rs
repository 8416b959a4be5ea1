//! Heads of HTTP/1 messages: parsed strictly, written anew.
//!
//! Pure. `httparse` finds the lines; what they mean together is decided here: which framing the body has, whether the
//! connection goes on, what makes a message too dangerous to pass on. Names are written in lower case. Values are
//! slices of the bytes that were read, so a head costs one allocation for all of its values.
//!
//! As strict as hyper 1 or stricter (RFC 9112 sections 2 to 6): no folded lines, no bare CR, no blank before a colon, no
//! transfer coding on HTTP/1.0, no coding but `chunked`, one length. A request with both framings is read by its coding,
//! loses its length, and is the last of its connection.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};

use super::body::{Decoder, Encoder};

/// Fields a head may have (hyper 1).
pub const FIELDS_MAX: usize = 100;

/// Largest head in bytes (hyper 1: a buffer of 8 KiB and 4 KiB for each of a hundred fields).
pub const HEAD_BYTES_MAX: usize = 8192 + 4096 * FIELDS_MAX;

/// Longest request target in bytes (the crate `http`).
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It does not have the form of a head.
    #[error("malformed head: {0}")]
    Form(&'static str),
    /// Its target is too long.
    #[error("request target too long")]
    TargetTooLong,
    /// It has too many fields or bytes.
    #[error("head too large")]
    TooLarge,
    /// The length of the body is no number, or there are several.
    #[error("invalid content-length")]
    Length,
    /// The transfer coding is not `chunked` alone, or the version has none.
    #[error("invalid transfer-encoding")]
    Coding,
}

impl Bad {
    /// How a server answers.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Form(_) | Self::Length | Self::Coding => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// What a request's head says beside the request.
#[derive(Debug)]
pub struct Asked {
    /// How its body ends.
    pub body: Decoder,
    /// The client keeps the connection open for another request.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The client takes trailers.
    pub takes_trailers: bool,
}

/// What a response's head says beside the response.
#[derive(Debug)]
pub struct Told {
    /// How its body ends.
    pub body: Decoder,
    /// The server keeps the connection open for another request.
    pub keep_alive: bool,
}

/// A reason other than the usual one of its status, to be passed on.
#[derive(Clone, Debug)]
pub struct Reason(Bytes);

/// Takes the head of a request from the front of `bytes`; none if it is not complete. `seen` bytes have been here before
/// and were no complete head. Empty lines before the head are skipped (RFC 9112 section 2.2).
pub fn parse_request(
    bytes: &mut BytesMut,
    seen: usize,
) -> Result<Option<(Request<()>, Asked)>, Bad> {
    skip_empty_lines(bytes);
    if bytes.is_empty() || (seen > 0 && !may_be_complete(bytes, seen)) {
        return partial(bytes);
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Complete(_)) => return Err(Bad::TooLarge),
        Ok(httparse::Status::Partial) => return partial(bytes),
        Err(error) => return Err(bad(error)),
    };
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Err(Bad::Form("no request line"));
    };
    if target.len() > TARGET_BYTES_MAX {
        return Err(Bad::TargetTooLong);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Bad::Form("method"))?;
    let target = place(bytes, target.as_bytes());
    let (places, count) = places(bytes, head.headers);
    let head = bytes.split_to(length).freeze();
    let target = Uri::from_maybe_shared(slice(&head, target));
    let mut fields = Fields::collect(&head, &places[..count])?;

    let version = version(minor);
    let asked = Asked {
        body: fields.request_body(version)?,
        keep_alive: fields.persists(version) && !fields.has_both(),
        expects_continue: fields.expects_continue && version == Version::HTTP_11,
        takes_trailers: fields.takes_trailers,
    };
    fields.settle();
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target.map_err(|_| Bad::Form("target"))?;
    *request.version_mut() = version;
    *request.headers_mut() = fields.map;
    Ok(Some((request, asked)))
}

/// Takes the head of a response to a request of that method from the front of `bytes`; otherwise as [`parse_request`].
pub fn parse_response(
    bytes: &mut BytesMut,
    seen: usize,
    method: &Method,
) -> Result<Option<(Response<()>, Told)>, Bad> {
    skip_empty_lines(bytes);
    if bytes.is_empty() || (seen > 0 && !may_be_complete(bytes, seen)) {
        return partial(bytes);
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let strict = httparse::ParserConfig::default();
    let length = match strict.parse_response_with_uninit_headers(&mut head, bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Complete(_)) => return Err(Bad::TooLarge),
        Ok(httparse::Status::Partial) => return partial(bytes),
        Err(error) => return Err(bad(error)),
    };
    let (Some(code), Some(minor)) = (head.code, head.version) else {
        return Err(Bad::Form("no status line"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| Bad::Form("status"))?;
    let reason = head.reason.unwrap_or_default();
    let reason = (!reason.is_empty() && Some(reason) != status.canonical_reason())
        .then(|| place(bytes, reason.as_bytes()));
    let (places, count) = places(bytes, head.headers);
    let head = bytes.split_to(length).freeze();
    let mut fields = Fields::collect(&head, &places[..count])?;

    let version = version(minor);
    let body = fields.response_body(version, status, method)?;
    let keep_alive =
        fields.persists(version) && !fields.has_both() && !matches!(body, Decoder::UntilEnd);
    fields.settle();
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = fields.map;
    if let Some(reason) = reason {
        response.extensions_mut().insert(Reason(slice(&head, reason)));
    }
    Ok(Some((response, Told { body, keep_alive })))
}

/// Whether a message's fields end its connection.
pub fn closes(fields: &HeaderMap) -> bool {
    fields.get_all(CONNECTION).iter().any(|value| has_token(value, "close"))
}

/// What is known of the fields of a head.
#[derive(Debug, Default)]
struct Fields {
    map: HeaderMap,
    length: Option<u64>,
    /// `Transfer-Encoding`, if there is one, and whether all of it is `chunked`.
    coding: Option<Coding>,
    closes: bool,
    keeps: bool,
    expects_continue: bool,
    takes_trailers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    Identity,
    /// Ends in `chunked` and has more.
    More,
    Other,
}

impl Fields {
    fn collect(head: &Bytes, places: &[Place]) -> Result<Self, Bad> {
        let mut fields = Self { map: HeaderMap::with_capacity(places.len()), ..Self::default() };
        for place in places {
            let (from, to) = place.name;
            let name = HeaderName::from_bytes(&head[from as usize..to as usize]);
            let name = name.map_err(|_| Bad::Form("field name"))?;
            let value = HeaderValue::from_maybe_shared(slice(head, place.value));
            let value = value.map_err(|_| Bad::Form("field value"))?;
            fields.add(name, value)?;
        }
        Ok(fields)
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Bad> {
        // By length first: nearly every name is told apart by that.
        match name.as_str().len() {
            2 if name == TE => {
                self.takes_trailers |= has_token(&value, "trailers");
            }
            6 if name == EXPECT => {
                self.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            10 if name == CONNECTION => {
                self.closes |= has_token(&value, "close");
                self.keeps |= has_token(&value, "keep-alive");
            }
            14 if name == CONTENT_LENGTH => {
                let length = digits(value.as_bytes()).ok_or(Bad::Length)?;
                if let Some(known) = self.length {
                    // Said twice the same: once is enough.
                    return if known == length { Ok(()) } else { Err(Bad::Length) };
                }
                self.length = Some(length);
            }
            17 if name == TRANSFER_ENCODING => {
                self.coding = Some(match self.coding {
                    None => coding(value.as_bytes()),
                    Some(_) if coding(value.as_bytes()) == Coding::Chunked => Coding::More,
                    Some(_) => Coding::Other,
                });
            }
            _ => {}
        }
        self.map.append(name, value);
        Ok(())
    }

    /// Whether the connection goes on, as far as these fields say (RFC 9112 section 9.3). HTTP/1.0 has to ask for it. A
    /// proxy that its client has chosen may not grant that, since another one before it may have passed `keep-alive` on
    /// without understanding it; we stand in for the server, which may.
    fn persists(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps)
    }

    fn has_both(&self) -> bool {
        self.coding.is_some() && self.length.is_some()
    }

    /// RFC 9112 section 6.3. A coding after others is left to whoever checks the request, so that it is answered as any
    /// other malformed request.
    fn request_body(&self, version: Version) -> Result<Decoder, Bad> {
        match (self.coding, self.length) {
            (Some(_), _) if version != Version::HTTP_11 => Err(Bad::Coding),
            (Some(Coding::Chunked | Coding::More), _) => Ok(Decoder::chunked()),
            (Some(Coding::Identity | Coding::Other), _) => Err(Bad::Coding),
            (None, Some(length)) => Ok(Decoder::length(length)),
            (None, None) => Ok(Decoder::Done),
        }
    }

    fn response_body(
        &self,
        version: Version,
        status: StatusCode,
        method: &Method,
    ) -> Result<Decoder, Bad> {
        if *method == Method::HEAD || has_no_body(method, status) {
            return Ok(Decoder::Done);
        }
        match (self.coding, self.length) {
            (Some(_), _) if version != Version::HTTP_11 => Err(Bad::Coding),
            (Some(Coding::Chunked), _) => Ok(Decoder::chunked()),
            // What servers said before RFC 7230 took it away; it means nothing.
            (Some(Coding::Identity), None) => Ok(Decoder::UntilEnd),
            (Some(_), _) => Err(Bad::Coding),
            (None, Some(length)) => Ok(Decoder::length(length)),
            (None, None) => Ok(Decoder::UntilEnd),
        }
    }

    /// Where both framings were given, the coding counts.
    fn settle(&mut self) {
        if self.has_both() {
            self.map.remove(CONTENT_LENGTH);
        }
    }
}

/// Whether a response has no body whatever its fields say (RFC 9112 section 6.3); that of `HEAD` has none either, but
/// its fields tell of one.
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (*method == Method::CONNECT && status.is_success())
}

/// A request as it goes out, and how its body is to be sent. `body` is the length of its body if that is known.
pub fn write_request<B>(
    to: &mut Vec<u8>,
    request: &Request<B>,
    body: Option<u64>,
) -> Result<Encoder, Bad> {
    let is_old = request.version() == Version::HTTP_10;
    let declared = declared(request.headers());
    let encoder = match body.or(declared) {
        Some(length) => Encoder::length(length),
        None if is_old => return Err(Bad::Length),
        None => Encoder::chunked(true),
    };
    to.extend_from_slice(request.method().as_str().as_bytes());
    to.push(b' ');
    write_target(to, request.uri());
    to.extend_from_slice(if is_old { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    write_fields(to, request.headers());
    match &encoder {
        // Nothing is said of no body, unless the sender did.
        Encoder::Length(0) if declared.is_none() => {}
        Encoder::Length(length) => write_length(to, *length),
        Encoder::Chunked { .. } => to.extend_from_slice(CHUNKED),
        Encoder::UntilEnd | Encoder::Nothing => {}
    }
    to.extend_from_slice(b"\r\n");
    Ok(encoder)
}

/// To whom a response is written.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'m> {
    /// The request's method.
    pub method: &'m Method,
    /// The request's version.
    pub version: Version,
    /// Whether the client takes trailers.
    pub takes_trailers: bool,
    /// Whether the connection goes on.
    pub keep_alive: bool,
}

/// A response as it goes out, and how its body is to be sent. `body` is the length of its body if that is known.
/// [`Encoder::UntilEnd`] means that the connection must be closed after it.
pub fn write_response<B>(
    to: &mut Vec<u8>,
    response: &Response<B>,
    body: Option<u64>,
    asker: Asker<'_>,
) -> Encoder {
    let is_old = asker.version == Version::HTTP_10;
    let status = response.status();
    let declared = declared(response.headers());
    let is_bodyless = has_no_body(asker.method, status);
    let encoder = match body.or(declared) {
        _ if is_bodyless || *asker.method == Method::HEAD => Encoder::Nothing,
        Some(length) => Encoder::length(length),
        None if is_old => Encoder::UntilEnd,
        None => Encoder::chunked(asker.takes_trailers),
    };
    to.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    to.extend_from_slice(status.as_str().as_bytes());
    to.push(b' ');
    match response.extensions().get() {
        Some(Reason(reason)) => to.extend_from_slice(reason),
        None => to.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    to.extend_from_slice(b"\r\n");
    write_fields(to, response.headers());
    match &encoder {
        Encoder::Length(length) => write_length(to, *length),
        Encoder::Chunked { .. } => to.extend_from_slice(CHUNKED),
        // How long the body would be (RFC 9110 sections 8.6 and 15.4.5).
        Encoder::Nothing if !is_bodyless || status == StatusCode::NOT_MODIFIED => {
            if let Some(length) = declared {
                write_length(to, length);
            }
        }
        Encoder::Nothing | Encoder::UntilEnd => {}
    }
    let goes_on = asker.keep_alive && !matches!(encoder, Encoder::UntilEnd);
    if status != StatusCode::SWITCHING_PROTOCOLS && !response.headers().contains_key(CONNECTION) {
        // Said where it is not what the version means anyway (RFC 9112 section 9.3).
        match (is_old, goes_on) {
            (true, true) => to.extend_from_slice(b"connection: keep-alive\r\n"),
            (false, false) => to.extend_from_slice(b"connection: close\r\n"),
            (true, false) | (false, true) => {}
        }
    }
    to.extend_from_slice(b"\r\n");
    encoder
}

/// An answer to a request that was not understood.
pub fn write_refusal(to: &mut Vec<u8>, status: StatusCode) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(status.as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    to.extend_from_slice(b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
}

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

fn write_target(to: &mut Vec<u8>, uri: &Uri) {
    match uri.path_and_query() {
        Some(path) if uri.scheme().is_none() && uri.authority().is_none() => {
            to.extend_from_slice(path.as_str().as_bytes());
        }
        _ => {
            use std::io::Write;
            // A vector takes everything.
            let _ = write!(to, "{uri}");
        }
    }
}

/// All fields but those of the framing, which are written anew.
pub(super) fn write_fields(to: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        let is_framing = match name.as_str().len() {
            14 => *name == CONTENT_LENGTH,
            17 => *name == TRANSFER_ENCODING,
            _ => false,
        };
        if !is_framing {
            write_field(to, name, value);
        }
    }
}

pub(super) fn write_field(to: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    to.reserve(name.len() + value.len() + 4);
    to.extend_from_slice(name);
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

fn write_length(to: &mut Vec<u8>, length: u64) {
    to.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
    to.extend_from_slice(b"\r\n");
}

/// The length that fields declare, if they agree.
fn declared(fields: &HeaderMap) -> Option<u64> {
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter().map(|value| digits(value.as_bytes()));
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

/// A number of decimal digits and nothing else.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let mut words = value.as_bytes().split(|byte| *byte == b',');
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn coding(value: &[u8]) -> Coding {
    let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let first = words.next().unwrap_or_default();
    let last = words.next_back();
    match (first, last) {
        (only, None) if only.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
        (only, None) if only.eq_ignore_ascii_case(b"identity") => Coding::Identity,
        (_, Some(last)) if last.eq_ignore_ascii_case(b"chunked") => Coding::More,
        _ => Coding::Other,
    }
}

/// From where to where in the head.
type Range = (u32, u32);

#[derive(Clone, Copy, Default)]
struct Place {
    name: Range,
    value: Range,
}

fn place(all: &[u8], part: &[u8]) -> Range {
    let from = part.as_ptr().addr() - all.as_ptr().addr();
    // A head has less than half a megabyte.
    (from as u32, (from + part.len()) as u32)
}

fn slice(head: &Bytes, (from, to): Range) -> Bytes {
    head.slice(from as usize..to as usize)
}

fn places(all: &[u8], lines: &[httparse::Header<'_>]) -> ([Place; FIELDS_MAX], usize) {
    let mut places = [Place::default(); FIELDS_MAX];
    for (at, line) in places.iter_mut().zip(lines) {
        *at = Place { name: place(all, line.name.as_bytes()), value: place(all, line.value) };
    }
    (places, lines.len())
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Not complete yet, or never to be.
fn partial<T>(bytes: &[u8]) -> Result<Option<T>, Bad> {
    if bytes.len() >= HEAD_BYTES_MAX { Err(Bad::TooLarge) } else { Ok(None) }
}

fn bad(error: httparse::Error) -> Bad {
    match error {
        httparse::Error::TooManyHeaders => Bad::TooLarge,
        httparse::Error::HeaderName => Bad::Form("field name"),
        httparse::Error::HeaderValue => Bad::Form("field value"),
        httparse::Error::NewLine => Bad::Form("line end"),
        httparse::Error::Status => Bad::Form("status"),
        httparse::Error::Version => Bad::Form("version"),
        httparse::Error::Token => Bad::Form("first line"),
    }
}

fn skip_empty_lines(bytes: &mut BytesMut) {
    loop {
        match bytes[..] {
            [b'\r', b'\n', ..] => bytes::Buf::advance(bytes, 2),
            [b'\n', ..] => bytes::Buf::advance(bytes, 1),
            _ => return,
        }
    }
}

/// Whether the end of a head may be among the bytes after the first `seen`. Looked for before a head is parsed again,
/// so that one that comes byte by byte is not parsed at each.
fn may_be_complete(bytes: &[u8], seen: usize) -> bool {
    let mut rest = &bytes[seen.saturating_sub(3).min(bytes.len())..];
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = &rest[at + 1..];
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
