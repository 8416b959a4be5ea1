//! Addresses of both families, endpoints in one's own pod, and names.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{Endpoint, endpoints::ProtocolHint};
use hauberk_proxy::run::Capture;
use support::{
    Control, SERVICE, authority, captured_for, captured_in_for, http as web, identity, meshed,
    sidecar_with,
};

#[tokio::test]
async fn a_proxy_of_both_families_serves_either() {
    let control = Control::start();
    let both = [("INBOUND_LISTEN_ADDR", "[::]:0")];
    let server = sidecar_with(&control, "server", Capture::KERNEL, &both).await;
    let six = "[fd00::99]:7000";
    let outbound = [("OUTBOUND_LISTEN_ADDRS", "[::1]:0,127.0.0.1:0")];
    let client = sidecar_with(&control, "client", captured_for(six), &outbound).await;
    control.know(|knowledge| {
        knowledge.outbound.insert(six.parse().unwrap(), web::to(authority()));
    });
    assert!(client.outbound.is_ipv6());
    for (called, host, ip) in [("six", "[::1]:0", "::1"), ("four", "127.0.0.1:0", "127.0.0.1")] {
        let application = web::echo_at(host, called).await;
        let endpoint =
            Endpoint { hint: ProtocolHint::Http2, ..meshed(application, Some(server.inbound)) };
        web::serve(&control, &authority(), vec![endpoint]);
        let wanted = format!("\n{called} GET /path HTTP/1.1\n");
        let answer = web::get_until(client.outbound, &[], &wanted).await;
        assert!(answer.contains(&format!("l5d-client-id: {}", identity("client"))), "{answer}");
        // An IPv4 address that the kernel wrote into an IPv6 one counts as what it is.
        let ip = format!("target_ip=\"{ip}\"");
        server.metric("inbound_http_authz_allow_total", &[&ip, "tls=\"true\""], "1").await;
    }
    client.end().await;
    server.end().await;
}

#[tokio::test]
async fn what_is_in_ones_own_pod_is_reached_without_the_mesh() {
    let control = Control::start();
    let application = web::echo("myself").await;
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), web::to(authority()));
    });
    // Discovery tells of oneself what it tells of everybody.
    let endpoint = Endpoint {
        hint: ProtocolHint::Http2,
        ..meshed(application, Some("127.0.0.1:4143".parse().unwrap()))
    };
    web::serve(&control, &authority(), vec![endpoint]);
    let mine = [("INBOUND_IPS", "127.0.0.1")];
    let myself = sidecar_with(&control, "server", captured_for(SERVICE), &mine).await;
    let answer = web::get(myself.outbound, &[]).await;
    assert!(answer.contains("\nmyself GET /path HTTP/1.1\nhost: asked\n"), "{answer}");
    assert!(!answer.contains("l5d-"), "{answer}");
    let labels = ["direction=\"outbound\"", "no_tls_reason=\"loopback\"", "peer=\"dst\""];
    myself.metric("tcp_open_total", &labels, "1").await;
    myself.end().await;
}

#[tokio::test]
async fn authorities_are_labels_only_for_who_wants_them() {
    let control = Control::start();
    let application = web::echo("web").await;
    let wanted = [("INBOUND_METRICS_AUTHORITY_LABELS", "unsafe")];
    for changes in [&[][..], &wanted] {
        let server = sidecar_with(&control, "server", captured_in_for(application), changes).await;
        let answer = web::get(server.inbound, &[]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (status, _) = web::get2(server.inbound, &[]).await;
        assert_eq!(status, 200);
        server.metric("request_total", &["direction=\"inbound\""], "2").await;
        let page = server.admin_get("/metrics").await;
        let names = |line: &&str| {
            line.starts_with("request_total{") && line.contains("authority=\"asked\"")
        };
        let count = page.lines().filter(names).count();
        assert_eq!(count, usize::from(!changes.is_empty()), "{page}");
        server.end().await;
    }
}

#[tokio::test]
async fn the_control_plane_may_be_named() {
    let control = Control::start();
    // With its final dot this name is loopback, where no TLS is spoken.
    let name = format!("localhost.:{}", control.address.port());
    let named = [
        ("DESTINATION_SVC_ADDR", &*name),
        ("POLICY_SVC_ADDR", &name),
        ("IDENTITY_SVC_ADDR", &name),
    ];
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), web::to(authority()));
    });
    web::serve(&control, &authority(), vec![Endpoint::bare(web::echo("web").await)]);
    let client = sidecar_with(&control, "client", captured_for(SERVICE), &named).await;
    let answer = web::get(client.outbound, &[]).await;
    assert!(answer.contains("\nweb GET /path"), "{answer}");
    client.end().await;
}
