//! The lab's objects: what was applied, and what the runtime adds.
//!
//! The runtime is the API server of its lab. [`Objects`] is the whole state, owned by one task;
//! every change is written through to a directory with one JSON file for each object, which the
//! control plane watches. A file appears by rename, so a reader never sees half of one.
//!
//! Deliberately not here: watching, versions, conflicts. The one writer needs none of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Names one object. Kinds are distinguished by group, but not by version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// API group, empty for the core group.
    pub group: String,
    /// Kind, as `Deployment`.
    pub kind: String,
    /// Namespace, empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.to_lowercase(), self.name)?;
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// Kinds without a namespace that a lab may meet.
const CLUSTER_KINDS: [&str; 10] = [
    "Namespace",
    "Node",
    "PersistentVolume",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "StorageClass",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

impl Key {
    /// A key of the core group.
    pub fn core(kind: &str, namespace: &str, name: &str) -> Self {
        Self::new("", kind, namespace, name)
    }

    /// A key.
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let namespace = if CLUSTER_KINDS.contains(&kind) { "" } else { namespace };
        Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The key of a manifest, if it says what it is. Its namespace is `default` if it names none.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn of(manifest: &Value) -> Result<Self, String> {
        let text =
            |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let kind = text(&manifest["kind"]).ok_or("the object has no kind")?;
        let version =
            text(&manifest["apiVersion"]).ok_or(format!("the {kind} has no apiVersion"))?;
        let name = text(&manifest["metadata"]["name"]).ok_or(format!("the {kind} has no name"))?;
        let fine = |text: &str| !text.contains(['/', '\0']) && text != "." && text != "..";
        let namespace = text(&manifest["metadata"]["namespace"]).unwrap_or("default".to_owned());
        if ![&kind, &name, &namespace].into_iter().all(|text| fine(text)) {
            return Err(format!("the {kind} {name} has a name that no object can have"));
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        Ok(Self::new(group, &kind, &namespace, &name))
    }

    /// Name of the object's file.
    pub fn file_name(&self) -> String {
        let kind = self.kind.to_lowercase();
        let group = if self.group.is_empty() { "core" } else { &self.group };
        let namespace = if self.namespace.is_empty() { "_" } else { &self.namespace };
        format!("{kind}.{group}~{namespace}~{}.json", self.name)
    }
}

/// Whether a kind as typed (`deploy`, `Services`, `po`) means this kind.
pub fn is_kind(typed: &str, kind: &str) -> bool {
    let (typed, kind) = (typed.to_lowercase(), kind.to_lowercase());
    let short = match kind.as_str() {
        "pod" => "po",
        "service" => "svc",
        "deployment" => "deploy",
        "replicaset" => "rs",
        "statefulset" => "sts",
        "daemonset" => "ds",
        "namespace" => "ns",
        "serviceaccount" => "sa",
        "configmap" => "cm",
        "serviceprofile" => "sp",
        _ => "",
    };
    typed == kind
        || (typed == short && !short.is_empty())
        || typed == format!("{kind}s")
        || typed == format!("{kind}es")
        || kind.strip_suffix('y').is_some_and(|stem| typed == format!("{stem}ies"))
}

/// All objects of a lab.
#[derive(Debug)]
pub struct Objects {
    directory: PathBuf,
    all: BTreeMap<Key, Value>,
    version: u64,
}

impl Objects {
    /// An empty set that writes to `directory`, which must exist.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, all: BTreeMap::new(), version: 1 }
    }

    /// The directory with one file for each object.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.all.get(key)
    }

    /// All objects, ordered by group, kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.all.iter()
    }

    /// The objects of one kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.all.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// Puts an object in, unless an equal one is there. Tells whether anything changed.
    ///
    /// # Errors
    /// When the file cannot be written; the object is in then, but the control plane does not know.
    pub fn put(&mut self, key: Key, mut value: Value) -> io::Result<bool> {
        let metadata = &mut value["metadata"];
        let old = self.all.get(&key);
        let carried = |field: &str| old.map(|old| old["metadata"][field].clone());
        metadata["resourceVersion"] = carried("resourceVersion").unwrap_or(Value::Null);
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = carried("uid").unwrap_or_else(|| json!(new_uid()));
        }
        if metadata["creationTimestamp"].is_null() {
            let now = || json!(timestamp(std::time::SystemTime::now()));
            metadata["creationTimestamp"] = carried("creationTimestamp").unwrap_or_else(now);
        }
        if old == Some(&value) {
            return Ok(false);
        }
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let written = write_file(&self.directory.join(key.file_name()), &value);
        self.all.insert(key, value);
        written.map(|()| true)
    }

    /// Takes an object out. Tells whether it was there.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&mut self, key: &Key) -> io::Result<bool> {
        if self.all.remove(key).is_none() {
            return Ok(false);
        }
        std::fs::remove_file(self.directory.join(key.file_name())).map(|()| true)
    }
}

fn write_file(path: &Path, value: &Value) -> io::Result<()> {
    // Readers take names that end in .yaml, .yml or .json.
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec_pretty(value)?)?;
    std::fs::rename(&temporary, path)
}

/// A random unique id in the form of RFC 9562.
pub fn new_uid() -> String {
    let bits: u128 = rand::random();
    let version_4 = (bits & !(0xf << 76) | (4 << 76)) & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{version_4:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// RFC 3339 in UTC with whole seconds, as Kubernetes writes times.
pub fn timestamp(at: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_manifest() {
        let key = |value: Value| Key::of(&value);
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop"}});
        assert_eq!(key(deployment), Ok(Key::new("apps", "Deployment", "shop", "web")));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
        assert_eq!(key(namespace), Ok(Key::core("Namespace", "", "x")));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}});
        assert_eq!(key(pod).unwrap().namespace, "default");
        let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "../x"}});
        assert!(key(bad).is_err());
        assert_eq!(key(json!({"kind": "Pod"})), Err("the Pod has no apiVersion".to_owned()));
    }

    #[test]
    fn an_equal_object_changes_nothing_and_a_removed_one_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut objects = Objects::new(directory.path().to_owned());
        let key = Key::core("ConfigMap", "a", "b");
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "b", "namespace": "a"}, "data": {"k": "1"}});
        assert!(objects.put(key.clone(), value.clone()).unwrap());
        assert!(!objects.put(key.clone(), value.clone()).unwrap());
        let before = objects.get(&key).unwrap()["metadata"].clone();
        let mut changed = value;
        changed["data"]["k"] = json!("2");
        assert!(objects.put(key.clone(), changed).unwrap());
        let after = &objects.get(&key).unwrap()["metadata"];
        assert_eq!(after["uid"], before["uid"]);
        assert_ne!(after["resourceVersion"], before["resourceVersion"]);

        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names(), 1);
        assert!(objects.remove(&key).unwrap());
        assert!(!objects.remove(&key).unwrap());
        assert_eq!(names(), 0);
    }

    #[test]
    fn kinds_can_be_typed_short_and_plural() {
        for (typed, kind) in [
            ("po", "Pod"),
            ("pods", "Pod"),
            ("deploy", "Deployment"),
            ("Services", "Service"),
            ("httproutes", "HTTPRoute"),
            ("authorizationpolicies", "AuthorizationPolicy"),
        ] {
            assert!(is_kind(typed, kind), "{typed}");
        }
        assert!(!is_kind("", "Widget"));
        assert!(!is_kind("p", "Pod"));
    }

    #[test]
    fn ids_and_times_have_the_usual_form() {
        let uid = new_uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
        assert_eq!(timestamp(std::time::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
