//! A pair of HAProxy: HTTP/2 with mutual TLS between them, whatever the client speaks.

use super::{Port, Starting};
use crate::bench::{
    enclosure::connections_at_most,
    place::{SERVER, Side},
    process::Process,
};
use anyhow::Context;
use std::fs;

/// Starts both.
pub(super) fn start(starting: &Starting<'_>) -> anyhow::Result<[Process; 2]> {
    Ok([
        one(starting, Side::Client, &client(starting))?,
        one(starting, Side::Server, &server(starting))?,
    ])
}

fn one(starting: &Starting<'_>, side: Side, listeners: &str) -> anyhow::Result<Process> {
    let directory = starting.workshop.fresh_directory(&format!("haproxy-{}", side.name()))?;
    let workers = starting.workers;
    // It refuses to start if it may not open the files for these.
    let connections = connections_at_most(20_000) + 100;
    let text = format!(
        "global
  maxconn {connections}
  nbthread {workers}
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
{listeners}"
    );
    let configuration = directory.join("haproxy.cfg");
    fs::write(&configuration, text).context("cannot write the configuration of HAProxy")?;
    let mut command = starting.place.proxy(side, "haproxy");
    command.arg("-db").arg("-f").arg(configuration);
    let name = format!("the {}'s HAProxy", side.name());
    Process::start(&name, &mut command, &directory.join("log"))
}

/// From the client, in the clear, to the other proxy.
fn client(starting: &Starting<'_>) -> String {
    let own = starting.credential("client.both");
    let anchors = starting.credential("anchors.pem");
    let name = "server.bench.serviceaccount.identity.linkerd.cluster.local";
    let tls = format!(
        "ssl crt {own} ca-file {anchors} verify required verifyhost {name} sni str({name})"
    );
    let listener = |port: Port, bind: &str, mode: &str, server: &str| {
        let (number, between) = (port.number(), port.between());
        format!(
            "listen {number}
  mode {mode}
  bind 127.0.0.1:{number}{bind}
  server other {SERVER}:{between} {tls}{server}
"
        )
    };
    listener(Port::Http1, "", "http", " alpn h2")
        + &listener(Port::Http2, " proto h2", "http", " alpn h2")
        + &listener(Port::Opaque, "", "tcp", "")
        + &listener(Port::Stream, " proto h2", "http", " alpn h2")
}

/// From the other proxy to the application, in the clear.
fn server(starting: &Starting<'_>) -> String {
    let own = starting.credential("server.both");
    let anchors = starting.credential("anchors.pem");
    let tls = format!("ssl crt {own} ca-file {anchors} verify required");
    let listener = |port: Port, bind: &str, mode: &str, server: &str| {
        let (number, between) = (port.number(), port.between());
        format!(
            "listen {number}
  mode {mode}
  bind {SERVER}:{between} {tls}{bind}
  server application 127.0.0.1:{number}{server}
"
        )
    };
    listener(Port::Http1, " alpn h2", "http", "")
        + &listener(Port::Http2, " alpn h2", "http", " proto h2")
        + &listener(Port::Opaque, "", "tcp", "")
        + &listener(Port::Stream, " alpn h2", "http", " proto h2")
}
