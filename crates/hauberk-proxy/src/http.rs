//! HTTP: the only place where requests are read and sent.
//!
//! # Contract with the rest of the crate
//! `outbound` and `inbound` accept, discover, authenticate and detect; then they hand a connection over here, once,
//! and await the returned future at the end of the connection's own task (which holds the drain guard until it returns):
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

pub mod answer;
pub mod body;
pub mod budget;
pub mod classify;
pub mod client;
pub mod corked;
pub mod exchange;
pub mod failure;
pub mod filter;
#[cfg(test)]
mod frames;
pub mod headers;
pub mod health;
pub mod http1;
pub mod incoming;
pub mod keeper;
pub mod leave;
pub mod limit;
pub mod limits;
pub mod orig_proto;
pub mod overrides;
pub mod pipe;
pub mod pool;
pub mod refuse;
pub mod replay;
pub mod retries;
pub mod routes;
pub mod server;
pub mod tee;
pub mod upgrade;

use crate::{
    balance::Pools,
    connection::Facts,
    inbound::{self, policy::Policy, request::Applications},
    io::Io,
    outbound::{self, backend::Forwards, discover::Target, request::Compiled},
    worker::Worker,
};
use client::Client;
use limit::Limit;
use server::Serving;
use std::rc::Rc;

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What HTTP keeps per worker.
#[derive(Debug, Default)]
pub struct State {
    /// Endpoints of authorities that are in use, with their connections.
    pub pools: Pools<Client>,
    /// Known addresses that are in use.
    pub forwards: Forwards,
    /// Applications beside us.
    pub applications: Applications,
    /// Outbound requests under way.
    pub outbound: Limit,
    /// Inbound requests under way.
    pub inbound: Limit,
    /// Copies of requests under way.
    pub mirrors: Limit,
}

/// What HTTP keeps per original destination.
#[derive(Debug, Default)]
pub struct TargetState {
    /// Compiled policies.
    pub compiled: Compiled,
}

/// Serves an application's HTTP connection to somewhere else.
pub fn serve_outbound(
    worker: Rc<Worker>,
    io: Io,
    facts: &Facts,
    target: Rc<Target>,
    version: Version,
) -> Serving {
    outbound::request::serve(worker, io, facts, target, version)
}

/// Serves somebody's HTTP connection to the application beside us.
pub fn serve_inbound(
    worker: Rc<Worker>,
    io: Io,
    facts: Facts,
    policy: Policy,
    version: Version,
) -> Serving {
    inbound::request::serve(worker, io, facts, policy, version)
}
