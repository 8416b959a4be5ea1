//! The services that all cases share, and the cases about which service a route is for.

use crate::{
    Case,
    ask::{Ask, From, PYTHON},
};
use system_tests::peers;

/// Two versions of the echo application behind one service and a service each, and a pod in
/// another namespace.
pub(crate) fn manifest() -> String {
    let mut all = String::new();
    for namespace in ["conformance", "consumer"] {
        all += &format!(
            "---
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, annotations: {{linkerd.io/inject: enabled}}}}
"
        );
    }
    all += &service("echo", "app: echo");
    for version in ["v1", "v2"] {
        all += &service(&format!("echo-{version}"), &format!("app: echo, version: {version}"));
        all += &deployment("conformance", version);
    }
    all + &deployment("consumer", "v1")
}

fn service(name: &str, selector: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: conformance}}
spec:
  selector: {{{selector}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080, appProtocol: http}}
  - {{name: http-alt, port: 8080, appProtocol: http}}
  - {{name: grpc, port: 7070, appProtocol: grpc}}
"
    )
}

fn deployment(namespace: &str, version: &str) -> String {
    let echo = peers().join("echo.py").display().to_string();
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo-{version}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: echo, version: {version}}}}}
  template:
    metadata: {{labels: {{app: echo, version: {version}}}}}
    spec:
      containers:
      - name: echo
        image: local/echo
        command: [{PYTHON}, {echo}, serve]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        ports: [{{containerPort: 8080}}, {{containerPort: 7070}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A route on `parent` that marks responses of what it sends to a service of the same name.
fn marking(name: &str, namespace: &str, service: &str, port: &str, value: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}, namespace: conformance{port}}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-header-set, value: {value}}}]}}
    backendRefs: [{{name: {service}, namespace: conformance, port: 80}}]
"
    )
}

pub(crate) fn cases(address_of_v2: &str) -> Vec<Case> {
    const MARK: &str = "x-header-set";
    let all_ports = |value| marking("all-ports", "conformance", "echo-v2", "", value);
    vec![
        // Without any route a service is simply reached.
        Case {
            name: "MeshBasic",
            routes: String::new(),
            asks: vec![Ask::new("/").reaches("echo-")],
        },
        // A route is for requests to its service, not for the same pod by its own address.
        Case {
            name: "MeshFrontend",
            routes: all_ports("set"),
            asks: vec![
                Ask::new("http://echo-v2/").reaches("echo-v2").answered_with(MARK, "set"),
                Ask::new(format!("http://{address_of_v2}:8080/"))
                    .reaches("echo-v2")
                    .answered_without(MARK),
            ],
        },
        // The address of the service decides, not what the host header says.
        Case {
            name: "MeshFrontendHostname",
            routes: all_ports("set"),
            asks: vec![
                Ask::new("http://echo-v2/")
                    .with("host", "echo-v1")
                    .reaches("echo-v2")
                    .answered_with(MARK, "set"),
                Ask::new("http://echo-v1/")
                    .with("host", "echo-v2")
                    .reaches("echo-v1")
                    .answered_without(MARK),
            ],
        },
        // A parent's port limits a route to that port; without one it is for all.
        Case {
            name: "MeshPorts",
            routes: marking("one-port", "conformance", "echo-v1", ", port: 80", "v1")
                + &all_ports("v2"),
            asks: vec![
                Ask::new("http://echo-v1/").reaches("echo-v1").answered_with(MARK, "v1"),
                Ask::new("http://echo-v1:8080/").reaches("echo-v1").answered_without(MARK),
                Ask::new("http://echo-v2/").reaches("echo-v2").answered_with(MARK, "v2"),
                Ask::new("http://echo-v2:8080/").reaches("echo-v2").answered_with(MARK, "v2"),
            ],
        },
        // A route in another namespace than its service is for clients of that namespace only.
        Case {
            name: "MeshConsumerRoute",
            routes: marking("for-consumers", "consumer", "echo-v1", "", "set"),
            asks: vec![
                Ask::new("http://echo-v1.conformance/")
                    .from(From::Consumer)
                    .reaches("echo-v1")
                    .answered_with(MARK, "set"),
                Ask::new("http://echo-v1.conformance/").reaches("echo-v1").answered_without(MARK),
            ],
        },
    ]
}
