//! Peers that take their time, in both directions: who is slow holds little and stops nobody else.

use crate::message::{Kind, Message, application, ask, simple};
use crate::world::{PATIENCE, WAYS, Way, World, alone, port, until, world};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const HEAD: &str = "GET / HTTP/1.1\r\nhost: web\r\n";

fn served(world: &World, way: Way, port: u16) {
    let start = Instant::now();
    let request = format!("{HEAD}connection: close\r\n\r\n");
    let (answer, _) = ask(world.connect(way, port), &request, Kind::Response);
    assert_eq!(answer.text(), "ok", "{way:?}");
    assert!(start.elapsed() < PATIENCE / 4, "{way:?}: an honest client waited");
}

/// Clients that send their heads a byte at a time: the application is spared them, others are
/// served.
#[test]
fn heads_that_drip_cost_the_application_nothing() {
    let Some(world) = world("slow") else { return };
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let port = world.serve(port(), move |mut socket| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while let Ok(Some(_)) = Message::read(&mut reader, Kind::Request) {
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        }
    });
    for way in WAYS {
        let before = connections.load(Ordering::Relaxed);
        let mut slow: Vec<TcpStream> = (0..200)
            .map(|_| {
                let mut socket = world.connect(way, port);
                socket.write_all(HEAD.as_bytes()).unwrap();
                socket
            })
            .collect();
        for _ in 0..5 {
            for socket in &mut slow {
                let _ = socket.write_all(b"x");
            }
            served(world, way, port);
        }
        let made = connections.load(Ordering::Relaxed) - before;
        // Who is silent for long may be asked for by a server that speaks first.
        assert!(made <= 100, "{way:?}: {made} connections to the application");
        // Slow is not wrong: the request is answered when it is there.
        let mut last = slow.pop().unwrap();
        last.write_all(b": y\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
    }
}

/// A body that drips reaches the application as it comes, and so does an answer.
#[test]
fn bodies_that_drip_pass_as_they_come() {
    let Some(world) = world("slow") else { return };
    let port = world.serve(port(), |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut line = String::new();
        while !line.ends_with("\r\n\r\n") {
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        // Each byte is echoed before the next is sent.
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").unwrap();
        for _ in 0..10 {
            let mut byte = [0; 1];
            reader.read_exact(&mut byte).unwrap();
            socket.write_all(&byte).unwrap();
        }
    });
    for way in WAYS {
        let mut reader = BufReader::new(world.connect(way, port));
        let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\n";
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        let answer = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{way:?}");
        for byte in b'0'..=b'9' {
            reader.get_mut().write_all(&[byte]).unwrap();
            let mut back = [0; 1];
            reader.read_exact(&mut back).unwrap();
            assert_eq!(back[0], byte, "{way:?}");
        }
    }
}

/// Clients that do not read what they asked for: the application is slowed down, the proxy keeps
/// little of it.
#[test]
fn answers_nobody_reads_are_not_collected() {
    const PIECE: usize = 64 * 1024;
    let Some(world) = world("slow") else { return };
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let port = world.serve(port(), move |mut socket| {
        let mut request = [0; 1000];
        let Ok(size) = socket.read(&mut request) else { return };
        if request[..size].starts_with(b"GET /small") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            return;
        }
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
        let mut piece = socket.write_all(head);
        while piece.is_ok() {
            count.fetch_add(PIECE, Ordering::Relaxed);
            piece = socket.write_all(&[0; PIECE]);
        }
    });
    let _alone = alone();
    for way in WAYS {
        let before: u64 = world.proxies(way).iter().map(|proxy| proxy.memory()).sum();
        let start = sent.load(Ordering::Relaxed);
        let mut slow: Vec<TcpStream> = (0..8).map(|_| world.connect(way, port)).collect();
        for socket in &mut slow {
            socket.write_all(format!("{HEAD}\r\n").as_bytes()).unwrap();
            socket.read_exact(&mut [0; 15]).unwrap();
        }
        // Until the application is stopped by the kernel's buffers.
        let mut last = 0;
        until("the application is stopped", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = sent.load(Ordering::Relaxed);
            std::mem::replace(&mut last, now) == now && now > start
        });
        let request = "GET /small HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        let (answer, _) = ask(world.connect(way, port), request, Kind::Response);
        assert_eq!(answer.text(), "ok", "{way:?}");
        let after: u64 = world.proxies(way).iter().map(|proxy| proxy.memory()).sum();
        assert!(after < before + 48 * 1024 * 1024, "{way:?}: {before} bytes became {after}");
    }
}

/// Applications that answer a byte at a time, and those that never do, hold their own clients only.
#[test]
fn slow_applications_hold_their_own_clients_only() {
    let Some(world) = world("slow") else { return };
    let silent = world.serve(port(), |mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let slow = world.serve(port(), |mut socket| {
        let _ = socket.read(&mut [0; 1000]);
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" {
            let _ = socket.write_all(&[*byte]);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (good, _) = simple(world);
    for way in WAYS {
        let held: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut socket = world.connect(way, silent);
                socket.write_all(format!("{HEAD}\r\n").as_bytes()).unwrap();
                socket
            })
            .collect();
        served(world, way, good);
        served(world, way, slow);
        drop(held);
    }
}

/// A client that goes away frees what its request held at the application.
#[test]
fn who_goes_away_frees_the_application() {
    let Some(world) = world("slow") else { return };
    let held = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&held);
    let port = world.serve(port(), move |mut socket| {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = socket.read_to_end(&mut Vec::new());
        count.fetch_sub(1, Ordering::Relaxed);
    });
    for way in WAYS {
        let sockets: Vec<TcpStream> = (0..10)
            .map(|_| {
                let mut socket = world.connect(way, port);
                socket.write_all(format!("{HEAD}\r\n").as_bytes()).unwrap();
                socket
            })
            .collect();
        until("the requests are there", || held.load(Ordering::Relaxed) == 10);
        drop(sockets);
        until("the requests are gone", || held.load(Ordering::Relaxed) == 0);
    }
}

/// Idle connections stay open: there is no limit that a client with keep-alive would run into.
#[test]
fn idle_connections_stay() {
    let Some(world) = world("slow") else { return };
    let (port, _) =
        application(world, |_| "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned());
    let mut readers: Vec<_> = WAYS
        .iter()
        .map(|way| {
            let request = format!("{HEAD}\r\n");
            ask(world.connect(*way, port), &request, Kind::Response).1
        })
        .collect();
    // Longer than connections to the application are kept, which is three seconds.
    std::thread::sleep(Duration::from_secs(5));
    for (reader, way) in readers.iter_mut().zip(WAYS) {
        reader.get_mut().write_all(format!("{HEAD}\r\n").as_bytes()).unwrap();
        let answer = Message::read(reader, Kind::Response).unwrap().expect("still open");
        assert_eq!(answer.text(), "ok", "{way:?}");
    }
}
