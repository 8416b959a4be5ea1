//! The part of Kubernetes' manifests that a kubelet needs, as plain types.
//!
//! The views of `hauberk-resources` hold what the mesh wants to know; a runtime needs the rest as
//! well: commands, environments, volumes, probes. Field names are Kubernetes' own (core/v1), unknown
//! fields are ignored, and an explicit `null` means the same as an absent field.
//!
//! Deliberately not here: what any of it means ([`crate::plan`]).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a part of a manifest.
///
/// # Errors
/// Names the field that does not fit.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(without_nulls(value))
}

/// A copy in which no map has a `null` value.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

macro_rules! view {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[expect(missing_docs, reason = "the fields are those of Kubernetes' API reference")]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
    )*};
}

view! {
    /// `ObjectMeta`.
    Metadata {
        name: String,
        namespace: String,
        uid: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    }
    /// `Pod`.
    Pod { metadata: Metadata, spec: PodSpec, }
    /// `PodSpec`.
    PodSpec {
        service_account_name: String,
        automount_service_account_token: Option<bool>,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        volumes: Vec<Volume>,
        restart_policy: RestartPolicy,
        termination_grace_period_seconds: Option<u64>,
        hostname: Option<String>,
        subdomain: Option<String>,
        host_aliases: Vec<HostAlias>,
        security_context: SecurityContext,
        host_network: bool,
        active_deadline_seconds: Option<u64>,
    }
    /// `HostAlias`.
    HostAlias { ip: String, hostnames: Vec<String>, }
    /// `Container`.
    Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: Option<String>,
        env: Vec<EnvVar>,
        env_from: Vec<EnvFrom>,
        ports: Vec<ContainerPort>,
        volume_mounts: Vec<VolumeMount>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Lifecycle,
        security_context: SecurityContext,
        restart_policy: Option<RestartPolicy>,
        resources: Resources,
    }
    /// `ResourceRequirements`.
    Resources {
        limits: BTreeMap<String, Value>,
        requests: BTreeMap<String, Value>,
    }
    /// `ContainerPort`.
    ContainerPort { name: Option<String>, container_port: u16, protocol: Option<String>, }
    /// `EnvVar`.
    EnvVar { name: String, value: Option<String>, value_from: Option<EnvSource>, }
    /// `EnvVarSource`.
    EnvSource {
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
    }
    /// `ObjectFieldSelector`.
    FieldRef { field_path: String, }
    /// `ResourceFieldSelector`.
    ResourceFieldRef { container_name: Option<String>, resource: String, divisor: Option<Value>, }
    /// `ConfigMapKeySelector` and `SecretKeySelector`.
    KeyRef { name: String, key: String, optional: bool, }
    /// `EnvFromSource`.
    EnvFrom {
        prefix: String,
        config_map_ref: Option<NameRef>,
        secret_ref: Option<NameRef>,
    }
    /// `LocalObjectReference` with `optional`.
    NameRef { name: String, optional: bool, }
    /// `VolumeMount`.
    VolumeMount {
        name: String,
        mount_path: String,
        sub_path: Option<String>,
        read_only: bool,
    }
    /// `Volume`. Kinds that are absent here are refused when mounted.
    Volume {
        name: String,
        empty_dir: Option<Value>,
        host_path: Option<HostPath>,
        config_map: Option<ObjectVolume>,
        secret: Option<SecretVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardVolume>,
        projected: Option<Projected>,
    }
    /// `HostPathVolumeSource`.
    HostPath { path: String, }
    /// `ConfigMapVolumeSource`, and the same as a projection.
    ObjectVolume { name: String, items: Vec<KeyToPath>, optional: bool, }
    /// `SecretVolumeSource`.
    SecretVolume { secret_name: String, items: Vec<KeyToPath>, optional: bool, }
    /// `KeyToPath`.
    KeyToPath { key: String, path: String, }
    /// `DownwardAPIVolumeSource`.
    DownwardVolume { items: Vec<DownwardFile>, }
    /// `DownwardAPIVolumeFile`.
    DownwardFile {
        path: String,
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
    }
    /// `ProjectedVolumeSource`.
    Projected { sources: Vec<Projection>, }
    /// `VolumeProjection`.
    Projection {
        service_account_token: Option<TokenProjection>,
        config_map: Option<ObjectVolume>,
        secret: Option<ObjectVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardVolume>,
    }
    /// `ServiceAccountTokenProjection`.
    TokenProjection { audience: String, expiration_seconds: Option<u64>, path: String, }
    /// `SecurityContext` and `PodSecurityContext`.
    SecurityContext {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        capabilities: CapabilityChanges,
    }
    /// `Capabilities`.
    CapabilityChanges { add: Vec<String>, }
    /// `Lifecycle`.
    Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, }
    /// `Probe`. Absent numbers have the defaults of the API reference.
    Probe {
        #[serde(flatten)]
        handler: Handler,
        initial_delay_seconds: u64,
        timeout_seconds: Option<u64>,
        period_seconds: Option<u64>,
        success_threshold: Option<u32>,
        failure_threshold: Option<u32>,
    }
    /// The action of a probe or hook.
    Handler {
        exec: Option<Exec>,
        http_get: Option<HttpGet>,
        tcp_socket: Option<TcpSocket>,
        grpc: Option<Grpc>,
        sleep: Option<Sleep>,
    }
    /// `ExecAction`.
    Exec { command: Vec<String>, }
    /// `GRPCAction`.
    Grpc { port: u16, service: Option<String>, }
    /// `SleepAction`.
    Sleep { seconds: u64, }
    /// `HTTPHeader`.
    HttpHeader { name: String, value: String, }
    /// A workload of any kind that makes pods.
    Workload { metadata: Metadata, spec: WorkloadSpec, }
    /// The fields of all workload specs.
    WorkloadSpec {
        replicas: Option<u32>,
        template: Value,
        strategy: Strategy,
        service_name: Option<String>,
        pod_management_policy: Option<String>,
        completions: Option<u32>,
        parallelism: Option<u32>,
        backoff_limit: Option<u32>,
    }
    /// `DeploymentStrategy`.
    Strategy {
        #[serde(rename = "type")]
        kind: Option<String>,
        rolling_update: RollingUpdate,
    }
    /// `RollingUpdateDeployment`.
    RollingUpdate {
        max_surge: Option<NumberOrText>,
        max_unavailable: Option<NumberOrText>,
    }
    /// `Service`.
    Service { metadata: Metadata, spec: ServiceSpec, }
    /// `ServiceSpec`.
    ServiceSpec {
        #[serde(rename = "type")]
        kind: Option<String>,
        selector: BTreeMap<String, String>,
        ports: Vec<ServicePort>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        external_name: Option<String>,
        publish_not_ready_addresses: bool,
        ip_families: Vec<String>,
        ip_family_policy: Option<String>,
    }
    /// `ServicePort`.
    ServicePort {
        name: Option<String>,
        port: u16,
        target_port: Option<NumberOrText>,
        protocol: Option<String>,
        app_protocol: Option<String>,
    }
}

/// `HTTPGetAction`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// Path and query; `/` when absent.
    #[serde(default)]
    pub path: String,
    /// Number or name of a container port.
    pub port: NumberOrText,
    /// Where to ask, when not the pod's address.
    #[serde(default)]
    pub host: Option<String>,
    /// `HTTP` or `HTTPS`.
    #[serde(default)]
    pub scheme: Option<String>,
    /// Sent with the request.
    #[serde(default)]
    pub http_headers: Vec<HttpHeader>,
}

/// `TCPSocketAction`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpSocket {
    /// Number or name of a container port.
    pub port: NumberOrText,
    /// Where to connect, when not the pod's address.
    #[serde(default)]
    pub host: Option<String>,
}

/// `IntOrString`: a number, a percentage, or the name of a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NumberOrText {
    /// A number.
    Number(u32),
    /// Anything else.
    Text(String),
}

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its exit code. On an init container this makes it a native sidecar.
    #[default]
    Always,
    /// Only after a failure.
    OnFailure,
    /// Never.
    Never,
}

impl ServiceSpec {
    /// Whether the service has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some("None")
    }

    /// Whether the service is only another name.
    pub fn is_external_name(&self) -> bool {
        self.kind.as_deref() == Some("ExternalName")
    }
}

impl PodSpec {
    /// The service account, `default` when none is named.
    pub fn service_account(&self) -> &str {
        match self.service_account_name.as_str() {
            "" => "default",
            name => name,
        }
    }

    /// The number of a container port that is given by name or number.
    pub fn port(&self, port: &NumberOrText) -> Option<u16> {
        match port {
            NumberOrText::Number(number) => u16::try_from(*number).ok(),
            NumberOrText::Text(name) => self.port_named(name).or_else(|| name.parse().ok()),
        }
    }

    fn port_named(&self, name: &str) -> Option<u16> {
        self.containers
            .iter()
            .chain(&self.init_containers)
            .flat_map(|container| &container.ports)
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    }
}
