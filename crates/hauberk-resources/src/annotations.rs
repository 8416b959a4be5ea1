//! Every annotation and label the mesh reads or writes, by its name on the wire.
//!
//! All crates that look at the metadata of an object take the key from here, so a key is
//! spelt once. The names are Linkerd's (`linkerd.io`, `config.linkerd.io` and their
//! relatives), because manifests, dashboards and alerts written for Linkerd must keep
//! working.
//!
//! [`PROXY_CONFIG`] lists the annotations that configure a sidecar: what kind of value each
//! takes and whether a pod inherits it from its namespace. The injector reads that table to
//! copy, check and explain values. What the values *mean* is decided by the readers
//! (`hauberk-inject`, `hauberk-index`), not here.

/// Prefix of the annotations and labels that describe membership in the mesh.
pub const LINKERD_PREFIX: &str = "linkerd.io/";

/// Prefix of the annotations that configure a sidecar.
pub const CONFIG_PREFIX: &str = "config.linkerd.io/";

/// Prefix of the configuration annotations that were never promoted.
pub const CONFIG_ALPHA_PREFIX: &str = "config.alpha.linkerd.io/";

/// Prefix of the configuration annotations on their way to be promoted.
pub const CONFIG_BETA_PREFIX: &str = "config.beta.linkerd.io/";

/// Prefix of annotations that become attributes of exported trace spans.
pub const OPENTELEMETRY_PREFIX: &str = "resource.opentelemetry.io/";

// ---------------------------------------------------------------------------------------
// Membership
// ---------------------------------------------------------------------------------------

/// Whether a workload joins the mesh: `enabled`, `disabled` or `ingress`.
///
/// On a namespace it speaks for all pods created there; on a pod template it overrides the
/// namespace. A *label* of the same name on a namespace counts where the annotation is absent.
pub const INJECT: &str = "linkerd.io/inject";

/// Value of [`INJECT`] that asks for a sidecar.
pub const INJECT_ENABLED: &str = "enabled";

/// Value of [`INJECT`] that refuses a sidecar.
pub const INJECT_DISABLED: &str = "disabled";

/// Value of [`INJECT`] that asks for a sidecar in ingress mode.
pub const INJECT_INGRESS: &str = "ingress";

/// Annotation: which program and version added the sidecar.
pub const CREATED_BY: &str = "linkerd.io/created-by";

/// Annotation: the version of the injected proxy.
pub const PROXY_VERSION: &str = "linkerd.io/proxy-version";

/// Annotation: SHA-256 of the trust anchors given to the proxy, in lower-case hex.
pub const TRUST_ROOT_SHA256: &str = "linkerd.io/trust-root-sha256";

/// Label: the namespace of the control plane a pod belongs to; *the* mark of a meshed pod.
pub const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";

/// Label: the namespace of the workload itself, repeated for use in metrics.
pub const WORKLOAD_NS: &str = "linkerd.io/workload-ns";

/// Label: which control-plane component a pod is; such pods are never injected by admission.
pub const CONTROL_PLANE_COMPONENT: &str = "linkerd.io/control-plane-component";

/// Label: marks resources of the CNI plugin; never injected by admission.
pub const CNI_RESOURCE: &str = "linkerd.io/cni-resource";

/// Label of a namespace: it holds the control plane.
pub const IS_CONTROL_PLANE: &str = "linkerd.io/is-control-plane";

/// Label of a namespace: it holds the named extension.
pub const EXTENSION: &str = "linkerd.io/extension";

/// Label of a namespace: `disabled` keeps the admission webhooks away.
pub const ADMISSION_WEBHOOKS: &str = "config.linkerd.io/admission-webhooks";

/// Prefix of the label naming a pod's owner: `linkerd.io/proxy-<kind>=<name>`.
pub const PROXY_OWNER_PREFIX: &str = "linkerd.io/proxy-";

/// The owner label for a workload kind, `None` for kinds that have none.
///
/// The kind is given as in a manifest (`Deployment`); case does not matter.
#[must_use]
pub fn proxy_owner_label(kind: &str) -> Option<&'static str> {
    match kind.to_ascii_lowercase().as_str() {
        "deployment" => Some("linkerd.io/proxy-deployment"),
        "replicationcontroller" => Some("linkerd.io/proxy-replicationcontroller"),
        "replicaset" => Some("linkerd.io/proxy-replicaset"),
        "job" => Some("linkerd.io/proxy-job"),
        "cronjob" => Some("linkerd.io/proxy-cronjob"),
        "daemonset" => Some("linkerd.io/proxy-daemonset"),
        "statefulset" => Some("linkerd.io/proxy-statefulset"),
        _ => None,
    }
}

// ---------------------------------------------------------------------------------------
// Configuration of a sidecar
// ---------------------------------------------------------------------------------------

/// Name of the image the proxy runs from.
pub const PROXY_IMAGE: &str = "config.linkerd.io/proxy-image";
/// Tag of the proxy image.
pub const PROXY_IMAGE_VERSION: &str = "config.linkerd.io/proxy-version";
/// Name of the image the init container runs from.
pub const INIT_IMAGE: &str = "config.linkerd.io/init-image";
/// Tag of the init image.
pub const INIT_IMAGE_VERSION: &str = "config.linkerd.io/init-image-version";
/// When the kubelet pulls the proxy image: `Always`, `IfNotPresent` or `Never`.
pub const IMAGE_PULL_POLICY: &str = "config.linkerd.io/image-pull-policy";
/// Name of the image of the debug container.
pub const DEBUG_IMAGE: &str = "config.linkerd.io/debug-image";
/// Tag of the image of the debug container.
pub const DEBUG_IMAGE_VERSION: &str = "config.linkerd.io/debug-image-version";
/// When the kubelet pulls the debug image.
pub const DEBUG_IMAGE_PULL_POLICY: &str = "config.linkerd.io/debug-image-pull-policy";
/// Adds a debug container to the pod.
pub const ENABLE_DEBUG_SIDECAR: &str = "config.linkerd.io/enable-debug-sidecar";
/// Port of the tap server.
pub const CONTROL_PORT: &str = "config.linkerd.io/control-port";
/// Port of the admin server: probes and metrics.
pub const ADMIN_PORT: &str = "config.linkerd.io/admin-port";
/// Port captured inbound connections are redirected to.
pub const INBOUND_PORT: &str = "config.linkerd.io/inbound-port";
/// Port captured outbound connections are redirected to.
pub const OUTBOUND_PORT: &str = "config.linkerd.io/outbound-port";
/// Ports whose inbound policy is fetched ahead of the first connection.
pub const POD_INBOUND_PORTS: &str = "config.linkerd.io/pod-inbound-ports";
/// Inbound ports that are not captured.
pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
/// Outbound ports that are not captured.
pub const SKIP_OUTBOUND_PORTS: &str = "config.linkerd.io/skip-outbound-ports";
/// Networks traffic with which is not captured.
pub const SKIP_SUBNETS: &str = "config.linkerd.io/skip-subnets";
/// Ports carried as opaque TCP, without protocol detection; also read from Services.
pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
/// Inbound ports that demand a client identity.
pub const REQUIRE_IDENTITY_INBOUND_PORTS: &str =
    "config.linkerd.io/proxy-require-identity-inbound-ports";
/// What is allowed on ports no Server selects; also read from namespaces.
pub const DEFAULT_INBOUND_POLICY: &str = "config.linkerd.io/default-inbound-policy";
/// CPU request of the proxy container.
pub const PROXY_CPU_REQUEST: &str = "config.linkerd.io/proxy-cpu-request";
/// CPU limit of the proxy container.
pub const PROXY_CPU_LIMIT: &str = "config.linkerd.io/proxy-cpu-limit";
/// Share of the node's cores the proxy may use, between 0 and 1.
pub const PROXY_CPU_RATIO_LIMIT: &str = "config.linkerd.io/proxy-cpu-ratio-limit";
/// Memory request of the proxy container.
pub const PROXY_MEMORY_REQUEST: &str = "config.linkerd.io/proxy-memory-request";
/// Memory limit of the proxy container.
pub const PROXY_MEMORY_LIMIT: &str = "config.linkerd.io/proxy-memory-limit";
/// Ephemeral storage request of the proxy container.
pub const PROXY_EPHEMERAL_STORAGE_REQUEST: &str =
    "config.linkerd.io/proxy-ephemeral-storage-request";
/// Ephemeral storage limit of the proxy container.
pub const PROXY_EPHEMERAL_STORAGE_LIMIT: &str = "config.linkerd.io/proxy-ephemeral-storage-limit";
/// User the proxy runs as; its traffic is exempt from capture.
pub const PROXY_UID: &str = "config.linkerd.io/proxy-uid";
/// Group the proxy runs as; negative for none.
pub const PROXY_GID: &str = "config.linkerd.io/proxy-gid";
/// Log filter of the proxy.
pub const PROXY_LOG_LEVEL: &str = "config.linkerd.io/proxy-log-level";
/// Log format of the proxy: `plain` or `json`.
pub const PROXY_LOG_FORMAT: &str = "config.linkerd.io/proxy-log-format";
/// Whether request headers may appear in logs: `off` or `insecure`.
pub const PROXY_LOG_HTTP_HEADERS: &str = "config.linkerd.io/proxy-log-http-headers";
/// Whether `POST /shutdown` of the admin server works: `enabled` or `disabled`.
pub const PROXY_ADMIN_SHUTDOWN: &str = "config.linkerd.io/proxy-admin-shutdown";
/// Look up service profiles for names outside the cluster too.
pub const ENABLE_EXTERNAL_PROFILES: &str = "config.linkerd.io/enable-external-profiles";
/// Adds the hostname as a label of outbound route metrics.
pub const PROXY_METRICS_HOSTNAME_LABELS: &str = "config.linkerd.io/proxy-metrics-hostname-labels";
/// How long an outbound connection may take to establish.
pub const PROXY_OUTBOUND_CONNECT_TIMEOUT: &str = "config.linkerd.io/proxy-outbound-connect-timeout";
/// How long a connection to the application may take to establish.
pub const PROXY_INBOUND_CONNECT_TIMEOUT: &str = "config.linkerd.io/proxy-inbound-connect-timeout";
/// How long unused outbound discovery results are kept.
pub const PROXY_OUTBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT: &str =
    "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout";
/// How long unused inbound discovery results are kept.
pub const PROXY_INBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT: &str =
    "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout";
/// Wait for the first bytes of outbound connections without limit.
pub const PROXY_DISABLE_OUTBOUND_PROTOCOL_DETECT_TIMEOUT: &str =
    "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout";
/// Wait for the first bytes of inbound connections without limit.
pub const PROXY_DISABLE_INBOUND_PROTOCOL_DETECT_TIMEOUT: &str =
    "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout";
/// How long a proxy drains before it stops by force.
pub const SHUTDOWN_GRACE_PERIOD: &str = "config.linkerd.io/shutdown-grace-period";
/// The workload is a multicluster gateway.
pub const ENABLE_GATEWAY: &str = "config.linkerd.io/enable-gateway";
/// Access log of inbound requests: `apache` or `json`.
pub const ACCESS_LOG: &str = "config.linkerd.io/access-log";
/// Hold back the application until the proxy is ready: `enabled` or `disabled`.
pub const PROXY_AWAIT: &str = "config.linkerd.io/proxy-await";
/// Sets `nf_conntrack_tcp_timeout_close_wait` in the pod.
pub const CLOSE_WAIT_TIMEOUT: &str = "config.linkerd.io/close-wait-timeout";
/// Delays the stop of a classic sidecar by this many seconds.
pub const PROXY_WAIT_BEFORE_EXIT_SECONDS: &str =
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds";
/// Run the proxy as a native sidecar: an init container that keeps running.
pub const PROXY_ENABLE_NATIVE_SIDECAR: &str = "config.linkerd.io/proxy-enable-native-sidecar";
/// Older name of [`PROXY_ENABLE_NATIVE_SIDECAR`]; the newer one wins.
pub const PROXY_ENABLE_NATIVE_SIDECAR_BETA: &str =
    "config.beta.linkerd.io/proxy-enable-native-sidecar";
/// Oldest name of [`PROXY_ENABLE_NATIVE_SIDECAR`]; both newer ones win.
pub const PROXY_ENABLE_NATIVE_SIDECAR_ALPHA: &str =
    "config.alpha.linkerd.io/proxy-enable-native-sidecar";
/// More environment variables of the proxy, a JSON array of `EnvVar`.
pub const PROXY_ADDITIONAL_ENV: &str = "config.linkerd.io/proxy-additional-env";

/// What kind of value a configuration annotation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `true`/`false` in the spellings of Go's `strconv.ParseBool`.
    Bool,
    /// A TCP port, 1 to 65535.
    Port,
    /// Ports and inclusive ranges, separated by commas.
    Ports,
    /// Ports, inclusive ranges and names of container ports, separated by commas.
    NamedPorts,
    /// Networks in CIDR notation, separated by commas.
    Networks,
    /// A Kubernetes quantity such as `100m` or `20Mi`.
    Quantity,
    /// A number strictly between 0 and 1.
    Ratio,
    /// A whole number that may be negative.
    Integer,
    /// A whole number of seconds.
    Seconds,
    /// A duration as Go writes it: `1m30s`, `1.5s`, `300ms`.
    GoDuration,
    /// A JSON array of Kubernetes `EnvVar` objects.
    EnvVars,
}

/// An annotation that configures a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The full key.
    pub key: &'static str,
    /// Whether a pod without it takes the value of its namespace.
    pub inherited: bool,
    /// What a value must look like.
    pub value: ValueKind,
    /// One line for people.
    pub text: &'static str,
}

const fn inherited(key: &'static str, value: ValueKind, text: &'static str) -> ProxyConfig {
    ProxyConfig { key, inherited: true, value, text }
}

const fn own(key: &'static str, value: ValueKind, text: &'static str) -> ProxyConfig {
    ProxyConfig { key, inherited: false, value, text }
}

const ENABLED_OR_DISABLED: ValueKind = ValueKind::OneOf(&["enabled", "disabled"]);
const PULL_POLICY: ValueKind = ValueKind::OneOf(&["Always", "IfNotPresent", "Never"]);

/// Words accepted by [`DEFAULT_INBOUND_POLICY`].
pub const DEFAULT_INBOUND_POLICIES: &[&str] = &[
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
];

/// All annotations that configure a sidecar.
///
/// Precedence of a value: pod, then (where [`ProxyConfig::inherited`]) namespace, then the
/// settings of the installation. Which ones are inherited is observed behaviour of Linkerd.
pub const PROXY_CONFIG: &[ProxyConfig] = &[
    inherited(PROXY_IMAGE, ValueKind::Text, "image of the proxy"),
    inherited(PROXY_IMAGE_VERSION, ValueKind::Text, "tag of the proxy image"),
    inherited(INIT_IMAGE, ValueKind::Text, "image of the init container"),
    inherited(INIT_IMAGE_VERSION, ValueKind::Text, "tag of the init image"),
    inherited(IMAGE_PULL_POLICY, PULL_POLICY, "when the proxy image is pulled"),
    own(DEBUG_IMAGE, ValueKind::Text, "image of the debug container"),
    own(DEBUG_IMAGE_VERSION, ValueKind::Text, "tag of the debug image"),
    own(DEBUG_IMAGE_PULL_POLICY, PULL_POLICY, "when the debug image is pulled"),
    inherited(ENABLE_DEBUG_SIDECAR, ValueKind::Bool, "adds a debug container"),
    inherited(CONTROL_PORT, ValueKind::Port, "port of the tap server"),
    inherited(ADMIN_PORT, ValueKind::Port, "port of probes and metrics"),
    inherited(INBOUND_PORT, ValueKind::Port, "port inbound connections are redirected to"),
    inherited(OUTBOUND_PORT, ValueKind::Port, "port outbound connections are redirected to"),
    inherited(POD_INBOUND_PORTS, ValueKind::Ports, "ports whose policy is fetched ahead"),
    inherited(SKIP_INBOUND_PORTS, ValueKind::Ports, "inbound ports that are not captured"),
    inherited(SKIP_OUTBOUND_PORTS, ValueKind::Ports, "outbound ports that are not captured"),
    inherited(SKIP_SUBNETS, ValueKind::Networks, "networks that are not captured"),
    inherited(OPAQUE_PORTS, ValueKind::NamedPorts, "ports carried without protocol detection"),
    inherited(
        REQUIRE_IDENTITY_INBOUND_PORTS,
        ValueKind::Ports,
        "inbound ports that demand a client identity",
    ),
    inherited(
        DEFAULT_INBOUND_POLICY,
        ValueKind::OneOf(DEFAULT_INBOUND_POLICIES),
        "what is allowed where no policy speaks",
    ),
    inherited(PROXY_CPU_REQUEST, ValueKind::Quantity, "CPU request of the proxy"),
    inherited(PROXY_CPU_LIMIT, ValueKind::Quantity, "CPU limit of the proxy"),
    own(PROXY_CPU_RATIO_LIMIT, ValueKind::Ratio, "share of the node's cores for the proxy"),
    inherited(PROXY_MEMORY_REQUEST, ValueKind::Quantity, "memory request of the proxy"),
    inherited(PROXY_MEMORY_LIMIT, ValueKind::Quantity, "memory limit of the proxy"),
    inherited(
        PROXY_EPHEMERAL_STORAGE_REQUEST,
        ValueKind::Quantity,
        "ephemeral storage request of the proxy",
    ),
    inherited(
        PROXY_EPHEMERAL_STORAGE_LIMIT,
        ValueKind::Quantity,
        "ephemeral storage limit of the proxy",
    ),
    inherited(PROXY_UID, ValueKind::Integer, "user the proxy runs as"),
    inherited(PROXY_GID, ValueKind::Integer, "group the proxy runs as, negative for none"),
    inherited(PROXY_LOG_LEVEL, ValueKind::Text, "log filter of the proxy"),
    inherited(PROXY_LOG_FORMAT, ValueKind::OneOf(&["plain", "json"]), "log format of the proxy"),
    inherited(
        PROXY_LOG_HTTP_HEADERS,
        ValueKind::OneOf(&["off", "insecure", ""]),
        "whether request headers may appear in logs",
    ),
    inherited(PROXY_ADMIN_SHUTDOWN, ENABLED_OR_DISABLED, "whether /shutdown works"),
    inherited(ENABLE_EXTERNAL_PROFILES, ValueKind::Bool, "profiles for names outside the cluster"),
    inherited(PROXY_METRICS_HOSTNAME_LABELS, ValueKind::Bool, "hostname label on route metrics"),
    inherited(
        PROXY_OUTBOUND_CONNECT_TIMEOUT,
        ValueKind::GoDuration,
        "limit for establishing outbound connections",
    ),
    inherited(
        PROXY_INBOUND_CONNECT_TIMEOUT,
        ValueKind::GoDuration,
        "limit for connecting to the application",
    ),
    inherited(
        PROXY_OUTBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT,
        ValueKind::GoDuration,
        "how long unused outbound discovery results are kept",
    ),
    inherited(
        PROXY_INBOUND_DISCOVERY_CACHE_UNUSED_TIMEOUT,
        ValueKind::GoDuration,
        "how long unused inbound discovery results are kept",
    ),
    inherited(
        PROXY_DISABLE_OUTBOUND_PROTOCOL_DETECT_TIMEOUT,
        ValueKind::Bool,
        "detect the protocol of outbound connections without limit of time",
    ),
    inherited(
        PROXY_DISABLE_INBOUND_PROTOCOL_DETECT_TIMEOUT,
        ValueKind::Bool,
        "detect the protocol of inbound connections without limit of time",
    ),
    inherited(SHUTDOWN_GRACE_PERIOD, ValueKind::GoDuration, "how long the proxy drains"),
    own(ENABLE_GATEWAY, ValueKind::Bool, "the workload is a multicluster gateway"),
    inherited(ACCESS_LOG, ValueKind::OneOf(&["apache", "json", ""]), "access log of requests"),
    inherited(PROXY_AWAIT, ENABLED_OR_DISABLED, "the application waits for the proxy"),
    own(CLOSE_WAIT_TIMEOUT, ValueKind::GoDuration, "conntrack timeout of half-closed connections"),
    inherited(
        PROXY_WAIT_BEFORE_EXIT_SECONDS,
        ValueKind::Seconds,
        "delays the stop of a classic sidecar",
    ),
    inherited(PROXY_ENABLE_NATIVE_SIDECAR, ValueKind::Bool, "run as a native sidecar"),
    own(PROXY_ENABLE_NATIVE_SIDECAR_BETA, ValueKind::Bool, "older name, the newer one wins"),
    inherited(PROXY_ENABLE_NATIVE_SIDECAR_ALPHA, ValueKind::Bool, "older name, the newer one wins"),
    inherited(PROXY_ADDITIONAL_ENV, ValueKind::EnvVars, "more environment of the proxy"),
];

/// The configuration annotation with this key.
#[must_use]
pub fn proxy_config(key: &str) -> Option<&'static ProxyConfig> {
    PROXY_CONFIG.iter().find(|annotation| annotation.key == key)
}

// ---------------------------------------------------------------------------------------
// Services and routes
// ---------------------------------------------------------------------------------------

/// Time limit of a whole request.
pub const TIMEOUT_REQUEST: &str = "timeout.linkerd.io/request";
/// Time limit from the end of the request to the end of the response.
pub const TIMEOUT_RESPONSE: &str = "timeout.linkerd.io/response";
/// Time limit without progress in either direction.
pub const TIMEOUT_IDLE: &str = "timeout.linkerd.io/idle";
/// HTTP statuses that are retried: `5xx`, `gateway-error`, `NNN`, `NNN-NNN`.
pub const RETRY_HTTP: &str = "retry.linkerd.io/http";
/// gRPC statuses that are retried.
pub const RETRY_GRPC: &str = "retry.linkerd.io/grpc";
/// Number of retries.
pub const RETRY_LIMIT: &str = "retry.linkerd.io/limit";
/// Time limit of one try.
pub const RETRY_TIMEOUT: &str = "retry.linkerd.io/timeout";
/// Time that requests of a route are held back: `100ms` or `100ms;percent=10`. Hauberk's own.
pub const FAULT_DELAY: &str = "fault.hauberk.io/delay";
/// What requests of a route are answered with instead: an HTTP status or a gRPC code, as `503` or
/// `unavailable;percent=5`. Hauberk's own.
pub const FAULT_FAILURE: &str = "fault.hauberk.io/failure";
/// How failing endpoints are found: `consecutive` or `unified`.
pub const FAILURE_ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";
/// Failures in a row that take an endpoint out.
pub const FAILURE_ACCRUAL_MAX_FAILURES: &str =
    "balancer.linkerd.io/failure-accrual-consecutive-max-failures";
/// Shortest time an endpoint stays out.
pub const FAILURE_ACCRUAL_MIN_PENALTY: &str =
    "balancer.linkerd.io/failure-accrual-consecutive-min-penalty";
/// Longest time an endpoint stays out.
pub const FAILURE_ACCRUAL_MAX_PENALTY: &str =
    "balancer.linkerd.io/failure-accrual-consecutive-max-penalty";
/// Random share added to the penalty.
pub const FAILURE_ACCRUAL_JITTER_RATIO: &str =
    "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio";
/// Success rate below which an endpoint is taken out.
pub const FAILURE_ACCRUAL_SUCCESS_RATE_THRESHOLD: &str =
    "balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold";
/// Window of the success rate.
pub const FAILURE_ACCRUAL_SUCCESS_RATE_WINDOW: &str =
    "balancer.alpha.linkerd.io/failure-accrual-success-rate-window";
/// Requests in the window before the success rate counts.
pub const FAILURE_ACCRUAL_SUCCESS_RATE_MIN_REQUESTS: &str =
    "balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests";
/// Whether `retry-after` of a response lengthens the penalty.
pub const FAILURE_ACCRUAL_HONOR_RETRY_AFTER: &str =
    "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after";
/// Whether failures make an endpoint look slower to the balancer.
pub const PENALIZE_FAILURES: &str = "balancer.alpha.linkerd.io/penalize-failures";
/// Latency a failure counts as.
pub const LOAD_BIASER_PENALTY: &str = "balancer.alpha.linkerd.io/load-biaser-penalty";
/// Longest `retry-after` that is believed.
pub const LOAD_BIASER_MAX_RETRY_AFTER: &str =
    "balancer.alpha.linkerd.io/load-biaser-max-retry-after";

// ---------------------------------------------------------------------------------------
// Balancing that Linkerd has no words for
// ---------------------------------------------------------------------------------------

/// On a Service or a route, beside [`FAILURE_ACCRUAL`]: endpoints that stay in use however many
/// fail.
pub const FAILURE_ACCRUAL_MIN_READY: &str =
    "balancer.hauberk.io/failure-accrual-min-ready-endpoints";
/// On a Service: how long the share of a new endpoint grows before it is a full one.
pub const SLOW_START: &str = "balancer.hauberk.io/slow-start";
/// On a Service: what goes to one endpoint: `source`, `header:NAME`, `cookie:NAME`, or `none`.
pub const AFFINITY: &str = "balancer.hauberk.io/affinity";
/// On a Service: most that an endpoint may have under way by affinity, as a multiple of the mean
/// such as `1.25`, or `none`.
pub const AFFINITY_BOUND: &str = "balancer.hauberk.io/affinity-bound";
/// On a Service, beside `cookie:NAME`: for how long a client without that cookie is given one:
/// `session`, a duration, or `none`.
pub const AFFINITY_COOKIE: &str = "balancer.hauberk.io/affinity-cookie";
/// On a Service: how long after its last use an endpoint is kept for who has it.
pub const AFFINITY_MEMORY: &str = "balancer.hauberk.io/affinity-memory";

// ---------------------------------------------------------------------------------------
// What is none of them
// ---------------------------------------------------------------------------------------

/// Prefixes under which every annotation is one of ours, so that any other is a mistake. Under
/// `linkerd.io/` and `local.hauberk.io/` there are keys of extensions, installers and labs too.
const CLOSED_PREFIXES: &[&str] = &[
    CONFIG_PREFIX,
    CONFIG_ALPHA_PREFIX,
    CONFIG_BETA_PREFIX,
    "timeout.linkerd.io/",
    "retry.linkerd.io/",
    "balancer.linkerd.io/",
    "balancer.alpha.linkerd.io/",
    "balancer.hauberk.io/",
    "fault.hauberk.io/",
];

/// Annotations under [`CLOSED_PREFIXES`] that do not configure a sidecar.
const OTHERS: &[&str] = &[
    ADMISSION_WEBHOOKS,
    TIMEOUT_REQUEST,
    TIMEOUT_RESPONSE,
    TIMEOUT_IDLE,
    RETRY_HTTP,
    RETRY_GRPC,
    RETRY_LIMIT,
    RETRY_TIMEOUT,
    FAULT_DELAY,
    FAULT_FAILURE,
    FAILURE_ACCRUAL,
    FAILURE_ACCRUAL_MAX_FAILURES,
    FAILURE_ACCRUAL_MIN_PENALTY,
    FAILURE_ACCRUAL_MAX_PENALTY,
    FAILURE_ACCRUAL_JITTER_RATIO,
    FAILURE_ACCRUAL_SUCCESS_RATE_THRESHOLD,
    FAILURE_ACCRUAL_SUCCESS_RATE_WINDOW,
    FAILURE_ACCRUAL_SUCCESS_RATE_MIN_REQUESTS,
    FAILURE_ACCRUAL_HONOR_RETRY_AFTER,
    PENALIZE_FAILURES,
    LOAD_BIASER_PENALTY,
    LOAD_BIASER_MAX_RETRY_AFTER,
    FAILURE_ACCRUAL_MIN_READY,
    SLOW_START,
    AFFINITY,
    AFFINITY_BOUND,
    AFFINITY_COOKIE,
    AFFINITY_MEMORY,
];

fn closed() -> impl Iterator<Item = &'static str> {
    PROXY_CONFIG.iter().map(|config| config.key).chain(OTHERS.iter().copied())
}

/// Whether a key looks like an annotation of the mesh, and there is none of that name.
#[must_use]
pub fn is_misspelt(key: &str) -> bool {
    CLOSED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) && closed().all(|own| own != key)
}

/// The annotation of the mesh that a key is most like, if it is like one: at most three edits away,
/// and at most a third of what stands after the prefix.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    const EDITS_MAX: usize = 3;
    let near = closed().filter(|own| own.len().abs_diff(key.len()) <= EDITS_MAX);
    let edits = near.map(|own| (edits_between(own, key), own)).min()?;
    let name_length = edits.1.split_once('/').map_or(0, |(_, name)| name.len());
    (edits.0 <= EDITS_MAX.min(name_length / 3)).then_some(edits.1)
}

/// Levenshtein's distance in bytes; callers bound the lengths.
fn edits_between(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

// ---------------------------------------------------------------------------------------
// Kubernetes' own
// ---------------------------------------------------------------------------------------

/// Label of a pod: the instance of the application it belongs to.
pub const APP_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label of a pod: the application it belongs to.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// Label of an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of an EndpointSlice: who writes it.
pub const ENDPOINTSLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of a namespace: its own name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Label of a node: its zone.
pub const TOPOLOGY_ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a Deployment's pod: hash of its template.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_annotation_is_listed_once() {
        let keys: BTreeSet<_> = PROXY_CONFIG.iter().map(|annotation| annotation.key).collect();
        assert_eq!(keys.len(), PROXY_CONFIG.len());
    }

    #[test]
    fn every_key_under_a_closed_prefix_is_listed() {
        let source = include_str!("annotations.rs");
        let keys =
            source.split('"').filter(|text| text.contains(".io/") && !text.contains([' ', '\n']));
        let keys: BTreeSet<_> = keys.filter(|key| !key.ends_with('/')).collect();
        assert!(keys.contains(&AFFINITY) && keys.contains(&PROXY_AWAIT));
        let missing: Vec<_> = keys.iter().filter(|key| is_misspelt(key)).collect();
        assert_eq!(missing, [&"retry.linkerd.io/htp"], "the only one that is wrong on purpose");
    }

    #[test]
    fn names_the_annotation_that_was_meant() {
        assert!(!is_misspelt("example.org/retries") && !is_misspelt(RETRY_HTTP));
        assert!(is_misspelt("retry.linkerd.io/htp"));
        assert_eq!(nearest("retry.linkerd.io/htp"), Some(RETRY_HTTP));
        assert_eq!(nearest(&RETRY_HTTP.replace("retry", "rety")), Some(RETRY_HTTP));
        assert_eq!(nearest(&RETRY_HTTP.replace("http", "x")), None);
    }

    #[test]
    fn owner_labels_follow_the_kind() {
        assert_eq!(proxy_owner_label("Deployment"), Some("linkerd.io/proxy-deployment"));
        assert_eq!(proxy_owner_label("statefulset"), Some("linkerd.io/proxy-statefulset"));
        assert_eq!(proxy_owner_label("Rollout"), None);
    }
}
