//! Two proxies of different make, in one mesh, on either end of a connection.
//!
//! Clients and servers exist twice: with our proxy, and with the proxy named by
//! `HAUBERK_PROXY_UNDER_TEST`, a program that speaks Linkerd's wire. Each pair of the two is tried.
//! Without the variable the other proxy is our own, started as a foreign one is: with its key and
//! request in files. What the pairs are asked is what the two ends have to agree upon: identity,
//! versions of HTTP, transport headers, upgrades, policy, routes, taps and metrics.
//!
//! Where Linkerd's proxy is known to do something else on purpose, docs/reference/compatibility.md
//! says so, and [`KNOWN`] names the case.

use std::{
    fmt::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, binary, can_run, has, metric, peers, proxy_under_test, text};

const PYTHON: &str = "/usr/bin/python3";

/// The proxies.
const OURS: &str = "ours";
const OTHER: &str = "other";

/// Cases that may fail where a foreign proxy takes part.
const KNOWN: [&str; 1] = [UNDECLARED];
const UNDECLARED: &str = "a server that speaks first, on a port nobody declared";

/// Who the authorization policies permit, and who not.
const FRIEND: &str = "friend";
const STRANGER: &str = "stranger";

/// Who may watch requests, by the injector's default.
const WATCHER: &str = "linkerd-viz";

/// An address outside of the cluster's networks, where nothing is.
const OUTSIDE: &str = "203.0.113.7";

fn identity(account: &str) -> String {
    format!("{account}.mixed.serviceaccount.identity.linkerd.cluster.local")
}

/// The command line of a sidecar.
fn command(proxy: &str) -> String {
    let ours = binary("hauberk-proxy").display().to_string();
    match proxy {
        OURS => ours,
        _ => {
            let other = proxy_under_test().unwrap_or(ours);
            format!("{} local with-identity {other}", binary("hauberk").display())
        }
    }
}

fn client(proxy: &str, account: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {proxy}-{account}
  namespace: mixed
  annotations: {{local.hauberk.io/command.linkerd-proxy: {command:?}}}
spec:
  serviceAccountName: {account}
  containers: [{{name: main, image: local/client, command: [sleep, infinity]}}]
",
        command = command(proxy)
    )
}

/// The server's applications: name, port, command, and whether the port becomes opaque by policy.
fn applications() -> Vec<(&'static str, u16, Vec<String>)> {
    let peer = |name: &str, rest: &[&str]| {
        let mut command = vec![PYTHON.to_owned(), peers().join(name).display().to_string()];
        command.extend(rest.iter().map(|word| (*word).to_owned()));
        command
    };
    let plain = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("web", 8080, peer("flaky_server.py", &["8080"])),
        ("h2", 8081, plain(&["nghttpd", "--no-tls", "-d", "/usr/share/doc", "8081"])),
        ("private", 8082, peer("flaky_server.py", &["8082"])),
        ("routed", 8083, peer("flaky_server.py", &["8083"])),
        ("profiled", 8084, peer("flaky_server.py", &["8084"])),
        ("grpc", 50051, peer("grpc_peer.py", &["server", "50051"])),
        ("redis", 6379, plain(&["redis-server", "--save", "", "--protected-mode", "no"])),
        ("secret", 7001, peer("speaks_first.py", &["server", "7001"])),
        ("greeter", 9025, peer("speaks_first.py", &["server", "9025"])),
        ("websocket", 9090, peer("websocket_peer.py", &["server", "9090"])),
    ]
}

fn server(proxy: &str) -> String {
    let (mut containers, mut ports) = (String::new(), Vec::new());
    for (name, port, command) in applications() {
        let _ = write!(
            containers,
            "      - name: {name}
        image: local/{name}
        command: {command:?}
        ports: [{{name: {name}, containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"
        );
        ports.push(format!("{{name: {name}, port: {port}}}"));
    }
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {proxy}-server, namespace: mixed}}
spec:
  selector: {{app: {proxy}}}
  ports: [{ports}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {proxy}-server, namespace: mixed}}
spec:
  selector: {{matchLabels: {{app: {proxy}}}}}
  template:
    metadata:
      labels: {{app: {proxy}, role: server}}
      annotations: {{local.hauberk.io/command.linkerd-proxy: {command:?}}}
    spec:
      containers:
{containers}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {proxy}
  namespace: mixed
  annotations: {{retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2'}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {proxy}-server, port: 8083}}]
  rules:
  - matches: [{{path: {{type: Exact, value: /slow}}}}]
    timeouts: {{request: 300ms}}
    backendRefs: [{{name: {proxy}-server, port: 8083}}]
  - matches: [{{path: {{type: PathPrefix, value: /moved}}}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{statusCode: 301, hostname: elsewhere.example}}
  - backendRefs: [{{name: {proxy}-server, port: 8083}}]
---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {{name: {proxy}-profiled.mixed.svc.cluster.local, namespace: mixed}}
spec:
  retryBudget: {{retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}}
  routes:
  - name: flaky
    condition: {{method: GET, pathRegex: /flaky/.*}}
    isRetryable: true
  - name: slow
    condition: {{method: GET, pathRegex: /slow}}
    timeout: 300ms
---
apiVersion: v1
kind: Service
metadata: {{name: {proxy}-profiled, namespace: mixed}}
spec:
  selector: {{app: {proxy}}}
  ports: [{{name: profiled, port: 8084}}]
",
        ports = ports.join(", "),
        command = command(proxy)
    )
}

fn policies() -> String {
    let mut all = format!(
        "---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {{name: friends, namespace: mixed}}
spec: {{identities: ['{}']}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {{name: outside, namespace: mixed}}
spec:
  networks: [{{cidr: 203.0.113.0/24}}]
  trafficPolicy: Deny
",
        identity(FRIEND)
    );
    for (name, protocol) in [("private", "HTTP/1"), ("secret", "opaque")] {
        let _ = write!(
            all,
            "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: {name}, namespace: mixed}}
spec:
  podSelector: {{matchLabels: {{role: server}}}}
  port: {name}
  proxyProtocol: {protocol}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: mixed}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: {name}}}
  requiredAuthenticationRefs:
  - {{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: friends}}
"
        );
    }
    all
}

fn manifest() -> String {
    let mut all = String::from(
        "apiVersion: v1
kind: Namespace
metadata: {name: mixed, annotations: {linkerd.io/inject: enabled}}
",
    );
    for account in [FRIEND, STRANGER] {
        let _ = write!(
            all,
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: mixed}}\n"
        );
    }
    for proxy in [OURS, OTHER] {
        all += &client(proxy, FRIEND);
        all += &client(proxy, STRANGER);
        all += &server(proxy);
    }
    let _ = write!(
        all,
        "---
apiVersion: v1
kind: Namespace
metadata: {{name: {WATCHER}, annotations: {{linkerd.io/inject: enabled}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: tap, namespace: {WATCHER}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: tap
  namespace: {WATCHER}
  annotations: {{local.hauberk.io/command.linkerd-proxy: {command:?}}}
spec:
  serviceAccountName: tap
  containers: [{{name: main, image: local/client, command: [sleep, infinity]}}]
",
        command = command(OURS)
    );
    all + &policies()
}

/// What one client runs, and what it has to print; where it should fail, on either stream.
struct Case {
    name: &'static str,
    command: Vec<String>,
    prints: Vec<String>,
}

fn case(name: &'static str, command: &[&str], prints: &[&str]) -> Case {
    let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Case { name, command: texts(command), prints: texts(prints) }
}

/// The cases of a client, by account, towards the server called `server`.
fn cases(account: &str, from: &str, server: &str, upload: &str) -> Vec<Case> {
    let peer = |name: &str| peers().join(name).display().to_string();
    let url = |port: u16, path: &str| format!("http://{server}-server:{port}{path}");
    let curl = |name, port, path: &str, prints: &[&str]| {
        let url = url(port, path);
        case(name, &["curl", "-s", "-m", "20", "-w", " status %{http_code}", &url], prints)
    };
    let (me, host) = (format!("[{}]", identity(account)), format!("{server}-server"));
    let greet = |name, port: &str, prints: &[&str]| {
        case(name, &[PYTHON, &peer("speaks_first.py"), "client", &host, port], prints)
    };
    if account == STRANGER {
        return vec![
            curl("a stranger is refused over HTTP", 8082, "/", &["status 403"]),
            greet("a stranger is refused on an opaque port", "7001", &["Error"]),
        ];
    }
    let (grpc, socket) = (peer("grpc_peer.py"), peer("websocket_peer.py"));
    let target = |port: u16| format!("{host}:{port}");
    let flaky = format!("/flaky/{from}");
    vec![
        curl("HTTP/1.1, and the identity of the client", 8080, "/", &["HTTP/1.1", &me, "200"]),
        case(
            "HTTP/1.0",
            &["curl", "-s", "-m", "20", "-0", &url(8080, "/zero")],
            &["HTTP/1.0", &me],
        ),
        case(
            "20 MB after 100-continue",
            &[
                "curl",
                "-s",
                "-m",
                "60",
                "-H",
                "Expect: 100-continue",
                "--data-binary",
                upload,
                "-w",
                " status %{http_code}",
                &url(8080, "/upload"),
            ],
            &["status 200"],
        ),
        case(
            "HTTP/2 with prior knowledge",
            &["h2load", "-n", "500", "-c", "2", "-m", "16", &url(8081, "/")],
            &["500 total, 500 started, 500 done"],
        ),
        case(
            "gRPC: unary, streaming, statuses, trailers",
            &[PYTHON, &grpc, "client", &target(50051)],
            &[
                "unary unary:hi seen",
                "serve-stream 1000 item:999",
                "take-stream took:1000000",
                "both 50 back:49",
                "fail FAILED_PRECONDITION not like this: 100 % ünlikely with-error",
            ],
        ),
        case("an opaque port of the defaults", &["redis-cli", "-h", &host, "ping"], &["PONG"]),
        greet(UNDECLARED, "9025", &["220", "250"]),
        case(
            "a WebSocket",
            &[PYTHON, &socket, "client", &host, "9090"],
            &["websocket text ✓ blob True close 1000"],
        ),
        curl("a friend is let in over HTTP", 8082, "/", &[&me, "status 200"]),
        greet("a friend is let in on an opaque port", "7001", &["220", "250"]),
        curl("a route repeats what failed", 8083, &flaky, &["2 HTTP/1.1", "status 200"]),
        curl("a route limits the time", 8083, "/slow", &["status 504"]),
        curl("a route redirects", 8083, "/moved", &["status 301"]),
        case(
            "a profile repeats what failed",
            &[
                "curl",
                "-s",
                "-m",
                "20",
                "-w",
                " status %{http_code}",
                &format!("http://{server}-profiled:8084{flaky}"),
            ],
            &["2 HTTP/1.1", "status 200"],
        ),
        case(
            "a profile limits the time",
            &[
                "curl",
                "-s",
                "-m",
                "20",
                "-w",
                " status %{http_code}",
                &format!("http://{server}-profiled:8084/slow"),
            ],
            &["status 504"],
        ),
        case(
            "egress that is denied, over HTTP",
            &[
                "curl",
                "-s",
                "-m",
                "20",
                "-w",
                " status %{http_code}",
                &format!("http://{OUTSIDE}/"),
            ],
            &["status 403"],
        ),
    ]
}

#[test]
fn proxies_of_different_make_understand_each_other() {
    if !can_run("mixed") {
        return;
    }
    for program in ["nghttpd", "redis-server", "redis-cli", "h2load", "curl"] {
        if !has(program) {
            return;
        }
    }
    let mut lab = Lab::up("mixed", &manifest());
    // What is listed as ready is told to the proxies a moment later.
    lab.wait("every pod has its address", Duration::from_secs(20), |lab| lab.ps().len() == 7);
    let upload = lab.file("upload", &"x".repeat(20_000_000));
    let upload = format!("@{}", upload.display());

    let mut failures = String::new();
    let mut fail = |name: &str, client: &str, server: &str, why: &str| {
        let foreign = proxy_under_test().is_some() && [client, server].contains(&OTHER);
        let known = foreign && KNOWN.contains(&name);
        println!(
            "{} {client} to {server}: {name}\n{why}",
            if known { "known  " } else { "FAILED " }
        );
        if !known {
            let _ = writeln!(failures, "{client} to {server}: {name}: {why}");
        }
    };
    for from in [OURS, OTHER] {
        for account in [FRIEND, STRANGER] {
            let pod = lab.pod("mixed", &format!("{from}-{account}"));
            for server in [OURS, OTHER] {
                for case in cases(account, from, server, &upload) {
                    match run(&lab, &pod, &case) {
                        Ok(()) => println!("ok      {from} to {server}: {}", case.name),
                        Err(why) => fail(case.name, from, server, &why),
                    }
                }
            }
        }
    }
    for side in [OURS, OTHER] {
        for why in counted(&lab, side) {
            fail("metrics", side, side, &why);
        }
        for why in tapped(&lab, side) {
            fail("tap", side, side, &why);
        }
    }
    assert!(failures.is_empty(), "{failures}\n{}", lab.story());
}

fn run(lab: &Lab, client: &Pod, case: &Case) -> Result<(), String> {
    let command: Vec<_> = case.command.iter().map(String::as_str).collect();
    let output = lab.try_exec(client, "main", &command);
    let said = text(&output.stdout) + &text(&output.stderr);
    match case.prints.iter().find(|line| !said.contains(*line)) {
        None => Ok(()),
        Some(missing) => Err(format!("  does not print {missing:?} but:\n{said}")),
    }
}

/// What is missing in the metrics of a server and a client with that proxy.
fn counted(lab: &Lab, side: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut look = |pod: Pod, container: &str, name: &str, labels: &[&str]| {
        let page = lab.metrics(&pod, container);
        if metric(&page, name, labels) < 1.0 {
            let lines = page.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
            missing.push(format!(
                "  {}: no {name} with {labels:?}:\n{}",
                pod.name(),
                lines.join("\n")
            ));
        }
    };
    let client = format!("client_id=\"{}\"", identity(FRIEND));
    let inbound = ["direction=\"inbound\"", "tls=\"true\"", &client];
    let server = || lab.pod("mixed", &format!("{side}-server"));
    look(server(), "web", "tcp_open_total", &[inbound[0], "peer=\"src\"", inbound[1], inbound[2]]);
    look(server(), "web", "request_total", &inbound);
    look(server(), "web", "response_total", &[inbound[0], "classification=\"success\""]);
    look(server(), "web", "inbound_http_authz_allow_total", &["authz_name=\"private\""]);
    look(server(), "web", "inbound_http_authz_deny_total", &["srv_name=\"private\""]);
    look(server(), "web", "inbound_tcp_authz_deny_total", &["srv_name=\"secret\""]);
    let pod = || lab.pod("mixed", &format!("{side}-{FRIEND}"));
    for to in [OURS, OTHER] {
        let service = format!("dst_service=\"{to}-server\"");
        let server = "server_id=\"default.mixed.serviceaccount.";
        let outbound = ["direction=\"outbound\"", "tls=\"true\"", server, &service];
        look(pod(), "main", "request_total", &outbound);
        look(pod(), "main", "response_latency_ms_count", &outbound);
    }
    look(
        pod(),
        "main",
        "outbound_http_route_request_statuses_total",
        &["error=\"REQUEST_TIMEOUT\""],
    );
    look(pod(), "main", "control_identity_cert_refreshes_total", &[]);
    missing
}

/// Whether requests to a server with that proxy can be watched: by `hauberk local tap`, and by who
/// has the identity that may, through the mesh.
fn tapped(lab: &Lab, side: &str) -> Vec<String> {
    let server = format!("mixed/{side}-server");
    let port = format!("{}:4190", lab.pod("mixed", &format!("{side}-server")).ip());
    let program = peers().join("tap_peer.py").display().to_string();
    let by_identity = |path: &'static str| {
        ["exec", "-n", WATCHER, "tap", "--", PYTHON, &program, &port, path].map(str::to_owned)
    };
    let by_loopback = ["tap", &server, "--path", "/by-loopback", "--count", "1"].map(str::to_owned);
    let mut wrong = watch(lab, side, "/by-identity", &by_identity("/by-identity"));
    // Linkerd's proxy wants an identity from everybody.
    if side == OURS || proxy_under_test().is_none() {
        wrong.extend(watch(lab, side, "/by-loopback", &by_loopback));
    }
    wrong
}

/// Asks the server for `path` until the watcher, a command of the lab, has ended.
fn watch(lab: &Lab, side: &str, path: &str, watcher: &[String]) -> Vec<String> {
    let client = lab.pod("mixed", &format!("{OURS}-{FRIEND}"));
    let url = format!("http://{side}-server:8080{path}");
    let watcher: Vec<_> = watcher.iter().map(String::as_str).collect();
    let tap = lab.command(&watcher).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut tap = tap.expect("start a watcher");
    let deadline = Instant::now() + Duration::from_secs(25);
    while tap.try_wait().expect("ask for the watcher").is_none() {
        if Instant::now() > deadline {
            tap.kill().expect("end the watcher");
        }
        lab.try_exec(&client, "main", &["curl", "-s", "-m", "5", &url]);
    }
    let output = tap.wait_with_output().expect("what the watcher said");
    let said = text(&output.stdout) + &text(&output.stderr);
    if said.contains(path) { Vec::new() } else { vec![format!("  {path}: {said}")] }
}
