//! Why a value is not a resource.

use std::fmt;

/// The reason why [`crate::Resource::parse`] refused a value.
///
/// One broken object never harms another: callers report the reason, keep what they had, and go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The object is of a kind that the mesh does not read; usually no reason for a warning.
    #[error("{object} is of no kind the mesh reads")]
    Unrecognised {
        /// What the object calls itself.
        object: Box<ObjectName>,
    },
    /// A field is missing, has the wrong type, or holds a value without meaning.
    #[error("{object}: {field}: {reason}")]
    Malformed {
        /// What the object calls itself.
        object: Box<ObjectName>,
        /// Path of the field, such as `spec.ports[0].port`; `.` for the object as a whole.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Invalid {
    /// Whether the kind is simply not one of ours.
    pub fn is_unrecognised(&self) -> bool {
        matches!(self, Self::Unrecognised { .. })
    }

    /// What the object calls itself.
    pub fn object(&self) -> &ObjectName {
        match self {
            Self::Unrecognised { object } | Self::Malformed { object, .. } => object,
        }
    }

    /// The kind that it was meant to be, if the mesh reads such.
    pub fn kind(&self) -> Option<crate::Kind> {
        crate::Kind::find(&self.object().api_version, &self.object().kind)
    }
}

/// What an object says about itself, as far as it can be read. Empty parts are missing in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectName {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectName {
    pub(crate) fn of(value: &serde_json::Value) -> Box<Self> {
        let text = |pointer: &str| {
            value.pointer(pointer).and_then(|field| field.as_str()).unwrap_or_default().to_owned()
        };
        Box::new(Self {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown =
            |text: &'_ str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        write!(f, "{}", or_unknown(&self.kind))?;
        if !self.api_version.is_empty() {
            write!(f, " ({})", self.api_version)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " {}/", self.namespace)?;
        } else {
            write!(f, " ")?;
        }
        write!(f, "{}", or_unknown(&self.name))
    }
}
