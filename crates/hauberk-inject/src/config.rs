//! What an installation, a namespace and a workload say about a sidecar, in layers.
//!
//! A setting is taken from the first layer that has a good value: workload, namespace (for
//! those a pod inherits), installation, built-in default. A bad value is noted and the next
//! layer counts, so a slip in an annotation costs its setting and not the pod.

use std::collections::BTreeMap;

use hauberk_resources::annotations;
use serde_json::Value;

use crate::{
    manifest::texts,
    report::{Chosen, Note},
};

/// Which objects are injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Every workload that does not refuse: a person named the file.
    Everything,
    /// Those that ask by annotation, or whose namespace does: admission and the local runtime.
    WhenAsked,
}

/// What is written into an object that joins the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The annotation that asks admission for a sidecar.
    Annotation,
    /// The sidecar itself: containers, volumes, labels.
    Sidecar,
}

/// Where the proxy gets its trust anchors from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustAnchors {
    /// Written into the pod, as PEM text.
    Inline(String),
    /// From a ConfigMap in the pod's own namespace, when the pod starts.
    ConfigMap {
        /// Its name.
        name: String,
        /// The key with the PEM text.
        key: String,
    },
}

/// Where a control-plane service is found and who it must prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneService {
    /// `host:port`.
    pub address: String,
    /// Identity.
    pub name: String,
}

/// Export of trace spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Where spans are sent.
    pub collector: ControlPlaneService,
    /// Service name of spans whose pod names none by label.
    pub service_name: String,
    /// Further attributes of all spans.
    pub attributes: BTreeMap<String, String>,
}

/// Which rules the init container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// What the init container finds best.
    Automatic,
    /// `iptables-nft`.
    IptablesNft,
    /// `iptables-legacy`.
    IptablesLegacy,
}

/// Who makes the rules that capture traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// An init container in each pod.
    InitContainer,
    /// A CNI plugin on the node.
    Cni,
}

/// Everything about an installation that the injector needs.
///
/// [`InjectConfig::new`] gives the defaults of Linkerd's chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConfig {
    /// Which objects are injected.
    pub demand: Demand,
    /// What is written into them.
    pub form: Form,
    /// Who injects, such as `hauberk/cli 0.1.0`.
    pub created_by: String,
    /// Version of the images.
    pub version: String,
    /// Prefix of image names.
    pub registry: String,
    /// Namespace of the control plane.
    pub control_plane_namespace: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Domain of identities.
    pub trust_domain: String,
    /// Networks of the cluster, CIDRs separated by commas.
    pub cluster_networks: String,
    /// What proxies trust.
    pub trust_anchors: TrustAnchors,
    /// Destination service.
    pub destination: ControlPlaneService,
    /// Policy service.
    pub policy: ControlPlaneService,
    /// Identity service.
    pub identity: ControlPlaneService,
    /// Listen on and capture IPv6 too.
    pub ipv6: Ipv6,
    /// Who makes the rules.
    pub capture: Capture,
    /// Which rules.
    pub firewall: Firewall,
    /// Whether the proxy's token is projected; without it the pod's own is needed.
    pub token: Token,
    /// Export of spans, if wanted.
    pub tracing: Option<Tracing>,
    /// Settings of the installation, by annotation.
    pub defaults: BTreeMap<String, String>,
    /// Annotations a person asked for; written into each workload ([`Demand::Everything`]).
    pub overrides: BTreeMap<String, String>,
    /// The value of `linkerd.io/inject` that is written: `enabled` or `ingress`.
    pub inject_value: &'static str,
}

/// Whether IPv6 is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// Beside IPv4.
    On,
    /// Not at all.
    Off,
}

/// Which token proves the workload's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// One of its own, with the audience of the identity service.
    Projected,
    /// The one every pod has unless it refuses.
    Default,
}

impl InjectConfig {
    /// The defaults for a control plane in `namespace` whose images have this version.
    #[must_use]
    pub fn new(namespace: &str, version: &str) -> Self {
        let (cluster_domain, trust_domain) = ("cluster.local", "cluster.local");
        let service = |host: &str, port: u16, account: &str| ControlPlaneService {
            address: format!("{host}.{namespace}.svc.{cluster_domain}.:{port}"),
            name: format!(
                "{account}.{namespace}.serviceaccount.identity.{namespace}.{trust_domain}"
            ),
        };
        Self {
            demand: Demand::WhenAsked,
            form: Form::Sidecar,
            created_by: format!("hauberk/proxy-injector {version}"),
            version: version.to_owned(),
            registry: "hauberk".to_owned(),
            control_plane_namespace: namespace.to_owned(),
            cluster_domain: cluster_domain.to_owned(),
            trust_domain: trust_domain.to_owned(),
            cluster_networks: "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"
                .to_owned(),
            trust_anchors: TrustAnchors::ConfigMap {
                name: "linkerd-identity-trust-roots".to_owned(),
                key: "ca-bundle.crt".to_owned(),
            },
            destination: service("linkerd-dst-headless", 8086, "linkerd-destination"),
            policy: service("linkerd-policy", 8090, "linkerd-destination"),
            identity: service("linkerd-identity-headless", 8080, "linkerd-identity"),
            ipv6: Ipv6::Off,
            capture: Capture::InitContainer,
            firewall: Firewall::Automatic,
            token: Token::Projected,
            tracing: None,
            defaults: BTreeMap::new(),
            overrides: BTreeMap::new(),
            inject_value: annotations::INJECT_ENABLED,
        }
    }
}

/// What is known about the namespace of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name, empty if unknown.
    pub name: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl NamespaceFacts {
    /// A namespace of which only the name is known.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The facts in a `Namespace` object.
    #[must_use]
    pub fn of(namespace: &Value) -> Self {
        let map = |key: &str| {
            let entries = texts(&namespace["metadata"][key]);
            entries.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        Self {
            name: namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            annotations: map("annotations"),
            labels: map("labels"),
        }
    }

    /// What the namespace says about injection: its annotation, else its label.
    pub(crate) fn inject(&self) -> Option<(&str, InjectSource)> {
        let annotation = self.annotations.get(annotations::INJECT).filter(|v| !v.is_empty());
        let label = self.labels.get(annotations::INJECT).filter(|v| !v.is_empty());
        match (annotation, label) {
            (Some(value), _) => Some((value, InjectSource::Annotation)),
            (None, Some(value)) => Some((value, InjectSource::Label)),
            (None, None) => None,
        }
    }
}

/// Where a namespace says whether its pods are injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InjectSource {
    Annotation,
    Label,
}

/// Who chose a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The pod or pod template.
    Workload,
    /// The namespace.
    Namespace,
    /// The installation.
    Installation,
}

impl Layer {
    /// The word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Namespace => "namespace",
            Self::Installation => "installation",
        }
    }
}

/// Looks settings up through the layers and remembers what it found.
pub(crate) struct Layers<'a> {
    workload: BTreeMap<&'a str, &'a str>,
    namespace: &'a BTreeMap<String, String>,
    installation: &'a BTreeMap<String, String>,
    /// Settings found in some layer.
    pub(crate) chosen: Vec<Chosen>,
    /// Bad values.
    pub(crate) notes: Vec<Note>,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(
        pod: &'a Value,
        namespace: &'a NamespaceFacts,
        config: &'a InjectConfig,
    ) -> Self {
        Self {
            workload: texts(&pod["metadata"]["annotations"]).collect(),
            namespace: &namespace.annotations,
            installation: &config.defaults,
            chosen: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The values of a setting, nearest layer first. Empty values count as absent.
    pub(crate) fn values(&self, key: &str) -> Vec<(Layer, &'a str)> {
        let inherited = annotations::proxy_config(key).is_some_and(|config| config.inherited);
        let namespace = self.namespace.get(key).filter(|_| inherited).map(String::as_str);
        let installation = self.installation.get(key).map(String::as_str);
        [
            (Layer::Workload, self.workload.get(key).copied()),
            (Layer::Namespace, namespace),
            (Layer::Installation, installation),
        ]
        .into_iter()
        .filter_map(|(layer, value)| Some((layer, value.filter(|value| !value.is_empty())?)))
        .collect()
    }

    /// The first good value of a setting; bad ones before it are noted.
    pub(crate) fn find<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let values = self.values(key);
        values.into_iter().find_map(|(layer, text)| self.parsed(key, layer, text, &parse))
    }

    /// All good values of a setting, nearest layer first; bad ones are noted.
    pub(crate) fn find_all<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let values = self.values(key);
        values
            .into_iter()
            .filter_map(|(layer, text)| self.parsed(key, layer, text, &parse))
            .collect()
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        layer: Layer,
        text: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => {
                self.chosen.push(Chosen { key, value: text.to_owned(), layer });
                Some(value)
            }
            Err(expected) => {
                let layer = layer.word();
                let text = format!("{key}: {expected}, got \"{text}\" ({layer}); ignored");
                self.notes.push(Note::new("invalid_annotation_value", text));
                None
            }
        }
    }

    /// Notes annotations of the workload that look like settings and are none, such as a
    /// misspelt one.
    pub(crate) fn note_unknown(&mut self) {
        let prefixes = [
            annotations::CONFIG_PREFIX,
            annotations::CONFIG_ALPHA_PREFIX,
            annotations::CONFIG_BETA_PREFIX,
        ];
        for key in self.workload.keys() {
            let looks_like_one = prefixes.iter().any(|prefix| key.starts_with(prefix));
            if looks_like_one && annotations::proxy_config(key).is_none() {
                let text = format!("{key} is no setting of a sidecar; ignored");
                self.notes.push(Note::new("unknown_annotation", text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_nearest_good_value_counts() {
        let pod = json!({"metadata": {"annotations": {
            annotations::PROXY_UID: "x", annotations::ENABLE_GATEWAY: ""}}});
        let mut namespace = NamespaceFacts::named("shop");
        let mut config = InjectConfig::new("linkerd", "1");
        namespace.annotations.insert(annotations::PROXY_UID.to_owned(), "7".to_owned());
        namespace.annotations.insert(annotations::ENABLE_GATEWAY.to_owned(), "1".to_owned());
        config.defaults.insert(annotations::PROXY_UID.to_owned(), "8".to_owned());
        let mut layers = Layers::new(&pod, &namespace, &config);
        let number = |text: &str| text.parse::<u32>().map_err(|_| "expected a number".to_owned());
        assert_eq!(layers.find(annotations::PROXY_UID, number), Some(7));
        assert_eq!(layers.chosen[0].layer, Layer::Namespace);
        assert_eq!(
            layers.notes[0].text,
            "config.linkerd.io/proxy-uid: expected a number, got \"x\" (workload); ignored"
        );
        assert_eq!(layers.find(annotations::ENABLE_GATEWAY, number), None, "not inherited");
    }

    #[test]
    fn the_annotation_of_a_namespace_beats_its_label() {
        let mut facts = NamespaceFacts::named("shop");
        assert_eq!(facts.inject(), None);
        facts.labels.insert(annotations::INJECT.to_owned(), "enabled".to_owned());
        assert_eq!(facts.inject(), Some(("enabled", InjectSource::Label)));
        facts.annotations.insert(annotations::INJECT.to_owned(), "disabled".to_owned());
        assert_eq!(facts.inject(), Some(("disabled", InjectSource::Annotation)));
    }
}
