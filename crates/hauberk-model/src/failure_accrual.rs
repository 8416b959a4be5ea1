//! When an endpoint is held to be broken (circuit breaking): parameters only.
//!
//! The state machine that acts on them lives in the proxy's balancer.

use crate::backoff::Backoff;
use std::time::Duration;

/// When an endpoint stops getting requests, and how it is probed.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureAccrual {
    /// What trips the breaker.
    pub kind: FailureAccrualKind,
    /// Endpoints that stay in use however many fail; 0 means all may be taken out.
    pub min_ready_endpoints: u32,
}

/// What trips a breaker.
#[derive(Clone, Debug, PartialEq)]
pub enum FailureAccrualKind {
    /// So many failures in a row.
    Consecutive {
        /// Failures in a row; at least 1.
        max_failures: u32,
        /// Wait before the next probe.
        backoff: Backoff,
    },
    /// Failures in a row, or too low a share of successes.
    Unified {
        /// Failures in a row; 0 switches this off.
        max_consecutive: u32,
        /// Lowest share of successes, 0 to 1; 0 switches this off.
        success_rate_threshold: f64,
        /// Span the share is taken over.
        window: Duration,
        /// Fewest requests in the span before the share counts.
        min_requests: u32,
        /// Wait before the next probe.
        backoff: Backoff,
        /// Whether a `Retry-After` of the endpoint prolongs the wait.
        honor_retry_after: bool,
    },
}
