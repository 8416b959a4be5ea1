//! The gRPC services, and what they have in common: status codes and streams of answers.
//!
//! A service reads its question with [`hauberk_index::Question`], subscribes, and turns answers
//! into messages at the edge. What an answer means for a stream that is already open differs, so
//! each service has an [`Edge`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use hauberk_index::{Answer, ClusterConfig, Key, Refusal};
use hauberk_process::Shutdown;
use hauberk_wire::Invalid;
use tokio::sync::watch;
use tonic::{Response, Status};

use crate::metrics::{OpenStream, ServiceMetrics};
use crate::subscribe::{Subscriber, Unanswered};

pub(crate) mod destination;
pub(crate) mod identity;
pub(crate) mod inbound_policy;
pub(crate) mod outbound_policy;
pub(crate) mod profile;

/// Longest text of a status, in characters. It travels in a trailer, and proxies limit the size of
/// trailers: an object dumped into a message would break the stream instead of explaining it.
const STATUS_TEXT_MAX: usize = 300;

/// A stream of messages, as tonic wants it.
pub(crate) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What the services of discovery and policy share. Cloning copies `Arc`s.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// Settings that questions are read by.
    pub(crate) config: Arc<ClusterConfig>,
    /// Where answers come from.
    pub(crate) subscriber: Subscriber,
    /// When streams end.
    pub(crate) shutdown: Shutdown,
    /// What is counted.
    pub(crate) metrics: ServiceMetrics,
}

/// What answers become on one stream.
pub(crate) trait Edge: Send + 'static {
    /// A message of the stream.
    type Message: Send + 'static;

    /// What to say now that this is the answer. The first call is never with a refusal.
    fn say(&mut self, answer: &Answer) -> Said<Self::Message>;
}

/// What an [`Edge`] wants said.
pub(crate) enum Said<M> {
    /// These messages, maybe none.
    Messages(Vec<M>),
    /// Nothing more: the stream ends well, and the proxy asks again.
    End,
}

impl Desk {
    /// Answers a question with a stream that stays current until the client leaves, the edge ends
    /// it, or the process drains.
    pub(crate) async fn stream<E: Edge>(
        &self,
        method: &'static str,
        key: Key,
        edge: E,
    ) -> Result<Response<Messages<E::Message>>, Status> {
        let answers = self.subscriber.subscribe(key).await.map_err(unanswered)?;
        if let Answer::Refused(refusal) = &*answers.borrow() {
            return Err(refused(refusal));
        }
        let open = self.metrics.stream(method);
        let conversation = Conversation {
            answers,
            edge,
            unsent: VecDeque::new(),
            is_new: true,
            shutdown: self.shutdown.clone(),
            open,
        };
        let messages = futures::stream::unfold(conversation, |mut conversation| async {
            let message = conversation.next().await?;
            Some((Ok(message), conversation))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    /// Answers a question once.
    pub(crate) async fn answer(&self, key: Key) -> Result<Answer, Status> {
        let answers = self.subscriber.subscribe(key).await.map_err(unanswered)?;
        match answers.borrow().clone() {
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Ok(answer),
        }
    }
}

/// One open stream. It looks at the newest answer only when the transport asks for a message, which
/// it does while the client reads; so a client that does not read skips what came between.
struct Conversation<E: Edge> {
    answers: watch::Receiver<Answer>,
    edge: E,
    /// The rest of what the last answer became.
    unsent: VecDeque<E::Message>,
    is_new: bool,
    shutdown: Shutdown,
    open: OpenStream,
}

impl<E: Edge> Conversation<E> {
    /// The next message, or the end.
    async fn next(&mut self) -> Option<E::Message> {
        loop {
            if let Some(message) = self.unsent.pop_front() {
                self.open.sent();
                return Some(message);
            }
            if !std::mem::take(&mut self.is_new) {
                tokio::select! {
                    changed = self.answers.changed() => changed.ok()?,
                    () = self.shutdown.draining() => return None,
                }
            }
            let answer = self.answers.borrow_and_update().clone();
            match self.edge.say(&answer) {
                Said::Messages(messages) => self.unsent = messages.into(),
                Said::End => return None,
            }
        }
    }
}

/// The status for a refusal.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let text = shorten(refusal.to_string());
    match refusal {
        Refusal::Invalid(_) => Status::invalid_argument(text),
        Refusal::NotFound(_) => Status::not_found(text),
        Refusal::Contradiction(_) => Status::failed_precondition(text),
    }
}

/// The status for a message that cannot be understood.
pub(crate) fn not_understood(invalid: &Invalid) -> Status {
    Status::invalid_argument(shorten(invalid.to_string()))
}

fn unanswered(reason: Unanswered) -> Status {
    Status::unavailable(reason.to_string())
}

/// An answer of another kind than the question would be a mistake of ours.
pub(crate) fn mismatch() -> Status {
    Status::internal("the answer does not fit the question")
}

pub(crate) fn shorten(text: String) -> String {
    match text.char_indices().nth(STATUS_TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
