//! Taking an object out of the mesh: the reverse of everything the injector writes.
//!
//! Only what an injector added goes: the containers, volumes, labels and annotations by their
//! names. Other labels with a `linkerd.io/` prefix are the owner's and stay; Linkerd's own
//! tool drops those too.

use hauberk_resources::annotations;
use serde_json::{Map, Value};

use crate::{
    capture_init::{INIT, VALIDATOR},
    manifest::Manifest,
    sidecar::{ADDED, DEBUG, PROXY},
    volumes,
};

/// Whether something was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stripped {
    Something,
    Nothing,
}

/// Takes the sidecar and the membership out of an object.
pub(crate) fn strip(manifest: &mut Manifest) -> Stripped {
    let before = manifest.value.clone();
    let keeps_metadata = manifest.is_control_plane();
    if manifest.kind() == "Namespace" {
        metadata(&mut manifest.value, &[annotations::INJECT]);
    } else if let Some(pod) = manifest.pod_mut() {
        containers(pod);
        if !keeps_metadata {
            let added = added(pod);
            let mut names = vec![
                annotations::INJECT,
                annotations::CREATED_BY,
                annotations::PROXY_VERSION,
                annotations::TRUST_ROOT_SHA256,
                ADDED,
            ];
            names.extend(added.iter().map(String::as_str));
            metadata(pod, &names);
        }
    }
    if manifest.value == before { Stripped::Nothing } else { Stripped::Something }
}

/// The annotations an injector says it added beside the standard ones.
fn added(pod: &Value) -> Vec<String> {
    let list = pod["metadata"]["annotations"].get(ADDED).and_then(Value::as_str);
    let list = list.unwrap_or_default().split(',').map(str::trim);
    list.filter(|key| annotations::proxy_config(key).is_some()).map(str::to_owned).collect()
}

fn containers(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let named = |item: &Value, names: &[&str]| {
        item["name"].as_str().is_some_and(|name| names.contains(&name))
    };
    let has_proxy = ["initContainers", "containers"].iter().any(|list| {
        let items = spec.get(*list).and_then(Value::as_array).into_iter().flatten();
        items.into_iter().any(|item| named(item, &[PROXY, INIT, VALIDATOR]))
    });
    if !has_proxy {
        return;
    }
    drop_items(spec, "containers", |item| named(item, &[PROXY, DEBUG]));
    drop_items(spec, "initContainers", |item| named(item, &[PROXY, INIT, VALIDATOR]));
    drop_items(spec, "volumes", |item| named(item, volumes::NAMES));
}

/// Drops items of a list; a list that becomes empty goes as a whole.
fn drop_items(spec: &mut Map<String, Value>, list: &str, is_ours: impl Fn(&Value) -> bool) {
    let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else { return };
    let before = items.len();
    items.retain(|item| !is_ours(item));
    if items.is_empty() && before > 0 {
        spec.shift_remove(list);
    }
}

fn metadata(value: &mut Value, annotation_names: &[&str]) {
    let Some(holder) = value.as_object_mut() else { return };
    let Some(metadata) = holder.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let refused = metadata
        .get("annotations")
        .and_then(|annotations| annotations.get(annotations::INJECT))
        .is_some_and(|value| value == annotations::INJECT_DISABLED);
    let mut dropped = drop_keys(metadata, "annotations", |key| {
        annotation_names.contains(&key) && !(refused && key == annotations::INJECT)
    });
    dropped |= drop_keys(metadata, "labels", |key| {
        key == annotations::CONTROL_PLANE_NS
            || key == annotations::WORKLOAD_NS
            || key.strip_prefix(annotations::PROXY_OWNER_PREFIX).is_some_and(is_owner_kind)
    });
    if dropped && metadata.is_empty() {
        holder.shift_remove("metadata");
    }
}

fn is_owner_kind(kind: &str) -> bool {
    annotations::proxy_owner_label(kind).is_some()
}

/// Drops keys of a map; a map that becomes empty goes as a whole. Returns whether any went.
fn drop_keys(holder: &mut Map<String, Value>, map: &str, is_ours: impl Fn(&str) -> bool) -> bool {
    let Some(entries) = holder.get_mut(map).and_then(Value::as_object_mut) else { return false };
    let before = entries.len();
    entries.retain(|key, _| !is_ours(key));
    let dropped = entries.len() < before;
    if dropped && entries.is_empty() {
        holder.shift_remove(map);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(before: Value, expect: Value) {
        let mut manifest = Manifest::new(before.clone());
        let stripped = strip(&mut manifest);
        assert_eq!(manifest.value, expect);
        let nothing = stripped == Stripped::Nothing;
        assert_eq!(nothing, before == expect);
    }

    #[test]
    fn foreign_labels_and_refusals_stay() {
        check(
            json!({"kind": "Pod", "metadata": {
                "labels": {"linkerd.io/mine": "1", "linkerd.io/control-plane-ns": "linkerd",
                    "linkerd.io/proxy-deployment": "web", "linkerd.io/proxy-team": "a"},
                "annotations": {"linkerd.io/inject": "disabled", "linkerd.io/created-by": "x"}}}),
            json!({"kind": "Pod", "metadata": {
                "labels": {"linkerd.io/mine": "1", "linkerd.io/proxy-team": "a"},
                "annotations": {"linkerd.io/inject": "disabled"}}}),
        );
    }

    #[test]
    fn empty_maps_go_only_if_they_became_empty() {
        check(
            json!({"kind": "Namespace", "metadata": {"name": "a", "labels": {},
                "annotations": {"linkerd.io/inject": "enabled"}}}),
            json!({"kind": "Namespace", "metadata": {"name": "a", "labels": {}}}),
        );
        check(
            json!({"kind": "Pod", "metadata": {"annotations": {"linkerd.io/inject": "enabled"}}}),
            json!({"kind": "Pod"}),
        );
    }

    #[test]
    fn the_control_plane_keeps_its_metadata() {
        let labels = json!({"linkerd.io/control-plane-component": "destination",
            "linkerd.io/control-plane-ns": "linkerd"});
        check(
            json!({"kind": "Pod", "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "destination"}, {"name": "linkerd-proxy"}]}}),
            json!({"kind": "Pod", "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "destination"}]}}),
        );
    }

    #[test]
    fn other_kinds_are_not_touched() {
        let annotated = json!({"kind": "ConfigMap",
            "metadata": {"annotations": {"linkerd.io/inject": "enabled"}}});
        check(annotated.clone(), annotated);
    }
}
