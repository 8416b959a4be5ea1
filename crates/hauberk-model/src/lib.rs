//! The vocabulary of the mesh, and the decisions that need nothing but that vocabulary.
//!
//! Every other crate speaks these types: the index produces them, `hauberk-wire` translates them,
//! the proxy acts on them. Nothing here does IO, reads a clock, holds a lock or starts a task, so
//! each decision can be tested with plain values.
//!
//! | question | module |
//! |---|---|
//! | what is it called | [`name`], [`port`], [`network`], [`workload_id`], [`meta`] |
//! | where may a request go | [`outbound`], [`route`], [`filter`], [`endpoints`], [`profile`] |
//! | who may come in | [`inbound`], [`authorize`](mod@authorize), [`rate_limit`] |
//! | how patient are we | [`timeout`], [`retry`], [`backoff`], [`failure_accrual`] |
//! | which endpoint, beyond load | [`balancing`] |
//! | which settings does a proxy read | [`settings`] |
//! | which requests are watched | [`tap`] |
//!
//! Deliberately not here: Kubernetes objects (`hauberk-resources`), wire messages
//! (`hauberk-wire`), and anything that waits.

pub mod authorize;
pub mod backoff;
pub mod balancing;
pub mod cors;
pub mod endpoints;
pub mod failure_accrual;
pub mod filter;
pub mod inbound;
pub mod meta;
pub mod name;
pub mod network;
pub mod outbound;
pub mod pattern;
pub mod port;
pub mod profile;
pub mod rate_limit;
pub mod retry;
pub mod route;
pub mod settings;
pub mod tap;
pub mod timeout;
pub mod workload_id;

pub use authorize::{Decision, Peer, authorize};
pub use balancing::Balancing;
pub use endpoints::{Endpoint, Endpoints};
pub use inbound::InboundPolicy;
pub use meta::Meta;
pub use name::{Authority, Namespace, ServiceName};
pub use network::Network;
pub use outbound::OutboundPolicy;
pub use pattern::Pattern;
pub use port::{Port, PortRange, PortSet};
pub use profile::Profile;
pub use workload_id::WorkloadId;
