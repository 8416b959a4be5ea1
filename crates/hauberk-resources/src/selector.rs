//! Label selectors.

use crate::view::nullable;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A Kubernetes label selector; the empty one selects everything.
///
/// Rules: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values.
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: Labels,
    /// Further conditions, all of which must hold.
    #[serde(default, deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// How the label's value is compared.
    pub operator: SelectorOperator,
    /// The values `In` and `NotIn` compare with.
    #[serde(default, deserialize_with = "nullable")]
    pub values: Vec<Arc<str>>,
}

/// How a [`Requirement`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SelectorOperator {
    /// The label is there with one of the values.
    In,
    /// The label is absent, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            SelectorOperator::In => value.is_some_and(|value| self.values.contains(value)),
            SelectorOperator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &str, expect: bool) {
        let parsed: LabelSelector = serde_json::from_str(selector).expect("a selector");
        let labels: Labels = serde_json::from_str(labels).expect("labels");
        assert_eq!(parsed.matches(&labels), expect, "{selector} on {labels:?}");
    }

    #[test]
    fn empty_selects_everything() {
        check("{}", "{}", true);
        check(r#"{"matchLabels":null}"#, r#"{"a":"b"}"#, true);
    }

    #[test]
    fn all_labels_must_match() {
        check(r#"{"matchLabels":{"a":"1","b":"2"}}"#, r#"{"a":"1","b":"2","c":"3"}"#, true);
        check(r#"{"matchLabels":{"a":"1","b":"2"}}"#, r#"{"a":"1"}"#, false);
    }

    #[test]
    fn operators() {
        let with = |operator: &str, values: &str| {
            format!(
                r#"{{"matchExpressions":[{{"key":"a","operator":"{operator}","values":{values}}}]}}"#
            )
        };
        check(&with("In", r#"["1"]"#), r#"{"a":"1"}"#, true);
        check(&with("In", r#"["1"]"#), "{}", false);
        check(&with("NotIn", r#"["1"]"#), r#"{"a":"1"}"#, false);
        check(&with("NotIn", r#"["1"]"#), r#"{"a":"2"}"#, true);
        check(&with("NotIn", r#"["1"]"#), "{}", true);
        check(&with("Exists", "null"), r#"{"a":""}"#, true);
        check(&with("Exists", "null"), "{}", false);
        check(&with("DoesNotExist", "[]"), "{}", true);
        check(&with("DoesNotExist", "[]"), r#"{"a":"1"}"#, false);
    }
}
