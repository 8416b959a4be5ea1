//! Whether an object is injected, and why not.
//!
//! The rules are those of Linkerd's injector, so that a cluster that changes injectors keeps
//! its meshed pods: the pod's annotation beats the namespace's; only `enabled`, `disabled` and
//! `ingress` are values. A label on the namespace counts where its annotation is absent.

use hauberk_resources::annotations;
use serde_json::Value;

use crate::{
    config::{Demand, InjectConfig, InjectSource, NamespaceFacts, Token},
    manifest::{annotation, containers, first_container},
    report::{Note, Reason},
};

/// Where Kubernetes mounts the default service-account token.
pub(crate) const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether a pod is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It gets a sidecar, in ingress mode or not.
    Inject(Mode),
    /// It does not, for all of these reasons.
    Skip(Vec<Reason>),
}

/// How the sidecar finds the target of outbound requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By the address the application connects to.
    Ordinary,
    /// By the authority of each request.
    Ingress,
}

/// A value of `linkerd.io/inject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Absent,
    Enabled,
    Ingress,
    Disabled,
    Unknown,
}

impl Wish {
    fn parse(value: Option<&str>) -> Self {
        match value {
            None => Self::Absent,
            Some(annotations::INJECT_ENABLED) => Self::Enabled,
            Some(annotations::INJECT_INGRESS) => Self::Ingress,
            Some(annotations::INJECT_DISABLED) => Self::Disabled,
            Some(_) => Self::Unknown,
        }
    }
}

/// Decides about a pod.
pub(crate) fn decide(
    pod: &Value,
    facts: &NamespaceFacts,
    config: &InjectConfig,
    notes: &mut Vec<Note>,
) -> Decision {
    let value = annotation(pod, annotations::INJECT);
    if Wish::parse(value) == Wish::Unknown {
        notes.push(unknown_value(value.unwrap_or_default(), "pod", config.demand));
    }
    let wish = match config.demand {
        Demand::Everything => wish_of_person(value, config),
        Demand::WhenAsked => wish_of_both(value, facts, notes),
    };
    let (mode, mut reasons) = match wish {
        Ok(mode) => (mode, Vec::new()),
        Err(reason) => (Mode::Ordinary, vec![reason]),
    };
    if pod["spec"]["hostNetwork"] == true {
        reasons.push(Reason::HostNetwork);
    }
    if has_sidecar(pod) {
        reasons.push(Reason::SidecarExists);
    }
    if config.token == Token::Default && !has_token(pod) {
        reasons.push(Reason::NoToken);
    }
    if reasons.is_empty() { Decision::Inject(mode) } else { Decision::Skip(reasons) }
}

/// A person named the file: everything is injected unless it refuses.
fn wish_of_person(value: Option<&str>, config: &InjectConfig) -> Result<Mode, Reason> {
    let ingress = config.inject_value == annotations::INJECT_INGRESS;
    match Wish::parse(value) {
        Wish::Disabled => Err(Reason::OptedOut),
        Wish::Ingress => Ok(Mode::Ingress),
        Wish::Absent | Wish::Enabled | Wish::Unknown if ingress => Ok(Mode::Ingress),
        Wish::Absent | Wish::Enabled | Wish::Unknown => Ok(Mode::Ordinary),
    }
}

/// Pod and namespace together, as the table of the injector says.
fn wish_of_both(
    value: Option<&str>,
    facts: &NamespaceFacts,
    notes: &mut Vec<Note>,
) -> Result<Mode, Reason> {
    let namespace = facts.inject();
    let at_namespace = Wish::parse(namespace.map(|(value, _)| value));
    match (at_namespace, Wish::parse(value)) {
        (Wish::Unknown, _) => {
            let value = namespace.map_or("", |(value, _)| value);
            notes.push(unknown_value(value, "namespace", Demand::WhenAsked));
            Err(Reason::UnknownValueAtNamespace)
        }
        (_, Wish::Unknown) => Err(Reason::UnknownValueAtWorkload),
        (_, Wish::Enabled) => Ok(Mode::Ordinary),
        (_, Wish::Ingress) => Ok(Mode::Ingress),
        (Wish::Enabled | Wish::Ingress, Wish::Disabled) => Err(Reason::OptedOut),
        (Wish::Absent | Wish::Disabled, Wish::Disabled | Wish::Absent) => Err(Reason::NotAsked),
        (asked @ (Wish::Enabled | Wish::Ingress), Wish::Absent) => {
            if namespace.is_some_and(|(_, source)| source == InjectSource::Label) {
                notes.push(Note::new(
                    "namespace_label_used",
                    format!(
                        "namespace {} asks for injection by a label; Linkerd reads the annotation \
                         linkerd.io/inject only",
                        facts.name
                    ),
                ));
            }
            Ok(if asked == Wish::Ingress { Mode::Ingress } else { Mode::Ordinary })
        }
    }
}

fn unknown_value(value: &str, place: &str, demand: Demand) -> Note {
    let meant = match value.to_ascii_lowercase().as_str() {
        "enable" | "true" | "yes" | "on" | "1" | "enabled" => "; did you mean \"enabled\"?",
        "disable" | "false" | "no" | "off" | "0" | "disabled" => "; did you mean \"disabled\"?",
        _ => "",
    };
    let effect = match demand {
        Demand::Everything => "replaced by \"enabled\"",
        Demand::WhenAsked => "no sidecar is added",
    };
    let text = format!(
        "\"linkerd.io/inject: {value}\" at the {place} is neither enabled, disabled nor ingress, \
         {effect}{meant}"
    );
    Note::new("unknown_inject_value", text)
}

/// Names and image prefixes that tell a proxy of a mesh. Init containers count: a native
/// sidecar is one.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    const NAMES: &[&str] = &["linkerd-proxy", "istio-proxy"];
    const INIT_NAMES: &[&str] = &["linkerd-init", "istio-init"];
    const IMAGES: &[&str] = &["cr.l5d.io/linkerd/proxy:", "gcr.io/istio-release/proxyv2:"];
    const INIT_IMAGES: &[&str] =
        &["cr.l5d.io/linkerd/proxy-init:", "gcr.io/istio-release/proxy_init:"];
    let is = |container: &Value, names: &[&str], images: &[&str]| {
        let image = container["image"].as_str().unwrap_or_default();
        container["name"].as_str().is_some_and(|name| names.contains(&name))
            || images.iter().any(|prefix| image.starts_with(prefix))
    };
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers(pod).any(|container| is(container, NAMES, IMAGES))
        || init.into_iter().any(|container| is(container, INIT_NAMES, INIT_IMAGES))
}

fn has_token(pod: &Value) -> bool {
    let mounts = first_container(pod).and_then(|container| container["volumeMounts"].as_array());
    let mounted = mounts.into_iter().flatten().any(|mount| mount["mountPath"] == TOKEN_MOUNT);
    pod["spec"]["automountServiceAccountToken"] != false && mounted
}

/// What is worth telling about the pod itself.
pub(crate) fn notes(pod: &Value) -> Vec<Note> {
    let udp = containers(pod)
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .any(|port| port["protocol"] == "UDP");
    let mut notes = Vec::new();
    if udp {
        notes.push(Note::new("udp_ports_enabled", "uses \"protocol: UDP\""));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(inject: Option<&str>) -> Value {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}});
        if let Some(value) = inject {
            pod["metadata"]["annotations"] = json!({annotations::INJECT: value});
        }
        pod
    }

    fn facts(inject: Option<&str>) -> NamespaceFacts {
        let mut facts = NamespaceFacts::named("shop");
        if let Some(value) = inject {
            facts.annotations.insert(annotations::INJECT.to_owned(), value.to_owned());
        }
        facts
    }

    #[test]
    fn namespace_and_pod_decide_together() {
        use Mode::{Ingress, Ordinary};
        use Reason::{NotAsked, OptedOut, UnknownValueAtNamespace, UnknownValueAtWorkload};
        let (on, off, ingress, slip) =
            (Some("enabled"), Some("disabled"), Some("ingress"), Some("enable"));
        let cases = [
            (None, None, Err(NotAsked)),
            (None, on, Ok(Ordinary)),
            (None, ingress, Ok(Ingress)),
            (None, off, Err(NotAsked)),
            (None, slip, Err(UnknownValueAtWorkload)),
            (on, None, Ok(Ordinary)),
            (on, on, Ok(Ordinary)),
            (on, ingress, Ok(Ingress)),
            (on, off, Err(OptedOut)),
            (on, slip, Err(UnknownValueAtWorkload)),
            (ingress, None, Ok(Ingress)),
            (ingress, on, Ok(Ordinary)),
            (ingress, off, Err(OptedOut)),
            (off, None, Err(NotAsked)),
            (off, on, Ok(Ordinary)),
            (off, off, Err(NotAsked)),
            (slip, on, Err(UnknownValueAtNamespace)),
            (slip, None, Err(UnknownValueAtNamespace)),
        ];
        for (namespace, at_pod, expect) in cases {
            let config = InjectConfig::new("linkerd", "1");
            let mut notes = Vec::new();
            let got = decide(&pod(at_pod), &facts(namespace), &config, &mut notes);
            let expect = match expect {
                Ok(mode) => Decision::Inject(mode),
                Err(reason) => Decision::Skip(vec![reason]),
            };
            assert_eq!(got, expect, "namespace {namespace:?}, pod {at_pod:?}");
            let slipped = namespace == slip || at_pod == slip;
            assert_eq!(!notes.is_empty(), slipped, "{notes:?}");
        }
    }

    #[test]
    fn enable_is_told_with_what_was_meant() {
        let mut notes = Vec::new();
        let config = InjectConfig::new("linkerd", "1");
        decide(&pod(Some("enable")), &facts(None), &config, &mut notes);
        assert!(notes[0].text.ends_with("did you mean \"enabled\"?"), "{notes:?}");
    }

    #[test]
    fn a_label_counts_where_the_annotation_is_absent() {
        let mut facts = facts(None);
        facts.labels.insert(annotations::INJECT.to_owned(), "enabled".to_owned());
        let (config, mut notes) = (InjectConfig::new("linkerd", "1"), Vec::new());
        let got = decide(&pod(None), &facts, &config, &mut notes);
        assert_eq!(got, Decision::Inject(Mode::Ordinary));
        assert_eq!(notes[0].key, "namespace_label_used");
    }

    #[test]
    fn all_obstacles_are_told() {
        let mut pod = pod(Some("enabled"));
        pod["spec"]["hostNetwork"] = json!(true);
        pod["spec"]["initContainers"] = json!([{"name": "istio-init"}]);
        let (mut config, mut notes) = (InjectConfig::new("linkerd", "1"), Vec::new());
        config.token = Token::Default;
        let got = decide(&pod, &facts(None), &config, &mut notes);
        let expect = vec![Reason::HostNetwork, Reason::SidecarExists, Reason::NoToken];
        assert_eq!(got, Decision::Skip(expect));
    }

    #[test]
    fn foreign_proxies_are_known_by_their_image() {
        let mut pod = pod(None);
        assert!(!has_sidecar(&pod));
        pod["spec"]["containers"][0]["image"] = json!("gcr.io/istio-release/proxyv2:1.2");
        assert!(has_sidecar(&pod));
    }
}
