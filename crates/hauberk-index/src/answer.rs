//! What the index answers.

use crate::{Subject, status::Status};
use hauberk_model::{Endpoints, InboundPolicy, OutboundPolicy, Profile};
use std::{collections::BTreeSet, sync::Arc};

/// An answer together with everything that was looked at to find it.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// What it depends on: unless one of these is announced, it stays the same.
    pub subjects: BTreeSet<Subject>,
}

/// The answer to a [`crate::Key`]; each kind of key has its own kind of answer.
///
/// Answers are compared by value, so a publisher can leave out those that did not change.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`crate::Key::Inbound`].
    Inbound(Arc<InboundPolicy>),
    /// To [`crate::Key::Outbound`].
    Outbound(Arc<OutboundPolicy>),
    /// To [`crate::Key::Endpoints`]; empty if the service has none right now.
    Endpoints(Arc<Endpoints>),
    /// To [`crate::Key::Profile`]; an empty profile for a port that the service does not have.
    Profile(Arc<Profile>),
    /// To [`crate::Key::Status`].
    Status(Arc<Status>),
    /// To any of them: there is no answer now. The reason may go away later.
    Refused(Refusal),
}

/// Why there is no answer; each variant is one status of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The question can never have an answer (`InvalidArgument`).
    #[error("{0}")]
    Invalid(String),
    /// What is asked for does not exist now (`NotFound`).
    #[error("{0}")]
    NotFound(String),
    /// The cluster contradicts itself, for example about an address (`FailedPrecondition`).
    #[error("{0}")]
    Contradiction(String),
}
