//! What a response's head says about the endpoint's health, beyond success and failure.
//!
//! Asked by the request path only where the balancer listens (penalties for failures, breakers that
//! honour `Retry-After`). Pure. A failure is 429, any 5xx, or a trailers-only gRPC response with a code
//! that is the server's fault or says that it is busy; codes in trailers come too late for the
//! load estimate and are not looked at (linkerd2-proxy v2). How long to stay away is
//! `Retry-After` of 429 and 503 (RFC 9110 section 10.2.3: seconds, or a date, which is measured
//! against the response's own `Date`) or gRPC's `grpc-retry-pushback-ms`.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use super::classify::grpc_code;

/// What the head says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The endpoint failed, or is too busy.
    pub is_bad: bool,
    /// How long it wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Health {
    /// Of a response.
    pub fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let code = grpc_code(headers);
        let is_bad = status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error()
            || matches!(code, Some(2 | 4 | 8 | 13 | 14 | 15));
        let asks =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let retry_after = if asks {
            retry_after(headers)
        } else if is_bad && code.is_some() {
            pushback(headers)
        } else {
            None
        };
        Self { is_bad, retry_after }
    }
}

fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (date(value)?, date(text(headers, DATE)?)?);
    then.checked_sub(now).map(Duration::from_secs)
}

fn pushback(headers: &HeaderMap) -> Option<Duration> {
    text(headers, "grpc-retry-pushback-ms")?.parse().ok().map(Duration::from_millis)
}

/// Seconds since 1970 of the one date format that may be sent (RFC 9110 section 5.6.7):
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut time = words.next()?.split(':').map(str::parse::<u64>);
    let mut next = || time.next()?.ok();
    let (hour, minute, second) = (next()?, next()?, next()?);
    // Days before the year, by the rule of leap years, then those before the month.
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = leaps(year) > leaps(year - 1);
    let before_year = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_day = u64::from(is_leap && month > 1);
    let days = before_year + BEFORE_MONTH[month as usize] + leap_day + day.checked_sub(1)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        status: u16,
        headers: &[(&'static str, &'static str)],
        is_bad: bool,
        seconds: Option<u64>,
    ) {
        let map: HeaderMap =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let health = Health::new(StatusCode::from_u16(status).unwrap(), &map);
        let retry_after = seconds.map(Duration::from_secs);
        assert_eq!(health, Health { is_bad, retry_after }, "{status} {headers:?}");
    }

    #[test]
    fn says_who_is_ill_and_for_how_long() {
        check(200, &[], false, None);
        check(404, &[("retry-after", "3")], false, None);
        check(500, &[("retry-after", "3")], true, None);
        check(503, &[("retry-after", "3")], true, Some(3));
        check(429, &[("retry-after", "soon")], true, None);
        check(200, &[("grpc-status", "8"), ("grpc-retry-pushback-ms", "2000")], true, Some(2));
        check(200, &[("grpc-status", "14")], true, None);
        check(200, &[("grpc-status", "5"), ("grpc-retry-pushback-ms", "2000")], false, None);
    }

    #[test]
    fn dates_are_measured_against_the_response() {
        let now = ("date", "Fri, 28 Feb 2020 23:59:00 GMT");
        check(503, &[now, ("retry-after", "Sat, 29 Feb 2020 00:00:10 GMT")], true, Some(70));
        check(503, &[now, ("retry-after", "Sun, 01 Mar 2020 00:00:00 GMT")], true, Some(86_460));
        check(503, &[now, ("retry-after", "Thu, 27 Feb 2020 00:00:00 GMT")], true, None);
        check(503, &[("retry-after", "Sun, 01 Mar 2020 00:00:00 GMT")], true, None);
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(date("Sun, 0 Nov 1994 08:49:37 GMT"), None);
    }
}
