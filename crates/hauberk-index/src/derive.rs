//! The only way in which derivations read the store: each read writes down its subject.
//!
//! A function that gets its facts from a [`Derivation`] cannot forget to say what its answer
//! depends on, whether the things it looked for existed or not.

use crate::{
    change::Subject,
    config::ClusterConfig,
    relations::{Relation, selections, selects},
    store::Store,
};
use hauberk_resources::{
    EndpointSlice, ExternalWorkload, Kind, Node, ReferenceGrant, Resource, ResourceKey, Service,
    ServiceProfile,
    policy::{EgressNetwork, Server},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub(crate) struct Derivation<'a> {
    pub(crate) config: &'a ClusterConfig,
    store: &'a Store,
    subjects: BTreeSet<Subject>,
    /// Servers that were looked up, by where. Pods of a service have most of their labels in common.
    servers: BTreeMap<Relation, Vec<&'a Server>>,
    /// Whether there are any servers at all in namespaces already looked at.
    has_servers: BTreeMap<Arc<str>, bool>,
}

impl<'a> Derivation<'a> {
    pub(crate) fn new(config: &'a ClusterConfig, store: &'a Store) -> Self {
        let (subjects, servers, has_servers) = Default::default();
        Self { config, store, subjects, servers, has_servers }
    }

    pub(crate) fn into_subjects(self) -> BTreeSet<Subject> {
        self.subjects
    }

    /// One object.
    pub(crate) fn object(&mut self, key: ResourceKey) -> Option<&'a Resource> {
        let found = self.store.get(&key).map(|resource| &**resource);
        self.subjects.insert(Subject::Object(key));
        found
    }

    pub(crate) fn service(&mut self, namespace: &str, name: &str) -> Option<&'a Service> {
        match self.object(ResourceKey::new(Kind::Service, namespace, name))? {
            Resource::Service(service) => Some(service),
            _ => None,
        }
    }

    pub(crate) fn node(&mut self, name: &str) -> Option<&'a Node> {
        match self.object(ResourceKey::new(Kind::Node, "", name))? {
            Resource::Node(node) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn service_profile(
        &mut self,
        namespace: &str,
        name: &str,
    ) -> Option<&'a ServiceProfile> {
        match self.object(ResourceKey::new(Kind::ServiceProfile, namespace, name))? {
            Resource::ServiceProfile(profile) => Some(profile),
            _ => None,
        }
    }

    /// A pod or external workload. What [`Self::owner_of`], [`Self::zone_of_node`] and
    /// [`Self::servers_on`] say about it hangs on the same subject.
    pub(crate) fn workload(&mut self, key: ResourceKey) -> Option<&'a Resource> {
        let found = self.store.get(&key).map(|resource| &**resource);
        self.subjects.insert(Subject::Workload(key));
        found
    }

    /// The slices of a service. The workloads in them ([`Self::held`]) hang on the same subject.
    pub(crate) fn slices(
        &mut self,
        namespace: &Arc<str>,
        service: &Arc<str>,
    ) -> Vec<&'a EndpointSlice> {
        self.subjects.insert(Subject::EndpointsOf {
            namespace: namespace.clone(),
            service: service.clone(),
        });
        let relation = Relation::SliceOf { namespace: namespace.clone(), service: service.clone() };
        let slices = self.store.related(&relation).filter_map(|resource| match &**resource {
            Resource::EndpointSlice(slice) => Some(slice),
            _ => None,
        });
        slices.collect()
    }

    /// The external workloads that a service's selector wants. They hang on the same subject as the service's slices
    /// ([`Self::slices`]), which was read before.
    pub(crate) fn external_workloads(
        &self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a Resource, &'a ExternalWorkload)> + use<'a> {
        let all = self.store.in_namespace(Kind::ExternalWorkload, &service.metadata.namespace);
        all.filter_map(move |resource| match &**resource {
            Resource::ExternalWorkload(external) => {
                let is_wanted = service.selects(&external.metadata.labels);
                is_wanted.then_some((&**resource, external))
            }
            _ => None,
        })
    }

    /// A workload in a slice that [`Self::slices`] returned.
    pub(crate) fn held(&self, key: &ResourceKey) -> Option<&'a Resource> {
        self.store.get(key).map(|resource| &**resource)
    }

    /// The owner of a pod that was read before.
    pub(crate) fn owner_of(&self, key: &ResourceKey) -> Option<&'a Resource> {
        self.store.get(key).map(|resource| &**resource)
    }

    /// The zone of the node of a pod that was read before.
    pub(crate) fn zone_of_node(&self, node: &Arc<str>) -> Option<&'a str> {
        let key = ResourceKey { kind: Kind::Node, namespace: Arc::default(), name: node.clone() };
        match self.store.get(&key).map(|resource| &**resource) {
            Some(Resource::Node(node)) => node.zone(),
            _ => None,
        }
    }

    /// The servers on a workload that was read before, oldest first.
    ///
    /// Cost: the labels of the workload and the servers that want one of them; nothing in namespaces
    /// without servers.
    pub(crate) fn servers_on(&mut self, workload: &'a Resource) -> Vec<&'a Server> {
        let metadata = workload.metadata();
        let mut servers = Vec::new();
        if !self.has_servers_in(&metadata.namespace) {
            return servers;
        }
        let store = self.store;
        for selection in selections(metadata) {
            let wanting = self.servers.entry(selection).or_insert_with_key(|selection| {
                let related = store.related(selection).filter_map(|resource| match &**resource {
                    Resource::Server(server) => Some(server),
                    _ => None,
                });
                related.collect()
            });
            servers.extend(wanting.iter().filter(|server| selects(server, workload)));
        }
        servers.sort_by(|a, b| a.metadata.age_order().cmp(&b.metadata.age_order()));
        servers
    }

    fn has_servers_in(&mut self, namespace: &Arc<str>) -> bool {
        if let Some(known) = self.has_servers.get(namespace) {
            return *known;
        }
        let has_any = self.store.in_namespace(Kind::Server, namespace).next().is_some();
        self.has_servers.insert(namespace.clone(), has_any);
        has_any
    }

    /// What claims an address.
    pub(crate) fn claimants(&mut self, ip: IpAddr) -> Vec<&'a Resource> {
        self.subjects.insert(Subject::Address(ip));
        self.store.related(&Relation::Claims(ip)).map(|resource| &**resource).collect()
    }

    /// The pods that listen on ports of the node with this address.
    pub(crate) fn on_host(&mut self, ip: IpAddr) -> Vec<&'a Resource> {
        self.subjects.insert(Subject::Address(ip));
        self.store.related(&Relation::ListensOnHost(ip)).map(|resource| &**resource).collect()
    }

    /// The policies, routes and limits for an object, by kind, namespace and name.
    pub(crate) fn attached(&mut self, key: &ResourceKey) -> Vec<&'a Resource> {
        self.subjects.insert(Subject::AttachedTo(key.clone()));
        let relation = Relation::AttachedTo(key.clone());
        let mut attached: Vec<&'a Resource> =
            self.store.related(&relation).map(|resource| &**resource).collect();
        if let (Kind::Server, Some(Resource::Server(server))) =
            (key.kind, self.store.get(key).map(|resource| &**resource))
        {
            // Older authorizations may select servers by label, which no reference can express.
            let older = self.store.in_namespace(Kind::ServerAuthorization, &key.namespace);
            let about = older.map(|resource| &**resource).filter(|resource| match resource {
                Resource::ServerAuthorization(older) => older.is_about(&server.metadata),
                _ => false,
            });
            attached.extend(about);
        }
        attached
    }

    /// The egress networks of a namespace.
    pub(crate) fn egress_networks(&mut self, namespace: &Arc<str>) -> Vec<&'a EgressNetwork> {
        self.subjects.insert(Subject::EgressNetworksIn(namespace.clone()));
        let networks = self.store.in_namespace(Kind::EgressNetwork, namespace);
        let networks = networks.filter_map(|resource| match &**resource {
            Resource::EgressNetwork(network) => Some(network),
            _ => None,
        });
        networks.collect()
    }

    /// The permissions to refer to objects of a namespace.
    pub(crate) fn grants(&mut self, namespace: &Arc<str>) -> Vec<&'a ReferenceGrant> {
        self.subjects.insert(Subject::GrantsIn(namespace.clone()));
        let grants = self.store.in_namespace(Kind::ReferenceGrant, namespace);
        let grants = grants.filter_map(|resource| match &**resource {
            Resource::ReferenceGrant(grant) => Some(grant),
            _ => None,
        });
        grants.collect()
    }
}
