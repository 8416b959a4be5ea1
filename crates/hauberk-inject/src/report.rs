//! What was done to an object and why: for people, for events, and for metrics.

use serde_json::{Value, json};

use crate::config::Layer;

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It joins the mesh: by annotation or with the containers written out.
    Injected,
    /// A namespace or service got annotations.
    Annotated,
    /// It left the mesh.
    Uninjected,
    /// Nothing had to be done, or it opted out.
    Skipped,
    /// It was asked for and cannot be done; the object is as it was.
    Refused,
}

impl Action {
    /// The word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Annotated => "annotated",
            Self::Uninjected => "uninjected",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
        }
    }
}

/// Why an object was left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The pod shares the network of its host: rules there would capture the host's traffic.
    HostNetwork,
    /// There is a proxy already.
    SidecarExists,
    /// The kind has no pods.
    UnsupportedKind,
    /// Neither pod nor namespace ask for a proxy.
    NotAsked,
    /// The pod refuses a proxy.
    OptedOut,
    /// The pod's annotation has an unknown value.
    UnknownValueAtWorkload,
    /// The namespace's annotation has an unknown value.
    UnknownValueAtNamespace,
    /// The proxy would have no token to prove its identity with.
    NoToken,
    /// Control-plane components are only injected with the containers written out.
    ControlPlane,
    /// The document has no kind.
    NoKind,
    /// A part of the object is not what Kubernetes says it is.
    Malformed(String),
}

impl Reason {
    /// The name in metrics and in JSON; Linkerd's where it has one.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network_enabled",
            Self::SidecarExists => "sidecar_already_exists",
            Self::UnsupportedKind => "unsupported_resource",
            Self::NotAsked => "injection_enable_annotation_absent",
            Self::OptedOut => "injection_disable_annotation_present",
            Self::UnknownValueAtWorkload => "invalid_inject_annotation_at_workload",
            Self::UnknownValueAtNamespace => "invalid_inject_annotation_at_ns",
            Self::NoToken => "disabled_automount_service_account_token_account",
            Self::ControlPlane => "control_plane_component",
            Self::NoKind => "missing_kind",
            Self::Malformed(_) => "malformed_resource",
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::HostNetwork => "hostNetwork is enabled".to_owned(),
            Self::SidecarExists => "pod has a sidecar injected already".to_owned(),
            Self::UnsupportedKind => "this kind has no pods".to_owned(),
            Self::NotAsked => {
                "neither the pod nor its namespace has linkerd.io/inject: enabled".to_owned()
            }
            Self::OptedOut => "the pod has linkerd.io/inject: disabled".to_owned(),
            Self::UnknownValueAtWorkload => {
                "the pod's linkerd.io/inject is neither enabled, disabled nor ingress".to_owned()
            }
            Self::UnknownValueAtNamespace => {
                "the namespace's linkerd.io/inject is neither enabled, disabled nor ingress"
                    .to_owned()
            }
            Self::NoToken => {
                "automountServiceAccountToken is false and no token is projected".to_owned()
            }
            Self::ControlPlane => {
                "--manual must be set when injecting control plane components".to_owned()
            }
            Self::NoKind => "document missing \"kind\" field, skipped".to_owned(),
            Self::Malformed(what) => what.clone(),
        }
    }
}

/// Something worth a look that did not stop the injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A name for machines.
    pub key: &'static str,
    /// For people.
    pub text: String,
}

impl Note {
    /// A note.
    pub(crate) fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self { key, text: text.into() }
    }
}

/// A setting of a sidecar that is not the built-in default, and who chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The annotation.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where it came from.
    pub layer: Layer,
}

/// What was done to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kind in lower case, as reports of Linkerd write it.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace, if the object says.
    pub namespace: Option<String>,
    /// What was done.
    pub action: Action,
    /// Why nothing was done, if so.
    pub reasons: Vec<Reason>,
    /// What is worth a look.
    pub notes: Vec<Note>,
    /// The settings that were chosen somewhere.
    pub settings: Vec<Chosen>,
}

impl Report {
    /// `deployment/web`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let reasons: Vec<_> =
            self.reasons.iter().map(|r| json!({"reason": r.key(), "text": r.text()})).collect();
        let notes: Vec<_> =
            self.notes.iter().map(|n| json!({"note": n.key, "text": n.text})).collect();
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|s| json!({"annotation": s.key, "value": s.value, "from": s.layer.word()}))
            .collect();
        json!({
            "kind": self.kind,
            "name": self.name,
            "namespace": self.namespace,
            "action": self.action.word(),
            "reasons": reasons,
            "notes": notes,
            "settings": settings,
        })
    }
}
