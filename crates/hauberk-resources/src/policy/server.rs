//! `Server`: what a port of some pods accepts.

use crate::{
    metadata::Metadata,
    selector::LabelSelector,
    view::{IntOrString, nullable},
};
use hauberk_model::inbound::DefaultPolicy;
use serde::{Deserialize, Deserializer, de};

/// What a port of some pods (or external workloads) accepts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Server {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenSpec")]
struct Spec {
    port: IntOrString,
    protocol: ProxyProtocol,
    access_policy: DefaultPolicy,
    selector: ServerSelector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSpec {
    port: IntOrString,
    #[serde(default, deserialize_with = "nullable")]
    proxy_protocol: ProxyProtocol,
    #[serde(default = "deny", deserialize_with = "access_policy")]
    access_policy: DefaultPolicy,
    #[serde(default)]
    pod_selector: Option<LabelSelector>,
    #[serde(default)]
    external_workload_selector: Option<LabelSelector>,
}

impl TryFrom<WrittenSpec> for Spec {
    type Error = &'static str;

    fn try_from(written: WrittenSpec) -> Result<Self, Self::Error> {
        let selector = match (written.pod_selector, written.external_workload_selector) {
            (Some(pods), None) => ServerSelector::Pods(pods),
            (None, Some(workloads)) => ServerSelector::ExternalWorkloads(workloads),
            _ => return Err("exactly one of podSelector and externalWorkloadSelector is needed"),
        };
        Ok(Self {
            port: written.port,
            protocol: written.proxy_protocol,
            access_policy: written.access_policy,
            selector,
        })
    }
}

/// The API server fills in `deny` where nothing is written.
fn deny() -> DefaultPolicy {
    DefaultPolicy::Deny
}

fn access_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DefaultPolicy, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(deny()),
        Some(text) => text.parse().map_err(de::Error::custom),
    }
}

/// Which workloads a server is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSelector {
    /// Pods with these labels.
    Pods(LabelSelector),
    /// External workloads with these labels.
    ExternalWorkloads(LabelSelector),
}

/// What is spoken on a server's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ProxyProtocol {
    /// The proxy looks at the first bytes.
    #[default]
    #[serde(rename = "unknown")]
    Unknown,
    /// HTTP/1.
    #[serde(rename = "HTTP/1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "HTTP/2")]
    Http2,
    /// gRPC.
    #[serde(rename = "gRPC")]
    Grpc,
    /// Bytes that are not looked into.
    #[serde(rename = "opaque")]
    Opaque,
    /// TLS of the application's own.
    #[serde(rename = "TLS")]
    Tls,
}

impl Server {
    /// The port, by number or by the name the workloads give it.
    pub fn port(&self) -> &IntOrString {
        &self.spec.port
    }

    /// Which workloads the server is about, in its own namespace.
    pub fn selector(&self) -> &ServerSelector {
        &self.spec.selector
    }

    /// What is spoken on the port.
    pub fn protocol(&self) -> ProxyProtocol {
        self.spec.protocol
    }

    /// What is accepted beside what authorizations permit.
    pub fn access_policy(&self) -> DefaultPolicy {
        self.spec.access_policy
    }

    /// Whether pods with the labels of `metadata` are meant.
    pub fn selects_pod(&self, metadata: &Metadata) -> bool {
        match &self.spec.selector {
            ServerSelector::Pods(selector) => {
                selector.matches(&metadata.labels) && metadata.namespace == self.metadata.namespace
            }
            ServerSelector::ExternalWorkloads(_) => false,
        }
    }

    /// Whether external workloads with the labels of `metadata` are meant.
    pub fn selects_external_workload(&self, metadata: &Metadata) -> bool {
        match &self.spec.selector {
            ServerSelector::Pods(_) => false,
            ServerSelector::ExternalWorkloads(selector) => {
                selector.matches(&metadata.labels) && metadata.namespace == self.metadata.namespace
            }
        }
    }
}
