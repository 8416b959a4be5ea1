//! A pair of Hauberk's proxies, each with a control plane of its own that reads the same cluster
//! from a directory.
//!
//! The environment is what the injector writes, but for the control plane's addresses: on loopback
//! a proxy speaks to it in the clear. The control planes share one issuer, so that both proxies
//! trust each other. What they use is not counted.

use super::{Port, Starting, passed_by};
use crate::bench::{
    COUNTS,
    clock::wait_for,
    enclosure::{COUNTING_PROXY, Workshop},
    place::{CLIENT, Place, SERVICE, Side, endpoint},
    process::{self, Process},
    scenario::Shape,
};
use anyhow::{Context, ensure};
use std::{fmt::Write, fs, net::IpAddr, time::Duration};

/// Ports of a control plane on loopback. The identity service's usual one is the application's.
const DESTINATION: u16 = 8_086;
const POLICY: u16 = 8_090;
const IDENTITY: u16 = 8_091;
const ADMIN: u16 = 9_990;

/// Networks in which the proxies look connections up.
const CLUSTER_NETWORKS: &str = "10.0.0.0/8";

/// Starts a control plane on both sides and waits until they are ready.
pub(super) fn control_planes(starting: &Starting<'_>) -> anyhow::Result<Vec<Process>> {
    let cluster = starting.workshop.fresh_directory("cluster")?;
    fs::write(cluster.join("cluster.yaml"), objects(starting.purpose.shape))
        .context("cannot write the cluster")?;
    let mut started = Vec::new();
    for side in [Side::Client, Side::Server] {
        let directory = starting.workshop.fresh_directory(&format!("control-{}", side.name()))?;
        let mut command =
            starting.place.command(side, starting.workshop.program("hauberk-controller"));
        command.arg("--source-dir").arg(&cluster);
        for (flag, port) in [
            ("--destination-addr", DESTINATION),
            ("--policy-addr", POLICY),
            ("--identity-addr", IDENTITY),
            ("--admin-addr", ADMIN),
        ] {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        for (flag, file) in [
            ("--trust-anchors-file", "anchors.pem"),
            ("--issuer-cert-file", "issuer.pem"),
            ("--issuer-key-file", "issuer.key"),
            ("--token-key-file", "token-keys.pem"),
        ] {
            command.args([flag, &starting.credential(file)]);
        }
        let name = format!("the {}'s control plane", side.name());
        let mut process = Process::start(&name, &mut command, &directory.join("log"))?;
        wait_for(&name, Duration::from_secs(20), || {
            process.check_alive()?;
            let url = format!("http://127.0.0.1:{ADMIN}/ready");
            let mut ask = starting.place.command(side, "curl");
            let asked = process::run(ask.args(["--silent", "--fail", "--max-time", "2", &url]));
            Ok(asked.ok())
        })?;
        started.push(process);
    }
    Ok(started)
}

/// Starts both proxies.
pub(super) fn start(starting: &Starting<'_>) -> anyhow::Result<[Process; 2]> {
    starting.capture()?;
    let shape = starting.purpose.shape;
    Ok([
        proxy(starting, Side::Client, CLIENT.to_string())?,
        proxy(starting, Side::Server, server_ips(shape))?,
    ])
}

/// What the server's proxy takes connections for. It stands for all of the pods, and refuses what
/// is not for one of its addresses.
fn server_ips(shape: Shape) -> String {
    let addresses: Vec<_> =
        (0..shape.endpoints).map(|number| endpoint(number).to_string()).collect();
    addresses.join(",")
}

fn proxy(starting: &Starting<'_>, side: Side, own: String) -> anyhow::Result<Process> {
    let name = side.name();
    let directory = starting.workshop.fresh_directory(&format!("hauberk-{name}"))?;
    let anchors = fs::read_to_string(starting.credential("anchors.pem"))?;
    let pod = format!("{{\"ns\":\"bench\",\"pod\":\"{name}\"}}");
    let ports = Port::ALL.map(|port| port.number().to_string()).join(",");
    let program = match starting.purpose.counts {
        true => starting.workshop.target.join(COUNTING_PROXY),
        false => starting.workshop.program("hauberk-proxy"),
    };
    let mut command = starting.place.proxy(side, program);
    for (setting, value) in [
        ("CORES", starting.workers.to_string()),
        ("INBOUND_LISTEN_ADDR", "0.0.0.0:4143".to_owned()),
        ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140".to_owned()),
        ("CONTROL_LISTEN_ADDR", "0.0.0.0:4190".to_owned()),
        ("ADMIN_LISTEN_ADDR", "127.0.0.1:4191".to_owned()),
        ("DESTINATION_SVC_ADDR", format!("127.0.0.1:{DESTINATION}")),
        ("DESTINATION_CONTEXT", pod.clone()),
        ("DESTINATION_PROFILE_NETWORKS", CLUSTER_NETWORKS.to_owned()),
        ("POLICY_SVC_ADDR", format!("127.0.0.1:{POLICY}")),
        ("POLICY_WORKLOAD", pod),
        ("POLICY_CLUSTER_NETWORKS", CLUSTER_NETWORKS.to_owned()),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated".to_owned()),
        ("INBOUND_IPS", own),
        ("INBOUND_PORTS", ports),
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", Port::Opaque.number().to_string()),
        ("INBOUND_TLS_RESUMPTION", starting.purpose.shape.resumes.to_string()),
        ("OUTBOUND_TLS_RESUMPTION", starting.purpose.shape.resumes.to_string()),
        ("INBOUND_ACCEPT_KEEPALIVE", "10000ms".to_owned()),
        ("OUTBOUND_CONNECT_KEEPALIVE", "10000ms".to_owned()),
        ("INBOUND_ACCEPT_USER_TIMEOUT", "30s".to_owned()),
        ("OUTBOUND_CONNECT_USER_TIMEOUT", "30s".to_owned()),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s".to_owned()),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s".to_owned()),
        ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s".to_owned()),
        ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s".to_owned()),
        ("IDENTITY_SVC_ADDR", format!("127.0.0.1:{IDENTITY}")),
        ("IDENTITY_LOCAL_NAME", identity(side)),
        ("IDENTITY_TRUST_ANCHORS", anchors),
        ("IDENTITY_TOKEN_FILE", starting.credential(&format!("{name}.token"))),
        ("IDENTITY_DIR", directory.display().to_string()),
    ] {
        command.env(format!("LINKERD2_PROXY_{setting}"), value);
    }
    let name = format!("the {name}'s proxy");
    let log = directory.join("log");
    if !starting.workshop.is_for_training() {
        return Process::start(&name, &mut command, &log);
    }
    // Counts are written when the program ends (clang's manual, "Profiling with Instrumentation").
    let counts = starting.workshop.target.join(COUNTS);
    command.env("LLVM_PROFILE_FILE", counts.join("%p-%m.profraw"));
    Ok(Process::start(&name, &mut command, &log)?.in_training(&counts))
}

/// The identity of a side's service account, which is named like the side.
fn identity(side: Side) -> String {
    format!("{}.bench.serviceaccount.identity.linkerd.cluster.local", side.name())
}

/// An error unless all connections that the server's proxy has accepted were of the client's proxy,
/// proved by its certificate.
///
/// A mesh that falls back to plaintext would otherwise look fast.
pub(super) fn check_secured(place: &Place, workshop: &Workshop) -> anyhow::Result<()> {
    all_secured(&metrics(place, workshop, Side::Server)?)
}

/// How often a proxy has allocated. Only a build that counts can tell.
pub(super) fn allocations(place: &Place, workshop: &Workshop, side: Side) -> anyhow::Result<f64> {
    let metrics = metrics(place, workshop, side)?;
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("process_allocations_total "));
    Ok(count.context("the proxy does not count its allocations")?.trim().parse()?)
}

fn metrics(place: &Place, workshop: &Workshop, side: Side) -> anyhow::Result<String> {
    let mut command = place.command(side, "curl");
    command.args(["--silent", "--fail", "--max-time", "5", "http://127.0.0.1:4191/metrics"]);
    let log = workshop.scratch.join("metrics.out");
    let limit = Duration::from_secs(10);
    process::output("reading the proxy's metrics", &mut command, &log, limit)
}

fn all_secured(metrics: &str) -> anyhow::Result<()> {
    let client = format!("tls=\"true\",client_id=\"{}\"", identity(Side::Client));
    let accepted = "tcp_open_total{direction=\"inbound\",peer=\"src\",";
    let accepted: Vec<_> = metrics.lines().filter(|line| line.starts_with(accepted)).collect();
    for port in [Port::Http1, Port::Opaque] {
        let target = format!("target_port=\"{}\"", port.number());
        ensure!(
            accepted.iter().any(|line| line.contains(&target) && line.contains(&client)),
            "the server's proxy has accepted no connection for {port:?} over mutual TLS"
        );
    }
    let insecure = accepted.iter().find(|line| !line.contains(&client));
    ensure!(
        insecure.is_none(),
        "the server's proxy has accepted a connection of a stranger: {insecure:?}"
    );
    Ok(())
}

/// The cluster: meshed pods of a client and a server, and a service that selects the server's. All
/// of the server's pods but the first are further addresses of that one.
fn objects(shape: Shape) -> String {
    let listed = |name: &str| {
        Port::ALL.map(|port| format!("{{name: p{0}, {name}: {0}}}", port.number())).join(", ")
    };
    let (service_ports, container_ports) = (listed("port"), listed("containerPort"));
    let opaque = Port::Opaque.number();
    let pod = |side: Side, name: &str, address: IpAddr| {
        let account = side.name();
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: bench
  uid: {name}
  labels: {{app: {account}, linkerd.io/control-plane-ns: linkerd}}
  annotations: {{config.linkerd.io/opaque-ports: \"{opaque}\"}}
spec:
  serviceAccountName: {account}
  nodeName: node
  containers:
  - {{name: main, ports: [{container_ports}]}}
  - name: linkerd-proxy
    env:
    - {{name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: \"0.0.0.0:4143\"}}
    - {{name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: \"127.0.0.1:4191\"}}
    - {{name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR, value: \"0.0.0.0:4190\"}}
status:
  phase: Running
  podIP: {address}
  podIPs: [{{ip: {address}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
---
"
        )
    };
    let service = format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: bench}}
---
apiVersion: v1
kind: Service
metadata:
  name: server
  namespace: bench
  annotations: {{config.linkerd.io/opaque-ports: \"{opaque}\"}}
spec:
  type: ClusterIP
  clusterIP: {SERVICE}
  clusterIPs: [{SERVICE}]
  selector: {{app: server}}
  ports: [{service_ports}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: server
  namespace: bench
  labels: {{kubernetes.io/service-name: server}}
addressType: IPv4
ports: [{service_ports}]
endpoints:
"
    );
    let mut text = pod(Side::Client, "client", CLIENT);
    let mut endpoints = String::new();
    for number in 0..shape.endpoints {
        let (name, address) = (server_pod(number), endpoint(number));
        text += &pod(Side::Server, &name, address);
        // Writing to a string does not fail.
        let _ = write!(
            endpoints,
            "- addresses: [{address}]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, name: {name}, namespace: bench}}
"
        );
    }
    text + &service + &endpoints + &routes(shape)
}

/// The first is the pod that the server's proxy belongs to.
fn server_pod(number: u32) -> String {
    match number {
        0 => "server".to_owned(),
        other => format!("server-{other}"),
    }
}

/// Routes on both sides, the last of which leads everything to the server; and, as a server with
/// routes of its own wants, who may use them.
fn routes(shape: Shape) -> String {
    if shape.routes == 0 {
        return String::new();
    }
    let port = Port::Http1.number();
    let mut text = format!(
        "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: http, namespace: bench}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  port: {port}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {{name: client, namespace: bench}}
spec: {{identities: [\"{}\"]}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: client, namespace: bench}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: http}}
  requiredAuthenticationRefs:
  - {{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: client}}
",
        identity(Side::Client)
    );
    let paths = (0..shape.routes).map(passed_by).chain(["/".to_owned()]);
    for (number, path) in paths.enumerate() {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: out-{number}, namespace: bench}}
spec:
  parentRefs: [{{group: '', kind: Service, name: server, port: {port}}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: server, port: {port}}}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {{name: in-{number}, namespace: bench}}
spec:
  parentRefs: [{{group: policy.linkerd.io, kind: Server, name: http}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_proxy_knows_every_address_that_requests_go_to() {
        for endpoints in [1, 10, 1_000] {
            let shape = Shape { endpoints, ..Shape::PLAIN };
            let ours: Vec<IpAddr> =
                server_ips(shape).split(',').map(|ip| ip.parse().expect("an address")).collect();
            let objects = objects(shape);
            let listed = objects.lines().filter_map(|line| line.strip_prefix("- addresses: ["));
            let listed: Vec<IpAddr> =
                listed.map(|ip| ip.trim_end_matches(']').parse().expect("an address")).collect();
            assert_eq!(ours, listed);
            assert_eq!(ours.len(), endpoints as usize);
        }
    }

    #[test]
    fn one_connection_in_the_clear_is_one_too_many() {
        let line = |port: u16, tls: &str| {
            format!(
                "tcp_open_total{{direction=\"inbound\",peer=\"src\",target_port=\"{port}\",{tls}}} 1\n"
            )
        };
        let secured = format!("tls=\"true\",client_id=\"{}\"", identity(Side::Client));
        let clear = "tls=\"no_identity\",no_tls_reason=\"no_tls_from_remote\"";
        let both = line(8_080, &secured) + &line(8_082, &secured);
        assert!(all_secured(&both).is_ok());
        assert!(all_secured(&line(8_080, &secured)).is_err());
        assert!(all_secured(&(both + &line(8_081, clear))).is_err());
    }
}
