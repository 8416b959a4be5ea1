//! Pods and their containers.

use crate::{
    metadata::Metadata,
    view::{Condition, IntOrString, Protocol, nullable, port_or_none},
};
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Name, labels, annotations, owner.
    pub metadata: Metadata,
    /// What was asked for.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "nullable")]
    status: PodStatus,
}

/// What was asked for; also part of the templates in workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node the pod runs on; empty until it is scheduled.
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: Arc<str>,
    #[serde(default, deserialize_with = "nullable")]
    service_account_name: Arc<str>,
    /// Whether the pod shares the network of its node.
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    /// The application's containers, and the sidecar's where it is not a native one.
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Containers that start before; native sidecars are among them.
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

impl PodSpec {
    /// All containers that may listen: init containers (native sidecars among them) come first.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The service account; `default` if none was named.
    pub fn service_account(&self) -> &str {
        if self.service_account_name.is_empty() { "default" } else { &self.service_account_name }
    }

    /// The TCP ports of this name; different containers may use one name for different numbers.
    pub fn tcp_ports_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.tcp_ports().filter(move |port| *port.name == *name).map(|port| port.container_port)
    }

    /// All declared TCP ports.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.all_containers()
            .flat_map(|container| &container.ports)
            .filter(|port| port.protocol == Protocol::Tcp)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default, deserialize_with = "nullable")]
    phase: PodPhase,
    #[serde(rename = "podIP", default, deserialize_with = "nullable")]
    pod_ip: String,
    #[serde(rename = "podIPs", default, deserialize_with = "nullable")]
    pod_ips: Vec<StatusIp>,
    #[serde(rename = "hostIP", default, deserialize_with = "nullable")]
    host_ip: String,
    #[serde(rename = "hostIPs", default, deserialize_with = "nullable")]
    host_ips: Vec<StatusIp>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct StatusIp {
    #[serde(default, deserialize_with = "nullable")]
    ip: String,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PodPhase {
    /// Accepted, but not all containers were started yet.
    #[default]
    Pending,
    /// At least one container runs or is being restarted.
    Running,
    /// All containers ended well and stay ended.
    Succeeded,
    /// All containers ended, at least one badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Name, unique within the pod.
    pub name: Arc<str>,
    /// Declared ports.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// Environment; entries that refer to other objects have an empty value.
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<EnvVar>,
    /// Asked while the container starts.
    #[serde(default)]
    pub startup_probe: Option<Probe>,
    /// Asked whether the container should be restarted.
    #[serde(default)]
    pub liveness_probe: Option<Probe>,
    /// Asked whether the container takes traffic.
    #[serde(default)]
    pub readiness_probe: Option<Probe>,
}

impl Container {
    /// The value of an environment variable, if it is there literally.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|variable| &*variable.name == name).map(|variable| &*variable.value)
    }

    /// The HTTP probes of the container, with their ports resolved to numbers.
    ///
    /// A named port is looked up in this container, as the kubelet does; probes on names that are
    /// not declared here, or not TCP, are left out.
    pub fn http_probes(&self) -> impl Iterator<Item = (u16, &HttpGet)> {
        [&self.startup_probe, &self.liveness_probe, &self.readiness_probe]
            .into_iter()
            .flatten()
            .filter_map(|probe| probe.http_get.as_ref())
            .filter_map(|get| Some((self.number_of(&get.port)?, get)))
    }

    fn number_of(&self, port: &IntOrString) -> Option<u16> {
        match port {
            IntOrString::Number(number) => Some(*number),
            IntOrString::Name(name) => self
                .ports
                .iter()
                .find(|port| port.name == *name && port.protocol == Protocol::Tcp)
                .map(|port| port.container_port),
        }
    }
}

/// One declared port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name; empty if it has none.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The number.
    pub container_port: u16,
    /// Port of the node that leads here.
    #[serde(default, deserialize_with = "port_or_none")]
    pub host_port: Option<u16>,
    /// Transport protocol.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Protocol,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EnvVar {
    /// Name.
    pub name: Arc<str>,
    /// Value; empty if it comes from elsewhere.
    #[serde(default, deserialize_with = "nullable")]
    pub value: Arc<str>,
}

/// A probe, as far as it concerns the network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The probe is an HTTP request.
    #[serde(default)]
    pub http_get: Option<HttpGet>,
}

/// The request of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpGet {
    /// Path and query as written; see [`HttpGet::path`].
    #[serde(default, deserialize_with = "nullable")]
    path: Arc<str>,
    /// Port, by number or name.
    pub port: IntOrString,
}

impl HttpGet {
    /// The path alone: without a query, and `/` if nothing was written.
    pub fn path(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        if path.is_empty() { "/" } else { path }
    }
}

impl Pod {
    /// Where the pod is in its life.
    pub fn phase(&self) -> PodPhase {
        self.status.phase
    }

    /// Whether the pod takes traffic.
    pub fn is_ready(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Ready")
    }

    /// Whether the pod may still use the addresses in its status.
    ///
    /// Finished pods keep them written there although they may belong to others by now.
    pub fn holds_its_address(&self) -> bool {
        !matches!(self.phase(), PodPhase::Succeeded | PodPhase::Failed)
            && self.metadata.deletion_timestamp.is_none()
    }

    /// All addresses of the pod; those of the node if it uses the node's network.
    pub fn ips(&self) -> Vec<IpAddr> {
        addresses(&self.status.pod_ip, &self.status.pod_ips)
    }

    /// All addresses of the node the pod runs on.
    pub fn host_ips(&self) -> Vec<IpAddr> {
        addresses(&self.status.host_ip, &self.status.host_ips)
    }
}

/// All different addresses in the single field and the list.
fn addresses(one: &str, list: &[StatusIp]) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in std::iter::once(one).chain(list.iter().map(|entry| &*entry.ip)) {
        if let Ok(ip) = text.parse::<IpAddr>()
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
}
