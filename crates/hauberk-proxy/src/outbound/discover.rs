//! What is known of an original destination, shared by all its connections on one worker.

use crate::{control::Live, http, settings::Config};
use hauberk_model::{OutboundPolicy, Profile};
use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};
use tokio::time::Instant;

/// An original destination with everything that is known of it.
///
/// Held by connections as `Rc`; as long as somebody holds it, or it was used within the discovery idle timeout, the
/// knowledge stays fresh.
#[derive(Debug)]
pub struct Target {
    /// Where applications dialled.
    pub address: SocketAddr,
    /// What HTTP keeps for this target (compiled routes, pools).
    pub http: http::TargetState,
    policy: Live<OutboundPolicy>,
    profile: Option<Live<Profile>>,
}

/// The targets of one worker.
#[derive(Debug)]
pub struct Targets {
    idle_timeout: Duration,
    known: RefCell<HashMap<SocketAddr, Entry>>,
}

#[derive(Debug)]
struct Entry {
    target: Rc<Target>,
    used_at: Instant,
}

impl Targets {
    /// No targets yet.
    pub fn new(config: &Config) -> Self {
        Self {
            idle_timeout: config.outbound.side.discovery_idle_timeout,
            known: RefCell::default(),
        }
    }
}
