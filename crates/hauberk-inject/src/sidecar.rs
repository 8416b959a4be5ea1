//! The sidecar: containers, volumes and metadata written into a pod.

use std::collections::BTreeSet;

use hauberk_resources::annotations;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    capture_init,
    config::{Capture, InjectConfig, TrustAnchors},
    decide::Mode,
    environment::environment,
    manifest::{Owner, first_container, list_at, set_metadata},
    settings::{Flavour, Placement, Settings},
    volumes,
};

/// Name of the proxy's container.
pub(crate) const PROXY: &str = "linkerd-proxy";

/// Name of the debug container.
pub(crate) const DEBUG: &str = "linkerd-debug";

/// Annotation of ours: which further annotations the injector added, so that they can be taken
/// out again. Its prefix makes Linkerd's own tools drop it.
pub(crate) const ADDED: &str = "linkerd.io/added-annotations";

/// Longest value of a label (Kubernetes, "Labels and Selectors"); names may be longer.
const LABEL_BYTES_MAX: usize = 63;

/// What the metadata of a meshed pod says about where it belongs.
pub(crate) struct Membership<'a> {
    /// Namespace of the pod, if known.
    pub(crate) namespace: Option<&'a str>,
    /// Owner of the pod.
    pub(crate) owner: Option<Owner>,
    /// Annotations added beside the standard ones.
    pub(crate) annotations: Vec<(&'static str, String)>,
}

/// Writes the sidecar into a pod that has none.
pub(crate) fn add(
    pod: &mut Value,
    settings: &Settings,
    mode: Mode,
    membership: &Membership<'_>,
    config: &InjectConfig,
) {
    // Everything is derived from the pod as it was, then written.
    let capture = capture_init::container(pod, settings, config);
    let proxy = proxy(pod, settings, mode, config);
    metadata(pod, settings, membership, config);
    let spec = pod.get_mut("spec").expect("shape() found a spec");
    let volumes = list_at(spec, "volumes");
    if config.capture == Capture::InitContainer {
        volumes.push(volumes::xtables_lock());
    }
    volumes.extend(volumes::of_proxy(config));
    if let Some(image) = &settings.debug_image {
        let check = json!({"exec": {"command": ["true"]}});
        list_at(spec, "containers").push(json!({
            "name": DEBUG,
            "image": image.reference,
            "imagePullPolicy": image.pull_policy,
            "livenessProbe": check,
            "readinessProbe": check,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }));
    }
    match settings.placement {
        Placement::Native => {
            // First, so that init containers of the application are in the mesh already.
            list_at(spec, "initContainers").splice(0..0, capture.into_iter().chain([proxy]));
        }
        Placement::Classic => {
            if let Some(capture) = capture {
                list_at(spec, "initContainers").push(capture);
            }
            let containers = list_at(spec, "containers");
            // Containers start in order, each after the postStart hook of the one before.
            let at = if settings.awaits { 0 } else { containers.len() };
            containers.insert(at, proxy);
        }
    }
}

fn metadata(
    pod: &mut Value,
    settings: &Settings,
    membership: &Membership<'_>,
    config: &InjectConfig,
) {
    let mut annotate = |key: &str, value: &str| set_metadata(pod, "annotations", key, value);
    annotate(annotations::CREATED_BY, &config.created_by);
    annotate(annotations::PROXY_VERSION, &settings.proxy_version);
    if let TrustAnchors::Inline(pem) = &config.trust_anchors {
        annotate(annotations::TRUST_ROOT_SHA256, &hex(&Sha256::digest(pem.as_bytes())));
    }
    for (key, value) in &membership.annotations {
        annotate(key, value);
    }
    let added: BTreeSet<_> = membership.annotations.iter().map(|(key, _)| *key).collect();
    if !added.is_empty() {
        annotate(ADDED, &added.into_iter().collect::<Vec<_>>().join(","));
    }
    let mut label = |key: &str, value: &str| set_metadata(pod, "labels", key, value);
    label(annotations::CONTROL_PLANE_NS, &config.control_plane_namespace);
    if let Some(namespace) = membership.namespace {
        label(annotations::WORKLOAD_NS, namespace);
    }
    if let Some(owner) = &membership.owner
        && let Some(key) = annotations::proxy_owner_label(&owner.kind)
        && (1..=LABEL_BYTES_MAX).contains(&owner.name.len())
    {
        label(key, &owner.name);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn proxy(pod: &Value, settings: &Settings, mode: Mode, config: &InjectConfig) -> Value {
    let native = settings.placement == Placement::Native;
    let mut container = json!({"name": PROXY});
    let mut set = |key: &str, value: Value| container[key] = value;
    set("image", settings.proxy_image.reference.clone().into());
    set("imagePullPolicy", settings.proxy_image.pull_policy.clone().into());
    if settings.flavour == Flavour::Hauberk {
        set("command", json!(["hauberk-proxy"]));
    }
    set("env", environment(pod, settings, mode, config).into());
    if !native && let Some(lifecycle) = lifecycle(settings) {
        set("lifecycle", lifecycle);
    }
    let probe = |path: &str| json!({"path": path, "port": settings.admin_port.get()});
    set(
        "livenessProbe",
        json!({"httpGet": probe("/live"), "initialDelaySeconds": 10, "timeoutSeconds": 1}),
    );
    set(
        "ports",
        json!([
            {"containerPort": settings.listen.inbound.get(), "name": "linkerd-proxy"},
            {"containerPort": settings.admin_port.get(), "name": "linkerd-admin"},
        ]),
    );
    set(
        "readinessProbe",
        json!({"httpGet": probe("/ready"), "initialDelaySeconds": 2, "timeoutSeconds": 1}),
    );
    if let Some(resources) = settings.resources.to_json() {
        set("resources", resources);
    }
    if native {
        set("restartPolicy", "Always".into());
    }
    set("securityContext", security(pod, settings));
    if native && settings.awaits {
        set(
            "startupProbe",
            json!({
                "httpGet": probe("/ready"),
                "initialDelaySeconds": 0,
                "periodSeconds": 1,
                "failureThreshold": 120,
            }),
        );
    }
    set("terminationMessagePolicy", "FallbackToLogsOnError".into());
    set("volumeMounts", volumes::mounts_of_proxy(pod, config).into());
    container
}

/// Hooks of a classic sidecar: Linkerd's holds the application back until it is ready (our image
/// has no program for that), and either stops later than the application if asked.
fn lifecycle(settings: &Settings) -> Option<Value> {
    let mut lifecycle = json!({});
    if settings.awaits && settings.flavour == Flavour::Linkerd {
        let port = format!("--port={}", settings.admin_port);
        let command = json!(["/usr/lib/linkerd/linkerd-await", "--timeout=2m", port]);
        lifecycle["postStart"] = json!({"exec": {"command": command}});
    }
    if settings.wait_before_exit_seconds > 0 {
        // The kubelet sleeps itself (Kubernetes 1.30 and later): the image needs no program.
        lifecycle["preStop"] = json!({"sleep": {"seconds": settings.wait_before_exit_seconds}});
    }
    lifecycle.as_object().is_some_and(|map| !map.is_empty()).then_some(lifecycle)
}

fn security(pod: &Value, settings: &Settings) -> Value {
    let mut security = json!({"allowPrivilegeEscalation": false});
    // A policy of the cluster that the application satisfies, the proxy should satisfy too.
    let capabilities = first_container(pod).map(|first| &first["securityContext"]["capabilities"]);
    if let Some(capabilities) = capabilities.filter(|value| value.is_object()) {
        security["capabilities"] = capabilities.clone();
    }
    security["readOnlyRootFilesystem"] = true.into();
    security["runAsNonRoot"] = true.into();
    security["runAsUser"] = settings.uid.into();
    if let Some(gid) = settings.gid {
        security["runAsGroup"] = gid.into();
    }
    security["seccompProfile"] = json!({"type": "RuntimeDefault"});
    security
}
