//! Manifest to manifest with a sidecar, and the reason for each choice.
//!
//! One pure function serves the command line, the admission webhook and the local runtime:
//! [`inject`] takes an object, what the installation says, and what is known about the
//! namespace, and returns the object in the mesh with a [`Report`]. [`uninject`] is its
//! reverse. [`text`] applies both to files without disturbing what they do not change.
//!
//! It promises: fields it does not know survive; injecting twice changes nothing; an object
//! that cannot be injected comes back as it was, with all reasons; a bad annotation costs its
//! setting, never the pod. A container, volume or environment variable it writes is named as
//! Linkerd names it, so tools that look for them keep working.
//!
//! Deliberately not here: reading files, asking a cluster, and what the settings do (the
//! proxy and the init container know).

mod capture_init;
mod config;
mod decide;
mod environment;
mod manifest;
mod opaque;
pub mod patch;
mod report;
mod settings;
mod sidecar;
mod strip;
pub mod text;
mod value;
mod volumes;

use std::collections::BTreeMap;

use hauberk_resources::annotations;

use crate::{
    config::Layers,
    decide::{Decision, Mode, decide},
    manifest::set_metadata,
    settings::{Flavour, Placement, Settings},
    sidecar::Membership,
    strip::{Stripped, strip},
};
pub use crate::{
    config::{
        Capture, ControlPlaneService, Demand, Firewall, Form, InjectConfig, Ipv6, Layer,
        NamespaceFacts, Token, Tracing, TrustAnchors,
    },
    manifest::{Manifest, Owner, Role},
    report::{Action, Chosen, Note, Reason, Report},
    value::check as check_value,
};

/// An object and what was done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The object; unchanged unless the report says otherwise.
    pub manifest: Manifest,
    /// What was done and why.
    pub report: Report,
}

/// Brings an object into the mesh.
///
/// What is written is decided by [`InjectConfig::demand`] and [`InjectConfig::form`]. With
/// [`Demand::Everything`], a sidecar of ours that is there already is replaced.
#[must_use]
pub fn inject(manifest: &Manifest, config: &InjectConfig, facts: &NamespaceFacts) -> Outcome {
    let unchanged = |action, reasons| outcome(manifest.clone(), action, reasons, Vec::new());
    if manifest.kind().is_empty() {
        return unchanged(Action::Skipped, vec![Reason::NoKind]);
    }
    let role = manifest.role();
    if role == Role::Other {
        return unchanged(Action::Skipped, vec![Reason::UnsupportedKind]);
    }
    if let Err(what) = manifest.shape() {
        return unchanged(Action::Refused, vec![Reason::Malformed(what)]);
    }
    match (role, config.demand) {
        (Role::Workload(_), _) => workload(manifest, config, facts),
        (Role::Namespace, Demand::Everything) => namespace(manifest, config),
        (Role::Service, Demand::Everything) => service_by_override(manifest, config),
        (Role::Service, Demand::WhenAsked) => service(manifest, config, facts),
        (Role::Namespace, Demand::WhenAsked) | (Role::Other, _) => {
            unchanged(Action::Skipped, vec![Reason::UnsupportedKind])
        }
    }
}

/// Takes an object out of the mesh.
///
/// Configuration annotations a person wrote survive; those the injector added go.
#[must_use]
pub fn uninject(manifest: &Manifest) -> Outcome {
    let mut manifest = manifest.clone();
    let (action, reasons) = match (manifest.kind(), manifest.shape()) {
        ("", _) => (Action::Skipped, vec![Reason::NoKind]),
        (_, Err(what)) => (Action::Skipped, vec![Reason::Malformed(what)]),
        (_, Ok(())) => match strip(&mut manifest) {
            Stripped::Something => (Action::Uninjected, Vec::new()),
            Stripped::Nothing => (Action::Skipped, Vec::new()),
        },
    };
    outcome(manifest, action, reasons, Vec::new())
}

fn outcome(manifest: Manifest, action: Action, reasons: Vec<Reason>, notes: Vec<Note>) -> Outcome {
    let report = Report {
        kind: manifest.kind().to_ascii_lowercase(),
        name: manifest.name().to_owned(),
        namespace: manifest.namespace().map(str::to_owned),
        action,
        reasons,
        notes,
        settings: Vec::new(),
    };
    Outcome { manifest, report }
}

fn workload(original: &Manifest, config: &InjectConfig, facts: &NamespaceFacts) -> Outcome {
    let (by_person, by_annotation) =
        (config.demand == Demand::Everything, config.form == Form::Annotation);
    if by_person && by_annotation && original.is_control_plane() {
        return outcome(original.clone(), Action::Refused, vec![Reason::ControlPlane], Vec::new());
    }
    let pod = original.pod().expect("shape() found a pod");
    let mut notes = decide::notes(pod);
    // What decides is the pod as its author wrote it: with our own sidecar taken out.
    let mut manifest = original.clone();
    if by_person {
        strip_sidecar(&mut manifest);
    }
    let stripped = manifest.pod().expect("it had a pod before");
    let mode = match decide(stripped, facts, config, &mut notes) {
        Decision::Inject(mode) => mode,
        Decision::Skip(reasons) => {
            return skipped(original, config, facts, reasons, notes);
        }
    };
    if by_person {
        let value = match mode {
            Mode::Ordinary => annotations::INJECT_ENABLED,
            Mode::Ingress => annotations::INJECT_INGRESS,
        };
        let pod = manifest.pod_mut().expect("it had a pod before");
        set_metadata(pod, "annotations", annotations::INJECT, value);
        write_overrides(pod, &config.overrides);
    }
    let mut chosen = Vec::new();
    match config.form {
        Form::Annotation => check_settings(&manifest, config, facts, &mut notes),
        Form::Sidecar => chosen = add_sidecar(&mut manifest, mode, config, facts, &mut notes),
    }
    let mut outcome = outcome(manifest, Action::Injected, Vec::new(), notes);
    outcome.report.settings = chosen;
    outcome
}

/// Takes our own sidecar out but leaves what its author said about injection.
fn strip_sidecar(manifest: &mut Manifest) {
    let said = manifest.pod().and_then(|pod| manifest::annotation(pod, annotations::INJECT));
    let said = said.map(str::to_owned);
    strip(manifest);
    if let (Some(value), Some(pod)) = (said, manifest.pod_mut()) {
        set_metadata(pod, "annotations", annotations::INJECT, &value);
    }
}

fn write_overrides(value: &mut serde_json::Value, overrides: &BTreeMap<String, String>) {
    for (key, text) in overrides {
        set_metadata(value, "annotations", key, text);
    }
}

/// A pod that stays outside may still say which of its ports are opaque.
fn skipped(
    original: &Manifest,
    config: &InjectConfig,
    facts: &NamespaceFacts,
    reasons: Vec<Reason>,
    notes: Vec<Note>,
) -> Outcome {
    let harmless = reasons.iter().all(|r| matches!(r, Reason::OptedOut | Reason::NotAsked));
    let action = match config.demand {
        Demand::Everything if !harmless => Action::Refused,
        Demand::Everything | Demand::WhenAsked => Action::Skipped,
    };
    let mut manifest = original.clone();
    if config.demand == Demand::WhenAsked
        && let Some(pod) = manifest.pod_mut()
        && let Some(ports) = opaque::for_pod(pod, facts, config)
    {
        set_metadata(pod, "annotations", annotations::OPAQUE_PORTS, &ports);
    }
    outcome(manifest, action, reasons, notes)
}

/// Notes settings that the injector of the cluster would ignore later.
fn check_settings(
    manifest: &Manifest,
    config: &InjectConfig,
    facts: &NamespaceFacts,
    notes: &mut Vec<Note>,
) {
    let pod = manifest.pod().expect("it had a pod before");
    let mut layers = Layers::new(pod, facts, config);
    Settings::resolve(pod, &mut layers, config);
    layers.note_unknown();
    notes.append(&mut layers.notes);
}

fn add_sidecar(
    manifest: &mut Manifest,
    mode: Mode,
    config: &InjectConfig,
    facts: &NamespaceFacts,
    notes: &mut Vec<Note>,
) -> Vec<Chosen> {
    let pod = manifest.pod().expect("it had a pod before").clone();
    let mut layers = Layers::new(&pod, facts, config);
    let settings = Settings::resolve(&pod, &mut layers, config);
    layers.note_unknown();
    let mut added: Vec<_> = settings::inherited(&layers)
        .into_iter()
        .map(|(key, value)| (key, value.to_owned()))
        .collect();
    layers.notes.extend(consequences(manifest, &settings, config));
    if let Some(ports) = opaque::for_pod(&pod, facts, config)
        && !added.iter().any(|(key, _)| *key == annotations::OPAQUE_PORTS)
    {
        added.push((annotations::OPAQUE_PORTS, ports));
    }
    let own = manifest.namespace().map(str::to_owned);
    let membership = Membership {
        namespace: own.as_deref().or(Some(facts.name.as_str()).filter(|name| !name.is_empty())),
        owner: manifest.pod_owner(),
        annotations: added,
    };
    notes.append(&mut layers.notes);
    let chosen = layers.chosen;
    let pod = manifest.pod_mut().expect("it had a pod before");
    sidecar::add(pod, &settings, mode, &membership, config);
    chosen
}

/// What follows from the settings that a person may not expect.
fn consequences(manifest: &Manifest, settings: &Settings, config: &InjectConfig) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |key, text: String| notes.push(Note::new(key, text));
    if settings.close_wait.is_some() {
        let text = "close-wait-timeout makes the init container run privileged and as root";
        note("privileged_init_container", text.to_owned());
    }
    let classic = settings.placement == Placement::Classic;
    if classic && matches!(manifest.kind(), "Job" | "CronJob") {
        let text = "a job with a classic sidecar does not finish until the proxy is told to stop";
        note("classic_sidecar_in_job", text.to_owned());
    }
    if classic && settings.awaits && settings.flavour == Flavour::Hauberk {
        let text = "a classic sidecar does not hold the application back until it is ready";
        note("classic_sidecar_without_await", text.to_owned());
    }
    if let (Demand::Everything, TrustAnchors::ConfigMap { name, .. }) =
        (config.demand, &config.trust_anchors)
    {
        let text = format!(
            "the proxy takes its trust anchors from ConfigMap {name} of its own namespace and \
             does not start without it; --trust-anchors FILE writes them into the pod"
        );
        note("trust_anchors_by_reference", text);
    }
    notes
}

/// A namespace a person named: its pods will be injected.
fn namespace(original: &Manifest, config: &InjectConfig) -> Outcome {
    let mut manifest = original.clone();
    let value = &mut manifest.value;
    set_metadata(value, "annotations", annotations::INJECT, config.inject_value);
    write_overrides(value, &config.overrides);
    outcome(manifest, Action::Annotated, Vec::new(), Vec::new())
}

/// A service in a file a person named: it gets the opaque ports they asked for.
fn service_by_override(original: &Manifest, config: &InjectConfig) -> Outcome {
    match config.overrides.get(annotations::OPAQUE_PORTS).cloned() {
        Some(ports) => annotated_service(original, &ports),
        None => {
            outcome(original.clone(), Action::Skipped, vec![Reason::UnsupportedKind], Vec::new())
        }
    }
}

/// A service at admission: it says which of its ports are opaque.
fn service(original: &Manifest, config: &InjectConfig, facts: &NamespaceFacts) -> Outcome {
    match opaque::for_service(&original.value, facts, config) {
        Some(ports) => annotated_service(original, &ports),
        None => {
            outcome(original.clone(), Action::Skipped, vec![Reason::UnsupportedKind], Vec::new())
        }
    }
}

fn annotated_service(original: &Manifest, ports: &str) -> Outcome {
    let mut manifest = original.clone();
    set_metadata(&mut manifest.value, "annotations", annotations::OPAQUE_PORTS, ports);
    outcome(manifest, Action::Annotated, Vec::new(), Vec::new())
}
