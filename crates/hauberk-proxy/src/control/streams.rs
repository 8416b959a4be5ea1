//! The streams behind a [`Directory`]: one per question, for as long as somebody waits for the answer.
//!
//! A stream that ends or fails is opened again after a back-off, and the last answer is kept meanwhile. "There is no
//! such thing" is an answer too, and is asked again now and then, because things appear. A message that cannot be
//! understood is counted and logged, and the answer stays as it was.

use super::{
    Directory, Lookup, Start,
    calls::Channel,
    client::Connector,
    questions::{EndpointsOf, InboundPolicyOf, OutboundPolicyOf, ProfileOf},
};
use crate::{
    settings::{Config, Service, StreamLimits},
    telemetry::{labels::Labels as MetricLabels, metrics::Control},
};
use hauberk_model::backoff::Backoff;
use hauberk_process::Tasks;
use hauberk_wire::Invalid;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{Code, Status, Streaming};

/// A control plane that has come back is found within this time, whatever the settings allow.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// When it is found by one stream, the others follow within this time, each at a moment of its own.
const FOLLOW_MAX: Duration = Duration::from_millis(500);

/// How long "there is no such thing" is believed.
const ABSENT_RETRY: Duration = Duration::from_secs(30);

/// Starts streams for a directory.
#[derive(Debug)]
pub(super) struct Streams {
    directory: Directory,
    shared: Arc<Shared>,
    destination: Channel,
    policy: Channel,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) context: Arc<str>,
    pub(super) workload: Arc<str>,
    backoff: Backoff,
    destination_limits: StreamLimits,
    policy_limits: StreamLimits,
    metrics: Control,
    tasks: Tasks,
    is_reachable: watch::Sender<bool>,
}

impl Streams {
    pub(super) fn new(
        directory: Directory,
        config: &Config,
        connector: &Connector,
        metrics: Control,
        tasks: Tasks,
    ) -> Self {
        let shared = Shared {
            context: Arc::clone(&config.destination_context),
            workload: Arc::clone(&config.policy_workload),
            backoff: config.outbound.side.connect_backoff,
            destination_limits: limits(&config.destination, config.streams),
            policy_limits: limits(&config.policy, config.streams),
            metrics,
            tasks,
            is_reachable: directory.inner.is_reachable.clone(),
        };
        Self {
            directory,
            shared: Arc::new(shared),
            destination: connector.channel(&config.destination),
            policy: connector.channel(&config.policy),
        }
    }

    /// Starts streams as they are asked for, until the process ends.
    pub(super) async fn run(self, mut starts: mpsc::Receiver<Start>) {
        let shutdown = self.shared.tasks.shutdown().clone();
        loop {
            tokio::select! {
                start = starts.recv() => match start {
                    Some(start) => self.start(start),
                    None => return,
                },
                () = shutdown.ended() => return,
            }
        }
    }

    fn start(&self, start: Start) {
        let (directory, shared) = (self.directory.clone(), Arc::clone(&self.shared));
        let tasks = self.shared.tasks.clone();
        match start {
            Start::OutboundPolicy(target, sender) => {
                let question = OutboundPolicyOf::new(&self.policy, &target);
                tasks.spawn("control-outbound-policy", async move {
                    let forget = || directory.inner.outbound_policies.forget_unwatched(&target);
                    follow(&shared, shared.policy_limits, question, sender, forget).await;
                });
            }
            Start::Profile(target, sender) => {
                let question = ProfileOf::new(&self.destination, &target);
                tasks.spawn("control-profile", async move {
                    let forget = || directory.inner.profiles.forget_unwatched(&target);
                    follow(&shared, shared.destination_limits, question, sender, forget).await;
                });
            }
            Start::Endpoints(authority, sender) => {
                let question = EndpointsOf::new(&self.destination, &authority);
                tasks.spawn("control-endpoints", async move {
                    let forget = || directory.inner.endpoints.forget_unwatched(&authority);
                    follow(&shared, shared.destination_limits, question, sender, forget).await;
                });
            }
            Start::InboundPolicy(port, sender) => {
                let question = InboundPolicyOf::new(&self.policy, port);
                tasks.spawn("control-inbound-policy", async move {
                    let forget = || directory.inner.inbound_policies.forget_unwatched(&port);
                    follow(&shared, shared.policy_limits, question, sender, forget).await;
                });
            }
        }
    }
}

/// On loopback there is no network that could forget a connection, so there are no limits.
fn limits(service: &Service, limits: StreamLimits) -> StreamLimits {
    if service.address.is_loopback() { StreamLimits::default() } else { limits }
}

/// One kind of question.
pub(super) trait Question: Send {
    /// What the stream carries.
    type Message: Send + 'static;
    /// What it answers.
    type Answer: Send + Sync;

    /// Value of the metric label `service`.
    const SERVICE: &'static str;

    /// Opens the stream. Whatever was folded from an earlier one is forgotten.
    fn open(
        &mut self,
        shared: &Shared,
    ) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// Folds a message into the answer; problems with parts of it are beside it.
    #[expect(clippy::type_complexity, reason = "an answer, and what was left out of it")]
    fn take(
        &mut self,
        message: Self::Message,
    ) -> Result<(Lookup<Arc<Self::Answer>>, Vec<Invalid>), Invalid>;
}

/// Follows one question until nobody waits for the answer any more.
async fn follow<Q: Question>(
    shared: &Shared,
    limits: StreamLimits,
    mut question: Q,
    sender: watch::Sender<Lookup<Arc<Q::Answer>>>,
    forget_unwatched: impl Fn() -> bool,
) {
    let labels = MetricLabels::new().with("service", Q::SERVICE);
    let streams = shared.metrics.streams.get_or_create(&labels);
    let shutdown = shared.tasks.shutdown();
    let mut failures = 0;
    loop {
        streams.inc();
        let end = tokio::select! {
            end = follow_once(shared, limits, &mut question, &sender, &mut failures) => Some(end),
            () = sender.closed() => None,
            () = shutdown.ended() => { streams.dec(); return }
        };
        streams.dec();
        // Whether the end says that nobody is there, so that another stream's luck is news.
        let mut is_lost = false;
        let pause = end.map(|end| {
            let labels = labels.clone().with("code", format!("{:?}", end.code()));
            shared.metrics.stream_ends.get_or_create(&labels).inc();
            let random = rand::random::<f32>();
            match end.code() {
                // The stream was as long as it should be.
                Code::Ok => Duration::ZERO,
                Code::NotFound | Code::Unimplemented => {
                    failures = 0;
                    sender.send_if_modified(|answer| set(answer, Lookup::Absent));
                    ABSENT_RETRY
                }
                code => {
                    is_lost = is_away(code);
                    if is_lost {
                        shared
                            .is_reachable
                            .send_if_modified(|known| std::mem::replace(known, false));
                    }
                    let pause = shared.backoff.delay(failures, random).min(PAUSE_MAX);
                    tracing::debug!(
                        service = Q::SERVICE,
                        ?code,
                        error = end.message(),
                        ?pause,
                        "stream ended"
                    );
                    failures = failures.saturating_add(1);
                    pause
                }
            }
        });
        tokio::select! {
            () = tokio::time::sleep(pause.unwrap_or_default()) => {}
            () = found_again(shared), if is_lost => {}
            () = sender.closed() => {}
            () = shutdown.ended() => return,
        }
        if sender.is_closed() && forget_unwatched() {
            return;
        }
    }
}

/// Whether a stream ended so because nobody is there, and not because somebody disliked the question.
fn is_away(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// Waits until another stream has reached the control plane, and a random moment longer.
async fn found_again(shared: &Shared) {
    let mut is_reachable = shared.is_reachable.subscribe();
    if is_reachable.wait_for(|reachable| *reachable).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(FOLLOW_MAX.mul_f32(rand::random())).await;
}

/// Opens a stream and takes its messages until it ends. `Ok` is an end on our own account.
async fn follow_once<Q: Question>(
    shared: &Shared,
    limits: StreamLimits,
    question: &mut Q,
    sender: &watch::Sender<Lookup<Arc<Q::Answer>>>,
    failures: &mut u32,
) -> Status {
    let begin = Instant::now();
    // Without a jitter all proxies of a cluster would come back at the same moment for ever.
    let lifetime =
        limits.lifetime.map(|lifetime| begin + lifetime.mul_f32(0.9 + 0.1 * rand::random::<f32>()));
    let mut stream = match within(limits.initial_timeout, question.open(shared)).await {
        Some(Ok(stream)) => stream,
        Some(Err(status)) => return status,
        None => return Status::deadline_exceeded("the stream did not open in time"),
    };
    shared.is_reachable.send_if_modified(|known| !std::mem::replace(known, true));
    let mut wait = limits.initial_timeout;
    loop {
        let left = lifetime.map(|end| end.saturating_duration_since(Instant::now()));
        let limit = wait.into_iter().chain(left).min();
        let message = match within(limit, stream.message()).await {
            Some(Ok(Some(message))) => message,
            Some(Ok(None)) => return Status::unavailable("the control plane ended the stream"),
            Some(Err(status)) => return status,
            None if lifetime.is_some_and(|end| end <= Instant::now()) => {
                return Status::ok("lifetime");
            }
            None if wait == limits.initial_timeout && *failures > 0 => {
                return Status::deadline_exceeded("no first message in time");
            }
            // A quiet stream is opened anew, in case the other side has forgotten it.
            None => return Status::ok("idle"),
        };
        *failures = 0;
        wait = limits.idle_timeout;
        let problem = match question.take(message) {
            Ok((answer, problems)) => {
                sender.send_if_modified(|known| set(known, answer));
                problems.into_iter().next()
            }
            Err(invalid) => Some(invalid),
        };
        if let Some(invalid) = problem {
            let labels = MetricLabels::new()
                .with("service", Q::SERVICE)
                .with("reason", invalid.reason.label());
            shared.metrics.invalid_messages.get_or_create(&labels).inc();
            tracing::warn!(service = Q::SERVICE, %invalid, "the control plane sent what cannot be understood");
        }
    }
}

async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Sets `known`; says whether that tells anybody something. The comparison is by address: values that are equal but
/// not the same are rare, and telling them again does no harm.
fn set<T>(known: &mut Lookup<Arc<T>>, answer: Lookup<Arc<T>>) -> bool {
    let is_same = match (&*known, &answer) {
        (Lookup::Known(known), Lookup::Known(answer)) => Arc::ptr_eq(known, answer),
        (Lookup::Absent, Lookup::Absent) | (Lookup::Pending, Lookup::Pending) => true,
        _ => false,
    };
    *known = answer;
    !is_same
}
