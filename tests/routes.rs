//! What routes do beyond the cases of the Gateway API: faults, grants, and what statuses say of it; and
//! how mistakes in them and in annotations are shown.

use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, can_run, peers, text};

const PYTHON: &str = "/usr/bin/python3";

/// How long a change may take to hold everywhere; it takes milliseconds.
const CONVERGENCE: Duration = Duration::from_secs(10);

/// The echo application, in a namespace of its own.
fn echo(namespace: &str) -> String {
    let program = peers().join("echo.py").display().to_string();
    format!(
        "---
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, annotations: {{linkerd.io/inject: enabled}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: {namespace}}}
spec:
  selector: {{app: echo}}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      containers:
      - name: echo
        image: local/echo
        command: [{PYTHON}, {program}, serve]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

fn route(annotations: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: one, annotations: {annotations}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: echo, port: 80}}]
  rules: {rules}
"
    )
}

struct Cluster {
    lab: Lab,
    client: Pod,
}

impl Cluster {
    fn apply(&self, manifest: &str) {
        let path = self.lab.file("route.yml", manifest).display().to_string();
        self.lab.hauberk(&["apply", "-f", &path]);
    }

    /// Status of an answer, the namespace of who answered, and how long it took.
    fn ask(&self) -> (String, String, Duration) {
        let url = "http://echo.one/";
        let ask = ["curl", "-s", "-w", "\n%{http_code}", "--max-time", "20", url];
        let began = Instant::now();
        let output = self.lab.try_exec(&self.client, "echo", &ask);
        let took = began.elapsed();
        let answer = text(&output.stdout);
        let (body, code) = answer.rsplit_once('\n').unwrap_or_default();
        let namespace = serde_json::from_str::<Value>(body).unwrap_or_default();
        let namespace = namespace["namespace"].as_str().unwrap_or_default().to_owned();
        (code.to_owned(), namespace, took)
    }

    /// Asks until the answer is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&(String, String, Duration)) -> bool) {
        let deadline = Instant::now() + CONVERGENCE;
        loop {
            let answer = self.ask();
            if wanted(&answer) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {answer:?}\n{}",
                self.lab.logs(&self.client)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `Accepted` and `ResolvedRefs` of the route: `True` or the reason.
    fn conditions(&self) -> Vec<String> {
        let shown = self.lab.hauberk(&["get", "httproute", "r", "-n", "one", "-o", "json"]);
        let route: Value = serde_json::from_str(&shown).expect("JSON");
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned();
        let say = |one: Value| match one["status"].as_str() {
            Some("True") => "True".to_owned(),
            _ => one["reason"].as_str().unwrap_or_default().to_owned(),
        };
        conditions.unwrap_or_default().into_iter().map(say).collect()
    }
}

#[test]
fn faults_and_grants_hold_as_the_status_says() {
    if !can_run("routes") {
        return;
    }
    let strict = ["--controller-arg=--require-reference-grants"];
    let lab = Lab::up_with("routes", &(echo("one") + &echo("two")), &strict);
    let client = lab.pod("two", "echo");
    let cluster = Cluster { lab, client };
    let to_self = "[{backendRefs: [{name: echo, port: 80}]}]";

    cluster.apply(&route("{}", to_self));
    cluster.until("without faults", |(code, namespace, _)| code == "200" && namespace == "one");
    assert_eq!(cluster.conditions(), ["True", "True"]);

    cluster.apply(&route("{fault.hauberk.io/failure: '503'}", to_self));
    cluster.until("a failure is injected", |(code, ..)| code == "503");

    cluster.apply(&route("{fault.hauberk.io/delay: 1500ms}", to_self));
    let delayed = Duration::from_millis(1500);
    cluster.until("a delay is injected", |(code, _, took)| code == "200" && *took >= delayed);

    let both = "{fault.hauberk.io/delay: 60s, timeout.linkerd.io/request: 200ms}";
    cluster.apply(&route(both, to_self));
    cluster.until("a delay ends with its request", |(code, ..)| code == "504");

    // What cannot be read makes the route count for nothing, and the status says so.
    cluster.apply(&route("{fault.hauberk.io/failure: often}", to_self));
    cluster.until("a bad fault is none", |(code, ..)| code == "200");
    assert_eq!(cluster.conditions(), ["UnsupportedValue", "True"]);

    let elsewhere = "[{backendRefs: [{name: echo, namespace: two, port: 80}]}]";
    cluster.apply(&route("{}", elsewhere));
    cluster.until("nobody granted it", |(code, ..)| code == "500");
    assert_eq!(cluster.conditions(), ["True", "RefNotPermitted"]);
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: two}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: one}]
  to: [{group: '', kind: Service}]
";
    cluster.apply(grant);
    cluster.until("it is granted", |(code, namespace, _)| code == "200" && namespace == "two");
    assert_eq!(cluster.conditions(), ["True", "True"]);
    let path = cluster.lab.file("grant.yml", grant).display().to_string();
    cluster.lab.hauberk(&["delete", "-f", &path]);
    cluster.until("it is revoked", |(code, ..)| code == "500");
}

#[test]
fn what_the_control_plane_cannot_read_is_shown_with_its_object() {
    if !can_run("problems") {
        return;
    }
    let service = |name: &str, limit: &str| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: one, annotations: {{retry.linkerd.io/limit: '{limit}'}}}}
spec: {{selector: {{app: none}}, ports: [{{port: 80}}]}}
"
        )
    };
    let pod = "---
apiVersion: v1
kind: Pod
metadata: {name: idle, namespace: one}
spec: {containers: [{name: main, image: local/idle, command: [sleep, infinity]}]}
";
    let mut lab =
        Lab::up("problems", &(pod.to_owned() + &service("bad", "many") + &service("good", "3")));
    let line = |lab: &Lab, kind: &str, name: &str| {
        let shown = lab.hauberk(&["get", kind, "-n", "one"]);
        let line = shown.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{shown}")).to_owned()
    };
    let problem = "annotation retry.linkerd.io/limit: 'many' is not a number of retries";
    lab.wait("the annotation is told", CONVERGENCE, |lab| {
        line(lab, "svc", "bad").ends_with(problem)
    });
    assert!(!line(&lab, "svc", "good").contains("annotation"));
    let conditions = |lab: &Lab, name: &str| {
        let shown = lab.hauberk(&["get", "svc", name, "-n", "one", "-o", "json"]);
        let service: Value = serde_json::from_str(&shown).expect("JSON");
        service["status"]["conditions"].clone()
    };
    let expect = json!([{"type": "hauberk.io/Understood", "status": "False",
        "reason": "CannotBeRead", "message": problem}]);
    assert_eq!(conditions(&lab, "bad"), expect);
    assert_eq!(conditions(&lab, "good"), Value::Null);

    let apply = |lab: &Lab, manifest: &str| {
        let path = lab.file("changed.yml", manifest).display().to_string();
        lab.hauberk(&["apply", "-f", &path]);
    };
    apply(&lab, &service("bad", "4"));
    lab.wait("a mended annotation is told no more", CONVERGENCE, |lab| {
        conditions(lab, "bad").is_null()
    });

    apply(&lab, &route("{}", "broken"));
    lab.wait("an object that is broken as a whole is told", CONVERGENCE, |lab| {
        line(lab, "httproute", "r").contains("rules")
    });

    // A control plane that hangs hides nothing but its own word.
    let pid = lab.control_plane().pid("destination").expect("it runs").to_string();
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("run kill").success());
    };
    signal("-STOP");
    let shown = lab.try_hauberk(&["get", "svc", "good", "-n", "one"]);
    signal("-CONT");
    assert!(shown.status.success() && text(&shown.stdout).contains("good"), "{shown:?}");
    assert!(text(&shown.stderr).contains("cannot ask the control plane"), "{shown:?}");
}
