//! Time limits and retries by annotation.
//!
//! Each is a group: if a route names any value of it, the whole group is the route's, else it is
//! the parent's. A bad value drops the group on a parent, and the route on a route.

use crate::routes::Unusable;
use hauberk_model::{
    backoff::Backoff,
    retry::{GrpcConditions, HttpConditions, Retry},
    timeout::Timeouts,
};
use hauberk_resources::{Metadata, annotations as keys, parse_annotation};
use std::{ops::RangeInclusive, time::Duration};

/// Largest request body that is kept for another attempt, in bytes; Linkerd's value.
const RETRY_BODY_BYTES_MAX: usize = 65_536;

/// Time limits and retries of a parent or a route.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    pub(super) timeouts: Timeouts,
    retry: Option<RetryText>,
}

/// What retries have in common, and the conditions of both protocols.
#[derive(Clone, Debug, Default)]
struct RetryText {
    limit: Option<u16>,
    timeout: Option<Duration>,
    http: Option<Vec<RangeInclusive<u16>>>,
    grpc: Option<GrpcConditions>,
}

impl Limits {
    /// Reads a parent's annotations; a group with a bad value is dropped.
    pub(super) fn of_parent(metadata: &Metadata) -> Self {
        Self {
            timeouts: timeouts(metadata).unwrap_or_default(),
            retry: retry(metadata).unwrap_or_default(),
        }
    }

    /// Reads a route's annotations, with the time limit of one of its rules, over its parent's.
    ///
    /// # Errors
    ///
    /// A bad value makes the route unusable.
    pub(super) fn of_route(
        metadata: &Metadata,
        rule_timeout: Option<Duration>,
        parent: &Self,
    ) -> Result<Self, Unusable> {
        let mut own = timeouts(metadata)?;
        if own.request.is_none() {
            own.request = rule_timeout;
        }
        let timeouts = if own == Timeouts::default() { parent.timeouts } else { own };
        let retry = retry(metadata)?.or_else(|| parent.retry.clone());
        Ok(Self { timeouts, retry })
    }

    pub(super) fn http_retry(&self) -> Option<Retry<HttpConditions>> {
        let text = self.retry.as_ref()?;
        if text.limit.is_none() && text.timeout.is_none() && text.http.is_none() {
            return None;
        }
        Some(text.with(HttpConditions(text.http.clone().unwrap_or_default())))
    }

    pub(super) fn grpc_retry(&self) -> Option<Retry<GrpcConditions>> {
        let text = self.retry.as_ref()?;
        if text.limit.is_none() && text.timeout.is_none() && text.grpc.is_none() {
            return None;
        }
        Some(text.with(text.grpc.unwrap_or_default()))
    }
}

impl RetryText {
    fn with<C>(&self, conditions: C) -> Retry<C> {
        let backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(250), 1.0);
        Retry {
            max_retries: self.limit.unwrap_or(1),
            max_request_bytes: RETRY_BODY_BYTES_MAX,
            conditions,
            timeout: self.timeout,
            backoff: Some(backoff.expect("25 ms is less than 250 ms")),
        }
    }
}

/// Zero switches a limit off.
fn timeouts(metadata: &Metadata) -> Result<Timeouts, Unusable> {
    let limit = |key| Ok::<_, Unusable>(duration(metadata, key)?.filter(|limit| !limit.is_zero()));
    Ok(Timeouts {
        request: limit(keys::TIMEOUT_REQUEST)?,
        response: limit(keys::TIMEOUT_RESPONSE)?,
        idle: limit(keys::TIMEOUT_IDLE)?,
    })
}

fn retry(metadata: &Metadata) -> Result<Option<RetryText>, Unusable> {
    let text = RetryText {
        limit: match metadata.annotation(keys::RETRY_LIMIT) {
            None => None,
            Some(text) => {
                let limit: u16 = text.parse().map_err(|_| bad(keys::RETRY_LIMIT, text))?;
                Some(limit).filter(|limit| *limit != 0)
            }
        },
        timeout: duration(metadata, keys::RETRY_TIMEOUT)?.filter(|limit| !limit.is_zero()),
        http: match metadata.annotation(keys::RETRY_HTTP) {
            None => None,
            Some(text) => Some(list(text, statuses).ok_or_else(|| bad(keys::RETRY_HTTP, text))?),
        },
        grpc: match metadata.annotation(keys::RETRY_GRPC) {
            None => None,
            Some(text) => Some(codes(text).ok_or_else(|| bad(keys::RETRY_GRPC, text))?),
        },
    };
    let is_empty = text.limit.is_none()
        && text.timeout.is_none()
        && text.http.is_none()
        && text.grpc.is_none();
    Ok((!is_empty).then_some(text))
}

fn list<T>(text: &str, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(one).collect()
}

/// `5xx`, `gateway-error`, a status, or a range of them.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
    match text {
        "5xx" => Some(500..=599),
        "gateway-error" => Some(502..=504),
        _ => match text.split_once('-') {
            None => status(text).map(|one| one..=one),
            Some((first, last)) => {
                let (first, last) = (status(first)?, status(last)?);
                (first <= last).then_some(first..=last)
            }
        },
    }
}

/// Whether a list of statuses can be read.
pub(crate) fn are_statuses(text: &str) -> bool {
    list(text, statuses).is_some()
}

/// Whether a list of gRPC codes can be read.
pub(crate) fn are_codes(text: &str) -> bool {
    codes(text).is_some()
}

fn codes(text: &str) -> Option<GrpcConditions> {
    let mut conditions = GrpcConditions::default();
    for code in text.split(',').map(str::trim).filter(|code| !code.is_empty()) {
        match code {
            "cancelled" => conditions.cancelled = true,
            "deadline-exceeded" => conditions.deadline_exceeded = true,
            "internal" => conditions.internal = true,
            "resource-exhausted" => conditions.resource_exhausted = true,
            "unavailable" => conditions.unavailable = true,
            _ => return None,
        }
    }
    Some(conditions)
}

fn duration(metadata: &Metadata, key: &str) -> Result<Option<Duration>, Unusable> {
    let text = metadata.annotation(key);
    text.map(parse_annotation).transpose().map_err(|error| format!("{key}: {error}"))
}

fn bad(key: &str, text: &str) -> Unusable {
    format!("{key}: '{text}' is not understood")
}
