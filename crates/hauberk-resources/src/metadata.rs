//! What all objects have in common.

use crate::view::nullable;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

/// The part of `metadata` that the mesh reads.
///
/// The resource version and managed fields are left out on purpose: an update that changes only
/// those compares equal and costs nothing downstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name, unique within kind and namespace.
    pub name: Arc<str>,
    /// Namespace; empty for cluster-wide kinds. [`crate::Resource::parse`] fills in `default`.
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: Arc<str>,
    /// Identity of this very object; a recreated object of the same name has another.
    #[serde(default, deserialize_with = "nullable")]
    pub uid: Arc<str>,
    /// How often what is wanted was changed; what statuses say they are about.
    #[serde(default)]
    pub generation: Option<i64>,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// When the object was created; orders objects that compete.
    #[serde(default)]
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the object is being deleted.
    #[serde(default)]
    pub deletion_timestamp: Option<Timestamp>,
    /// Who manages the object.
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

impl Metadata {
    /// The label's value, if the label is there.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|value| &**value)
    }

    /// The annotation's value, if the annotation is there.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(|value| &**value)
    }

    /// Sort key for objects that compete: oldest first, then by name; without a timestamp last.
    pub fn age_order(&self) -> (bool, Option<&Timestamp>, &str, &str) {
        let created = self.creation_timestamp.as_ref();
        (created.is_none(), created, &self.name, &self.namespace)
    }
}

/// A moment as the API server writes it (RFC 3339, always UTC, whole seconds).
///
/// It is compared as text, which for that one form is comparison by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub Arc<str>);

/// One owner of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    /// Kind of the owner, such as `ReplicaSet`.
    pub kind: Arc<str>,
    /// Name of the owner, in the same namespace.
    pub name: Arc<str>,
}
