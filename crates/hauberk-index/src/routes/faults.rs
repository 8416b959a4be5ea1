//! Faults that a route injects by annotation: `fault.hauberk.io/delay` and `…/failure`.
//!
//! Neither the Gateway API nor Linkerd's resources have a field for them. Grammar: a value, then
//! perhaps `;percent=N` with up to two decimals; a delay is a duration of at most
//! [`DELAY_MAX`], a failure an HTTP status (HTTPRoute) or a gRPC code by name or number (GRPCRoute).
//! Faults come before all other filters of the route, and the delay before the failure.

use super::Unusable;
use hauberk_model::filter::{
    Delay, GrpcFilter, HttpFilter, InjectGrpcFailure, InjectHttpFailure, Ratio,
};
use hauberk_resources::{Metadata, annotations as keys, parse_annotation};
use http::StatusCode;
use std::time::Duration;

/// Longest delay; what is longer is a mistake in the unit rather than a wish.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What clients are told.
const MESSAGE: &str = "failure injected by the route";

/// gRPC's codes but `OK`, from 1 (<https://grpc.io/docs/guides/status-codes/>).
const CODES: [&str; 16] = [
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

pub(crate) fn http(route: &Metadata) -> Result<Vec<HttpFilter>, Unusable> {
    let failure = read(route, keys::FAULT_FAILURE, |text| {
        let status = text.parse().ok().filter(|status| (200..=599).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        status.ok_or_else(|| format!("'{text}' is no HTTP status from 200 to 599"))
    })?;
    let failure = failure.map(|(status, ratio)| {
        let message = MESSAGE.into();
        HttpFilter::InjectFailure(InjectHttpFailure { status, message, ratio })
    });
    Ok(delay(route)?.map(HttpFilter::Delay).into_iter().chain(failure).collect())
}

pub(crate) fn grpc(route: &Metadata) -> Result<Vec<GrpcFilter>, Unusable> {
    let failure = read(route, keys::FAULT_FAILURE, |text| {
        let by_name = (1..).zip(CODES).find(|(_, name)| *name == text).map(|(code, _)| code);
        let by_number = || text.parse().ok().filter(|code| (1..=16).contains(code));
        let code: Option<u16> = by_name.or_else(by_number);
        code.ok_or_else(|| {
            format!("'{text}' is no gRPC code; hint: a name such as unavailable, or 1 to 16")
        })
    })?;
    let failure = failure.map(|(code, ratio)| {
        let message = MESSAGE.into();
        GrpcFilter::InjectFailure(InjectGrpcFailure { code, message, ratio })
    });
    Ok(delay(route)?.map(GrpcFilter::Delay).into_iter().chain(failure).collect())
}

/// For routes whose requests the mesh does not see.
pub(crate) fn none(route: &Metadata) -> Result<(), Unusable> {
    for key in [keys::FAULT_DELAY, keys::FAULT_FAILURE] {
        if route.annotation(key).is_some() {
            return Err(format!("{key}: only HTTP and gRPC routes inject faults"));
        }
    }
    Ok(())
}

fn delay(route: &Metadata) -> Result<Option<Delay>, Unusable> {
    let delay = read(route, keys::FAULT_DELAY, |text| {
        let time = parse_annotation(text).map_err(|error| error.to_string())?;
        match time.is_zero() || time > DELAY_MAX {
            true => Err(format!("a delay is more than 0 and at most {}s", DELAY_MAX.as_secs())),
            false => Ok(time),
        }
    })?;
    Ok(delay.map(|(time, ratio)| Delay { time, ratio }))
}

/// Reads `VALUE[;percent=N]`.
fn read<T>(
    route: &Metadata,
    key: &str,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<(T, Ratio)>, Unusable> {
    let Some(text) = route.annotation(key) else { return Ok(None) };
    let (first, ratio) = match text.split_once(';') {
        None => (text, Ok(Ratio::ALL)),
        Some((first, rest)) => {
            let ratio = rest.trim().strip_prefix("percent=").and_then(percent);
            let why = || format!("'{}' is not percent=N with N from 0 to 100", rest.trim());
            (first, ratio.ok_or_else(why))
        }
    };
    let named = |why: String| format!("{key}: {why}");
    Ok(Some((value(first.trim()).map_err(named)?, ratio.map_err(named)?)))
}

/// `12` or `0.25`, of a hundred.
fn percent(text: &str) -> Option<Ratio> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || whole.len() > 3 || decimals.len() > 2 {
        return None;
    }
    let hundredths: u32 = format!("{decimals:0<2}").parse().ok()?;
    let numerator = whole.parse::<u32>().ok()? * 100 + hundredths;
    (numerator <= 10_000).then_some(Ratio { numerator, denominator: 10_000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_up_to_two_decimals() {
        let check = |text: &str, expect: Option<u32>| {
            assert_eq!(percent(text).map(|ratio| ratio.numerator), expect, "{text}");
        };
        check("0", Some(0));
        check("100", Some(10_000));
        check("0.5", Some(50));
        check("12.25", Some(1225));
        for bad in ["", "-1", "100.01", "101", "1.", ".5", "1.125", "+1", "1e1", "9999"] {
            check(bad, None);
        }
    }
}
