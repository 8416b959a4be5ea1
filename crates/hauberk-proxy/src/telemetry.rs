//! What is counted, traced and tapped.
//!
//! [`metrics::Metrics`] holds every family once per process. Handles are resolved when a connection, route or endpoint
//! is built and only incremented afterwards; nobody looks up labels per request.

pub mod access_log;
pub mod balancer;
pub mod http;
pub mod labels;
pub mod metrics;
pub mod route;
pub mod tap;
pub mod tcp;
pub mod trace;
