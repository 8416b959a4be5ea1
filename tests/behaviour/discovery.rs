//! What becomes of requests while the control plane speaks, falls silent, or takes it back.

use crate::http2;
use crate::message::{Kind, Message, ask};
use crate::script::{FAILFAST, add, none};
use crate::world::{PATIENCE, Place, World, port, until, world};
use hauberk_model::Endpoint;
use hauberk_wire::{self as wire, destination::Update};
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Code;

/// How a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Http1,
    /// HTTP/1 with an absolute target.
    Absolute,
    Http2,
}

pub(crate) const FORMS: [Form; 3] = [Form::Http1, Form::Absolute, Form::Http2];

/// What a GET of `/` from the scripted pod to that address gives, over a connection of its own.
pub(crate) fn get(world: &World, form: Form, address: SocketAddr) -> (u16, String) {
    let socket = world.scripted.connect(address);
    let target = match form {
        Form::Http1 => "/",
        Form::Absolute => "http://web/",
        Form::Http2 => {
            let (status, body) = http2::fetch_over(socket, "/");
            return (status, String::from_utf8_lossy(&body).into_owned());
        }
    };
    let head = format!("GET {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
    let (answer, _) = ask(socket, &head, Kind::Response);
    (answer.status(), answer.text())
}

/// An application without a proxy that answers its name, in either version of HTTP.
pub(crate) fn named(world: &World, name: &'static str) -> Endpoint {
    let port = port();
    start_named(world, port, name);
    Endpoint::bare(SocketAddr::new(world.bare.ip, port))
}

fn start_named(world: &World, port: u16, name: &'static str) {
    answer_at(world, port, move |_, _| (200, name.into()));
}

/// An application without a proxy that gives status and body for each path and body, in either
/// version of HTTP.
pub(crate) fn answer_at(
    world: &World,
    port: u16,
    answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>) + Clone + Send + 'static,
) {
    answer_in(&world.bare, port, answer);
}

/// The same in any pod.
pub(crate) fn answer_in(
    place: &Place,
    port: u16,
    answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>) + Clone + Send + 'static,
) {
    place.serve(port, move |mut socket| {
        let mut first = [0; 3];
        if !matches!(socket.peek(&mut first), Ok(3)) {
            return;
        }
        if &first == b"PRI" {
            let answer = answer.clone();
            return http2::serve(socket, move |request, mut respond| {
                let answer = answer.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let Ok((body, _)) = http2::collect(request.into_body()).await else { return };
                    let (status, body) = answer(&path, &body);
                    let head = http::Response::builder().status(status).body(()).unwrap();
                    if let Ok(mut stream) = respond.send_response(head, false) {
                        let _ = stream.send_data(body.into(), true);
                    }
                }
            });
        }
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while let Ok(Some(request)) = Message::read(&mut reader, Kind::Request) {
            let path = request.head.split(' ').nth(1).unwrap_or_default();
            let (status, body) = answer(path, &request.body);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            if socket.write_all(&[head.into_bytes(), body].concat()).is_err() {
                return;
            }
        }
    });
}

/// A place where nobody listens.
fn nobody(world: &World) -> Endpoint {
    Endpoint::bare(SocketAddr::new(world.bare.ip, port()))
}

fn ok(name: &str) -> (u16, String) {
    (200, name.to_owned())
}

/// The control plane is asked once for a target; a stream that ends, or fails, is opened again after
/// a pause, and what it said last counts meanwhile.
#[test]
fn what_was_told_holds_until_a_new_stream_says_otherwise() {
    let Some(world) = world("discovery") else { return };
    let old = named(world, "old");
    let new = named(world, "new");
    for form in FORMS {
        let service = world.script.service();
        let questions = world.script.endpoints.ask(&service.authority);
        let get = || get(world, form, service.address);
        std::thread::scope(|scope| {
            let first = scope.spawn(get);
            let asked = questions.next();
            asked.say(add(std::slice::from_ref(&old)));
            assert_eq!(first.join().unwrap(), ok("old"), "{form:?}");
            for _ in 0..3 {
                assert_eq!(get(), ok("old"), "{form:?}");
            }
            assert!(!questions.have_come(), "{form:?}: it was asked again");
            drop(asked);
            for n in 0..3 {
                let again = questions.next();
                let failed = Instant::now();
                // Were it away, a stream of another case that reaches it would end the pause.
                again.fail(Code::Internal);
                assert_eq!(get(), ok("old"), "{form:?}: after {n} failures");
                let next = questions.next();
                // The least pause is a tenth of a second.
                let pause = failed.elapsed();
                assert!(pause > Duration::from_millis(50), "{form:?}: again after {pause:?}");
                drop(next);
            }
            let last = questions.next();
            last.say(add(std::slice::from_ref(&new)));
            until("the new stream counts", || get() == ok("new"));
            drop(last);
        });
    }
}

/// Without endpoints a request fails when the service's patience is over, whether there are none, no
/// such service, or no answer.
#[test]
fn without_endpoints_requests_fail_fast() {
    let Some(world) = world("discovery") else { return };
    std::thread::scope(|scope| {
        for form in FORMS {
            for exists in [Some(true), Some(false), None] {
                scope.spawn(move || {
                    let service = world.script.service();
                    let questions = world.script.endpoints.ask(&service.authority);
                    let start = Instant::now();
                    let first = scope.spawn({
                        let address = service.address;
                        move || get(world, form, address)
                    });
                    let asked = questions.next();
                    if let Some(exists) = exists {
                        asked.say(none(exists));
                    }
                    let what = format!("{form:?}, exists: {exists:?}");
                    assert_eq!(first.join().unwrap().0, 504, "{what}");
                    assert!(start.elapsed() < FAILFAST * 5, "{what}: {:?}", start.elapsed());
                    // Nobody waits again, until there is something to wait for.
                    let start = Instant::now();
                    assert_eq!(get(world, form, service.address).0, 504, "{what}");
                    assert!(start.elapsed() < FAILFAST, "{what}: {:?}", start.elapsed());
                    asked.say(add(&[named(world, "at last")]));
                    until("the endpoint counts", || {
                        get(world, form, service.address) == ok("at last")
                    });
                });
            }
        }
    });
}

/// Where the control plane knows nothing of an address, or will not talk about it, requests go there.
#[test]
fn what_nobody_describes_is_reached_where_it_is() {
    let Some(world) = world("discovery") else { return };
    for form in FORMS {
        for code in [Code::NotFound, Code::InvalidArgument] {
            let there = named(world, "there").address;
            let profiles = world.script.profiles.ask(there);
            std::thread::scope(|scope| {
                let got = scope.spawn(move || get(world, form, there));
                profiles.next().fail(code);
                assert_eq!(got.join().unwrap(), ok("there"), "{form:?} {code:?}");
                assert_eq!(get(world, form, there), ok("there"), "{form:?} {code:?}");
            });
        }
    }
    // Names are resolved by applications; nobody asks about addresses outside of the cluster.
    let outside = SocketAddr::from(([203, 0, 113, 7], 80));
    let questions = world.script.profiles.ask(outside);
    let status = get(world, Form::Http1, outside).0;
    assert!([502, 504].contains(&status), "{status}: nobody is there");
    assert!(!questions.have_come(), "it was asked about {outside}");
}

/// A stream that is opened again and says that there is nothing takes back what the last one said.
#[test]
fn a_new_stream_can_take_everything_back() {
    let Some(world) = world("discovery") else { return };
    let before = named(world, "before");
    for form in FORMS {
        for exists in [true, false] {
            let service = world.script.service();
            let questions = world.script.endpoints.ask(&service.authority);
            let get = || get(world, form, service.address);
            std::thread::scope(|scope| {
                let first = scope.spawn(get);
                let asked = questions.next();
                asked.say(add(std::slice::from_ref(&before)));
                assert_eq!(first.join().unwrap(), ok("before"), "{form:?}");
                drop(asked);
                let again = questions.next();
                assert_eq!(get(), ok("before"), "{form:?}: nothing was said yet");
                again.say(none(exists));
                until("nothing is there any more", || get().0 == 504);
                again.say(add(std::slice::from_ref(&before)));
                until("it is back", || get() == ok("before"));
            });
        }
    }
}

/// An endpoint that is removed gets no more requests; what it has goes on.
#[test]
fn a_removed_endpoint_finishes_what_it_has() {
    let Some(world) = world("discovery") else { return };
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let leaving = Endpoint::bare(SocketAddr::new(world.bare.ip, port()));
    world.bare.serve(leaving.address.port(), move |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while let Ok(Some(request)) = Message::read(&mut reader, Kind::Request) {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nle");
            if request.head.starts_with("GET /long") {
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            }
            let _ = socket.write_all(b"aving");
        }
    });
    let service = world.script.service();
    let questions = world.script.endpoints.ask(&service.authority);
    let mut reader = BufReader::new(world.scripted.connect(service.address));
    reader.get_mut().write_all(b"GET /long HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
    let asked = questions.next();
    asked.say(add(std::slice::from_ref(&leaving)));
    assert!(!reader.fill_buf().unwrap().is_empty(), "the answer has begun");
    asked.say(add(&[named(world, "staying")]));
    asked.say(wire::destination::to_wire(&Update::Remove(vec![leaving.address])));
    until("others are used", || {
        let mut all = (0..8).map(|_| get(world, Form::Http1, service.address));
        all.all(|got| got == ok("staying"))
    });
    go.send(()).unwrap();
    let answer = Message::read(&mut reader, Kind::Response).unwrap().expect("an answer");
    assert_eq!(answer.text(), "leaving");
}

/// Endpoints that cannot be reached are passed by; where there is no other, a request that comes
/// before one can be reached is served by it.
#[test]
fn an_endpoint_that_is_not_ready_is_passed_by() {
    let Some(world) = world("discovery") else { return };
    for form in FORMS {
        let service = world.script.service();
        let ready = named(world, "ready");
        let all = [nobody(world), ready, nobody(world)];
        let _live = world.script.serve_at(&service, &all);
        for n in 0..20 {
            assert_eq!(get(world, form, service.address), ok("ready"), "{form:?}: request {n}");
        }
        let service = world.script.service();
        let late = nobody(world);
        let _live = world.script.serve_at(&service, std::slice::from_ref(&late));
        // Who asks too early is told so at once or after a while, and does not hang.
        let start = Instant::now();
        let early = get(world, form, service.address).0;
        assert!([502, 504].contains(&early), "{form:?}: {early}");
        assert!(start.elapsed() < FAILFAST * 5, "{form:?}: {:?}", start.elapsed());
        start_named(world, late.address.port(), "late");
        until("it is found", || get(world, form, service.address) == ok("late"));
    }
}

/// The set of endpoints of a service may have labels; so may each endpoint. Metrics have both, and
/// follow them.
#[test]
fn metrics_have_the_labels_of_endpoints_as_they_change() {
    let Some(world) = world("discovery") else { return };
    let service = world.script.service();
    let application = named(world, "labelled");
    let labelled = |of_set: &str, of_endpoint: &str| {
        let mut endpoint = application.clone();
        endpoint.labels.insert("pod".into(), of_endpoint.into());
        let labels = [("service".into(), of_set.into())].into_iter().collect();
        let endpoints = vec![Arc::new(endpoint)];
        wire::destination::to_wire(&Update::Add { labels: Arc::new(labels), endpoints })
    };
    let live = world.script.endpoints.always(&service.authority, labelled("blue", "a"));
    assert_eq!(get(world, Form::Http1, service.address), ok("labelled"));
    let count = |set: &str, pod: &str, wanted: f64| {
        let labels = [format!("dst_service=\"{set}\""), format!("dst_pod=\"{pod}\"")];
        let labels = [&*labels[0], &labels[1], "direction=\"outbound\""];
        for family in ["request_total", "response_total", "response_latency_ms_count"] {
            world.scripted.counted(family, &labels, |count| count >= wanted);
        }
    };
    count("blue", "a", 1.0);
    for (set, pod) in [("blue", "b"), ("green", "b")] {
        live.set(labelled(set, pod));
        until("the new labels are counted", || {
            assert_eq!(get(world, Form::Http1, service.address), ok("labelled"));
            let labels = [format!("dst_service=\"{set}\""), format!("dst_pod=\"{pod}\"")];
            let page = world.scripted.metrics();
            system_tests::metric(&page, "request_total", &[&*labels[0], &labels[1]]) > 0.0
        });
        count(set, pod, 1.0);
    }
}
