//! The application: one nginx worker that answers 1 KiB from memory, so that it costs little beside
//! the proxies, and a server of gRPC streams, which nginx cannot be.

use super::{Port, Starting};
use crate::bench::{
    load::{GRPC_MESSAGE, GRPC_PATH},
    place::Side,
    process::Process,
};
use anyhow::Context;
use std::fs;

/// Starts the server of gRPC streams.
pub(super) fn start_echo(starting: &Starting<'_>) -> anyhow::Result<Process> {
    let directory = starting.workshop.fresh_directory("echo")?;
    let mut command = starting.place.command(Side::Server, starting.workshop.tool());
    command.arg("echo").arg(format!("0.0.0.0:{}", Port::Stream.number()));
    Process::start("the server of gRPC streams", &mut command, &directory.join("log"))
}

/// Starts it on the server's side.
pub(super) fn start(starting: &Starting<'_>) -> anyhow::Result<Process> {
    let directory = starting.workshop.fresh_directory("application")?;
    let www = starting.workshop.scratch.join("www");
    let message = www.join(GRPC_PATH.trim_start_matches('/'));
    fs::create_dir_all(message.parent().context("the path has two parts")?)?;
    fs::write(message, GRPC_MESSAGE)?;
    fs::write(www.join("grpc-message"), GRPC_MESSAGE)?;
    let (root, home) = (www.display(), directory.display());
    let body = "x".repeat(1_024);
    let [http1, http2, opaque, _] = Port::ALL.map(Port::number);
    // nginx refuses to POST to a file, but sends another as the page of that error; only in a file
    // can the zero bytes of a gRPC prefix be. Mirroring makes it read the request's message first,
    // as a real method does: else it resets the stream behind its response, which is allowed, and
    // which nginx as a proxy takes for an error.
    let text = format!(
        "daemon off;
master_process off;
error_log stderr error;
pid {home}/pid;
events {{ worker_connections 32768; }}
http {{
  access_log off;
  sendfile on;
  open_file_cache max=10;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  root {root};
  default_type text/plain;
  server {{
    listen {http1} backlog=4096;
    listen {opaque} backlog=4096;
    location = / {{ return 200 \"{body}\"; }}
  }}
  server {{
    listen {http2} http2 backlog=4096;
    location = / {{ return 200 \"{body}\"; }}
    location = {GRPC_PATH} {{
      mirror /read;
      error_page 405 =200 /grpc-message;
    }}
    location = /read {{ internal; return 204; }}
    location = /grpc-message {{
      internal;
      default_type application/grpc;
      add_trailer grpc-status 0;
    }}
  }}
}}
"
    );
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, text).context("cannot write the application's configuration")?;
    let mut command = starting.place.command(Side::Server, "nginx");
    command.arg("-c").arg(configuration).arg("-p").arg(&directory);
    Process::start("the application", &mut command, &directory.join("log"))
}
