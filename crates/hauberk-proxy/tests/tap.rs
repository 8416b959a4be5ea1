//! Watching requests through the tap port of a whole proxy, as a stranger's client does it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_identity::Alpn;
use hauberk_model::{
    Meta,
    endpoints::Labels,
    outbound::{HttpPolicy, HttpRoute, OutboundProtocol},
    tap::{Tap, TapDirection, TapEnd, TapEvent, TapMatch, TapMoment, TextMatch},
};
use hauberk_wire::{
    api::tap::{self as api, tap_client::TapClient},
    tap as wire,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::{net::SocketAddr, sync::Arc};
use support::{
    Control, SERVICE, Sidecar, authority, backend, captured_for, captured_in_for, endpoints,
    identity, meshed, policy, sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

/// A watcher of the proxy's requests, in plaintext or as an account.
async fn watcher(
    control: &Control,
    address: SocketAddr,
    account: Option<&str>,
) -> TapClient<Channel> {
    let certified = account.map(|account| control.ca.lock().unwrap().account(account, "test"));
    let connect = tower::service_fn(move |_| {
        let certified = certified.clone();
        async move {
            let socket = TcpStream::connect(address).await?;
            let io: Box<dyn Stream> = match certified {
                None => Box::new(socket),
                Some(certified) => {
                    let name = ServerName::try_from(identity("server").to_string()).unwrap();
                    let connector = TlsConnector::from(Arc::clone(certified.client(Alpn::None)));
                    Box::new(connector.connect(name, socket).await?)
                }
            };
            Ok::<_, std::io::Error>(TokioIo::new(io))
        }
    });
    let endpoint = Endpoint::from_static("http://proxy");
    TapClient::new(within(endpoint.connect_with_connector(connect)).await.unwrap())
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

async fn observe(client: &mut TapClient<Channel>, tap: &Tap) -> Streaming<api::TapEvent> {
    within(client.observe(wire::to_wire(tap))).await.unwrap().into_inner()
}

/// The next event; none when the server has ended the stream well.
async fn next(events: &mut Streaming<api::TapEvent>) -> Option<TapEvent> {
    let event = within(events.message()).await.unwrap();
    event.map(|event| wire::event_from_wire(event).unwrap())
}

fn everything(limit: u32) -> Tap {
    Tap { limit, condition: TapMatch::All(Vec::new()), with_headers: true }
}

/// A proxy that lets `watcher` tap.
async fn tapped(control: &Control, account: &str, capture: hauberk_proxy::run::Capture) -> Sidecar {
    let who = identity("watcher").to_string();
    let changes = [("TAP_SVC_NAME", &*who), ("CONTROL_LISTEN_ADDR", "127.0.0.1:0")];
    sidecar_with(control, account, capture, &changes).await
}

fn port(sidecar: &Sidecar) -> SocketAddr {
    sidecar.proxy.as_ref().unwrap().tap.expect("the settings want it")
}

/// An application that answers each connection's first request with `answer`, and closes.
async fn application(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = hauberk_process::Tasks::new(hauberk_process::Shutdown::new());
    tasks.spawn("application", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            // The proxy may have gone.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

const HELLO: &str = "HTTP/1.1 201 Created\r\ncontent-length: 5\r\nx-his: 2\r\n\r\nhello";

async fn request(to: SocketAddr, text: &str) -> String {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

const GET: &str =
    "GET /api/vote?secret HTTP/1.1\r\nhost: web:80\r\nx-mine: 1\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn the_one_who_may_watches_requests_and_nobody_else() {
    let control = Control::start();
    let application = application(HELLO).await;
    let server = tapped(&control, "server", captured_in_for(application)).await;

    let mut stranger = watcher(&control, port(&server), Some("stranger")).await;
    let refused = within(stranger.observe(wire::to_wire(&everything(1)))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("stranger.test."), "{refused}");

    let mut watcher = watcher(&control, port(&server), Some("watcher")).await;
    let path = |prefix: &str| TapMatch::Path(TextMatch::Prefix(prefix.into()));
    let mut others =
        observe(&mut watcher, &Tap { condition: path("/other"), ..everything(1) }).await;
    let mut events = observe(&mut watcher, &Tap { condition: path("/api"), ..everything(1) }).await;
    assert!(request(server.inbound, GET).await.starts_with("HTTP/1.1 201"));

    let first = next(&mut events).await.unwrap();
    assert_eq!(first.exchange.direction, TapDirection::Inbound);
    assert!(first.exchange.source.ip().is_loopback());
    assert_eq!(first.exchange.destination, application);
    assert_eq!(first.exchange.source_labels["tls"], "no_tls_from_remote".into());
    let TapMoment::RequestInit { method, scheme, authority, path, headers } = &first.moment else {
        panic!("{first:?}");
    };
    assert_eq!((method.as_str(), &**scheme), ("GET", "http"));
    assert_eq!((&**authority, &**path), ("web:80", "/api/vote"));
    assert_eq!(headers["x-mine"], "1");
    let second = next(&mut events).await.unwrap();
    assert_eq!(second.stream, first.stream);
    let TapMoment::ResponseInit { status, headers, since_request_init } = &second.moment else {
        panic!("{second:?}");
    };
    assert_eq!(status.as_u16(), 201);
    assert_eq!(headers["x-his"], "2");
    let last = next(&mut events).await.unwrap();
    let TapMoment::ResponseEnd { since_request_init: total, response_bytes: 5, .. } = last.moment
    else {
        panic!("{last:?}");
    };
    assert!(total >= *since_request_init);
    assert_eq!(next(&mut events).await, None, "the limit of one request is reached");

    assert!(request(server.inbound, &GET.replace("/api", "/other")).await.contains("hello"));
    assert!(next(&mut others).await.is_some());
}

#[tokio::test]
async fn loopback_may_watch_and_sees_why_a_grpc_call_failed() {
    let control = Control::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = listener.local_addr().unwrap();
    let tasks = hauberk_process::Tasks::new(hauberk_process::Shutdown::new());
    tasks.spawn("application", async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().header("content-type", "application/grpc");
            let head = head.header("grpc-status", "12").body(()).unwrap();
            respond.send_response(head, true).unwrap();
        }
    });
    let server = tapped(&control, "server", captured_in_for(application)).await;
    let mut watcher = watcher(&control, port(&server), None).await;
    let mut events = observe(&mut watcher, &everything(1)).await;

    let socket = TcpStream::connect(server.inbound).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tasks.spawn("client", async move {
        let _ = connection.await;
    });
    let call = http::Request::post("http://web/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(call, true).unwrap();
    assert_eq!(within(answer).await.unwrap().headers()["grpc-status"], "12");

    next(&mut events).await.unwrap();
    next(&mut events).await.unwrap();
    let end = next(&mut events).await.unwrap();
    let TapMoment::ResponseEnd { end, .. } = end.moment else { panic!("{end:?}") };
    assert_eq!(end, Some(TapEnd::GrpcStatus(12)));
    assert_eq!(next(&mut events).await, None);
}

/// One route to the endpoints of [`authority`].
fn http_route() -> HttpRoute {
    let meta = Meta::resource("gateway.networking.k8s.io", "HTTPRoute", "test", "votes");
    hauberk_testkit::policy::http_route(meta, Vec::new(), backend())
}

#[tokio::test]
async fn the_clients_side_names_endpoint_and_route() {
    let control = Control::start();
    let application = application(HELLO).await;
    let server = tapped(&control, "server", captured_in_for(application)).await;
    control.know(|knowledge| {
        let http = HttpPolicy { routes: vec![http_route()].into(), failure_accrual: None };
        let protocol = OutboundProtocol::Http1(http);
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
        let mut endpoint = meshed(server.inbound, None);
        endpoint.labels = Labels::from([("deployment".into(), "web".into())]);
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let client = tapped(&control, "client", captured_for(SERVICE)).await;
    let mut watcher_there = watcher(&control, port(&server), None).await;
    let mut watcher_here = watcher(&control, port(&client), None).await;
    let label = TapMatch::All(vec![
        TapMatch::DestinationLabel("deployment".into(), "web".into()),
        TapMatch::RouteLabel("route_name".into(), "votes".into()),
    ]);
    let mut here = observe(&mut watcher_here, &Tap { condition: label, ..everything(9) }).await;
    let mut there = observe(&mut watcher_there, &everything(9)).await;
    assert!(request(client.outbound, GET).await.contains("hello"));

    let event = next(&mut here).await.unwrap();
    assert_eq!(event.exchange.direction, TapDirection::Outbound);
    assert_eq!(event.exchange.destination, server.inbound);
    let server_id = identity("server").to_string();
    assert_eq!(&*event.exchange.destination_labels["server_id"], server_id);
    assert_eq!(&*event.exchange.route_labels["route_kind"], "HTTPRoute");
    let event = next(&mut there).await.unwrap();
    let client_id = identity("client").to_string();
    assert_eq!(&*event.exchange.source_labels["client_id"], client_id);
    assert_eq!(&*event.exchange.source_labels["tls"], "true");

    // Draining ends streams that would go on for ever.
    server.end().await;
    while next(&mut there).await.is_some() {}
}

#[tokio::test]
async fn without_the_setting_there_is_no_tap_port() {
    let control = Control::start();
    let server = sidecar_with(&control, "server", captured_in_for(control.address), &[]).await;
    assert_eq!(server.proxy.as_ref().unwrap().tap, None);
}
