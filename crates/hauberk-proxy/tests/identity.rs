//! Certificates: the first one, renewal, a new issuer, and a service that is not there at first.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::outbound::OutboundProtocol;
use hauberk_proxy::run::Capture;
use std::time::Duration;
use support::{
    Control, SERVICE, authority, captured_for, endpoints, meshed, opaque_route, policy, sidecar,
    sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const REFRESHES: &str = "control_identity_cert_refreshes_total";

/// Renewal as often as the settings allow, whatever the certificate's life.
const OFTEN: &[(&str, &str)] =
    &[("IDENTITY_MIN_REFRESH", "100ms"), ("IDENTITY_MAX_REFRESH", "100ms")];

#[tokio::test]
async fn certificates_are_renewed_and_survive_a_new_issuer() {
    let control = Control::start();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = sidecar_with(&control, "server", Capture::KERNEL, OFTEN).await;
    control.know(|knowledge| {
        let protocol = OutboundProtocol::Opaque(vec![opaque_route()]);
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
        let endpoint = meshed(application.local_addr().unwrap(), Some(server.inbound));
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    let mut old = TcpStream::connect(client.outbound).await.unwrap();
    old.write_all(b"\x01").await.unwrap();
    let (mut accepted, _) = within(application.accept()).await.unwrap();

    control.ca.lock().unwrap().rotate_issuer();
    server.metric(REFRESHES, &["result=\"ok\""], "5").await;

    // What was open goes on; what is new is verified against the same anchors.
    old.write_all(b"\x02").await.unwrap();
    let mut bytes = [0; 2];
    within(accepted.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, [1, 2]);
    let mut new = TcpStream::connect(client.outbound).await.unwrap();
    new.write_all(b"\x03").await.unwrap();
    let (mut accepted, _) = within(application.accept()).await.unwrap();
    let byte = within(accepted.read_u8()).await.unwrap();
    assert_eq!(byte, 3);
}

#[tokio::test]
async fn a_refused_renewal_keeps_the_certificate() {
    let mut control = Control::start();
    let server = sidecar_with(&control, "server", Capture::KERNEL, OFTEN).await;
    control.stop();
    server
        .admin_until("/metrics", |text| {
            text.lines().any(|line| {
                line.starts_with(REFRESHES) && line.contains("error") && !line.ends_with(" 0")
            })
        })
        .await;
    assert!(server.admin_get("/ready").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn connections_wait_for_the_first_certificate() {
    let control = Control::start();
    let starting = support::start(
        &control,
        "server",
        Capture::KERNEL,
        &[("IDENTITY_TOKEN_FILE", "/nonexistent")],
    );
    let server = starting.await;
    assert!(server.admin_get("/live").await.starts_with("HTTP/1.1 200"));
    assert!(server.admin_get("/ready").await.starts_with("HTTP/1.1 503"));
    // The kernel takes the connection, nobody else does.
    let mut early = TcpStream::connect(server.inbound).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(100), early.read_u8()).await;
    assert!(waited.is_err(), "{waited:?}");
}
