//! Chunked bodies of HTTP/1 as the proxy reads and writes them. The first byte says how the rest is split.

use bytes::{Bytes, BytesMut};
use hauberk_proxy::http::http1::body::{Bad, Decoder, Encoder, Last, Piece};
use hauberk_proxy::http::http1::wire::Outgoing;
use http::HeaderMap;

pub(crate) fn check(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let whole = read(data, data.len().max(1));
    assert_eq!(read(data, usize::from(*size) % 32 + 1), whole);
    assert_eq!(read(data, 1), whole);
    let Ok(Some(_)) = whole.end else { return };

    // In other pieces, the same body.
    let mut to = Outgoing::default();
    let mut encoder = Encoder::chunked(true);
    for piece in whole.data.chunks(usize::from(*size) + 1) {
        let piece = Bytes::copy_from_slice(piece);
        encoder.data(&mut to, piece, Last::No).expect("chunks have any length");
    }
    encoder.end(&mut to, Some(&whole.trailers)).expect("chunks have any length");
    let again = read(to.buffer(), 7);
    assert_eq!(again.data, whole.data);
    assert_eq!(again.end, Ok(Some(Vec::new())));
    let mut expect = whole.trailers.clone();
    for name in whole.trailers.keys() {
        if !again.trailers.contains_key(name) {
            expect.remove(name);
        }
    }
    assert_eq!(again.trailers, expect);
    for name in ["content-length", "transfer-encoding", "host", "connection", "l5d-client-id"] {
        assert!(!again.trailers.contains_key(name), "{name} after a body");
    }
}

/// What was read of a body.
#[derive(Debug, PartialEq)]
struct Read {
    data: Vec<u8>,
    trailers: HeaderMap,
    /// What comes after it, if it has an end.
    end: Result<Option<Vec<u8>>, Bad>,
}

fn read(data: &[u8], size: usize) -> Read {
    let mut read = Read { data: Vec::new(), trailers: HeaderMap::new(), end: Ok(None) };
    let mut decoder = Decoder::chunked();
    let mut ahead = BytesMut::new();
    let mut pieces = data.chunks(size);
    while !decoder.is_done() {
        match decoder.decode(&mut ahead) {
            Ok(Some(Piece::Data(piece))) => {
                assert!(!piece.is_empty(), "a piece of nothing");
                read.data.extend_from_slice(&piece);
            }
            Ok(Some(Piece::Trailers(trailers))) => read.trailers = trailers,
            Ok(Some(Piece::End)) => {}
            Ok(None) => match pieces.next() {
                Some(piece) => ahead.extend_from_slice(piece),
                None => return read,
            },
            Err(bad) => {
                read.end = Err(bad);
                return read;
            }
        }
    }
    let mut rest = ahead.to_vec();
    pieces.for_each(|piece| rest.extend_from_slice(piece));
    read.end = Ok(Some(rest));
    read
}
