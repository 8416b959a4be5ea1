//! What the proxies measured, made into answers.
//!
//! A scrape of a proxy's `/metrics` is parsed ([`prom_text`]), kept for a short while ([`store`])
//! and asked for rates, success and percentiles per workload ([`query`]). All of that is pure: the
//! caller fetches the text and says what time it is. [`fleet`] tells what single proxies are. [`tap`]
//! watches single requests.
//!
//! Deliberately not here: reaching a pod (the caller knows how), and drawing tables.

pub mod fleet;
pub mod prom_text;
pub mod query;
pub mod store;
pub mod tap;

pub use query::{Side, WorkloadStats, stats};
pub use store::{Store, TargetKey};
