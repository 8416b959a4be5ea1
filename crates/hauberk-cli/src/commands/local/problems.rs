//! What the control plane cannot read of a lab's objects, for `hauberk local get`.
//!
//! The controller tells it at `/problems` of its admin port: texts by object for annotations, by the
//! object's file for whole objects. It reads a changed object some milliseconds after the lab has
//! taken it, so a problem may appear, or go, that much later.

use std::collections::BTreeMap;

use anyhow::Context as _;
use hauberk_local::{api::PodRow, client::StateDirectory, objects};
use hauberk_resources::{Kind, ResourceKey};
use serde_json::{Value, json};

use super::fleet;

/// The control plane's workload.
const CONTROL_PLANE: (&str, &str) = ("linkerd", "deployment/linkerd-destination");
/// Its admin port.
const ADMIN_PORT: u16 = 9990;
/// The condition of an object that the control plane does not wholly understand. It is in nobody's
/// way: statuses are the server's, so a manifest that is applied again does not carry it along.
const CONDITION: &str = "hauberk.io/Understood";

/// Problems by object or file, as the controller tells them.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<String, Vec<String>>);

impl Problems {
    /// Asks the control plane of a lab; a lab without one has no problems.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn ask(state: &StateDirectory) -> anyhow::Result<Self> {
        let (namespace, workload) = CONTROL_PLANE;
        let is_control_plane = |pod: &PodRow| {
            let is_over = pod.phase == "Terminating";
            pod.namespace == namespace && pod.owner == workload && !is_over
        };
        match fleet::pods(state)?
            .iter()
            .filter(|pod| is_control_plane(pod))
            .max_by_key(|pod| pod.ready)
        {
            None => Ok(Self::default()),
            Some(pod) => Self::parse(&fleet::get(state, pod, ADMIN_PORT, "/problems")?),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let by_name = serde_json::from_str::<BTreeMap<String, Vec<String>>>(text);
        let by_name = by_name.context("it answers something else than problems")?;
        let last = |name: String| match name.rsplit_once('/') {
            // Whatever directory the control plane sees them in, files have their own names.
            Some((_, file)) if name.starts_with('/') => file.to_owned(),
            Some(_) | None => name,
        };
        Ok(Self(by_name.into_iter().map(|(name, texts)| (last(name), texts)).collect()))
    }

    /// The problems of an object, in a line; empty if there are none.
    pub(super) fn of(&self, object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = Kind::find(&text(&object["apiVersion"]), &text(&object["kind"]));
        let metadata = &object["metadata"];
        let by_object = kind.map(|kind| {
            ResourceKey::new(kind, text(&metadata["namespace"]), text(&metadata["name"]))
                .to_string()
        });
        let by_file = objects::Key::of(object).ok().map(|key| key.file_name());
        let names = by_object.iter().chain(&by_file);
        let texts = names.filter_map(|name| self.0.get(name)).flatten();
        texts.map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Writes the problems of an object into its status, as a condition.
    pub(super) fn write_to(&self, object: &mut Value) {
        let message = self.of(object);
        if message.is_empty() {
            return;
        }
        let condition = json!({
            "type": CONDITION, "status": "False", "reason": "CannotBeRead", "message": message,
        });
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        match object["status"]["conditions"].as_array_mut() {
            Some(conditions) => conditions.push(condition),
            None => object["status"]["conditions"] = json!([condition]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems() -> Problems {
        let answer = json!({
            "Service test/web": ["annotation a: 'x' is no number", "annotation b: no duration"],
            "HTTPRoute.gateway.networking.k8s.io test/web": ["annotation c: what"],
            "/.hauberk-lab/objects/httproute.policy.linkerd.io~test~web.json": ["no rules"],
        });
        Problems::parse(&answer.to_string()).unwrap()
    }

    fn object(version: &str, kind: &str, namespace: &str) -> Value {
        let metadata = json!({"name": "web", "namespace": namespace});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata})
    }

    #[test]
    fn each_object_gets_its_own_problems_by_name_or_file() {
        let problems = problems();
        let check = |object: Value, expect: &str| assert_eq!(problems.of(&object), expect);
        let of_service = "annotation a: 'x' is no number; annotation b: no duration";
        check(object("v1", "Service", "test"), of_service);
        check(object("v1", "Service", "other"), "");
        check(object("v1", "ConfigMap", "test"), "");
        check(object("gateway.networking.k8s.io/v1", "HTTPRoute", "test"), "annotation c: what");
        check(object("policy.linkerd.io/v1beta3", "HTTPRoute", "test"), "no rules");
    }

    #[test]
    fn a_problem_is_one_more_condition() {
        let mut route = object("policy.linkerd.io/v1beta3", "HTTPRoute", "test");
        problems().write_to(&mut route);
        let condition = json!({"type": "hauberk.io/Understood", "status": "False",
            "reason": "CannotBeRead", "message": "no rules"});
        assert_eq!(route["status"], json!({"conditions": [condition]}));
        let mut service = object("v1", "Service", "test");
        service["status"]["conditions"] = json!([{"type": "Other"}]);
        problems().write_to(&mut service);
        assert_eq!(service["status"]["conditions"].as_array().map(Vec::len), Some(2));
        let mut other = object("v1", "Service", "other");
        problems().write_to(&mut other);
        assert!(other.get("status").is_none(), "{other}");
    }

    #[test]
    fn what_is_not_problems_is_refused() {
        assert!(Problems::parse("[]").is_err() && Problems::parse("no JSON").is_err());
    }
}
