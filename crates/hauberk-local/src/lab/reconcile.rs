//! From workloads to pods: what each one wants, and doing it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hauberk_inject::{Action, Manifest, NamespaceFacts, inject};
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::{Lab, Record};
use crate::address::{IP_ANNOTATION, POD_NETWORK, Pair};
use crate::network::Plug;
use crate::objects::{Key, new_uid, timestamp};
use crate::plan::{Context, NODE, PodPlan, plan};
use crate::pod::{Pod, supervise};
use crate::spec::{self, Workload, WorkloadSpec};
use crate::status::PodStatus;
use crate::workloads::{Member, Step, WorkloadKind, steps};

/// What pods of a workload are made from, after injection.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// Versions of the workload and of its namespace that it was made from.
    from: (Value, Value),
    template: Value,
    hash: String,
    meshed: bool,
    spec: WorkloadSpec,
}

/// Letters of generated names; Kubernetes leaves vowels and look-alikes out.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Lab {
    /// Does what can be done now towards what the workloads want.
    pub(super) fn reconcile(&mut self) {
        if self.stopping.is_some() {
            self.stop_pods(|_| true);
            return;
        }
        let workloads: Vec<(Key, WorkloadKind)> = self
            .objects
            .iter()
            .filter_map(|(key, value)| {
                let owned = value["metadata"]["ownerReferences"].as_array();
                let is_ours = owned.is_none_or(Vec::is_empty);
                Some((key.clone(), WorkloadKind::parse(&key.kind)?)).filter(|_| is_ours)
            })
            .collect();
        for (key, kind) in &workloads {
            self.reconcile_workload(key, *kind);
        }
        self.reconcile_bare_pods();
        self.remove_replica_sets();
        let owners: Vec<&Key> = workloads.iter().map(|(key, _)| key).collect();
        let bare: Vec<Key> = self.bare_pods.keys().cloned().collect();
        self.templates.retain(|key, _| owners.contains(&key) || bare.contains(key));
        self.problems.retain(|key, _| owners.contains(&key) || bare.contains(key));
        self.stop_pods(|record| match &record.owner {
            Some(owner) => !owners.contains(&owner),
            None => !bare.contains(&record.key()),
        });
        self.plan_again();
    }

    fn reconcile_workload(&mut self, key: &Key, kind: WorkloadKind) {
        let Some(template) = self.template(key) else { return };
        let mut records: Vec<&Record> =
            self.records.values().filter(|one| one.owner.as_ref() == Some(key)).collect();
        records.sort_by_key(|one| one.number);
        let members: Vec<Member> = records
            .iter()
            .map(|one| Member {
                name: one.name.clone(),
                current: one.hash == template.hash,
                ready: one.status.is_ready(),
                stopping: one.status.stopping,
                phase: one.status.phase,
            })
            .collect();
        for step in steps(kind, &key.name, &template.spec, &members) {
            match step {
                Step::Create => {
                    let name = match kind {
                        WorkloadKind::Deployment => {
                            format!("{}-{}-{}", key.name, template.hash, letters(5))
                        }
                        _ => format!("{}-{}", key.name, letters(5)),
                    };
                    self.create(key, kind, &template, name);
                }
                Step::CreateNumbered(number) => {
                    self.create(key, kind, &template, format!("{}-{number}", key.name));
                }
                Step::Stop(name) => {
                    self.stop_pods(|one| one.owner.as_ref() == Some(key) && one.name == name);
                }
            }
        }
    }

    fn reconcile_bare_pods(&mut self) {
        let keys: Vec<Key> = self.bare_pods.keys().cloned().collect();
        for key in keys {
            let Some(template) = self.template(&key) else { continue };
            let existing = self.records.values().find(|one| one.key() == key);
            match existing {
                None => {
                    let mut manifest = template.template.clone();
                    manifest["metadata"]["uid"] = json!(new_uid());
                    self.admit(manifest, None, &template);
                }
                Some(record) if record.hash != template.hash => {
                    self.stop_pods(|one| one.key() == key);
                }
                Some(_) => {}
            }
        }
    }

    /// The template of a workload or bare pod, injected; made again only when something changed.
    fn template(&mut self, key: &Key) -> Option<Template> {
        let object = match self.bare_pods.get(key) {
            Some(pod) => pod,
            None => self.objects.get(key)?,
        };
        let namespace = self.objects.get(&Key::core("Namespace", "", &key.namespace));
        let facts =
            namespace.map_or_else(|| NamespaceFacts::named(&key.namespace), NamespaceFacts::of);
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let object_version = if key.kind == "Pod" { object.clone() } else { version(object) };
        let from = (object_version, namespace.map(version).unwrap_or_default());
        if let Some(known) = self.templates.get(key)
            && known.from == from
        {
            return Some(known.clone());
        }
        match self.make_template(key, object, &facts, from) {
            Ok(template) => {
                self.problems.remove(key);
                self.templates.insert(key.clone(), template.clone());
                Some(template)
            }
            Err(problem) => {
                if self.problems.insert(key.clone(), problem.clone()).as_ref() != Some(&problem) {
                    tracing::error!(object = %key, problem, "cannot make pods of it");
                }
                None
            }
        }
    }

    fn make_template(
        &self,
        key: &Key,
        object: &Value,
        facts: &NamespaceFacts,
        from: (Value, Value),
    ) -> Result<Template, String> {
        let mut value = object.clone();
        let mut meshed = false;
        if let Some(config) = &self.setup.inject {
            let outcome = inject(&Manifest::new(value), config, facts);
            if outcome.report.action == Action::Refused {
                let reasons = outcome.report.reasons.iter().map(|reason| reason.text());
                return Err(format!("not injected: {}", reasons.collect::<Vec<_>>().join("; ")));
            }
            meshed = outcome.report.action == Action::Injected;
            value = outcome.manifest.value;
            if meshed {
                open_tap(&mut value, key);
            }
        }
        if key.kind == "Pod" {
            let hash = hash_of(&value["spec"]);
            let spec = WorkloadSpec::default();
            return Ok(Template { from, template: value, hash, meshed, spec });
        }
        let workload: Workload = spec::read(&value).map_err(|error| error.to_string())?;
        let template = value["spec"]["template"].take();
        let hash = hash_of(&template);
        Ok(Template { from, template, hash, meshed, spec: workload.spec })
    }

    /// Makes the object of a workload's pod, and the pod.
    fn create(&mut self, key: &Key, kind: WorkloadKind, template: &Template, name: String) {
        let mut owner = key.clone();
        if kind == WorkloadKind::Deployment {
            owner = self.replica_set(key, template);
        }
        let uid = self.objects.get(&owner).map(|owner| owner["metadata"]["uid"].clone());
        let mut manifest = json!({"apiVersion": "v1", "kind": "Pod"});
        manifest["metadata"] = template.template["metadata"].clone();
        manifest["spec"] = template.template["spec"].clone();
        let metadata = &mut manifest["metadata"];
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(key.namespace);
        metadata["uid"] = json!(new_uid());
        metadata["ownerReferences"] = json!([{
            "apiVersion": if owner.kind == "Job" { "batch/v1" } else { "apps/v1" },
            "kind": owner.kind, "name": owner.name, "uid": uid, "controller": true,
        }]);
        match kind {
            WorkloadKind::Deployment => {
                metadata["labels"]["pod-template-hash"] = json!(template.hash)
            }
            WorkloadKind::StatefulSet => {
                metadata["labels"]["statefulset.kubernetes.io/pod-name"] = json!(name);
                manifest["spec"]["hostname"] = json!(name);
                if let Some(service) = &template.spec.service_name {
                    manifest["spec"]["subdomain"] = json!(service);
                }
            }
            WorkloadKind::Job => {
                metadata["labels"]["job-name"] = json!(key.name);
                metadata["labels"]["batch.kubernetes.io/job-name"] = json!(key.name);
            }
            WorkloadKind::ReplicaSet | WorkloadKind::DaemonSet => {}
        }
        self.admit(manifest, Some(key.clone()), template);
    }

    /// The ReplicaSet between a Deployment and its pods, by which others tell whose pods they are.
    fn replica_set(&mut self, deployment: &Key, template: &Template) -> Key {
        let name = format!("{}-{}", deployment.name, template.hash);
        let key = Key::new("apps", "ReplicaSet", &deployment.namespace, &name);
        let uid = self.objects.get(deployment).map(|one| one["metadata"]["uid"].clone());
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": deployment.namespace,
                "labels": template.template["metadata"]["labels"],
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment",
                    "name": deployment.name, "uid": uid, "controller": true,
                }],
            },
            "spec": {"replicas": template.spec.replicas.unwrap_or(1)},
        });
        self.put_object(key.clone(), object);
        key
    }

    /// Removes ReplicaSets that no pod is made from any more.
    fn remove_replica_sets(&mut self) {
        let is_used = |key: &Key, owner: &str| {
            let named = |deployment: &Key, hash: &str| {
                deployment.namespace == key.namespace
                    && deployment.name == owner
                    && key.name == format!("{owner}-{hash}")
            };
            self.templates.iter().any(|(deployment, one)| named(deployment, &one.hash))
                || self.records.values().any(|one| {
                    one.owner.as_ref().is_some_and(|deployment| named(deployment, &one.hash))
                })
        };
        let unused: Vec<Key> = self
            .objects
            .of_kind("ReplicaSet")
            .filter(|(key, object)| {
                let owner = object["metadata"]["ownerReferences"][0]["name"].as_str();
                owner.is_some_and(|owner| !is_used(key, owner))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in unused {
            self.remove_object(&key);
        }
    }

    /// Gives a pod its addresses and lets it live.
    fn admit(&mut self, mut manifest: Value, owner: Option<Key>, template: &Template) {
        manifest["spec"]["nodeName"] = json!(NODE);
        if manifest["metadata"]["creationTimestamp"].is_null() {
            manifest["metadata"]["creationTimestamp"] =
                json!(timestamp(std::time::SystemTime::now()));
        }
        let wanted = manifest["metadata"]["annotations"][IP_ANNOTATION].as_str();
        let addresses = match wanted {
            Some(wanted) => wanted.parse().ok().and_then(|ip| self.pod_addresses.take_this(ip)),
            None => self.pod_addresses.take(),
        };
        let Some(addresses) = addresses else {
            // Tried again at the next change: who has the address may be about to end.
            let pod = &manifest["metadata"]["name"];
            tracing::warn!(%pod, wanted, "the address, or any address, is not free for a pod");
            return;
        };
        let spec: spec::Pod = spec::read(&manifest).unwrap_or_default();
        self.pods_made += 1;
        let record = Record {
            namespace: spec.metadata.namespace.clone(),
            name: spec.metadata.name.clone(),
            owner,
            hash: template.hash.clone(),
            manifest,
            spec,
            addresses,
            meshed: template.meshed,
            status: PodStatus::default(),
            pod: None,
            number: self.pods_made,
        };
        let uid = record.spec.metadata.uid.clone();
        self.records.insert(uid.clone(), record);
        self.endpoints_outdated = true;
        self.start(&uid);
    }

    /// Plans a pod and starts its life; if it cannot be planned, its status says why.
    fn start(&mut self, uid: &str) {
        let Some(record) = self.records.get(uid) else { return };
        let planned = self.plan(&record.manifest, record.addresses);
        let surroundings = self.surroundings.clone();
        let Some(record) = self.records.get_mut(uid) else { return };
        match planned {
            Ok(plan) => {
                let number = POD_NETWORK.number(record.addresses.v4.into()).unwrap_or_default();
                let pod = Arc::new(Pod::new(plan, Plug { number, addresses: record.addresses }));
                record.status = PodStatus::default();
                record.pod = Some(Arc::clone(&pod));
                let tasks = surroundings.tasks.clone();
                tasks.spawn("pod", supervise(pod, surroundings));
            }
            Err(problem) => {
                if record.status.message != problem {
                    tracing::error!(pod = record.name, problem, "cannot run a pod");
                }
                record.status.message = problem;
            }
        }
    }

    fn plan(&self, manifest: &Value, addresses: Pair) -> Result<PodPlan, String> {
        let Self { setup, objects, .. } = self;
        let context = Context {
            images: &setup.images,
            objects,
            addresses,
            path: &setup.path,
            ids: &setup.ids,
        };
        plan(manifest, context).map_err(|error| error.to_string())
    }

    /// What was missing for a pod may be there by now.
    fn plan_again(&mut self) {
        let waits = |record: &Record| record.pod.is_none() && !record.status.stopping;
        let waiting: Vec<String> = self
            .records
            .iter()
            .filter(|(_, record)| waits(record))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in waiting {
            self.start(&uid);
        }
    }

    fn stop_pods(&mut self, which: impl Fn(&Record) -> bool) {
        let mut gone = Vec::new();
        for (uid, record) in &mut self.records {
            if record.status.stopping || !which(record) {
                continue;
            }
            let ended = record.status.phase.is_final();
            record.status.stopping = true;
            self.endpoints_outdated = true;
            match &record.pod {
                Some(pod) if !ended => pod.stop(),
                Some(_) | None => gone.push(uid.clone()),
            }
        }
        for uid in gone {
            self.forget(&uid);
        }
    }
}

/// A short word that tells templates apart.
fn hash_of(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    let mut rest = hasher.finish();
    let base = NAME_LETTERS.len() as u64;
    let mut word = String::new();
    for _ in 0..9 {
        word.push(char::from(NAME_LETTERS[(rest % base) as usize]));
        rest /= base;
    }
    word
}

fn letters(count: usize) -> String {
    let mut rng = rand::rng();
    let letter = |_| NAME_LETTERS.choose(&mut rng).copied().map_or('x', char::from);
    (0..count).map(letter).collect()
}

/// Opens the sidecar's tap port. Nobody in a lab has the identity that may tap; a lab's own commands
/// come in by the pod's loopback address, where none is asked for.
fn open_tap(workload: &mut Value, key: &Key) {
    let spec = match key.kind.as_str() {
        "Pod" => &mut workload["spec"],
        _ => &mut workload["spec"]["template"]["spec"],
    };
    for list in ["containers", "initContainers"] {
        let containers = spec[list].as_array_mut().into_iter().flatten();
        for sidecar in containers.filter(|container| container["name"] == "linkerd-proxy") {
            let Some(env) = sidecar["env"].as_array_mut() else { continue };
            if env.iter().all(|variable| variable["name"] != TAP_SVC_NAME) {
                env.push(json!({"name": TAP_SVC_NAME, "value": TAP_IDENTITY}));
            }
        }
    }
}

/// Setting of the proxy: who may tap.
const TAP_SVC_NAME: &str = "LINKERD2_PROXY_TAP_SVC_NAME";

/// Linkerd's tap service.
const TAP_IDENTITY: &str = "tap.linkerd-viz.serviceaccount.identity.linkerd.cluster.local";
