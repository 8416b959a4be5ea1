//! The control plane: one process that reads the cluster and answers the proxies.
//!
//! ```text
//! source ──ResourceEvent──▶ publisher ──watch<Answer>──▶ services ──gRPC──▶ proxies
//!                           (owns the index)             (to_wire, differences)
//! issuer, anchors and token keys (files) ─────────────▶ identity service, own certificates
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what can be set, and the command line |
//! | [`run`] | builds everything in order; start here |
//! | `publisher` | the one task that owns the index and recomputes what changed |
//! | `subscribe` | the handle by which services ask for answers that stay current |
//! | `services` | one module per gRPC service: parsing, status codes, differences |
//! | [`status`] | statuses of objects as JSON, and who may ask for them |
//! | [`admission`] | webhooks that refuse what the index would refuse |
//! | `accept` | the loop that listeners share: how many at a time, and the end |
//! | `server` | listeners: mesh TLS or local plaintext, HTTP/2 |
//! | `followed_files` | files that are read again when they change, keeping the last good value |
//! | [`in_memory`] | the same without listeners, files and certificates, for simulations |
//! | `own_identity` | the control plane's own certificates, issued by itself |
//!
//! Promises: a slow or stuck reader holds up nobody and skips intermediate values; a broken object,
//! issuer or key file leaves the last good one in force; every stream ends when the process drains.
//! Readiness follows the first complete listing.
//!
//! Not here: what answers are (`hauberk-index`), how objects arrive (`hauberk-source`), certificates
//! as such (`hauberk-identity`). The mutating webhook and the Kubernetes source are not there yet.

mod accept;
pub mod admission;
pub mod config;
mod followed_files;
pub mod in_memory;
mod metrics;
mod own_identity;
mod publisher;
pub mod run;
mod server;
mod services;
pub mod status;
mod subscribe;

pub use config::{AdmissionConfig, Config, IdentityConfig};
pub use publisher::Annotations;
pub use run::{Running, StartError, start};
