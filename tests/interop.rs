//! Programs nobody here wrote, through the mesh and unmodified.
//!
//! Every client and server below runs in a pod of its own, as it ships. What is checked is what
//! the client prints, and that the sidecars say the connection was secured.

use std::fmt::Write as _;
use system_tests::{Lab, Pod, can_run, has, metric, peers, text};

const PYTHON: &str = "/usr/bin/python3";

/// A Deployment of one container with its Service.
fn server(name: &str, port: u16, command: &[&str]) -> String {
    let command: Vec<_> = command.iter().map(|word| format!("{word:?}")).collect();
    format!(
        r#"---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: interop}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: main, port: {port}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: interop}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: main
        image: local/{name}
        command: [{command}]
        ports: [{{containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"#,
        command = command.join(", ")
    )
}

const NGINX: &str = "daemon off; pid /tmp/nginx.pid; error_log stderr; worker_processes 1;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/nginx-body; proxy_temp_path /tmp/nginx-proxy;
  fastcgi_temp_path /tmp/nginx-fastcgi; uwsgi_temp_path /tmp/nginx-uwsgi; scgi_temp_path /tmp/nginx-scgi;
  server {
    listen 8080; listen [::]:8080;
    client_max_body_size 64m;
    location = / { return 200 'hello from nginx\\n'; }
    location = /headers { return 200 '[$http_l5d_client_id] $server_protocol\\n'; }
    location = /missing { return 404 'nothing here\\n'; }
    location = /upload { client_body_buffer_size 64m; if ($request_method = POST) { return 200 'took $content_length\\n'; } return 405; }
  }
}
";

fn manifest(nginx_conf: &str) -> String {
    let peer = |name: &str| peers().join(name).display().to_string();
    let mut all = String::from(
        "apiVersion: v1
kind: Namespace
metadata: {name: interop, annotations: {linkerd.io/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: interop, labels: {app: client}}
spec:
  containers: [{name: main, image: local/client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata:
  name: outsider
  namespace: interop
  annotations: {linkerd.io/inject: disabled}
spec:
  containers: [{name: main, image: local/client, command: [sleep, infinity]}]
",
    );
    all += &server("nginx", 8080, &["nginx", "-c", nginx_conf]);
    all += &server("nghttpd", 8081, &["nghttpd", "--no-tls", "-d", "/usr/share/doc", "8081"]);
    all += &server("grpc", 50051, &[PYTHON, &peer("grpc_peer.py"), "server", "50051"]);
    all += &server("redis", 6379, &["redis-server", "--save", "", "--protected-mode", "no"]);
    all += &server("mysql-like", 3306, &[PYTHON, &peer("speaks_first.py"), "server", "3306"]);
    all += &server("greeter", 9025, &[PYTHON, &peer("speaks_first.py"), "server", "9025"]);
    all += &server("websocket", 9090, &[PYTHON, &peer("websocket_peer.py"), "server", "9090"]);
    all
}

/// One client, what it runs and what it must print.
struct Case {
    name: &'static str,
    program: &'static str,
    command: Vec<String>,
    prints: &'static [&'static str],
}

fn case(name: &'static str, command: &[&str], prints: &'static [&'static str]) -> Case {
    let program = ["curl", "h2load", "redis-cli", "node", "ruby", "php", "perl", PYTHON];
    let program = program.into_iter().find(|program| command[0] == *program).expect("listed above");
    Case { name, program, command: command.iter().map(|word| (*word).to_owned()).collect(), prints }
}

fn cases(upload: &str) -> Vec<Case> {
    let peer = |name: &str| peers().join(name).display().to_string();
    let (grpc, greeter, socket) =
        (peer("grpc_peer.py"), peer("speaks_first.py"), peer("websocket_peer.py"));
    let page = "http://nginx:8080/";
    vec![
        case("curl speaks HTTP/1.1", &["curl", "-sS", page], &["hello from nginx"]),
        case("curl speaks HTTP/1.0", &["curl", "-sS0", page], &["hello from nginx"]),
        case(
            "curl keeps a connection and sees statuses",
            &["curl", "-sS", "-w", "%{http_code} ", page, "http://nginx:8080/missing"],
            &["hello from nginx", "200", "nothing here", "404"],
        ),
        case("curl asks with HEAD", &["curl", "-sSI", page], &["200 OK", "ontent-"]),
        case(
            "curl uploads 20 MB after 100-continue",
            &[
                "curl",
                "-sS",
                "-H",
                "Expect: 100-continue",
                "--data-binary",
                upload,
                "http://nginx:8080/upload",
            ],
            &["took 20000000"],
        ),
        case(
            "the application learns the client's identity",
            &["curl", "-sS", "-H", "l5d-client-id: forged", "http://nginx:8080/headers"],
            &["[default.interop.serviceaccount.identity.linkerd.cluster.local] HTTP/1.1"],
        ),
        case(
            "curl by full name",
            &["curl", "-sS", "http://nginx.interop.svc.cluster.local:8080/"],
            &["hello"],
        ),
        case(
            "h2load speaks HTTP/2 with prior knowledge",
            &["h2load", "-n", "2000", "-c", "4", "-m", "16", "http://nghttpd:8081/"],
            &["2000 total, 2000 started, 2000 done"],
        ),
        case(
            "h2load speaks HTTP/1.1",
            &["h2load", "--h1", "-n", "2000", "-c", "8", page],
            &["2000 succeeded, 0 failed, 0 errored, 0 timeout"],
        ),
        case(
            "grpcio: unary, streaming, statuses, trailers",
            &[PYTHON, &grpc, "client", "grpc:50051"],
            &[
                "unary unary:hi seen",
                "serve-stream 1000 item:999",
                "take-stream took:1000000",
                "both 50 back:49",
                "fail FAILED_PRECONDITION not like this: 100 % ünlikely with-error",
            ],
        ),
        case("redis: write", &["redis-cli", "-h", "redis", "set", "key", "value"], &["OK"]),
        case("redis: read", &["redis-cli", "-h", "redis", "get", "key"], &["value"]),
        case(
            "a server that speaks first, on a port known to be opaque",
            &[PYTHON, &greeter, "client", "mysql-like", "3306"],
            &["220 speak, friend | 250 hello | 0"],
        ),
        case(
            "a server that speaks first, on a port nobody declared",
            &[PYTHON, &greeter, "client", "greeter", "9025"],
            &["220 speak, friend | 250 hello | 0"],
        ),
        case(
            "a WebSocket",
            &[PYTHON, &socket, "client", "websocket", "9090"],
            &["websocket text ✓ blob True close 1000"],
        ),
        case("Python's own client", &[PYTHON, &peer("get.py"), page], &["python 200 hello"]),
        case("Node's own client", &["node", &peer("get.mjs"), page], &["node 200 hello"]),
        case("Ruby's own client", &["ruby", &peer("get.rb"), page], &["ruby 200 hello"]),
        case("PHP's own client", &["php", &peer("get.php"), page], &["php 200 hello"]),
        case("Perl's own client", &["perl", &peer("get.pl"), page], &["perl 200 hello"]),
    ]
}

#[test]
fn programs_work_through_the_mesh_unmodified() {
    if !can_run("interop") {
        return;
    }
    for program in ["nginx", "nghttpd", "redis-server"] {
        assert!(has(program), "{program} is needed by the lab");
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let nginx = folder.path().join("nginx.conf");
    std::fs::write(&nginx, NGINX).expect("write nginx.conf");
    let lab = Lab::up("interop", &manifest(&nginx.display().to_string()));
    let client = lab.pod("interop", "client");
    assert!(client.is_meshed(), "the client has a sidecar");
    let upload = folder.path().join("upload");
    std::fs::write(&upload, vec![b'x'; 20_000_000]).expect("write the upload");

    let mut failures = String::new();
    for case in cases(&format!("@{}", upload.display())) {
        if !has(case.program) {
            continue;
        }
        match run(&lab, &client, &case) {
            Ok(()) => println!("ok      {}", case.name),
            Err(why) => {
                println!("FAILED  {}\n{why}", case.name);
                let _ = writeln!(failures, "{}: {why}", case.name);
            }
        }
    }
    for name in ["nginx", "nghttpd", "grpc", "redis", "mysql-like", "greeter", "websocket"] {
        let page = lab.metrics(&lab.pod("interop", name), "main");
        let secured = [
            "direction=\"inbound\"",
            "peer=\"src\"",
            "tls=\"true\"",
            "client_id=\"default.interop.",
        ];
        if metric(&page, "tcp_open_total", &secured) < 1.0 {
            let _ = writeln!(failures, "{name}: no inbound connection was secured");
        }
    }
    outsider(&lab, &mut failures);
    assert!(failures.is_empty(), "{failures}\n{}\n{}", lab.story(), lab.logs(&client));
}

fn run(lab: &Lab, client: &Pod, case: &Case) -> Result<(), String> {
    let command: Vec<_> = case.command.iter().map(String::as_str).collect();
    let output = lab.try_exec(client, "main", &command);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let missing = case.prints.iter().find(|line| !stdout.contains(*line));
    match (output.status.success(), missing) {
        (true, None) => Ok(()),
        (success, missing) => Err(format!(
            "success {success}, does not print {missing:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )),
    }
}

/// A pod without a sidecar reaches services too, and cannot lie about its identity.
fn outsider(lab: &Lab, failures: &mut String) {
    let pod = lab.pod("interop", "outsider");
    assert!(!pod.is_meshed(), "the outsider has no sidecar");
    let ask = ["curl", "-sS", "-H", "l5d-client-id: forged", "http://nginx:8080/headers"];
    let output = lab.try_exec(&pod, "main", &ask);
    if text(&output.stdout) != "[] HTTP/1.1\n" {
        let _ = writeln!(failures, "outsider: {}{}", text(&output.stdout), text(&output.stderr));
    }
}
