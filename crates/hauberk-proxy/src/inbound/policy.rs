//! What this pod's ports accept.

use crate::control::Live;
use hauberk_model::InboundPolicy;
use std::{cell::RefCell, collections::HashMap, sync::Arc};

/// The live policy of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    default: Arc<InboundPolicy>,
    live: Live<InboundPolicy>,
}

impl Policy {
    /// The policy in force now: the control plane's newest, or the default.
    pub fn now(&self) -> Arc<InboundPolicy> {
        self.live.borrow().as_known().unwrap_or(&self.default).clone()
    }
}

/// The policies of one worker.
#[derive(Debug, Default)]
pub struct Policies {
    known: RefCell<HashMap<u16, Policy>>,
}

impl Policies {
    /// No policies yet.
    pub fn new() -> Self {
        Self::default()
    }
}
