//! Gateway mode: a client's proxy, a gateway's proxy, a server's proxy, and the server's application.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    Endpoint, InboundPolicy, Meta, Network, Port, Profile,
    endpoints::{EndpointTls, ProtocolHint},
    inbound::{Authentication, Authorization, HttpRoute, HttpServer, InboundProtocol},
    outbound::OutboundProtocol,
    workload_id::IdentityMatch,
};
use hauberk_proxy::run::Capture;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use support::{
    Control, SERVICE, Sidecar, authority, captured_for, endpoints, http as web, identity, meshed,
    opaque_route, policy, sidecar, sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const WANTED: &str = "web.test.svc.cluster.local";

struct Mesh {
    control: Control,
    client: Sidecar,
    gateway: Sidecar,
    server: Sidecar,
}

/// What the client's proxy is told of the gateway, for `wanted`.
fn mirrored(gateway: &Sidecar, wanted: &str, hint: ProtocolHint) -> Endpoint {
    let identity = identity("gateway");
    let server_name = identity.as_str().into();
    Endpoint {
        tls: Some(EndpointTls { identity, server_name }),
        authority_override: Some(wanted.into()),
        hint,
        ..Endpoint::bare(gateway.inbound)
    }
}

impl Mesh {
    /// The application at `application` is the service `web` on port 7001 of the gateway's cluster.
    async fn new(application: SocketAddr, hint: ProtocolHint) -> Self {
        let control = Control::start();
        let server = sidecar(&control, "server", Capture::KERNEL).await;
        let suffixes = [("INBOUND_GATEWAY_SUFFIXES", "svc.cluster.local.")];
        let gateway = sidecar_with(&control, "gateway", Capture::KERNEL, &suffixes).await;
        let wanted = web::name("web", 7001);
        let endpoint =
            Endpoint { hint: ProtocolHint::Http2, ..meshed(application, Some(server.inbound)) };
        control.know(|knowledge| {
            knowledge.outbound.insert(SERVICE.parse().unwrap(), web::to(authority()));
            let endpoint_of_client = mirrored(&gateway, &wanted.to_string(), hint);
            knowledge.endpoints.insert(authority(), endpoints([endpoint_of_client]));
            knowledge.endpoints.insert(wanted.clone(), endpoints([endpoint]));
            let profile = Profile { name: Some(WANTED.into()), ..Profile::default() };
            knowledge.profiles_by_name.insert(wanted.clone(), profile);
            // Routes of a policy are not for gateways.
            let nowhere = policy(OutboundProtocol::Detect {
                timeout: Duration::from_secs(10),
                http1: Default::default(),
                http2: Default::default(),
                opaque: web_opaque(),
            });
            knowledge.outbound_by_name.insert(wanted, nowhere);
        });
        let client = sidecar(&control, "client", captured_for(SERVICE)).await;
        Self { control, client, gateway, server }
    }

    /// The client's proxy is told that the gateway is for something else.
    fn want(&self, wanted: &str) {
        let endpoint = mirrored(&self.gateway, wanted, ProtocolHint::Http2);
        web::serve(&self.control, &authority(), vec![endpoint]);
    }

    async fn end(self) {
        self.client.end().await;
        self.gateway.end().await;
        self.server.end().await;
    }
}

fn web_opaque() -> Vec<hauberk_model::outbound::OpaqueRoute> {
    let OutboundProtocol::Detect { opaque, .. } = web::to(web::name("web", 7001)).protocol else {
        unreachable!("it is to be detected")
    };
    opaque
}

fn forwarded() -> String {
    let (by, client) = (identity("gateway"), identity("client"));
    format!("forwarded: by={by};for={client};host={WANTED}:7001;proto=https")
}

#[tokio::test]
async fn http1_requests_reach_a_service_of_another_cluster_by_either_transport() {
    for (hint, session) in [(ProtocolHint::Http2, "http/2"), (ProtocolHint::Unknown, "http/1")] {
        let mesh = Mesh::new(web::echo("web").await, hint).await;
        let answer = web::get(mesh.client.outbound, &["x-mine: yes"]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("web GET /path HTTP/1.1\n"), "{answer}");
        assert!(answer.contains(&format!("host: {WANTED}:7001\n")), "{answer}");
        assert!(answer.contains(&forwarded()), "{answer}");
        assert!(answer.contains("x-mine: yes"), "{answer}");
        // The server's proxy speaks with the gateway, and nobody else.
        assert!(answer.contains(&format!("l5d-client-id: {}", identity("gateway"))), "{answer}");
        assert!(!answer.contains("l5d-orig-proto"), "{answer}");

        let name = format!("target_name=\"{WANTED}\"");
        let client_id = format!("client_id=\"{}\"", identity("client"));
        let session = format!("session_protocol=\"{session}\"");
        let labels = [&*name, &client_id, &session, "target_port=\"7001\""];
        let family = "inbound_tcp_transport_header_connections_total";
        mesh.gateway.metric(family, &labels, "1").await;
        // The gateway's own port is authorized, not the one that the header names.
        let own = format!("target_port=\"{}\"", mesh.gateway.inbound.port());
        mesh.gateway.metric("inbound_http_authz_allow_total", &[&own, &client_id], "1").await;
        let onward =
            ["direction=\"outbound\"", "tls=\"true\"", &format!("authority=\"{WANTED}:7001\"")];
        mesh.gateway.metric("request_total", &onward, "1").await;
        mesh.end().await;
    }
}

#[tokio::test]
async fn http2_requests_keep_their_version_and_authority() {
    let mesh = Mesh::new(web::echo("web").await, ProtocolHint::Http2).await;
    let (status, body) = web::get2(mesh.client.outbound, &[("te", "trailers")]).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with(&format!("web GET http://{WANTED}:7001/path HTTP/2.0\n")), "{body}");
    assert!(body.contains(&forwarded()) && body.contains("te: trailers"), "{body}");
    mesh.end().await;
}

#[tokio::test]
async fn an_upgraded_connection_goes_all_the_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::new(listener.local_addr().unwrap(), ProtocolHint::Http2).await;
    let application = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        socket.write_all(answer).await.unwrap();
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.unwrap();
        socket.write_all(&word).await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let client = async {
        let mut socket = TcpStream::connect(mesh.client.outbound).await.unwrap();
        let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        socket.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.unwrap();
        word
    };
    let (head, word) = within(async { tokio::join!(application, client) }).await;
    assert!(head.contains("upgrade: echo") && head.contains(&forwarded()), "{head}");
    assert_eq!(&word, b"ping");
    mesh.end().await;
}

#[tokio::test]
async fn opaque_bytes_pass_the_gateway_as_they_are() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::new(application.local_addr().unwrap(), ProtocolHint::Opaque).await;
    mesh.control.know(|knowledge| {
        let opaque = policy(OutboundProtocol::Opaque(vec![opaque_route()]));
        knowledge.outbound.insert(SERVICE.parse().unwrap(), opaque);
    });
    let mut client = within(TcpStream::connect(mesh.client.outbound)).await.unwrap();
    client.write_all(b"\x01question").await.unwrap();
    let mut server = within(application.accept()).await.unwrap().0;
    let mut got = [0; 9];
    within(server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"\x01question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"answer");
    drop((client, server));
    let own = format!("target_port=\"{}\"", mesh.gateway.inbound.port());
    mesh.gateway.metric("inbound_tcp_authz_allow_total", &[&own], "1").await;
    mesh.gateway.metric("outbound_tcp_route_close_total", &[&own, "error=\"\""], "1").await;
    mesh.end().await;
}

#[tokio::test]
async fn names_that_it_is_no_gateway_to_are_not_found() {
    let mesh = Mesh::new(web::echo("web").await, ProtocolHint::Http2).await;
    let label = "error=\"gateway domain invalid\"";
    for wanted in ["unknown.test.svc.cluster.local", "web.example.com"] {
        mesh.want(&format!("{wanted}:7001"));
        let named = format!("target_name=\"{wanted}\"");
        let asked = async {
            loop {
                let answer = web::get(mesh.client.outbound, &[]).await;
                if mesh.gateway.admin_get("/metrics").await.contains(&named) {
                    return answer;
                }
            }
        };
        // The request that made the connection for that name.
        let answer = within(asked).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(!answer.contains("l5d-proxy-error"), "{answer}");
    }
    let counted = |page: &str| {
        page.lines()
            .any(|line| line.starts_with("inbound_http_errors_total{") && line.contains(label))
    };
    mesh.gateway.admin_until("/metrics", counted).await;

    // Opaque connections can only be closed.
    mesh.control.know(|knowledge| {
        let opaque = policy(OutboundProtocol::Opaque(vec![opaque_route()]));
        knowledge.outbound.insert(SERVICE.parse().unwrap(), opaque);
    });
    let closed = async {
        loop {
            let mut client = TcpStream::connect(mesh.client.outbound).await.unwrap();
            client.write_all(b"\x01question").await.unwrap();
            let mut rest = Vec::new();
            // A reset is an end as well.
            let _ = client.read_to_end(&mut rest).await;
            if rest.is_empty() {
                return;
            }
        }
    };
    within(closed).await;
    mesh.gateway.metric("inbound_tcp_errors_total", &[label], "1").await;
    mesh.end().await;
}

#[tokio::test]
async fn a_gateway_that_would_ask_itself_says_that_it_is_a_loop() {
    let mesh = Mesh::new(web::echo("web").await, ProtocolHint::Http2).await;
    let passed_on = format!("forwarded: for=x;by={}", identity("gateway"));
    let answer = web::get(mesh.client.outbound, &[&passed_on]).await;
    assert!(answer.starts_with("HTTP/1.1 508"), "{answer}");
    let another = "forwarded: for=x;by=another.gateway";
    let answer = web::get(mesh.client.outbound, &[another]).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(another), "{answer}");

    let wanted = web::name("web", 7001);
    let itself = mirrored(&mesh.gateway, &wanted.to_string(), ProtocolHint::Http2);
    web::serve(&mesh.control, &wanted, vec![itself]);
    web::get_until(mesh.client.outbound, &[], "HTTP/1.1 508").await;
    mesh.gateway.metric("inbound_http_errors_total", &["error=\"gateway loop\""], "2").await;
    mesh.end().await;
}

/// A policy that lets only that account in.
fn only(account: &str) -> InboundPolicy {
    let authorization = Authorization {
        meta: Meta::resource("policy.linkerd.io", "AuthorizationPolicy", "test", "only"),
        networks: Network::all(),
        authentication: Authentication::TlsAuthenticated(vec![IdentityMatch::Exact(identity(
            account,
        ))]),
    };
    let route = HttpRoute::catch_all(Meta::default("default"), Arc::new([]));
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "Server", "test", "gateway"),
        protocol: InboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpServer { routes: Arc::new([route]), rate_limit: None },
        },
        authorizations: Arc::new([authorization]),
    }
}

#[tokio::test]
async fn the_policy_of_the_gateways_own_port_decides_who_passes() {
    let mesh = Mesh::new(web::echo("web").await, ProtocolHint::Http2).await;
    let port = Port::new(mesh.gateway.inbound.port()).unwrap();
    let say = |account: &str| {
        mesh.control.know(|knowledge| {
            knowledge.inbound.insert(port, only(account));
        });
    };
    say("somebody-else");
    web::get_until(mesh.client.outbound, &[], "HTTP/1.1 403").await;
    say("client");
    web::get_until(mesh.client.outbound, &[], "HTTP/1.1 200").await;
    let labels = ["srv_name=\"gateway\"", "authz_name=\"only\""];
    mesh.gateway.metric("inbound_http_authz_allow_total", &labels, "1").await;
    mesh.end().await;
}

#[tokio::test]
async fn a_proxy_without_suffixes_is_no_gateway() {
    let application = web::echo("web").await;
    let mesh = Mesh::new(application, ProtocolHint::Http2).await;
    // The server's proxy has none; it is asked as if it were the gateway.
    let mut endpoint = mirrored(&mesh.server, &format!("{WANTED}:7001"), ProtocolHint::Http2);
    let identity = identity("server");
    let server_name = identity.as_str().into();
    endpoint.tls = Some(EndpointTls { identity, server_name });
    web::serve(&mesh.control, &authority(), vec![endpoint]);
    web::get_until(mesh.client.outbound, &[], "HTTP/1.1 404").await;
    mesh.end().await;
}

#[tokio::test]
async fn what_is_under_way_ends_when_the_gateways_policy_no_longer_allows_it() {
    let streams = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    let switches = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\nfirst";
    let upgrade = "connection: upgrade\r\nupgrade: raw\r\n";
    for (hint, asks, head, answer) in [
        (ProtocolHint::Http2, "", streams, "HTTP/1.1 200"),
        (ProtocolHint::Unknown, "", streams, "HTTP/1.1 200"),
        (ProtocolHint::Http2, upgrade, switches, "HTTP/1.1 101"),
    ] {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mesh = Mesh::new(application.local_addr().unwrap(), hint).await;
        let port = Port::new(mesh.gateway.inbound.port()).unwrap();
        let say = |account: &str| {
            let policy = only(account);
            mesh.control.know(|knowledge| {
                knowledge.inbound.insert(port, policy);
            });
        };
        say("client");
        let mut client = within(TcpStream::connect(mesh.client.outbound)).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{asks}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut server = within(application.accept()).await.unwrap().0;
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(within(server.read_u8()).await.unwrap());
        }
        server.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(5).any(|part| part == b"first") {
            seen.push(within(client.read_u8()).await.unwrap());
        }
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.starts_with(answer), "{seen}");

        say("somebody-else");
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = within(client.read_to_end(&mut rest)).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it is no whole answer: {rest:?}");
        let _ = within(server.read_to_end(&mut Vec::new())).await;
        let own = format!("target_port=\"{}\"", mesh.gateway.inbound.port());
        mesh.gateway.metric("inbound_tcp_authz_terminate_total", &[&own], "1").await;
        mesh.end().await;
    }
}
