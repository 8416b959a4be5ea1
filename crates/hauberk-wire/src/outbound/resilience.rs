//! Retries, back-off and circuit breaking, each way.

use std::ops::RangeInclusive;

use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::retry::{GrpcConditions, HttpConditions, Retry};

use crate::api::outbound as wire;
use crate::invalid::{Invalid, Required};
use crate::scalar;

fn backoff_to_wire(from: &Backoff, respect_retry_after_hint: bool) -> wire::ExponentialBackoff {
    wire::ExponentialBackoff {
        min_backoff: scalar::duration_to_wire(from.min()),
        max_backoff: scalar::duration_to_wire(from.max()),
        jitter_ratio: from.jitter_ratio(),
        respect_retry_after_hint,
    }
}

fn backoff_from_wire(wire: &wire::ExponentialBackoff) -> Result<Backoff, Invalid> {
    let min = scalar::required_duration("ExponentialBackoff.min_backoff", wire.min_backoff)?;
    let max = scalar::required_duration("ExponentialBackoff.max_backoff", wire.max_backoff)?;
    let described = || format!("{min:?} to {max:?}, jitter {}", wire.jitter_ratio);
    Backoff::new(min, max, wire.jitter_ratio)
        .map_err(|error| Invalid::malformed("ExponentialBackoff", described(), error))
}

pub(super) fn accrual_to_wire(from: &FailureAccrual) -> wire::FailureAccrual {
    use wire::failure_accrual::{ConsecutiveFailures, Kind, Unified};
    let kind = match &from.kind {
        FailureAccrualKind::Consecutive { max_failures, backoff } => {
            Kind::ConsecutiveFailures(ConsecutiveFailures {
                max_failures: *max_failures,
                backoff: Some(backoff_to_wire(backoff, false)),
            })
        }
        FailureAccrualKind::Unified {
            max_consecutive,
            success_rate_threshold,
            window,
            min_requests,
            backoff,
            honor_retry_after,
        } => Kind::Unified(Unified {
            success_rate_threshold: *success_rate_threshold,
            decay: scalar::duration_to_wire(*window),
            min_requests: *min_requests,
            max_consecutive_failures: *max_consecutive,
            backoff: Some(backoff_to_wire(backoff, *honor_retry_after)),
        }),
    };
    let min_ready_endpoints = from.min_ready_endpoints;
    let ejection =
        (min_ready_endpoints > 0).then_some(wire::EjectionConfig { min_ready_endpoints });
    wire::FailureAccrual { ejection, kind: Some(kind) }
}

pub(super) fn accrual_from_wire(wire: wire::FailureAccrual) -> Result<FailureAccrual, Invalid> {
    use wire::failure_accrual::Kind;
    let kind = match wire.kind.required("FailureAccrual.kind")? {
        Kind::ConsecutiveFailures(wire) => FailureAccrualKind::Consecutive {
            max_failures: wire.max_failures,
            backoff: backoff_from_wire(&wire.backoff.required("ConsecutiveFailures.backoff")?)?,
        },
        Kind::Unified(wire) => {
            let backoff = wire.backoff.required("Unified.backoff")?;
            let threshold = wire.success_rate_threshold;
            if !(0.0..=1.0).contains(&threshold) {
                let field = "Unified.success_rate_threshold";
                return Err(Invalid::malformed(field, threshold.to_string(), "must be 0 to 1"));
            }
            FailureAccrualKind::Unified {
                max_consecutive: wire.max_consecutive_failures,
                success_rate_threshold: threshold,
                window: scalar::required_duration("Unified.decay", wire.decay)?,
                min_requests: wire.min_requests,
                backoff: backoff_from_wire(&backoff)?,
                honor_retry_after: backoff.respect_retry_after_hint,
            }
        }
    };
    let min_ready_endpoints = wire.ejection.map_or(0, |ejection| ejection.min_ready_endpoints);
    Ok(FailureAccrual { kind, min_ready_endpoints })
}

fn request_bytes_to_wire(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn request_bytes_from_wire(field: &'static str, bytes: u32) -> Result<usize, Invalid> {
    usize::try_from(bytes).map_err(|_| Invalid::out_of_range(field, bytes))
}

pub(super) fn http_retry_to_wire(from: &Retry<HttpConditions>) -> wire::http_route::Retry {
    use wire::http_route::retry::{Conditions, conditions::StatusRange};
    let range = |range: &RangeInclusive<u16>| StatusRange {
        start: u32::from(*range.start()),
        end: u32::from(*range.end()),
    };
    wire::http_route::Retry {
        max_retries: from.max_retries.into(),
        max_request_bytes: request_bytes_to_wire(from.max_request_bytes),
        conditions: Some(Conditions {
            status_ranges: from.conditions.0.iter().map(range).collect(),
        }),
        timeout: from.timeout.and_then(scalar::duration_to_wire),
        backoff: from.backoff.as_ref().map(|backoff| backoff_to_wire(backoff, false)),
    }
}

pub(super) fn http_retry_from_wire(
    wire: wire::http_route::Retry,
) -> Result<Retry<HttpConditions>, Invalid> {
    let range = |range: wire::http_route::retry::conditions::StatusRange| {
        let start = scalar::ranged_u16("StatusRange.start", range.start)?;
        Ok(start..=scalar::ranged_u16("StatusRange.end", range.end)?)
    };
    let ranges = wire.conditions.unwrap_or_default().status_ranges.into_iter().map(range);
    Ok(Retry {
        max_retries: scalar::ranged_u16("Retry.max_retries", wire.max_retries)?,
        max_request_bytes: request_bytes_from_wire(
            "Retry.max_request_bytes",
            wire.max_request_bytes,
        )?,
        conditions: HttpConditions(ranges.collect::<Result<_, Invalid>>()?),
        timeout: scalar::duration("Retry.timeout", wire.timeout)?,
        backoff: wire.backoff.as_ref().map(backoff_from_wire).transpose()?,
    })
}

pub(super) fn grpc_retry_to_wire(from: &Retry<GrpcConditions>) -> wire::grpc_route::Retry {
    let conditions = wire::grpc_route::retry::Conditions {
        cancelled: from.conditions.cancelled,
        deadine_exceeded: from.conditions.deadline_exceeded,
        resource_exhausted: from.conditions.resource_exhausted,
        internal: from.conditions.internal,
        unavailable: from.conditions.unavailable,
    };
    wire::grpc_route::Retry {
        max_retries: from.max_retries.into(),
        max_request_bytes: request_bytes_to_wire(from.max_request_bytes),
        conditions: Some(conditions),
        timeout: from.timeout.and_then(scalar::duration_to_wire),
        backoff: from.backoff.as_ref().map(|backoff| backoff_to_wire(backoff, false)),
    }
}

pub(super) fn grpc_retry_from_wire(
    wire: wire::grpc_route::Retry,
) -> Result<Retry<GrpcConditions>, Invalid> {
    let conditions = wire.conditions.unwrap_or_default();
    Ok(Retry {
        max_retries: scalar::ranged_u16("Retry.max_retries", wire.max_retries)?,
        max_request_bytes: request_bytes_from_wire(
            "Retry.max_request_bytes",
            wire.max_request_bytes,
        )?,
        conditions: GrpcConditions {
            cancelled: conditions.cancelled,
            deadline_exceeded: conditions.deadine_exceeded,
            resource_exhausted: conditions.resource_exhausted,
            internal: conditions.internal,
            unavailable: conditions.unavailable,
        },
        timeout: scalar::duration("Retry.timeout", wire.timeout)?,
        backoff: wire.backoff.as_ref().map(backoff_from_wire).transpose()?,
    })
}
