//! Local rate limits of a server: parameters only.

use crate::{Meta, workload_id::WorkloadId};

/// Requests per second a server accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The policy this came from.
    pub meta: Meta,
    /// For all clients together.
    pub total: Option<u32>,
    /// For each client identity; clients without one share a bucket.
    pub identity: Option<u32>,
    /// For the clients named, instead of `identity`.
    pub overrides: Vec<RateLimitOverride>,
}

/// Limit of some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitOverride {
    /// Requests per second.
    pub requests_per_second: u32,
    /// Whom it applies to.
    pub clients: Vec<WorkloadId>,
}
