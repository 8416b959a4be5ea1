//! What the control plane knows, as values that change behind a handle.
//!
//! A data thread asks with [`Directory`]: each question gives a `watch` receiver at once, which starts as
//! [`Lookup::Pending`] and gets the newest answer whenever the control plane sends one. The streams behind run in the
//! admin runtime, one per question however many workers ask, reconnect with back-off, and **keep the last answer while
//! the control plane is away**. When the last receiver of a question is dropped, its stream ends; keeping a receiver
//! is therefore how a cache keeps knowledge fresh, and dropping it is how a cache forgets.
//!
//! Questions asked while the admin runtime is overwhelmed (`STARTS_MAX` streams waiting to be started) stay
//! unanswered: the receiver is closed, and [`known`] returns `None`.
//!
//! [`Directory::unconnected`] gives a directory for tests, with a [`Publisher`] to answer by hand.

mod calls;
pub mod client;
pub mod identity;
mod questions;
mod streams;

use crate::{settings::Config, telemetry::metrics::Control};
pub use calls::Channel;
use client::Connector;
use hauberk_model::{Authority, Endpoints, InboundPolicy, OutboundPolicy, Port, Profile};
use hauberk_process::Tasks;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, hash::Hash, net::SocketAddr, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Streams that wait to be started.
const STARTS_MAX: usize = 4096;

/// An answer, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<T> {
    /// The control plane has not answered yet.
    Pending,
    /// The control plane says that there is no such thing.
    Absent,
    /// This is what it says.
    Known(T),
}

impl<T> Lookup<T> {
    /// Whether there is no answer yet.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }

    /// The answer, if there is one.
    pub fn as_known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Pending | Self::Absent => None,
        }
    }
}

/// A live answer.
pub type Live<T> = watch::Receiver<Lookup<Arc<T>>>;

/// Waits until the question is answered; `None` if the control plane says that there is no such thing, or if the
/// question could not be asked. Cancel-safe. The caller limits the time.
pub async fn known<T>(live: &mut Live<T>) -> Option<Arc<T>> {
    match live.wait_for(|lookup| !lookup.is_pending()).await {
        Ok(lookup) => lookup.as_known().cloned(),
        Err(_closed) => None,
    }
}

/// What an outbound policy or a profile is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address that an application dialled.
    Address(SocketAddr),
    /// A name that a request asked for (ingress mode).
    Name(Authority),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A stream to be started, with where its messages go.
#[derive(Debug)]
pub(crate) enum Start {
    OutboundPolicy(Target, Sender<OutboundPolicy>),
    Profile(Target, Sender<Profile>),
    Endpoints(Authority, Sender<Endpoints>),
    InboundPolicy(Port, Sender<InboundPolicy>),
}

/// The writing end of a live answer.
pub(crate) type Sender<T> = watch::Sender<Lookup<Arc<T>>>;

/// The handle of data threads. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    outbound_policies: Questions<Target, OutboundPolicy>,
    profiles: Questions<Target, Profile>,
    endpoints: Questions<Authority, Endpoints>,
    inbound_policies: Questions<Port, InboundPolicy>,
    /// `None` where answers are published by hand.
    starts: Option<mpsc::Sender<Start>>,
    /// Whether the last thing heard of the control plane was not that it is away.
    is_reachable: watch::Sender<bool>,
}

/// Questions of one kind that somebody waits for. The lock is held for one look-up, only when a worker meets a target
/// for the first time.
struct Questions<K, T>(Mutex<HashMap<K, Sender<T>>>);

impl<K, T> Default for Questions<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, T> fmt::Debug for Questions<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Questions").finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash, T> Questions<K, T> {
    /// The live answer; `start` is called for a new question and says whether it could be asked.
    fn ask(&self, key: &K, start: impl FnOnce(Sender<T>) -> bool) -> Live<T> {
        let mut questions = self.0.lock();
        if let Some(sender) = questions.get(key) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Lookup::Pending);
        if start(sender.clone()) {
            questions.insert(key.clone(), sender);
        }
        receiver
    }

    /// Forgets the question if nobody waits for it any more; says whether it did.
    fn forget_unwatched(&self, key: &K) -> bool {
        let mut questions = self.0.lock();
        let is_unwatched = questions.get(key).is_none_or(|sender| sender.receiver_count() == 0);
        if is_unwatched {
            questions.remove(key);
        }
        is_unwatched
    }

    /// Publishes an answer by hand.
    fn publish(&self, key: K, answer: Lookup<Arc<T>>) {
        let mut questions = self.0.lock();
        let sender = questions.entry(key).or_insert_with(|| watch::channel(Lookup::Pending).0);
        sender.send_replace(answer);
    }
}

impl Directory {
    fn new(starts: Option<mpsc::Sender<Start>>) -> Self {
        let inner = Inner {
            outbound_policies: Questions::default(),
            profiles: Questions::default(),
            endpoints: Questions::default(),
            inbound_policies: Questions::default(),
            starts,
            is_reachable: watch::channel(true).0,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether the control plane answers, as far as we know. While it does not, caches forget nothing: what is idle now
    /// could not be asked for again.
    pub fn is_reachable(&self) -> bool {
        *self.inner.is_reachable.borrow()
    }

    /// A directory that asks the control plane; its streams run on the current runtime as tasks.
    pub fn connect(
        config: &Config,
        connector: &Connector,
        metrics: &Control,
        tasks: &Tasks,
    ) -> Self {
        let (sender, starts) = mpsc::channel(STARTS_MAX);
        let directory = Self::new(Some(sender));
        let streams = streams::Streams::new(
            directory.clone(),
            config,
            connector,
            metrics.clone(),
            tasks.clone(),
        );
        tasks.spawn_essential("control-streams", streams.run(starts));
        directory
    }

    /// A directory without a control plane, and the hand that answers.
    pub fn unconnected() -> (Self, Publisher) {
        let directory = Self::new(None);
        let publisher = Publisher { inner: Arc::clone(&directory.inner) };
        (directory, publisher)
    }

    /// What to do with traffic to `target`.
    pub fn outbound_policy(&self, target: &Target) -> Live<OutboundPolicy> {
        let questions = &self.inner.outbound_policies;
        questions.ask(target, |sender| self.start(Start::OutboundPolicy(target.clone(), sender)))
    }

    /// What else is known of `target`.
    pub fn profile(&self, target: &Target) -> Live<Profile> {
        let questions = &self.inner.profiles;
        questions.ask(target, |sender| self.start(Start::Profile(target.clone(), sender)))
    }

    /// The addresses that serve `authority`.
    pub fn endpoints(&self, authority: &Authority) -> Live<Endpoints> {
        let questions = &self.inner.endpoints;
        questions.ask(authority, |sender| self.start(Start::Endpoints(authority.clone(), sender)))
    }

    /// What `port` of this pod accepts. `Pending` means: use the default policy.
    pub fn inbound_policy(&self, port: Port) -> Live<InboundPolicy> {
        self.inner
            .inbound_policies
            .ask(&port, |sender| self.start(Start::InboundPolicy(port, sender)))
    }

    fn start(&self, start: Start) -> bool {
        self.inner.starts.as_ref().is_none_or(|starts| starts.try_send(start).is_ok())
    }
}

/// Answers the questions of a [`Directory::unconnected`] by hand, before or after they are asked.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Inner>,
}

impl Publisher {
    /// Answers [`Directory::outbound_policy`].
    pub fn outbound_policy(&self, target: Target, answer: Lookup<Arc<OutboundPolicy>>) {
        self.inner.outbound_policies.publish(target, answer);
    }

    /// Answers [`Directory::profile`].
    pub fn profile(&self, target: Target, answer: Lookup<Arc<Profile>>) {
        self.inner.profiles.publish(target, answer);
    }

    /// Answers [`Directory::endpoints`].
    pub fn endpoints(&self, authority: Authority, answer: Lookup<Arc<Endpoints>>) {
        self.inner.endpoints.publish(authority, answer);
    }

    /// Answers [`Directory::is_reachable`].
    pub fn reachable(&self, is_reachable: bool) {
        self.inner.is_reachable.send_replace(is_reachable);
    }

    /// Answers [`Directory::inbound_policy`].
    pub fn inbound_policy(&self, port: Port, answer: Lookup<Arc<InboundPolicy>>) {
        self.inner.inbound_policies.publish(port, answer);
    }
}
