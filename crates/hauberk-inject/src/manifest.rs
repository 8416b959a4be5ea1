//! A Kubernetes object as a value, with lenses to the parts the injector reads and edits.
//!
//! The value keeps every field, known or not, and the order of its keys. A lens creates the
//! maps and lists it needs; an object where one of them is something else is refused before
//! any edit by [`Manifest::shape`].

use hauberk_resources::annotations;
use serde_json::{Map, Value, json};

/// Who made a pod, as the labels of the mesh name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As in a manifest: `Deployment`, `StatefulSet`, ….
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What role a kind plays for the injector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the template of a pod (or is one) at this path.
    Workload(&'static [&'static str]),
    /// A namespace, whose annotations speak for its pods.
    Namespace,
    /// A service, which may carry opaque ports.
    Service,
    /// Nothing the mesh changes.
    Other,
}

/// One Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The whole object.
    pub value: Value,
    /// Who owns it, where that is known from elsewhere; a workload owns the pods it makes.
    pub owner: Option<Owner>,
}

impl Manifest {
    /// An object as it was read.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self { value, owner: None }
    }

    /// The object with its owner, such as a pod in an admission request.
    #[must_use]
    pub fn owned_by(value: Value, owner: Owner) -> Self {
        Self { value, owner: Some(owner) }
    }

    /// The kind, empty if there is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// The name; for a pod that has none yet, what its name will begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        let metadata = &self.value["metadata"];
        let name = metadata["name"].as_str().filter(|name| !name.is_empty());
        name.or_else(|| metadata["generateName"].as_str()).unwrap_or_default()
    }

    /// The namespace, unless it is left to whoever applies the manifest.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str().filter(|name| !name.is_empty())
    }

    /// What the injector does with this kind.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.kind() {
            "Pod" => Role::Workload(&[]),
            "Deployment"
            | "DaemonSet"
            | "StatefulSet"
            | "ReplicaSet"
            | "ReplicationController"
            | "Job" => Role::Workload(&["spec", "template"]),
            "CronJob" => Role::Workload(&["spec", "jobTemplate", "spec", "template"]),
            "Namespace" => Role::Namespace,
            "Service" => Role::Service,
            _ => Role::Other,
        }
    }

    /// The pod or pod template: an object with `metadata` and `spec`.
    #[must_use]
    pub fn pod(&self) -> Option<&Value> {
        let Role::Workload(path) = self.role() else { return None };
        path.iter().try_fold(&self.value, |value, key| value.get(key)).filter(|v| v.is_object())
    }

    /// Like [`Manifest::pod`], to be edited.
    pub fn pod_mut(&mut self) -> Option<&mut Value> {
        let Role::Workload(path) = self.role() else { return None };
        let mut value = &mut self.value;
        for key in path {
            value = value.get_mut(key)?;
        }
        Some(value).filter(|value| value.is_object())
    }

    /// The annotations of the object itself that are text.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        texts(&self.value["metadata"]["annotations"])
    }

    /// Whether the object is part of the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        let key = annotations::CONTROL_PLANE_COMPONENT;
        let marked = |value: &Value| value["metadata"]["labels"].get(key).is_some();
        marked(&self.value) || self.pod().is_some_and(marked)
    }

    /// Who owns the pods: the given owner, or the object itself unless it is a pod.
    #[must_use]
    pub fn pod_owner(&self) -> Option<Owner> {
        let own = || Owner { kind: self.kind().to_owned(), name: self.name().to_owned() };
        match self.kind() {
            "Pod" => self.owner.clone(),
            _ => Some(self.owner.clone().unwrap_or_else(own)),
        }
    }

    /// Whether the parts an edit passes through are what Kubernetes says they are.
    ///
    /// # Errors
    /// Names the first part that is not.
    pub fn shape(&self) -> Result<(), String> {
        object_or_absent(&self.value, "metadata", "metadata")?;
        metadata_shape(&self.value, "")?;
        let Role::Workload(path) = self.role() else { return Ok(()) };
        let at = path.iter().fold(String::new(), |at, key| format!("{at}{key}."));
        let pod =
            self.pod().ok_or_else(|| format!("{at} is not an object").replace(". is", " is"))?;
        metadata_shape(pod, &at)?;
        let spec = pod.get("spec").filter(|spec| spec.is_object());
        let spec = spec.ok_or_else(|| format!("{at}spec is not an object"))?;
        for (list, required) in
            [("containers", true), ("initContainers", false), ("volumes", false)]
        {
            let fine = match spec.get(list) {
                Some(Value::Array(items)) => items.iter().all(Value::is_object),
                Some(Value::Null) | None => !required,
                Some(_) => false,
            };
            if !fine {
                return Err(format!("{at}spec.{list} is not a list of objects"));
            }
        }
        Ok(())
    }
}

fn metadata_shape(value: &Value, at: &str) -> Result<(), String> {
    object_or_absent(value, "metadata", &format!("{at}metadata"))?;
    for key in ["annotations", "labels"] {
        object_or_absent(&value["metadata"], key, &format!("{at}metadata.{key}"))?;
    }
    Ok(())
}

fn object_or_absent(value: &Value, key: &str, path: &str) -> Result<(), String> {
    match value.get(key) {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(format!("{path} is not an object")),
    }
}

/// The entries of a map that are text.
pub(crate) fn texts(map: &Value) -> impl Iterator<Item = (&str, &str)> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// The annotation of a pod, an empty one counting as absent.
pub(crate) fn annotation<'pod>(pod: &'pod Value, key: &str) -> Option<&'pod str> {
    pod["metadata"]["annotations"].get(key)?.as_str().filter(|value| !value.is_empty())
}

/// The map at `key`, created if it is absent or null.
pub(crate) fn map_at<'value>(
    value: &'value mut Value,
    key: &str,
) -> &'value mut Map<String, Value> {
    created(value, key, json!({})).as_object_mut().expect("shape() found a map or nothing here")
}

/// The list at `key`, created if it is absent or null.
pub(crate) fn list_at<'value>(value: &'value mut Value, key: &str) -> &'value mut Vec<Value> {
    created(value, key, json!([])).as_array_mut().expect("shape() found a list or nothing here")
}

fn created<'value>(value: &'value mut Value, key: &str, empty: Value) -> &'value mut Value {
    let map = value.as_object_mut().expect("the callers' values are maps");
    let entry = map.entry(key).or_insert(Value::Null);
    if entry.is_null() {
        *entry = empty;
    }
    entry
}

/// Sets an annotation or label (`key` says which) in the metadata of `value`.
pub(crate) fn set_metadata(value: &mut Value, key: &str, name: &str, text: &str) {
    map_at(value, "metadata"); // So that `get_mut` finds it.
    let metadata = value.get_mut("metadata").expect("created just now");
    map_at(metadata, key).insert(name.to_owned(), Value::from(text));
}

/// Init containers and containers of a pod, in the order they start.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |key: &str| pod["spec"][key].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

/// The first container of the application.
pub(crate) fn first_container(pod: &Value) -> Option<&Value> {
    pod["spec"]["containers"].as_array()?.first()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(value: Value) -> Result<(), String> {
        Manifest::new(value).shape()
    }

    #[test]
    fn shapes_that_cannot_be_edited_are_named() {
        let fine = json!({"kind": "Pod", "spec": {"containers": [{}], "volumes": null}});
        assert_eq!(shape(fine), Ok(()));
        assert_eq!(shape(json!({"kind": "ConfigMap", "spec": 3})), Ok(()));
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(shape(json!({"kind": "Pod"})), error("spec is not an object"));
        assert_eq!(
            shape(json!({"kind": "Deployment", "spec": {}})),
            error("spec.template is not an object")
        );
        assert_eq!(
            shape(json!({"kind": "Pod", "spec": {"containers": [3]}})),
            error("spec.containers is not a list of objects")
        );
        assert_eq!(
            shape(json!({"kind": "Job", "spec": {"template": {
                "metadata": {"annotations": "x"}, "spec": {"containers": []}}}})),
            error("spec.template.metadata.annotations is not an object")
        );
        assert_eq!(shape(json!({"metadata": []})), error("metadata is not an object"));
    }

    #[test]
    fn a_pod_without_a_name_goes_by_what_it_will_begin_with() {
        let pod = Manifest::new(json!({"kind": "Pod", "metadata": {"generateName": "web-"}}));
        assert_eq!((pod.name(), pod.namespace(), pod.pod_owner()), ("web-", None, None));
    }

    #[test]
    fn a_cron_job_has_its_pod_two_levels_down() {
        let value = json!({"kind": "CronJob", "metadata": {"name": "tidy"}, "spec":
            {"jobTemplate": {"spec": {"template": {"spec": {"x": 1}}}}}});
        let job = Manifest::new(value);
        assert_eq!(job.pod().expect("a template")["spec"]["x"], 1);
        let owner = job.pod_owner().expect("itself");
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("CronJob", "tidy"));
    }
}
