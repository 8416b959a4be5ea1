//! Timeouts and retries that a request asks for itself, where its route allows it.
//!
//! | header | value | meaning |
//! |---|---|---|
//! | `l5d-timeout`, `l5d-request-timeout` (counts if both are there) | duration | the whole request |
//! | `l5d-response-timeout` | duration | the response |
//! | `l5d-retry-http` | `5xx`, `gateway-error`, `503`, `500-504`, with commas | statuses tried again |
//! | `l5d-retry-grpc` | `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable` | codes tried again |
//! | `l5d-retry-limit` | number | most retries |
//! | `l5d-retry-timeout` | duration | the head of one attempt |
//!
//! As linkerd2-proxy v2 reads them; durations are written as in settings (`250ms`, `10s`). Taken
//! out of the request, also when a value cannot be read, which then says nothing. The caller asks only where the route allows it; elsewhere
//! they are headers like others.

use std::ops::RangeInclusive;
use std::time::Duration;

use hauberk_model::retry::GrpcConditions;
use hauberk_model::settings::value;
use hauberk_model::timeout::Timeouts;
use http::{HeaderMap, HeaderName};

use super::retries::Rules;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    request: Option<Duration>,
    response: Option<Duration>,
    statuses: Option<Vec<RangeInclusive<u16>>>,
    codes: Option<GrpcConditions>,
    limit: Option<u16>,
    timeout: Option<Duration>,
}

const TIMEOUT: HeaderName = HeaderName::from_static("l5d-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("l5d-request-timeout");
const RESPONSE_TIMEOUT: HeaderName = HeaderName::from_static("l5d-response-timeout");
const RETRY_HTTP: HeaderName = HeaderName::from_static("l5d-retry-http");
const RETRY_GRPC: HeaderName = HeaderName::from_static("l5d-retry-grpc");
const RETRY_LIMIT: HeaderName = HeaderName::from_static("l5d-retry-limit");
const RETRY_TIMEOUT: HeaderName = HeaderName::from_static("l5d-retry-timeout");

impl Overrides {
    /// Takes them out of `headers`.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let older = take(headers, &TIMEOUT, duration);
        Self {
            request: take(headers, &REQUEST_TIMEOUT, duration).or(older),
            response: take(headers, &RESPONSE_TIMEOUT, duration),
            statuses: take(headers, &RETRY_HTTP, statuses),
            codes: take(headers, &RETRY_GRPC, codes),
            limit: take(headers, &RETRY_LIMIT, |text| text.trim().parse().ok()),
            timeout: take(headers, &RETRY_TIMEOUT, duration),
        }
    }

    /// Timeouts of a route with these in their place.
    pub fn timeouts(&self, of_route: Timeouts) -> Timeouts {
        Timeouts {
            request: self.request.or(of_route.request),
            response: self.response.or(of_route.response),
            idle: of_route.idle,
        }
    }

    /// Retries of a route with these in their place; none if they are what the route has.
    pub fn retries(&self, of_route: Option<&Rules>) -> Option<Rules> {
        let is_silent = self.statuses.is_none()
            && self.codes.is_none()
            && self.limit.is_none()
            && self.timeout.is_none();
        if is_silent {
            return None;
        }
        let mut rules = of_route.cloned().unwrap_or_default();
        if let Some(statuses) = &self.statuses {
            rules.statuses.clone_from(statuses);
        } else if of_route.is_none() && self.codes.is_none() {
            rules.statuses = vec![500..=599];
        }
        rules.codes = self.codes.unwrap_or(rules.codes);
        rules.max_retries = self.limit.unwrap_or(rules.max_retries);
        rules.timeout = self.timeout.or(rules.timeout);
        Some(rules)
    }
}

/// Removes every value of `name` and reads the first.
fn take<T>(
    headers: &mut HeaderMap,
    name: &HeaderName,
    read: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let value = headers.remove(name)?;
    let read = value.to_str().ok().and_then(read);
    if read.is_none() {
        tracing::debug!(header = %name, "value of a request header not understood");
    }
    read
}

/// No limit at all is not something a request can ask for by zero.
fn duration(text: &str) -> Option<Duration> {
    value::duration(text).ok().filter(|duration| !duration.is_zero())
}

fn statuses(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.split(',').map(|item| range(item.trim())).collect()
}

fn range(item: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.parse().ok().filter(|status| (100..600).contains(status));
    match item {
        "5xx" => Some(500..=599),
        "gateway-error" => Some(502..=504),
        _ => match item.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (status(from)?, status(to)?);
                (from <= to).then_some(from..=to)
            }
            None => status(item).map(|status| status..=status),
        },
    }
}

fn codes(text: &str) -> Option<GrpcConditions> {
    let mut codes = GrpcConditions::default();
    for item in text.split(',') {
        match item.trim() {
            "cancelled" => codes.cancelled = true,
            "deadline-exceeded" => codes.deadline_exceeded = true,
            "internal" => codes.internal = true,
            "resource-exhausted" => codes.resource_exhausted = true,
            "unavailable" => codes.unavailable = true,
            _ => return None,
        }
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let value = HeaderValue::from_static;
        list.iter().map(|(n, v)| (HeaderName::from_static(n), value(v))).collect()
    }

    #[test]
    fn reads_and_removes_them() {
        let mut all = headers(&[
            ("l5d-timeout", "3s"),
            ("l5d-request-timeout", "2s"),
            ("l5d-response-timeout", "250ms"),
            ("l5d-retry-http", "gateway-error, 429,500-501"),
            ("l5d-retry-grpc", "unavailable,internal"),
            ("l5d-retry-limit", "4"),
            ("l5d-retry-timeout", "bad"),
            ("x-other", "stays"),
        ]);
        let overrides = Overrides::take(&mut all);
        assert_eq!((all.len(), all.contains_key("x-other")), (1, true));
        let timeouts = overrides.timeouts(Timeouts::default());
        assert_eq!(timeouts.request, Some(Duration::from_secs(2)));
        assert_eq!(timeouts.response, Some(Duration::from_millis(250)));
        let rules = overrides.retries(None).expect("asked for");
        assert_eq!((rules.max_retries, rules.timeout), (4, None));
        assert_eq!(rules.statuses, [502..=504, 429..=429, 500..=501]);
        assert!(rules.codes.unavailable && rules.codes.internal && !rules.codes.cancelled);
    }

    #[test]
    fn the_older_name_of_the_timeout_counts_alone() {
        let overrides = Overrides::take(&mut headers(&[("l5d-timeout", "3s")]));
        assert_eq!(overrides.timeouts(Timeouts::default()).request, Some(Duration::from_secs(3)));
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        let overrides = Overrides::take(&mut headers(&[]));
        let route = Timeouts { request: Some(Duration::from_secs(9)), ..Timeouts::default() };
        assert_eq!(overrides.timeouts(route), route);
        assert_eq!(overrides.retries(Some(&Rules::default())), None);
    }

    #[test]
    fn a_limit_alone_retries_server_errors() {
        let overrides = Overrides::take(&mut headers(&[("l5d-retry-limit", "2")]));
        assert_eq!(overrides.retries(None).expect("asked for").statuses, [500..=599]);
    }

    #[test]
    fn refuses_values_that_mean_nothing() {
        for bad in ["", "6xx", "99", "600", "504-500", "500,", "5xx,x"] {
            assert_eq!(statuses(bad), None, "{bad}");
        }
        assert_eq!(codes("unavailable,ok"), None);
        assert_eq!(duration("0"), None);
    }
}
