//! References from policies to other objects.

use crate::{Kind, view::nullable};
use serde::Deserialize;
use std::sync::Arc;

/// A reference to an object in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalTargetRef {
    /// API group; absent, empty and `core` mean the core group.
    #[serde(default, deserialize_with = "nullable")]
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A reference to an object in any namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NamespacedTargetRef {
    /// API group; absent, empty and `core` mean the core group.
    #[serde(default, deserialize_with = "nullable")]
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name.
    #[serde(default, deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Namespace; none stands for the policy's own.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
}

impl LocalTargetRef {
    /// The kind meant, if the mesh reads it. Case does not matter.
    pub fn target(&self) -> Option<Kind> {
        target(&self.group, &self.kind)
    }
}

impl NamespacedTargetRef {
    /// The kind meant, if the mesh reads it. Case does not matter.
    pub fn target(&self) -> Option<Kind> {
        target(&self.group, &self.kind)
    }
}

fn target(group: &str, kind: &str) -> Option<Kind> {
    let group = if group.eq_ignore_ascii_case("core") { "" } else { group };
    Kind::ALL.iter().copied().find(|known| {
        known.name().eq_ignore_ascii_case(kind) && known.group().eq_ignore_ascii_case(group)
    })
}
