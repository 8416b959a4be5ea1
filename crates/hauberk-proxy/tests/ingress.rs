//! Ingress mode: a controller's proxy that is told by each request which service it is for.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{Endpoint, Profile, endpoints::ProtocolHint, outbound::OutboundProtocol};
use hauberk_proxy::run::Capture;
use support::{
    Control, SERVICE, Sidecar, authority, captured_for, http as web, identity, meshed,
    opaque_route, policy, sidecar, sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Services `web:80` (a policy) and `old:7002` (a profile only), and something at the original destination.
struct Mesh {
    ingress: Sidecar,
    server: Sidecar,
    control: Control,
}

async fn mesh() -> Mesh {
    let control = Control::start();
    let server = sidecar(&control, "server", Capture::KERNEL).await;
    let (web_name, old) = (web::name("web", 80), web::name("old", 7002));
    let (app, legacy, original) =
        (web::echo("web").await, web::echo("old").await, web::echo("original").await);
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), web::to(authority()));
        knowledge.outbound_by_name.insert(web_name.clone(), web::to(web_name.clone()));
        let profile = Profile { name: Some(old.host().into()), ..Profile::default() };
        knowledge.profiles_by_name.insert(old.clone(), profile);
    });
    let meshed = Endpoint { hint: ProtocolHint::Http2, ..meshed(app, Some(server.inbound)) };
    web::serve(&control, &web_name, vec![meshed]);
    web::serve(&control, &old, vec![Endpoint::bare(legacy)]);
    web::serve(&control, &authority(), vec![Endpoint::bare(original)]);
    let settings = [("INGRESS_MODE", "true")];
    let ingress = sidecar_with(&control, "ingress", captured_for(SERVICE), &settings).await;
    Mesh { ingress, server, control }
}

impl Mesh {
    async fn end(self) {
        self.ingress.end().await;
        self.server.end().await;
        drop(self.control);
    }
}

const WEB: &str = "l5d-dst-override: web.test.svc.cluster.local";
const OLD: &str = "l5d-dst-override: old.test.svc.cluster.local:7002";

#[tokio::test]
async fn each_request_goes_to_the_service_that_it_names() {
    let mesh = mesh().await;
    let at = mesh.ingress.outbound;
    let answer = web::get(at, &[WEB]).await;
    assert!(answer.contains("\nweb GET /path HTTP/1.1\n"), "{answer}");
    // The service is in the mesh, so the way there is secured.
    assert!(answer.contains(&format!("l5d-client-id: {}", identity("ingress"))), "{answer}");
    assert!(!answer.contains("l5d-dst-override") && answer.contains("host: asked\n"), "{answer}");
    let answer = web::get(at, &[OLD]).await;
    assert!(answer.contains("\nold GET /path HTTP/1.1\n"), "{answer}");
    assert!(!answer.contains("l5d-dst-override"), "{answer}");
    let answer = web::get(at, &[]).await;
    assert!(answer.contains("\noriginal GET /path HTTP/1.1\n"), "{answer}");

    let (status, body) =
        web::get2(at, &[("l5d-dst-override", "web.test.svc.cluster.local:80")]).await;
    assert_eq!(status, 200);
    assert!(body.starts_with("web GET http://asked/path HTTP/2.0\n"), "{body}");
    mesh.end().await;
}

/// One response with its body.
async fn read_answer(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(socket.read_u8()).await.unwrap());
    }
    let mut answer = String::from_utf8(head).unwrap();
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    within(socket.read_exact(&mut body)).await.unwrap();
    answer += std::str::from_utf8(&body).unwrap();
    answer
}

#[tokio::test]
async fn one_connection_carries_requests_for_several_services() {
    let mesh = mesh().await;
    let mut socket = within(TcpStream::connect(mesh.ingress.outbound)).await.unwrap();
    for (line, expect) in
        [(WEB, "web GET"), (OLD, "old GET"), ("a: b", "original GET"), (WEB, "web GET")]
    {
        let request = format!("GET / HTTP/1.1\r\nhost: asked\r\n{line}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut socket).await;
        assert!(answer.contains(expect), "{line}: {answer}");
    }
    drop(socket);
    mesh.end().await;
}

#[tokio::test]
async fn strangers_are_told_nothing_about_services_that_do_not_exist() {
    let mesh = mesh().await;
    let at = mesh.ingress.outbound;
    let answer = web::get(at, &["l5d-dst-override: nobody.test.svc.cluster.local"]).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(!answer.contains("l5d-"), "{answer}");
    mesh.ingress.metric("outbound_http_errors_total", &["error=\"unexpected\""], "1").await;
    for malformed in
        ["l5d-dst-override: 10.0.0.1:80", "l5d-dst-override: http://web/", "l5d-dst-override:"]
    {
        let answer = web::get(at, &[malformed]).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{malformed}: {answer}");
    }
    mesh.end().await;
}

#[tokio::test]
async fn other_bytes_go_to_the_original_destination() {
    let mesh = mesh().await;
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.control.know(|knowledge| {
        let opaque = policy(OutboundProtocol::Opaque(vec![opaque_route()]));
        knowledge.outbound.insert(SERVICE.parse().unwrap(), opaque);
    });
    let endpoint = Endpoint::bare(application.local_addr().unwrap());
    web::serve(&mesh.control, &authority(), vec![endpoint]);
    let mut client = within(TcpStream::connect(mesh.ingress.outbound)).await.unwrap();
    client.write_all(b"\x01question").await.unwrap();
    let mut server = within(application.accept()).await.unwrap().0;
    let mut got = [0; 9];
    within(server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"\x01question");
    drop((client, server));
    // Requests are looked for even where the policy says that nothing is.
    let answer = web::get(mesh.ingress.outbound, &[WEB]).await;
    assert!(answer.contains("\nweb GET /path HTTP/1.1\n"), "{answer}");
    mesh.end().await;
}
