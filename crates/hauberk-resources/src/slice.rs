//! Endpoint slices: who stands behind a service right now.

use crate::{
    metadata::Metadata,
    view::{Protocol, nullable, port_or_none},
};
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc};

/// Label that names the service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A part of a service's endpoints that share ports and address family.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, labels, annotations, owner.
    pub metadata: Metadata,
    /// What kind of addresses the slice holds.
    #[serde(default, deserialize_with = "nullable")]
    pub address_type: AddressType,
    /// The endpoints.
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports each endpoint listens on.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
}

/// What kind of addresses a slice holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum AddressType {
    /// IPv4 addresses.
    #[default]
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6 addresses.
    #[serde(rename = "IPv6")]
    Ipv6,
    /// Names; the mesh does not use such slices.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(default, deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: EndpointConditions,
    /// Name of the endpoint within a headless service.
    #[serde(default, deserialize_with = "nullable")]
    pub hostname: Arc<str>,
    /// Node the endpoint runs on.
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: Arc<str>,
    /// Zone the endpoint runs in.
    #[serde(default, deserialize_with = "nullable")]
    pub zone: Arc<str>,
    /// The object behind the endpoint.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
    #[serde(default, deserialize_with = "nullable")]
    hints: Hints,
}

impl SliceEndpoint {
    /// The addresses of the endpoint that are addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().filter_map(|text| text.parse().ok())
    }

    /// Whether new requests may go there. An unknown state counts as ready, as the API demands.
    pub fn is_ready(&self) -> bool {
        self.conditions.ready != Some(false)
    }

    /// Whether it is about to end but still answers, so that it is better than nothing. An endpoint that is not known
    /// to answer does not count.
    pub fn is_ending_and_serves(&self) -> bool {
        self.conditions.terminating == Some(true) && self.conditions.serving == Some(true)
    }

    /// The zones whose clients should use the endpoint; empty if there is no hint.
    pub fn for_zones(&self) -> impl ExactSizeIterator<Item = &str> {
        self.hints.for_zones.iter().map(|zone| &*zone.name)
    }

    /// The nodes whose clients should use the endpoint; empty if there is no hint.
    pub fn for_nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.hints.for_nodes.iter().map(|node| &*node.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct EndpointConditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, deserialize_with = "nullable")]
    for_zones: Vec<Hint>,
    #[serde(default, deserialize_with = "nullable")]
    for_nodes: Vec<Hint>,
}

/// The name of a zone or node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Hint {
    name: Arc<str>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    /// `Pod` or `ExternalWorkload`; other kinds are not followed.
    #[serde(default, deserialize_with = "nullable")]
    pub kind: Arc<str>,
    /// Its namespace; empty means the slice's own.
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: Arc<str>,
    /// Its name.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    /// Name of the service port it belongs to.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The number; none while it is not known.
    #[serde(default, deserialize_with = "port_or_none")]
    pub port: Option<u16>,
    /// Transport protocol.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Protocol,
}

impl EndpointSlice {
    /// The service the slice belongs to, in the slice's namespace.
    pub fn service(&self) -> Option<&str> {
        self.metadata.label(SERVICE_NAME_LABEL).filter(|name| !name.is_empty()).or_else(|| {
            let owner =
                self.metadata.owner_references.iter().find(|owner| &*owner.kind == "Service");
            owner.map(|owner| &*owner.name)
        })
    }
}
