//! `AuthorizationPolicy`: who may talk to a server, a route or a namespace.

use super::target_ref::{LocalTargetRef, NamespacedTargetRef};
use crate::{metadata::Metadata, view::nullable};
use serde::Deserialize;

/// Who may talk to a server, a route, or all servers of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuthorizationPolicy {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_ref: LocalTargetRef,
    #[serde(default, deserialize_with = "nullable")]
    required_authentication_refs: Vec<NamespacedTargetRef>,
}

impl AuthorizationPolicy {
    /// What clients may talk to.
    pub fn target(&self) -> &LocalTargetRef {
        &self.spec.target_ref
    }

    /// What clients must satisfy, all of it; empty means nothing.
    pub fn required_authentications(&self) -> &[NamespacedTargetRef] {
        &self.spec.required_authentication_refs
    }
}
