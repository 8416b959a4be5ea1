//! What sources tell the index.

use crate::{Kind, Resource, ResourceKey};
use std::sync::Arc;

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum ResourceEvent {
    /// The object exists and looks like this now.
    Applied(Arc<Resource>),
    /// The object is gone.
    Deleted(ResourceKey),
    /// These are all objects of the kind; others of it are gone, although nobody said so.
    ///
    /// Sources send it after a first or repeated listing. Every object in `all` is of `kind`.
    Relisted {
        /// The kind that was listed.
        kind: Kind,
        /// All of its objects.
        all: Vec<Arc<Resource>>,
    },
}
