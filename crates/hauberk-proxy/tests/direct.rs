//! Connections to the proxy's own port, which only proxies of the mesh may make, and to addresses that are not the pod's.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_identity::{Alpn, TlsSettings, client_config};
use hauberk_proxy::{
    run::Capture,
    transport_header::{Session, TransportHeader},
};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use support::{Control, Sidecar, captured_in_for, identity, sidecar_with, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

/// Says `bytes` inside TLS to the proxy's own port, by `name`; what came back before the end.
async fn say(server: &Sidecar, config: Arc<ClientConfig>, name: &str, bytes: &[u8]) -> Vec<u8> {
    let socket = within(TcpStream::connect(server.inbound)).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut heard = Vec::new();
    // Whoever is not wanted may be told in the handshake already.
    if let Ok(mut tls) = within(TlsConnector::from(config).connect(name, socket)).await
        && tls.write_all(bytes).await.is_ok()
    {
        let _ = within(tls.read_to_end(&mut heard)).await;
        // Who goes without a word is an error.
        let _ = tls.shutdown().await;
    }
    heard
}

#[tokio::test]
async fn who_shows_no_identity_no_protocol_or_no_header_is_refused() {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = application.local_addr().unwrap().port();
    let server = sidecar_with(&control, "server", Capture::KERNEL, &[]).await;
    let client = control.ca.lock().unwrap().account("client", "test");
    let anchors = control.ca.lock().unwrap().anchors().clone();
    let own = identity("server");
    let own = own.as_str();
    let header = TransportHeader { port, name: None, session: Session::Opaque }.encode();
    let hello = [&header[..], b"hello"].concat();
    let nobody =
        client_config::without_certificate(&anchors, Alpn::Transport, &TlsSettings::default());

    let member = |alpn| Arc::clone(client.client(alpn));
    let mut garbage = hello.clone();
    garbage[0] ^= 0xff;
    let odd = TransportHeader { port: 0, name: None, session: Session::Opaque }.encode();
    let refused = [
        ("no certificate", nobody, own, &hello),
        ("no protocol", member(Alpn::None), own, &hello),
        ("no header", member(Alpn::Transport), own, &garbage),
        ("no port", member(Alpn::Transport), own, &odd.to_vec()),
        ("another name", member(Alpn::Transport), "web.example.com", &hello),
    ];
    let mut errors = 0;
    for (case, config, name, bytes) in refused {
        assert_eq!(say(&server, config, name, bytes).await, b"", "{case}");
        errors += 1;
        let page = server.admin_until("/metrics", |page| counted(page) == errors).await;
        assert!(page.contains("inbound_tcp_errors_total"), "{case}");
    }
    let mut plain = within(TcpStream::connect(server.inbound)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = within(plain.read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    server.admin_until("/metrics", |page| counted(page) == errors + 1).await;
    let nobody_came = tokio::time::timeout(std::time::Duration::ZERO, application.accept()).await;
    assert!(nobody_came.is_err(), "the application saw a connection");

    // Who does it right is let in, and counts as no error.
    let serving = async {
        let mut socket = application.accept().await.unwrap().0;
        let mut got = [0; 5];
        socket.read_exact(&mut got).await.unwrap();
        socket.write_all(b"welcome").await.unwrap();
        got
    };
    let asking = say(&server, member(Alpn::Transport), own, &hello);
    let (got, heard) = within(async { tokio::join!(serving, asking) }).await;
    assert_eq!((&got, &heard[..]), (b"hello", &b"welcome"[..]));
    assert_eq!(counted(&server.admin_get("/metrics").await), errors + 1);
    server.end().await;
}

#[tokio::test]
async fn connections_to_addresses_that_are_not_the_pods_are_refused_and_counted() {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = application.local_addr().unwrap();
    let other = [("INBOUND_IPS", "10.1.2.3,::ffff:10.1.2.4")];
    let server = sidecar_with(&control, "server", captured_in_for(target), &other).await;
    let mut client = within(TcpStream::connect(server.inbound)).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut heard = Vec::new();
    // A reset is an end as well.
    let _ = within(client.read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    let target = format!("target_addr=\"{target}\"");
    server.metric("inbound_tcp_errors_total", &["error=\"unexpected\"", &target], "1").await;
    let nobody_came = tokio::time::timeout(std::time::Duration::ZERO, application.accept()).await;
    assert!(nobody_came.is_err(), "the application saw a connection");
    server.end().await;
}

/// Errors of inbound connections.
fn counted(page: &str) -> u32 {
    let lines = page.lines().filter(|line| line.starts_with("inbound_tcp_errors_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
}
