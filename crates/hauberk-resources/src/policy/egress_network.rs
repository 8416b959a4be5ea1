//! `EgressNetwork`: networks outside of the cluster, and what is allowed towards them.

use super::network::some_networks;
use crate::{
    metadata::Metadata,
    view::{Condition, nullable},
};
use hauberk_model::Network;
use serde::Deserialize;

/// Networks outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EgressNetwork {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    traffic_policy: TrafficPolicy,
    #[serde(default, deserialize_with = "some_networks")]
    networks: Option<Vec<Network>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

/// What happens to traffic that no route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TrafficPolicy {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

impl EgressNetwork {
    /// The networks; none means everything outside of the cluster.
    pub fn networks(&self) -> Option<&[Network]> {
        self.spec.networks.as_deref()
    }

    /// What happens to traffic that no route is for.
    pub fn traffic_policy(&self) -> TrafficPolicy {
        self.spec.traffic_policy
    }

    /// Whether the networks were accepted.
    pub fn is_accepted(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Accepted")
    }
}
