//! How many requests per second a server takes.

use crate::{authorizations::account_id, derive::Derivation};
use hauberk_model::{
    Meta,
    rate_limit::{RateLimit, RateLimitOverride},
};
use hauberk_resources::{
    Kind, Resource, ResourceKey,
    policy::{HttpLocalRateLimitPolicy, Server},
};
use std::sync::Arc;

/// The limit on a server.
pub(super) fn of_server(
    derivation: &mut Derivation<'_>,
    server: &Server,
) -> Option<Arc<RateLimit>> {
    let metadata = &server.metadata;
    let key = ResourceKey::new(Kind::Server, metadata.namespace.clone(), metadata.name.clone());
    let policy = in_force(derivation, &key)?;
    Some(Arc::new(limit(derivation, policy)))
}

/// The policy that counts for a server: of several the oldest, then the first by name.
pub(crate) fn in_force<'a>(
    derivation: &mut Derivation<'a>,
    server: &ResourceKey,
) -> Option<&'a HttpLocalRateLimitPolicy> {
    let policies = derivation.attached(server).into_iter().filter_map(|resource| match resource {
        Resource::HttpLocalRateLimitPolicy(policy) => Some(policy),
        _ => None,
    });
    policies.min_by(|a, b| a.metadata.age_order().cmp(&b.metadata.age_order()))
}

fn limit(derivation: &Derivation<'_>, policy: &HttpLocalRateLimitPolicy) -> RateLimit {
    let own_namespace = &policy.metadata.namespace;
    let overrides = policy.overrides().iter().map(|one| {
        let accounts = one
            .client_refs
            .iter()
            .filter(|client| client.target() == Some(Kind::ServiceAccount))
            .map(|client| {
                let namespace = client.namespace.as_ref().unwrap_or(own_namespace);
                account_id(derivation, &client.name, namespace)
            });
        RateLimitOverride {
            requests_per_second: one.requests_per_second,
            clients: accounts.collect(),
        }
    });
    RateLimit {
        meta: Meta::resource(
            "policy.linkerd.io",
            "HTTPLocalRateLimitPolicy",
            "",
            &policy.metadata.name,
        ),
        total: policy.total().map(|limit| limit.requests_per_second),
        identity: policy.identity().map(|limit| limit.requests_per_second),
        overrides: overrides.collect(),
    }
}
