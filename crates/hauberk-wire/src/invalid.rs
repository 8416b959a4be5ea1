//! Why a message cannot be understood.

/// What a message got wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot understand {field}: {reason}")]
pub struct Invalid {
    /// The field, by its name in the protocol definition with its message: `Backend.metadata`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A required field is absent, or a variant is not known to this version.
    #[error("it is missing or of an unknown kind")]
    Missing,
    /// A number is outside its range.
    #[error("{0} is out of range")]
    OutOfRange(i64),
    /// A text does not follow its grammar.
    #[error("'{text}' is not valid: {why}")]
    Malformed {
        /// The text, shortened.
        text: String,
        /// What its parser says.
        why: String,
    },
    /// Two fields contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Reason {
    /// A short fixed word, as the value of a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OutOfRange(_) => "out_of_range",
            Self::Malformed { .. } => "malformed",
            Self::Contradiction(_) => "contradiction",
        }
    }
}

impl Invalid {
    pub(crate) fn missing(field: &'static str) -> Self {
        Self { field, reason: Reason::Missing }
    }

    pub(crate) fn out_of_range(field: &'static str, number: impl Into<i64>) -> Self {
        Self { field, reason: Reason::OutOfRange(number.into()) }
    }

    pub(crate) fn malformed(
        field: &'static str,
        text: impl AsRef<str>,
        why: impl ToString,
    ) -> Self {
        let text = text.as_ref().chars().take(200).collect();
        Self { field, reason: Reason::Malformed { text, why: why.to_string() } }
    }

    pub(crate) fn contradiction(field: &'static str, what: &'static str) -> Self {
        Self { field, reason: Reason::Contradiction(what) }
    }
}

/// Turns an absent field into its error.
pub(crate) trait Required<T> {
    fn required(self, field: &'static str) -> Result<T, Invalid>;
}

impl<T> Required<T> for Option<T> {
    fn required(self, field: &'static str) -> Result<T, Invalid> {
        self.ok_or_else(|| Invalid::missing(field))
    }
}
