//! The inbound policy of the admin port.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    InboundPolicy, Meta, Network, Port,
    inbound::{Authentication, Authorization, HttpRoute, HttpServer, InboundProtocol},
    route::{
        Route, Rule,
        http::{HttpMatch, PathMatch},
    },
    workload_id::IdentityMatch,
};
use hauberk_proxy::run::Capture;
use std::{sync::Arc, time::Duration};
use support::{Control, Sidecar, identity, sidecar_with, start, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

/// What the admin port answers to somebody who is not in the pod: loopback addresses other than 127.0.0.1 count as
/// strangers.
async fn ask(sidecar: &Sidecar, path: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.7:0".parse().unwrap()).unwrap();
    let mut socket = within(socket.connect(sidecar.admin)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn until(sidecar: &Sidecar, path: &str, status: &str) {
    let begin = tokio::time::Instant::now();
    loop {
        let answer = ask(sidecar, path).await;
        if answer.starts_with(&format!("HTTP/1.1 {status}")) {
            return;
        }
        assert!(begin.elapsed() < support::PATIENCE, "{path}: no {status} in\n{answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a control plane says under a policy that lets only `account` in: kubelets may probe.
fn only(account: &str) -> InboundPolicy {
    let authorization = |name: &str, authentication| Authorization {
        meta: Meta::resource("policy.linkerd.io", "AuthorizationPolicy", "test", name),
        networks: Network::all(),
        authentication,
    };
    let exactly = |path: &str| HttpMatch {
        path: Some(PathMatch::Exact(path.into())),
        ..HttpMatch::default()
    };
    let rules =
        vec![Rule { matches: vec![exactly("/live"), exactly("/ready")], action: Vec::new() }];
    let probe = HttpRoute {
        meta: Meta::default("probe"),
        authorizations: Arc::new([authorization("probe", Authentication::Unauthenticated)]),
        route: Route { hosts: Vec::new(), rules },
    };
    let identified = vec![IdentityMatch::Exact(identity(account))];
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "Server", "test", "admin"),
        protocol: InboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpServer {
                routes: Arc::new([
                    HttpRoute::catch_all(Meta::default("default"), Arc::new([])),
                    probe,
                ]),
                rate_limit: None,
            },
        },
        authorizations: Arc::new([authorization(
            "only",
            Authentication::TlsAuthenticated(identified),
        )]),
    }
}

#[tokio::test]
async fn strangers_may_probe_but_not_read_metrics() {
    let control = Control::start();
    let sidecar = sidecar_with(&control, "web", Capture::KERNEL, &[]).await;
    assert!(ask(&sidecar, "/metrics").await.starts_with("HTTP/1.1 200"));
    let port = Port::new(sidecar.admin.port()).unwrap();
    control.know(|knowledge| {
        knowledge.inbound.insert(port, only("prometheus"));
    });
    until(&sidecar, "/metrics", "403").await;
    until(&sidecar, "/env.json", "403").await;
    assert!(ask(&sidecar, "/live").await.starts_with("HTTP/1.1 200"));
    assert!(ask(&sidecar, "/ready").await.starts_with("HTTP/1.1 200"));
    // Whoever is in the pod may ask for everything.
    assert!(sidecar.admin_get("/metrics").await.starts_with("HTTP/1.1 200"));
    let labels = ["srv_name=\"admin\"", "route_name=\"probe\""];
    sidecar.metric("inbound_http_authz_allow_total", &labels, "2").await;
    let labels = ["srv_name=\"admin\"", "tls=\"no_identity\""];
    sidecar.metric("inbound_http_authz_deny_total", &labels, "2").await;
    sidecar.end().await;
}

#[tokio::test]
async fn the_default_policy_holds_until_the_control_plane_speaks() {
    let mut control = Control::start();
    let denying = [("INBOUND_DEFAULT_POLICY", "deny")];
    let sidecar = start(&control, "web", Capture::KERNEL, &denying).await;
    assert!(ask(&sidecar, "/metrics").await.starts_with("HTTP/1.1 404"));
    control.stop();
    assert!(sidecar.admin_get("/live").await.starts_with("HTTP/1.1 200"));
    sidecar.end().await;
}
