//! The trace a request belongs to, as its headers say it: read, and replaced by the span of this proxy.
//!
//! | form | headers | specification |
//! |---|---|---|
//! | W3C | `traceparent`; `tracestate` passes as it is | W3C Trace Context, 3.2 |
//! | gRPC | `grpc-trace-bin`, base64 | OpenCensus, binary encoding of a span context |
//! | B3, several | `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags`, `x-b3-parentspanid` | openzipkin/b3-propagation |
//! | B3, one | `b3` | the same |
//!
//! The first that is there and valid counts, in this order, and is the only one that is changed. Pure.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{fmt, num::NonZeroU64, num::NonZeroU128};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const GRPC: HeaderName = HeaderName::from_static("grpc-trace-bin");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The bit of `traceparent`'s flags that asks for spans (W3C Trace Context, 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// Names a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// Names a span within a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// What the sender of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The sender's span.
    pub span: SpanId,
    /// Whether spans are wanted.
    pub is_sampled: bool,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Traceparent {
        flags: u8,
    },
    Grpc {
        flags: u8,
    },
    B3Several,
    B3One {
        /// The sampling state as it was written: `1` or `d`.
        is_debug: bool,
    },
}

impl TraceId {
    /// For the wire.
    pub fn bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }
}

impl SpanId {
    /// A span of that number; none if it is zero.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// For the wire.
    pub fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The context in `headers`. A context that cannot be understood counts as none.
pub fn find(headers: &HeaderMap) -> Option<Context> {
    let (mut w3c, mut grpc, mut several, mut one) = (None, None, None, None);
    for (name, value) in headers {
        let name = name.as_str();
        match name.len() {
            11 if name == "traceparent" => w3c = value.to_str().ok(),
            14 if name == "grpc-trace-bin" => grpc = Some(value.as_bytes()),
            12 if name == "x-b3-traceid" => several = value.to_str().ok(),
            2 if name == "b3" => one = value.to_str().ok(),
            _ => {}
        }
    }
    w3c.and_then(traceparent)
        .or_else(|| grpc.and_then(grpc_bin))
        .or_else(|| several.and_then(|trace| b3_several(trace, headers)))
        .or_else(|| one.and_then(b3_one))
}

/// Makes `client` the sender's span, and `server` its parent where the form says that too.
pub fn replace(headers: &mut HeaderMap, context: &Context, server: SpanId, client: SpanId) {
    let trace = context.trace;
    match context.form {
        Form::Traceparent { flags } => {
            set(headers, TRACEPARENT, format!("00-{trace}-{client}-{flags:02x}"));
        }
        Form::Grpc { flags } => {
            let mut bytes = Vec::with_capacity(GRPC_BYTES);
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&trace.bytes());
            bytes.push(1);
            bytes.extend_from_slice(&client.bytes());
            bytes.extend_from_slice(&[2, flags]);
            set(headers, GRPC, BASE64.encode(bytes));
        }
        Form::B3Several => {
            set(headers, B3_SPAN, client.to_string());
            set(headers, B3_PARENT, server.to_string());
        }
        Form::B3One { is_debug } => {
            let sampled = if is_debug { 'd' } else { '1' };
            set(headers, B3, format!("{trace}-{client}-{sampled}-{server}"));
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    let value = HeaderValue::try_from(value).expect("hexadecimal digits and hyphens, or base64");
    headers.insert(name, value);
}

/// `version-trace-span-flags`. Later versions begin with the same fields (W3C Trace Context, 3.2.3).
fn traceparent(text: &str) -> Option<Context> {
    let mut parts = text.trim().split('-');
    let version = parts.next().filter(|version| version.len() == 2)?;
    let version = u8::try_from(hex(version)?).ok().filter(|version| *version != 0xff)?;
    let trace = parts.next().filter(|trace| trace.len() == 32).and_then(trace_id)?;
    let span = parts.next().filter(|span| span.len() == 16).and_then(span_id)?;
    let flags = parts.next().filter(|flags| flags.len() == 2).and_then(hex)?;
    if version == 0 && parts.next().is_some() {
        return None;
    }
    // Bits that version 0 does not define must not be passed on as if we knew them.
    let flags = u8::try_from(flags).ok()?;
    let is_sampled = flags & SAMPLED != 0;
    Some(Context { trace, span, is_sampled, form: Form::Traceparent { flags: flags & 0b11 } })
}

/// gRPC writes binary headers without padding and takes either (gRPC over HTTP/2, "Requests").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A context with all of its fields: version, and for each of trace, span and flags a number and the value.
const GRPC_BYTES: usize = 1 + 1 + 16 + 1 + 8 + 1 + 1;

/// Version 0, then fields of fixed sizes in the order of their numbers; flags may be missing
/// (<https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md>).
fn grpc_bin(text: &[u8]) -> Option<Context> {
    // Longer ones have fields that nobody has defined; they pass as they are.
    let bytes = BASE64.decode(text.trim_ascii()).ok().filter(|bytes| bytes.len() <= GRPC_BYTES)?;
    let [0, 0, rest @ ..] = bytes.as_slice() else { return None };
    let (trace, rest) = rest.split_first_chunk::<16>()?;
    let [1, rest @ ..] = rest else { return None };
    let (span, rest) = rest.split_first_chunk::<8>()?;
    let flags = match rest {
        [] => 0,
        [2, flags] => *flags,
        _ => return None,
    };
    let trace = NonZeroU128::new(u128::from_be_bytes(*trace)).map(TraceId)?;
    let span = SpanId::new(u64::from_be_bytes(*span))?;
    let flags = flags & SAMPLED;
    Some(Context { trace, span, is_sampled: flags != 0, form: Form::Grpc { flags } })
}

fn b3_several(trace: &str, headers: &HeaderMap) -> Option<Context> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let trace = trace_id(trace.trim())?;
    let span = text(B3_SPAN).and_then(span_id)?;
    let is_debug = text(B3_FLAGS) == Some("1");
    let is_sampled = is_debug || matches!(text(B3_SAMPLED), Some("1" | "true" | "True"));
    Some(Context { trace, span, is_sampled, form: Form::B3Several })
}

/// `trace-span-sampling-parent`; the last two may be missing. A sampling state alone is no context.
fn b3_one(text: &str) -> Option<Context> {
    let mut parts = text.trim().split('-');
    let trace = parts.next().and_then(trace_id)?;
    let span = parts.next().and_then(span_id)?;
    let sampling = parts.next();
    let is_debug = sampling == Some("d");
    let is_sampled = matches!(sampling, Some("1" | "d"));
    Some(Context { trace, span, is_sampled, form: Form::B3One { is_debug } })
}

/// 32 digits, or 16 of old B3 senders.
fn trace_id(text: &str) -> Option<TraceId> {
    (matches!(text.len(), 16 | 32))
        .then(|| hex(text))
        .flatten()
        .and_then(NonZeroU128::new)
        .map(TraceId)
}

fn span_id(text: &str) -> Option<SpanId> {
    let number = (text.len() == 16).then(|| hex(text)).flatten()?;
    SpanId::new(u64::try_from(number).ok()?)
}

/// Only lower-case digits (W3C Trace Context, 3.2.2; B3 says the same), at most 32.
fn hex(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.bytes().all(is_digit).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    /// What is found, and what the receiver gets from spans 1 (server) and 2 (client).
    #[track_caller]
    fn check(sent: &[(&'static str, &str)], expect: Option<(bool, &[(&'static str, &str)])>) {
        let mut map = headers(sent);
        let found = find(&map);
        let Some((is_sampled, passed)) = expect else {
            assert_eq!(found, None, "{sent:?}");
            return;
        };
        let context = found.unwrap_or_else(|| panic!("nothing found in {sent:?}"));
        assert_eq!(context.is_sampled, is_sampled, "{sent:?}");
        assert_eq!(context.span.to_string(), SPAN);
        let span = |number| SpanId::new(number).unwrap();
        replace(&mut map, &context, span(1), span(2));
        assert_eq!(map, headers(passed));
    }

    #[test]
    fn grpc() {
        let encode = |span: u64, flags: &[u8]| {
            let mut bytes = vec![0, 0];
            bytes.extend_from_slice(&u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes());
            bytes.push(1);
            bytes.extend_from_slice(&span.to_be_bytes());
            bytes.extend_from_slice(flags);
            BASE64.encode(bytes)
        };
        let span = u64::from_str_radix(SPAN, 16).unwrap();
        let (sent, passed) = (encode(span, &[2, 1]), encode(2, &[2, 1]));
        check(&[("grpc-trace-bin", &sent)], Some((true, &[("grpc-trace-bin", &passed)])));
        check(
            &[("grpc-trace-bin", &format!("{sent}="))],
            Some((true, &[("grpc-trace-bin", &passed)])),
        );
        let unsampled = (encode(span, &[]), encode(2, &[2, 0]));
        check(
            &[("grpc-trace-bin", &unsampled.0)],
            Some((false, &[("grpc-trace-bin", &unsampled.1)])),
        );
        // A W3C context goes first, and is the only one that is changed.
        let w3c = format!("00-{TRACE}-{SPAN}-01");
        let both = [("grpc-trace-bin", sent.as_str()), ("traceparent", &w3c)];
        let w3c = format!("00-{TRACE}-0000000000000002-01");
        check(&both, Some((true, &[("grpc-trace-bin", &sent), ("traceparent", &w3c)])));
        for wrong in
            [encode(0, &[2, 1]), encode(span, &[3, 1]), encode(span, &[2, 1, 3, 0]), "!".into()]
        {
            check(&[("grpc-trace-bin", &wrong)], None);
        }
    }

    #[test]
    fn w3c() {
        let sent = format!("00-{TRACE}-{SPAN}-01");
        let passed = format!("00-{TRACE}-0000000000000002-01");
        check(&[("traceparent", &sent)], Some((true, &[("traceparent", &passed)])));
        let with_state = [("tracestate", "a=b"), ("traceparent", &*sent)];
        check(&with_state, Some((true, &[("tracestate", "a=b"), ("traceparent", &passed)])));
        let unsampled = format!("00-{TRACE}-{SPAN}-00");
        let passed_unsampled = format!("00-{TRACE}-0000000000000002-00");
        check(&[("traceparent", &unsampled)], Some((false, &[("traceparent", &passed_unsampled)])));
        let later = format!("01-{TRACE}-{SPAN}-05-more");
        check(&[("traceparent", &later)], Some((true, &[("traceparent", &passed)])));
        for wrong in [
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{SPAN}-{SPAN}-01"),
            "00--+1--01".to_owned(),
            String::new(),
        ] {
            check(&[("traceparent", &wrong)], None);
        }
    }

    #[test]
    fn b3_in_several_headers() {
        let sent = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
        let passed = [
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", "0000000000000002"),
            ("x-b3-sampled", "1"),
            ("x-b3-parentspanid", "0000000000000001"),
        ];
        check(&sent, Some((true, &passed)));
        let short = [("x-b3-traceid", SPAN), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")];
        let context = find(&headers(&short)).unwrap();
        assert!(context.is_sampled, "debug implies it");
        assert_eq!(context.trace.to_string(), format!("{:0>32}", SPAN));
        let undecided = find(&headers(&sent[..2])).unwrap();
        assert!(!undecided.is_sampled);
        check(&sent[..1], None);
    }

    #[test]
    fn b3_in_one_header() {
        let sent = format!("{TRACE}-{SPAN}-d-{SPAN}");
        let passed = format!("{TRACE}-0000000000000002-d-0000000000000001");
        check(&[("b3", &sent)], Some((true, &[("b3", &passed)])));
        assert!(!find(&headers(&[("b3", &format!("{TRACE}-{SPAN}-0"))])).unwrap().is_sampled);
        check(&[("b3", "0")], None);
    }

    #[test]
    fn w3c_goes_first_and_nothing_else_is_changed() {
        let sent = format!("00-{TRACE}-{SPAN}-01");
        let passed = format!("00-{TRACE}-0000000000000002-01");
        let other = format!("{SPAN}{SPAN}-0000000000000009-1");
        check(
            &[("b3", &other), ("traceparent", &sent), ("x-other", "1")],
            Some((true, &[("b3", &other), ("traceparent", &passed), ("x-other", "1")])),
        );
        check(&[("x-other", "1"), ("host", "web")], None);
    }
}
