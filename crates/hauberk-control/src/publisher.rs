//! The one task that owns the index.
//!
//! It takes events in batches, asks the index again for the keys that depend on what changed, and
//! hands a new answer to a `watch` channel only if it differs. Who reads slowly sees the newest
//! value and misses those between; nobody's queue can grow. A key is remembered while somebody
//! listens to it.
//!
//! [`Board`] is the state and its rules, without waiting; [`run`] is the task around it.
//! Questions that arrive before the first listing is complete wait for it: an answer from half a
//! cluster would be wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hauberk_index::{Answer, Changes, ClusterConfig, Index, Key, Subject, Unreadable, unreadable};
use hauberk_model::Endpoints;
use hauberk_process::Shutdown;
use hauberk_process::ready::Condition;
use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};

use crate::metrics::PublisherMetrics;
use crate::subscribe::Question;

/// Most events that are taken in before answers are recomputed. A rollout of many pods is then a
/// few recomputations of each service, not one for each pod.
const BATCH_EVENTS_MAX: usize = 256;

/// How often keys are dropped that nobody listens to any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Owns the index until the process drains or the source ends.
pub(crate) async fn run(
    mut board: Board,
    mut events: mpsc::Receiver<ResourceEvent>,
    mut questions: mpsc::Receiver<Question>,
    listed: Condition,
    shutdown: Shutdown,
) {
    tokio::select! {
        complete = first_listing(&mut board, &mut events) => if !complete { return source_ended() },
        () = shutdown.draining() => return,
    }
    listed.set_ready();
    info!("cluster listed");

    let mut batch = Vec::with_capacity(BATCH_EVENTS_MAX);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = events.recv_many(&mut batch, BATCH_EVENTS_MAX) => match count {
                0 => return source_ended(),
                _ => board.take(batch.drain(..)),
            },
            Some(Question { key, reply }) = questions.recv() => {
                // An asker that went away meanwhile is no trouble; the sweep forgets its key.
                let _ = reply.send(board.subscribe(key));
            }
            _ = sweep.tick() => board.sweep(),
            () = shutdown.draining() => return,
        }
    }
}

/// Takes events until every kind has been listed once. False if the source ended first.
async fn first_listing(board: &mut Board, events: &mut mpsc::Receiver<ResourceEvent>) -> bool {
    let mut unlisted: BTreeSet<Kind> = Kind::ALL.iter().copied().collect();
    while !unlisted.is_empty() {
        let Some(event) = events.recv().await else { return false };
        if let ResourceEvent::Relisted { kind, .. } = &event {
            unlisted.remove(kind);
        }
        board.take([event]);
    }
    true
}

fn source_ended() {
    error!("the source of resources ended");
}

/// The index, and who wants to know what of it.
pub(crate) struct Board {
    index: Index,
    topics: HashMap<Arc<Key>, Topic>,
    /// Which keys looked at a subject when they were last answered.
    readers: HashMap<Subject, HashSet<Arc<Key>>>,
    metrics: PublisherMetrics,
    /// What counts as absent because it cannot be read.
    annotations: watch::Sender<Annotations>,
}

/// Annotations that cannot be read, by their object.
pub type Annotations = BTreeMap<ResourceKey, Vec<Unreadable>>;

/// A key that somebody listens to.
struct Topic {
    answer: watch::Sender<Answer>,
    subjects: BTreeSet<Subject>,
}

impl Board {
    /// An empty cluster that nobody asked about.
    pub(crate) fn new(config: ClusterConfig, metrics: PublisherMetrics) -> Self {
        let (topics, readers) = (HashMap::new(), HashMap::new());
        let annotations = watch::Sender::default();
        Self { index: Index::new(config), topics, readers, metrics, annotations }
    }

    /// Which annotations cannot be read, from now on.
    pub(crate) fn annotations(&self) -> watch::Receiver<Annotations> {
        self.annotations.subscribe()
    }

    /// Notes and tells which annotations of changed objects cannot be read.
    fn read_annotations(&self, event: &ResourceEvent) {
        self.annotations.send_if_modified(|known| {
            let changed = match event {
                ResourceEvent::Applied(resource) => note(known, resource),
                ResourceEvent::Deleted(key) => known.remove(key).is_some(),
                ResourceEvent::Relisted { kind, all } => {
                    let there: HashSet<ResourceKey> = all.iter().map(|one| one.key()).collect();
                    let before = known.len();
                    known.retain(|key, _| key.kind != *kind || there.contains(key));
                    let mut changed = known.len() != before;
                    for resource in all {
                        changed |= note(known, resource);
                    }
                    changed
                }
            };
            if changed {
                let count: usize = known.values().map(Vec::len).sum();
                self.metrics.unreadable.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            changed
        });
    }

    /// Takes in events and publishes what they change.
    pub(crate) fn take(&mut self, events: impl IntoIterator<Item = ResourceEvent>) {
        let mut changes = Changes::default();
        for event in events {
            self.metrics.events.inc();
            self.read_annotations(&event);
            changes.merge(self.index.apply(event));
        }
        let readers = changes.subjects().iter().filter_map(|subject| self.readers.get(subject));
        let affected: HashSet<Arc<Key>> = readers.flatten().cloned().collect();
        for key in affected {
            self.recompute(&key);
        }
    }

    /// The current answer and all that follow.
    pub(crate) fn subscribe(&mut self, key: Key) -> watch::Receiver<Answer> {
        if let Some(topic) = self.topics.get(&key) {
            return topic.answer.subscribe();
        }
        let answered = self.index.answer(&key);
        let (sender, receiver) = watch::channel(answered.answer);
        let key = Arc::new(key);
        for subject in &answered.subjects {
            self.readers.entry(subject.clone()).or_default().insert(Arc::clone(&key));
        }
        self.topics.insert(key, Topic { answer: sender, subjects: answered.subjects });
        self.count();
        receiver
    }

    /// Forgets keys that nobody listens to.
    pub(crate) fn sweep(&mut self) {
        let unheard = self.topics.iter().filter(|(_, topic)| topic.answer.receiver_count() == 0);
        let unheard: Vec<Arc<Key>> = unheard.map(|(key, _)| Arc::clone(key)).collect();
        for key in unheard {
            self.forget(&key);
        }
    }

    fn recompute(&mut self, key: &Arc<Key>) {
        let Some(topic) = self.topics.get_mut(key) else { return };
        if topic.answer.receiver_count() == 0 {
            return self.forget(key);
        }
        self.metrics.recomputed.inc();
        let answered = self.index.answer(key);
        for left in topic.subjects.difference(&answered.subjects) {
            leave(&mut self.readers, left, key);
        }
        for joined in answered.subjects.difference(&topic.subjects) {
            self.readers.entry(joined.clone()).or_default().insert(Arc::clone(key));
        }
        topic.subjects = answered.subjects;
        let is_news = topic.answer.send_if_modified(|published| {
            if *published == answered.answer {
                return false;
            }
            *published = share(published, answered.answer);
            true
        });
        if is_news {
            self.metrics.published.inc();
            debug!(?key, "answer changed");
        }
    }

    fn forget(&mut self, key: &Arc<Key>) {
        if let Some(topic) = self.topics.remove(key) {
            for subject in &topic.subjects {
                leave(&mut self.readers, subject, key);
            }
        }
        self.count();
    }

    fn count(&self) {
        self.metrics.keys.set(i64::try_from(self.topics.len()).unwrap_or(i64::MAX));
    }
}

/// Notes what cannot be read of an object; says whether that is news, and tells people if there is more of it.
fn note(known: &mut Annotations, resource: &Resource) -> bool {
    let found = unreadable(resource);
    let key = resource.key();
    let before = known.get(&key).map_or(&[][..], Vec::as_slice);
    if before == found {
        return false;
    }
    for one in found.iter().filter(|one| !before.contains(one)) {
        let (annotation, reason) = (one.annotation, &one.reason);
        warn!(object = %key, annotation, reason, "annotation cannot be read and counts as absent");
    }
    if found.is_empty() {
        known.remove(&key);
    } else {
        known.insert(key, found);
    }
    true
}

fn leave(readers: &mut HashMap<Subject, HashSet<Arc<Key>>>, subject: &Subject, key: &Arc<Key>) {
    if let Some(keys) = readers.get_mut(subject) {
        keys.remove(key);
        if keys.is_empty() {
            readers.remove(subject);
        }
    }
}

/// The new answer, with those endpoints of the old one that did not change: versions of a big
/// service share them, and comparing versions compares pointers.
fn share(old: &Answer, new: Answer) -> Answer {
    let (Answer::Endpoints(old), Answer::Endpoints(new)) = (old, &new) else { return new };
    let mut shared = Endpoints::clone(new);
    for (address, endpoint) in &mut shared.by_address {
        match old.by_address.get(address) {
            Some(known) if known == endpoint => *endpoint = Arc::clone(known),
            Some(_) | None => {}
        }
    }
    Answer::Endpoints(Arc::new(shared))
}

#[cfg(test)]
mod tests;
