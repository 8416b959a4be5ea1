//! The environment of the proxy: names from the table of settings, values from the resolved
//! settings, the pod, and the installation.
//!
//! The order matters where a value refers to another variable as `$(NAME)`: Kubernetes expands
//! references to variables defined before.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_model::{
    Port,
    settings::{self as name, value::format_duration},
};
use hauberk_resources::annotations;
use serde_json::{Value, json};

use crate::{
    config::{InjectConfig, Ipv6, Tracing, TrustAnchors},
    decide::Mode,
    manifest::containers,
    settings::{Directions, Settings},
    value,
    volumes::{END_ENTITY_DIR, PODINFO_DIR, TOKEN_FILE},
};

/// Long enough to mean "without limit": the form the proxy knows.
const ENDLESS: &str = "365d";

struct Environment(Vec<Value>);

impl Environment {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(json!({"name": name, "value": value.into()}));
    }

    fn set_if(&mut self, name: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    fn field(&mut self, name: &str, path: &str) {
        self.0.push(json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}

/// The environment of the proxy's container.
pub(crate) fn environment(
    pod: &Value,
    settings: &Settings,
    mode: Mode,
    config: &InjectConfig,
) -> Vec<Value> {
    let mut env = Environment(Vec::new());
    pod_fields(&mut env);
    threads(&mut env, settings);
    administration(&mut env, settings);
    discovery(&mut env, pod, settings, mode, config);
    connections(&mut env, settings, config);
    identity(&mut env, config);
    if let Some(tracing) = &config.tracing {
        traces(&mut env, pod, tracing);
    }
    for added in &settings.additional_env {
        // In its place, because variables after it may refer to it.
        match env.0.iter_mut().find(|item| item["name"] == added["name"]) {
            Some(item) => *item = added.clone(),
            None => env.0.push(added.clone()),
        }
    }
    env.0
}

fn pod_fields(env: &mut Environment) {
    env.field("_pod_name", "metadata.name");
    env.field("_pod_ns", "metadata.namespace");
    env.field("_pod_uid", "metadata.uid");
    env.field("_pod_ip", "status.podIP");
    env.field("_pod_nodeName", "spec.nodeName");
    env.set("_pod_containerName", "linkerd-proxy");
}

fn threads(env: &mut Environment, settings: &Settings) {
    let min = settings.resources.cpu_request.as_ref().map_or(1, value::cores).to_string();
    env.set(name::CORES, min.clone());
    env.set(name::CORES_MIN, min);
    let max = settings.resources.cpu_limit.as_ref().map(value::cores);
    env.set_if(name::CORES_MAX, max.map(|cores| cores.to_string()));
    env.set_if(name::CORES_MAX_RATIO, settings.cpu_ratio.map(|ratio| ratio.to_string()));
}

fn administration(env: &mut Environment, settings: &Settings) {
    env.set(name::SHUTDOWN_ENDPOINT_ENABLED, settings.admin_shutdown.to_string());
    // Spans that carry whole requests stay out of the log unless somebody insists.
    let headers = if settings.log_headers { "" } else { ",[{headers}]=off,[{request}]=off" };
    env.set(name::LOG, format!("{}{headers}", settings.log_level));
    env.set(name::LOG_FORMAT, settings.log_format.clone());
    env.set_if(name::ACCESS_LOG, settings.access_log.clone());
    env.set_if(name::SHUTDOWN_GRACE_PERIOD, settings.shutdown_grace.map(millis));
}

fn discovery(
    env: &mut Environment,
    pod: &Value,
    settings: &Settings,
    mode: Mode,
    config: &InjectConfig,
) {
    let suffix = format!("svc.{}.", config.cluster_domain);
    env.set(name::DESTINATION_SVC_ADDR, config.destination.address.clone());
    env.set(name::DESTINATION_SVC_NAME, config.destination.name.clone());
    env.set(
        name::DESTINATION_CONTEXT,
        "{\"ns\":\"$(_pod_ns)\", \"nodeName\":\"$(_pod_nodeName)\", \"pod\":\"$(_pod_name)\"}\n",
    );
    env.set(
        name::DESTINATION_PROFILE_SUFFIXES,
        if settings.external_profiles { "." } else { &suffix },
    );
    env.set(name::DESTINATION_PROFILE_NETWORKS, config.cluster_networks.clone());
    env.set(name::POLICY_SVC_ADDR, config.policy.address.clone());
    env.set(name::POLICY_SVC_NAME, config.policy.name.clone());
    env.set(name::POLICY_WORKLOAD, "{\"ns\":\"$(_pod_ns)\", \"pod\":\"$(_pod_name)\"}\n");
    env.set(name::POLICY_CLUSTER_NETWORKS, config.cluster_networks.clone());
    env.set(name::INBOUND_DEFAULT_POLICY, settings.default_policy.clone());
    env.field(name::INBOUND_IPS, "status.podIPs");
    env.set(name::INBOUND_PORTS, inbound_ports(pod, settings));
    let opaque = settings.opaque_ports.to_string();
    env.set(name::INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION, opaque);
    let require = settings.require_identity_ports.as_ref().map(ToString::to_string);
    env.set_if(name::INBOUND_PORTS_REQUIRE_IDENTITY, require);
    env.set_if(name::INBOUND_GATEWAY_SUFFIXES, settings.gateway.then_some(suffix));
    env.set_if(name::INGRESS_MODE, (mode == Mode::Ingress).then_some("true"));
    env.set(name::OUTBOUND_METRICS_HOSTNAME_LABELS, settings.hostname_labels.to_string());
    env.set(name::CONTROL_STREAM_INITIAL_TIMEOUT, "3s");
    env.set(name::CONTROL_STREAM_IDLE_TIMEOUT, "5m");
    env.set(name::CONTROL_STREAM_LIFETIME, "1h");
}

/// The ports the pod declares and those its probes ask, but none of the proxy itself.
fn inbound_ports(pod: &Value, settings: &Settings) -> String {
    if let Some(ports) = &settings.pod_inbound_ports {
        return ports.to_string();
    }
    let own = [settings.control_port, settings.admin_port]
        .into_iter()
        .chain([settings.listen.inbound, settings.listen.outbound]);
    let own: BTreeSet<Port> = own.collect();
    let mut ports = BTreeSet::new();
    for container in containers(pod) {
        let declared = container["ports"].as_array().into_iter().flatten();
        ports.extend(declared.filter_map(|port| port["containerPort"].as_u64()));
        for probe in ["livenessProbe", "readinessProbe"] {
            ports.extend(container[probe]["httpGet"]["port"].as_u64());
        }
    }
    let ports = ports.into_iter().filter_map(|port| Port::new(u16::try_from(port).ok()?));
    let ports: Vec<_> =
        ports.filter(|port| !own.contains(port)).map(|port| port.to_string()).collect();
    ports.join(",")
}

fn connections(env: &mut Environment, settings: &Settings, config: &InjectConfig) {
    let any = match config.ipv6 {
        Ipv6::On => "[::]",
        Ipv6::Off => "0.0.0.0",
    };
    let Directions { inbound, outbound } = settings.listen;
    let local = format!("127.0.0.1:{outbound}");
    env.set(name::CONTROL_LISTEN_ADDR, format!("{any}:{}", settings.control_port));
    env.set(name::ADMIN_LISTEN_ADDR, format!("{any}:{}", settings.admin_port));
    env.set(name::OUTBOUND_LISTEN_ADDR, local.clone());
    env.set(
        name::OUTBOUND_LISTEN_ADDRS,
        match config.ipv6 {
            Ipv6::On => format!("{local},[::1]:{outbound}"),
            Ipv6::Off => local,
        },
    );
    env.set(name::INBOUND_LISTEN_ADDR, format!("{any}:{inbound}"));
    env.set(name::INBOUND_CONNECT_TIMEOUT, millis(settings.connect_timeout.inbound));
    env.set(name::OUTBOUND_CONNECT_TIMEOUT, millis(settings.connect_timeout.outbound));
    env.set(
        name::OUTBOUND_DISCOVERY_IDLE_TIMEOUT,
        format_duration(settings.discovery_idle.outbound),
    );
    env.set(name::INBOUND_DISCOVERY_IDLE_TIMEOUT, format_duration(settings.discovery_idle.inbound));
    let endless = settings.endless_detection;
    env.set_if(name::OUTBOUND_DETECT_TIMEOUT, endless.outbound.then_some(ENDLESS));
    env.set_if(name::INBOUND_DETECT_TIMEOUT, endless.inbound.then_some(ENDLESS));
    env.set(name::INBOUND_ACCEPT_KEEPALIVE, "10000ms");
    env.set(name::OUTBOUND_CONNECT_KEEPALIVE, "10000ms");
    env.set(name::INBOUND_ACCEPT_USER_TIMEOUT, "30s");
    env.set(name::OUTBOUND_CONNECT_USER_TIMEOUT, "30s");
    env.set(name::INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL, "10s");
    env.set(name::INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT, "3s");
    env.set(name::OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL, "10s");
    env.set(name::OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT, "3s");
}

fn identity(env: &mut Environment, config: &InjectConfig) {
    env.field("_pod_sa", "spec.serviceAccountName");
    env.set("_l5d_ns", config.control_plane_namespace.clone());
    env.set("_l5d_trustdomain", config.trust_domain.clone());
    env.set(name::IDENTITY_DIR, END_ENTITY_DIR);
    match &config.trust_anchors {
        TrustAnchors::Inline(pem) => env.set(name::IDENTITY_TRUST_ANCHORS, pem.clone()),
        TrustAnchors::ConfigMap { name, key } => env.0.push(json!({
            "name": name::IDENTITY_TRUST_ANCHORS,
            "valueFrom": {"configMapKeyRef": {"name": name, "key": key}},
        })),
    }
    env.set(name::IDENTITY_TOKEN_FILE, token_file(config));
    env.set(name::IDENTITY_SVC_ADDR, config.identity.address.clone());
    env.set(
        name::IDENTITY_LOCAL_NAME,
        "$(_pod_sa).$(_pod_ns).serviceaccount.identity.$(_l5d_ns).$(_l5d_trustdomain)",
    );
    env.set(name::IDENTITY_SVC_NAME, config.identity.name.clone());
}

fn token_file(config: &InjectConfig) -> String {
    match config.token {
        crate::config::Token::Projected => TOKEN_FILE.to_owned(),
        crate::config::Token::Default => format!("{}/token", crate::decide::TOKEN_MOUNT),
    }
}

fn traces(env: &mut Environment, pod: &Value, tracing: &Tracing) {
    let label = |key: &str| pod["metadata"]["labels"].get(key).and_then(Value::as_str);
    let service = label(annotations::APP_INSTANCE).or_else(|| label(annotations::APP_NAME));
    env.set(name::TRACE_ATTRIBUTES_PATH, format!("{PODINFO_DIR}/labels"));
    env.set(name::TRACE_ANNOTATIONS_PATH, format!("{PODINFO_DIR}/annotations"));
    env.set(name::TRACE_PROTOCOL, "opentelemetry");
    env.set(name::TRACE_SERVICE_NAME, service.unwrap_or(&tracing.service_name));
    env.set(name::TRACE_COLLECTOR_SVC_ADDR, tracing.collector.address.clone());
    env.set(name::TRACE_COLLECTOR_SVC_NAME, tracing.collector.name.clone());
    let mut attributes: BTreeMap<&str, &str> =
        tracing.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for (key, value) in crate::manifest::texts(&pod["metadata"]["annotations"]) {
        if let Some(key) = key.strip_prefix(annotations::OPENTELEMETRY_PREFIX) {
            attributes.insert(key, value);
        }
    }
    let lines: Vec<_> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    env.set_if(name::TRACE_EXTRA_ATTRIBUTES, (!lines.is_empty()).then(|| lines.join("\n")));
}

/// Milliseconds, the unit Linkerd's injector writes connection timeouts in.
fn millis(duration: std::time::Duration) -> String {
    format!("{}ms", duration.as_millis())
}
