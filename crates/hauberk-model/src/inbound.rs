//! What a server accepts.

use crate::{
    Meta, Network, Port,
    filter::{GrpcFilter, HttpFilter},
    rate_limit::RateLimit,
    route::{Route, Rule, grpc::GrpcMatch, http::HttpMatch},
    workload_id::IdentityMatch,
};
use ipnet::IpNet;
use std::{str::FromStr, sync::Arc, time::Duration};

/// Policy for one port of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPolicy {
    /// The Server, or the default policy.
    pub server: Meta,
    /// What is spoken there.
    pub protocol: InboundProtocol,
    /// Who may connect; nobody if empty.
    pub authorizations: Arc<[Authorization]>,
}

/// Protocol of a port.
#[derive(Clone, Debug, PartialEq)]
pub enum InboundProtocol {
    /// Look at the first bytes.
    Detect {
        /// How long a silent client is waited for.
        timeout: Duration,
        /// When it is HTTP.
        http: HttpServer,
    },
    /// HTTP/1 for sure.
    Http1(HttpServer),
    /// HTTP/2 for sure.
    Http2(HttpServer),
    /// gRPC for sure.
    Grpc(Arc<[GrpcRoute]>),
    /// Bytes that are not looked into.
    Opaque,
    /// TLS of the application's own, which is not ended here.
    Tls,
}

/// What an HTTP server accepts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpServer {
    /// In order of preference when equal in rank.
    pub routes: Arc<[HttpRoute]>,
    /// Requests per second.
    pub rate_limit: Option<Arc<RateLimit>>,
}

/// An inbound HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// The route resource, or `default` or `probe`.
    pub meta: Meta,
    /// Who may use it, beside those who may use the server.
    pub authorizations: Arc<[Authorization]>,
    /// Hosts, rules, matches, filters.
    pub route: Route<HttpMatch, Vec<HttpFilter>>,
}

impl HttpRoute {
    /// The route for every request that a server without routes has.
    pub fn catch_all(meta: Meta, authorizations: Arc<[Authorization]>) -> Self {
        let rules = vec![Rule { matches: Vec::new(), action: Vec::new() }];
        Self { meta, authorizations, route: Route { hosts: Vec::new(), rules } }
    }
}

/// An inbound gRPC route.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcRoute {
    /// The route resource, or `default`.
    pub meta: Meta,
    /// Who may use it, beside those who may use the server.
    pub authorizations: Arc<[Authorization]>,
    /// Hosts, rules, matches, filters.
    pub route: Route<GrpcMatch, Vec<GrpcFilter>>,
}

/// Leave to connect: from these networks, with that proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The policy that gives it.
    pub meta: Meta,
    /// Where the client must be.
    pub networks: Vec<Network>,
    /// What the client must prove.
    pub authentication: Authentication,
}

impl Authorization {
    /// Whether it comes from the default policy `audit`, which lets everybody in and wants each logged.
    pub fn is_audit(&self) -> bool {
        matches!(&self.meta, Meta::Default(name) if **name == *DefaultPolicy::Audit.as_str())
    }
}

/// What a client must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing.
    Unauthenticated,
    /// That it speaks mesh TLS, with or without an identity.
    TlsUnauthenticated,
    /// One of these identities.
    TlsAuthenticated(Vec<IdentityMatch>),
}

impl Authentication {
    /// Any identity at all.
    pub fn any_identity() -> Self {
        Self::TlsAuthenticated(vec![IdentityMatch::Suffix(Vec::new())])
    }
}

/// Policies by name, for ports without a Server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultPolicy {
    /// Everybody.
    AllUnauthenticated,
    /// Everybody who has an identity.
    AllAuthenticated,
    /// Everybody on a cluster network.
    ClusterUnauthenticated,
    /// Everybody on a cluster network who has an identity.
    ClusterAuthenticated,
    /// Nobody.
    Deny,
    /// Everybody, each logged.
    Audit,
}

/// Why a text names no default policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no default policy; valid are all-unauthenticated, all-authenticated, \
     cluster-unauthenticated, cluster-authenticated, deny, audit"
)]
pub struct InvalidDefaultPolicy(pub String);

impl DefaultPolicy {
    /// The name, as annotations and settings write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllUnauthenticated => "all-unauthenticated",
            Self::AllAuthenticated => "all-authenticated",
            Self::ClusterUnauthenticated => "cluster-unauthenticated",
            Self::ClusterAuthenticated => "cluster-authenticated",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }

    /// The same policy for clients with an identity only; `deny` stays `deny`.
    pub fn authenticated(self) -> Self {
        match self {
            Self::AllUnauthenticated | Self::AllAuthenticated | Self::Audit => {
                Self::AllAuthenticated
            }
            Self::ClusterUnauthenticated | Self::ClusterAuthenticated => Self::ClusterAuthenticated,
            Self::Deny => Self::Deny,
        }
    }

    /// The authorizations it stands for; none for `deny`.
    pub fn authorizations(self, cluster_networks: &[IpNet]) -> Arc<[Authorization]> {
        let cluster = || cluster_networks.iter().copied().map(Network::new).collect();
        let (networks, authentication) = match self {
            Self::Deny => return Arc::new([]),
            Self::AllUnauthenticated | Self::Audit => {
                (Network::all(), Authentication::Unauthenticated)
            }
            Self::AllAuthenticated => (Network::all(), Authentication::any_identity()),
            Self::ClusterUnauthenticated => (cluster(), Authentication::Unauthenticated),
            Self::ClusterAuthenticated => (cluster(), Authentication::any_identity()),
        };
        Arc::new([Authorization { meta: Meta::default(self.as_str()), networks, authentication }])
    }
}

impl FromStr for DefaultPolicy {
    type Err = InvalidDefaultPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidDefaultPolicy> {
        let all = [
            Self::AllUnauthenticated,
            Self::AllAuthenticated,
            Self::ClusterUnauthenticated,
            Self::ClusterAuthenticated,
            Self::Deny,
            Self::Audit,
        ];
        let found = all.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| InvalidDefaultPolicy(text.to_owned()))
    }
}

/// A port of a workload: what an inbound policy is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadPort {
    /// Namespace of the workload.
    pub namespace: crate::Namespace,
    /// Name of the pod or external workload.
    pub workload: WorkloadRef,
    /// The port.
    pub port: Port,
}

/// Which object a workload is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadRef {
    /// A Pod.
    Pod(Arc<str>),
    /// An ExternalWorkload.
    External(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_audit_policy_is_audited() {
        for name in ["all-unauthenticated", "cluster-authenticated", "audit"] {
            let policy: DefaultPolicy = name.parse().expect("a default policy");
            let audited = policy.authorizations(&[]).iter().all(Authorization::is_audit);
            assert_eq!(audited, name == "audit", "{name}");
        }
    }
}
