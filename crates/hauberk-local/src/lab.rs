//! The lab's one writer: it owns the objects and the pods, and brings the second to the first.
//!
//! Requests, changed files and reports of pods arrive as [`Event`]s; a batch of them is applied, and
//! then everything derived is brought up to date once: pods (`reconcile`), endpoints, names, and
//! rules for service addresses. Nothing else changes the lab's state, so there is no lock around it.
//! The writer never waits for a pod: it asks, and the pod reports. Nor does it wait for the kernel:
//! answers lie by until the rules of their state are loaded ([`crate::rules`]).

mod reconcile;
mod requests;
mod services;
mod statuses;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hauberk_index::ClusterConfig;
use hauberk_inject::InjectConfig;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::address::{Addresses, POD_NETWORK, Pair, SERVICE_NETWORK};
use crate::api::{Answer, Progress, Request, Target};
use crate::dns::Zone;
use crate::image::Images;
use crate::objects::{Key, Objects};
use crate::plan::{CLUSTER_DOMAIN, IdRanges};
use crate::pod::{Pod, Report, Surroundings};
use crate::rules::{Held, Loaded, Wanted};
use crate::spec;
use crate::status::{Phase, PodStatus};
use crate::virtual_ip;

/// Events that are applied before the derived state is brought up to date.
const BATCH_MAX: usize = 256;
/// How long pods get to end when the lab ends, beyond their own grace period.
const END_MARGIN: Duration = Duration::from_secs(5);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// Somebody asks.
    Asked(Request, oneshot::Sender<Answer>),
    /// Somebody looks for a pod, and for the number that it has for a port of its service.
    Find(Target, Option<u16>, oneshot::Sender<Result<(Arc<Pod>, u16), String>>),
    /// The manifests in the watched files are these, and these could not be read.
    Files(BTreeMap<Key, Value>, Vec<String>),
    /// The lab is to end.
    Stop,
}

/// What the lab is made of, fixed for its life.
#[derive(Debug)]
pub struct Setup {
    /// Programs of images.
    pub images: Images,
    /// Ids that exist.
    pub ids: IdRanges,
    /// `PATH` of containers.
    pub path: String,
    /// How pods are injected; none without a mesh.
    pub inject: Option<InjectConfig>,
    /// What the control plane's answers depend on; none without a mesh.
    pub cluster: Option<ClusterConfig>,
    /// Where the objects' files are.
    pub objects: PathBuf,
}

/// Where derived state goes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// To the name server.
    pub zone: watch::Sender<Arc<Zone>>,
    /// To whoever loads the rules for service addresses.
    pub rules: watch::Sender<Wanted>,
    /// How far that is.
    pub loaded_rules: watch::Receiver<Loaded>,
}

/// A pod that exists.
#[derive(Debug)]
struct Record {
    namespace: String,
    name: String,
    owner: Option<Key>,
    /// Of the template that it was made from.
    hash: String,
    manifest: Value,
    spec: spec::Pod,
    addresses: Pair,
    meshed: bool,
    status: PodStatus,
    /// The running pod; none if it could not be planned.
    pod: Option<Arc<Pod>>,
    /// Order of making.
    number: u64,
}

impl Record {
    fn key(&self) -> Key {
        Key::core("Pod", &self.namespace, &self.name)
    }
}

/// The whole state.
#[derive(Debug)]
pub struct Lab {
    setup: Setup,
    surroundings: Surroundings,
    outputs: Outputs,
    objects: Objects,
    /// By unique id.
    records: BTreeMap<String, Record>,
    /// Pods that were applied as such.
    bare_pods: BTreeMap<Key, Value>,
    from_files: BTreeMap<Key, Value>,
    file_problems: Vec<String>,
    problems: BTreeMap<Key, String>,
    templates: BTreeMap<Key, reconcile::Template>,
    pod_addresses: Addresses,
    service_addresses: Addresses,
    pods_made: u64,
    stopping: Option<Instant>,
    endpoints_outdated: bool,
    held: Held,
    /// Whether all manifests of the command line have been read.
    loaded: bool,
}

impl Lab {
    /// An empty lab.
    pub fn new(setup: Setup, surroundings: Surroundings, outputs: Outputs) -> Self {
        Self {
            objects: Objects::new(setup.objects.clone()),
            setup,
            surroundings,
            outputs,
            records: BTreeMap::new(),
            bare_pods: BTreeMap::new(),
            from_files: BTreeMap::new(),
            file_problems: Vec::new(),
            problems: BTreeMap::new(),
            templates: BTreeMap::new(),
            pod_addresses: Addresses::new(POD_NETWORK),
            service_addresses: Addresses::new(SERVICE_NETWORK),
            pods_made: 0,
            stopping: None,
            endpoints_outdated: true,
            held: Held::default(),
            loaded: false,
        }
    }

    /// Runs until the lab has been stopped and its last pod is gone.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        let forever = Duration::from_secs(86400 * 365);
        let mut loaded = self.outputs.loaded_rules.clone();
        while !(self.stopping.is_some() && self.records.is_empty()) {
            let end = self.stopping.unwrap_or_else(|| Instant::now() + forever);
            tokio::select! {
                Some(event) = events.recv() => self.apply(event),
                Some(report) = reports.recv() => self.take_report(report),
                changed = loaded.changed(), if !self.held.is_empty() => {
                    if changed.is_err() {
                        self.held.release(u64::MAX, u64::MAX); // Nobody loads rules any more.
                    }
                }
                () = tokio::time::sleep_until(end) => {
                    tracing::warn!(pods = self.records.len(), "pods did not end in time");
                    return;
                }
            }
            for _ in 0..BATCH_MAX {
                if let Ok(event) = events.try_recv() {
                    self.apply(event);
                } else if let Ok(report) = reports.try_recv() {
                    self.take_report(report);
                } else {
                    break;
                }
            }
            self.bring_up_to_date();
            let wanted = self.outputs.rules.borrow().number;
            self.held.release(wanted, loaded.borrow_and_update().number);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Asked(request, answer) => {
                // An answer is about a whole state, not about one that lacks its consequences.
                self.bring_up_to_date();
                let is_end = request == Request::Stop;
                let said = self.answer(request);
                if is_end {
                    let _ = answer.send(said); // Whoever asked may have gone.
                } else {
                    self.held.hold(said, answer);
                }
            }
            Event::Find(target, port, answer) => {
                let _ = answer.send(self.find(&target, port.unwrap_or_default()));
            }
            Event::Files(manifests, problems) => self.take_files(manifests, problems),
            Event::Stop => self.stop(),
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            let grace = self.records.values().filter_map(|one| Some(one.pod.as_ref()?.plan.grace));
            self.stopping = Some(Instant::now() + grace.max().unwrap_or_default() + END_MARGIN);
        }
    }

    fn take_report(&mut self, report: Report) {
        let Some(record) = self.records.get_mut(&report.uid) else { return };
        let stopping = record.status.stopping;
        record.status = report.status;
        // The pod hears of its end a little later than the writer decides it.
        record.status.stopping |= stopping;
        self.endpoints_outdated = true;
        let ended = record.status.phase.is_final() && !stopping;
        if report.gone && !ended {
            self.forget(&report.uid);
        }
    }

    /// Takes a pod out of the books, when nothing of it runs any more.
    fn forget(&mut self, uid: &str) {
        let Some(record) = self.records.remove(uid) else { return };
        self.pod_addresses.give_back(record.addresses);
        let key = record.key();
        self.remove_object(&key);
        self.endpoints_outdated = true;
    }

    fn take_files(&mut self, manifests: BTreeMap<Key, Value>, problems: Vec<String>) {
        self.loaded = true;
        let before = std::mem::replace(&mut self.from_files, manifests);
        self.file_problems = problems;
        for key in before.keys() {
            if !self.from_files.contains_key(key) {
                tracing::info!(object = %key, "its file is gone");
                self.delete(key);
            }
        }
        let changed = self.from_files.iter().filter(|(key, value)| before.get(key) != Some(value));
        let changed: Vec<(Key, Value)> =
            changed.map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in changed {
            self.put(key, value);
        }
    }

    fn bring_up_to_date(&mut self) {
        self.reconcile();
        self.write_pods();
        if std::mem::take(&mut self.endpoints_outdated) {
            self.write_endpoints();
            let zone = Arc::new(Zone::new(&self.objects, CLUSTER_DOMAIN));
            self.outputs.zone.send_if_modified(|old| replace_if_new(old, zone));
            let rules = virtual_ip::table(&self.objects);
            self.outputs.rules.send_if_modified(|wanted| wanted.replace(rules));
        }
    }

    /// Writes each pod's object with its newest status.
    fn write_pods(&mut self) {
        let mut written = Vec::new();
        for record in self.records.values() {
            let mut object = record.manifest.clone();
            object["status"] = record.status.to_object(record.addresses);
            if record.status.stopping {
                let known = self.objects.get(&record.key());
                let since = known.map(|known| known["metadata"]["deletionTimestamp"].clone());
                let now = || crate::objects::timestamp(std::time::SystemTime::now()).into();
                object["metadata"]["deletionTimestamp"] =
                    since.filter(|since| !since.is_null()).unwrap_or_else(now);
            }
            written.push((record.key(), object));
        }
        for (key, object) in written {
            self.put_object(key, object);
        }
    }

    fn put_object(&mut self, key: Key, object: Value) {
        let name = key.to_string();
        if let Err(error) = self.objects.put(key, object) {
            tracing::error!(object = name, %error, "cannot write an object's file");
        }
    }

    fn remove_object(&mut self, key: &Key) {
        if let Err(error) = self.objects.remove(key) {
            tracing::error!(object = %key, %error, "cannot remove an object's file");
        }
    }

    fn progress(&self) -> Progress {
        let counts = |one: &&Record| !one.status.stopping && one.status.phase != Phase::Failed;
        let live = || self.records.values().filter(counts);
        let is_done = |one: &&Record| one.status.is_ready() || one.status.phase == Phase::Succeeded;
        let waiting = live().filter(|one| !is_done(one)).map(|one| {
            let reason = one.status.waiting_for().unwrap_or_else(|| "starting".to_owned());
            format!("{}/{}: {reason}", one.namespace, one.name)
        });
        let problems = self.problems.iter().map(|(key, problem)| format!("{key}: {problem}"));
        let failed = self.records.values().filter(|one| one.status.phase == Phase::Failed);
        let failed = failed.map(|one| format!("{}/{} has failed", one.namespace, one.name));
        let of_rules = self.outputs.loaded_rules.borrow().problem.clone();
        let further = problems.chain(failed).chain(of_rules);
        Progress {
            loaded: self.loaded,
            pods: live().count() + self.problems.len(),
            ready: live().filter(is_done).count(),
            waiting: waiting.collect(),
            problems: self.file_problems.iter().cloned().chain(further).collect(),
        }
    }
}

fn replace_if_new<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    if changed {
        *old = new;
    }
    changed
}
