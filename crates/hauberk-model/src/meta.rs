//! Where a piece of policy came from: the labels that metrics, logs and people see.

use crate::port::Port;
use std::{fmt, sync::Arc};

/// The origin of a policy, route or backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meta {
    /// Made up by the control plane, with the name of the rule that did: `all-unauthenticated`.
    Default(Arc<str>),
    /// A resource.
    Resource(Arc<ResourceMeta>),
}

/// Coordinates of a resource; empty text where the wire says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceMeta {
    /// API group; `core` for the core group.
    pub group: Arc<str>,
    /// Kind as written in manifests, `Service`.
    pub kind: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Section (named rule, listener).
    pub section: Arc<str>,
    /// Port the piece of policy is about.
    pub port: Option<Port>,
}

impl Meta {
    /// A default with that name.
    pub fn default(name: impl Into<Arc<str>>) -> Self {
        Self::Default(name.into())
    }

    /// A resource without section and port.
    pub fn resource(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self::Resource(Arc::new(ResourceMeta {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..ResourceMeta::default()
        }))
    }

    /// A Service, optionally with the port meant.
    pub fn service(namespace: &str, name: &str, port: Option<Port>) -> Self {
        Self::Resource(Arc::new(ResourceMeta {
            group: "core".into(),
            kind: "Service".into(),
            namespace: namespace.into(),
            name: name.into(),
            section: "".into(),
            port,
        }))
    }

    /// Value of a `*_group` metric label; empty for defaults.
    pub fn group(&self) -> &str {
        self.get().map_or("", |meta| &meta.group)
    }

    /// Value of a `*_kind` metric label; `default` for defaults.
    pub fn kind(&self) -> &str {
        self.get().map_or("default", |meta| &meta.kind)
    }

    /// Value of a `*_namespace` metric label; empty for defaults.
    pub fn namespace(&self) -> &str {
        self.get().map_or("", |meta| &meta.namespace)
    }

    /// Value of a `*_name` metric label.
    pub fn name(&self) -> &str {
        match self {
            Self::Default(name) => name,
            Self::Resource(meta) => &meta.name,
        }
    }

    /// Port the piece of policy is about, if it names one.
    pub fn port(&self) -> Option<Port> {
        self.get().and_then(|meta| meta.port)
    }

    fn get(&self) -> Option<&ResourceMeta> {
        match self {
            Self::Default(_) => None,
            Self::Resource(meta) => Some(meta),
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(name) => write!(f, "default {name}"),
            Self::Resource(meta) => {
                write!(f, "{} {}/{}", meta.kind, meta.namespace, meta.name)?;
                meta.port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}
