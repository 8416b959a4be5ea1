//! `ServerAuthorization`: who may talk to servers, in the older form.

use super::network::networks;
use crate::{metadata::Metadata, selector::LabelSelector, view::nullable};
use hauberk_model::{Network, workload_id::IdentityMatch};
use serde::{Deserialize, Deserializer, de};
use std::sync::Arc;

/// Who may talk to some servers of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerAuthorization {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Spec {
    server: ServerRef,
    #[serde(default, deserialize_with = "nullable")]
    client: Client,
}

/// Which servers are meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerRef {
    /// The one of this name.
    Name(Arc<str>),
    /// Those with these labels.
    Selector(LabelSelector),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Client {
    #[serde(default, deserialize_with = "networks")]
    networks: Vec<Network>,
    #[serde(default, deserialize_with = "nullable")]
    unauthenticated: bool,
    #[serde(rename = "meshTLS", default)]
    mesh_tls: Option<ClientTls>,
}

/// What clients must prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// Mesh TLS is enough, without an identity.
    #[serde(rename = "unauthenticatedTLS", default, deserialize_with = "nullable")]
    pub unauthenticated: bool,
    /// One of these identities.
    #[serde(default, deserialize_with = "identities")]
    pub identities: Vec<IdentityMatch>,
    /// Or the identity of one of these accounts.
    #[serde(default, deserialize_with = "nullable")]
    pub service_accounts: Vec<AccountRef>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AccountRef {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; none stands for the authorization's own.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
}

/// Reads a list of identities; absent and `null` are empty.
pub(super) fn identities<'de, D>(deserializer: D) -> Result<Vec<IdentityMatch>, D::Error>
where
    D: Deserializer<'de>,
{
    let written = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    written.iter().map(|text| IdentityMatch::parse(text).map_err(de::Error::custom)).collect()
}

impl ServerAuthorization {
    /// Which servers of the namespace are meant.
    pub fn server(&self) -> &ServerRef {
        &self.spec.server
    }

    /// Whether `server`, an object of the same namespace, is meant.
    pub fn is_about(&self, server: &Metadata) -> bool {
        match &self.spec.server {
            ServerRef::Name(name) => *name == server.name,
            ServerRef::Selector(selector) => selector.matches(&server.labels),
        }
    }

    /// Where clients must be; empty means the cluster's networks.
    pub fn networks(&self) -> &[Network] {
        &self.spec.client.networks
    }

    /// Whether clients need to prove nothing.
    pub fn is_unauthenticated(&self) -> bool {
        self.spec.client.unauthenticated
    }

    /// What clients must prove, if anything is said about it.
    pub fn mesh_tls(&self) -> Option<&ClientTls> {
        self.spec.client.mesh_tls.as_ref()
    }
}
