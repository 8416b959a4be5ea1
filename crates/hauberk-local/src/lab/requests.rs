//! What can be asked of the lab's writer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Lab, Record};
use crate::api::{Answer, ContainerRow, PodRow, Request, Target};
use crate::objects::{Key, is_kind};
use crate::pod::Pod;
use crate::spec::{self, Service};
use crate::workloads::WorkloadKind;

impl Lab {
    pub(super) fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Progress => Answer::Progress(self.progress()),
            Request::Apply { manifests } => Answer::Changed {
                lines: manifests
                    .into_iter()
                    .map(|manifest| self.apply_manifest(manifest))
                    .collect(),
            },
            Request::Delete { manifests } => Answer::Changed {
                lines: manifests.iter().map(|manifest| self.delete_manifest(manifest)).collect(),
            },
            Request::Get { kind, name, namespace } => {
                self.get(&kind, name.as_deref(), namespace.as_deref())
            }
            Request::Pods => Answer::Pods { pods: self.rows() },
            Request::Stop => {
                self.stop();
                Answer::Ready
            }
            Request::UseProxy { program } => {
                tracing::info!(program = %program.display(), "new pods get another sidecar");
                let command = vec![program.to_string_lossy().into_owned()];
                self.setup.images.replace_program("hauberk-proxy", command);
                Answer::Ready
            }
            Request::Logs { .. }
            | Request::Exec { .. }
            | Request::Dial { .. }
            | Request::Upgrade { .. } => {
                // The server of the socket does these itself, with the pod that it has looked up.
                Answer::Failed { error: "not a question for the writer".to_owned() }
            }
        }
    }

    fn apply_manifest(&mut self, manifest: Value) -> String {
        let key = match Key::of(&manifest) {
            Ok(key) => key,
            Err(problem) => return format!("error: {problem}"),
        };
        let before = self.known(&key).cloned();
        self.put(key.clone(), manifest);
        let after = self.known(&key);
        match (self.problems.get(&key), &before) {
            (Some(problem), _) => format!("error: {key}: {problem}"),
            (None, None) => format!("{key} created"),
            (None, Some(before)) if Some(before) == after => format!("{key} unchanged"),
            (None, Some(_)) => format!("{key} configured"),
        }
    }

    fn known(&self, key: &Key) -> Option<&Value> {
        self.bare_pods.get(key).or_else(|| self.objects.get(key))
    }

    fn delete_manifest(&mut self, manifest: &Value) -> String {
        match Key::of(manifest) {
            Ok(key) if self.known(&key).is_some() => {
                self.delete(&key);
                format!("{key} deleted")
            }
            Ok(key) => format!("error: there is no {key}"),
            Err(problem) => format!("error: {problem}"),
        }
    }

    /// Puts an object in, completed as the API server would.
    pub(super) fn put(&mut self, key: Key, mut value: Value) {
        if !key.namespace.is_empty() {
            self.ensure_namespace(&key.namespace);
            value["metadata"]["namespace"] = json!(key.namespace);
        }
        if let Some(metadata) = value["metadata"].as_object_mut() {
            // These belong to the server; an exported manifest carries another's.
            for field in
                ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"]
            {
                metadata.remove(field);
            }
        }
        self.problems.remove(&key);
        let completed = match key.kind.as_str() {
            "Service" => self.complete_service(&key, &mut value),
            "CronJob" => Err("the lab runs no CronJobs".to_owned()),
            "Pod" => {
                self.bare_pods.insert(key, value);
                return;
            }
            _ => Ok(()),
        };
        if let Err(problem) = completed {
            tracing::error!(object = %key, problem, "cannot take an object");
            self.problems.insert(key, problem);
            return;
        }
        self.endpoints_outdated = true;
        let namespace = (key.kind == "Namespace").then(|| key.name.clone());
        self.put_object(key, value);
        if let Some(namespace) = namespace {
            self.ensure_service_account(&namespace);
        }
    }

    /// A manifest that comes before its namespace need not fail.
    fn ensure_namespace(&mut self, name: &str) {
        let key = Key::core("Namespace", "", name);
        if self.objects.get(&key).is_none() {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.put_object(key, object);
            self.ensure_service_account(name);
        }
    }

    fn ensure_service_account(&mut self, namespace: &str) {
        let key = Key::core("ServiceAccount", namespace, "default");
        if self.objects.get(&key).is_none() {
            let metadata = json!({"name": "default", "namespace": namespace});
            let object =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
            self.put_object(key, object);
        }
    }

    /// Takes an object out, and what belongs to it.
    pub(super) fn delete(&mut self, key: &Key) {
        self.problems.remove(key);
        if let Some(object) = self.objects.get(key).cloned() {
            if key.kind == "Service" {
                self.release_service(&object);
            }
            if key.kind != "Pod" {
                self.remove_object(key);
            }
        }
        if self.bare_pods.remove(key).is_none() && key.kind == "Pod" {
            // A workload's pod is ended, and the workload makes another.
            for record in self.records.values_mut().filter(|record| record.key() == *key) {
                record.status.stopping = true;
                if let Some(pod) = &record.pod {
                    pod.stop();
                }
            }
        }
        let belongs = |other: &Key, value: &Value| {
            let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            let is_owner = |owner: &Value| owner["kind"] == key.kind && owner["name"] == key.name;
            let owned = other.namespace == key.namespace && owners.into_iter().any(is_owner);
            let inside = key.kind == "Namespace" && other.namespace == key.name;
            (owned || inside) && other.kind != "Pod"
        };
        let doomed: Vec<Key> = self
            .objects
            .iter()
            .filter(|(other, value)| belongs(other, value))
            .map(|(other, _)| other.clone())
            .collect();
        for other in doomed {
            self.delete(&other);
        }
        if key.kind == "Namespace" {
            self.bare_pods.retain(|pod, _| pod.namespace != key.name);
        }
        self.endpoints_outdated = true;
    }

    fn get(&self, kind: &str, name: Option<&str>, namespace: Option<&str>) -> Answer {
        let matches = |key: &Key| {
            (kind == "all" || is_kind(kind, &key.kind))
                && name.is_none_or(|name| key.name == name)
                && namespace
                    .is_none_or(|namespace| key.namespace.is_empty() || key.namespace == namespace)
        };
        let mut objects: Vec<Value> = self
            .objects
            .iter()
            .filter(|(key, _)| matches(key))
            .map(|(_, value)| value.clone())
            .collect();
        self.fill_in_statuses(&mut objects);
        match (objects.is_empty(), name) {
            (true, Some(name)) => Answer::Failed { error: format!("there is no {kind} {name}") },
            _ => Answer::Objects { objects },
        }
    }

    fn rows(&self) -> Vec<PodRow> {
        let mut rows: Vec<PodRow> = self.records.values().map(row).collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        rows
    }

    /// Finds the pod that is meant, by name or by the name of what owns it, and the number it has
    /// for a port: another one only if a service is meant.
    pub(super) fn find(&self, target: &Target, port: u16) -> Result<(Arc<Pod>, u16), String> {
        let (namespace, name) = match target.pod.split_once('/') {
            Some((kind, name)) if !self.is_namespace(kind) => {
                return self.find_owned(kind, name, target.namespace.as_deref(), port);
            }
            Some((namespace, name)) => (Some(namespace), name),
            None => (target.namespace.as_deref(), target.pod.as_str()),
        };
        let in_namespace =
            |record: &&Record| namespace.is_none_or(|namespace| record.namespace == namespace);
        let exact: Vec<&Record> = self
            .records
            .values()
            .filter(in_namespace)
            .filter(|record| record.name == name)
            .collect();
        match exact[..] {
            [] => self.find_owned("", name, namespace, port),
            [record] => Ok((running(record)?, port)),
            _ => Err(format!("several namespaces have a pod {name}; name one with -n")),
        }
    }

    fn is_namespace(&self, name: &str) -> bool {
        self.objects.get(&Key::core("Namespace", "", name)).is_some()
    }

    /// The first pod of a service or workload that is ready, or else the first one.
    fn find_owned(
        &self,
        kind: &str,
        name: &str,
        namespace: Option<&str>,
        port: u16,
    ) -> Result<(Arc<Pod>, u16), String> {
        let in_namespace = |other: &str| namespace.is_none_or(|namespace| other == namespace);
        let services: Vec<Service> = self
            .objects
            .of_kind("Service")
            .filter(|(key, _)| key.name == name && in_namespace(&key.namespace))
            .filter(|_| is_kind(kind, "Service"))
            .filter_map(|(_, service)| spec::read(service).ok())
            .collect();
        let is_meant = |record: &&Record| {
            let labels = &record.spec.metadata.labels;
            let selected = services.iter().any(|service| {
                let (selector, namespace) = (&service.spec.selector, &service.metadata.namespace);
                let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
                record.namespace == *namespace && !selector.is_empty() && selector.iter().all(has)
            });
            let owned = record.owner.as_ref().is_some_and(|owner| {
                owner.name == name
                    && in_namespace(&owner.namespace)
                    && (kind.is_empty() || is_kind(kind, &owner.kind))
                    && WorkloadKind::parse(&owner.kind).is_some()
            });
            selected || owned
        };
        let candidates = self.records.values().filter(is_meant);
        let best = candidates.max_by_key(|record| (record.status.is_ready(), record.number));
        let what = if kind.is_empty() { name.to_owned() } else { format!("{kind}/{name}") };
        let best = best.ok_or_else(|| format!("there is no pod of {what}"))?;
        let ports = services.iter().flat_map(|service| &service.spec.ports);
        let target = ports.filter(|one| one.port == port).find_map(|one| one.target_port.as_ref());
        let number = target.and_then(|target| best.spec.spec.port(target)).unwrap_or(port);
        Ok((running(best)?, number))
    }
}

fn running(record: &Record) -> Result<Arc<Pod>, String> {
    record
        .pod
        .clone()
        .ok_or_else(|| format!("{} does not run: {}", record.name, record.status.message))
}

fn row(record: &Record) -> PodRow {
    let owner = record.owner.as_ref();
    let phase = if record.status.stopping { "Terminating" } else { record.status.phase.as_str() };
    PodRow {
        namespace: record.namespace.clone(),
        name: record.name.clone(),
        owner: owner
            .map(|key| format!("{}/{}", key.kind.to_lowercase(), key.name))
            .unwrap_or_default(),
        ips: record.addresses.both().map(|ip| ip.to_string()).into(),
        phase: phase.to_owned(),
        ready: record.status.is_ready() && !record.status.stopping,
        meshed: record.meshed,
        network_namespace: record.status.network_namespace.clone(),
        message: record.status.waiting_for(),
        containers: ContainerRow::all(&record.status),
    }
}
