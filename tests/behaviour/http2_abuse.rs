//! HTTP/2 clients that mean harm: each meets a bound, and others are served meanwhile.

use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, Frame, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, ended, field, frame, get, number, open, read_until,
};
use crate::http2::{fetch, simple};
use crate::world::{PATIENCE, Way, World, alone, world};
use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

/// The proxies that strangers and applications meet first.
const FIRST: [Way; 2] = [Way::Inbound, Way::Outbound];

/// The most an attack on one connection may make a proxy keep.
const GROWTH_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// Runs `attack` against each proxy while honest clients ask, and holds the proxy to its bounds.
fn check(world: &World, attack: impl Fn(&World, Way, TcpStream) + Sync) {
    let _alone = alone();
    let port = simple(world);
    for way in FIRST {
        let proxy = world.proxies(way)[0];
        assert_eq!(fetch(world, way, port, "/").1, b"ok");
        let before = proxy.memory();
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| attack(world, way, world.connect(way, port)));
            let mut peak = before;
            let mut asked = 0;
            while asked < 5 || !attacker.is_finished() {
                let start = Instant::now();
                assert_eq!(fetch(world, way, port, "/"), (200, b"ok".to_vec()), "{way:?}");
                let took = start.elapsed();
                assert!(took < Duration::from_secs(5), "{way:?}: an honest client waited {took:?}");
                peak = peak.max(proxy.memory());
                asked += 1;
            }
            let grown = peak.saturating_sub(before);
            assert!(grown < GROWTH_BYTES_MAX, "{way:?}: the proxy grew by {grown} bytes");
            if let Err(panic) = attacker.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

/// Answers a PING as a living client does; other frames need no answer.
fn answer_ping(socket: &mut TcpStream, got: &Frame) {
    if got.kind == PING && got.flags & ACK == 0 {
        socket.write_all(&frame(PING, ACK, 0, &got.payload)).unwrap();
    }
}

/// Writes until the peer takes no more; the number of times it did.
fn pour(socket: &mut TcpStream, bytes: &[u8], times: usize) -> usize {
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    (0..times).take_while(|_| socket.write_all(bytes).is_ok()).count()
}

/// Streams opened and reset at once, without end (CVE-2023-44487).
#[test]
fn rapid_resets_are_bounded() {
    let Some(world) = world("http2_abuse") else { return };
    // What a stream held is let go of with it, so only the growth that `check` sees can tell.
    check(world, |_, way, socket| {
        let mut socket = open(socket, &[]);
        let mut sent = 0;
        for batch in 0..400_u32 {
            let mut bytes = Vec::new();
            for n in 0..50 {
                let stream = (batch * 50 + n) * 2 + 1;
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/")));
                bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            }
            if pour(&mut socket, &bytes, 1) == 0 {
                break;
            }
            sent += 50;
        }
        println!("{way:?}: {sent} of 20000 resets were taken");
    });
}

/// A head that never ends (CERT VU#421644), and one of empty pieces.
#[test]
fn endless_heads_are_bounded() {
    let Some(world) = world("http2_abuse") else { return };
    for piece in [field("x-more", &"v".repeat(8000)), Vec::new()] {
        check(world, |_, way, socket| {
            let mut socket = open(socket, &[]);
            socket.write_all(&frame(HEADERS, END_STREAM, 1, &get("/"))).unwrap();
            let more = frame(CONTINUATION, 0, 1, &piece);
            let sent = pour(&mut socket, &more, 200_000);
            println!("{way:?}: {sent} pieces of {} bytes were taken", piece.len());
            assert!(sent < 200_000, "{way:?}: an endless head was read to its end");
            ended(&mut socket);
        });
    }
}

/// Fields that are small on the wire and large when read (RFC 7541 section 7.3).
#[test]
fn compressed_heads_are_bounded_by_what_they_mean() {
    let Some(world) = world("http2_abuse") else { return };
    check(world, |_, way, socket| {
        let mut socket = open(socket, &[]);
        // Kept under index 62, and then meant fourteen thousand times.
        let mut head = get("/");
        head.push(0x40);
        for text in ["x-bomb".to_owned(), "v".repeat(3000)] {
            number(text.len(), 7, &mut head);
            head.extend(text.bytes());
        }
        head.extend(std::iter::repeat_n(0x80 | 62, 10_000));
        let _ = socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
        let answer = read_until(&mut socket, |frame| {
            (frame.kind == HEADERS || frame.kind == RST_STREAM) && frame.stream == 1
        });
        if let Ok(answer) = answer {
            // 200 is index 8 of the static table.
            assert!(answer.kind == RST_STREAM || answer.payload.first() != Some(&0x88), "{way:?}");
        }
    });
}

/// SETTINGS and PING frames are acknowledged, but not without bound when nobody reads that.
#[test]
fn floods_that_want_acknowledgements_are_bounded() {
    let Some(world) = world("http2_abuse") else { return };
    for flood in [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(500),
        frame(PING, 0, 0, &[7; 8]).repeat(500),
    ] {
        check(world, |_, way, socket| {
            let mut socket = open(socket, &[]);
            let sent = pour(&mut socket, &flood, 2000);
            println!("{way:?}: {} of 1000000 frames were taken", sent * 500);
        });
    }
    // Who reads is answered, each in its turn.
    let port = simple(world);
    for way in FIRST {
        let mut socket = open(world.connect(way, port), &[]);
        for n in 0..100_u64 {
            socket.write_all(&frame(PING, 0, 0, &n.to_be_bytes())).unwrap();
            let ack = read_until(&mut socket, |frame| frame.kind == PING && frame.flags & ACK != 0);
            assert_eq!(ack.unwrap().payload, n.to_be_bytes(), "{way:?}");
        }
    }
}

/// Frames that mean nothing: empty DATA, priorities, unknown kinds, window updates.
#[test]
fn floods_that_mean_nothing_are_bounded() {
    let Some(world) = world("http2_abuse") else { return };
    const PRIORITY: u8 = 2;
    for flood in [
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        frame(0xee, 0, 0, &[]),
        frame(DATA, 0, 1, &[]),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
    ] {
        check(world, |_, way, socket| {
            let mut socket = open(socket, &[]);
            let head = [get("/"), field("content-type", "text/plain")].concat();
            socket.write_all(&frame(HEADERS, END_HEADERS, 1, &head)).unwrap();
            let sent = pour(&mut socket, &flood.repeat(500), 400);
            println!("{way:?}: {} of 200000 frames of type {} were taken", sent * 500, flood[3]);
        });
    }
}

/// A client that grants no window gets heads and no bodies, and what waits for it is bounded.
#[test]
fn clients_without_a_window_hold_little() {
    // All together are more than a proxy may keep.
    const BODY_BYTES: usize = 600_000;
    let Some(world) = world("http2_abuse") else { return };
    let port = crate::http2::application(world, async |_, mut respond| {
        if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
            let _ = body.send_data(bytes::Bytes::from(vec![0; BODY_BYTES]), true);
        }
    });
    check(world, |world, way, _| {
        let mut socket = open(world.connect(way, port), &[(4, 0)]);
        for n in 0..100 {
            let request = frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &get("/"));
            socket.write_all(&request).unwrap();
        }
        let mut answering = socket.try_clone().unwrap();
        let mut heads = 0;
        let last = read_until(&mut socket, |frame| {
            assert!(frame.kind != DATA || frame.payload.is_empty(), "{way:?}: there is no window");
            // Who does not answer is taken for dead, and this client lives.
            answer_ping(&mut answering, frame);
            heads += u32::from(frame.kind == HEADERS);
            heads == 100
        });
        last.unwrap_or_else(|error| panic!("{way:?}: {heads} heads, then {error}"));
        // With a window, what waited comes, and whole.
        let enough = 1_u32 << 30;
        let start = Instant::now();
        for stream in std::iter::once(0).chain((0..100).map(|n| n * 2 + 1)) {
            answering.write_all(&frame(WINDOW_UPDATE, 0, stream, &enough.to_be_bytes())).unwrap();
        }
        let (mut bytes, mut ended) = (0, 0);
        let last = read_until(&mut socket, |frame| {
            answer_ping(&mut answering, frame);
            if frame.kind == DATA {
                bytes += frame.payload.len();
                ended += usize::from(frame.flags & END_STREAM != 0);
            }
            // PINGs go on for ever.
            ended == 100 || start.elapsed() > PATIENCE
        });
        last.unwrap_or_else(|error| panic!("{way:?}: {bytes} bytes, then {error}"));
        assert_eq!((bytes, ended), (100 * BODY_BYTES, 100), "{way:?}");
    });
}

/// What breaks the protocol ends the stream or the connection, and never reaches the application.
#[test]
fn broken_frames_end_the_connection() {
    let Some(world) = world("http2_abuse") else { return };
    let port = simple(world);
    let large = field("x", &"v".repeat(20_000));
    let cases: [(&str, Vec<u8>); 9] = [
        ("a frame that is too large", frame(HEADERS, END_HEADERS, 1, &large)),
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &get("/"))),
        ("DATA of no stream", frame(DATA, 0, 0, b"x")),
        ("DATA of an idle stream", frame(DATA, 0, 9, b"x")),
        ("SETTINGS of an odd length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &get("/"))),
        ("an index of no field", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80 | 126])),
    ];
    for way in FIRST {
        for (name, bytes) in &cases {
            let mut socket = open(world.connect(way, port), &[]);
            socket.write_all(bytes).unwrap();
            let end = ended(&mut socket);
            assert!(end != Ended::GoAway(0), "{way:?} {name}: {end:?}");
        }
        assert_eq!(fetch(world, way, port, "/").1, b"ok", "{way:?}");
    }
}

/// Heads that HTTP/2 forbids (RFC 9113 section 8) are not passed on.
#[test]
fn malformed_heads_are_not_passed_on() {
    let Some(world) = world("http2_abuse") else { return };
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&seen);
    let port = crate::http2::application(world, move |request, mut respond| {
        let strange = request.uri().path() != "/calm";
        count.fetch_add(usize::from(strange), std::sync::atomic::Ordering::Relaxed);
        async move {
            let _ = respond.send_response(http::Response::new(()), true);
        }
    });
    let with = |name: &str, value: &str| [get("/odd"), field(name, value)].concat();
    let request = |fields: &[(&str, &str)]| {
        let rest = fields.iter().flat_map(|(name, value)| field(name, value));
        field(":method", "GET").into_iter().chain(rest).collect::<Vec<_>>()
    };
    let cases = [
        ("a name in capitals", with("X-Odd", "1")),
        ("a line break in a value", with("x-odd", "1\r\nhost: evil")),
        ("a zero byte in a value", with("x-odd", "1\0")),
        ("a blank in a name", with("x odd", "1")),
        ("a field of the connection", with("connection", "close")),
        ("a transfer coding", with("transfer-encoding", "chunked")),
        ("a TE that is not trailers", with("te", "gzip")),
        ("two paths", with(":path", "/odd")),
        (
            "a pseudo field after others",
            [get("/odd"), field("a", "b"), field(":path", "/")].concat(),
        ),
        ("an unknown pseudo field", with(":odd", "1")),
        ("a status in a request", with(":status", "200")),
        ("an empty path", request(&[(":scheme", "http"), (":path", "")])),
        ("no path", request(&[(":scheme", "http")])),
        ("no path beside an authority", request(&[(":scheme", "http"), (":authority", "web")])),
        ("no path to post to", [field(":method", "POST"), field(":scheme", "http")].concat()),
        ("a path without its slash", request(&[(":scheme", "http"), (":path", "odd")])),
        ("no scheme", request(&[(":path", "/odd")])),
        ("no method", [field(":scheme", "http"), field(":path", "/odd")].concat()),
        ("a length that is not the body's", with("content-length", "5")),
    ];
    for way in FIRST {
        for (name, head) in &cases {
            let mut socket = open(world.connect(way, port), &[]);
            socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, head)).unwrap();
            let answer = read_until(&mut socket, |frame| {
                matches!(frame.kind, HEADERS | RST_STREAM | crate::frames::GOAWAY)
            });
            let got = seen.swap(0, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(got, 0, "{way:?} {name}: it reached the application");
            // Malformed, and not merely refused (RFC 9113 section 8.1.1).
            let answer = answer.unwrap_or_else(|error| panic!("{way:?} {name}: {error}"));
            assert_ne!(answer.kind, HEADERS, "{way:?} {name}: {answer:?}");
            let at = if answer.kind == RST_STREAM { 0 } else { 4 };
            assert_ne!(answer.payload[at..at + 4], [0; 4], "{way:?} {name}: {answer:?}");
        }
        assert_eq!(fetch(world, way, port, "/calm").0, 200, "{way:?}");
    }
}
