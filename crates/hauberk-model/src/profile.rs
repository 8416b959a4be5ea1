//! Service profiles: routes, retries and traffic splits of the older kind, and what is known of a
//! single address.

use crate::{Endpoint, Meta, Pattern, endpoints::Labels, name::Authority, retry::RetryBudget};
use http::Method;
use std::{ops::RangeInclusive, sync::Arc, time::Duration};

/// What is known of a target, beside its policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Full DNS name of the Service, if the target is one.
    pub name: Option<Arc<str>>,
    /// Whether connections are not to be looked into.
    pub opaque: bool,
    /// The endpoint itself, if the target is a single address.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Routes in order; the first that matches counts.
    pub routes: Arc<[ProfileRoute]>,
    /// Limits retries of all routes together; none switches retries off.
    pub retry_budget: Option<RetryBudget>,
    /// Traffic split; empty means the target itself.
    pub targets: Vec<WeightedTarget>,
    /// The Service.
    pub parent: Option<Meta>,
    /// The ServiceProfile.
    pub profile: Option<Meta>,
}

/// A share of the traffic for another target.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedTarget {
    /// Where it goes.
    pub authority: Authority,
    /// Relative weight.
    pub weight: u32,
    /// The resource behind it, if known.
    pub backend: Option<Meta>,
}

/// One route of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRoute {
    /// Which requests.
    pub condition: RequestMatch,
    /// Which responses are failures; the first that matches counts.
    pub response_classes: Vec<ResponseClass>,
    /// Labels for metrics (`route`).
    pub labels: Arc<Labels>,
    /// Whether failed requests may be tried again.
    pub is_retryable: bool,
    /// Longest wait for response headers.
    pub timeout: Option<Duration>,
}

/// Condition on a request.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestMatch {
    /// All of these; true when empty.
    All(Vec<RequestMatch>),
    /// One of these; false when empty.
    Any(Vec<RequestMatch>),
    /// Not this.
    Not(Box<RequestMatch>),
    /// The whole path.
    Path(Pattern),
    /// The method.
    Method(Method),
}

impl RequestMatch {
    /// Whether a request with `method` and `path` (without query) is meant.
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        match self {
            Self::All(all) => all.iter().all(|m| m.matches(method, path)),
            Self::Any(any) => any.iter().any(|m| m.matches(method, path)),
            Self::Not(not) => !not.matches(method, path),
            Self::Path(pattern) => pattern.matches(path),
            Self::Method(wanted) => wanted == method,
        }
    }
}

/// Which responses are failures or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseClass {
    /// Which responses.
    pub condition: ResponseMatch,
    /// Whether they count as failed.
    pub is_failure: bool,
}

/// Condition on a response.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseMatch {
    /// All of these; true when empty.
    All(Vec<ResponseMatch>),
    /// One of these; false when empty.
    Any(Vec<ResponseMatch>),
    /// Not this.
    Not(Box<ResponseMatch>),
    /// The status.
    Status(RangeInclusive<u16>),
}

impl ResponseMatch {
    /// Whether a response with `status` is meant.
    pub fn matches(&self, status: u16) -> bool {
        match self {
            Self::All(all) => all.iter().all(|m| m.matches(status)),
            Self::Any(any) => any.iter().any(|m| m.matches(status)),
            Self::Not(not) => !not.matches(status),
            Self::Status(range) => range.contains(&status),
        }
    }
}
