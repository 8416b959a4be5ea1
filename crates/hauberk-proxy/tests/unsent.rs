//! Requests that reach a proxy whose application is gone (decision 0028): while the control plane is
//! away, nobody can have told the client's proxy, so it asks another endpoint.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod mesh;

use std::cell::Cell;
use std::rc::Rc;

use http::Response;
use mesh::{Mesh, Way, dead_address, exchange, full, http1_application, recording};

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
const POST: &str =
    "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";

/// What proxies say to each other about it.
const UNSENT: &str = "l5d-hauberk-unsent";

const MESHED: [Way; 2] = [Way::Meshed, Way::MeshedPlainHttp];

/// How often the server's proxy has answered in place of an application.
fn answered_for(mesh: &Mesh) -> u64 {
    let text = mesh.server.registry.render();
    let lines = text.lines().filter(|line| line.starts_with("inbound_http_errors_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn what_no_application_has_seen_goes_elsewhere_while_the_control_plane_is_away() {
    for way in MESHED {
        mesh::run(async |mesh| {
            mesh.policy(None);
            let (application, seen) = recording().await;
            let gone = mesh.endpoint(dead_address().await, way).await;
            mesh.publish([gone, mesh.endpoint(application, way).await]);
            mesh.client.control.reachable(false);
            for _ in 0..20 {
                let answer = exchange(mesh.connect(), GET).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{way:?}: {answer}");
                assert!(!answer.contains(UNSENT), "{answer}");
            }
            assert_eq!(seen.borrow().len(), 20, "{way:?}");
            assert!(answered_for(&mesh) > 0, "the other one was never asked");
        });
    }
}

#[test]
fn what_cannot_be_repeated_or_need_not_be_is_answered_by_the_servers_proxy() {
    for way in MESHED {
        for (is_reachable, request) in [(true, GET), (false, POST)] {
            mesh::run(async |mesh| {
                mesh.serve(dead_address().await, way).await;
                mesh.client.control.reachable(is_reachable);
                let answer = exchange(mesh.connect(), request).await;
                assert!(answer.starts_with("HTTP/1.1 502"), "{way:?}: {answer}");
                assert!(!answer.contains(UNSENT), "{answer}");
                assert_eq!(answered_for(&mesh), 1, "{way:?}: it was asked again");
            });
        }
    }
}

#[test]
fn an_application_cannot_have_its_requests_repeated() {
    for way in MESHED {
        mesh::run(async |mesh| {
            let asked: Rc<Cell<u64>> = Rc::default();
            let count = Rc::clone(&asked);
            let application = http1_application(move |_| {
                count.set(count.get() + 1);
                let response = Response::builder().status(502).header(UNSENT, "true");
                async move { response.body(full("")).unwrap() }
            });
            mesh.serve(application.await, way).await;
            mesh.client.control.reachable(false);
            let answer = exchange(mesh.connect(), GET).await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{way:?}: {answer}");
            assert!(!answer.contains(UNSENT), "{answer}");
            assert_eq!(asked.get(), 1, "{way:?}");
        });
    }
}
