//! To the world outside of the mesh: addresses that nobody describes, the applications' own TLS, egress by server name.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_identity::Alpn;
use hauberk_model::{
    Endpoint, Meta, OutboundPolicy, Profile,
    filter::TcpFilter,
    outbound::{
        Backend, BackendTarget, Distribution, OutboundProtocol, Queue, RouteBackend, TlsRoute,
    },
    route::HostMatch,
};
use std::{net::SocketAddr, sync::Arc};
use support::{
    Control, SERVICE, Sidecar, captured_for, captured_in_for, http as web, sidecar, sidecar_with,
    within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The first flight of a TLS client that asks for `name`.
fn hello(control: &Control, name: &str) -> Vec<u8> {
    let certified = control.ca.lock().unwrap().account("tls-client", "test");
    let config = Arc::clone(certified.client(Alpn::None));
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends `bytes` and gives what the application saw of them; it answers `answer`, which must arrive.
async fn through(at: SocketAddr, bytes: &[u8], application: &TcpListener) -> Vec<u8> {
    let mut client = within(TcpStream::connect(at)).await.unwrap();
    client.write_all(bytes).await.unwrap();
    let (mut server, _) = within(application.accept()).await.unwrap();
    let mut seen = vec![0; bytes.len()];
    within(server.read_exact(&mut seen)).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    seen
}

/// Sends `bytes` to where they may not go: the connection ends without an answer.
async fn refused(sidecar: &Sidecar, bytes: &[u8]) {
    let mut client = within(TcpStream::connect(sidecar.outbound)).await.unwrap();
    client.write_all(bytes).await.unwrap();
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = within(client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

/// There is no policy for [`SERVICE`], and its profile only says that there is an address, here that of the
/// application: one on loopback cannot be dialled by applications.
fn nobody_describes(control: &Control, application: SocketAddr) {
    let endpoint = Some(Arc::new(Endpoint::bare(application)));
    let profile = Profile { endpoint, ..Profile::default() };
    control.know(|knowledge| {
        knowledge.profiles.insert(SERVICE.parse().unwrap(), profile);
    });
}

#[tokio::test]
async fn requests_to_an_address_that_nobody_describes_go_there_as_they_are() {
    let control = Control::start();
    let application = web::echo("outside").await;
    nobody_describes(&control, application);
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    let answer = web::get(client.outbound, &["x-mine: yes"]).await;
    assert!(answer.contains("\noutside GET /path HTTP/1.1\nhost: asked\n"), "{answer}");
    assert!(answer.contains("x-mine: yes") && !answer.contains("l5d-"), "{answer}");
    let (status, body) = web::get2(client.outbound, &[]).await;
    assert_eq!(status, 200);
    assert!(body.starts_with("outside GET http://asked/path HTTP/2.0"), "{body}");
    let target = format!("target_addr=\"{application}\"");
    let labels = [&*target, "no_tls_reason=\"not_provided_by_service_discovery\""];
    client.metric("request_total", &labels, "2").await;
    client.end().await;
}

#[tokio::test]
async fn an_applications_own_tls_passes_untouched_in_both_directions() {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = application.local_addr().unwrap();
    let hello = hello(&control, "shop.example.org");
    nobody_describes(&control, address);
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    assert_eq!(through(client.outbound, &hello, &application).await, hello);
    client.end().await;

    let server = sidecar(&control, "server", captured_in_for(address)).await;
    assert_eq!(through(server.inbound, &hello, &application).await, hello);
    let labels = ["tls=\"opaque\"", "sni=\"shop.example.org\"", "peer=\"src\""];
    server.metric("tcp_open_total", &labels, "1").await;
    server.end().await;
}

fn egress(routes: Vec<TlsRoute>) -> OutboundPolicy {
    let parent = Meta::resource("policy.linkerd.io", "EgressNetwork", "test", "egress");
    OutboundPolicy { parent, protocol: OutboundProtocol::Tls(routes) }
}

fn tls_route(name: &str, snis: &[&str], filters: Vec<TcpFilter>, to: BackendTarget) -> TlsRoute {
    let backend = Backend { meta: Meta::default("egress"), target: to, queue: Queue::default() };
    let backend = RouteBackend { filters: Vec::new(), backend: Arc::new(backend) };
    TlsRoute {
        meta: Meta::default(name),
        snis: snis.iter().map(|sni| HostMatch::parse(sni)).collect(),
        filters,
        backends: Distribution::FirstAvailable(vec![backend]),
    }
}

#[tokio::test]
async fn egress_is_allowed_and_denied_by_the_server_name() {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = |address| BackendTarget::Forward(Arc::new(Endpoint::bare(address)));
    let outside = application.local_addr().unwrap();
    control.know(|knowledge| {
        let routes = vec![
            tls_route("shops", &["*.example.org"], Vec::new(), forward(outside)),
            tls_route(
                "broken",
                &["broken.example.org"],
                Vec::new(),
                BackendTarget::Invalid("no".into()),
            ),
            tls_route("tls-egress-deny", &[], vec![TcpFilter::Forbidden], forward(outside)),
        ];
        knowledge.outbound.insert(SERVICE.parse().unwrap(), egress(routes));
    });
    let settings = [("OUTBOUND_METRICS_HOSTNAME_LABELS", "true")];
    let client = sidecar_with(&control, "client", captured_for(SERVICE), &settings).await;

    let allowed = hello(&control, "shop.example.org");
    assert_eq!(through(client.outbound, &allowed, &application).await, allowed);
    refused(&client, &hello(&control, "example.com")).await;
    refused(&client, &hello(&control, "broken.example.org")).await;
    refused(&client, b"GET / HTTP/1.1\r\nhost: shop.example.org\r\n\r\n").await;

    let close = "outbound_tls_route_close_total";
    for (route, hostname, error) in [
        ("shops", "shop.example.org", ""),
        ("tls-egress-deny", "example.com", "forbidden"),
        ("broken", "broken.example.org", "invalid_backend"),
    ] {
        let labels = [
            format!("route_name=\"{route}\""),
            format!("hostname=\"{hostname}\""),
            "parent_kind=\"EgressNetwork\"".to_owned(),
            "target_ip=\"10.99.99.99\"".to_owned(),
        ];
        let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        client.metric("outbound_tls_route_open_total", &labels, "1").await;
        let error = format!("error=\"{error}\"");
        labels.push(&error);
        client.metric(close, &labels, "1").await;
    }
    let accepted = tokio::time::timeout(std::time::Duration::ZERO, application.accept()).await;
    assert!(accepted.is_err(), "something else arrived outside");
    client.end().await;
}

#[tokio::test]
async fn a_denied_opaque_connection_is_counted_by_its_route() {
    let control = Control::start();
    control.know(|knowledge| {
        let mut route = support::opaque_route();
        route.filters = vec![TcpFilter::Forbidden];
        let policy = support::policy(OutboundProtocol::Opaque(vec![route]));
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy);
    });
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    refused(&client, b"\x01question").await;
    let labels = ["route_name=\"opaque\"", "target_port=\"7000\""];
    client.metric("outbound_tcp_route_open_total", &labels, "1").await;
    let labels = ["route_name=\"opaque\"", "error=\"forbidden\""];
    client.metric("outbound_tcp_route_close_total", &labels, "1").await;
    client.end().await;
}
