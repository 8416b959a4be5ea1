//! The data plane: a sidecar proxy that applications do not know about.
//!
//! Functions over facts, not layers over types: the life of a connection is an ordinary `async fn` in [`outbound`] or
//! [`inbound`], and the match on the protocol is visible there.
//!
//! ```text
//! main  arguments, exit code
//! run   what is built, in which order, who owns it: two runtimes
//!         data workers   one thread, one current-thread runtime, one worker::Worker each; nothing shared but snapshots
//!         admin          one thread: probes, metrics, certificates, streams from the control plane
//!
//! listen -> connection::Facts -> outbound -> (discover || detect) -> http::serve_outbound | opaque | tls
//!                             -> inbound  -> tls::accept -> policy -> detect -> http::serve_inbound | forward
//!                                         -> direct (port 4143 itself: transport header)
//! dial  endpoint -> io::Io (TCP, TLS, transport header, inside one deadline)
//! ```
//!
//! Promises: foreign bytes never panic it; every queue, cache and wait is bounded; knowledge survives the absence of
//! the control plane; nothing here knows Kubernetes.

pub mod admin;
pub mod balance;
pub mod connection;
pub mod control;
pub mod copy;
pub mod detect;
pub mod dial;
pub mod http;
pub mod inbound;
pub mod io;
pub mod listen;
pub mod memory;
pub mod outbound;
pub mod run;
pub mod settings;
pub mod spread;
pub mod telemetry;
pub mod tls;
pub mod transport_header;
pub mod worker;
