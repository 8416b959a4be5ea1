//! What operators see: metrics of both sides, and the admin port.

use crate::message::{Kind, ask, simple};
use crate::world::{PATIENCE, WAYS, Way, World, opaque_port, until, world};
use socket2::SockRef;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime},
};

/// Samples of `metric` on the pages of the proxies of `way`, summed.
fn sum(world: &World, way: Way, metric: &str, labels: &[&str]) -> f64 {
    let pages = world.proxies(way).into_iter().map(|proxy| proxy.metrics());
    pages.map(|page| system_tests::metric(&page, metric, labels)).sum()
}

fn echo(mut socket: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut bytes) {
        if socket.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// Each side of each proxy counts connections, and bytes, and how long they lasted; nothing stays
/// open in the books when it is closed.
#[test]
fn connections_are_counted_from_opening_to_close() {
    let Some(world) = world("telemetry") else { return };
    let opaque = world.serve(opaque_port(), echo);
    let (http, _) = simple(world);
    for way in WAYS {
        for (port, is_http) in [(opaque, false), (http, true)] {
            let target = format!(":{port}\"");
            // The side towards an application beside a proxy names no address.
            let count = |metric: &str, peer: &str| match peer {
                "src" => sum(world, way, metric, &["peer=\"src\"", &target]),
                _ => sum(world, way, metric, &["peer=\"dst\""]),
            };
            let what = format!("{way:?} {port}");
            let before = ["src", "dst"].map(|peer| count("tcp_open_total", peer));
            let mut socket = world.connect(way, port);
            if is_http {
                let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
                socket.write_all(request.as_bytes()).unwrap();
                socket.read_exact(&mut [0; 12]).unwrap();
            } else {
                socket.write_all(&[0xff; 1000]).unwrap();
                socket.read_exact(&mut [0; 1000]).unwrap();
            }
            for (peer, before) in ["src", "dst"].into_iter().zip(before) {
                until(&format!("{what}: {peer} is open"), || {
                    count("tcp_open_total", peer) > before
                });
                assert!(count("tcp_open_connections", peer) >= 1.0, "{what} {peer}");
            }
            if !is_http {
                until(&format!("{what}: bytes are counted"), || {
                    let of = |metric| count(metric, "src");
                    of("tcp_read_bytes_total") >= 1000.0 && of("tcp_write_bytes_total") >= 1000.0
                });
            }
            let closed = count("tcp_close_total", "src");
            drop(socket);
            until(&format!("{what}: the client's side is closed"), || {
                count("tcp_open_connections", "src") == 0.0
            });
            assert!(count("tcp_close_total", "src") > closed, "{what}");
        }
    }
}

/// A connection that ends abruptly is counted with the kernel's word for it.
#[test]
fn resets_are_counted_with_their_cause() {
    let Some(world) = world("telemetry") else { return };
    let port = world.serve(opaque_port(), |mut socket| {
        let mut byte = [0; 1];
        while let Ok(1) = socket.read(&mut byte) {
            if byte == *b"!" {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            let _ = socket.write_all(&byte);
        }
    });
    let target = format!(":{port}\"");
    for way in WAYS {
        // The side towards an application beside a proxy names no address.
        let resets = |peer: &str| {
            let labels = [peer, "errno=\"ECONNRESET\"", target.as_str()];
            let is_named = peer.contains("src") || way == Way::Outbound;
            sum(world, way, "tcp_close_total", if is_named { &labels } else { &labels[..2] })
        };
        let (of_clients, of_servers) = (resets("peer=\"src\""), resets("peer=\"dst\""));
        let mut socket = world.connect(way, port);
        socket.write_all(b"x").unwrap();
        socket.read_exact(&mut [0; 1]).unwrap();
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        until(&format!("{way:?}: the client's reset is counted"), || {
            resets("peer=\"src\"") > of_clients
        });
        let mut socket = world.connect(way, port);
        socket.write_all(b"x").unwrap();
        socket.read_exact(&mut [0; 1]).unwrap();
        socket.write_all(b"!").unwrap();
        let _ = socket.read(&mut [0; 1]);
        until(&format!("{way:?}: the server's reset is counted"), || {
            resets("peer=\"dst\"") > of_servers
        });
    }
}

/// Requests and answers are counted on both sides, with a histogram of how long answers took.
#[test]
fn requests_are_counted_on_both_sides() {
    let Some(world) = world("telemetry") else { return };
    let (port, _) = simple(world);
    for _ in 0..3 {
        let request = "GET / HTTP/1.1\r\nhost: web.test\r\n\r\n";
        let (answer, _) = ask(world.connect(Way::Both, port), request, Kind::Response);
        assert_eq!(answer.status(), 200);
    }
    let target = format!("target_addr=\"{}:{port}\"", world.server.ip);
    let sides = [
        (&world.client, vec!["direction=\"outbound\"", "tls=\"true\""]),
        (&world.server, vec!["direction=\"inbound\"", "tls=\"true\"", &target]),
    ];
    for (place, mut labels) in sides {
        let name = format!(":{port}\"");
        labels.push(&name);
        place.counted("request_total", &labels, |count| count == 3.0);
        labels.push("classification=\"success\"");
        labels.push("status_code=\"200\"");
        place.counted("response_total", &labels, |count| count == 3.0);
        let labels: Vec<_> =
            labels.iter().filter(|l| !l.contains("classification")).copied().collect();
        place.counted("response_latency_ms_count", &labels, |count| count == 3.0);
        let endless: Vec<_> = labels.iter().copied().chain(["le=\"+Inf\""]).collect();
        place.counted("response_latency_ms_bucket", &endless, |count| count == 3.0);
    }
}

/// Every line of the page is a sample or a comment, in a form that every reader takes alike, and no
/// series comes twice.
#[test]
fn pages_of_metrics_are_well_formed() {
    let Some(world) = world("telemetry") else { return };
    let (port, _) = simple(world);
    for way in WAYS {
        let request = "GET /a%22b HTTP/1.1\r\nhost: a\"b\\c\r\n\r\n";
        let _ = ask(world.connect(way, port), request, Kind::Response);
    }
    for place in [&world.client, &world.server, &world.scripted] {
        let page = place.metrics();
        let (head, body) = page.split_once("\r\n\r\n").expect("a head");
        assert!(head.to_ascii_lowercase().contains("content-type: "), "{head}");
        let mut seen = BTreeSet::new();
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in samples {
            count += 1;
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(is_series(series), "{line}");
            assert!(seen.insert(series), "twice: {line}");
        }
        assert!(count > 100, "only {count} samples");
        assert!(body.contains("process_start_time_seconds "), "no start time");
        let started = system_tests::metric(body, "process_start_time_seconds", &[]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(started > now - 3600.0 && started <= now, "{started} at {now}");
    }
}

/// `name{label="value",…}`, quotes and backslashes in values escaped.
fn is_series(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let Some((name, labels)) = text.split_once('{') else { return is_name(text) };
    let Some(mut rest) = labels.strip_suffix('}') else { return false };
    if !is_name(name) {
        return false;
    }
    while !rest.is_empty() {
        let Some((label, value)) = rest.split_once("=\"") else { return false };
        let mut is_escaped = false;
        let end = value.find(|character| {
            let is_end = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            is_end
        });
        let Some(end) = end else { return false };
        if !is_name(label) {
            return false;
        }
        rest = match &value[end + 1..] {
            "" => return true,
            rest => match rest.strip_prefix(',') {
                Some(rest) if !rest.is_empty() => rest,
                _ => return false,
            },
        };
    }
    // Braces around nothing.
    false
}

/// A connection to the proxy's own port that is none of another proxy's ends, and is counted.
#[test]
fn direct_connections_of_strangers_are_counted_as_errors() {
    let Some(world) = world("telemetry") else { return };
    let direct = SocketAddr::new(world.scripted.ip, 4143);
    let errors = || {
        let page = world.scripted.metrics();
        system_tests::metric(&page, "inbound_tcp_errors_total", &["target_port=\"4143\""])
    };
    let before = errors();
    for (n, bytes) in
        [&b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"[..], b"\x01\x02\x03"].iter().enumerate()
    {
        let mut socket = world.outsider.connect(direct);
        socket.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        until("it is counted", || errors() == before + 1.0 + n as f64);
    }
}

/// The environment is shown whole or by name; a query that is none is refused.
#[test]
fn the_environment_is_shown() {
    let Some(world) = world("telemetry") else { return };
    let ask = |target: &str| {
        let page = world.scripted.admin(&format!(
            "GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ));
        let (head, body) = page.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
    };
    let destination = "\"LINKERD2_PROXY_DESTINATION_SVC_ADDR\":\"127.0.0.1:8899\"";
    let compact = |body: &str| body.split_whitespace().collect::<String>();
    let (status, all) = ask("/env.json");
    assert_eq!(status, "200");
    assert!(compact(&all).contains(destination), "{all}");
    assert!(all.contains("LINKERD2_PROXY_IDENTITY_LOCAL_NAME"), "{all}");
    let (status, one) = ask("/env.json?LINKERD2_PROXY_DESTINATION_SVC_ADDR");
    assert_eq!(status, "200");
    assert_eq!(compact(&one), format!("{{{destination}}}"));
    let (_, unset) = ask("/env.json?LINKERD2_PROXY_NO_SUCH_THING");
    assert!(compact(&unset).contains("\"LINKERD2_PROXY_NO_SUCH_THING\":null"), "{unset}");
    let (status, why) = ask("/env.json?A=B");
    assert_eq!(status, "400", "{why}");
}

/// The log level is read and set on loopback; what is no filter is refused and changes nothing.
#[test]
fn the_log_level_is_set_from_inside_the_pod() {
    let Some(world) = world("telemetry") else { return };
    let put = |filter: &str| {
        let head = "PUT /proxy-log-level HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
        let answer = world
            .scripted
            .admin(&format!("{head}content-length: {}\r\n\r\n{filter}", filter.len()));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let get = || {
        let head = "GET /proxy-log-level HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = world.scripted.admin(head);
        answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned()
    };
    let before = get();
    assert!(!before.is_empty());
    assert_eq!(put("warn,hauberk_proxy::nothing=debug"), "204");
    let changed = get();
    assert!(changed.contains("hauberk_proxy::nothing=debug"), "{changed}");
    assert_eq!(put("= = ="), "400");
    assert_eq!(get(), changed);
    assert_eq!(put(&before), "204");
    assert_eq!(get(), before);
    // From outside the pod nobody sets anything.
    let admin = SocketAddr::new(world.scripted.ip, 4191);
    let mut socket = world.outsider.connect(admin);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "PUT /proxy-log-level HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\ntrace";
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(get(), before);
}
