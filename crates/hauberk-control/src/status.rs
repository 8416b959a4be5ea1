//! Statuses as JSON: in the form of the Kubernetes API, and answered by the admin server.
//!
//! What is said comes from the index ([`hauberk_index::Status`]). Times of transition are left out:
//! whoever writes a status knows when it changes, whoever only shows it does not.

use std::collections::BTreeMap;

use hauberk_index::{Answer, CONTROLLER, Condition, Key, Refusal, Status};
use hauberk_process::admin::{self, Request, Response};
use hauberk_resources::{Kind, ParentRef, ResourceKey};
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::subscribe::Subscriber;

/// The `status` of an object.
///
/// Routes have `parents`, all else `conditions`. In a status that others write to as well, these
/// entries replace those of the same controller and nobody else's.
pub fn to_json(status: &Status) -> Value {
    let conditions = |conditions: &[Condition]| -> Value {
        conditions.iter().map(|one| condition(one, status.generation)).collect()
    };
    if !status.conditions.is_empty() {
        return json!({"conditions": conditions(&status.conditions)});
    }
    let parents = status.parents.iter().map(|on| {
        json!({
            "controllerName": CONTROLLER,
            "parentRef": parent_ref(&on.parent),
            "conditions": conditions(&on.conditions),
        })
    });
    json!({"parents": parents.collect::<Value>()})
}

fn condition(condition: &Condition, generation: Option<i64>) -> Value {
    let mut value = json!({
        "type": condition.kind.to_string(),
        "status": if condition.holds { "True" } else { "False" },
        "reason": condition.reason.to_string(),
        "message": condition.message,
    });
    if let Some(generation) = generation {
        value["observedGeneration"] = json!(generation);
    }
    value
}

/// As it was written, so that it is found again.
fn parent_ref(parent: &ParentRef) -> Value {
    let ParentRef { group, kind, namespace, name, section_name, port } = parent;
    let mut value = Map::from_iter([("name".to_owned(), json!(&**name))]);
    for (field, text) in
        [("group", group), ("kind", kind), ("namespace", namespace), ("sectionName", section_name)]
    {
        if let Some(text) = text {
            value.insert(field.to_owned(), json!(&**text));
        }
    }
    if let Some(port) = port {
        value.insert("port".to_owned(), json!(port));
    }
    Value::Object(value)
}

/// Answers `/status?kind=KIND&group=GROUP&namespace=NS&name=NAME` of the admin server; without a
/// group, `HTTPRoute` is that of the Gateway API.
#[derive(Clone, Debug)]
pub struct StatusRoute {
    pub(crate) subscriber: Subscriber,
}

impl StatusRoute {
    /// Answers a request of the admin server.
    pub async fn answer(self, request: Request) -> Response {
        let (code, value) = self.look(request.query.as_deref().unwrap_or_default()).await;
        admin::json(code, &value)
    }

    /// The status of one object; 404 if there is none of that name, 400 if the question or the kind
    /// makes no sense, 503 before the cluster has been listed.
    pub async fn look(&self, query: &str) -> (StatusCode, Value) {
        let error = |code, why: String| (code, json!({"error": why}));
        let key = match key(query) {
            Ok(key) => key,
            Err(why) => return error(StatusCode::BAD_REQUEST, why),
        };
        let answer = match self.subscriber.subscribe(Key::Status(key)).await {
            Ok(answer) => answer.borrow().clone(),
            Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, why.to_string()),
        };
        match answer {
            Answer::Status(status) => (StatusCode::OK, to_json(&status)),
            Answer::Refused(Refusal::NotFound(why)) => error(StatusCode::NOT_FOUND, why),
            Answer::Refused(Refusal::Invalid(why) | Refusal::Contradiction(why)) => {
                error(StatusCode::BAD_REQUEST, why)
            }
            Answer::Inbound(_)
            | Answer::Outbound(_)
            | Answer::Endpoints(_)
            | Answer::Profile(_) => unreachable!("each kind of key has its own kind of answer"),
        }
    }
}

fn key(query: &str) -> Result<ResourceKey, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs: BTreeMap<&str, &str> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    let get = |name: &str| pairs.get(name).copied().filter(|value| !value.is_empty());
    let hint = "hint: ?kind=HTTPRoute&namespace=default&name=web";
    let kind = get("kind").ok_or_else(|| format!("the query names no kind; {hint}"))?;
    let name = get("name").ok_or_else(|| format!("the query names no name; {hint}"))?;
    let of_kind = |known: &&Kind| {
        known.name().eq_ignore_ascii_case(kind)
            && get("group").is_none_or(|group| known.group() == group)
    };
    // Backwards, so that the Gateway API's HTTPRoute comes before Linkerd's own.
    let kind = Kind::ALL.iter().rev().find(of_kind);
    let kind = kind.copied().ok_or_else(|| "the mesh reads no such kind".to_owned())?;
    Ok(ResourceKey::new(kind, get("namespace").unwrap_or("default"), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_object_is_meant() {
        let check = |query: &str, expect: Result<&str, &str>| match (key(query), expect) {
            (Ok(key), Ok(shown)) => assert_eq!(key.to_string(), shown),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (key, expect) => panic!("{query}: {key:?}, not {expect:?}"),
        };
        check("kind=TCPRoute&name=r", Ok("TCPRoute.gateway.networking.k8s.io default/r"));
        check("name=r&kind=httproute&namespace=ns", Ok("HTTPRoute.gateway.networking.k8s.io ns/r"));
        check(
            "name=r&kind=HTTPRoute&namespace=ns&group=policy.linkerd.io",
            Ok("HTTPRoute.policy.linkerd.io ns/r"),
        );
        check("", Err("no kind"));
        check("kind=HTTPRoute", Err("no name"));
        check("kind=Secret&name=s", Err("reads no such kind"));
    }
}
