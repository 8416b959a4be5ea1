//! Machines outside of the cluster that are part of the mesh.

use crate::{
    metadata::Metadata,
    view::{Condition, Protocol, nullable},
};
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc};

/// A machine outside of the cluster with a proxy of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExternalWorkload {
    /// Name, labels, annotations, owner.
    pub metadata: Metadata,
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    // Version v1alpha1 spelled it `meshTls`.
    #[serde(rename = "meshTLS", alias = "meshTls")]
    mesh_tls: MeshTls,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<ExternalWorkloadPort>,
    #[serde(rename = "workloadIPs", default, deserialize_with = "nullable")]
    workload_ips: Vec<WorkloadIp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTls {
    identity: Arc<str>,
    server_name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct WorkloadIp {
    ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

/// One declared port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExternalWorkloadPort {
    /// Name; empty if it has none.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The number.
    pub port: u16,
    /// Transport protocol.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Protocol,
}

impl ExternalWorkload {
    /// The identity in the machine's certificate.
    pub fn identity(&self) -> &Arc<str> {
        &self.spec.mesh_tls.identity
    }

    /// The name to ask for when connecting.
    pub fn server_name(&self) -> &Arc<str> {
        &self.spec.mesh_tls.server_name
    }

    /// Declared ports.
    pub fn ports(&self) -> &[ExternalWorkloadPort] {
        &self.spec.ports
    }

    /// The declared TCP ports of this name.
    pub fn tcp_ports_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.ports()
            .iter()
            .filter(move |port| port.protocol == Protocol::Tcp && *port.name == *name)
            .map(|port| port.port)
    }

    /// The machine's addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.spec.workload_ips.iter().filter_map(|entry| entry.ip.parse().ok()).collect()
    }

    /// Whether the machine takes traffic.
    pub fn is_ready(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Ready")
    }
}
