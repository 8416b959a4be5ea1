//! Which pods are behind a service: EndpointSlices from services and pods. Pure.
//!
//! The rules are those of Kubernetes' EndpointSlice controller: one slice for each IP family and
//! set of port numbers (named target ports may differ from pod to pod), pods that are ending stay
//! listed while they run but are not ready.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::address::Pair;
use crate::plan::NODE;
use crate::spec::{NumberOrText, PodSpec, Service, ServiceSpec};

/// What endpoints need to know of a pod.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Unique id.
    pub uid: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Ports, host name and subdomain.
    pub spec: &'a PodSpec,
    /// Addresses.
    pub addresses: Pair,
    /// Whether its containers are ready.
    pub ready: bool,
    /// Whether it is being ended.
    pub stopping: bool,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The families a service has, the primary one first: one of them, IPv4 unless it asks for the
    /// other, or both if it asks for both (Kubernetes, IPv4/IPv6 dual-stack: `SingleStack` is the
    /// default). Pods always have both, but their programs need not listen on both.
    pub fn of(spec: &ServiceSpec) -> Vec<Self> {
        let asked = |family: &str| spec.ip_families.iter().position(|asked| asked == family);
        let both = matches!(
            spec.ip_family_policy.as_deref(),
            Some("PreferDualStack" | "RequireDualStack")
        );
        match (asked("IPv4"), asked("IPv6")) {
            (Some(four), Some(six)) if six < four => vec![Self::V6, Self::V4],
            (Some(_), Some(_)) => vec![Self::V4, Self::V6],
            (None, Some(_)) if both => vec![Self::V6, Self::V4],
            (None, Some(_)) => vec![Self::V6],
            (_, None) if both => vec![Self::V4, Self::V6],
            (_, None) => vec![Self::V4],
        }
    }

    /// As it stands in objects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address of this family.
    pub fn of_pair(self, pair: Pair) -> IpAddr {
        match self {
            Self::V4 => pair.v4.into(),
            Self::V6 => pair.v6.into(),
        }
    }
}

/// A port of a service and the number that pods have for it.
type Port = (Option<String>, u16, String, Option<String>);

/// The slices of a service, by name. None for a service that has no selector.
pub fn slices(service: &Service, pods: &[Candidate<'_>]) -> BTreeMap<String, Value> {
    let mut slices = BTreeMap::new();
    if service.spec.selector.is_empty() || service.spec.is_external_name() {
        return slices;
    }
    let selected = pods.iter().filter(|pod| {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        pod.namespace == service.metadata.namespace && service.spec.selector.iter().all(has)
    });
    let mut groups: BTreeMap<Vec<Port>, Vec<&Candidate<'_>>> = BTreeMap::new();
    for pod in selected {
        groups.entry(ports(service, pod.spec)).or_default().push(pod);
    }
    for (number, (ports, pods)) in groups.into_iter().enumerate() {
        for family in Family::of(&service.spec) {
            let label = family.as_str().to_lowercase();
            let name = format!("{}-{label}-{number}", service.metadata.name);
            let endpoints =
                pods.iter().map(|pod| endpoint(service, pod, family.of_pair(pod.addresses)));
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": name,
                    "namespace": service.metadata.namespace,
                    "labels": {
                        "kubernetes.io/service-name": service.metadata.name,
                        "endpointslice.kubernetes.io/managed-by": "hauberk-local",
                    },
                    "ownerReferences": [{
                        "apiVersion": "v1",
                        "kind": "Service",
                        "name": service.metadata.name,
                        "uid": service.metadata.uid,
                        "controller": true,
                    }],
                },
                "addressType": family.as_str(),
                "endpoints": endpoints.collect::<Vec<_>>(),
                "ports": ports.iter().map(port_object).collect::<Vec<_>>(),
            });
            slices.insert(name, slice);
        }
    }
    slices
}

fn port_object((name, number, protocol, app_protocol): &Port) -> Value {
    let mut port =
        json!({"name": name.as_deref().unwrap_or(""), "port": number, "protocol": protocol});
    if let Some(app_protocol) = app_protocol {
        port["appProtocol"] = json!(app_protocol);
    }
    port
}

fn endpoint(service: &Service, pod: &Candidate<'_>, address: IpAddr) -> Value {
    let published = service.spec.publish_not_ready_addresses;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {
            "ready": published || (pod.ready && !pod.stopping),
            "serving": pod.ready,
            "terminating": pod.stopping,
        },
        "nodeName": NODE,
        "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
    });
    let is_member = pod.spec.subdomain.as_deref() == Some(&service.metadata.name);
    if let (true, Some(hostname)) = (is_member, &pod.spec.hostname) {
        endpoint["hostname"] = json!(hostname);
    }
    endpoint
}

/// The service's ports with the numbers this pod has for them. A name that the pod does not have is
/// left out.
fn ports(service: &Service, pod: &PodSpec) -> Vec<Port> {
    let number = |port: &crate::spec::ServicePort| match &port.target_port {
        None | Some(NumberOrText::Number(0)) => Some(port.port),
        Some(target) => pod.port(target),
    };
    let all = service.spec.ports.iter().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((port.name.clone(), number(port)?, protocol, port.app_protocol.clone()))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::POD_NETWORK;
    use crate::spec;

    #[test]
    fn services_have_one_family_unless_they_ask_for_both() {
        let check = |spec: Value, expect: &[&str]| {
            let spec: ServiceSpec = spec::read(&spec).unwrap();
            let families: Vec<_> = Family::of(&spec).into_iter().map(Family::as_str).collect();
            assert_eq!(families, expect, "{spec:?}");
        };
        check(json!({}), &["IPv4"]);
        check(json!({"ipFamilies": ["IPv6"]}), &["IPv6"]);
        check(json!({"ipFamilyPolicy": "SingleStack"}), &["IPv4"]);
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), &["IPv4", "IPv6"]);
        check(
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            &["IPv6", "IPv4"],
        );
        check(json!({"ipFamilies": ["IPv6", "IPv4"]}), &["IPv6", "IPv4"]);
    }

    #[test]
    fn named_ports_that_differ_make_separate_slices() {
        let service: Service = spec::read(&json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": "http"}],
                "ipFamilyPolicy": "PreferDualStack",
            },
        }))
        .unwrap();
        let pod_spec = |port: u16| -> PodSpec {
            let ports = json!([{"name": "http", "containerPort": port}]);
            spec::read(&json!({"containers": [{"name": "c", "ports": ports}]})).unwrap()
        };
        let specs = [pod_spec(8080), pod_spec(9090)];
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let other = BTreeMap::new();
        let pod = |name, number, spec, labels, ready, stopping| Candidate {
            namespace: "shop",
            name,
            uid: name,
            labels,
            spec,
            addresses: POD_NETWORK.pair(number),
            ready,
            stopping,
        };
        let pods = [
            pod("a", 10, &specs[0], &labels, true, false),
            pod("b", 11, &specs[0], &labels, true, true),
            pod("c", 12, &specs[1], &labels, false, false),
            pod("d", 13, &specs[1], &other, true, false),
        ];
        let slices = slices(&service, &pods);
        let names: Vec<_> = slices.keys().map(String::as_str).collect();
        assert_eq!(names, ["web-ipv4-0", "web-ipv4-1", "web-ipv6-0", "web-ipv6-1"]);
        let first = &slices["web-ipv4-0"];
        assert_eq!(first["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(first["endpoints"][0]["addresses"], json!(["10.42.0.10"]));
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        assert_eq!(first["endpoints"][1]["conditions"], conditions);
        assert_eq!(slices["web-ipv6-1"]["endpoints"][0]["addresses"], json!(["fd42::c"]));
        assert_eq!(slices["web-ipv6-1"]["endpoints"][0]["conditions"]["ready"], json!(false));
    }
}
