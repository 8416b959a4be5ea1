//! HTTP: the only place where hyper lives.
//!
//! # Contract with the rest of the crate
//! `outbound` and `inbound` accept, discover, authenticate and detect; then they hand a connection over here, once,
//! and await the returned future inside the connection's own task (which holds the drain guard until it returns):
//!
//! - [`serve_outbound`]`(worker, io, facts, target, version)`: `target` is the shared knowledge about the original
//!   destination on this worker ([`crate::outbound::discover::Target`]); it holds live policy and profile, and a slot
//!   for what HTTP keeps per target (`target.http`). The bytes of detection are already back in `io`.
//! - [`serve_inbound`]`(worker, io, facts, policy, version)`: `policy` is live ([`crate::inbound::policy::Policy`]);
//!   each request looks at the newest. `facts.original_dst` is where requests go (through
//!   [`crate::inbound::forward::connect`]).
//!
//! Both end when the peer has closed, and gracefully when `worker.shutdown.draining()` says so.
//! New connections to endpoints are made with [`crate::dial::dial`], which returns an [`crate::io::Io`].

pub mod failure;

use crate::{
    connection::Facts, inbound::policy::Policy, io::Io, outbound::discover::Target, worker::Worker,
};
use std::rc::Rc;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What HTTP keeps per worker (pools, limits).
#[derive(Debug, Default)]
pub struct State {}

/// What HTTP keeps per original destination (compiled routes).
#[derive(Debug, Default)]
pub struct TargetState {}

/// Serves an application's HTTP connection to somewhere else.
pub async fn serve_outbound(
    _worker: Rc<Worker>,
    _io: Io,
    _facts: Facts,
    _target: Rc<Target>,
    _version: Version,
) {
}

/// Serves somebody's HTTP connection to the application beside us.
pub async fn serve_inbound(
    _worker: Rc<Worker>,
    _io: Io,
    _facts: Facts,
    _policy: Policy,
    _version: Version,
) {
}
