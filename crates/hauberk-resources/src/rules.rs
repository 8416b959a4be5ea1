//! What the fields of an object must be together.
//!
//! The types of the views say what each field may be; here is what no single field can say. The
//! rules are those of Linkerd's validating webhooks (observed behaviour of
//! `linkerd-policy-validator` and `linkerd-sp-validator`): an object that breaks one would at best
//! do nothing, and at worst something else than was meant. [`crate::Resource::parse`] calls them,
//! so sources, the index, the webhook and the command line refuse the same objects.
//!
//! Not here: what depends on other objects, and what makes a route unusable (the index tells it in
//! the route's status).

use std::sync::Arc;

use crate::{
    Kind, Resource, ServiceProfile,
    policy::{
        AuthorizationPolicy, EgressNetwork, HttpLocalRateLimitPolicy, MeshTlsAuthentication,
        NetworkAuthentication, ServerAuthorization,
    },
};

/// A rule that an object breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Path of the field.
    pub(crate) field: String,
    /// What is wrong with it, and what would be right.
    pub(crate) reason: String,
}

/// Longest name of an object (Kubernetes, "Object Names and IDs").
const NAME_BYTES_MAX: usize = 253;

/// Checks everything that concerns several fields.
pub(crate) fn check(resource: &Resource) -> Result<(), Broken> {
    match resource {
        Resource::AuthorizationPolicy(policy) => authorization_policy(policy),
        Resource::MeshTlsAuthentication(authentication) => mesh_tls(authentication),
        Resource::NetworkAuthentication(authentication) => network(authentication),
        Resource::EgressNetwork(network) => egress_network(network),
        Resource::ServerAuthorization(authorization) => server_authorization(authorization),
        Resource::HttpLocalRateLimitPolicy(policy) => rate_limit(policy),
        Resource::ServiceProfile(profile) => service_profile(profile),
        Resource::Namespace(_)
        | Resource::Node(_)
        | Resource::Pod(_)
        | Resource::Service(_)
        | Resource::ServiceAccount(_)
        | Resource::EndpointSlice(_)
        | Resource::Deployment(_)
        | Resource::StatefulSet(_)
        | Resource::DaemonSet(_)
        | Resource::ReplicaSet(_)
        | Resource::Job(_)
        | Resource::ExternalWorkload(_)
        | Resource::Server(_)
        | Resource::PolicyHttpRoute(_)
        | Resource::GatewayHttpRoute(_)
        | Resource::GrpcRoute(_)
        | Resource::TlsRoute(_)
        | Resource::TcpRoute(_)
        | Resource::ReferenceGrant(_) => Ok(()),
    }
}

fn broken(field: impl Into<String>, reason: impl Into<String>) -> Result<(), Broken> {
    Err(Broken { field: field.into(), reason: reason.into() })
}

fn authorization_policy(policy: &AuthorizationPolicy) -> Result<(), Broken> {
    let (target, namespace) = (policy.target(), &policy.metadata.namespace);
    match target.target() {
        Some(Kind::Namespace) if !target.name.eq_ignore_ascii_case(namespace) => {
            let reason = format!(
                "a policy speaks for its own namespace only: '{}' should be '{namespace}'",
                target.name
            );
            return broken("spec.targetRef.name", reason);
        }
        Some(
            Kind::Namespace
            | Kind::Server
            | Kind::PolicyHttpRoute
            | Kind::GatewayHttpRoute
            | Kind::GrpcRoute,
        ) => {}
        _ => {
            let reason = format!(
                "'{}' of group '{}' cannot be protected; expected a Server, HTTPRoute, GRPCRoute or Namespace",
                target.kind, target.group
            );
            return broken("spec.targetRef", reason);
        }
    }
    let (mut by_network, mut by_identity) = (false, false);
    for (index, required) in policy.required_authentications().iter().enumerate() {
        let (known, what) = match required.target() {
            Some(Kind::NetworkAuthentication) => (&mut by_network, "one NetworkAuthentication"),
            Some(Kind::MeshTlsAuthentication | Kind::ServiceAccount) => {
                (&mut by_identity, "one MeshTLSAuthentication or ServiceAccount")
            }
            _ => {
                let reason = format!(
                    "'{}' of group '{}' proves nothing; expected a MeshTLSAuthentication, NetworkAuthentication or ServiceAccount",
                    required.kind, required.group
                );
                return broken(format!("spec.requiredAuthenticationRefs[{index}]"), reason);
            }
        };
        if std::mem::replace(known, true) {
            let reason = format!("at most {what} can be required; write a policy for each");
            return broken("spec.requiredAuthenticationRefs", reason);
        }
    }
    Ok(())
}

fn mesh_tls(authentication: &MeshTlsAuthentication) -> Result<(), Broken> {
    for (index, reference) in authentication.identity_refs().iter().enumerate() {
        let reason = match reference.target() {
            Some(Kind::ServiceAccount) => continue,
            Some(Kind::Namespace) if reference.namespace.is_none() => continue,
            Some(Kind::Namespace) => {
                "a Namespace is in no namespace; leave out the field 'namespace'".to_owned()
            }
            _ => format!(
                "'{}' of group '{}' has no identity; expected a ServiceAccount or Namespace",
                reference.kind, reference.group
            ),
        };
        return broken(format!("spec.identityRefs[{index}]"), reason);
    }
    Ok(())
}

fn network(authentication: &NetworkAuthentication) -> Result<(), Broken> {
    match authentication.networks() {
        [] => broken("spec.networks", "at least one network is needed, such as {cidr: 10.0.0.0/8}"),
        _ => Ok(()),
    }
}

fn egress_network(network: &EgressNetwork) -> Result<(), Broken> {
    match network.networks() {
        Some([]) => broken(
            "spec.networks",
            "must not be empty; without the field everything outside is meant",
        ),
        _ => Ok(()),
    }
}

fn server_authorization(authorization: &ServerAuthorization) -> Result<(), Broken> {
    let Some(tls) = authorization.mesh_tls() else { return Ok(()) };
    if authorization.is_unauthenticated() {
        return broken("spec.client", "meshTLS and unauthenticated: true exclude each other");
    }
    if tls.unauthenticated && !(tls.identities.is_empty() && tls.service_accounts.is_empty()) {
        let reason = "unauthenticatedTLS: true excludes identities and serviceAccounts";
        return broken("spec.client.meshTLS", reason);
    }
    Ok(())
}

fn rate_limit(policy: &HttpLocalRateLimitPolicy) -> Result<(), Broken> {
    let target = policy.target();
    if target.target() != Some(Kind::Server) {
        let reason = format!(
            "'{}' of group '{}' has no rate limits; expected a Server of group policy.linkerd.io",
            target.kind, target.group
        );
        return broken("spec.targetRef", reason);
    }
    let total = policy.total().map(|total| total.requests_per_second);
    let limit = |field: String, value: u32| match total {
        _ if value == 0 => broken(field, "must be greater than zero"),
        Some(total) if value > total => {
            broken(field, format!("{value} is more than the total of {total}"))
        }
        _ => Ok(()),
    };
    if let Some(total) = total {
        limit("spec.total.requestsPerSecond".to_owned(), total)?;
    }
    if let Some(identity) = policy.identity() {
        limit("spec.identity.requestsPerSecond".to_owned(), identity.requests_per_second)?;
    }
    for (index, one) in policy.overrides().iter().enumerate() {
        limit(format!("spec.overrides[{index}].requestsPerSecond"), one.requests_per_second)?;
        let other = |kind| kind != Some(Kind::ServiceAccount);
        if let Some(at) = one.client_refs.iter().position(|client| other(client.target())) {
            let kind = &one.client_refs[at].kind;
            let reason = format!("'{kind}' is no client; expected a ServiceAccount");
            return broken(format!("spec.overrides[{index}].clientRefs[{at}]"), reason);
        }
    }
    Ok(())
}

fn service_profile(profile: &ServiceProfile) -> Result<(), Broken> {
    let name = &profile.metadata.name;
    if !is_subdomain(name) {
        let reason = format!(
            "'{name}' is no DNS name in lower case; expected the full name of a service, such as web.shop.svc.cluster.local"
        );
        return broken("metadata.name", reason);
    }
    let is_unnamed = |name: Option<&Arc<str>>| name.is_none_or(|name| name.is_empty());
    match profile.routes().iter().position(|route| is_unnamed(route.labels.get("route"))) {
        Some(index) => broken(format!("spec.routes[{index}].name"), "must not be empty"),
        None => Ok(()),
    }
}

/// RFC 1123, as Kubernetes checks names: lower case, digits, `-` and `.`.
fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|first| is_inner(*first))
            && bytes.last().is_some_and(|last| is_inner(*last))
            && bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}
