//! The handle by which services get answers that stay current.

use std::time::Duration;

use hauberk_index::{Answer, Key};
use tokio::sync::{mpsc, oneshot, watch};

/// How long a question waits for the publisher. It is busy that long only before the first listing
/// is complete; proxies wait for three seconds before they ask again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions that may wait at once. Full: the next one waits for its place, within the time above.
pub(crate) const QUEUE_LENGTH: usize = 1024;

/// A question on its way to the publisher.
pub(crate) struct Question {
    /// What is asked.
    pub(crate) key: Key,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<watch::Receiver<Answer>>,
}

/// There is no answer, for reasons of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// The cluster has not been listed completely yet.
    #[error("the control plane is still listing the cluster")]
    NotYet,
    /// The process is ending.
    #[error("the control plane is shutting down")]
    Ending,
}

/// Asks the publisher. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    questions: mpsc::Sender<Question>,
}

impl Subscriber {
    /// A handle and the end that the publisher holds.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, receiver) = mpsc::channel(QUEUE_LENGTH);
        (Self { questions }, receiver)
    }

    /// The current answer, and every later one that differs. Dropping the receiver ends it.
    ///
    /// Cancel-safe: a question whose asker went away costs one answer at most.
    pub(crate) async fn subscribe(&self, key: Key) -> Result<watch::Receiver<Answer>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.questions.send(Question { key, reply }).await.map_err(|_| Unanswered::Ending)?;
            answer.await.map_err(|_| Unanswered::Ending)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, ask).await.unwrap_or(Err(Unanswered::NotYet))
    }
}
