//! Service profiles: which requests are tried again, how often, and where they go instead.

use crate::discovery::{answer_at, named};
use crate::http2;
use crate::message::{Kind, ask};
use crate::script::{Service, add};
use crate::world::{World, port, until, world};
use bytes::Bytes;
use hauberk_model::{
    Authority, Endpoint, Pattern, Port, Profile,
    profile::{ProfileRoute, RequestMatch, WeightedTarget},
    retry::RetryBudget,
};
use hauberk_wire::{self as wire, api::destination as api};
use http::Request;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

const VERSIONS: [Version; 2] = [Version::One, Version::Two];

/// What a POST gives; its length is told unless it is `None`.
fn post(
    world: &World,
    version: Version,
    to: SocketAddr,
    path: &str,
    (body, is_told): (&[u8], bool),
) -> (u16, Vec<u8>) {
    let socket = world.scripted.connect(to);
    if version == Version::One {
        let text = std::str::from_utf8(body).unwrap();
        let framed = match is_told {
            true => format!("content-length: {}\r\n\r\n{text}", body.len()),
            false => {
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", body.len())
            }
        };
        let request = format!("POST {path} HTTP/1.1\r\nhost: web\r\n{framed}");
        let (answer, _) = ask(socket, &request, Kind::Response);
        return (answer.status(), answer.body);
    }
    http2::run(async {
        let mut sender = http2::client(socket).await;
        let mut request = Request::post(format!("http://web{path}"));
        if is_told {
            request = request.header("content-length", body.len());
        }
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        http2::send(&mut stream, body).await;
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        (status, http2::collect(response.into_body()).await.unwrap().0)
    })
}

/// An application that answers the first request for each path by 503 and `failed`, the next ones by
/// what they sent; and how many it got.
fn flaky(world: &World, failed: usize) -> (Endpoint, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let (count, port) = (Arc::clone(&seen), port());
    let known = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    answer_at(world, port, move |path, body| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut known = known.lock().unwrap();
        let attempts = known.entry(path.to_owned()).or_default();
        *attempts += 1;
        match *attempts {
            1 => (503, vec![b'f'; failed]),
            _ => (200, body.to_vec()),
        }
    });
    (Endpoint::bare(SocketAddr::new(world.bare.ip, port)), seen)
}

/// A profile of one route, for paths below `/retried`.
fn retrying(service: &Service, budget: Option<api::RetryBudget>) -> api::DestinationProfile {
    let route = ProfileRoute {
        condition: RequestMatch::Path(Pattern::new("/retried/.*").unwrap()),
        response_classes: Vec::new(),
        labels: Arc::default(),
        is_retryable: true,
        timeout: None,
    };
    let profile = Profile { routes: vec![route].into(), ..service.profile() };
    api::DestinationProfile { retry_budget: budget, ..wire::profile::to_wire(&profile) }
}

fn good_budget() -> api::RetryBudget {
    let ttl = Duration::from_secs(10);
    let budget = RetryBudget { retry_ratio: 0.5, min_retries_per_second: 100, ttl };
    let profile = Profile { retry_budget: Some(budget), ..Profile::default() };
    wire::profile::to_wire(&profile).retry_budget.unwrap()
}

/// Failed requests are tried again where the route says so, with their bodies if they are kept, and
/// only where there is a budget that can be meant.
#[test]
fn failed_requests_are_tried_again_within_a_budget() {
    let Some(world) = world("profiles") else { return };
    let ttl = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let budget = |change: &dyn Fn(&mut api::RetryBudget)| {
        let mut budget = good_budget();
        change(&mut budget);
        Some(budget)
    };
    let budgets = [
        ("none", None, false),
        ("good", Some(good_budget()), true),
        ("no ttl", budget(&|b| b.ttl = None), false),
        ("a ttl of 1000 s", budget(&|b| b.ttl = ttl(1000, 0)), false),
        ("a ttl of 0.1 s", budget(&|b| b.ttl = ttl(0, 100_000_000)), false),
        ("a ratio below 0", budget(&|b| b.retry_ratio = -1.0), false),
        ("a ratio above 1000", budget(&|b| b.retry_ratio = 1001.0), false),
    ];
    for version in VERSIONS {
        for (name, budget, is_good) in budgets {
            let what = format!("{version:?}, budget: {name}");
            let service = world.script.service();
            let (application, seen) = flaky(world, 6);
            let _live = world.script.serve_at(&service, &[application]);
            let profile = retrying(&service, budget);
            let _profile = world.script.profiles.always(service.address, profile);
            let post = |path: &str, body| post(world, version, service.address, path, body);
            let got = post("/retried/small", (b"small", true));
            if !is_good {
                assert_eq!(got, (503, b"ffffff".to_vec()), "{what}");
                assert_eq!(seen.load(Ordering::Relaxed), 1, "{what}");
                continue;
            }
            assert_eq!(got, (200, b"small".to_vec()), "{what}");
            let got = post("/retried/untold", (b"untold", false));
            assert_eq!(got, (200, b"untold".to_vec()), "{what}");
            assert_eq!(seen.swap(0, Ordering::Relaxed), 4, "{what}");
            // Another route, and bodies beyond the 64 KiB that are kept, known to be or not.
            let large = vec![b'l'; 100_000];
            for (path, body) in [
                ("/other", (&b"small"[..], true)),
                ("/retried/large", (&large[..], true)),
                ("/retried/endless", (&large[..], false)),
            ] {
                assert_eq!(post(path, body), (503, b"ffffff".to_vec()), "{what} {path}");
                assert_eq!(seen.swap(0, Ordering::Relaxed), 1, "{what} {path}");
            }
        }
    }
}

/// The answers of failed attempts are let go of, so that their bodies fill no window.
#[test]
fn failed_attempts_do_not_fill_the_connection() {
    let Some(world) = world("profiles") else { return };
    let service = world.script.service();
    let (application, seen) = flaky(world, 60_000);
    let _live = world.script.serve_at(&service, &[application]);
    let profile = retrying(&service, Some(good_budget()));
    let _profile = world.script.profiles.always(service.address, profile);
    let socket = world.scripted.connect(service.address);
    http2::run(async {
        let mut sender = http2::client(socket).await;
        // More than eight megabytes in all; a connection has at most four of them.
        for n in 0..150 {
            sender = sender.ready().await.unwrap();
            let request = Request::post(format!("http://web/retried/{n}")).body(()).unwrap();
            let (response, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"body"), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200, "request {n}");
            assert_eq!(http2::collect(response.into_body()).await.unwrap().0, b"body");
        }
    });
    assert_eq!(seen.load(Ordering::Relaxed), 300);
}

/// Targets of a profile take the traffic of the service as they are added, weighed and removed.
#[test]
fn targets_take_the_traffic_as_they_change() {
    let Some(world) = world("profiles") else { return };
    for version in VERSIONS {
        let service = world.script.service();
        let own = named(world, "own");
        let _live = world.script.serve_at(&service, &[own]);
        let live =
            world.script.profiles.always(service.address, api::DestinationProfile::default());
        let names = ["one", "two"];
        let targets = names.map(|name| {
            let host = format!("{name}.{}", service.authority.host());
            let authority = Authority::new(&host, Port::new(80).unwrap());
            let _ = world.script.endpoints.always(&authority, add(&[named(world, name)]));
            authority
        });
        let split =
            |weights: &[u32]| {
                let targets = targets.iter().zip(weights).map(|(authority, weight)| {
                    WeightedTarget { authority: authority.clone(), weight: *weight, backend: None }
                });
                let profile = Profile { targets: targets.collect(), ..service.profile() };
                live.set(wire::profile::to_wire(&profile));
            };
        let shares = || {
            let mut shares = HashMap::<String, usize>::new();
            for _ in 0..24 {
                let (status, body) = post(world, version, service.address, "/", (b"", true));
                let who = match status {
                    200 => String::from_utf8(body).unwrap(),
                    status => status.to_string(),
                };
                *shares.entry(who).or_default() += 1;
            }
            let mut names: Vec<_> = shares.into_keys().collect();
            names.sort();
            names
        };
        let becomes = |weights: &[u32], wanted: &[&str]| {
            split(weights);
            until(&format!("{version:?} {weights:?} is {wanted:?}"), || shares() == wanted);
        };
        becomes(&[], &["own"]);
        becomes(&[1], &["one"]);
        becomes(&[1, 1], &["one", "two"]);
        becomes(&[0, 1], &["two"]);
        becomes(&[0, 0], &["500"]);
        becomes(&[1], &["one"]);
        becomes(&[], &["own"]);
    }
}
