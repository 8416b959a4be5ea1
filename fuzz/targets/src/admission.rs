//! Admission reviews, as an API server (or whoever reaches the webhook) sends them.

use hauberk_control::admission::review::{AdmissionReview, Operation, answer};
use hauberk_resources::{Kind, Resource};
use serde_json::Value;

/// What the API server takes for all warnings together.
const WARNINGS_BYTES_MAX: usize = 4096;

pub(crate) fn check(data: &[u8]) {
    let (review, answer) = match (AdmissionReview::parse(data), answer(data)) {
        (Ok(review), Ok(answer)) => (review, answer),
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            assert!(one.to_string().len() < 2000, "{one}");
            return;
        }
        (one, other) => panic!("{one:?} but {other:?}"),
    };
    let response = &answer.review["response"];
    // What is skipped in a review may be no JSON in earnest, such as a number without bounds.
    if let Ok(written) = serde_json::from_slice::<Value>(data) {
        assert_eq!(answer.review["apiVersion"], written["apiVersion"]);
        assert_eq!(response["uid"], written["request"]["uid"]);
    }

    let request = review.request;
    let text =
        |pointer| request.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind::find(text("/apiVersion"), text("/kind"));
    let is_ours = text("/kind").is_empty() || kind.is_some_and(Kind::is_own);
    let since = request.object.pointer("/metadata/deletionTimestamp");
    let passes = request.operation == Operation::Other
        || !request.subresource.is_empty()
        || since.is_some_and(|since| !since.is_null());
    let is_read = Resource::parse(request.object.clone()).is_ok();
    assert_eq!(response["allowed"], passes || is_read || !is_ours, "{answer:?}");
    assert_eq!(response["allowed"], answer.refusal.is_none());

    let message = response["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(message.is_empty(), answer.refusal.is_none());
    let warnings = response["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    let warnings: Vec<&str> = warnings.iter().filter_map(Value::as_str).collect();
    assert!(warnings.iter().map(|warning| warning.len()).sum::<usize>() <= WARNINGS_BYTES_MAX);
    for text in warnings.into_iter().chain([message]) {
        assert!(text.len() <= 1024 && !text.contains(char::is_control), "{text:?}");
    }
}
