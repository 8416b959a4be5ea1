//! The mesh cases of the Gateway API's conformance suite, in our own words.
//!
//! The suite is <https://github.com/kubernetes-sigs/gateway-api>, `conformance/tests/mesh`, as of
//! v1.6, the cases of gRPC that its main branch has beside them (`MeshGRPCRouteRequestHeaderModifier`,
//! `MeshGRPCRouteRequestMirror`), and two cases for gateways about mirrors, of which it has none for
//! HTTP in a mesh. Its own programs need a Kubernetes API; here each case puts its routes into a lab, asks from inside
//! a pod, and holds what came back against what the suite expects. Cases bear the suite's names.
//! One lab serves all; every case runs, whatever became of those before it.
//!
//! Stricter than the suite: where a redirect leads is compared as a whole, the pod that answered
//! must be of the right namespace, and paths are compared where they are not rewritten too.

#[path = "conformance/ask.rs"]
mod ask;
#[path = "conformance/headers.rs"]
mod headers;
#[path = "conformance/mirrors.rs"]
mod mirrors;
#[path = "conformance/redirects.rs"]
mod redirects;
#[path = "conformance/rewrites.rs"]
mod rewrites;
#[path = "conformance/routing.rs"]
mod routing;
#[path = "conformance/services.rs"]
mod services;

use ask::{Ask, PYTHON};
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, can_run, peers, text};

/// How long changed routes may take until they hold at every proxy. They take milliseconds; the
/// rest is for machines with other things to do.
const CONVERGENCE: Duration = Duration::from_secs(10);

/// One case of the suite.
struct Case {
    name: &'static str,
    /// Manifests that hold while it runs.
    routes: String,
    asks: Vec<Ask>,
}

/// The pods that ask.
struct Clients {
    v1: Pod,
    v2: Pod,
    consumer: Pod,
}

#[test]
fn every_mesh_case_of_the_gateway_api_passes() {
    if !can_run("conformance") {
        return;
    }
    let mut lab = Lab::up("conformance", &services::manifest());
    let clients = Clients {
        v1: lab.pod("conformance", "echo-v1"),
        v2: lab.pod("conformance", "echo-v2"),
        consumer: lab.pod("consumer", "echo-v1"),
    };
    let mut cases = services::cases(clients.v2.ip());
    cases.extend(routing::cases());
    cases.extend(headers::cases());
    cases.extend(redirects::cases());
    cases.extend(rewrites::cases());
    cases.extend(mirrors::cases());
    assert_eq!(cases.len(), 26, "all cases of the suite are here");

    let mut failures = String::new();
    for case in &cases {
        let began = Instant::now();
        match run(&mut lab, &clients, case) {
            Ok(()) => println!("ok      {} ({:?})", case.name, began.elapsed()),
            Err(why) => {
                println!("FAILED  {}\n{why}", case.name);
                let _ = writeln!(failures, "{}:\n{why}", case.name);
            }
        }
    }
    assert!(failures.is_empty(), "{failures}\n{}", lab.logs(&clients.v1));
}

/// Puts the routes in, asks until everything is as expected and then once more, and takes the
/// routes out.
fn run(lab: &mut Lab, clients: &Clients, case: &Case) -> Result<(), String> {
    let path = lab.file("routes.yml", &case.routes).display().to_string();
    if !case.routes.is_empty() {
        lab.hauberk(&["apply", "-f", &path]);
    }
    let deadline = Instant::now() + CONVERGENCE;
    let mut held = 0;
    let result = loop {
        match all(lab, clients, &case.asks).and_then(|()| accepted(lab)) {
            Ok(()) if held == 1 => break Ok(()),
            Ok(()) => held += 1,
            Err(why) if Instant::now() > deadline => break Err(why),
            Err(_) => {
                held = 0;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    };
    if !case.routes.is_empty() {
        lab.hauberk(&["delete", "-f", &path]);
    }
    result
}

/// Whether the status of every route says that it counts; the suite's programs wait for that.
fn accepted(lab: &Lab) -> Result<(), String> {
    for kind in ["httproute", "grpcroute"] {
        let shown = lab.hauberk(&["get", kind, "-o", "json"]);
        let routes: serde_json::Value =
            serde_json::from_str(&shown).map_err(|error| format!("{error}: {shown}"))?;
        for route in routes["items"].as_array().into_iter().flatten() {
            let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
            let is_accepted = |parent: &serde_json::Value| {
                let mut conditions = parent["conditions"].as_array().into_iter().flatten();
                conditions.any(|one| one["type"] == "Accepted" && one["status"] == "True")
            };
            if parents.is_empty() || !parents.iter().all(is_accepted) {
                return Err(format!("  the status does not say that it counts: {route}"));
            }
        }
    }
    Ok(())
}

/// Asks everything once. All that is wrong, not just the first.
fn all(lab: &Lab, clients: &Clients, asks: &[Ask]) -> Result<(), String> {
    let mut wrong = String::new();
    for (from, pod) in [
        (ask::From::V1, &clients.v1),
        (ask::From::V2, &clients.v2),
        (ask::From::Consumer, &clients.consumer),
    ] {
        let asks: Vec<_> = asks.iter().filter(|ask| ask.from == from).collect();
        if asks.is_empty() {
            continue;
        }
        let questions: Vec<_> = asks.iter().map(|ask| ask.question()).collect();
        let questions = serde_json::Value::from(questions).to_string();
        let echo = peers().join("echo.py").display().to_string();
        let output = lab.try_exec(pod, "echo", &[PYTHON, &echo, "ask", &questions]);
        let answers: Vec<Vec<ask::Answer>> = match serde_json::from_slice(&output.stdout) {
            Ok(answers) => answers,
            Err(error) => {
                let _ = writeln!(wrong, "  {from:?}: {error}: {}", text(&output.stderr));
                continue;
            }
        };
        for (ask, answers) in asks.iter().zip(&answers) {
            if let Err(why) = ask.check(answers) {
                let _ = writeln!(wrong, "  {} from {from:?}: {why}", ask.url);
            }
            wrong += &copies(lab, clients, ask);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// What is wrong with the copies of a request, by what pods have printed. A copy may come later than
/// the answer, and then the next look finds it.
fn copies(lab: &Lab, clients: &Clients, ask: &Ask) -> String {
    let mut wrong = String::new();
    let seen = |backend: &str, id: &str| {
        let pod = if backend == "echo-v1" { &clients.v1 } else { &clients.v2 };
        let output = lab.try_hauberk(&["logs", "-n", pod.namespace(), pod.name(), "-c", "echo"]);
        text(&output.stdout).lines().any(|line| line == format!("saw {id}"))
    };
    for (backend, id) in &ask.copied {
        if !seen(backend, id) {
            let _ = writeln!(wrong, "  {} was not copied to {backend} as {id}", ask.url);
        }
    }
    for (backend, id) in &ask.not_copied {
        if seen(backend, id) {
            let _ = writeln!(wrong, "  {} was copied to {backend}", ask.url);
        }
    }
    wrong
}

/// A route on service `echo`: on that port, or on all.
fn route_on_echo(kind: &str, port: Option<u16>, rules: &str) -> String {
    let port = port.map_or(String::new(), |port| format!(", port: {port}"));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: on-echo, namespace: conformance}}
spec:
  parentRefs: [{{group: '', kind: Service, name: echo{port}}}]
  rules:
{rules}"
    )
}
