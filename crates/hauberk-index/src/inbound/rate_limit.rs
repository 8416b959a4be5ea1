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

/// The limit on a server; of several policies the oldest counts, then the first by name.
pub(super) fn of_server(
    derivation: &mut Derivation<'_>,
    server: &Server,
) -> Option<Arc<RateLimit>> {
    let metadata = &server.metadata;
    let key = ResourceKey::new(Kind::Server, metadata.namespace.clone(), metadata.name.clone());
    let policies = derivation.attached(&key).into_iter().filter_map(|resource| match resource {
        Resource::HttpLocalRateLimitPolicy(policy) => Some(policy),
        _ => None,
    });
    let policy = policies.min_by(|a, b| a.metadata.age_order().cmp(&b.metadata.age_order()))?;
    Some(Arc::new(limit(derivation, policy)))
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
