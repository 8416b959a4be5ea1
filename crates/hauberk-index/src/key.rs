//! The questions one can ask.
//!
//! A key is what an answer is shared by: two clients with equal keys get the same answer, so keys
//! hold nothing that does not matter to it.

use hauberk_model::{Port, ServiceName, inbound::WorkloadPort};
use hauberk_resources::ResourceKey;
use std::{net::SocketAddr, sync::Arc};

/// A question to [`crate::Index::answer`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What does this port of a workload accept?
    Inbound(WorkloadPort),
    /// What should a client do with traffic to this target?
    Outbound(OutboundKey),
    /// Which endpoints does this service have, for this client?
    Endpoints(EndpointsKey),
    /// What is known of this address or service beside its policy?
    Profile(ProfileKey),
    /// What should the status of this object say?
    Status(ResourceKey),
}

/// A client's question about traffic to a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundKey {
    /// The namespace of the client, which may have routes of its own.
    pub client_namespace: Arc<str>,
    /// Where the client wants to go.
    pub target: OutboundTarget,
}

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTarget {
    /// To an address.
    Address(SocketAddr),
    /// To a service by name.
    Service(ServiceName, Port),
}

/// A client's question for the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointsKey {
    /// The service.
    pub service: ServiceName,
    /// The port of the service, or of its endpoints if the service does not name it.
    pub port: Port,
    /// Only the endpoint of this name (pods of a stateful set).
    pub hostname: Option<Arc<str>>,
    /// The client's node, for zones and node-local traffic.
    pub client_node: Option<Arc<str>>,
}

/// A client's question for the profile of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileKey {
    /// The client's namespace, which may have a profile of its own for the service.
    pub client_namespace: Option<Arc<str>>,
    /// The client's node, for the zone label of an endpoint.
    pub client_node: Option<Arc<str>>,
    /// The target.
    pub target: ProfileTarget,
}

/// The target of a profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProfileTarget {
    /// An address: of a service, a pod, a node's port, an external workload, or unknown.
    Address(SocketAddr),
    /// A service by name.
    Service(ServiceName, Port),
    /// An endpoint of a service by its host name.
    Instance {
        /// The service.
        service: ServiceName,
        /// The endpoint's host name.
        hostname: Arc<str>,
        /// The port.
        port: Port,
    },
}
