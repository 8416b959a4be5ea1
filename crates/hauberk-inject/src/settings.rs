//! The settings of one sidecar: layers in, typed values out.

use std::{collections::BTreeSet, time::Duration};

use hauberk_model::{Port, PortSet};
use hauberk_resources::{PortList, annotations as key};
use serde_json::Value;

use crate::{
    config::{InjectConfig, Layer, Layers},
    manifest::containers,
    report::Note,
    value::{self, Quantity},
};

/// Ports servers of which speak first; carried without protocol detection by default.
pub(crate) const OPAQUE_PORTS: &str = "25,587,3306,4444,5432,6379,9300,11211";

/// Ports of the multicluster gateway's probes and of `kubectl`'s debugging in old versions;
/// Linkerd leaves them alone in both directions.
const SKIP_PORTS: &str = "4567,4568";

/// An image and when it is pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// `name:tag`.
    pub(crate) reference: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub(crate) pull_policy: String,
}

/// Whose proxy an image carries; it decides the programs the containers start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Ours.
    Hauberk,
    /// Linkerd's, whose one image holds proxy, init and await at fixed paths.
    Linkerd,
}

/// Resources of a container, as far as they are set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resources {
    pub(crate) cpu_request: Option<Quantity>,
    pub(crate) cpu_limit: Option<Quantity>,
    pub(crate) memory_request: Option<Quantity>,
    pub(crate) memory_limit: Option<Quantity>,
    pub(crate) storage_request: Option<Quantity>,
    pub(crate) storage_limit: Option<Quantity>,
}

/// How long something may take in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directions<T> {
    pub(crate) inbound: T,
    pub(crate) outbound: T,
}

/// How the proxy's container is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// An init container that keeps running.
    Native,
    /// A container beside the application.
    Classic,
}

/// The resolved settings of one sidecar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) flavour: Flavour,
    pub(crate) proxy_image: Image,
    pub(crate) proxy_version: String,
    pub(crate) init_image: Image,
    pub(crate) debug_image: Option<Image>,
    pub(crate) control_port: Port,
    pub(crate) admin_port: Port,
    pub(crate) listen: Directions<Port>,
    pub(crate) pod_inbound_ports: Option<PortSet>,
    pub(crate) skip_ports: Directions<String>,
    pub(crate) skip_subnets: Option<String>,
    pub(crate) opaque_ports: PortSet,
    pub(crate) require_identity_ports: Option<PortSet>,
    pub(crate) default_policy: String,
    pub(crate) resources: Resources,
    pub(crate) cpu_ratio: Option<f64>,
    pub(crate) uid: i64,
    pub(crate) gid: Option<i64>,
    pub(crate) log_level: String,
    pub(crate) log_format: String,
    pub(crate) log_headers: bool,
    pub(crate) admin_shutdown: bool,
    pub(crate) external_profiles: bool,
    pub(crate) hostname_labels: bool,
    pub(crate) connect_timeout: Directions<Duration>,
    pub(crate) discovery_idle: Directions<Duration>,
    pub(crate) endless_detection: Directions<bool>,
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) gateway: bool,
    pub(crate) access_log: Option<String>,
    pub(crate) awaits: bool,
    pub(crate) close_wait: Option<u64>,
    pub(crate) wait_before_exit_seconds: u64,
    pub(crate) placement: Placement,
    pub(crate) additional_env: Vec<Value>,
}

impl Settings {
    /// Resolves the settings of a pod; never fails, bad values are noted in the layers.
    pub(crate) fn resolve(pod: &Value, layers: &mut Layers<'_>, config: &InjectConfig) -> Self {
        let mut flag = |key, default| layers.find(key, value::boolean).unwrap_or(default);
        let external_profiles = flag(key::ENABLE_EXTERNAL_PROFILES, false);
        let hostname_labels = flag(key::PROXY_METRICS_HOSTNAME_LABELS, false);
        let gateway = flag(key::ENABLE_GATEWAY, false);
        let debug = flag(key::ENABLE_DEBUG_SIDECAR, false);
        let endless_detection = Directions {
            inbound: flag(key::PROXY_DISABLE_INBOUND_PROTOCOL_DETECT_TIMEOUT, false),
            outbound: flag(key::PROXY_DISABLE_OUTBOUND_PROTOCOL_DETECT_TIMEOUT, false),
        };
        let images = Images::resolve(layers, config);
        let resources = Resources::resolve(layers);
        Self {
            flavour: images.flavour,
            proxy_image: images.proxy,
            proxy_version: images.version,
            init_image: images.init,
            debug_image: debug.then_some(images.debug),
            control_port: port(layers, key::CONTROL_PORT, 4190),
            admin_port: port(layers, key::ADMIN_PORT, 4191),
            listen: Directions {
                inbound: port(layers, key::INBOUND_PORT, 4143),
                outbound: port(layers, key::OUTBOUND_PORT, 4140),
            },
            pod_inbound_ports: layers.find(key::POD_INBOUND_PORTS, value::ports),
            skip_ports: Directions {
                inbound: skip_ports(layers, key::SKIP_INBOUND_PORTS),
                outbound: skip_ports(layers, key::SKIP_OUTBOUND_PORTS),
            },
            skip_subnets: layers.find(key::SKIP_SUBNETS, value::networks),
            opaque_ports: opaque_ports(pod, layers),
            require_identity_ports: layers.find(key::REQUIRE_IDENTITY_INBOUND_PORTS, value::ports),
            default_policy: layers
                .find(key::DEFAULT_INBOUND_POLICY, value::one_of(key::DEFAULT_INBOUND_POLICIES))
                .unwrap_or_else(|| "all-unauthenticated".to_owned()),
            resources,
            cpu_ratio: layers.find(key::PROXY_CPU_RATIO_LIMIT, value::ratio),
            uid: layers.find(key::PROXY_UID, user).unwrap_or(2102),
            gid: layers.find(key::PROXY_GID, value::id).filter(|gid| *gid >= 0),
            log_level: layers
                .find(key::PROXY_LOG_LEVEL, value::text)
                .unwrap_or_else(|| "warn,linkerd=info,hickory=error".to_owned()),
            log_format: layers
                .find(key::PROXY_LOG_FORMAT, value::one_of(&["plain", "json"]))
                .unwrap_or_else(|| "plain".to_owned()),
            log_headers: layers
                .find(key::PROXY_LOG_HTTP_HEADERS, value::one_of(&["off", "insecure"]))
                .is_some_and(|word| word == "insecure"),
            admin_shutdown: layers.find(key::PROXY_ADMIN_SHUTDOWN, value::enabled).unwrap_or(false),
            external_profiles,
            hostname_labels,
            connect_timeout: Directions {
                inbound: time(layers, key::PROXY_INBOUND_CONNECT_TIMEOUT, 100),
                outbound: time(layers, key::PROXY_OUTBOUND_CONNECT_TIMEOUT, 1_000),
            },
            discovery_idle: Directions {
                inbound: time(layers, key::PROXY_INBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT, 90_000),
                outbound: time(layers, key::PROXY_OUTBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT, 5_000),
            },
            endless_detection,
            shutdown_grace: layers.find(key::SHUTDOWN_GRACE_PERIOD, value::duration),
            gateway,
            access_log: layers.find(key::ACCESS_LOG, value::one_of(&["apache", "json"])),
            awaits: layers.find(key::PROXY_AWAIT, value::enabled).unwrap_or(true),
            close_wait: layers
                .find(key::CLOSE_WAIT_TIMEOUT, value::duration)
                .map(|timeout| timeout.as_secs())
                .filter(|seconds| *seconds > 0),
            wait_before_exit_seconds: layers
                .find(key::PROXY_WAIT_BEFORE_EXIT_SECONDS, value::seconds)
                .unwrap_or(0),
            placement: placement(layers),
            additional_env: additional_env(layers),
        }
    }
}

fn port(layers: &mut Layers<'_>, key: &'static str, default: u16) -> Port {
    let default = Port::new(default).expect("the default ports are not zero");
    layers.find(key, value::port).unwrap_or(default)
}

fn time(layers: &mut Layers<'_>, key: &'static str, default_millis: u64) -> Duration {
    layers.find(key, value::duration).unwrap_or(Duration::from_millis(default_millis))
}

/// The good entries of a list of ports, as they were written: the init container splits long
/// lists itself, and people look for the ports they typed.
fn skip_ports(layers: &mut Layers<'_>, key: &'static str) -> String {
    let Some(list) = layers.find(key, value::text) else { return SKIP_PORTS.to_owned() };
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let (good, bad): (Vec<_>, Vec<_>) = entries.partition(|entry| value::ports(entry).is_ok());
    for entry in bad {
        let text = format!("{key}: \"{entry}\" is not a valid port nor port-range; ignored");
        layers.notes.push(Note::new("invalid_annotation_value", text));
    }
    good.join(",")
}

/// A user must not be root, whose traffic the rules could not tell from the kernel's own.
fn user(text: &str) -> Result<i64, String> {
    value::id(text).and_then(|uid| {
        if uid > 0 { Ok(uid) } else { Err("expected a user other than root".to_owned()) }
    })
}

fn opaque_ports(pod: &Value, layers: &mut Layers<'_>) -> PortSet {
    let numbers_of = |name: &str| named_ports(pod, name);
    let parse = |text: &str| -> Result<PortList, String> { Ok(PortList::parse(text, numbers_of)) };
    let Some(list) = layers.find(key::OPAQUE_PORTS, parse) else {
        return value::ports(OPAQUE_PORTS).expect("the default ports are valid");
    };
    for bad in &list.bad {
        let text = format!("{}: {bad}; ignored", key::OPAQUE_PORTS);
        layers.notes.push(Note::new("invalid_annotation_value", text));
    }
    list.ports
}

fn named_ports(pod: &Value, name: &str) -> Vec<u16> {
    containers(pod)
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter(|port| port["name"] == name)
        .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
        .collect()
}

fn placement(layers: &mut Layers<'_>) -> Placement {
    let keys = [
        key::PROXY_ENABLE_NATIVE_SIDECAR,
        key::PROXY_ENABLE_NATIVE_SIDECAR_BETA,
        key::PROXY_ENABLE_NATIVE_SIDECAR_ALPHA,
    ];
    let native = keys.into_iter().find_map(|key| layers.find(key, value::boolean));
    if native.unwrap_or(true) { Placement::Native } else { Placement::Classic }
}

/// Variables of all layers, the nearest one winning for each name.
fn additional_env(layers: &mut Layers<'_>) -> Vec<Value> {
    let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
    let mut seen = BTreeSet::new();
    let lists = layers.find_all(key::PROXY_ADDITIONAL_ENV, value::env_vars);
    lists.into_iter().flatten().filter(|item| seen.insert(name(item))).collect()
}

struct Images {
    flavour: Flavour,
    version: String,
    proxy: Image,
    init: Image,
    debug: Image,
}

impl Images {
    fn resolve(layers: &mut Layers<'_>, config: &InjectConfig) -> Self {
        const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
        let named = |layers: &mut Layers<'_>, key, name: &str| {
            let default = format!("{}/{name}", config.registry);
            layers.find(key, value::text).unwrap_or(default)
        };
        let proxy_name = named(layers, key::PROXY_IMAGE, "proxy");
        let flavour = flavour(&proxy_name);
        let version = layers.find(key::PROXY_IMAGE_VERSION, version);
        let version = version.unwrap_or_else(|| config.version.clone());
        let pull_policy = layers.find(key::IMAGE_PULL_POLICY, value::one_of(PULL_POLICIES));
        let pull_policy = pull_policy.unwrap_or_else(|| "IfNotPresent".to_owned());
        let (init_name, init_version) = match flavour {
            Flavour::Linkerd => (proxy_name.clone(), version.clone()),
            Flavour::Hauberk => (
                named(layers, key::INIT_IMAGE, "init"),
                layers
                    .find(key::INIT_IMAGE_VERSION, self::version)
                    .unwrap_or_else(|| config.version.clone()),
            ),
        };
        let debug_name = named(layers, key::DEBUG_IMAGE, "debug");
        let debug_version = layers.find(key::DEBUG_IMAGE_VERSION, self::version);
        let debug_version = debug_version.unwrap_or_else(|| config.version.clone());
        let debug_pull = layers.find(key::DEBUG_IMAGE_PULL_POLICY, value::one_of(PULL_POLICIES));
        let image = |name: &str, version: &str, pull_policy: &str| Image {
            reference: format!("{name}:{version}"),
            pull_policy: pull_policy.to_owned(),
        };
        Self {
            flavour,
            proxy: image(&proxy_name, &version, &pull_policy),
            init: image(&init_name, &init_version, &pull_policy),
            debug: image(
                &debug_name,
                &debug_version,
                debug_pull.as_deref().unwrap_or(&pull_policy),
            ),
            version,
        }
    }
}

/// A tag of an image, as the OCI distribution specification allows it.
fn version(text: &str) -> Result<String, String> {
    let fine = text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !text.starts_with(['.', '-']);
    if fine { Ok(text.to_owned()) } else { Err("expected a version such as 1.2.3".to_owned()) }
}

/// Linkerd's images are recognised by the end of their name, mirrors included.
fn flavour(image: &str) -> Flavour {
    if image == "linkerd/proxy" || image.ends_with("/linkerd/proxy") {
        Flavour::Linkerd
    } else {
        Flavour::Hauberk
    }
}

impl Resources {
    fn resolve(layers: &mut Layers<'_>) -> Self {
        let mut quantity = |key| layers.find(key, value::quantity);
        let resources = Self {
            cpu_request: quantity(key::PROXY_CPU_REQUEST),
            cpu_limit: quantity(key::PROXY_CPU_LIMIT),
            memory_request: quantity(key::PROXY_MEMORY_REQUEST),
            memory_limit: quantity(key::PROXY_MEMORY_LIMIT),
            storage_request: quantity(key::PROXY_EPHEMERAL_STORAGE_REQUEST),
            storage_limit: quantity(key::PROXY_EPHEMERAL_STORAGE_LIMIT),
        };
        for (what, request, limit) in [
            ("cpu", &resources.cpu_request, &resources.cpu_limit),
            ("memory", &resources.memory_request, &resources.memory_limit),
            ("ephemeral-storage", &resources.storage_request, &resources.storage_limit),
        ] {
            if let (Some(request), Some(limit)) = (request, limit)
                && limit.amount < request.amount
            {
                let text = format!(
                    "the proxy's {what} limit {} is below its request {}; Kubernetes will refuse \
                     the pod",
                    limit.text, request.text
                );
                layers.notes.push(Note::new("limit_below_request", text));
            }
        }
        resources
    }

    /// As a container writes it; `None` if nothing is set.
    pub(crate) fn to_json(&self) -> Option<Value> {
        let part = |entries: [(&str, &Option<Quantity>); 3]| {
            let set = entries.into_iter().filter_map(|(name, quantity)| {
                Some((name.to_owned(), Value::from(quantity.as_ref()?.text.clone())))
            });
            Value::Object(set.collect())
        };
        let limits = part([
            ("cpu", &self.cpu_limit),
            ("ephemeral-storage", &self.storage_limit),
            ("memory", &self.memory_limit),
        ]);
        let requests = part([
            ("cpu", &self.cpu_request),
            ("ephemeral-storage", &self.storage_request),
            ("memory", &self.memory_request),
        ]);
        let both = [("limits", limits), ("requests", requests)];
        let set: serde_json::Map<_, _> = both
            .into_iter()
            .filter(|(_, part)| part.as_object().is_some_and(|part| !part.is_empty()))
            .map(|(name, part)| (name.to_owned(), part))
            .collect();
        (!set.is_empty()).then_some(Value::Object(set))
    }
}

/// The annotations a pod takes over from its namespace: all inherited settings it lacks.
pub(crate) fn inherited<'a>(layers: &Layers<'a>) -> Vec<(&'static str, &'a str)> {
    key::PROXY_CONFIG
        .iter()
        .filter(|config| config.inherited)
        .filter_map(|config| match layers.values(config.key).first() {
            Some((Layer::Namespace, value)) => Some((config.key, *value)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamespaceFacts;
    use serde_json::json;

    fn resolve(annotations: Value) -> (Settings, Vec<String>) {
        let pod = json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [{"ports": [{"name": "my-db", "containerPort": 3307}]}]},
        });
        let (facts, config) = (NamespaceFacts::default(), InjectConfig::new("linkerd", "1.0"));
        let mut layers = Layers::new(&pod, &facts, &config);
        let settings = Settings::resolve(&pod, &mut layers, &config);
        (settings, layers.notes.into_iter().map(|note| note.text).collect())
    }

    #[test]
    fn defaults_are_those_of_linkerd() {
        let (settings, notes) = resolve(json!({}));
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!(settings.proxy_image.reference, "hauberk/proxy:1.0");
        assert_eq!(settings.init_image.reference, "hauberk/init:1.0");
        assert_eq!((settings.uid, settings.gid), (2102, None));
        assert_eq!(settings.listen.inbound.get(), 4143);
        assert_eq!(settings.opaque_ports.to_string(), OPAQUE_PORTS);
        assert_eq!(settings.skip_ports.inbound, "4567,4568");
        assert_eq!(settings.placement, Placement::Native);
        assert!(settings.awaits && settings.debug_image.is_none());
    }

    #[test]
    fn names_of_ports_are_looked_up() {
        let (settings, notes) = resolve(json!({key::OPAQUE_PORTS: "my-db,9000-9002,nowhere"}));
        assert_eq!(settings.opaque_ports.to_string(), "3307,9000-9002");
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("nowhere"), "{notes:?}");
    }

    #[test]
    fn an_image_of_linkerd_brings_its_own_programs() {
        let (settings, _) = resolve(json!({
            key::PROXY_IMAGE: "mirror.example/linkerd/proxy", key::PROXY_IMAGE_VERSION: "edge-1"}));
        assert_eq!(settings.flavour, Flavour::Linkerd);
        assert_eq!(settings.init_image.reference, "mirror.example/linkerd/proxy:edge-1");
    }

    #[test]
    fn the_promoted_name_of_an_annotation_wins() {
        let (settings, _) = resolve(json!({
            key::PROXY_ENABLE_NATIVE_SIDECAR_ALPHA: "true",
            key::PROXY_ENABLE_NATIVE_SIDECAR: "false"}));
        assert_eq!(settings.placement, Placement::Classic);
    }

    #[test]
    fn a_limit_below_the_request_is_told() {
        let (settings, notes) = resolve(json!({
            key::PROXY_MEMORY_REQUEST: "64Mi", key::PROXY_MEMORY_LIMIT: "32Mi"}));
        assert!(notes[0].contains("below its request 64Mi"), "{notes:?}");
        assert_eq!(
            settings.resources.to_json(),
            Some(json!({"limits": {"memory": "32Mi"}, "requests": {"memory": "64Mi"}}))
        );
    }

    #[test]
    fn root_cannot_be_the_proxy() {
        let (settings, notes) = resolve(json!({key::PROXY_UID: "0"}));
        assert_eq!((settings.uid, notes.len()), (2102, 1));
    }
}
