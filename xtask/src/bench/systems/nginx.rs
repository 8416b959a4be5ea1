//! A pair of nginx: mutual TLS with keep-alive between them.
//!
//! nginx speaks HTTP/2 to a server only for gRPC, so everything else is HTTP/1.1 between the pair,
//! also what the client sends as HTTP/2.

use super::{Port, Starting};
use crate::bench::{
    place::{SERVER, Side},
    process::Process,
};
use anyhow::Context;
use std::{fs, path::Path};

/// Debian's place for the module that forwards TCP.
pub(super) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Who the server's proxy has to be.
const SERVER_NAME: &str = "server.bench.serviceaccount.identity.linkerd.cluster.local";

/// Starts both.
pub(super) fn start(starting: &Starting<'_>) -> anyhow::Result<[Process; 2]> {
    Ok([one(starting, Side::Client)?, one(starting, Side::Server)?])
}

fn one(starting: &Starting<'_>, side: Side) -> anyhow::Result<Process> {
    let directory = starting.workshop.fresh_directory(&format!("nginx-{}", side.name()))?;
    let (http, stream) = match side {
        Side::Client => client(starting),
        Side::Server => server(starting),
    };
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, whole(&directory, starting.workers, &http, &stream))
        .context("cannot write the configuration of nginx")?;
    let mut command = starting.place.proxy(side, "nginx");
    command.arg("-c").arg(configuration).arg("-p").arg(&directory);
    let name = format!("the {}'s nginx", side.name());
    Process::start(&name, &mut command, &directory.join("log"))
}

/// One worker is the only process; more need a master over them.
fn whole(directory: &Path, workers: u32, http: &str, stream: &str) -> String {
    let home = directory.display();
    let master = if workers == 1 { "off" } else { "on" };
    format!(
        "load_module {STREAM_MODULE};
daemon off;
master_process {master};
worker_processes {workers};
error_log stderr error;
pid {home}/pid;
events {{ worker_connections 65536; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  proxy_max_temp_file_size 0;
  client_max_body_size 0;
{http}}}
stream {{
{stream}}}
"
    )
}

/// The settings of a TLS client, for one of nginx' three clients.
fn tls_client(starting: &Starting<'_>, module: &str) -> String {
    let credential = |name| starting.credential(name);
    format!(
        "  {module}_ssl_protocols TLSv1.3;
  {module}_ssl_certificate {};
  {module}_ssl_certificate_key {};
  {module}_ssl_trusted_certificate {};
  {module}_ssl_verify on;
  {module}_ssl_verify_depth 2;
  {module}_ssl_server_name on;
  {module}_ssl_name {SERVER_NAME};
",
        credential("client.pem"),
        credential("client.key"),
        credential("anchors.pem")
    )
}

/// From the client, in the clear, to the other proxy.
fn client(starting: &Starting<'_>) -> (String, String) {
    let [http1, http2, opaque, streams] = Port::ALL.map(Port::number);
    let between = Port::ALL.map(Port::between);
    let upstream = |name: &str, port: u16| {
        format!(
            "  upstream {name} {{
    server {SERVER}:{port};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
"
        )
    };
    let http = tls_client(starting, "proxy")
        + &tls_client(starting, "grpc")
        + &upstream("http1", between[0])
        + &upstream("http2", between[1])
        + &upstream("grpc", between[1])
        + &upstream("streams", between[3])
        + &format!(
            "  server {{
    listen 127.0.0.1:{http1} backlog=4096;
    location / {{ proxy_pass https://http1; }}
  }}
  server {{
    listen 127.0.0.1:{http2} http2 backlog=4096;
    location / {{ proxy_pass https://http2; }}
    location /bench.Echo/ {{ grpc_pass grpcs://grpc; }}
  }}
  server {{
    listen 127.0.0.1:{streams} http2 backlog=4096;
    location / {{ grpc_pass grpcs://streams; }}
  }}
"
        );
    let stream = tls_client(starting, "proxy")
        + &format!(
            "  server {{
    listen 127.0.0.1:{opaque} backlog=4096;
    proxy_ssl on;
    proxy_pass {SERVER}:{};
  }}
",
            between[2]
        );
    (http, stream)
}

/// From the other proxy to the application, in the clear.
fn server(starting: &Starting<'_>) -> (String, String) {
    let credential = |name| starting.credential(name);
    let tls = format!(
        "  ssl_protocols TLSv1.3;
  ssl_certificate {};
  ssl_certificate_key {};
  ssl_client_certificate {};
  ssl_verify_client on;
  ssl_verify_depth 2;
",
        credential("server.pem"),
        credential("server.key"),
        credential("anchors.pem")
    );
    let [http1, http2, opaque, streams] = Port::ALL.map(Port::number);
    let between = Port::ALL.map(Port::between);
    let upstream = |name: &str, port: u16| {
        format!(
            "  upstream {name} {{
    server 127.0.0.1:{port};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
"
        )
    };
    let http = tls.clone()
        + &upstream("http1", http1)
        + &upstream("grpc", http2)
        + &upstream("streams", streams)
        + &format!(
            "  server {{
    listen {SERVER}:{} ssl backlog=4096;
    location / {{ proxy_pass http://http1; }}
  }}
  server {{
    listen {SERVER}:{} ssl http2 backlog=4096;
    location / {{ proxy_pass http://http1; }}
    location /bench.Echo/ {{ grpc_pass grpc://grpc; }}
  }}
  server {{
    listen {SERVER}:{} ssl http2 backlog=4096;
    location / {{ grpc_pass grpc://streams; }}
  }}
",
            between[0], between[1], between[3]
        );
    let stream = tls
        + &format!(
            "  server {{
    listen {SERVER}:{} ssl backlog=4096;
    proxy_pass 127.0.0.1:{opaque};
  }}
",
            between[2]
        );
    (http, stream)
}
