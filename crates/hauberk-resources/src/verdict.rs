//! What the mesh says to an object before it is stored.
//!
//! One function for the admission webhook, for `hauberk validate` and for tests. It is the parser
//! of the sources and nothing else: what it refuses, no source takes into use. Which refusals keep
//! an object out of the cluster depends on whose kind it is:
//!
//! | object | read by the parser | not read |
//! |---|---|---|
//! | of the mesh's own kinds (`*.linkerd.io`) | [`Verdict::Understood`] | [`Verdict::Refused`] |
//! | of Kubernetes' and the Gateway API's kinds | [`Verdict::Understood`] | [`Verdict::Unread`] |
//! | of any other kind | | [`Verdict::Foreign`] |
//! | no object at all (without a kind) | | [`Verdict::Refused`] |
//!
//! The second line is lenient because those kinds have other readers, and because their newer
//! versions have fields that we do not know yet (Linkerd does the same since April 2026).

use serde_json::Value;

use crate::{Invalid, Kind, ObjectName, Resource};

/// What the mesh says to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is understood and will be in force.
    Understood {
        /// The object.
        resource: Box<Resource>,
        /// Fields of it that nobody reads; see [`Resource::parse_noting`].
        unread: Vec<String>,
    },
    /// It is of no kind that the mesh reads.
    Foreign(Box<ObjectName>),
    /// It cannot be read, and is not only the mesh's: it may be stored, and the mesh goes on with
    /// what it knew before.
    Unread(Invalid),
    /// It cannot be read, and nobody else would read it: it should not be stored.
    Refused(Invalid),
}

impl Verdict {
    /// Judges one object.
    #[must_use]
    pub fn of(value: Value) -> Self {
        match Resource::parse_noting(value) {
            Ok((resource, unread)) => Self::Understood { resource: Box::new(resource), unread },
            Err(Invalid::Unrecognised { object }) if !object.kind.is_empty() => {
                Self::Foreign(object)
            }
            Err(invalid @ Invalid::Unrecognised { .. }) => Self::Refused(invalid),
            Err(invalid) => match invalid.kind() {
                Some(kind) if kind.is_own() => Self::Refused(invalid),
                _ => Self::Unread(invalid),
            },
        }
    }

    /// Whether the object should not be stored.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// One word for it, in metrics and JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Understood { .. } => "understood",
            Self::Foreign(_) => "foreign",
            Self::Unread(_) => "unread",
            Self::Refused(_) => "refused",
        }
    }

    /// The kind of the object, if the mesh reads such.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Understood { resource, .. } => Some(resource.kind()),
            Self::Foreign(_) => None,
            Self::Unread(invalid) | Self::Refused(invalid) => invalid.kind(),
        }
    }
}
