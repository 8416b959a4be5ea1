use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn recognises_http() {
    for (bytes, expect) in [
        (&b"GET / HTTP/1.1\r\n"[..], Detection::Http1),
        (b"GET / HTTP/1.0\r\n", Detection::Http1),
        (b"GET / HTTP/1.1", Detection::Http1),
        (b"\r\nPOST /x?y HTTP/1.1\r\n", Detection::Http1),
        (b"CONNECT example.com:443 HTTP/1.1\r\n", Detection::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Detection::Http1),
        (b"BREW /pot HTTP/1.1\r\n", Detection::Http1),
        (b"get / HTTP/1.1\r\n", Detection::Http1),
        (b"GET http://a/ HTTP/1.1\r\n", Detection::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detection::Http2),
        (b"PRI * HTTP/2.0", Detection::Http2),
    ] {
        assert_eq!(http(bytes), expect, "{}", bytes.escape_ascii());
    }
}

#[test]
fn recognises_what_cannot_be_http() {
    for bytes in [
        &b"\x16\x03\x01\x00\xf0\x01"[..],
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"EHLO mail.example.com\r\n",
        b"get key\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"AMQP\0\0\x09\x01",
        b"<?xml version='1.0'?>",
        b"GET / HTTP/3.0\r\n",
        b"GET / HTTP/1.2\r\n",
        b"GET /\r\n",
        b"GET  / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET / SPDY/1.1\r\n",
        b"thisisonewordthatismuchtoolongforamethod",
    ] {
        assert_eq!(http(bytes), Detection::Other, "{}", bytes.escape_ascii());
    }
}

#[test]
fn stays_undecided_at_every_true_beginning() {
    for whole in [&b"GET /index.html HTTP/1.1"[..], b"\r\nDELETE /a HTTP/1.0", b"PRI * HTTP/2.0"] {
        for end in 1..whole.len() {
            let decision = http(&whole[..end]);
            assert!(
                matches!(decision, Detection::LikelyHttp | Detection::UnlikelyHttp),
                "{decision:?} for {}",
                whole[..end].escape_ascii()
            );
        }
    }
    assert_eq!(http(b"GE"), Detection::LikelyHttp);
    assert_eq!(http(b"HELLO"), Detection::UnlikelyHttp);
    assert_eq!(http(b"BREW /pot"), Detection::UnlikelyHttp);
}

#[test]
fn takes_an_endless_target_for_http() {
    let mut bytes = b"GET /".to_vec();
    bytes.resize(REQUEST_LINE_BYTES_MAX + 1, b'a');
    assert_eq!(http(&bytes), Detection::Http1);
}

#[test]
fn tells_servers_that_speak_first_from_http_servers() {
    for (bytes, expect) in [
        (&b"\x4a\0\0\0\x0a8.0.36\0"[..], ServerFirst::Opaque),
        (b"220 mail.example.com ESMTP\r\n", ServerFirst::Opaque),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", ServerFirst::Opaque),
        (b"INFO {}\r\n", ServerFirst::Opaque),
        (b"HTTP/1.1 408 Request Timeout\r\n", ServerFirst::Http),
        (b"\0\0\x12\x04\0\0\0\0\0\0\x03", ServerFirst::Http),
        (b"\0\0\0\x04\0\0\0\0\0", ServerFirst::Http),
        (b"\0\0\x12\x04", ServerFirst::Undecided),
        (b"HTT", ServerFirst::Undecided),
        (b"\0\0\x05\x04\0\0\0\0\0", ServerFirst::Opaque),
        (b"\0\0\x12\x04\x01\0\0\0\0", ServerFirst::Opaque),
    ] {
        assert_eq!(server_first(bytes), expect, "{}", bytes.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn recognises_a_dribbling_client() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut io = Io::memory(near);
    let mut sniffed = Sniffed::default();
    let write = async {
        for byte in b"GET / HTTP/1.1\r\n" {
            far.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
    };
    let (decision, ()) = tokio::join!(sniffed.http(&mut io), write);
    assert_eq!(decision.unwrap(), Detection::Http1);
    sniffed.give_back(&mut io);
    drop(far);
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\n");
}

#[tokio::test(start_paused = true)]
async fn gives_up_early_on_an_unusual_first_word() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut io = Io::memory(near);
    far.write_all(b"HELLO").await.unwrap();
    let begin = tokio::time::Instant::now();
    assert_eq!(Sniffed::default().http(&mut io).await.unwrap(), Detection::Other);
    assert_eq!(begin.elapsed(), UNUSUAL_METHOD_WAIT);
}

#[tokio::test]
async fn a_short_message_that_ends_is_not_http() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut io = Io::memory(near);
    far.write_all(b"GET").await.unwrap();
    drop(far);
    assert_eq!(Sniffed::default().http(&mut io).await.unwrap(), Detection::Other);
}

/// A client end, a server end, and what was decided between them.
async fn decide(
    script: impl AsyncFnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream),
    is_authorized: bool,
) -> Decided<Io> {
    let (client, near) = tokio::io::duplex(256);
    let (far, server) = tokio::io::duplex(256);
    let mut io = Io::memory(near);
    let mut sniffed = Sniffed::default();
    let early = async { is_authorized.then(|| Io::memory(far)) };
    let timeout = Duration::from_secs(10);
    let deciding = protocol(&mut io, &mut sniffed, timeout, early);
    let (decided, ()) = tokio::join!(deciding, script(client, server));
    decided.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let begin = tokio::time::Instant::now();
    let decided = decide(
        async |client, mut server| {
            server.write_all(b"220 ready\r\n").await.unwrap();
            std::mem::forget((client, server));
        },
        true,
    )
    .await;
    let Decided::Opaque(Some(mut server), Why::ServerSpokeFirst) = decided else {
        panic!("{decided:?}");
    };
    assert_eq!(begin.elapsed(), CLIENT_SILENCE);
    let mut greeting = [0; 11];
    server.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_may_not_hear_the_server_runs_into_the_timeout() {
    let decided = decide(
        async |client, mut server| {
            // Nobody listens; the write may fail.
            let _ = server.write_all(b"220 ready\r\n").await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(client);
        },
        false,
    )
    .await;
    assert!(matches!(decided, Decided::Opaque(None, Why::Timeout)), "{decided:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_http_client_is_still_http() {
    for greeting in [&b""[..], b"\0\0\x12\x04\0\0\0\0\0\0\x03", b"HTTP/1.1 408 Timeout\r\n"] {
        let decided = decide(
            async |mut client, mut server| {
                server.write_all(greeting).await.unwrap();
                tokio::time::sleep(Duration::from_secs(9)).await;
                client.write_all(b"GET / HT").await.unwrap();
                tokio::time::sleep(Duration::from_secs(9)).await;
                client.write_all(b"TP/1.1\r\n").await.unwrap();
                std::mem::forget(client);
            },
            true,
        )
        .await;
        assert!(matches!(decided, Decided::Http1), "{decided:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_silent_sides_wait_for_each_other() {
    let decided = decide(
        async |mut client, server| {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            client.write_all(b"\x01\x02").await.unwrap();
            std::mem::forget((client, server));
        },
        true,
    )
    .await;
    assert!(matches!(decided, Decided::Opaque(Some(_), Why::Bytes)), "{decided:?}");
}
