//! Who refers to whom, and which subjects an object is about.
//!
//! The two functions here are the other half of [`crate::derive`]: whatever a derivation reads
//! under a subject must announce that subject when it changes. `tests/laws.rs` holds them
//! together.

use crate::{
    change::{Changes, Subject},
    store::Store,
};
use hauberk_resources::{
    EndpointSlice, Kind, Metadata, ParentRef, Pod, Resource, ResourceKey, SliceEndpoint,
    policy::{LocalTargetRef, Server, ServerRef, ServerSelector},
};
use std::{net::IpAddr, sync::Arc};

/// A property by which objects are found without walking over all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Relation {
    /// Services, pods and external workloads with this address of their own.
    Claims(IpAddr),
    /// Pods that listen on ports of the node with this address.
    ListensOnHost(IpAddr),
    /// Slices of this service.
    SliceOf {
        /// Namespace of slice and service.
        namespace: Arc<str>,
        /// Name of the service.
        service: Arc<str>,
    },
    /// Slices in which this workload stands.
    Holds(ResourceKey),
    /// Pods whose only owner is this replica set.
    OwnedBy(ResourceKey),
    /// Pods on this node.
    OnNode(Arc<str>),
    /// Policies, routes and limits for this object.
    AttachedTo(ResourceKey),
    /// Pods and external workloads with this label.
    Labelled {
        /// Namespace of the workloads.
        namespace: Arc<str>,
        /// The label.
        label: Label,
    },
    /// Servers that select no workload without this label; or, without one, any workload.
    Selects {
        /// Namespace of servers and workloads.
        namespace: Arc<str>,
        /// The label that a workload must have.
        label: Option<Label>,
    },
}

/// Key and value.
pub(crate) type Label = (Arc<str>, Arc<str>);

/// By what an object is found. Depends on nothing but the object.
pub(crate) fn relations(resource: &Resource) -> Vec<Relation> {
    match resource {
        Resource::Service(service) => {
            service.cluster_ips().into_iter().map(Relation::Claims).collect()
        }
        Resource::Pod(pod) => relations_of_pod(pod),
        Resource::ExternalWorkload(external) => {
            let claims = external.ips().into_iter().map(Relation::Claims);
            claims.chain(labelled(&external.metadata)).collect()
        }
        Resource::EndpointSlice(slice) => relations_of_slice(slice),
        Resource::AuthorizationPolicy(policy) => target_key(&policy.metadata, policy.target())
            .map(Relation::AttachedTo)
            .into_iter()
            .collect(),
        Resource::HttpLocalRateLimitPolicy(policy) => target_key(&policy.metadata, policy.target())
            .map(Relation::AttachedTo)
            .into_iter()
            .collect(),
        Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
            attached(&route.metadata, route.group(), route.parents())
        }
        Resource::GrpcRoute(route) => attached(&route.metadata, route.group(), route.parents()),
        Resource::TlsRoute(route) => attached(&route.metadata, route.group(), route.parents()),
        Resource::TcpRoute(route) => attached(&route.metadata, route.group(), route.parents()),
        Resource::Server(server) => {
            let namespace = server.metadata.namespace.clone();
            vec![Relation::Selects { namespace, label: demanded_label(server.selector()) }]
        }
        Resource::Namespace(_)
        | Resource::Node(_)
        | Resource::ServiceAccount(_)
        | Resource::Deployment(_)
        | Resource::StatefulSet(_)
        | Resource::DaemonSet(_)
        | Resource::ReplicaSet(_)
        | Resource::Job(_)
        | Resource::ServerAuthorization(_)
        | Resource::MeshTlsAuthentication(_)
        | Resource::NetworkAuthentication(_)
        | Resource::EgressNetwork(_)
        | Resource::ReferenceGrant(_)
        | Resource::ServiceProfile(_) => Vec::new(),
    }
}

fn relations_of_pod(pod: &Pod) -> Vec<Relation> {
    let mut relations = Vec::new();
    if pod.holds_its_address() {
        if !pod.spec.host_network {
            relations.extend(pod.ips().into_iter().map(Relation::Claims));
        }
        if pod.spec.tcp_ports().any(|port| port.host_port.is_some()) {
            relations.extend(pod.host_ips().into_iter().map(Relation::ListensOnHost));
        }
    }
    relations.extend(replica_set(&pod.metadata).map(Relation::OwnedBy));
    if !pod.spec.node_name.is_empty() {
        relations.push(Relation::OnNode(pod.spec.node_name.clone()));
    }
    relations.extend(labelled(&pod.metadata));
    relations
}

fn labelled(workload: &Metadata) -> impl Iterator<Item = Relation> {
    workload.labels.iter().map(|(key, value)| Relation::Labelled {
        namespace: workload.namespace.clone(),
        label: (key.clone(), value.clone()),
    })
}

/// A label that every selected workload has, if the selector says so by itself: it narrows the
/// search, and the selector still decides.
fn demanded_label(selector: &ServerSelector) -> Option<Label> {
    let (ServerSelector::Pods(selector) | ServerSelector::ExternalWorkloads(selector)) = selector;
    let label = selector.match_labels.iter().next();
    label.map(|(key, value)| (key.clone(), value.clone()))
}

/// Where to look for the servers on a workload.
pub(crate) fn selections(workload: &Metadata) -> impl Iterator<Item = Relation> {
    let namespace = &workload.namespace;
    let labels = workload.labels.iter().map(|(key, value)| Some((key.clone(), value.clone())));
    labels.chain([None]).map(|label| Relation::Selects { namespace: namespace.clone(), label })
}

fn relations_of_slice(slice: &EndpointSlice) -> Vec<Relation> {
    let namespace = &slice.metadata.namespace;
    let Some(service) = slice.service() else { return Vec::new() };
    let service = Relation::SliceOf { namespace: namespace.clone(), service: service.into() };
    let held = slice.endpoints.iter().filter_map(|endpoint| workload_behind(slice, endpoint));
    std::iter::once(service).chain(held.map(Relation::Holds)).collect()
}

/// The object a policy is about, if it is of a kind the mesh knows.
///
/// Case does not matter in references, and names of objects are lower case (RFC 1123).
pub(crate) fn target_key(policy: &Metadata, target: &LocalTargetRef) -> Option<ResourceKey> {
    let kind = target.target()?;
    Some(ResourceKey::new(kind, policy.namespace.clone(), target.name.to_ascii_lowercase()))
}

fn attached(metadata: &Metadata, group: &str, parents: &[ParentRef]) -> Vec<Relation> {
    let keys = parents.iter().filter_map(|parent| parent_key(metadata, group, parent));
    keys.map(Relation::AttachedTo).collect()
}

/// The object a route wants to be attached to, if it is of a kind the mesh knows.
pub(crate) fn parent_key(
    route: &Metadata,
    route_group: &str,
    parent: &ParentRef,
) -> Option<ResourceKey> {
    let group = match parent.group.as_deref() {
        None => route_group,
        Some("core") => "",
        Some(group) => group,
    };
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
    let kind =
        Kind::ALL.iter().copied().find(|known| known.name() == kind && known.group() == group)?;
    Some(ResourceKey::new(kind, namespace.clone(), parent.name.clone()))
}

/// The pod or external workload that an endpoint stands for.
pub(crate) fn workload_behind(
    slice: &EndpointSlice,
    endpoint: &SliceEndpoint,
) -> Option<ResourceKey> {
    let target = endpoint.target_ref.as_ref()?;
    let own = &slice.metadata.namespace;
    match &*target.kind {
        "Pod" if target.namespace.is_empty() => {
            Some(ResourceKey::new(Kind::Pod, own.clone(), target.name.clone()))
        }
        "Pod" => Some(ResourceKey::new(Kind::Pod, target.namespace.clone(), target.name.clone())),
        // External workloads are always those of the slice's own namespace: a service must not
        // send its clients to the machines of others.
        "ExternalWorkload" => {
            Some(ResourceKey::new(Kind::ExternalWorkload, own.clone(), target.name.clone()))
        }
        _ => None,
    }
}

/// The replica set that owns a pod, if it has exactly one owner and that is one.
///
/// Only replica sets are looked at for an owner of their own: deployments make a new one for each
/// version, and people think of the deployment.
pub(crate) fn replica_set(metadata: &Metadata) -> Option<ResourceKey> {
    match &metadata.owner_references[..] {
        [owner] if &*owner.kind == "ReplicaSet" => {
            Some(ResourceKey::new(Kind::ReplicaSet, metadata.namespace.clone(), owner.name.clone()))
        }
        _ => None,
    }
}

/// Says which subjects `resource` is about, when it comes, goes, or is about to be replaced.
///
/// `other` is the version before or after, where there is one: some objects matter only by parts
/// that did not change.
pub(crate) fn announce(
    store: &Store,
    resource: &Resource,
    other: Option<&Resource>,
    changes: &mut Changes,
) {
    changes.announce(Subject::Object(resource.key()));
    for relation in relations(resource) {
        match relation {
            Relation::Claims(ip) | Relation::ListensOnHost(ip) => {
                changes.announce(Subject::Address(ip));
            }
            Relation::SliceOf { namespace, service } => {
                changes.announce(Subject::EndpointsOf { namespace, service });
            }
            Relation::AttachedTo(target) => changes.announce(Subject::AttachedTo(target)),
            Relation::Holds(_)
            | Relation::OwnedBy(_)
            | Relation::OnNode(_)
            | Relation::Labelled { .. }
            | Relation::Selects { .. } => {}
        }
    }
    announce_indirect(store, resource, other, changes);
}

fn announce_indirect(
    store: &Store,
    resource: &Resource,
    other: Option<&Resource>,
    changes: &mut Changes,
) {
    match resource {
        Resource::Pod(_) => announce_workload(store, &resource.key(), changes),
        Resource::ExternalWorkload(external) => {
            announce_workload(store, &resource.key(), changes);
            announce_selecting(store, &external.metadata, changes);
        }
        Resource::ReplicaSet(owner) => {
            // Rollouts change the number of replicas all the time; only the owner matters here.
            let other = other.map(|other| &other.metadata().owner_references);
            if other != Some(&owner.metadata.owner_references) {
                announce_pods(store, &Relation::OwnedBy(resource.key()), changes);
            }
        }
        Resource::Node(node) => {
            let other_zone = match other {
                Some(Resource::Node(other)) => Some(other.zone()),
                _ => None,
            };
            if other_zone != Some(node.zone()) {
                announce_pods(store, &Relation::OnNode(node.metadata.name.clone()), changes);
            }
        }
        Resource::Server(server) => announce_selected(store, server, changes),
        Resource::ServerAuthorization(authorization) => {
            let namespace = &authorization.metadata.namespace;
            match authorization.server() {
                ServerRef::Name(name) => {
                    let server = ResourceKey::new(Kind::Server, namespace.clone(), name.clone());
                    changes.announce(Subject::AttachedTo(server));
                }
                ServerRef::Selector(selector) => {
                    for server in store.in_namespace(Kind::Server, namespace) {
                        if selector.matches(&server.metadata().labels) {
                            changes.announce(Subject::AttachedTo(server.key()));
                        }
                    }
                }
            }
        }
        Resource::EgressNetwork(egress) => {
            changes.announce(Subject::EgressNetworksIn(egress.metadata.namespace.clone()));
        }
        Resource::ReferenceGrant(grant) => {
            changes.announce(Subject::GrantsIn(grant.metadata.namespace.clone()));
        }
        Resource::Namespace(_)
        | Resource::Service(_)
        | Resource::ServiceAccount(_)
        | Resource::EndpointSlice(_)
        | Resource::Deployment(_)
        | Resource::StatefulSet(_)
        | Resource::DaemonSet(_)
        | Resource::Job(_)
        | Resource::AuthorizationPolicy(_)
        | Resource::MeshTlsAuthentication(_)
        | Resource::NetworkAuthentication(_)
        | Resource::HttpLocalRateLimitPolicy(_)
        | Resource::PolicyHttpRoute(_)
        | Resource::GatewayHttpRoute(_)
        | Resource::GrpcRoute(_)
        | Resource::TlsRoute(_)
        | Resource::TcpRoute(_)
        | Resource::ServiceProfile(_) => {}
    }
}

/// Announces the workloads that a server selects. Cost: the workloads with a label that it wants,
/// or those of its namespace if it wants none.
fn announce_selected(store: &Store, server: &Server, changes: &mut Changes) {
    let namespace = server.metadata.namespace.clone();
    if let Some(label) = demanded_label(server.selector()) {
        for workload in store.related(&Relation::Labelled { namespace, label }) {
            if selects(server, workload) {
                announce_workload(store, &workload.key(), changes);
            }
        }
        return;
    }
    for kind in [Kind::Pod, Kind::ExternalWorkload] {
        for workload in store.in_namespace(kind, &server.metadata.namespace) {
            if selects(server, workload) {
                announce_workload(store, &workload.key(), changes);
                if let Resource::ExternalWorkload(external) = &**workload {
                    announce_selecting(store, &external.metadata, changes);
                }
            }
        }
    }
}

/// Announces the services that select an external workload. Cost: the services of its namespace.
fn announce_selecting(store: &Store, external: &Metadata, changes: &mut Changes) {
    for service in store.in_namespace(Kind::Service, &external.namespace) {
        if let Resource::Service(service) = &**service
            && service.selects(&external.labels)
        {
            changes.announce(Subject::EndpointsOf {
                namespace: external.namespace.clone(),
                service: service.metadata.name.clone(),
            });
        }
    }
}

/// Whether a server is about a workload.
pub(crate) fn selects(server: &Server, workload: &Resource) -> bool {
    match workload {
        Resource::Pod(pod) => server.selects_pod(&pod.metadata),
        Resource::ExternalWorkload(external) => {
            server.selects_external_workload(&external.metadata)
        }
        _ => false,
    }
}

fn announce_pods(store: &Store, relation: &Relation, changes: &mut Changes) {
    for pod in store.related(relation) {
        announce_workload(store, &pod.key(), changes);
    }
}

/// Announces a workload and the services whose endpoint it is.
fn announce_workload(store: &Store, workload: &ResourceKey, changes: &mut Changes) {
    changes.announce(Subject::Workload(workload.clone()));
    for slice in store.related(&Relation::Holds(workload.clone())) {
        if let Resource::EndpointSlice(slice) = &**slice
            && let Some(service) = slice.service()
        {
            changes.announce(Subject::EndpointsOf {
                namespace: slice.metadata.namespace.clone(),
                service: service.into(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(value: Value) -> Resource {
        Resource::parse(value).expect("a resource")
    }

    #[test]
    fn narrowing_by_a_label_loses_nobody_who_is_selected() {
        let selectors = [
            json!({}),
            json!({"matchLabels": {"app": "web"}}),
            json!({"matchLabels": {"app": "web", "tier": "front"}}),
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
            json!({
                "matchLabels": {"tier": "front"},
                "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}],
            }),
        ];
        let labels = [
            json!({}),
            json!({"app": "web"}),
            json!({"app": "db"}),
            json!({"app": "web", "tier": "front"}),
            json!({"tier": "front"}),
        ];
        let mut selected = 0;
        for selector in &selectors {
            for labels in &labels {
                let server = parse(json!({
                    "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
                    "metadata": {"name": "s", "namespace": "shop"},
                    "spec": {"podSelector": selector, "port": 80},
                }));
                let pod = parse(json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": "p", "namespace": "shop", "labels": labels},
                }));
                let Resource::Server(view) = &server else { panic!("a server") };
                if !selects(view, &pod) {
                    continue;
                }
                selected += 1;
                let of_server = relations(&server);
                let finds_server = selections(pod.metadata()).any(|it| of_server.contains(&it));
                let finds_pod = demanded_label(view.selector()).is_none_or(|label| {
                    let namespace = "shop".into();
                    relations(&pod).contains(&Relation::Labelled { namespace, label })
                });
                assert!(finds_server && finds_pod, "{selector} on {labels}");
            }
        }
        assert_eq!(selected, 5 + 2 + 1 + 3 + 2 + 2);
    }
}
