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

/// The moment so many seconds after 1970.
pub(crate) fn from_unix_seconds(seconds: u64) -> SystemTime {
    // 253402300799 is the last second of the year 9999, the last that X.509 can express.
    UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))
}

/// As rustls has it.
pub(crate) fn unix_time(moment: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds(moment)))
}

/// As rcgen has it.
pub(crate) fn offset_date_time(moment: SystemTime) -> OffsetDateTime {
    let seconds = unix_seconds(moment).min(253_402_300_799);
    let seconds = i64::try_from(seconds).expect("the year 9999 fits");
    OffsetDateTime::from_unix_timestamp(seconds).expect("the year 9999 fits")
}
