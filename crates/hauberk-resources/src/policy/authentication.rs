//! `MeshTLSAuthentication` and `NetworkAuthentication`: sets of clients to refer to.

use super::{network::networks, server_authorization::identities, target_ref::NamespacedTargetRef};
use crate::{metadata::Metadata, view::nullable};
use hauberk_model::{Network, workload_id::IdentityMatch};
use serde::Deserialize;

/// A set of mesh identities.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MeshTlsAuthentication {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: MeshTlsSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTlsSpec {
    #[serde(default, deserialize_with = "identities")]
    identities: Vec<IdentityMatch>,
    #[serde(default, deserialize_with = "nullable")]
    identity_refs: Vec<NamespacedTargetRef>,
}

impl MeshTlsAuthentication {
    /// Identities that are named.
    pub fn identities(&self) -> &[IdentityMatch] {
        &self.spec.identities
    }

    /// Service accounts and namespaces whose identities are meant.
    pub fn identity_refs(&self) -> &[NamespacedTargetRef] {
        &self.spec.identity_refs
    }
}

/// A set of networks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NetworkAuthentication {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: NetworkSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct NetworkSpec {
    #[serde(default, deserialize_with = "networks")]
    networks: Vec<Network>,
}

impl NetworkAuthentication {
    /// The networks.
    pub fn networks(&self) -> &[Network] {
        &self.spec.networks
    }
}
