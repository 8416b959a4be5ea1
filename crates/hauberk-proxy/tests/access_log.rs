//! The access log as it comes out of a process.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{Endpoint, endpoints::ProtocolHint};
use hauberk_proxy::run::Capture;
use std::process::Command;
use support::{
    Control, SERVICE, authority, captured_for, endpoints, http as web, meshed, sidecar,
    sidecar_with,
};

/// One request over each version of HTTP, through a proxy that writes a log.
#[tokio::test]
#[ignore = "run by the other test, which reads what it writes"]
async fn two_requests() {
    let application = web::echo("web").await;
    let control = Control::start();
    let log = [("ACCESS_LOG", "json")];
    let server = sidecar_with(&control, "server", Capture::KERNEL, &log).await;
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), web::to(authority()));
        let endpoint = meshed(application, Some(server.inbound));
        let endpoint = Endpoint { hint: ProtocolHint::Http2, ..endpoint };
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    let answer = web::get(client.outbound, &[]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(web::get2(client.outbound, &[]).await.0, 200);
    client.end().await;
    server.end().await;
}

#[test]
fn json_lines_tell_how_long_requests_were_worked_on() {
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", "two_requests", "--ignored", "--nocapture"];
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("{\"client.addr\"")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in lines {
        let nanoseconds = |name: &str| {
            let (_, rest) = line.split_once(&format!("\"{name}\":\"")).unwrap();
            rest.split('"').next().unwrap().parse::<u64>().unwrap()
        };
        let (total, processing) = (nanoseconds("total_ns"), nanoseconds("processing_ns"));
        // There is a proxy at work, and an application to wait for.
        assert!(0 < processing && processing < total, "{line}");
    }
}
