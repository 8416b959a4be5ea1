//! Who may talk to a server or a route.

use crate::derive::Derivation;
use hauberk_model::{
    Meta, Network, WorkloadId,
    inbound::{Authentication, Authorization, DefaultPolicy},
    workload_id::IdentityMatch,
};
use hauberk_resources::{
    Kind, Resource, ResourceKey,
    policy::{
        AuthorizationPolicy, MeshTlsAuthentication, NamespacedTargetRef, Server,
        ServerAuthorization,
    },
};
use std::sync::Arc;

/// Who may talk to a server: by authorizations for it, for its namespace, and by its own access
/// policy. Nobody if that is nothing.
pub(crate) fn of_server(derivation: &mut Derivation<'_>, server: &Server) -> Arc<[Authorization]> {
    let namespace = &server.metadata.namespace;
    let of_server = ResourceKey::new(Kind::Server, namespace.clone(), server.metadata.name.clone());
    let mut authorizations = attached_to(derivation, &of_server);
    let whole_namespace = ResourceKey::new(Kind::Namespace, "", namespace.clone());
    for policy in namespace_policies(derivation, &whole_namespace, namespace) {
        authorizations.extend(by_policy(derivation, policy));
    }
    let config = derivation.config;
    match server.access_policy() {
        DefaultPolicy::Deny => {}
        policy => {
            let by_default = policy.authorizations(&config.cluster_networks);
            authorizations.extend(by_default.iter().cloned());
        }
    }
    authorizations.into()
}

/// Who may talk to an object, by what is attached to it.
pub(crate) fn attached_to(
    derivation: &mut Derivation<'_>,
    target: &ResourceKey,
) -> Vec<Authorization> {
    let mut authorizations = Vec::new();
    for resource in derivation.attached(target) {
        match resource {
            Resource::AuthorizationPolicy(policy) => {
                authorizations.extend(by_policy(derivation, policy));
            }
            Resource::ServerAuthorization(older) => {
                authorizations.extend(by_server_authorization(derivation, older));
            }
            _routes_and_limits => {}
        }
    }
    authorizations
}

/// The policies for a whole namespace; a policy may only name its own.
fn namespace_policies<'a>(
    derivation: &mut Derivation<'a>,
    key: &ResourceKey,
    namespace: &Arc<str>,
) -> Vec<&'a AuthorizationPolicy> {
    let attached = derivation.attached(key).into_iter().filter_map(|resource| match resource {
        Resource::AuthorizationPolicy(policy) if policy.metadata.namespace == *namespace => {
            Some(policy)
        }
        _ => None,
    });
    attached.collect()
}

/// What a policy permits; nothing if something that it requires is missing or not understood.
fn by_policy(
    derivation: &mut Derivation<'_>,
    policy: &AuthorizationPolicy,
) -> Option<Authorization> {
    let mut networks = None;
    let mut authentication = None;
    for required in policy.required_authentications() {
        let namespace = required.namespace.as_ref().unwrap_or(&policy.metadata.namespace);
        let key = |kind| ResourceKey::new(kind, namespace.clone(), required.name.clone());
        match required.target()? {
            Kind::NetworkAuthentication if networks.is_none() => {
                match derivation.object(key(Kind::NetworkAuthentication))? {
                    Resource::NetworkAuthentication(found) if !found.networks().is_empty() => {
                        networks = Some(found.networks().to_vec());
                    }
                    _ => return None,
                }
            }
            Kind::MeshTlsAuthentication if authentication.is_none() => {
                match derivation.object(key(Kind::MeshTlsAuthentication))? {
                    Resource::MeshTlsAuthentication(found) => {
                        authentication = Some(by_identities(derivation, found)?);
                    }
                    _ => return None,
                }
            }
            Kind::ServiceAccount if authentication.is_none() => {
                let account = service_account(derivation, &required.name, namespace);
                authentication = Some(Authentication::TlsAuthenticated(vec![account]));
            }
            // Two of a kind, or a kind that cannot be required: what it should mean is unclear, so
            // it permits nothing.
            _ => return None,
        }
    }
    Some(Authorization {
        meta: meta("authorizationpolicy", &policy.metadata.name),
        networks: networks.unwrap_or_else(Network::all),
        authentication: authentication.unwrap_or(Authentication::Unauthenticated),
    })
}

fn by_identities(
    derivation: &Derivation<'_>,
    found: &MeshTlsAuthentication,
) -> Option<Authentication> {
    let mut identities = found.identities().to_vec();
    for reference in found.identity_refs() {
        identities.push(identity(derivation, reference, &found.metadata.namespace)?);
    }
    (!identities.is_empty()).then_some(Authentication::TlsAuthenticated(identities))
}

/// The identity of a service account, or all identities of a namespace.
fn identity(
    derivation: &Derivation<'_>,
    reference: &NamespacedTargetRef,
    own_namespace: &Arc<str>,
) -> Option<IdentityMatch> {
    match reference.target()? {
        Kind::ServiceAccount if !reference.name.is_empty() => {
            let namespace = reference.namespace.as_ref().unwrap_or(own_namespace);
            Some(service_account(derivation, &reference.name, namespace))
        }
        Kind::Namespace => {
            // Without a name, the namespace of the authentication itself is meant.
            let name = if reference.name.is_empty() { own_namespace } else { &reference.name };
            let config = derivation.config;
            let (control_plane, domain) = (&config.control_plane_namespace, &config.trust_domain);
            let suffix = format!("*.{name}.serviceaccount.identity.{control_plane}.{domain}");
            IdentityMatch::parse(&suffix).ok()
        }
        _ => None,
    }
}

fn service_account(derivation: &Derivation<'_>, name: &str, namespace: &str) -> IdentityMatch {
    IdentityMatch::Exact(account_id(derivation, name, namespace))
}

/// The identity of a service account of this mesh.
pub(crate) fn account_id(derivation: &Derivation<'_>, name: &str, namespace: &str) -> WorkloadId {
    let config = derivation.config;
    let (control_plane, domain) = (&config.control_plane_namespace, &config.trust_domain);
    WorkloadId::service_account(name, namespace, control_plane, domain)
}

/// What an authorization of the older form permits; nothing if it says nothing about clients.
fn by_server_authorization(
    derivation: &Derivation<'_>,
    authorization: &ServerAuthorization,
) -> Option<Authorization> {
    let authentication = if authorization.is_unauthenticated() {
        Authentication::Unauthenticated
    } else {
        let tls = authorization.mesh_tls()?;
        let own_namespace = &authorization.metadata.namespace;
        let accounts = tls.service_accounts.iter().map(|account| {
            let namespace = account.namespace.as_ref().unwrap_or(own_namespace);
            service_account(derivation, &account.name, namespace)
        });
        let identities: Vec<_> = tls.identities.iter().cloned().chain(accounts).collect();
        match (tls.unauthenticated, identities.is_empty()) {
            (true, _) => Authentication::TlsUnauthenticated,
            (false, false) => Authentication::TlsAuthenticated(identities),
            (false, true) => return None,
        }
    };
    let networks = match authorization.networks() {
        [] => derivation.config.cluster_networks.iter().copied().map(Network::new).collect(),
        networks => networks.to_vec(),
    };
    Some(Authorization {
        meta: meta("serverauthorization", &authorization.metadata.name),
        networks,
        authentication,
    })
}

fn meta(kind: &str, name: &str) -> Meta {
    Meta::resource("policy.linkerd.io", kind, "", name)
}
