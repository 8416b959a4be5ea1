//! Knowing when memory is about to run out, so that requests are refused before the process is killed.
//!
//! The kernel ends a container that reaches its limit, and with it every connection. Before that, at nine tenths of
//! the limit, new requests are answered with 503 (`loadshed`) and those under way go on; below that, everything is
//! as before. One task ([`watch`]) looks; the data path reads one atomic ([`is_short`]). Memory belongs to the whole
//! process, so the flag does too.
//!
//! The limit is that of the container's control group (version 2 or 1), held against what is resident, or that of
//! the data segment (`RLIMIT_DATA`), held against what is allocated (getrlimit(2)); whichever is closer. Without a
//! limit nothing is ever refused. Connections are not refused here: the kernel bounds what their sockets hold.

use hauberk_process::Shutdown;
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Between two looks; shorter when it is getting close.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const LOOK_INTERVAL_NEAR: Duration = Duration::from_millis(50);

/// Shares of the limit, in percent: where it is getting close, where refusing begins, and below which it ends.
const NEAR_PERCENT: u64 = 70;
const SHORT_PERCENT: u64 = 90;
const ENOUGH_PERCENT: u64 = 85;

/// What control groups of version 1 say when there is no limit is about 2^63; no machine has this much.
const UNLIMITED_BYTES: u64 = 1 << 50;

static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Whether new requests are to be refused. Costs one relaxed load.
pub fn is_short() -> bool {
    IS_SHORT.load(Ordering::Relaxed)
}

/// Looks again and again until the process ends.
pub async fn watch(shutdown: Shutdown) {
    loop {
        let used = used_percent();
        let was = is_short();
        let now = next(was, used);
        if now != was {
            IS_SHORT.store(now, Ordering::Relaxed);
            match now {
                true => tracing::warn!(used_percent = used, "memory is short, refusing requests"),
                false => tracing::info!(used_percent = used, "memory is enough again"),
            }
        }
        let pause = if used >= NEAR_PERCENT { LOOK_INTERVAL_NEAR } else { LOOK_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.ended() => return,
        }
    }
}

/// Whether memory is short, given whether it was and how much of the limit is used.
fn next(was_short: bool, used_percent: u64) -> bool {
    used_percent >= if was_short { ENOUGH_PERCENT } else { SHORT_PERCENT }
}

/// How much of the closest limit is used; 0 without limits. A file that cannot be read sets none.
fn used_percent() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let version_2 = group_limit(&read("/sys/fs/cgroup/memory.max"));
    let version_1 = || group_limit(&read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let group = share(status_bytes(&status, "VmRSS:"), version_2.or_else(version_1));
    let data = share(status_bytes(&status, "VmData:"), data_limit(&read("/proc/self/limits")));
    group.max(data)
}

fn share(used_bytes: u64, limit_bytes: Option<u64>) -> u64 {
    limit_bytes.map_or(0, |limit| used_bytes.saturating_mul(100) / limit.max(1))
}

/// A control group's limit in bytes; `max` is none.
fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED_BYTES)
}

/// The soft limit of the data segment in bytes, from a table in the form of proc_pid_limits(5).
fn data_limit(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix("Max data size"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A size of proc_pid_status(5), which is given in KiB, in bytes.
fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_near_the_limit_until_there_is_room_again() {
        let mut short = false;
        let states = [50, 89, 90, 99, 86, 84, 89].map(|used| {
            short = next(short, used);
            short
        });
        assert_eq!(states, [false, false, true, true, true, false, false]);
    }

    #[test]
    fn reads_limits_as_the_kernel_writes_them() {
        assert_eq!(group_limit("67108864\n"), Some(64 << 20));
        assert_eq!(group_limit("max\n"), None);
        assert_eq!(group_limit("9223372036854771712\n"), None);
        assert_eq!(group_limit(""), None);
        let table = |soft: &str| {
            format!(
                "Limit      Soft Limit  Hard Limit  Units\nMax data size   {soft}   unlimited   bytes\n"
            )
        };
        assert_eq!(data_limit(&table("4096")), Some(4096));
        assert_eq!(data_limit(&table("unlimited")), None);
    }

    #[test]
    fn what_is_used_is_held_against_the_limit() {
        let status = "VmRSS:\t    6144 kB\nVmData:\t   12288 kB\n";
        assert_eq!(share(status_bytes(status, "VmRSS:"), Some(8 << 20)), 75);
        assert_eq!(share(status_bytes(status, "VmData:"), Some(8 << 20)), 150);
        assert_eq!(share(status_bytes(status, "VmRSS:"), None), 0);
        assert_eq!(share(status_bytes("", "VmRSS:"), Some(0)), 0);
    }
}
