//! Annotations of services and routes about failures: when an endpoint counts as broken, and what
//! failures do to its load.
//!
//! A bad value drops its whole group, as Linkerd does, because half of a breaker is worse than
//! none. Values that proxies refuse are bad too: one of them would void the whole policy.

use hauberk_model::{
    backoff::Backoff,
    failure_accrual::{FailureAccrual, FailureAccrualKind},
    outbound::{Load, PeakEwma},
};
use hauberk_resources::{Metadata, annotations as keys, parse_annotation};
use std::{str::FromStr, time::Duration};

/// Shortest window of success rates that proxies take.
const WINDOW_MIN: Duration = Duration::from_millis(10);
/// Most requests that proxies take as the least in a window.
const REQUESTS_MAX: u32 = 1_000_000;

/// When an endpoint counts as broken; none unless the service, or the route, asks for it.
pub(crate) fn breaker(service: &Metadata) -> Option<FailureAccrual> {
    let min_ready_endpoints = value(service, keys::FAILURE_ACCRUAL_MIN_READY, 0)?;
    let max_failures = || value(service, keys::FAILURE_ACCRUAL_MAX_FAILURES, 7);
    let kind = match service.annotation(keys::FAILURE_ACCRUAL)? {
        "consecutive" => FailureAccrualKind::Consecutive {
            max_failures: max_failures()?,
            backoff: backoff(service)?,
        },
        "unified" => {
            let threshold: f64 = value(service, keys::FAILURE_ACCRUAL_SUCCESS_RATE_THRESHOLD, 0.8)?;
            let window = duration(
                service,
                keys::FAILURE_ACCRUAL_SUCCESS_RATE_WINDOW,
                Duration::from_secs(10),
            )?;
            let min_requests = value(service, keys::FAILURE_ACCRUAL_SUCCESS_RATE_MIN_REQUESTS, 5)?;
            let is_fine = (0.0..=1.0).contains(&threshold)
                && (threshold == 0.0 || window >= WINDOW_MIN)
                && min_requests <= REQUESTS_MAX;
            if !is_fine {
                return None;
            }
            FailureAccrualKind::Unified {
                max_consecutive: max_failures()?,
                success_rate_threshold: threshold,
                window,
                min_requests,
                backoff: backoff(service)?,
                honor_retry_after: value(service, keys::FAILURE_ACCRUAL_HONOR_RETRY_AFTER, false)?,
            }
        }
        _ => return None,
    };
    Some(FailureAccrual { kind, min_ready_endpoints })
}

/// How the load of a service's endpoints is estimated.
pub(crate) fn load(service: &Metadata) -> Load {
    penalised(service).unwrap_or_default()
}

fn penalised(service: &Metadata) -> Option<Load> {
    if !value(service, keys::PENALIZE_FAILURES, false)? {
        return None;
    }
    Some(Load::PenaltyPeakEwma {
        ewma: PeakEwma::default(),
        penalty: duration(service, keys::LOAD_BIASER_PENALTY, Duration::from_secs(5))?,
        max_retry_after: duration(
            service,
            keys::LOAD_BIASER_MAX_RETRY_AFTER,
            Duration::from_secs(300),
        )?,
    })
}

fn backoff(service: &Metadata) -> Option<Backoff> {
    let min = duration(service, keys::FAILURE_ACCRUAL_MIN_PENALTY, Duration::from_secs(1))?;
    let max = duration(service, keys::FAILURE_ACCRUAL_MAX_PENALTY, Duration::from_secs(60))?;
    let jitter = value(service, keys::FAILURE_ACCRUAL_JITTER_RATIO, 0.5)?;
    Backoff::new(min, max, jitter).ok()
}

/// The value of an annotation, the default if it is absent, none if it is bad.
pub(crate) fn value<T: FromStr>(service: &Metadata, key: &str, default: T) -> Option<T> {
    match service.annotation(key) {
        None => Some(default),
        Some(text) => text.trim().parse().ok(),
    }
}

/// The same for a length of time.
pub(crate) fn duration(service: &Metadata, key: &str, default: Duration) -> Option<Duration> {
    match service.annotation(key) {
        None => Some(default),
        Some(text) => parse_annotation(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(annotations: &[(&str, &str)], expect: &str) {
        let metadata = Metadata {
            annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Metadata::default()
        };
        let got = match breaker(&metadata).map(|breaker| breaker.kind) {
            None => "none".to_owned(),
            Some(FailureAccrualKind::Consecutive { max_failures, backoff }) => format!(
                "consecutive {max_failures} {:?}..{:?} {}",
                backoff.min(),
                backoff.max(),
                backoff.jitter_ratio()
            ),
            Some(FailureAccrualKind::Unified {
                max_consecutive,
                success_rate_threshold,
                window,
                min_requests,
                honor_retry_after,
                ..
            }) => format!(
                "unified {max_consecutive} {success_rate_threshold} {window:?} {min_requests} {honor_retry_after}"
            ),
        };
        assert_eq!(got, expect, "{annotations:?}");
    }

    #[test]
    fn consecutive_has_linkerds_defaults() {
        check(&[], "none");
        check(&[(keys::FAILURE_ACCRUAL, "consecutive")], "consecutive 7 1s..60s 0.5");
        check(
            &[
                (keys::FAILURE_ACCRUAL, "consecutive"),
                (keys::FAILURE_ACCRUAL_MAX_FAILURES, "3"),
                (keys::FAILURE_ACCRUAL_MIN_PENALTY, "500ms"),
                (keys::FAILURE_ACCRUAL_MAX_PENALTY, "2m"),
                (keys::FAILURE_ACCRUAL_JITTER_RATIO, "1.0"),
            ],
            "consecutive 3 500ms..120s 1",
        );
    }

    #[test]
    fn a_bad_value_drops_the_whole_group() {
        let with = |key, value| [(keys::FAILURE_ACCRUAL, "consecutive"), (key, value)];
        check(&with(keys::FAILURE_ACCRUAL_MAX_FAILURES, "-1"), "none");
        check(&with(keys::FAILURE_ACCRUAL_MIN_PENALTY, "1.5s"), "none");
        check(&with(keys::FAILURE_ACCRUAL_MAX_PENALTY, "0"), "none");
        check(&with(keys::FAILURE_ACCRUAL_MIN_PENALTY, "2m"), "none");
        check(&with(keys::FAILURE_ACCRUAL_MIN_READY, "some"), "none");
        check(&[(keys::FAILURE_ACCRUAL, "always")], "none");
    }

    #[test]
    fn unified_refuses_what_proxies_refuse() {
        let with = |key, value| [(keys::FAILURE_ACCRUAL, "unified"), (key, value)];
        check(&[(keys::FAILURE_ACCRUAL, "unified")], "unified 7 0.8 10s 5 false");
        check(&with(keys::FAILURE_ACCRUAL_SUCCESS_RATE_WINDOW, "9ms"), "none");
        check(&with(keys::FAILURE_ACCRUAL_SUCCESS_RATE_MIN_REQUESTS, "1000001"), "none");
        check(&with(keys::FAILURE_ACCRUAL_SUCCESS_RATE_THRESHOLD, "1.5"), "none");
        check(&with(keys::FAILURE_ACCRUAL_HONOR_RETRY_AFTER, "true"), "unified 7 0.8 10s 5 true");
    }

    #[test]
    fn the_endpoints_that_stay_in_use_are_asked_for_beside_any_kind() {
        for kind in ["consecutive", "unified"] {
            let annotations = [
                (keys::FAILURE_ACCRUAL.into(), kind.into()),
                (keys::FAILURE_ACCRUAL_MIN_READY.into(), "2".into()),
            ];
            let metadata = Metadata { annotations: annotations.into(), ..Metadata::default() };
            let stay = breaker(&metadata).map(|breaker| breaker.min_ready_endpoints);
            assert_eq!(stay, Some(2), "{kind}");
        }
    }

    #[test]
    fn failures_count_as_load_only_on_request() {
        assert_eq!(load(&Metadata::default()), Load::default());
        let annotations = [(keys::PENALIZE_FAILURES.into(), "true".into())];
        let metadata = Metadata { annotations: annotations.into(), ..Metadata::default() };
        let Load::PenaltyPeakEwma { penalty, .. } = load(&metadata) else {
            panic!("failures are penalised");
        };
        assert_eq!(penalty, Duration::from_secs(5));
    }
}
