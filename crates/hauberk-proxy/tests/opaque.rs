//! Opaque bytes end to end: application, proxy, mesh TLS, proxy, application.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    InboundPolicy, Meta, Network, Port,
    inbound::{Authentication, Authorization, InboundProtocol},
    outbound::OutboundProtocol,
    workload_id::IdentityMatch,
};
use hauberk_process::shutdown::Cause;
use hauberk_proxy::run::Capture;
use std::{
    net::SocketAddr,
    os::{linux::net::SocketAddrExt, unix::net as unix},
    sync::Arc,
    time::Duration,
};
use support::{
    Control, SERVICE, Sidecar, authority, captured_for, captured_in_for, detect, endpoints,
    identity, meshed, opaque_route, policy, sidecar_with, succeed, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixDatagram},
};

/// How the client's proxy reaches the server.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// At the proxy's own port, with a transport header.
    Direct,
    /// At the application's port.
    ApplicationPort,
}

/// A client's proxy, a server's proxy, and the server's application.
struct Mesh {
    control: Control,
    client: Sidecar,
    server: Sidecar,
    application: TcpListener,
}

async fn mesh(way: Way, protocol: OutboundProtocol) -> Mesh {
    mesh_with(way, protocol, &[]).await
}

async fn mesh_with(way: Way, protocol: OutboundProtocol, changes: &[(&str, &str)]) -> Mesh {
    mesh_of(way, protocol, changes, &[]).await
}

async fn mesh_of(
    way: Way,
    protocol: OutboundProtocol,
    of_client: &[(&str, &str)],
    of_server: &[(&str, &str)],
) -> Mesh {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = application.local_addr().unwrap();
    let capture = match way {
        Way::Direct => Capture::KERNEL,
        Way::ApplicationPort => captured_in_for(address),
    };
    let server = sidecar_with(&control, "server", capture, of_server).await;
    let endpoint = match way {
        Way::Direct => meshed(address, Some(server.inbound)),
        Way::ApplicationPort => meshed(server.inbound, None),
    };
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let client = sidecar_with(&control, "client", captured_for(SERVICE), of_client).await;
    Mesh { control, client, server, application }
}

impl Mesh {
    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.client.outbound)).await.unwrap()
    }

    async fn accept(&self) -> TcpStream {
        within(self.application.accept()).await.unwrap().0
    }

    fn application(&self) -> SocketAddr {
        self.application.local_addr().unwrap()
    }

    async fn end(self) {
        self.client.end().await;
        self.server.end().await;
    }
}

async fn read_exactly(socket: &mut TcpStream, expect: &[u8]) {
    let mut got = vec![0; expect.len()];
    within(socket.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, expect);
}

async fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    within(socket.read_to_end(&mut got)).await.unwrap();
    got
}

#[tokio::test]
async fn bytes_go_both_ways_by_either_way_and_are_counted_as_secured() {
    for way in [Way::Direct, Way::ApplicationPort] {
        let mesh = mesh(way, OutboundProtocol::Opaque(vec![opaque_route()])).await;
        let mut client = mesh.connect().await;
        client.write_all(b"\x01question").await.unwrap();
        let mut server = mesh.accept().await;
        read_exactly(&mut server, b"\x01question").await;
        server.write_all(b"answer").await.unwrap();
        read_exactly(&mut client, b"answer").await;

        let client_id = format!("client_id=\"{}\"", identity("client"));
        let server_id = format!("server_id=\"{}\"", identity("server"));
        let seen = ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\"", &client_id];
        mesh.server.metric("tcp_open_connections", &seen, "1").await;
        let dialled = ["direction=\"outbound\"", "peer=\"dst\"", "tls=\"true\"", &server_id];
        mesh.client.metric("tcp_open_total", &dialled, "1").await;
        if matches!(way, Way::Direct) {
            let port = format!("target_port=\"{}\"", mesh.application().port());
            let name = "inbound_tcp_transport_header_connections_total";
            mesh.server.metric(name, &[&port, &client_id], "1").await;
        }
        drop((client, server));
        mesh.server.metric("tcp_open_connections", &seen, "0").await;
        mesh.end().await;
    }
}

#[tokio::test]
async fn connections_work_whichever_worker_accepts_and_whichever_serves_them() {
    let workers = [("CORES", "3")];
    let protocol = OutboundProtocol::Opaque(vec![opaque_route()]);
    let mesh = mesh_of(Way::Direct, protocol, &workers, &workers).await;
    // Over so many the kernel's hash is all but never even, so some are handed over.
    let mut open = Vec::new();
    for number in 0..24_u8 {
        let mut client = mesh.connect().await;
        client.write_all(&[b'q', number]).await.unwrap();
        let mut server = mesh.accept().await;
        read_exactly(&mut server, &[b'q', number]).await;
        open.push((client, server, number));
    }
    for (client, server, number) in &mut open {
        server.write_all(&[b'a', *number]).await.unwrap();
        read_exactly(client, &[b'a', *number]).await;
    }
    let client_id = format!("client_id=\"{}\"", identity("client"));
    let seen = ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\"", &client_id];
    mesh.server.metric("tcp_open_connections", &seen, "24").await;
    drop(open);
    mesh.server.metric("tcp_open_connections", &seen, "0").await;
    mesh.end().await;
}

#[tokio::test]
async fn later_connections_resume_tls_unless_a_side_does_not_want_to() {
    let no_tickets = [("INBOUND_TLS_RESUMPTION", "false")];
    let no_use = [("OUTBOUND_TLS_RESUMPTION", "false")];
    let cases: [(&[_], &[_], [&str; 2]); 3] =
        [(&[], &[], ["1", "2"]), (&no_use, &[], ["3", "0"]), (&[], &no_tickets, ["3", "0"])];
    for (of_client, of_server, [full, resumed]) in cases {
        let protocol = OutboundProtocol::Opaque(vec![opaque_route()]);
        let mesh = mesh_of(Way::Direct, protocol, of_client, of_server).await;
        for _ in 0..3 {
            let mut client = mesh.connect().await;
            client.write_all(b"question").await.unwrap();
            let mut server = mesh.accept().await;
            read_exactly(&mut server, b"question").await;
            // The ticket comes before the answer does.
            server.write_all(b"answer").await.unwrap();
            read_exactly(&mut client, b"answer").await;
        }
        let handshakes = "hauberk_tls_handshakes_total";
        for (side, direction) in [(&mesh.client, "outbound"), (&mesh.server, "inbound")] {
            let direction = format!("direction=\"{direction}\"");
            side.metric(handshakes, &[&direction, "kind=\"full\""], full).await;
            if resumed == "0" {
                let text = side.admin_get("/metrics").await;
                assert!(!text.contains("kind=\"resumed\""), "{text}");
            } else {
                side.metric(handshakes, &[&direction, "kind=\"resumed\""], resumed).await;
            }
        }
        // A resumed client is known as well as another.
        let client_id = format!("client_id=\"{}\"", identity("client"));
        let seen = ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\"", &client_id];
        mesh.server.metric("tcp_open_total", &seen, "3").await;
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    for way in [Way::Direct, Way::ApplicationPort] {
        let mesh = mesh(way, detect()).await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut client = mesh.connect().await;
        let (mut from_proxy, mut to_proxy) = client.split();
        let send = async {
            to_proxy.write_all(&sent).await.unwrap();
            to_proxy.shutdown().await.unwrap();
        };
        let serve = async {
            let mut server = mesh.accept().await;
            let got = read_to_end(&mut server).await;
            server.write_all(b"all of it has come").await.unwrap();
            got
        };
        let ((), got) = within(async { tokio::join!(send, serve) }).await;
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        let mut answer = String::new();
        within(from_proxy.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "all of it has come");
        drop(client);
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_without_a_wait() {
    for way in [Way::Direct, Way::ApplicationPort] {
        let mesh = mesh(way, detect()).await;
        let begin = tokio::time::Instant::now();
        let mut client = mesh.connect().await;
        let mut server = mesh.accept().await;
        server.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
        read_exactly(&mut client, b"220 mail.example.com ESMTP\r\n").await;
        // The detection timeout is ten seconds.
        assert!(begin.elapsed() < Duration::from_secs(5), "{way:?} took {:?}", begin.elapsed());
        client.write_all(b"EHLO client\r\n").await.unwrap();
        read_exactly(&mut server, b"EHLO client\r\n").await;
        drop((client, server));
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_client_without_a_proxy_hears_a_server_that_speaks_first() {
    let mesh = mesh(Way::ApplicationPort, detect()).await;
    let mut client = within(TcpStream::connect(mesh.server.inbound)).await.unwrap();
    let mut server = mesh.accept().await;
    server.write_all(b"\x4a\0\0\0\x0a8.0.36\0").await.unwrap();
    read_exactly(&mut client, b"\x4a\0\0\0\x0a8.0.36\0").await;
    let seen = ["peer=\"src\"", "no_tls_reason=\"no_tls_from_remote\""];
    mesh.server.metric("tcp_open_connections", &seen, "1").await;
    drop((client, server));
    mesh.end().await;
}

#[tokio::test]
async fn what_is_known_keeps_serving_while_the_control_plane_is_away() {
    // Idle knowledge would soon be forgotten, if it could be asked for again. Long enough for a slow machine to get
    // from the first exchange to the stop.
    let impatient = &[("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "1s")];
    let mut mesh =
        mesh_with(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()]), impatient).await;
    let mut client = mesh.connect().await;
    client.write_all(b"\x01").await.unwrap();
    let mut server = mesh.accept().await;
    read_exactly(&mut server, b"\x01").await;

    mesh.control.stop();
    mesh.client.metric("hauberk_control_stream_ends_total", &["outbound-policy"], "1").await;

    client.write_all(b"\x02").await.unwrap();
    read_exactly(&mut server, b"\x02").await;
    drop((client, server));
    // Longer than any idle timeout in play; nothing is waited for, so there is nothing to poll.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut another = mesh.connect().await;
    another.write_all(b"\x03").await.unwrap();
    let mut accepted = mesh.accept().await;
    read_exactly(&mut accepted, b"\x03").await;
    drop((another, accepted));
    mesh.end().await;
}

#[tokio::test]
async fn what_is_known_is_kept_as_long_as_a_connection_uses_it_and_then_forgotten() {
    let impatient = &[("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "100ms")];
    let mesh =
        mesh_with(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()]), impatient).await;
    let (mut client, mut server) = exchange(&mesh).await;
    let streams = "hauberk_control_streams";
    // Endpoints are asked for again by the next connection.
    let services = ["service=\"outbound-policy\"", "service=\"profile\""];
    for service in services {
        mesh.client.metric(streams, &[service], "1").await;
    }
    // Several times the idle timeout; nothing is waited for, so there is nothing to poll.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let page = mesh.client.admin_get("/metrics").await;
    for service in services {
        let kept = page.lines().any(|line| {
            line.starts_with(streams) && line.contains(service) && line.ends_with(" 1")
        });
        assert!(kept, "{service} in\n{page}");
    }
    client.write_all(b"\x03").await.unwrap();
    read_exactly(&mut server, b"\x03").await;
    drop((client, server));
    for service in services.into_iter().chain(["service=\"endpoints\""]) {
        mesh.client.metric(streams, &[service], "0").await;
    }
    mesh.end().await;
}

fn only(account: &str) -> InboundPolicy {
    let authorization = Authorization {
        meta: Meta::resource("policy.linkerd.io", "AuthorizationPolicy", "test", "only"),
        networks: Network::all(),
        authentication: Authentication::TlsAuthenticated(vec![IdentityMatch::Exact(identity(
            account,
        ))]),
    };
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "Server", "test", "server"),
        protocol: InboundProtocol::Opaque,
        authorizations: Arc::new([authorization]),
    }
}

#[tokio::test]
async fn an_open_connection_ends_when_its_authorization_does() {
    let mesh = mesh(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()])).await;
    let port = Port::new(mesh.application().port()).unwrap();
    mesh.control.know(|knowledge| {
        knowledge.inbound.insert(port, only("client"));
    });
    let mut client = mesh.connect().await;
    client.write_all(b"\x01").await.unwrap();
    let mut server = mesh.accept().await;
    read_exactly(&mut server, b"\x01").await;

    mesh.control.know(|knowledge| {
        knowledge.inbound.insert(port, only("somebody-else"));
    });
    let mut rest = Vec::new();
    let ended = within(client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty() && (ended.is_ok() || ended.is_err()));
    mesh.server.metric("inbound_tcp_authz_terminate_total", &["srv_name=\"server\""], "1").await;

    let mut refused = mesh.connect().await;
    refused.write_all(b"\x02").await.unwrap();
    let _ = within(refused.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    mesh.server.metric("inbound_tcp_authz_deny_total", &["srv_name=\"server\""], "1").await;
    mesh.end().await;
}

#[tokio::test]
async fn a_server_with_another_identity_is_not_spoken_to() {
    let mesh = mesh(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()])).await;
    mesh.control.know(|knowledge| {
        let mut endpoint = meshed(mesh.application(), Some(mesh.server.inbound));
        let tls = endpoint.tls.as_mut().unwrap();
        tls.identity = identity("impostor");
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let mut client = mesh.connect().await;
    client.write_all(b"\x01secret").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    mesh.client.metric("outbound_tcp_errors_total", &["error="], "1").await;
    let accepted = tokio::time::timeout(Duration::ZERO, mesh.application.accept()).await;
    assert!(accepted.is_err(), "the application saw a connection");
    mesh.end().await;
}

#[tokio::test]
async fn draining_waits_for_open_connections_and_accepts_no_more() {
    let mut mesh = mesh(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()])).await;
    let mut client = mesh.connect().await;
    client.write_all(b"\x01").await.unwrap();
    let mut server = mesh.accept().await;
    read_exactly(&mut server, b"\x01").await;

    mesh.client.shutdown.drain(Cause::Requested);
    let finish = mesh.client.proxy.take().unwrap().finish();
    tokio::pin!(finish);
    tokio::select! {
        exit = &mut finish => panic!("ended with an open connection: {exit:?}"),
        () = async {
            client.write_all(b"still here").await.unwrap();
            read_exactly(&mut server, b"still here").await;
        } => {}
    }
    drop(client);
    assert!(read_to_end(&mut server).await.is_empty());
    drop(server);
    let exit = within(finish).await;
    assert_eq!(exit.code(), 0);
    mesh.server.end().await;
}

/// A connection of its own that a byte went through, and its other end.
async fn exchange(mesh: &Mesh) -> (TcpStream, TcpStream) {
    let mut client = mesh.connect().await;
    client.write_all(b"\x01").await.unwrap();
    let mut server = mesh.accept().await;
    read_exactly(&mut server, b"\x01").await;
    server.write_all(b"\x02").await.unwrap();
    read_exactly(&mut client, b"\x02").await;
    (client, server)
}

#[tokio::test]
async fn a_successor_begins_when_it_can_serve_and_the_replaced_proxy_keeps_what_it_has() {
    let mut mesh = mesh(Way::Direct, OutboundProtocol::Opaque(vec![opaque_route()])).await;
    let (mut client, mut server) = exchange(&mesh).await;
    let name = format!("hauberk-successor-{}", std::process::id());
    let address = unix::SocketAddr::from_abstract_name(&name).unwrap();
    let told = unix::UnixDatagram::bind_addr(&address).unwrap();
    told.set_nonblocking(true).unwrap();
    let told = UnixDatagram::from_std(told).unwrap();

    // Nobody answers it there for now, so the successor gets no certificate.
    let identity_service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = identity_service.local_addr().unwrap();
    let old = (&mesh.client, captured_for(SERVICE));
    let successor = succeed(&mesh.control, "client", old, at, format!("@{name}")).await;
    for _ in 0..16 {
        exchange(&mesh).await;
        assert!(mesh.client.admin_get("/ready").await.starts_with("HTTP/1.1 200"));
    }
    assert!(told.try_recv(&mut [0; 8]).is_err(), "it does not serve yet");
    let control = mesh.control.address;
    let relay = async {
        let (mut here, _) = identity_service.accept().await.unwrap();
        let mut there = TcpStream::connect(control).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        // Who has a certificate may hang up before it says so.
        std::future::pending::<()>().await;
    };
    let mut said = [0; 8];
    tokio::select! {
        () = relay => {}
        length = within(told.recv(&mut said)) => assert_eq!(&said[..length.unwrap()], b"READY=1"),
    }

    mesh.client.shutdown.drain(Cause::Replaced);
    let finish = mesh.client.proxy.take().unwrap().finish();
    tokio::pin!(finish);
    tokio::select! {
        exit = &mut finish => panic!("ended with an open connection: {exit:?}"),
        () = async {
            // After two rounds its worker has seen the end as well, and nothing comes to it any more.
            for bytes in [b"still", b" here"] {
                client.write_all(bytes).await.unwrap();
                read_exactly(&mut server, bytes).await;
            }
            for _ in 0..16 {
                exchange(&mesh).await;
            }
        } => {}
    }
    drop((client, server));
    assert_eq!(within(finish).await.code(), 0);
    exchange(&mesh).await;
    assert!(successor.admin_get("/ready").await.starts_with("HTTP/1.1 200"));
    successor.end().await;
    mesh.server.end().await;
}
