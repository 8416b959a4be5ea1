//! The three ways in which durations are written in manifests.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a duration: {reason}")]
pub struct BadDuration {
    /// The text as it came.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Reads a duration as annotations on services and routes write it: one whole number with a unit
/// of `ms`, `s`, `m`, `h` or `d`, or a bare `0`.
///
/// # Errors
///
/// Fractions, signs, missing units and values beyond the range are refused.
pub fn parse_annotation(text: &str) -> Result<Duration, BadDuration> {
    let bad = |reason| BadDuration { text: text.to_owned(), reason };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| bad("missing a unit"))?;
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad("expected a whole number and a unit"))?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad("the unit must be ms, s, m, h or d")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| bad("too long"))
}

/// Reads a duration of the Gateway API (GEP-2257): one to four whole numbers of up to five digits
/// with units `h`, `m`, `s`, `ms`, such as `1h30m` or `500ms`.
///
/// # Errors
///
/// Anything else is refused, fractions and signs too.
pub fn parse_gateway(text: &str) -> Result<Duration, BadDuration> {
    let bad = |reason| BadDuration { text: text.to_owned(), reason };
    let mut millis = 0;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 || digits > 5 {
            return Err(bad("expected one to five digits before each unit"));
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad("expected digits"))?;
        let unit = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(unit);
        millis += number
            * match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(bad("the unit must be h, m, s or ms")),
            };
        rest = after;
        parts += 1;
    }
    if (1..=4).contains(&parts) {
        Ok(Duration::from_millis(millis))
    } else {
        Err(bad("expected one to four numbers with units"))
    }
}

/// Reads a duration as Go programs write it, such as `1.5s`, `2m30s`, `100us` or `0`; used by
/// service profiles and proxy settings.
///
/// # Errors
///
/// Negative values are refused too: no setting of the mesh has a use for them.
pub fn parse_go(text: &str) -> Result<Duration, BadDuration> {
    let bad = |reason| BadDuration { text: text.to_owned(), reason };
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err(bad("must not be negative"));
    }
    if rest.is_empty() {
        return Err(bad("empty"));
    }
    let mut nanoseconds = 0_u128;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| bad("missing a unit"))?;
        let (number, after) = rest.split_at(end);
        number.parse::<f64>().map_err(|_| bad("expected a number before each unit"))?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad("the unit must be ns, us, ms, s, m or h")),
        };
        // Only fractions are rounded, to whole nanoseconds: no sum of wholes must lose one.
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = if whole.is_empty() { Ok(0) } else { whole.parse::<u64>() };
        let whole = whole.map_err(|_| bad("too long"))?;
        let fraction: f64 = format!("0.{fraction}0").parse().expect("digits alone");
        let rounded = (fraction * unit as f64).round() as u128;
        nanoseconds = nanoseconds.saturating_add(u128::from(whole) * u128::from(unit) + rounded);
        rest = after;
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| bad("too long"))?;
    let below = u32::try_from(nanoseconds % 1_000_000_000).expect("less than a second");
    Ok(Duration::new(seconds, below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parse: fn(&str) -> Result<Duration, BadDuration>, text: &str, expect_ms: Option<u64>) {
        let got = parse(text).ok();
        assert_eq!(got, expect_ms.map(Duration::from_millis), "{text:?}");
    }

    #[test]
    fn no_nanosecond_is_lost_in_a_long_sum() {
        for text in ["11h3011h3h7ms", "3025h7ms", "10890000007ms", "10890000.007s"] {
            check(parse_go, text, Some(10_890_000_007));
        }
        check(parse_go, "2.5m.5s", Some(150_500));
        for text in ["99999999999999999999h", "9999999999999999h9999999999999999h", ".", "1.2.3s"] {
            check(parse_go, text, None);
        }
    }

    #[test]
    fn annotations_take_one_whole_number_with_a_unit() {
        check(parse_annotation, "0", Some(0));
        check(parse_annotation, "250ms", Some(250));
        check(parse_annotation, "3s", Some(3_000));
        check(parse_annotation, "2m", Some(120_000));
        check(parse_annotation, "1h", Some(3_600_000));
        check(parse_annotation, "1d", Some(86_400_000));
        for bad in [
            "",
            "10",
            "1.5s",
            "-1s",
            "s",
            "1h30m",
            "1 s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            check(parse_annotation, bad, None);
        }
    }

    #[test]
    fn gateway_durations_add_up() {
        check(parse_gateway, "1h30m", Some(5_400_000));
        check(parse_gateway, "10s500ms", Some(10_500));
        check(parse_gateway, "0s", Some(0));
        for bad in ["", "1", "1.5s", "-1s", "123456s", "1d", "1s1s1s1s1s"] {
            check(parse_gateway, bad, None);
        }
    }

    #[test]
    fn go_durations_may_have_fractions() {
        check(parse_go, "1.5s", Some(1_500));
        check(parse_go, "2m30s", Some(150_000));
        check(parse_go, "0", Some(0));
        check(parse_go, "0.3s", Some(300));
        assert_eq!(parse_go("1500us"), Ok(Duration::from_micros(1500)));
        for bad in ["", "10", "-1s", "1x", "s"] {
            check(parse_go, bad, None);
        }
    }
}
