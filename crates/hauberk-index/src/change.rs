//! What events are about, and what answers depend on.
//!
//! Subjects are a little coarser than fields and much finer than kinds: fine enough that a change
//! of one pod does not disturb answers about others, coarse enough that an answer about a service
//! of a thousand pods has three subjects.

use hauberk_resources::ResourceKey;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Something that events change and answers look at, whether it exists or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One object.
    Object(ResourceKey),
    /// One pod or external workload, with its owner, its node's zone, and the servers on it.
    Workload(ResourceKey),
    /// Which objects claim an address.
    Address(IpAddr),
    /// The endpoints of a service: its slices and the workloads in them.
    EndpointsOf {
        /// Namespace of the service.
        namespace: Arc<str>,
        /// Name of the service.
        service: Arc<str>,
    },
    /// The policies, routes and limits that are attached to an object.
    AttachedTo(ResourceKey),
    /// The egress networks of a namespace.
    EgressNetworksIn(Arc<str>),
    /// The permissions to refer to objects of a namespace.
    GrantsIn(Arc<str>),
}

/// The subjects of one or more events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    subjects: BTreeSet<Subject>,
}

impl Changes {
    /// The subjects, in order, each once.
    pub fn subjects(&self) -> &BTreeSet<Subject> {
        &self.subjects
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Takes in the changes of a later event, so that a batch is handled at once.
    pub fn merge(&mut self, later: Self) {
        self.subjects.extend(later.subjects);
    }

    pub(crate) fn announce(&mut self, subject: Subject) {
        self.subjects.insert(subject);
    }
}

impl IntoIterator for Changes {
    type Item = Subject;
    type IntoIter = std::collections::btree_set::IntoIter<Subject>;

    fn into_iter(self) -> Self::IntoIter {
        self.subjects.into_iter()
    }
}
