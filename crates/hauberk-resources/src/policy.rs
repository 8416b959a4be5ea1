//! Linkerd's policy resources: who may talk to whom, how much, and what lies outside.

mod authentication;
mod authorization_policy;
mod egress_network;
mod network;
mod rate_limit;
mod server;
mod server_authorization;
mod target_ref;

pub use self::{
    authentication::{MeshTlsAuthentication, NetworkAuthentication},
    authorization_policy::AuthorizationPolicy,
    egress_network::{EgressNetwork, TrafficPolicy},
    rate_limit::{HttpLocalRateLimitPolicy, RateLimitOverride, RequestsPerSecond},
    server::{ProxyProtocol, Server, ServerSelector},
    server_authorization::{AccountRef, ClientTls, ServerAuthorization, ServerRef},
    target_ref::{LocalTargetRef, NamespacedTargetRef},
};
