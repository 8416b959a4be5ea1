//! `ServiceProfile`: routes, retries and traffic splits of a service, in the older form.
//!
//! Conditions, patterns and durations are understood here, so that a profile with a mistake is
//! refused as a whole and the one before it stays in force.

use crate::{duration::parse_go, metadata::Metadata, view::nullable};
use hauberk_model::{
    Pattern,
    endpoints::Labels,
    profile::{ProfileRoute, RequestMatch, ResponseClass, ResponseMatch},
    retry::RetryBudget,
};
use serde::{Deserialize, Deserializer, de};
use std::{sync::Arc, time::Duration};

/// Routes, retries and traffic splits of a service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServiceProfile {
    /// Name (the service's full DNS name), labels, annotations.
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
}

impl ServiceProfile {
    /// Routes in order; the first that matches counts.
    pub fn routes(&self) -> &Arc<[ProfileRoute]> {
        &self.spec.routes
    }

    /// Limit of retries, if one is named.
    pub fn retry_budget(&self) -> Option<RetryBudget> {
        self.spec.retry_budget
    }

    /// Traffic split; empty means none.
    pub fn dst_overrides(&self) -> &[DstOverride] {
        &self.spec.dst_overrides
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, deserialize_with = "routes")]
    routes: Arc<[ProfileRoute]>,
    #[serde(default, deserialize_with = "retry_budget")]
    retry_budget: Option<RetryBudget>,
    #[serde(default, deserialize_with = "nullable")]
    dst_overrides: Vec<DstOverride>,
}

/// A share of the traffic for another target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DstOverride {
    /// The other target; the port is optional.
    pub authority: Arc<str>,
    /// Relative weight; 10000 for the quantity `1`.
    #[serde(deserialize_with = "weight")]
    pub weight: u32,
}

fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[ProfileRoute]>, D::Error> {
    let written = Option::<Vec<WrittenRoute>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(written.into_iter().map(WrittenRoute::understood).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRoute {
    name: Arc<str>,
    #[serde(deserialize_with = "request_match")]
    condition: RequestMatch,
    #[serde(default, deserialize_with = "nullable")]
    response_classes: Vec<WrittenClass>,
    #[serde(default, deserialize_with = "nullable")]
    is_retryable: bool,
    #[serde(default, deserialize_with = "timeout")]
    timeout: Option<Duration>,
}

impl WrittenRoute {
    fn understood(self) -> ProfileRoute {
        let class = |class: WrittenClass| ResponseClass {
            condition: class.condition,
            is_failure: class.is_failure,
        };
        ProfileRoute {
            condition: self.condition,
            response_classes: self.response_classes.into_iter().map(class).collect(),
            labels: Arc::new(Labels::from([("route".into(), self.name)])),
            is_retryable: self.is_retryable,
            timeout: self.timeout,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenClass {
    #[serde(deserialize_with = "response_match")]
    condition: ResponseMatch,
    #[serde(default, deserialize_with = "nullable")]
    is_failure: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenRequestMatch {
    all: Option<Vec<WrittenRequestMatch>>,
    any: Option<Vec<WrittenRequestMatch>>,
    not: Option<OneOrMany<WrittenRequestMatch>>,
    path_regex: Option<String>,
    method: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenResponseMatch {
    all: Option<Vec<WrittenResponseMatch>>,
    any: Option<Vec<WrittenResponseMatch>>,
    not: Option<OneOrMany<WrittenResponseMatch>>,
    status: Option<StatusRange>,
}

/// `not` is one condition in Linkerd's code and a list in its schema; both are taken, the list as
/// "none of these".
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(Box<T>),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![*one],
            Self::Many(many) => many,
        }
    }
}

/// Zero means that the side is open.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusRange {
    min: u16,
    max: u16,
}

fn request_match<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RequestMatch, D::Error> {
    WrittenRequestMatch::deserialize(deserializer)?.understood().map_err(de::Error::custom)
}

fn response_match<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ResponseMatch, D::Error> {
    WrittenResponseMatch::deserialize(deserializer)?.understood().map_err(de::Error::custom)
}

const EMPTY_CONDITION: &str = "a condition must name at least one thing to match";

impl WrittenRequestMatch {
    fn understood(self) -> Result<RequestMatch, String> {
        let each =
            |list: Vec<Self>| list.into_iter().map(Self::understood).collect::<Result<Vec<_>, _>>();
        let mut parts = Vec::new();
        if let Some(all) = self.all {
            parts.push(RequestMatch::All(each(all)?));
        }
        if let Some(any) = self.any {
            parts.push(RequestMatch::Any(each(any)?));
        }
        if let Some(not) = self.not {
            parts.push(RequestMatch::Not(Box::new(RequestMatch::Any(each(not.into_vec())?))));
        }
        if let Some(path) = self.path_regex {
            let pattern = Pattern::new(&path).map_err(|error| error.to_string())?;
            parts.push(RequestMatch::Path(pattern));
        }
        if let Some(method) = self.method {
            let method = method.parse().map_err(|_| format!("'{method}' is no HTTP method"))?;
            parts.push(RequestMatch::Method(method));
        }
        match parts.len() {
            0 => Err(EMPTY_CONDITION.to_owned()),
            1 => Ok(parts.remove(0)),
            _several => Ok(RequestMatch::All(parts)),
        }
    }
}

impl WrittenResponseMatch {
    fn understood(self) -> Result<ResponseMatch, String> {
        let each =
            |list: Vec<Self>| list.into_iter().map(Self::understood).collect::<Result<Vec<_>, _>>();
        let mut parts = Vec::new();
        if let Some(all) = self.all {
            parts.push(ResponseMatch::All(each(all)?));
        }
        if let Some(any) = self.any {
            parts.push(ResponseMatch::Any(each(any)?));
        }
        if let Some(not) = self.not {
            parts.push(ResponseMatch::Not(Box::new(ResponseMatch::Any(each(not.into_vec())?))));
        }
        if let Some(status) = self.status {
            let min = if status.min == 0 { 100 } else { status.min };
            let max = if status.max == 0 { 599 } else { status.max };
            if !(100..=599).contains(&min) || !(100..=599).contains(&max) || min > max {
                return Err(format!("{min} to {max} is no range of statuses within 100 to 599"));
            }
            parts.push(ResponseMatch::Status(min..=max));
        }
        match parts.len() {
            0 => Err(EMPTY_CONDITION.to_owned()),
            1 => Ok(parts.remove(0)),
            _several => Ok(ResponseMatch::All(parts)),
        }
    }
}

/// Reads a timeout; absent, empty and zero mean none.
fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let written = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    let timeout = written.map(|text| parse_go(&text)).transpose().map_err(de::Error::custom)?;
    Ok(timeout.filter(|timeout| !timeout.is_zero()))
}

fn retry_budget<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RetryBudget>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Written {
        retry_ratio: f32,
        min_retries_per_second: u32,
        ttl: String,
    }
    let Some(written) = Option::<Written>::deserialize(deserializer)? else { return Ok(None) };
    let ttl = parse_go(&written.ttl).map_err(de::Error::custom)?;
    // A proxy refuses a whole profile whose budget is out of these bounds.
    if !(0.0..=1000.0).contains(&written.retry_ratio) {
        return Err(de::Error::custom("retryRatio must be between 0 and 1000"));
    }
    if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&ttl) {
        return Err(de::Error::custom("ttl must be between 1s and 60s"));
    }
    Ok(Some(RetryBudget {
        retry_ratio: written.retry_ratio,
        min_retries_per_second: written.min_retries_per_second,
        ttl,
    }))
}

/// Reads a Kubernetes quantity as ten-thousandths.
fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let bad = |text: &str| de::Error::custom(format!("'{text}' is no weight; expected 500m or 2"));
    let text = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::String(text) => text,
        other => return Err(bad(&other.to_string())),
    };
    let (number, unit) = match text.strip_suffix(['m', 'k', 'M']) {
        Some(number) => (number, text.chars().last()),
        None => (&*text, None),
    };
    let number: f64 = number.parse().map_err(|_| bad(&text))?;
    let factor = match unit {
        Some('m') => 10.0,
        Some('k') => 1e7,
        Some(_) => 1e10,
        None => 1e4,
    };
    let weight = (number * factor).round();
    if !(0.0..=f64::from(u32::MAX)).contains(&weight) {
        return Err(bad(&text));
    }
    Ok(weight as u32)
}
