//! What the proxies measured, made into answers.
//!
//! A scrape of a proxy's `/metrics` is parsed ([`prom_text`]), kept for a short while ([`store`])
//! and asked for rates, success and percentiles per workload ([`query`]). All of it is pure: the
//! caller fetches the text and says what time it is.
//!
//! Deliberately not here: fetching (the caller knows how to reach a pod), and drawing tables.

pub mod prom_text;
pub mod query;
pub mod store;

pub use query::{Side, WorkloadStats, stats};
pub use store::{Store, TargetKey};
