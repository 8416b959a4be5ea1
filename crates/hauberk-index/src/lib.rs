//! Resources in, answers out: the synchronous heart of the control plane.
//!
//! ```text
//! ResourceEvent → Index::apply → Changes (a set of Subjects)
//! Key           → Index::answer → Answered { answer, subjects }
//! ```
//!
//! The index keeps ground state only: the objects themselves (`store`) and who refers to whom
//! (`relations`). Every answer is derived from that at the moment it is asked for, and while it
//! is derived, the things it looked at are written down as [`Subject`]s. Whoever keeps answers up
//! to date (the publisher) remembers which key looked at which subject, and asks again for the
//! keys whose subjects [`Index::apply`] announces.
//!
//! Four laws, held by `tests/laws.rs` under random sequences of events:
//! 1. The order of events on different objects does not matter.
//! 2. Applying an object and deleting it leaves nothing behind.
//! 3. An index that lived through changes answers like one built from what is left.
//! 4. If an answer changes, a subject that it recorded before was announced.
//!
//! Cost: an event costs what refers to the object; an answer costs what it contains. Nothing walks
//! over the whole cluster except a relisting, over its own kind.
//!
//! Deliberately not here: time, tasks, locks, wire types, and the memory of who asked what.

mod address;
mod answer;
mod authorizations;
mod balancing;
mod change;
mod config;
mod derive;
mod endpoint;
mod endpoints;
mod failure_accrual;
mod inbound;
mod key;
mod labels;
mod opaque;
mod outbound;
mod profile;
mod question;
mod relations;
mod routes;
mod servers;
mod status;
mod store;
mod unreadable;
mod warnings;

pub use crate::{
    answer::{Answer, Answered, Refusal},
    change::{Changes, Subject},
    config::{ClusterConfig, TransportMode},
    key::{EndpointsKey, Key, OutboundKey, OutboundTarget, ProfileKey, ProfileTarget},
    question::Question,
    status::{CONTROLLER, Condition, ConditionKind, ParentStatus, Reason, Status},
    unreadable::{Unreadable, unreadable},
    warnings::warnings,
};

use crate::{derive::Derivation, store::Store};
use hauberk_resources::ResourceEvent;

/// The state of the cluster, and the answers that follow from it.
#[derive(Debug)]
pub struct Index {
    config: ClusterConfig,
    store: Store,
}

impl Index {
    /// An index of an empty cluster.
    pub fn new(config: ClusterConfig) -> Self {
        Self { config, store: Store::default() }
    }

    /// The settings it answers by.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// Takes one event and says what it was about.
    ///
    /// The set is empty if nothing changed, in particular when an equal object is applied again.
    pub fn apply(&mut self, event: ResourceEvent) -> Changes {
        let mut changes = Changes::default();
        match event {
            ResourceEvent::Applied(resource) => self.store.put(resource, &mut changes),
            ResourceEvent::Deleted(key) => self.store.remove(&key, &mut changes),
            ResourceEvent::Relisted { kind, all } => self.store.replace(kind, all, &mut changes),
        }
        changes
    }

    /// Derives the answer to a question, and what it depends on.
    pub fn answer(&self, key: &Key) -> Answered {
        let mut derivation = Derivation::new(&self.config, &self.store);
        let answer = match key {
            Key::Inbound(workload_port) => inbound::answer(&mut derivation, workload_port),
            Key::Outbound(key) => outbound::answer(&mut derivation, key),
            Key::Endpoints(key) => endpoints::answer(&mut derivation, key),
            Key::Profile(key) => profile::answer(&mut derivation, key),
            Key::Status(key) => status::answer(&mut derivation, key),
        };
        Answered { answer, subjects: derivation.into_subjects() }
    }

    /// The objects, for listings; ordered by kind, namespace and name.
    pub fn resources(&self) -> impl Iterator<Item = &std::sync::Arc<hauberk_resources::Resource>> {
        self.store.all()
    }

    /// Whether nothing is kept at all, neither objects nor references.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }
}
