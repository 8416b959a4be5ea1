//! When a failed request may be tried again.

use crate::backoff::Backoff;
use std::{ops::RangeInclusive, time::Duration};

/// Retries of one route. `C` says which responses count as failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry<C> {
    /// Most attempts after the first one; at least 1.
    pub max_retries: u16,
    /// Largest request body kept for another attempt, in bytes.
    pub max_request_bytes: usize,
    /// Which responses are tried again.
    pub conditions: C,
    /// Longest wait for the response headers of one attempt.
    pub timeout: Option<Duration>,
    /// Wait before another attempt; none means at once.
    pub backoff: Option<Backoff>,
}

/// HTTP statuses that are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConditions(pub Vec<RangeInclusive<u16>>);

impl HttpConditions {
    /// Whether a response with `status` is tried again.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// gRPC codes that are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcConditions {
    /// Code 1.
    pub cancelled: bool,
    /// Code 4.
    pub deadline_exceeded: bool,
    /// Code 8.
    pub resource_exhausted: bool,
    /// Code 13.
    pub internal: bool,
    /// Code 14.
    pub unavailable: bool,
}

impl GrpcConditions {
    /// Whether a response with that gRPC code is tried again.
    pub fn contains(&self, code: u32) -> bool {
        match code {
            1 => self.cancelled,
            4 => self.deadline_exceeded,
            8 => self.resource_exhausted,
            13 => self.internal,
            14 => self.unavailable,
            _ => false,
        }
    }
}

/// How many retries a service profile allows in proportion to its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Retries per original request, 0 to 1000.
    pub retry_ratio: f32,
    /// Retries per second that are always allowed.
    pub min_retries_per_second: u32,
    /// How long a request counts, 1 to 60 seconds.
    pub ttl: Duration,
}

impl Default for RetryBudget {
    /// One retry in five requests, ten per second, over ten seconds: what Linkerd's destination
    /// service answers when a profile names none.
    fn default() -> Self {
        Self { retry_ratio: 0.2, min_retries_per_second: 10, ttl: Duration::from_secs(10) }
    }
}
