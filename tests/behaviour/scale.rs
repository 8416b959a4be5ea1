//! Much of everything: bodies of many gigabytes, ten thousand connections.

use crate::message::{Kind, Message, ask, simple};
use crate::world::{PATIENCE, Way, alone, opaque_port, port, until, world};
use std::{
    io::{BufReader, Read, Write},
    time::{Duration, Instant},
};

/// More than 32 bits can count.
const BODY_BYTES: u64 = (1 << 32) + 12345;
/// A body this large takes some seconds of an optimised proxy, and half a minute of another.
const BODY_TIMEOUT: Duration = Duration::from_secs(180);

/// Bodies are generated and counted, never kept: a proxy passes what does not fit into a number of
/// 32 bits, and grows by nothing.
#[test]
fn bodies_beyond_four_gigabytes_pass() {
    let Some(world) = world("scale") else { return };
    let _alone = alone();
    let port = world.serve(port(), |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let Ok(Some(request)) = Message::read(&mut reader, Kind::Bodyless) else { return };
        if request.head.starts_with("GET") {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
            socket.write_all(head.as_bytes()).unwrap();
            let _ = std::io::copy(&mut std::io::repeat(b'.').take(BODY_BYTES), &mut socket);
        }
    });
    let way = Way::Inbound;
    let before = world.server.memory();
    let mut reader = BufReader::with_capacity(256 * 1024, world.connect(way, port));
    reader.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
    let head = Message::read(&mut reader, Kind::Bodyless).unwrap().unwrap();
    assert_eq!(head.header("content-length"), [BODY_BYTES.to_string()]);
    let start = Instant::now();
    let (mut read, mut peak) = (0, 0);
    let mut buffer = vec![0; 256 * 1024];
    while read < BODY_BYTES {
        let count = reader.get_mut().read(&mut buffer).unwrap() as u64;
        assert!(count > 0, "the body ended after {read} bytes");
        // What lay in the reader's own buffer counts too.
        read += count + buffered(&mut reader);
        if read % (64 * 1024 * 1024) < count {
            peak = peak.max(world.server.memory());
            assert!(start.elapsed() < BODY_TIMEOUT, "{read} bytes within {BODY_TIMEOUT:?}");
        }
    }
    assert_eq!(read, BODY_BYTES);
    println!("{BODY_BYTES} bytes in {:?}", start.elapsed());
    assert!(peak < before + 32 * 1024 * 1024, "{before} bytes became {peak}");
}

/// Bytes the reader has taken from its socket and not given out; they are given out hereby.
fn buffered(reader: &mut BufReader<std::net::TcpStream>) -> u64 {
    let count = reader.buffer().len();
    std::io::BufRead::consume(reader, count);
    count as u64
}

/// Ten thousand connections that have been used and rest cost memory, but no service.
#[test]
fn ten_thousand_idle_connections_are_borne() {
    const COUNT: usize = 10_000;
    let Some(world) = world("scale") else { return };
    let _alone = alone();
    raise_limit();
    let (port, _) = simple(world);
    let way = Way::Inbound;
    let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let (before, descriptors) = (world.server.memory(), world.server.descriptors());
    let address = world.address(way, port);
    let idle = world.outsider.within(|| {
        let mut idle = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let mut socket = std::net::TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 256];
            let count = socket.read(&mut answer).unwrap();
            assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "connection {}", idle.len());
            idle.push(socket);
        }
        idle
    });
    let each = world.server.memory().saturating_sub(before) / COUNT as u64;
    println!("each idle connection costs {each} bytes");
    assert!(each < 48 * 1024, "each idle connection costs {each} bytes");
    assert!(world.server.descriptors() >= COUNT, "they are open");
    let start = Instant::now();
    let (answer, _) = ask(world.connect(way, port), request, Kind::Response);
    assert_eq!(answer.text(), "ok");
    assert!(start.elapsed() < Duration::from_secs(5), "a new client waited");
    // One that rested is served at once.
    let (answer, _) = ask(idle[COUNT / 2].try_clone().unwrap(), request, Kind::Response);
    assert_eq!(answer.text(), "ok");
    drop(idle);
    until("they are closed", || world.server.descriptors() < descriptors + 500);
}

/// The same of opaque connections through two proxies, fewer because each takes five descriptors.
#[test]
fn a_thousand_opaque_connections_are_borne() {
    let Some(world) = world("scale") else { return };
    let _alone = alone();
    raise_limit();
    let port = world.serve(opaque_port(), |mut socket| {
        let mut byte = [0; 1];
        while socket.read_exact(&mut byte).is_ok() && socket.write_all(&byte).is_ok() {}
    });
    let mut idle: Vec<_> = (0..1000).map(|_| world.connect(Way::Both, port)).collect();
    for socket in &mut idle {
        socket.write_all(b"x").unwrap();
    }
    for (n, socket) in idle.iter_mut().enumerate() {
        socket.read_exact(&mut [0; 1]).unwrap_or_else(|error| panic!("connection {n}: {error}"));
    }
}

/// This process opens as many as the proxy.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("raise the limit of open files");
}
