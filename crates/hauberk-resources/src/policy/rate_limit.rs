//! `HTTPLocalRateLimitPolicy`: how many requests per second a server takes.

use super::target_ref::{LocalTargetRef, NamespacedTargetRef};
use crate::{
    metadata::Metadata,
    view::{Condition, nullable},
};
use serde::Deserialize;

/// How many requests per second a server takes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpLocalRateLimitPolicy {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_ref: LocalTargetRef,
    #[serde(default)]
    total: Option<RequestsPerSecond>,
    #[serde(default)]
    identity: Option<RequestsPerSecond>,
    #[serde(default, deserialize_with = "nullable")]
    overrides: Vec<RateLimitOverride>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestsPerSecond {
    /// Requests per second.
    pub requests_per_second: u32,
}

/// A limit of its own for some clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitOverride {
    /// Requests per second.
    pub requests_per_second: u32,
    /// Service accounts it is for.
    #[serde(default, deserialize_with = "nullable")]
    pub client_refs: Vec<NamespacedTargetRef>,
}

impl HttpLocalRateLimitPolicy {
    /// The server.
    pub fn target(&self) -> &LocalTargetRef {
        &self.spec.target_ref
    }

    /// Limit of all clients together.
    pub fn total(&self) -> Option<RequestsPerSecond> {
        self.spec.total
    }

    /// Limit of each client identity.
    pub fn identity(&self) -> Option<RequestsPerSecond> {
        self.spec.identity
    }

    /// Limits of their own for some clients.
    pub fn overrides(&self) -> &[RateLimitOverride] {
        &self.spec.overrides
    }

    /// Whether the policy was accepted.
    pub fn is_accepted(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Accepted")
    }
}
