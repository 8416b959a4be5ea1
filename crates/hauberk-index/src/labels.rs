//! Labels of endpoints, as Linkerd's metrics and dashboards know them.

use crate::{derive::Derivation, relations::replica_set};
use hauberk_model::endpoints::Labels;
use hauberk_resources::{ExternalWorkload, Metadata, OwnerReference, Pod, Resource, annotations};
use std::sync::Arc;

/// Where an endpoint and its client are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zones<'a> {
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) client: Option<&'a str>,
}

impl Zones<'_> {
    /// `local`, `remote`, or `unknown` if one of the two zones is not known.
    fn locality(self) -> &'static str {
        match (self.endpoint, self.client) {
            (Some(endpoint), Some(client)) if endpoint == client => "local",
            (Some(_), Some(_)) => "remote",
            _ => "unknown",
        }
    }

    pub(crate) fn label(self, labels: &mut Labels) {
        put(labels, "zone", self.endpoint.unwrap_or_default());
        put(labels, "zone_locality", self.locality());
    }
}

pub(crate) fn put(labels: &mut Labels, key: &'static str, value: &str) {
    labels.insert(key.into(), value.into());
}

/// Labels of a pod. The pod was read by `derivation` before.
pub(crate) fn of_pod(derivation: &Derivation<'_>, pod: &Pod, zones: Zones<'_>) -> Labels {
    let mut labels = Labels::new();
    if let Some(owner) = owner(derivation, &pod.metadata) {
        label_owner(&mut labels, owner);
    }
    labels.insert("pod".into(), pod.metadata.name.clone());
    put(&mut labels, "serviceaccount", pod.spec.service_account());
    if let Some(namespace) = control_plane(pod) {
        put(&mut labels, "control_plane_ns", namespace);
    }
    if let Some(hash) = pod.metadata.label(annotations::POD_TEMPLATE_HASH) {
        put(&mut labels, "pod_template_hash", hash);
    }
    zones.label(&mut labels);
    labels
}

/// Labels of an external workload.
pub(crate) fn of_external(external: &ExternalWorkload, zones: Zones<'_>) -> Labels {
    let mut labels = Labels::new();
    if let [owner] = &external.metadata.owner_references[..] {
        label_owner(&mut labels, owner);
    }
    labels.insert("external_workload".into(), external.metadata.name.clone());
    zones.label(&mut labels);
    labels
}

/// The namespace of the control plane a pod's proxy belongs to, if it has a proxy.
pub(crate) fn control_plane(pod: &Pod) -> Option<&str> {
    pod.metadata.label(annotations::CONTROL_PLANE_NS).filter(|namespace| !namespace.is_empty())
}

/// The owner people know a pod by; none for a pod of its own or with several owners.
fn owner<'a>(derivation: &Derivation<'a>, pod: &'a Metadata) -> Option<&'a OwnerReference> {
    let [owner] = &pod.owner_references[..] else { return None };
    let replica_set = replica_set(pod).and_then(|key| derivation.owner_of(&key));
    if let Some(Resource::ReplicaSet(replica_set)) = replica_set
        && let [above] = &replica_set.metadata.owner_references[..]
        && matches!(&*above.kind, "Deployment" | "StatefulSet" | "DaemonSet" | "Job")
    {
        return Some(above);
    }
    Some(owner)
}

fn label_owner(labels: &mut Labels, owner: &OwnerReference) {
    // `job` is a label that Prometheus sets itself.
    let key: Arc<str> = match &*owner.kind {
        "Job" => "k8s_job".into(),
        kind => kind.to_ascii_lowercase().into(),
    };
    labels.insert(key, owner.name.clone());
}
