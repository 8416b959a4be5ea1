//! Applications and services that are not there.

use crate::message::{Kind, ask, exchange, simple};
use crate::world::{WAYS, Way, port, world};
use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// Nobody listens: 502 or 504 in bounded time, through every proxy, and the client keeps its
/// connection or is told to close it.
#[test]
fn an_application_that_is_not_there_is_answered() {
    let Some(world) = world("failures") else { return };
    let port = port();
    for way in WAYS {
        let start = Instant::now();
        let (answer, _) = ask(world.connect(way, port), REQUEST, Kind::Response);
        assert!([502, 503, 504].contains(&answer.status()), "{way:?}: {}", answer.head);
        assert!(start.elapsed() < Duration::from_secs(10), "{way:?}");
        // What went wrong is told inside the mesh only, and to an application by its own proxy.
        let told = !answer.header("l5d-proxy-error").is_empty();
        assert!(!told || way != Way::Inbound, "{way:?}: {}", answer.head);
        assert!(told || way != Way::Outbound, "{way:?}: {}", answer.head);
    }
}

/// What a proxy answers by itself is read whole by a client that is still sending.
#[test]
fn a_client_that_is_still_sending_reads_the_answer() {
    let Some(world) = world("failures") else { return };
    let port = port();
    for way in WAYS {
        let mut reader = std::io::BufReader::new(world.connect(way, port));
        let mut sending = reader.get_ref().try_clone().unwrap();
        let head = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 3000000\r\n\r\n";
        let sender = std::thread::spawn(move || {
            // It may be cut off, but not before the answer.
            let _ = sending.write_all(head.as_bytes());
            for _ in 0..300 {
                if sending.write_all(&[b'x'; 10_000]).is_err() {
                    return;
                }
            }
        });
        let answer = crate::message::Message::read(&mut reader, Kind::Response);
        let answer = answer.unwrap_or_else(|error| panic!("{way:?}: {error}"));
        let answer = answer.expect("an answer before the end");
        assert!([502, 503, 504].contains(&answer.status()), "{way:?}: {}", answer.head);
        drop(reader);
        sender.join().unwrap();
    }
}

/// A request waits for an application that begins to listen a moment later.
#[test]
fn an_application_that_comes_late_is_waited_for() {
    let Some(world) = world("failures") else { return };
    let port = port();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(world.connect(Way::Inbound, port), REQUEST, Kind::Response));
        std::thread::sleep(Duration::from_millis(150));
        let listener = world.server.listen(port);
        let served = scope.spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 1000]);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        });
        let (answer, _) = asked.join().unwrap();
        assert_eq!(answer.text(), "ok", "{}", answer.head);
        served.join().unwrap();
    });
}

/// An application that takes a request and closes, answers half a head, or answers what is no HTTP,
/// is 502; and the client's connection bears the next request.
#[test]
fn broken_answers_are_502() {
    let Some(world) = world("failures") else { return };
    for (name, answer) in [
        ("nothing", ""),
        ("half a head", "HTTP/1.1 200 OK\r\ncontent-le"),
        ("no HTTP", "-ERR unknown command\r\n"),
        ("another version", "HTTP/7.7 200 OK\r\n\r\n"),
    ] {
        let port = world.serve(port(), move |mut socket| {
            let _ = socket.read(&mut [0; 1000]);
            let _ = socket.write_all(answer.as_bytes());
        });
        for way in WAYS {
            let post = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nhi";
            let (got, mut reader) = ask(world.connect(way, port), post, Kind::Response);
            assert_eq!(got.status(), 502, "{name} {way:?}: {}", got.head);
            if got.header("connection") == ["close"] {
                continue;
            }
            reader.get_mut().write_all(post.as_bytes()).unwrap();
            let again = crate::message::Message::read(&mut reader, Kind::Response).unwrap();
            assert_eq!(again.expect("an answer").status(), 502, "{name} {way:?}");
        }
    }
}

/// A client that dials the proxy itself gets no loop: an error, and the proxy lives.
#[test]
fn a_proxy_does_not_dial_itself() {
    let Some(world) = world("failures") else { return };
    let (port, _) = simple(world);
    for (place, own) in [(&world.client, 4140), (&world.server, 4143)] {
        let address = std::net::SocketAddr::new("127.0.0.1".parse().unwrap(), own);
        let start = Instant::now();
        let answer = exchange(place.connect(address), REQUEST.as_bytes());
        assert!(!answer.contains(" 200 "), "{own}: {answer}");
        assert!(start.elapsed() < Duration::from_secs(15), "{own}: {answer}");
    }
    // From outside, to the port of direct connections without being one.
    let direct = std::net::SocketAddr::new(world.server.ip, 4143);
    let answer = exchange(world.outsider.connect(direct), REQUEST.as_bytes());
    assert!(!answer.contains(" 200 "), "{answer}");
    for way in WAYS {
        let (answer, _) = ask(world.connect(way, port), REQUEST, Kind::Response);
        assert_eq!(answer.text(), "ok", "{way:?}");
    }
}

/// What passed is counted by the proxies it passed, as secured where it was.
#[test]
fn what_passed_is_counted() {
    let Some(world) = world("failures") else { return };
    let (port, _) = simple(world);
    let count = || {
        let page = world.server.metrics();
        let target = format!(":{port}\"");
        let of = |tls| {
            let labels = ["direction=\"inbound\"", target.as_str(), tls];
            system_tests::metric(&page, "request_total", &labels)
        };
        (of("tls=\"true\""), of("tls=\"no_identity\""))
    };
    let before = count();
    for way in [Way::Both, Way::Inbound, Way::Inbound] {
        let (answer, _) = ask(world.connect(way, port), REQUEST, Kind::Response);
        assert_eq!(answer.text(), "ok");
    }
    crate::world::until("the requests are counted", || {
        let now = count();
        (now.0 - before.0, now.1 - before.1) == (1.0, 2.0)
    });
}
