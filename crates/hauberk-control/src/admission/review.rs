//! An admission review: the question as bytes, the decision, the answer.
//!
//! The shapes are those of `admission.k8s.io/v1` and `v1beta1`, which are equal in all that is read
//! and written here (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>).
//! The answer has the version of the question.
//!
//! | question | answer |
//! |---|---|
//! | not JSON, no review, another version, without `uid`; CREATE or UPDATE without object | [`Malformed`], an HTTP status of 400 |
//! | DELETE, CONNECT, or an operation that we do not know | allowed |
//! | a subresource such as `status` | allowed: nobody could mend the object by it |
//! | an object that is being deleted | allowed: else its finalizers could not be taken away |
//! | any other CREATE or UPDATE | as [`Verdict`] says, with [`hauberk_index::warnings`] |
//!
//! A dry run is answered in the same way, because no answer has any effect.

use std::fmt;
use std::marker::PhantomData;

use hauberk_index::warnings;
use hauberk_resources::{Kind, Verdict};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// Most warnings in an answer, and bytes in one. The API server cuts at 256 characters each and at
/// 4096 together.
const WARNINGS_MAX: usize = 15;
const WARNING_BYTES_MAX: usize = 250;

/// Bytes of the message of a refusal. The parser quotes what it found, and that may be long.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What stands in place of the random end of a generated name: the API server adds it later.
const GENERATED: &str = "xxxxx";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not JSON, or not of the form of a review.
    #[error("cannot read the admission review: {0}")]
    Unreadable(String),
    /// It is an object of another kind or version.
    #[error(
        "expected AdmissionReview of admission.k8s.io/v1 or v1beta1, got {kind} of {api_version}"
    )]
    Unknown {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// Something is missing without which there is no answer.
    #[error("the admission review lacks {0}")]
    Lacks(&'static str),
}

/// A question of the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionReview {
    /// `admission.k8s.io/v1` or `admission.k8s.io/v1beta1`.
    api_version: &'static str,
    /// What is asked.
    pub request: AdmissionRequest,
}

/// What the API server is about to do.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionRequest {
    /// Ties the answer to the question.
    pub uid: String,
    /// What happens to the object.
    pub operation: Operation,
    /// The subresource, such as `status`; empty for the object itself.
    pub subresource: String,
    /// The object as it would be stored, with its kind, name and namespace filled in from the
    /// request where it has none; null where there is none.
    pub object: Value,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It is replaced.
    Update,
    /// It goes, is connected to, or something that we do not know.
    Other,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Allowed without a look at the object.
    Passed,
    /// Decided by the object.
    Judged(Verdict),
}

/// An answer, and what to count it as.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The `AdmissionReview` to send.
    pub review: Value,
    /// The kind of the object, if the mesh reads such and it was looked at.
    pub kind: Option<Kind>,
    /// One word for the decision.
    pub word: &'static str,
    /// Why the object is refused, if it is.
    pub refusal: Option<String>,
}

/// Answers a review; the whole of admission.
///
/// # Errors
/// If it is no review that can be answered.
pub fn answer(body: &[u8]) -> Result<Answer, Malformed> {
    let AdmissionReview { api_version, request } = AdmissionReview::parse(body)?;
    let uid = request.uid.clone();
    let decision = decide(request);
    let mut response = Map::from_iter([("uid".to_owned(), json!(uid))]);
    let refusal = decision.refusal();
    response.insert("allowed".to_owned(), json!(refusal.is_none()));
    if let Some(message) = &refusal {
        // Linkerd's validator of profiles answers by this code; kubectl prints the message only.
        let status = json!({
            "status": "Failure", "message": message, "reason": "BadRequest", "code": 400,
        });
        response.insert("status".to_owned(), status);
    }
    let warnings = decision.warnings();
    if !warnings.is_empty() {
        response.insert("warnings".to_owned(), json!(warnings));
    }
    let review =
        json!({"apiVersion": api_version, "kind": "AdmissionReview", "response": response});
    Ok(Answer { review, kind: decision.kind(), word: decision.word(), refusal })
}

/// Decides about a request.
#[must_use]
pub fn decide(request: AdmissionRequest) -> Decision {
    let is_going = request.object.pointer("/metadata/deletionTimestamp");
    let is_going = is_going.is_some_and(|since| !since.is_null());
    match request.operation {
        Operation::Create | Operation::Update if request.subresource.is_empty() && !is_going => {
            Decision::Judged(Verdict::of(request.object))
        }
        Operation::Create | Operation::Update | Operation::Other => Decision::Passed,
    }
}

impl Decision {
    /// Why the object is refused, if it is.
    fn refusal(&self) -> Option<String> {
        match self {
            Self::Judged(Verdict::Refused(invalid)) => {
                let hint = "hint: `hauberk validate FILE` says so without a cluster";
                let mistake = cut(&invalid.to_string(), MESSAGE_BYTES_MAX - hint.len() - 3);
                Some(format!("{mistake} ({hint})"))
            }
            Self::Judged(_) | Self::Passed => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let Self::Judged(verdict) = self else { return Vec::new() };
        let all = warnings(verdict);
        let more = all.len().saturating_sub(WARNINGS_MAX);
        let few = all.iter().take(WARNINGS_MAX).map(|text| cut(text, WARNING_BYTES_MAX));
        let rest = (more > 0).then(|| format!("and {more} more; `hauberk validate` tells all"));
        few.chain(rest).collect()
    }

    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Passed => None,
            Self::Judged(verdict) => verdict.kind(),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Judged(verdict) => verdict.word(),
        }
    }
}

/// The text in one line, and short.
fn cut(text: &str, bytes_max: usize) -> String {
    let line = text.replace(char::is_control, " ");
    if line.len() <= bytes_max {
        return line;
    }
    const MORE: &str = "…";
    let mut end = bytes_max.saturating_sub(MORE.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MORE}", &line[..end])
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenReview {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<MapOnly<WrittenRequest>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRequest {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: Option<MapOnly<WrittenKind>>,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct WrittenKind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    kind: String,
}

/// A struct that is read from a map; serde would take a list of its fields too.
struct MapOnly<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for MapOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Map(PhantomData)).map(Self)
    }
}

impl AdmissionReview {
    /// Reads a review.
    ///
    /// # Errors
    /// If it is none that can be answered.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |reason: &dyn fmt::Display| {
            Malformed::Unreadable(cut(&reason.to_string(), MESSAGE_BYTES_MAX))
        };
        let body = std::str::from_utf8(body).map_err(|error| unreadable(&error))?;
        let MapOnly(written): MapOnly<WrittenReview> =
            serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        let api_version = match (&*written.api_version, &*written.kind) {
            ("admission.k8s.io/v1", "AdmissionReview") => "admission.k8s.io/v1",
            ("admission.k8s.io/v1beta1", "AdmissionReview") => "admission.k8s.io/v1beta1",
            (api_version, kind) => {
                let (api_version, kind) = (cut(api_version, 100), cut(kind, 100));
                return Err(Malformed::Unknown { api_version, kind });
            }
        };
        let MapOnly(mut request) = written.request.ok_or(Malformed::Lacks("a request"))?;
        if request.uid.is_empty() {
            return Err(Malformed::Lacks("the request's uid"));
        }
        let operation = match &*request.operation {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            _ => Operation::Other,
        };
        let mut object = request.object.take();
        if operation != Operation::Other && object.is_null() {
            return Err(Malformed::Lacks("the request's object"));
        }
        complete(&mut object, &request);
        let subresource = request.sub_resource.unwrap_or_default();
        let request = AdmissionRequest { uid: request.uid, operation, subresource, object };
        Ok(Self { api_version, request })
    }
}

/// Fills in what the request knows and the object does not say: a new object may have no namespace
/// yet, and no name if that is to be generated.
fn complete(object: &mut Value, request: &WrittenRequest) {
    let Value::Object(object) = object else { return };
    let fill = |fields: &mut Map<String, Value>, key: &str, text: &str| {
        let is_there = fields.get(key).is_some_and(|value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
        if !is_there && !text.is_empty() {
            fields.insert(key.to_owned(), json!(text));
        }
    };
    if let Some(MapOnly(WrittenKind { group, version, kind })) = &request.kind {
        let api_version = match &**group {
            "" => version.clone(),
            group => format!("{group}/{version}"),
        };
        fill(object, "apiVersion", &api_version);
        fill(object, "kind", kind);
    }
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Value::Object(metadata) = metadata else { return };
    fill(metadata, "namespace", request.namespace.as_deref().unwrap_or_default());
    fill(metadata, "name", request.name.as_deref().unwrap_or_default());
    if let Some(prefix) = metadata.get("generateName").and_then(Value::as_str) {
        let generated = format!("{prefix}{GENERATED}");
        fill(metadata, "name", &generated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(api_version: &str, request: Value) -> Vec<u8> {
        let review =
            json!({"apiVersion": api_version, "kind": "AdmissionReview", "request": request});
        review.to_string().into_bytes()
    }

    fn create(object: Value) -> Value {
        json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "policy.linkerd.io", "version": "v1beta3", "kind": "Server"},
            "resource": {"group": "policy.linkerd.io", "version": "v1beta3", "resource": "servers"},
            "name": "web", "namespace": "shop", "operation": "CREATE", "object": object,
            "userInfo": {"username": "admin"}, "oldObject": null, "dryRun": false,
        })
    }

    fn server(spec: Value) -> Value {
        json!({
            "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
        })
    }

    fn good() -> Value {
        server(json!({"port": 80, "podSelector": {}}))
    }

    fn bad() -> Value {
        server(json!({"port": 80, "podSelector": {}, "proxyProtocol": "HTTP/3"}))
    }

    /// What the answer says beside the version.
    fn response(request: Value) -> Value {
        let answer = answer(&review("admission.k8s.io/v1", request)).expect("is answered");
        assert_eq!(answer.review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer.review["kind"], "AdmissionReview");
        assert_eq!(answer.review["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        answer.review["response"].clone()
    }

    #[track_caller]
    fn allows(request: Value) {
        let response = response(request);
        assert_eq!(response["allowed"], true, "{response}");
    }

    #[test]
    fn what_the_parser_reads_is_allowed_in_few_words() {
        let response = response(create(good()));
        let expect = json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true});
        assert_eq!(response, expect);
    }

    #[test]
    fn a_refusal_names_object_and_field_and_a_way_out() {
        let response = response(create(bad()));
        assert_eq!(response["allowed"], false);
        assert_eq!(
            (&response["status"]["code"], &response["status"]["status"]),
            (&json!(400), &json!("Failure"))
        );
        let message = response["status"]["message"].as_str().expect("a message");
        assert_eq!(
            message,
            "Server (policy.linkerd.io/v1beta3) shop/web: spec.proxyProtocol: unknown variant `HTTP/3`, \
             expected one of `unknown`, `HTTP/1`, `HTTP/2`, `gRPC`, `opaque`, `TLS` \
             (hint: `hauberk validate FILE` says so without a cluster)"
        );
    }

    #[test]
    fn the_answer_has_the_version_of_the_question() {
        let answer = answer(&review("admission.k8s.io/v1beta1", create(bad()))).expect("answered");
        assert_eq!(answer.review["apiVersion"], "admission.k8s.io/v1beta1");
        assert_eq!((answer.kind, answer.word), (Some(Kind::Server), "refused"));
    }

    #[test]
    fn what_goes_and_what_is_a_subresource_passes() {
        let with = |key: &str, value: Value| {
            let mut request = create(bad());
            request[key] = value;
            request
        };
        allows(with("operation", json!("CONNECT")));
        allows(with("operation", json!("LATER")));
        allows(with("subResource", json!("status")));
        let mut delete = with("operation", json!("DELETE"));
        (delete["object"], delete["oldObject"]) = (Value::Null, bad());
        allows(delete);
        let mut going = bad();
        going["metadata"]["deletionTimestamp"] = json!("2026-05-05T05:05:05Z");
        let mut request = create(going);
        request["operation"] = json!("UPDATE");
        allows(request);
        assert_eq!(response(with("operation", json!("UPDATE")))["allowed"], false);
        assert_eq!(response(with("dryRun", json!(true)))["allowed"], false);
    }

    #[test]
    fn kinds_of_others_are_allowed_with_a_warning_if_they_cannot_be_read() {
        let object = |api_version: &str, kind: &str, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        allows(create(object("v1", "ConfigMap", json!({}))));
        allows(create(object("policy.linkerd.io/v9", "Gadget", json!({}))));
        let newer = object("gateway.networking.k8s.io/v2", "HTTPRoute", json!({"rules": {"a": 1}}));
        let response = response(create(newer));
        assert_eq!(response["allowed"], true);
        let warning = response["warnings"][0].as_str().expect("a warning");
        assert!(
            warning.contains("spec.rules") && warning.ends_with("leaves it alone"),
            "{warning}"
        );
    }

    #[test]
    fn name_and_namespace_come_from_the_request_where_the_object_has_none() {
        // A policy for its own namespace, which only the request names.
        let policy = |namespace: &str| {
            json!({
                "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
                "metadata": {"generateName": "all-"},
                "spec": {"targetRef": {"kind": "Namespace", "name": namespace}},
            })
        };
        let mut request = create(policy("shop"));
        request["name"] = json!("");
        allows(request.clone());
        request["object"] = policy("other");
        let message = response(request)["status"]["message"].to_string();
        assert!(message.contains(" shop/all-xxxxx: spec.targetRef.name: "), "{message}");
        // And the kind, should the object not say it.
        let mut bare = good();
        bare.as_object_mut().expect("an object").retain(|key, _| key == "spec");
        allows(create(bare));
    }

    #[test]
    fn what_is_no_review_is_malformed() {
        let check = |body: &[u8], expect: &str| {
            let error = answer(body).expect_err(expect).to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check(b"", "cannot read the admission review: EOF");
        check(b"garbage", "cannot read the admission review: ");
        check(b"[1]", "cannot read the admission review: ");
        check(&[0xff; 100], "cannot read the admission review: ");
        check(b"{}", "expected AdmissionReview of admission.k8s.io/v1 or v1beta1, got  of ");
        check(&review("admission.k8s.io/v2", create(good())), "expected AdmissionReview of ");
        check(&review("admission.k8s.io/v1", Value::Null), "the admission review lacks a request");
        let mut request = create(good());
        request["uid"] = json!("");
        check(
            &review("admission.k8s.io/v1", request.clone()),
            "the admission review lacks the request's uid",
        );
        request["uid"] = json!("u");
        request["object"] = Value::Null;
        check(
            &review("admission.k8s.io/v1", request),
            "the admission review lacks the request's object",
        );
        // Deep nesting is refused and not the end of the process.
        let deep = format!("{{\"request\": {{\"object\": {}", "[".repeat(100_000));
        check(deep.as_bytes(), "cannot read the admission review: recursion limit exceeded");
        let list = json!(["admission.k8s.io/v1", "AdmissionReview", create(good())]).to_string();
        check(list.as_bytes(), "cannot read the admission review: invalid type: sequence");
    }

    #[test]
    fn answers_are_short_however_long_the_object_is() {
        let long = "ü".repeat(100_000);
        let response_ =
            response(create(server(json!({"port": 80, "podSelector": {}, "proxyProtocol": long}))));
        let message = response_["status"]["message"].as_str().expect("a message");
        assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with("cluster)"), "{message}");
        let mut object = good();
        for n in 0..100 {
            object["metadata"]["annotations"][format!("retry.linkerd.io/{n}{long}")] = json!("x");
        }
        let response = response(create(object));
        let warnings = response["warnings"].as_array().expect("warnings");
        assert_eq!(warnings.len(), WARNINGS_MAX + 1);
        let bytes = |warning: &Value| warning.as_str().map_or(0, str::len);
        assert!(warnings.iter().all(|warning| bytes(warning) <= WARNING_BYTES_MAX));
        assert!(warnings.iter().map(bytes).sum::<usize>() <= 4096);
    }
}
