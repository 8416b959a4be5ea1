//! Ground state: the objects, and the references between them that must be followed backwards.
//!
//! Nothing derived is kept here. The references are a function of each single object
//! ([`relations`]), so they leave with it.

use crate::{
    change::Changes,
    relations::{Relation, announce, relations},
};
use hauberk_resources::{Kind, Resource, ResourceKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<ResourceKey, Arc<Resource>>,
    related: BTreeMap<Relation, BTreeSet<ResourceKey>>,
}

impl Store {
    /// Takes an object in, in place of the one of that name.
    pub(crate) fn put(&mut self, resource: Arc<Resource>, changes: &mut Changes) {
        let key = resource.key();
        let before = self.objects.get(&key).cloned();
        if before.as_ref().is_some_and(|before| *before == resource) {
            return;
        }
        if let Some(before) = &before {
            announce(self, before, Some(&resource), changes);
            self.unrelate(&key, before);
        }
        for relation in relations(&resource) {
            self.related.entry(relation).or_default().insert(key.clone());
        }
        self.objects.insert(key, Arc::clone(&resource));
        announce(self, &resource, before.as_deref(), changes);
    }

    /// Forgets an object, if it is known.
    pub(crate) fn remove(&mut self, key: &ResourceKey, changes: &mut Changes) {
        let Some(gone) = self.objects.remove(key) else { return };
        announce(self, &gone, None, changes);
        self.unrelate(key, &gone);
    }

    /// Makes `all` the only objects of their kind. Cost: the objects of the kind, before and after.
    pub(crate) fn replace(&mut self, kind: Kind, all: Vec<Arc<Resource>>, changes: &mut Changes) {
        let keep: BTreeSet<ResourceKey> = all.iter().map(|resource| resource.key()).collect();
        let gone: Vec<ResourceKey> = self
            .of_kind(kind)
            .map(|resource| resource.key())
            .filter(|key| !keep.contains(key))
            .collect();
        for key in gone {
            self.remove(&key, changes);
        }
        for resource in all {
            self.put(resource, changes);
        }
    }

    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.objects.get(key)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.objects.values()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.related.is_empty()
    }

    /// The objects of a kind in one namespace, by name.
    pub(crate) fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        let namespace = Arc::clone(namespace);
        let first = ResourceKey { kind, namespace: namespace.clone(), name: Arc::default() };
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind && key.namespace == namespace)
            .map(|(_, resource)| resource)
    }

    /// The objects with that relation, by kind, namespace and name.
    pub(crate) fn related<'a>(
        &'a self,
        relation: &Relation,
    ) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        let keys = self.related.get(relation).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        let first = ResourceKey { kind, namespace: Arc::default(), name: Arc::default() };
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, resource)| resource)
    }

    fn unrelate(&mut self, key: &ResourceKey, resource: &Resource) {
        for relation in relations(resource) {
            if let Some(keys) = self.related.get_mut(&relation) {
                keys.remove(key);
                if keys.is_empty() {
                    self.related.remove(&relation);
                }
            }
        }
    }
}
