//! Random clusters: objects in a small world, so that they meet (few names, few addresses, few
//! ports), what happens to them, and the questions that can be asked about them.
//!
//! Everything is drawn from the generator that is handed in, so a seed gives a history.

use hauberk_index::{ClusterConfig, Index, Key, Question};
use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey};
use rand::{Rng, rngs::SmallRng};
use serde_json::{Value, json};
use std::sync::Arc;

/// Namespaces of everything.
pub const NAMESPACES: [&str; 2] = ["one", "two"];
/// Names of services.
pub const SERVICES: [&str; 2] = ["web", "db"];
/// Names of pods.
pub const PODS: [&str; 4] = ["a", "b", "c", "d"];
/// Addresses of pods.
pub const POD_IPS: [&str; 4] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00::1"];
/// Addresses of services.
pub const SERVICE_IPS: [&str; 3] = ["10.96.0.1", "10.96.0.2", "fd00::96"];
/// Addresses of nodes.
pub const HOST_IPS: [&str; 2] = ["192.168.0.1", "192.168.0.2"];
/// Addresses that belong to nobody, or to an egress network.
pub const OUTSIDE: [&str; 2] = ["198.51.100.1", "203.0.113.1"];
/// Names of nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
const ZONES: [&str; 2] = ["east", "west"];
/// Ports of everything.
pub const PORTS: [u16; 3] = [80, 8080, 3306];

/// What draws objects and events.
#[derive(Clone, Copy, Debug)]
pub struct Universe;

/// Every question about the world.
pub fn keys() -> Vec<Key> {
    let config = ClusterConfig::default();
    let question = Question::new(&config);
    let mut keys = Vec::new();
    let mut add = |key: Result<Key, _>| keys.push(key.expect("a question"));
    for namespace in NAMESPACES {
        for port in PORTS {
            for pod in &PODS[..3] {
                add(question.inbound(&format!("{namespace}:{pod}"), port.into()));
            }
            let machine = json!({"ns": namespace, "external_workload": "machine"}).to_string();
            add(question.inbound(&machine, port.into()));
        }
        for service in SERVICES {
            let name = format!("{service}.{namespace}.svc.cluster.local");
            for node in ["node-a", ""] {
                let token = json!({"ns": namespace, "nodeName": node}).to_string();
                add(question.endpoints(&format!("{name}:80"), &token));
                add(question.endpoints(&format!("a.{name}:8080"), &token));
                add(question.profile(&format!("{name}:80"), &token));
                add(question.profile(&format!("a.{name}:8080"), &token));
            }
            add(question.outbound_to_authority("two:x", &format!("{name}:80")));
        }
        let token = json!({"ns": namespace, "nodeName": "node-a"}).to_string();
        let all = POD_IPS.iter().chain(&SERVICE_IPS).chain(&HOST_IPS).chain(&OUTSIDE);
        for ip in all {
            let ip: std::net::IpAddr = ip.parse().expect("an address");
            for port in [80, 3306] {
                let address = std::net::SocketAddr::new(ip, port);
                add(question.profile(&address.to_string(), &token));
                add(question.outbound_to_address(&format!("{namespace}:x"), address));
            }
        }
    }
    for (kind, names) in [
        (Kind::PolicyHttpRoute, ["r", "s"]),
        (Kind::GatewayHttpRoute, ["r", "s"]),
        (Kind::GrpcRoute, ["r", "s"]),
        (Kind::TlsRoute, ["r", "s"]),
        (Kind::TcpRoute, ["r", "s"]),
        (Kind::EgressNetwork, ["e", "f"]),
        (Kind::HttpLocalRateLimitPolicy, ["l", "k"]),
    ] {
        for namespace in NAMESPACES {
            for name in names {
                keys.push(Key::Status(ResourceKey::new(kind, namespace, name)));
            }
        }
    }
    keys
}

fn one<'a>(rng: &mut SmallRng, of: &[&'a str]) -> &'a str {
    of[rng.random_range(0..of.len())]
}

fn port(rng: &mut SmallRng) -> u16 {
    PORTS[rng.random_range(0..PORTS.len())]
}

/// One of the values, or nothing.
fn maybe(rng: &mut SmallRng, value: Value) -> Value {
    if rng.random_bool(0.5) { value } else { Value::Null }
}

impl Universe {
    /// A random event; now and then one that repeats, deletes or lists what is in `index`.
    pub fn event(&self, rng: &mut SmallRng, index: &Index) -> ResourceEvent {
        match rng.random_range(0..20) {
            0..=14 => ResourceEvent::Applied(self.resource(rng)),
            15..=17 => {
                let known: Vec<ResourceKey> =
                    index.resources().map(|resource| resource.key()).collect();
                match known.is_empty() {
                    true => ResourceEvent::Applied(self.resource(rng)),
                    false => {
                        ResourceEvent::Deleted(known[rng.random_range(0..known.len())].clone())
                    }
                }
            }
            18 => ResourceEvent::Deleted(self.resource(rng).key()),
            _ => {
                let kind = Kind::ALL[rng.random_range(0..Kind::ALL.len())];
                let of_kind = index.resources().filter(|resource| resource.kind() == kind).cloned();
                let mut all: Vec<Arc<Resource>> =
                    of_kind.filter(|_| rng.random_bool(0.7)).collect();
                for _ in 0..rng.random_range(0..3) {
                    let new = self.resource_of(rng, kind);
                    all.retain(|known| known.key() != new.key());
                    all.push(new);
                }
                ResourceEvent::Relisted { kind, all }
            }
        }
    }

    /// Any object; those that answers are made of come more often.
    pub fn resource(&self, rng: &mut SmallRng) -> Arc<Resource> {
        const FREQUENT: [Kind; 8] = [
            Kind::Pod,
            Kind::Pod,
            Kind::EndpointSlice,
            Kind::EndpointSlice,
            Kind::Service,
            Kind::Server,
            Kind::AuthorizationPolicy,
            Kind::ServerAuthorization,
        ];
        let kind = if rng.random_bool(0.6) {
            FREQUENT[rng.random_range(0..FREQUENT.len())]
        } else {
            Kind::ALL[rng.random_range(0..Kind::ALL.len())]
        };
        self.resource_of(rng, kind)
    }

    /// An object of a kind.
    pub fn resource_of(&self, rng: &mut SmallRng, kind: Kind) -> Arc<Resource> {
        let (name, fields) = fields(rng, kind);
        let mut value = json!({
            "apiVersion": if kind.group().is_empty() { "v1".to_owned() } else { format!("{}/v1", kind.group()) },
            "kind": kind.name(),
            "metadata": {
                "name": name,
                "namespace": one(rng, &NAMESPACES),
                "labels": {"app": one(rng, &["web", "db"])},
                "creationTimestamp": maybe(rng, json!("2024-01-01T00:00:00Z")),
            },
        });
        merge(&mut value, fields);
        Arc::new(Resource::parse(value).expect("the generator writes objects that can be read"))
    }
}

/// Puts the fields of one object into another, in depth.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn fields(rng: &mut SmallRng, kind: Kind) -> (String, Value) {
    let name = |text: &str| text.to_owned();
    match kind {
        Kind::Namespace => (name(one(rng, &NAMESPACES)), json!({})),
        Kind::Node => {
            let labels = match rng.random_bool(0.8) {
                true => json!({"topology.kubernetes.io/zone": one(rng, &ZONES)}),
                false => json!({}),
            };
            (name(one(rng, &NODES)), json!({"metadata": {"labels": labels}}))
        }
        Kind::Pod => pod(rng),
        Kind::Service => service(rng),
        Kind::EndpointSlice => slice(rng),
        Kind::ReplicaSet => {
            let owner = one(rng, &["Deployment", "StatefulSet"]);
            let owners = json!([{"kind": owner, "name": one(rng, &["x", "y"])}]);
            let fields = json!({"metadata": {"ownerReferences": maybe(rng, owners)}, "spec": {"replicas": rng.random_range(0..3)}});
            (name("set"), fields)
        }
        Kind::ServiceAccount
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::Job => (name(one(rng, &["x", "y"])), json!({})),
        Kind::ExternalWorkload => (
            name("machine"),
            json!({
                "metadata": {"labels": {"app": one(rng, &["web", "db"])}},
                "spec": {
                    "meshTLS": {"identity": one(rng, &["m.example", "spiffe://m/x"]), "serverName": "m"},
                    "ports": [{"name": "http", "port": port(rng)}],
                    "workloadIPs": [{"ip": one(rng, &POD_IPS)}],
                },
                "status": {"conditions": [{"type": "Ready", "status": one(rng, &["True", "False"])}]},
            }),
        ),
        Kind::Server => server(rng),
        Kind::ServerAuthorization => {
            let server = match rng.random_bool(0.5) {
                true => json!({"name": one(rng, &["s", "t"])}),
                false => json!({"selector": {"matchLabels": {"app": one(rng, &["web", "db"])}}}),
            };
            let client = match rng.random_bool(0.5) {
                true => json!({"unauthenticated": true}),
                false => json!({"meshTLS": {"serviceAccounts": [{"name": one(rng, &["x", "y"])}]}}),
            };
            (name(one(rng, &["p", "q"])), json!({"spec": {"server": server, "client": client}}))
        }
        Kind::AuthorizationPolicy => authorization_policy(rng),
        Kind::MeshTlsAuthentication => {
            (name("m"), json!({"spec": {"identities": [one(rng, &["*", "*.x", "a.b"])]}}))
        }
        Kind::NetworkAuthentication => (
            name("n"),
            json!({"spec": {"networks": [{"cidr": one(rng, &["10.0.0.0/8", "192.0.2.1"])}]}}),
        ),
        Kind::HttpLocalRateLimitPolicy => (
            name(one(rng, &["l", "k"])),
            json!({"spec": {
                "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": one(rng, &["s", "t"])},
                "total": {"requestsPerSecond": rng.random_range(5..9)},
                "overrides": [{"requestsPerSecond": 5, "clientRefs": [{"kind": "ServiceAccount", "name": "x"}]}],
            }}),
        ),
        Kind::EgressNetwork => {
            let networks = json!([{"cidr": one(rng, &["198.51.100.0/24", "0.0.0.0/0"])}]);
            let policy = one(rng, &["Allow", "Deny"]);
            let namespace = one(rng, &["one", "two", "linkerd-egress"]);
            let fields = json!({
                "metadata": {"namespace": namespace},
                "spec": {"trafficPolicy": policy, "networks": maybe(rng, networks)},
            });
            (name(one(rng, &["e", "f"])), fields)
        }
        Kind::PolicyHttpRoute
        | Kind::GatewayHttpRoute
        | Kind::GrpcRoute
        | Kind::TlsRoute
        | Kind::TcpRoute => route(rng),
        Kind::ReferenceGrant => {
            let from = json!([{
                "group": one(rng, &["gateway.networking.k8s.io", "policy.linkerd.io"]),
                "kind": one(rng, &["HTTPRoute", "GRPCRoute", "TCPRoute"]),
                "namespace": one(rng, &NAMESPACES),
            }]);
            let service = json!(one(rng, &SERVICES));
            let to = json!([{"group": "", "kind": "Service", "name": maybe(rng, service)}]);
            (name(one(rng, &["g", "h"])), json!({"spec": {"from": from, "to": to}}))
        }
        Kind::ServiceProfile => {
            let service = one(rng, &SERVICES);
            let namespace = one(rng, &NAMESPACES);
            let routes =
                json!([{"name": "r", "condition": {"method": one(rng, &["GET", "POST"])}}]);
            (
                format!("{service}.{namespace}.svc.cluster.local"),
                json!({"spec": {"routes": maybe(rng, routes)}}),
            )
        }
    }
}

fn pod(rng: &mut SmallRng) -> (String, Value) {
    let meshed = rng.random_bool(0.7);
    let ips = [one(rng, &POD_IPS[..3]), one(rng, &POD_IPS)];
    let owner = json!([{"kind": one(rng, &["ReplicaSet", "Job"]), "name": "set"}]);
    let mut annotations = json!({});
    for (key, values) in [
        ("config.linkerd.io/opaque-ports", ["8080", "http"]),
        ("config.linkerd.io/skip-inbound-ports", ["80", "8080"]),
        ("config.linkerd.io/default-inbound-policy", ["deny", "all-authenticated"]),
    ] {
        if rng.random_bool(0.2) {
            annotations[key] = json!(one(rng, &values));
        }
    }
    let mut labels = json!({});
    if meshed {
        labels["linkerd.io/control-plane-ns"] = json!(one(rng, &["linkerd", "linkerd", "other"]));
    }
    let host_port = if rng.random_bool(0.3) { json!(80) } else { Value::Null };
    let fields = json!({
        "metadata": {
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": maybe(rng, owner),
            "deletionTimestamp": if rng.random_bool(0.1) { json!("2024-01-01T00:00:00Z") } else { Value::Null },
        },
        "spec": {
            "nodeName": one(rng, &NODES),
            "serviceAccountName": one(rng, &["x", "y"]),
            "hostNetwork": rng.random_bool(0.1),
            "containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": port(rng), "hostPort": host_port}],
                 "livenessProbe": {"httpGet": {"path": "/live", "port": one(rng, &["http", "80"])}}},
                {"name": "linkerd-proxy", "env": [{"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "0.0.0.0:4143"}]},
            ],
        },
        "status": {
            "phase": one(rng, &["Running", "Running", "Running", "Pending", "Succeeded"]),
            "podIP": ips[0],
            "podIPs": [{"ip": ips[0]}, {"ip": ips[1]}],
            "hostIP": one(rng, &HOST_IPS),
        },
    });
    (one(rng, &PODS).to_owned(), fields)
}

fn service(rng: &mut SmallRng) -> (String, Value) {
    let annotation = one(rng, &["80", "http", ""]);
    let annotations = if rng.random_bool(0.3) {
        json!({"config.linkerd.io/opaque-ports": annotation, "balancer.linkerd.io/failure-accrual": "consecutive"})
    } else {
        json!({})
    };
    let protocol = one(rng, &["http", "kubernetes.io/h2c", "linkerd.io/opaque"]);
    let fields = json!({
        "metadata": {"annotations": annotations},
        "spec": {
            "type": if rng.random_bool(0.1) { "ExternalName" } else { "ClusterIP" },
            "clusterIP": one(rng, &["None", SERVICE_IPS[0], SERVICE_IPS[1], SERVICE_IPS[2]]),
            "internalTrafficPolicy": one(rng, &["Cluster", "Cluster", "Local"]),
            "selector": {"app": one(rng, &["web", "db"])},
            "ports": [{"name": "http", "port": port(rng), "appProtocol": maybe(rng, json!(protocol))}],
        },
    });
    (one(rng, &SERVICES).to_owned(), fields)
}

fn slice(rng: &mut SmallRng) -> (String, Value) {
    let namespace = json!(one(rng, &NAMESPACES));
    let endpoints: Vec<Value> = (0..rng.random_range(1..4))
        .map(|_| {
            let target = match rng.random_range(0..4) {
                0 => Value::Null,
                1 => json!({"kind": "ExternalWorkload", "name": "machine"}),
                _ => json!({"kind": "Pod", "name": one(rng, &PODS), "namespace": maybe(rng, namespace.clone())}),
            };
            let hint = json!({"forZones": [{"name": one(rng, &ZONES)}]});
            json!({
                "addresses": [one(rng, &POD_IPS)],
                "conditions": {"ready": if rng.random_bool(0.8) { json!(true) } else { json!(false) }},
                "hostname": one(rng, &["a", "b"]),
                "zone": if rng.random_bool(0.2) { json!(one(rng, &ZONES)) } else { Value::Null },
                "targetRef": target,
                "hints": maybe(rng, hint),
            })
        })
        .collect();
    let slice_port = port(rng);
    let fields = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": one(rng, &SERVICES)}},
        "addressType": one(rng, &["IPv4", "IPv4", "IPv6"]),
        "ports": [{"name": "http", "port": slice_port}],
        "endpoints": endpoints,
    });
    (one(rng, &["i", "j", "k"]).to_owned(), fields)
}

fn server(rng: &mut SmallRng) -> (String, Value) {
    let selector = match rng.random_range(0..3) {
        0 => json!({}),
        _ => json!({"matchLabels": {"app": one(rng, &["web", "db"])}}),
    };
    let selects = one(rng, &["podSelector", "podSelector", "externalWorkloadSelector"]);
    let server_port = match rng.random_bool(0.5) {
        true => json!(port(rng)),
        false => json!("http"),
    };
    let fields = json!({"spec": {
        selects: selector,
        "port": server_port,
        "proxyProtocol": one(rng, &["unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"]),
        "accessPolicy": one(rng, &["deny", "audit", "all-authenticated"]),
    }});
    (one(rng, &["s", "t"]).to_owned(), fields)
}

fn authorization_policy(rng: &mut SmallRng) -> (String, Value) {
    // A policy for a namespace is for its own.
    let own = one(rng, &NAMESPACES);
    let target = match rng.random_range(0..3) {
        0 => json!({"kind": "Namespace", "name": own}),
        1 => {
            json!({"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": one(rng, &["r", "s"])})
        }
        _ => json!({"group": "policy.linkerd.io", "kind": "Server", "name": one(rng, &["s", "t"])}),
    };
    let namespace = one(rng, &NAMESPACES);
    let mut required = Vec::new();
    for (kind, name) in [("MeshTLSAuthentication", "m"), ("NetworkAuthentication", "n")] {
        if rng.random_bool(0.4) {
            required.push(json!({"group": "policy.linkerd.io", "kind": kind, "name": name, "namespace": maybe(rng, json!(namespace))}));
        }
    }
    let fields = json!({
        "metadata": {"namespace": own},
        "spec": {"targetRef": target, "requiredAuthenticationRefs": required},
    });
    (one(rng, &["p", "q"]).to_owned(), fields)
}

fn route(rng: &mut SmallRng) -> (String, Value) {
    let parent = match rng.random_range(0..4) {
        0 => json!({"group": "policy.linkerd.io", "kind": "Server", "name": one(rng, &["s", "t"])}),
        1 => {
            json!({"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": one(rng, &["e", "f"]), "port": 80})
        }
        _ => json!({
            "group": "core", "kind": "Service", "name": one(rng, &SERVICES),
            "namespace": one(rng, &NAMESPACES), "port": if rng.random_bool(0.5) { json!(80) } else { Value::Null },
        }),
    };
    let backend = json!([{
        "name": one(rng, &SERVICES), "namespace": one(rng, &NAMESPACES), "port": 80, "weight": rng.random_range(0..3),
    }]);
    let mirror = json!([{"type": "RequestMirror", "requestMirror": {
        "backendRef": {"name": one(rng, &SERVICES), "namespace": one(rng, &NAMESPACES), "port": 80},
        "percent": rng.random_range(1..=101),
    }}]);
    let filters = if rng.random_bool(0.2) { mirror } else { Value::Null };
    let delay = one(rng, &["1s", "1s;percent=10", "soon"]);
    let annotations = match rng.random_bool(0.1) {
        true => json!({"fault.hauberk.io/delay": delay}),
        false => json!({}),
    };
    let fields = json!({"metadata": {"annotations": annotations}, "spec": {
        "parentRefs": [parent],
        "rules": [{"backendRefs": maybe(rng, backend), "filters": filters}],
    }});
    (one(rng, &["r", "s"]).to_owned(), fields)
}
