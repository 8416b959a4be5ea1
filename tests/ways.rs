//! Every way in and out of a pod, in one lab: both IP families, names, a pod that calls itself,
//! ingresses, gateways, machines outside of the cluster, the host, and everything beyond.
//!
//! Who answers tells what reached it. `l5d-client-id`, which a server's proxy sets to what the
//! client's proxy has proved, tells that a request came by mutual TLS, and from whom.

use serde_json::Value;
use std::{
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, can_run, has, peers, text};

const PYTHON: &str = "/usr/bin/python3";

/// How long a change may take to hold everywhere; it takes milliseconds.
const CONVERGENCE: Duration = Duration::from_secs(15);

/// Where pods are that others name by address.
const SERVER: &str = "10.42.88.1";
const GATEWAY: &str = "10.42.88.2";

/// The lab's own address, where its host is (`docs/guides/local.md`).
const HOST: &str = "10.42.0.1";

/// An address that no cluster has (RFC 5737), which the lab's host gets.
const OUTSIDE: &str = "198.51.100.7";

/// The identity of everybody here but the gateway, who takes requests from itself for a loop.
const ID: &str = "default.ways.serviceaccount.identity.linkerd.cluster.local";
const GATEWAY_ID: &str = "gateway.ways.serviceaccount.identity.linkerd.cluster.local";

fn pod(name: &str, annotations: &str, more: &str, command: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: ways, labels: {{app: {name}}}, annotations: {{{annotations}}}}}
spec:
  {more}
  containers:
  - name: main
    image: local/echo
    command: {command}
    env:
    - {{name: POD_NAME, value: {name}}}
    - {{name: POD_NAMESPACE, value: ways}}
    ports: [{{name: http, containerPort: 8080}}]
"
    )
}

fn service(name: &str, selected: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: ways}}
spec:
  selector: {{app: {selected}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
  {more}
"
    )
}

/// A machine outside of the cluster whose proxy proves to be `identity`.
fn machine(name: &str, identity: &str) -> String {
    format!(
        "---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: {name}, namespace: ways, labels: {{app: {name}}}}}
spec:
  meshTLS: {{identity: {identity}, serverName: {ID}}}
  ports: [{{name: http, port: 8080}}, {{name: linkerd-proxy, port: 4143}}]
  workloadIPs: [{{ip: {SERVER}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

fn manifest() -> String {
    let echo = peers().join("echo.py");
    let serve = format!("[{PYTHON}, {}, serve]", echo.display());
    let sleep = "[sleep, infinity]";
    let at = |address: &str| format!("local.hauberk.io/ip: {address}");
    let ready = "hostname: server
  subdomain: headless";
    [
        "apiVersion: v1
kind: Namespace
metadata: {name: ways, annotations: {linkerd.io/inject: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: gateway, namespace: ways}
"
        .to_owned(),
        pod("server", &at(SERVER), ready, &serve),
        pod("client", "", "", sleep),
        pod("ingress", "linkerd.io/inject: ingress", "", sleep),
        pod(
            "gateway",
            &format!("{}, config.linkerd.io/enable-gateway: 'true'", at(GATEWAY)),
            "serviceAccountName: gateway",
            sleep,
        ),
        service("server", "server", ""),
        service("six", "server", "ipFamilies: [IPv6]"),
        service("both", "server", "ipFamilyPolicy: RequireDualStack"),
        service("headless", "server", "clusterIP: None"),
        service("machine", "machine", ""),
        service("impostor", "impostor", ""),
        machine("machine", ID),
        machine("impostor", &ID.replace("default.", "other.")),
        // What a service mirror writes: the service of another cluster, behind that one's gateway.
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: mirrored, namespace: ways}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: mirrored
  namespace: ways
  labels: {{kubernetes.io/service-name: mirrored}}
  annotations:
    mirror.linkerd.io/remote-svc-fq-name: server.ways.svc.cluster.local
    mirror.linkerd.io/remote-gateway-identity: {GATEWAY_ID}
addressType: IPv4
ports: [{{name: http, port: 4143}}]
endpoints: [{{addresses: [{GATEWAY}], conditions: {{ready: true}}}}]
"
        ),
    ]
    .concat()
}

/// What came of a request.
#[derive(Debug)]
struct Answer {
    /// 0 if there was none.
    status: u16,
    body: String,
    /// Why there was none.
    error: String,
}

impl Answer {
    /// Who answered, if it was an echo.
    fn echo(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    fn by(&self) -> String {
        self.echo()["pod"].as_str().unwrap_or_default().to_owned()
    }

    /// A header as it came to the server.
    fn header(&self, name: &str) -> Option<String> {
        let echo = self.echo();
        let found = echo["headers"].as_array()?.iter().find(|header| header[0] == name)?;
        found[1].as_str().map(ToOwned::to_owned)
    }

    /// The server answered, and the client was known by a certificate.
    fn is_secured(&self) -> bool {
        self.is_from(ID)
    }

    fn is_from(&self, identity: &str) -> bool {
        self.by() == "server" && self.header("l5d-client-id").as_deref() == Some(identity)
    }

    /// That one answered, and knew nothing of the client.
    fn is_plain_by(&self, name: &str) -> bool {
        self.by() == name && self.header("l5d-client-id").is_none()
    }
}

fn answer(output: &std::process::Output) -> Answer {
    let said = text(&output.stdout);
    let (body, status) = said.rsplit_once('\n').unwrap_or(("", "0"));
    let status = status.parse().unwrap_or_default();
    Answer { status, body: body.to_owned(), error: text(&output.stderr) }
}

const CURL: [&str; 6] = ["curl", "-sS", "-w", "\n%{http_code}", "-m", "10"];

struct Ways {
    lab: Lab,
}

impl Ways {
    fn pod(&self, name: &str) -> Pod {
        self.lab.pod("ways", name)
    }

    fn ask(&self, from: &str, arguments: &[&str]) -> Answer {
        let command = [&CURL[..], arguments].concat();
        answer(&self.lab.try_exec(&self.pod(from), "main", &command))
    }

    /// Asks until the answer is as wanted.
    fn until(&self, what: &str, from: &str, arguments: &[&str], wanted: impl Fn(&Answer) -> bool) {
        let deadline = Instant::now() + CONVERGENCE;
        loop {
            let answer = self.ask(from, arguments);
            if wanted(&answer) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {answer:?}\n{}\n{}",
                self.lab.logs(&self.pod(from)),
                self.lab.story()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn secured(&self, what: &str, from: &str, arguments: &[&str]) {
        self.until(what, from, arguments, Answer::is_secured);
    }

    fn change(&self, verb: &str, manifest: &str) {
        let path = self.lab.file("change.yml", manifest).display().to_string();
        self.lab.hauberk(&[verb, "-f", &path]);
    }
}

/// The lab's own network, which leads packets between pods: that of a process of the lab which is
/// in no pod.
struct Host {
    network: String,
    running: Vec<Child>,
}

impl Host {
    fn of(lab: &Lab) -> Self {
        let own = std::fs::read_link("/proc/self/ns/net").expect("read our own namespace");
        let mut processes = vec![lab.front_pid().to_string()];
        while let Some(process) = processes.pop() {
            let network = format!("/proc/{process}/ns/net");
            if std::fs::read_link(&network).is_ok_and(|it| it != own) {
                return Self { network, running: Vec::new() };
            }
            let children = format!("/proc/{process}/task/{process}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            processes.extend(children.split_whitespace().map(ToOwned::to_owned));
        }
        panic!("the lab has no network of its own\n{}", lab.story());
    }

    /// A program on the host that ends with this value.
    fn command(&self, command: &[&str]) -> Command {
        let mut whole = Command::new("setpriv");
        whole.args(["--pdeathsig", "KILL", "nsenter", &format!("--net={}", self.network)]);
        whole.args(command).stdin(Stdio::null());
        whole
    }

    fn run(&self, command: &[&str]) -> std::process::Output {
        self.command(command).output().expect("run nsenter")
    }

    fn start(&mut self, command: &[&str]) {
        let mut command = self.command(command);
        command.env("POD_NAME", "host").env("POD_NAMESPACE", "none");
        self.running.push(command.spawn().expect("start nsenter"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn every_way_in_and_out_of_a_pod() {
    if !can_run("ways") || !has("openssl") || !has("curl") {
        return;
    }
    let ways = Ways { lab: Lab::up("ways", &manifest()) };
    let mut host = Host::of(&ways.lab);
    let echo = peers().join("echo.py").display().to_string();
    host.run(&["ip", "address", "add", &format!("{OUTSIDE}/32"), "dev", "lo"]);
    host.start(&[PYTHON, &echo, "serve"]);

    names(&ways);
    both_families(&ways);
    to_itself(&ways);
    ingress(&ways);
    gateway(&ways);
    machines(&ways);
    the_host(&ways, &host);
    beyond(&ways, &mut host);
}

/// Whatever a name leads to, it leads there by mutual TLS.
fn names(ways: &Ways) {
    let headless = ["headless", "server.headless", "server.headless.ways.svc.cluster.local"];
    let names = ["server", "server.ways", "server.ways.svc", "server.ways.svc.cluster.local"];
    for name in names {
        ways.secured(name, "client", &[&format!("http://{name}/")]);
    }
    // These have the addresses of pods, so the port is the pod's.
    for name in headless {
        ways.secured(name, "client", &[&format!("http://{name}:8080/")]);
    }
    ways.secured("an address of a pod", "client", &[&format!("http://{SERVER}:8080/")]);
    let nobody = ways.ask("client", &["http://nobody.ways/"]);
    assert!(nobody.status == 0 && nobody.error.contains("Could not resolve"), "{nobody:?}");
}

fn both_families(ways: &Ways) {
    ways.secured("a service with IPv6 only", "client", &["http://six/"]);
    let four = ways.ask("client", &["-4", "http://six/"]);
    assert_eq!(four.status, 0, "it has no other address: {four:?}");
    for family in ["-4", "-6"] {
        ways.secured("a service with both", "client", &[family, "http://both/"]);
    }
    let server = ways.pod("server");
    let addresses = server.0["ips"].as_array().expect("addresses");
    let six = addresses.iter().filter_map(Value::as_str).find(|ip| {
        let ip: IpAddr = ip.parse().expect("an address");
        ip.is_ipv6()
    });
    let url = format!("http://[{}]:8080/", six.expect("pods have both families"));
    ways.secured("an IPv6 address of a pod", "client", &[&url]);
}

/// A pod that calls its own service may get itself, and nobody else gets in between.
fn to_itself(ways: &Ways) {
    // By the name alone it would mean its own address, as the host that it is.
    for url in ["http://server.ways/", "http://both/", &format!("http://{SERVER}:8080/")] {
        ways.until("a pod calls itself", "server", &[url], |answer| answer.by() == "server");
    }
    let six = ways.ask("server", &["-6", "http://both/"]);
    assert_eq!(six.by(), "server", "{six:?}");
}

/// An ingress dials what it likes and says by a header what it means.
fn ingress(ways: &Ways) {
    let meant = "l5d-dst-override: server.ways.svc.cluster.local:80";
    let nowhere = "http://198.51.100.99:8080/";
    ways.secured("by the header", "ingress", &["-H", meant, nowhere]);
    ways.secured("without the header", "ingress", &["http://server/"]);
    let is_told = ways.ask("ingress", &["-H", meant, nowhere]).header("l5d-dst-override");
    assert_eq!(is_told, None, "the header is for the proxy");
    for (header, status) in [
        // As with Linkerd there is a profile for every name that a service could have, so this one
        // is known to have no endpoints.
        ("l5d-dst-override: nobody.ways.svc.cluster.local:80", 504),
        ("l5d-dst-override: nobody.example:80", 500),
        ("l5d-dst-override: no name at all", 400),
    ] {
        let answer = ways.ask("ingress", &["-H", header, nowhere]);
        assert_eq!(answer.status, status, "{header}: {answer:?}");
    }
}

/// A service of another cluster is reached through that one's gateway, by mutual TLS on both hops.
fn gateway(ways: &Ways) {
    let mirrored = ["http://mirrored/"];
    let is_from_gateway = |answer: &Answer| answer.is_from(GATEWAY_ID);
    ways.until("through the gateway", "client", &mirrored, is_from_gateway);
    let answer = ways.ask("client", &mirrored);
    let forwarded = answer.header("forwarded").unwrap_or_default();
    for part in [&format!("by={GATEWAY_ID}")[..], &format!("for={ID}"), "proto=https"] {
        assert!(forwarded.contains(part), "{part} is not in {forwarded:?}");
    }
    let name = "server.ways.svc.cluster.local";
    assert!(answer.header("host").is_some_and(|host| host.starts_with(name)), "{answer:?}");
    let around = ways.ask("client", &["http://server/"]);
    assert_eq!(around.header("forwarded"), None, "others go straight there");
}

fn machines(ways: &Ways) {
    ways.secured("a machine", "client", &["http://machine/"]);
    // At the same address, but it should be somebody else.
    let answer = ways.ask("client", &["http://impostor/"]);
    assert!((500..600).contains(&answer.status), "{answer:?}");
    assert_eq!(answer.by(), "");
}

/// What runs on the node has no proxy: it is let in and reached in the clear.
fn the_host(ways: &Ways, host: &Host) {
    let url = format!("http://{HOST}:8080/");
    ways.until("to the host", "client", &[&url], |answer| answer.is_plain_by("host"));
    let server = format!("http://{SERVER}:8080/");
    let asked = answer(&host.run(&[&CURL[..], &[&server]].concat()));
    assert!(asked.is_plain_by("server"), "{asked:?}");
    // Unless only members of the mesh are let in.
    let policy = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: members, namespace: ways}
spec:
  podSelector: {matchLabels: {app: server}}
  port: 8080
  accessPolicy: all-authenticated
";
    ways.change("apply", policy);
    let deadline = Instant::now() + CONVERGENCE;
    while answer(&host.run(&[&CURL[..], &[&server]].concat())).status != 403 {
        assert!(Instant::now() < deadline, "the host is still let in\n{}", ways.lab.story());
    }
    ways.secured("a member", "client", &[&server]);
    ways.change("delete", policy);
    ways.until("to the host", "client", &[&url], |answer| answer.is_plain_by("host"));
}

/// Outside of the cluster nobody is in the way, until an egress network says what is allowed.
fn beyond(ways: &Ways, host: &mut Host) {
    let certificate = ways.lab.file("outside.pem", "").display().to_string();
    let key = ways.lab.file("outside.key", "").display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "1", "-subj", "/CN=outside", "-out", &certificate, "-keyout", &key])
        .output()
        .expect("run openssl");
    assert!(made.status.success() && Path::new(&key).exists(), "{}", text(&made.stderr));
    let program = peers().join("tls_server.py").display().to_string();
    host.start(&[PYTHON, &program, "443", &certificate, &key]);

    let plain = [&format!("http://{OUTSIDE}:8080/")[..]];
    let by_name = |name: &str| {
        let resolve = format!("{name}:443:{OUTSIDE}");
        ["-k".to_owned(), "--resolve".to_owned(), resolve, format!("https://{name}/")]
    };
    let tls = |what: &str, name: &str, passes: bool| {
        let arguments = by_name(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ways.until(what, "client", &arguments, |answer| match passes {
            true => answer.status == 200 && answer.body.trim() == name,
            false => answer.status == 0 && !answer.error.contains("Couldn't connect"),
        });
    };
    ways.until("HTTP", "client", &plain, |answer| answer.is_plain_by("host"));
    tls("TLS", "good.example", true);

    let deny = "apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {name: beyond, namespace: ways}
spec: {trafficPolicy: Deny}
";
    ways.change("apply", deny);
    ways.until("HTTP is denied", "client", &plain, |answer| answer.status == 403);
    tls("TLS is denied", "good.example", false);
    ways.secured("the cluster is not meant", "client", &["http://server/"]);

    let route = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: good, namespace: ways}
spec:
  hostnames: [good.example, '*.shops.example']
  parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: beyond, port: 443}]
  rules:
  - backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: beyond}]
";
    ways.change("apply", route);
    tls("a name that is allowed", "good.example", true);
    tls("a name below another", "a.shops.example", true);
    tls("a name that is not", "bad.example", false);
    ways.until("HTTP is still denied", "client", &plain, |answer| answer.status == 403);

    ways.change("delete", route);
    ways.change("apply", &deny.replace("Deny", "Allow"));
    ways.until("HTTP is allowed", "client", &plain, |answer| answer.is_plain_by("host"));
    tls("TLS is allowed", "bad.example", true);
}
