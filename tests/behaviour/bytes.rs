//! Connections that are not HTTP: who speaks first, how they end, who resets.

use crate::world::{PATIENCE, WAYS, Way, World, opaque_port, port, until, world};
use socket2::SockRef;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Runs a case on a port where the protocol is found out and on one that is declared opaque.
fn check(serve: impl Fn(TcpStream) + Clone + Send + 'static, client: impl Fn(&World, Way, u16)) {
    let Some(world) = world("bytes") else { return };
    for port in [port(), opaque_port()] {
        world.serve(port, serve.clone());
        for way in WAYS {
            client(world, way, port);
        }
    }
}

/// The next connection ends with a reset.
fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The client's end of stream reaches the server after what was sent, and the answer still comes.
#[test]
fn a_client_that_has_sent_everything_still_hears() {
    check(
        |mut socket| {
            let mut all = Vec::new();
            if socket.read_to_end(&mut all).is_ok() {
                let _ = socket.write_all(format!("{} bytes", all.len()).as_bytes());
            }
        },
        |world, way, port| {
            let mut socket = world.connect(way, port);
            for _ in 0..10 {
                socket.write_all(&[0xff; 10_000]).unwrap();
            }
            socket.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "100000 bytes", "{way:?} {port}");
        },
    );
}

/// The server's end of stream reaches the client after what was sent, and the server still hears.
#[test]
fn a_server_that_has_sent_everything_still_hears() {
    let (sender, heard) = mpsc::channel();
    check(
        move |mut socket| {
            let mut first = [0; 1];
            if socket.read_exact(&mut first).is_err() {
                return;
            }
            socket.write_all(b"all I have").unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest);
            let _ = sender.send(rest.len());
        },
        move |world, way, port| {
            let mut socket = world.connect(way, port);
            socket.write_all(&[0xff]).unwrap();
            let mut all = String::new();
            socket.read_to_string(&mut all).unwrap();
            assert_eq!(all, "all I have", "{way:?} {port}");
            socket.write_all(&[0xff; 50_000]).unwrap();
            drop(socket);
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(50_000), "{way:?} {port}");
        },
    );
}

/// A client's reset is no clean end at the server.
#[test]
fn a_reset_of_the_client_reaches_the_server() {
    let (sender, heard) = mpsc::channel();
    check(
        move |mut socket| {
            let mut byte = [0; 1];
            let first = socket.read_exact(&mut byte);
            let _ = socket.write_all(b"!");
            let second = socket.read(&mut byte).map_err(|error| error.kind());
            let _ = sender.send((first.is_ok(), second));
        },
        move |world, way, port| {
            let mut socket = world.connect(way, port);
            socket.write_all(&[0xff]).unwrap();
            socket.read_exact(&mut [0; 1]).unwrap();
            reset(socket);
            let (spoke, ended) = heard.recv_timeout(PATIENCE).expect("the server hears of it");
            assert!(spoke, "{way:?} {port}");
            assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{way:?} {port}");
        },
    );
}

/// A server's reset is no clean end at the client.
#[test]
fn a_reset_of_the_server_reaches_the_client() {
    check(
        |mut socket| {
            let mut byte = [0; 1];
            if socket.read_exact(&mut byte).is_ok() && socket.write_all(b"!").is_ok() {
                // The client has it before the reset.
                let _ = socket.read_exact(&mut byte);
                reset(socket);
            }
        },
        |world, way, port| {
            let mut socket = world.connect(way, port);
            socket.write_all(&[0xff]).unwrap();
            socket.read_exact(&mut [0; 1]).unwrap();
            socket.write_all(&[0xff]).unwrap();
            let ended = socket.read(&mut [0; 1]).map_err(|error| error.kind());
            assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{way:?} {port}");
        },
    );
}

/// A reset within an answer is no whole answer, whatever frames it.
#[test]
fn a_reset_within_an_answer_is_no_answer() {
    let Some(world) = world("bytes") else { return };
    for head in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n", "x: y\r\n"] {
        let port = world.serve(port(), move |mut socket| {
            let mut request = [0; 1000];
            let _ = socket.read(&mut request);
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n5\r\nhello\r\n");
            socket.write_all(answer.as_bytes()).unwrap();
            let _ = socket.read(&mut request);
            reset(socket);
        });
        for way in WAYS {
            let mut socket = world.connect(way, port);
            socket.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
            let mut all = Vec::new();
            let mut byte = [0; 512];
            while !all.windows(5).any(|window| window == b"hello") {
                let count = socket.read(&mut byte).unwrap();
                assert!(count > 0, "{way:?}: {:?}", String::from_utf8_lossy(&all));
                all.extend_from_slice(&byte[..count]);
            }
            // The application resets when its connection ends or more comes.
            socket.shutdown(Shutdown::Write).unwrap();
            let start = Instant::now();
            let mut rest = Vec::new();
            let ended = socket.read_to_end(&mut rest);
            let whole = ended.is_ok() && String::from_utf8_lossy(&rest).contains("0\r\n\r\n");
            assert!(!whole, "{way:?} {head}: a broken answer was ended well: {rest:?}");
            assert!(start.elapsed() < PATIENCE, "{way:?}");
        }
    }
}

/// A server that speaks first is heard, declared opaque or not.
#[test]
fn a_server_that_speaks_first_is_heard() {
    check(
        |mut socket| {
            let _ = socket.write_all(b"220 welcome\r\n");
            let mut line = [0; 4];
            if socket.read_exact(&mut line).is_ok() {
                let _ = socket.write_all(&line);
            }
        },
        |world, way, port| {
            let start = Instant::now();
            let mut socket = world.connect(way, port);
            let mut line = [0; 13];
            socket.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"220 welcome\r\n", "{way:?} {port}");
            assert!(start.elapsed() < Duration::from_secs(5), "{way:?} {port}: late");
            socket.write_all(b"EHLO").unwrap();
            let mut line = [0; 4];
            socket.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"EHLO", "{way:?} {port}");
        },
    );
}

/// Short first messages and pieces of words are not kept waiting for what they are not.
#[test]
fn first_messages_pass_however_they_are_cut() {
    let echo = |mut socket: TcpStream| {
        let mut bytes = [0; 100];
        while let Ok(count @ 1..) = socket.read(&mut bytes) {
            let _ = socket.write_all(&bytes[..count]);
        }
    };
    check(echo, |world, way, port| {
        for message in [&b"\0"[..], b"*1\r\n$4\r\nPING\r\n", b"GE", b"HELLO\r\n", b"SSH-2.0-x\r\n"]
        {
            let mut socket = world.connect(way, port);
            socket.write_all(message).unwrap();
            // A beginning that could be HTTP waits for more; the end shows that none comes.
            if message == b"GE" {
                socket.shutdown(Shutdown::Write).unwrap();
            }
            let mut answer = vec![0; message.len()];
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(answer, message, "{way:?} {port}");
        }
    });
    // Byte for byte, HTTP is HTTP.
    let Some(world) = world("bytes") else { return };
    let (port, seen) = crate::message::simple(world);
    for way in WAYS {
        let mut socket = world.connect(way, port);
        for byte in b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n" {
            socket.write_all(&[*byte]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let answer = crate::message::exchange(socket, b"");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{way:?}: {answer}");
        assert_eq!(seen.take().len(), 1);
    }
}

/// Who is gone leaves nothing behind.
#[test]
fn connections_that_ended_leave_nothing() {
    let Some(world) = world("bytes") else { return };
    let port = world.serve(opaque_port(), |mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    for way in WAYS {
        let open = |world: &World| -> usize {
            world.proxies(way).iter().map(|proxy| proxy.descriptors()).sum()
        };
        let before = open(world);
        let sockets: Vec<_> = (0..200).map(|_| world.connect(way, port)).collect();
        for (n, mut socket) in sockets.into_iter().enumerate() {
            let _ = socket.write_all(b"x");
            if n % 2 == 0 {
                reset(socket);
            }
        }
        // Other cases run beside this one.
        until("the descriptors are closed", || open(world) < before + 100);
    }
}
