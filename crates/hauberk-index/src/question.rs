//! Reading questions as proxies write them: workload and context tokens, authorities.
//!
//! Grammars (Linkerd's, kept for its proxies): a context token is JSON `{"ns":…,"nodeName":…}`,
//! or `ns:<namespace>` in the older form, and anything else counts as empty; a workload is JSON
//! `{"ns":…,"pod":…}` or `{"ns":…,"external_workload":…}`, or `<ns>:<pod>` in the older form; a
//! service is `<name>.<ns>.svc.<domain>` and an endpoint of one `<host>.<name>.<ns>.svc.<domain>`,
//! with port 80 if none is given.

use crate::{
    answer::Refusal,
    config::ClusterConfig,
    key::{EndpointsKey, Key, OutboundKey, OutboundTarget, ProfileKey, ProfileTarget},
};
use hauberk_model::{
    Authority, Namespace, Port, ServiceName,
    inbound::{WorkloadPort, WorkloadRef},
};
use serde::Deserialize;
use std::{net::SocketAddr, sync::Arc};

/// The port of an authority that names none.
const HTTP_PORT: Port = Port::new(80).expect("80 is not zero");

/// Makes keys of what arrives on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    config: &'a ClusterConfig,
}

/// What a destination client says about itself; all of it optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextToken {
    ns: Arc<str>,
    #[serde(rename = "nodeName")]
    node_name: Arc<str>,
}

impl ContextToken {
    fn parse(text: &str) -> Self {
        if let Ok(token) = serde_json::from_str(text) {
            return token;
        }
        match text.strip_prefix("ns:") {
            Some(namespace) => Self { ns: namespace.into(), ..Self::default() },
            None => Self::default(),
        }
    }
}

/// What a policy client says about itself.
#[derive(Debug, Deserialize)]
struct WorkloadToken {
    ns: Arc<str>,
    pod: Option<Arc<str>>,
    external_workload: Option<Arc<str>>,
}

/// A name inside the cluster.
enum ClusterName {
    Service(ServiceName),
    Instance(ServiceName, Arc<str>),
}

impl<'a> Question<'a> {
    /// Reads questions for a cluster with these settings.
    pub fn new(config: &'a ClusterConfig) -> Self {
        Self { config }
    }

    /// Reads `Destination.Get`.
    ///
    /// # Errors
    ///
    /// Addresses and names outside of the cluster are refused as invalid.
    pub fn endpoints(&self, path: &str, context_token: &str) -> Result<Key, Refusal> {
        let authority = authority(path)?;
        if authority.ip().is_some() {
            return Err(Refusal::Invalid("IP queries not supported by Get API".to_owned()));
        }
        let (service, hostname) = match self.cluster_name(authority.host())? {
            ClusterName::Service(service) => (service, None),
            ClusterName::Instance(service, hostname) => (service, Some(hostname)),
        };
        let client_node = some(ContextToken::parse(context_token).node_name);
        Ok(Key::Endpoints(EndpointsKey { service, port: authority.port(), hostname, client_node }))
    }

    /// Reads `Destination.GetProfile`.
    ///
    /// # Errors
    ///
    /// Names outside of the cluster are refused as invalid.
    pub fn profile(&self, path: &str, context_token: &str) -> Result<Key, Refusal> {
        let authority = authority(path)?;
        let port = authority.port();
        let target = match authority.ip() {
            Some(ip) => ProfileTarget::Address(SocketAddr::new(ip.to_canonical(), port.get())),
            None => match self.cluster_name(authority.host())? {
                ClusterName::Service(service) => ProfileTarget::Service(service, port),
                ClusterName::Instance(service, hostname) => {
                    ProfileTarget::Instance { service, hostname, port }
                }
            },
        };
        let ContextToken { ns, node_name } = ContextToken::parse(context_token);
        Ok(Key::Profile(ProfileKey {
            client_namespace: some(ns),
            client_node: some(node_name),
            target,
        }))
    }

    /// Reads `InboundServerPolicies.WatchPort` and `GetPort`.
    ///
    /// # Errors
    ///
    /// A workload or port that cannot be read is refused as invalid.
    pub fn inbound(&self, workload: &str, port: u32) -> Result<Key, Refusal> {
        let (namespace, workload) = self.workload(workload)?;
        let port = Port::try_from(port).map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(Key::Inbound(WorkloadPort { namespace: Namespace::new(namespace), workload, port }))
    }

    /// Reads `OutboundPolicies.Watch` and `Get` for an address.
    ///
    /// # Errors
    ///
    /// A workload that cannot be read, and port zero, are refused as invalid.
    pub fn outbound_to_address(&self, workload: &str, address: SocketAddr) -> Result<Key, Refusal> {
        let (client_namespace, _) = self.workload(workload)?;
        if address.port() == 0 {
            return Err(Refusal::Invalid("the port must not be zero".to_owned()));
        }
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Ok(Key::Outbound(OutboundKey {
            client_namespace,
            target: OutboundTarget::Address(address),
        }))
    }

    /// Reads `OutboundPolicies.Watch` and `Get` for an authority.
    ///
    /// # Errors
    ///
    /// A workload or authority that cannot be read is refused as invalid, a name outside of the
    /// cluster as not found.
    pub fn outbound_to_authority(&self, workload: &str, text: &str) -> Result<Key, Refusal> {
        let (client_namespace, _) = self.workload(workload)?;
        let authority = authority(text)?;
        if let Some(ip) = authority.ip() {
            return self.outbound_to_address(workload, SocketAddr::new(ip, authority.port().get()));
        }
        match self.cluster_name(authority.host()) {
            Ok(ClusterName::Service(service)) => Ok(Key::Outbound(OutboundKey {
                client_namespace,
                target: OutboundTarget::Service(service, authority.port()),
            })),
            Ok(ClusterName::Instance(..)) | Err(_) => {
                Err(Refusal::NotFound(format!("{text} is no service of the cluster")))
            }
        }
    }

    fn workload(&self, text: &str) -> Result<(Arc<str>, WorkloadRef), Refusal> {
        let invalid = || Refusal::Invalid(format!("'{text}' names no workload"));
        if text.trim_start().starts_with('{') {
            let token: WorkloadToken = serde_json::from_str(text).map_err(|_| invalid())?;
            return match (token.pod, token.external_workload) {
                (Some(pod), None) => Ok((token.ns, WorkloadRef::Pod(pod))),
                (None, Some(external)) => Ok((token.ns, WorkloadRef::External(external))),
                _ => Err(invalid()),
            };
        }
        match text.split_once(':') {
            Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() => {
                Ok((namespace.into(), WorkloadRef::Pod(pod.into())))
            }
            _ => Err(invalid()),
        }
    }

    /// Reads a name of the cluster. Hosts arrive in lower case and without a trailing dot.
    fn cluster_name(&self, host: &str) -> Result<ClusterName, Refusal> {
        let invalid = || Refusal::Invalid(format!("Invalid authority: {host}"));
        let domain = self.config.cluster_domain.trim_end_matches('.');
        let labels = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix(".svc."));
        let labels: Vec<&str> = labels.ok_or_else(invalid)?.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return Err(invalid());
        }
        match labels[..] {
            [name, namespace] => Ok(ClusterName::Service(ServiceName::new(namespace, name))),
            [hostname, name, namespace] => {
                Ok(ClusterName::Instance(ServiceName::new(namespace, name), hostname.into()))
            }
            _ => Err(invalid()),
        }
    }
}

fn authority(text: &str) -> Result<Authority, Refusal> {
    Authority::parse(text, HTTP_PORT)
        .map_err(|error| Refusal::Invalid(format!("Invalid authority: {error}")))
}

fn some(text: Arc<str>) -> Option<Arc<str>> {
    (!text.is_empty()).then_some(text)
}
