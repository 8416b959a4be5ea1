//! Small clusters to ask questions about.

use crate::render::render;
use hauberk_index::{Answer, ClusterConfig, Index, Key, Question, Refusal};
use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey, yaml};
use std::sync::Arc;

/// Asks one question of a cluster made of YAML and compares the answer's text.
#[track_caller]
pub(crate) fn check(yaml: &str, question: &str, expect: &str) {
    check_with(ClusterConfig::default(), yaml, question, expect);
}

/// Like [`check`], with settings of its own.
#[track_caller]
pub(crate) fn check_with(config: ClusterConfig, yaml: &str, question: &str, expect: &str) {
    let got = ask(&index_with(config, yaml), question);
    let trimmed = |text: &str| {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(trimmed(&got), trimmed(expect), "{question}");
}

/// An index of a cluster made of YAML.
pub(crate) fn index(yaml: &str) -> Index {
    index_with(ClusterConfig::default(), yaml)
}

fn index_with(config: ClusterConfig, yaml: &str) -> Index {
    let mut index = Index::new(config);
    for resource in resources(yaml) {
        index.apply(ResourceEvent::Applied(resource));
    }
    index
}

/// Reads a question such as `endpoints web.ns.svc.cluster.local:80 from node-a/ns` and answers it.
pub(crate) fn ask(index: &Index, question: &str) -> String {
    match key(index.config(), question) {
        Ok(key) => render(&index.answer(&key).answer),
        Err(refusal) => render(&Answer::Refused(refusal)),
    }
}

/// `endpoints NAME [from NODE]`, `profile TARGET [from NODE] [in NS]`, `inbound NS/POD:PORT`,
/// `outbound TARGET [in NS]`, `status KIND.GROUP NS/NAME`.
pub(crate) fn key(config: &ClusterConfig, question: &str) -> Result<Key, Refusal> {
    let words: Vec<&str> = question.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map_or("", |at| words[at + 1]);
    let token = format!(r#"{{"nodeName":"{}","ns":"{}"}}"#, after("from"), after("in"));
    let namespace = if after("in").is_empty() { "client" } else { after("in") };
    let workload = format!(r#"{{"ns":"{namespace}","pod":"client"}}"#);
    let question = Question::new(config);
    match (words[0], words[1]) {
        ("endpoints", path) => question.endpoints(path, &token),
        ("profile", path) => question.profile(path, &token),
        ("outbound", target) => match target.parse() {
            Ok(address) => question.outbound_to_address(&workload, address),
            Err(_) => question.outbound_to_authority(&workload, target),
        },
        ("inbound", target) => {
            let (workload, port) = target.rsplit_once(':').expect("a port");
            let (namespace, pod) = workload.split_once('/').expect("a namespace");
            let kind = if pod.starts_with("machine") { "external_workload" } else { "pod" };
            let workload = format!(r#"{{"ns":"{namespace}","{kind}":"{pod}"}}"#);
            question.inbound(&workload, port.parse().expect("a number"))
        }
        ("status", kind) => {
            let (kind, group) = kind.split_once('.').expect("a group");
            let kind = Kind::find(&format!("{group}/v1"), kind).expect("a kind");
            let (namespace, name) = words[2].split_once('/').expect("a namespace");
            Ok(Key::Status(ResourceKey::new(kind, namespace, name)))
        }
        _ => panic!("no such question: {question:?}"),
    }
}

/// All objects of a text; a broken one fails the test.
pub(crate) fn resources(yaml: &str) -> Vec<Arc<Resource>> {
    let (documents, problems) = yaml::documents(yaml);
    assert!(problems.is_empty(), "{problems:?}");
    let parse = |value| Arc::new(Resource::parse(value).unwrap_or_else(|error| panic!("{error}")));
    documents.into_iter().map(parse).collect()
}

/// A pod to write down.
pub(crate) struct PodText<'a> {
    pub(crate) name: &'a str,
    pub(crate) ip: &'a str,
    pub(crate) phase: &'a str,
    pub(crate) is_meshed: bool,
    /// Annotations as a YAML flow map.
    pub(crate) annotations: &'a str,
    /// Further labels, each line `key: value`.
    pub(crate) labels: &'a str,
    /// Further fields of the application's container, as YAML flow entries.
    pub(crate) container: &'a str,
    /// Further fields of the spec, each line `key: value`.
    pub(crate) spec: &'a str,
    /// Further fields of the metadata, each line `key: value`.
    pub(crate) metadata: &'a str,
}

impl Default for PodText<'_> {
    fn default() -> Self {
        Self {
            name: "web-1",
            ip: "10.1.0.1",
            phase: "Running",
            is_meshed: true,
            annotations: "{}",
            labels: "",
            container: "ports: [{name: http, containerPort: 8080}]",
            spec: "",
            metadata: "",
        }
    }
}

impl PodText<'_> {
    /// The pod as a YAML document of namespace `ns`.
    pub(crate) fn yaml(&self) -> String {
        let Self { name, ip, phase, annotations, labels, container, spec, metadata, .. } = self;
        let mesh_label = if self.is_meshed { "linkerd.io/control-plane-ns: linkerd" } else { "" };
        let proxy = if self.is_meshed {
            "- name: linkerd-proxy
    restartPolicy: Always
    ports: [{name: linkerd-proxy, containerPort: 4143}, {name: linkerd-admin, containerPort: 4191}]
    env:
    - {name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: '[::]:4143'}
    - {name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: '[::]:4191'}
    - {name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR, value: '[::]:4190'}
    livenessProbe: {httpGet: {path: /live, port: 4191}}
    readinessProbe: {httpGet: {path: /ready, port: 4191}}"
        } else {
            "[]"
        };
        let init =
            if self.is_meshed { format!("initContainers:\n  {proxy}") } else { String::new() };
        format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: ns
  annotations: {annotations}
  {metadata}
  labels:
    app: web
    {mesh_label}
    {labels}
spec:
  serviceAccountName: web
  nodeName: node-a
  {spec}
  {init}
  containers:
  - {{name: app, {container}}}
status:
  phase: {phase}
  podIP: {ip}
  podIPs: [{{ip: '{ip}'}}]
"
        )
    }
}

/// A pod of namespace `ns` with a sidecar, at this address.
pub(crate) fn meshed(name: &str, ip: &str) -> String {
    PodText { name, ip, ..PodText::default() }.yaml()
}

/// A slice of service `ns/web`, with port `http` 8080 and these endpoints.
pub(crate) fn slice(endpoints: &[&str]) -> String {
    let endpoints: String =
        endpoints.iter().map(|endpoint| format!("- {{{endpoint}}}\n")).collect();
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-x, namespace: ns, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

/// An endpoint of a slice for a pod of `ns`.
pub(crate) fn entry(pod: &str, ip: &str) -> String {
    format!(
        "addresses: ['{ip}'], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: ns}}"
    )
}

/// Service `ns/web` at 10.96.0.1 with port 80 to `http`.
pub(crate) const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

/// Nodes in two zones.
pub(crate) const NODES: &str = "---
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {topology.kubernetes.io/zone: west}}
";
