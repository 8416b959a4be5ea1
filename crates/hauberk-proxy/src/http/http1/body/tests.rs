use super::*;

/// What a body consists of, read in pieces of `size` bytes: data, trailers, and what comes after it.
fn read(mut decoder: Decoder, text: &[u8], size: usize) -> Result<(Vec<u8>, String, Vec<u8>), Bad> {
    let (mut data, mut trailers) = (Vec::new(), String::new());
    let mut ahead = BytesMut::new();
    let mut pieces = text.chunks(size);
    while !decoder.is_done() {
        match decoder.decode(&mut ahead)? {
            Some(Piece::Data(piece)) => data.extend_from_slice(&piece),
            Some(Piece::Trailers(fields)) => trailers = format!("{fields:?}"),
            Some(Piece::End) => {}
            None => match pieces.next() {
                Some(piece) => ahead.extend_from_slice(piece),
                None => return Err(Bad::Size),
            },
        }
    }
    let mut rest = ahead.to_vec();
    pieces.for_each(|piece| rest.extend_from_slice(piece));
    Ok((data, trailers, rest))
}

fn check(text: &str, expect: Result<(&str, &str), ()>) {
    for size in 1..=text.len() {
        let got = read(Decoder::chunked(), text.as_bytes(), size);
        let got = got.map(|(data, _, rest)| (data, rest)).map_err(|_| ());
        let expect = expect.map(|(data, rest)| (data.into(), rest.into()));
        assert_eq!(got, expect, "{text:?} in pieces of {size}");
    }
}

#[test]
fn reads_chunks_however_they_are_split() {
    check("5\r\nhello\r\n0\r\n\r\nnext", Ok(("hello", "next")));
    check("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n", Ok(("abcdefg", "")));
    check("00A;x=\"y\"\r\n0123456789\r\n0 ;z\r\n\r\n", Ok(("0123456789", "")));
    check("1\t\r\na\r\n000\r\nx-sum: 1\r\n\r\nnext", Ok(("a", "next")));
}

#[test]
fn refuses_what_two_readers_could_read_differently() {
    for text in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "fffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nX\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "0\r\nX: 1\r\n 2\r\n\r\n",
        "0\r\nX: 1\n\nGET / HTTP/1.1\r\n\r\n",
        "0\r\nno field\r\n\r\n",
    ] {
        check(text, Err(()));
    }
}

#[test]
fn what_is_not_data_is_bounded() {
    let refused = |text: String, bad| {
        assert_eq!(read(Decoder::chunked(), text.as_bytes(), 1000), Err(bad));
    };
    refused(format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17_000)), Bad::Extensions);
    refused("1;xxxx\r\na\r\n".repeat(4000) + "0\r\n\r\n", Bad::Extensions);
    refused("0".repeat(17_000), Bad::Extensions);
    refused(format!("0\r\nx: {}", "y".repeat(17_000)), Bad::Trailers);
    refused(format!("0\r\nx: {}\r\n\r\n", "y".repeat(17_000)), Bad::Trailers);
    refused(format!("0\r\n{}\r\n", "x: y\r\n".repeat(101)), Bad::Trailers);
}

#[test]
fn an_end_that_is_there_is_seen_with_the_last_data() {
    let mut ahead = BytesMut::from("5\r\nhello\r\n0\r\n\r\nnext");
    let mut decoder = Decoder::chunked();
    assert_eq!(decoder.decode(&mut ahead), Ok(Some(Piece::Data(Bytes::from("hello")))));
    assert!(decoder.is_done());
    assert_eq!(&ahead[..], b"next");
    let mut ahead = BytesMut::from("5\r\nhello\r\n0\r\nx: y\r\n\r\n");
    let mut decoder = Decoder::chunked();
    assert!(matches!(decoder.decode(&mut ahead), Ok(Some(Piece::Data(_)))));
    assert!(!decoder.is_done(), "trailers come");
    let Ok(Some(Piece::Trailers(trailers))) = decoder.decode(&mut ahead) else {
        panic!("no trailers")
    };
    assert_eq!(trailers["x"], "y");
}

#[test]
fn lengths_end_bodies() {
    let (data, _, rest) = read(Decoder::length(5), b"hello, world", 2).unwrap();
    assert_eq!((data.as_slice(), rest.as_slice()), (b"hello".as_slice(), b", world".as_slice()));
    assert!(Decoder::length(0).is_done());
    assert!(!Decoder::Length(3).ends_with_connection() && Decoder::UntilEnd.ends_with_connection());
}

/// What is written of some data and trailers; the last data say that they are the last.
fn write(mut encoder: Encoder, data: &[&str], trailers: Option<&HeaderMap>) -> String {
    let mut to = Outgoing::default();
    for (n, piece) in data.iter().enumerate() {
        let is_last = n + 1 == data.len() && trailers.is_none();
        let is_last = if is_last { Last::Yes } else { Last::No };
        let piece = Bytes::copy_from_slice(piece.as_bytes());
        encoder.data(&mut to, piece, is_last).unwrap();
    }
    if data.is_empty() || trailers.is_some() {
        encoder.end(&mut to, trailers).unwrap();
    }
    String::from_utf8(std::mem::take(to.buffer())).unwrap()
}

#[test]
fn writes_bodies_in_their_frame() {
    assert_eq!(write(Encoder::length(5), &["he", "llo"], None), "hello");
    assert_eq!(write(Encoder::UntilEnd, &["he", "llo"], None), "hello");
    assert_eq!(write(Encoder::Nothing, &["hello"], None), "");
    assert_eq!(write(Encoder::chunked(true), &[], None), "0\r\n\r\n");
    let long = "x".repeat(300);
    let expect = format!("2\r\nhe\r\n12c\r\n{long}\r\n0\r\n\r\n");
    assert_eq!(write(Encoder::chunked(true), &["he", "", &long], None), expect);
    assert_eq!(write(Encoder::chunked(true), &["he", ""], None), "2\r\nhe\r\n0\r\n\r\n");
}

#[test]
fn passes_trailers_on_unless_they_are_framing() {
    let mut trailers = HeaderMap::new();
    for name in ["x-sum", "content-length", "transfer-encoding", "host", "l5d-client-id"] {
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    let expect = "2\r\nhe\r\n0\r\nx-sum: 1\r\n\r\n";
    assert_eq!(write(Encoder::chunked(true), &["he"], Some(&trailers)), expect);
    let expect = "2\r\nhe\r\n0\r\n\r\n";
    assert_eq!(write(Encoder::chunked(false), &["he"], Some(&trailers)), expect);
}

#[test]
fn a_body_that_is_not_as_long_as_was_said_is_not_sent() {
    let mut to = Outgoing::default();
    let data = || Bytes::from_static(b"hello");
    let too_long = Encoder::length(4).data(&mut to, data(), Last::No);
    assert_eq!(too_long, Err(Unsendable::TooLong));
    let too_short = Encoder::length(6).data(&mut to, data(), Last::Yes);
    assert_eq!(too_short, Err(Unsendable::TooShort));
    assert_eq!(Encoder::length(6).end(&mut to, None), Err(Unsendable::TooShort));
}
