//! The volumes a sidecar needs, and where they are mounted.

use serde_json::{Value, json};

use crate::{
    config::{InjectConfig, Token},
    decide::TOKEN_MOUNT,
    manifest::first_container,
};

/// Where the proxy keeps its key and certificate request.
pub(crate) const END_ENTITY_DIR: &str = "/var/run/linkerd/identity/end-entity";

/// Where the proxy reads labels and annotations of its pod.
pub(crate) const PODINFO_DIR: &str = "/var/run/linkerd/podinfo";

/// The token that proves the workload's identity.
pub(crate) const TOKEN_FILE: &str = "/var/run/secrets/tokens/linkerd-identity-token";

/// Name of the volume with the lock of `iptables`.
pub(crate) const XTABLES_LOCK: &str = "linkerd-proxy-init-xtables-lock";

/// Name of the volume with the proxy's key.
pub(crate) const END_ENTITY: &str = "linkerd-identity-end-entity";

/// Name of the volume with the pod's metadata.
pub(crate) const PODINFO: &str = "linkerd-podinfo";

/// Name of the volume with the token.
pub(crate) const IDENTITY_TOKEN: &str = "linkerd-identity-token";

/// Names of all volumes the injector adds.
pub(crate) const NAMES: &[&str] = &[XTABLES_LOCK, END_ENTITY, PODINFO, IDENTITY_TOKEN];

/// How long a token is valid; the kubelet renews it at 80 % of that.
const TOKEN_LIFETIME_SECONDS: u32 = 86_400;

/// The directory of `iptables`' lock, for the init container.
pub(crate) fn xtables_lock() -> Value {
    json!({"name": XTABLES_LOCK, "emptyDir": {}})
}

/// The volumes of the proxy.
pub(crate) fn of_proxy(config: &InjectConfig) -> Vec<Value> {
    let mut volumes = vec![json!({"name": END_ENTITY, "emptyDir": {"medium": "Memory"}})];
    if config.tracing.is_some() {
        let item = |path: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.{path}")}});
        volumes.push(json!({
            "name": PODINFO,
            "downwardAPI": {"items": [item("labels"), item("annotations")]},
        }));
    }
    if config.token == Token::Projected {
        volumes.push(json!({
            "name": IDENTITY_TOKEN,
            "projected": {"sources": [{"serviceAccountToken": {
                "path": "linkerd-identity-token",
                "expirationSeconds": TOKEN_LIFETIME_SECONDS,
                "audience": "identity.l5d.io",
            }}]},
        }));
    }
    volumes
}

/// The mounts of the proxy.
pub(crate) fn mounts_of_proxy(pod: &Value, config: &InjectConfig) -> Vec<Value> {
    let mut mounts = vec![json!({"name": END_ENTITY, "mountPath": END_ENTITY_DIR})];
    if config.tracing.is_some() {
        mounts.push(json!({"name": PODINFO, "mountPath": PODINFO_DIR}));
    }
    if config.token == Token::Projected {
        mounts.push(json!({"name": IDENTITY_TOKEN, "mountPath": "/var/run/secrets/tokens"}));
    }
    mounts.extend(account_mount(pod));
    mounts
}

/// The mount of the default token, if admission has given one to the application already.
pub(crate) fn account_mount(pod: &Value) -> Option<Value> {
    let mounts = first_container(pod)?["volumeMounts"].as_array()?;
    mounts.iter().find(|mount| mount["mountPath"] == TOKEN_MOUNT).cloned()
}
