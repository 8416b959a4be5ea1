//! The same moment in the four types that the standard library, rustls, rcgen and X.509 use.
//!
//! Certificates count whole seconds. Moments before 1970 do not occur here and become 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

/// Seconds since 1970, rounded down.
pub(crate) fn unix_seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The last second of the year 9999, the last that X.509 can express.
const LAST_SECOND: u64 = 253_402_300_799;

/// The moment so many seconds after 1970.
pub(crate) fn from_unix_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))
}

/// So much later; the end of the year 9999 if that is beyond it.
pub(crate) fn later(moment: SystemTime, duration: Duration) -> SystemTime {
    let last = from_unix_seconds(u64::MAX);
    moment.checked_add(duration).map_or(last, |moment| moment.min(last))
}

/// So much earlier; the moment itself if that is before time began.
pub(crate) fn earlier(moment: SystemTime, duration: Duration) -> SystemTime {
    moment.checked_sub(duration).unwrap_or(moment)
}

/// As rustls has it.
pub(crate) fn unix_time(moment: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds(moment)))
}

/// As rcgen has it.
pub(crate) fn offset_date_time(moment: SystemTime) -> OffsetDateTime {
    let seconds = unix_seconds(moment).min(LAST_SECOND);
    let seconds = i64::try_from(seconds).expect("the year 9999 fits");
    OffsetDateTime::from_unix_timestamp(seconds).expect("the year 9999 fits")
}
