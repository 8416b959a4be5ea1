//! Core objects other than pods: namespaces, nodes, services, service accounts.

use crate::{
    metadata::Metadata,
    view::{IntOrString, Protocol, nullable},
};
use serde::{Deserialize, Deserializer};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Name, labels, annotations.
    pub metadata: Metadata,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Name, labels, annotations.
    pub metadata: Metadata,
}

impl Node {
    /// The node's zone, by its well-known label `topology.kubernetes.io/zone`.
    pub fn zone(&self) -> Option<&str> {
        self.metadata.label("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty())
    }
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceAccount {
    /// Name, labels, annotations.
    pub metadata: Metadata,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    kind: ServiceType,
    #[serde(rename = "clusterIP", default, deserialize_with = "nullable")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", default, deserialize_with = "nullable")]
    cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    selector: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<ServicePort>,
    #[serde(default, deserialize_with = "nullable")]
    internal_traffic_policy: TrafficScope,
    #[serde(default, deserialize_with = "nullable")]
    session_affinity: SessionAffinity,
    #[serde(default, deserialize_with = "nullable")]
    session_affinity_config: SessionAffinityConfig,
    #[serde(default, deserialize_with = "nullable")]
    publish_not_ready_addresses: bool,
}

/// How a service is exposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    /// An address inside the cluster, or none for a headless service.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Also a port on each node.
    NodePort,
    /// Also an external load balancer.
    LoadBalancer,
    /// Only a name for something outside; it has no endpoints.
    ExternalName,
}

/// Which endpoints clients inside the cluster may use (`internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TrafficScope {
    /// All of them.
    #[default]
    Cluster,
    /// Only those on the client's own node.
    Local,
}

/// Whether a client keeps its endpoint (`sessionAffinity`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum SessionAffinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct SessionAffinityConfig {
    #[serde(rename = "clientIP", default, deserialize_with = "nullable")]
    client_ip: ClientIpConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIpConfig {
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

/// How long a client keeps its endpoint where the service does not say: three hours (Kubernetes,
/// `ClientIPConfig.timeoutSeconds`).
const CLIENT_IP_TIMEOUT_SECONDS: u32 = 10_800;

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name of the port; empty if the service has only one.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The port clients use.
    pub port: u16,
    /// Transport protocol.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Protocol,
    /// What is spoken on the port, such as `http` or `kubernetes.io/h2c`.
    #[serde(default, deserialize_with = "nullable")]
    pub app_protocol: Arc<str>,
    /// The port behind it, by number or name. Pods' slices say which port it became; external workloads may have none.
    #[serde(default, deserialize_with = "target_port")]
    target_port: Option<IntOrString>,
}

/// A target port that cannot be read, or is zero, counts as not given: slices say what pods have, and a service must
/// not be lost for it.
fn target_port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IntOrString>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(IntOrString::deserialize(value).ok())
}

impl ServicePort {
    /// The port behind it; by default the same number (Kubernetes, `ServicePort.targetPort`).
    pub fn target_port(&self) -> IntOrString {
        self.target_port.clone().unwrap_or(IntOrString::Number(self.port))
    }
}

impl Service {
    /// How the service is exposed.
    pub fn kind(&self) -> ServiceType {
        self.spec.kind
    }

    /// The service's addresses inside the cluster; none for headless and external ones.
    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        if self.spec.kind == ServiceType::ExternalName {
            return Vec::new();
        }
        let mut ips: Vec<IpAddr> = Vec::new();
        for text in std::iter::once(&self.spec.cluster_ip).chain(&self.spec.cluster_ips) {
            // `None` and the empty text are no addresses: headless, or not yet assigned.
            if let Ok(ip) = text.parse::<IpAddr>()
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        ips
    }

    /// Whether the service was created without an address of its own (`clusterIP: None`).
    pub fn is_headless(&self) -> bool {
        self.spec.kind != ServiceType::ExternalName
            && (self.spec.cluster_ip == "None"
                || self.spec.cluster_ips.iter().any(|ip| ip == "None"))
    }

    /// The labels of the pods that stand behind the service; empty if it has no selector.
    pub fn selector(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.spec.selector
    }

    /// Whether the service's selector wants something with these labels. A service without a selector wants nothing.
    pub fn selects(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        let selector = self.selector();
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The TCP port clients use by this number.
    pub fn tcp_port(&self, port: u16) -> Option<&ServicePort> {
        self.ports().iter().find(|known| known.port == port && known.protocol == Protocol::Tcp)
    }

    /// All ports, those of other protocols too.
    pub fn ports(&self) -> &[ServicePort] {
        &self.spec.ports
    }

    /// Which endpoints clients inside the cluster may use.
    pub fn internal_traffic(&self) -> TrafficScope {
        self.spec.internal_traffic_policy
    }

    /// How long after its last use a client keeps its endpoint, if the service is of
    /// `sessionAffinity: ClientIP`.
    pub fn client_ip_affinity(&self) -> Option<Duration> {
        let seconds = self.spec.session_affinity_config.client_ip.timeout_seconds;
        let seconds = seconds.unwrap_or(CLIENT_IP_TIMEOUT_SECONDS);
        match self.spec.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp => Some(Duration::from_secs(seconds.into())),
        }
    }

    /// Whether pods count as endpoints before they are ready.
    pub fn publishes_not_ready_addresses(&self) -> bool {
        self.spec.publish_not_ready_addresses
    }
}
