//! Routes for TLS and TCP: server names, weights, backends that are not there, refusal.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    Endpoint, Meta,
    filter::TcpFilter,
    outbound::{
        Backend, BackendTarget, Distribution, OpaqueRoute, OutboundProtocol, Queue, RouteBackend,
        TlsRoute,
    },
    route::HostMatch,
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
};
use support::{Control, SERVICE, Sidecar, captured_for, policy, sidecar, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A client hello of TLS 1.3 that asks for `name` and offers next to nothing (RFC 8446 section 4.1.2,
/// RFC 6066 section 3).
fn hello(name: &str) -> Vec<u8> {
    let prefixed = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let entry = [&[0][..], &prefixed(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &prefixed(&prefixed(&entry))].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &prefixed(&[0x13, 0x01]), &[1, 0], &prefixed(&extension)]
            .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &prefixed(&message)].concat()
}

/// An application that reads `count` bytes, answers with `name` and closes. Its thread ends with the
/// tests.
fn application(name: &'static str, count: usize) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut got = vec![0; count];
            if socket.read_exact(&mut got).is_ok() {
                let _ = socket.write_all(name.as_bytes()); // The test says what is missing.
            }
        }
    });
    address
}

fn to(address: SocketAddr) -> RouteBackend<TcpFilter> {
    by(BackendTarget::Forward(Arc::new(Endpoint::bare(address))))
}

fn by(target: BackendTarget) -> RouteBackend<TcpFilter> {
    let (meta, queue) = (Meta::default("test"), Queue::default());
    RouteBackend { filters: Vec::new(), backend: Arc::new(Backend { meta, target, queue }) }
}

fn tls_route(names: &[&str], backends: Distribution<TcpFilter>) -> TlsRoute {
    let snis = names.iter().map(|name| HostMatch::parse(name)).collect();
    TlsRoute { meta: Meta::default(names.join(",")), snis, filters: Vec::new(), backends }
}

fn only(address: SocketAddr) -> Distribution<TcpFilter> {
    Distribution::FirstAvailable(vec![to(address)])
}

async fn client(protocol: OutboundProtocol) -> (Control, Sidecar) {
    let control = Control::start();
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
    });
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    (control, client)
}

/// Sends `bytes` and tells who answered; nobody, if the proxy closed the connection.
async fn answer(client: &Sidecar, bytes: &[u8]) -> String {
    let mut socket = within(TcpStream::connect(client.outbound)).await.unwrap();
    within(socket.write_all(bytes)).await.unwrap();
    let mut got = Vec::new();
    // A refusal may be an end or a reset.
    let _ = within(socket.read_to_end(&mut got)).await;
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn tls_goes_by_the_server_name_and_the_most_specific_wins() {
    let count = hello("a.test").len();
    let exact = application("exact", count);
    let suffix = application("suffix", count);
    let longer = application("longer", count);
    let routes = vec![
        tls_route(&["*.test"], only(suffix)),
        tls_route(&["a.test", "b.test"], only(exact)),
        tls_route(&["*.x.test"], only(longer)),
    ];
    let (_control, client) = client(OutboundProtocol::Tls(routes)).await;
    for (name, expect) in [
        ("a.test", "exact"),
        ("A.TEST", "exact"),
        ("b.test", "exact"),
        ("c.test", "suffix"),
        // One label or more stands for the asterisk.
        ("a.x.test", "longer"),
        ("a.y.test", "suffix"),
        ("o.org!", ""),
        ("x.test", "suffix"),
    ] {
        let mut bytes = hello(name);
        bytes.resize(bytes.len().max(count), 0);
        assert_eq!(answer(&client, &bytes).await, expect, "{name}");
    }
    // What is no TLS has no server name.
    assert_eq!(answer(&client, b"GET / HTTP/1.1\r\n\r\n").await, "");
    client.metric("outbound_tls_route_open_total", &["route_name=\"a.test,b.test\""], "3").await;
    client.end().await;
}

#[tokio::test]
async fn an_egress_network_refuses_what_no_route_is_for() {
    let (good, bad) = (hello("good.test"), hello("evil.test"));
    let outside = application("outside", good.len());
    let mut refused = tls_route(&[], only(outside));
    refused.filters.push(TcpFilter::Forbidden);
    let routes = vec![tls_route(&["good.test"], only(outside)), refused];
    let (control, client) = client(OutboundProtocol::Tls(routes.clone())).await;
    assert_eq!(answer(&client, &good).await, "outside");
    assert_eq!(answer(&client, &bad).await, "");

    // The network changes its mind.
    let mut allowed = routes;
    allowed[1].filters.clear();
    control.know(|knowledge| {
        let policy = policy(OutboundProtocol::Tls(allowed));
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy);
    });
    within(async {
        while answer(&client, &bad).await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.end().await;
}

/// Who answered how often, of a hundred connections.
async fn shares(client: &Sidecar, bytes: &[u8]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..100 {
        *shares.entry(answer(client, bytes).await).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn connections_are_split_by_weight_and_missing_backends_fail_their_share() {
    let bytes = hello("a.test");
    let often = application("often", bytes.len());
    let seldom = application("seldom", bytes.len());
    let never = application("never", bytes.len());
    let missing = BackendTarget::Invalid("Service not found gone".into());
    let backends = || {
        Distribution::Random(vec![
            (to(often), 6),
            (to(never), 0),
            (to(seldom), 2),
            (by(missing.clone()), 2),
        ])
    };
    let opaque =
        OpaqueRoute { meta: Meta::default("tcp"), filters: Vec::new(), backends: backends() };
    for protocol in [
        OutboundProtocol::Tls(vec![tls_route(&["a.test"], backends())]),
        OutboundProtocol::Opaque(vec![opaque]),
    ] {
        let (_control, client) = client(protocol).await;
        let shares = shares(&client, &bytes).await;
        // More than five standard deviations to each side.
        let is = |name: &str, range: std::ops::RangeInclusive<usize>| {
            let seen = shares.get(name).copied().unwrap_or_default();
            assert!(range.contains(&seen), "{name}: {shares:?}");
        };
        is("often", 34..=86);
        is("seldom", 1..=42);
        is("", 1..=42);
        is("never", 0..=0);
        client.end().await;
    }
}

#[tokio::test]
async fn without_a_backend_of_weight_nothing_is_reached() {
    let bytes = hello("a.test");
    let never = application("never", bytes.len());
    let nothing = || Distribution::Random(vec![(to(never), 0)]);
    let forbidden = OpaqueRoute {
        meta: Meta::default("denied"),
        filters: vec![TcpFilter::Forbidden],
        backends: only(never),
    };
    let weightless =
        OpaqueRoute { meta: Meta::default("tcp"), filters: Vec::new(), backends: nothing() };
    for protocol in [
        OutboundProtocol::Tls(vec![tls_route(&["a.test"], nothing())]),
        OutboundProtocol::Tls(vec![tls_route(&["a.test"], Distribution::Empty)]),
        OutboundProtocol::Opaque(vec![weightless]),
        OutboundProtocol::Opaque(vec![forbidden]),
    ] {
        let (_control, client) = client(protocol).await;
        assert_eq!(answer(&client, &bytes).await, "");
        client.end().await;
    }
}
