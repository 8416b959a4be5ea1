//! What containers print, kept in memory within a bound.
//!
//! One [`Log`] for each container: a task reads the container's pipe and appends, readers copy out
//! from an offset on and wait for more. The oldest bytes are dropped when the bound is reached, so a
//! talkative container cannot fill memory, and a slow reader cannot hold up a container.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Bytes kept for each container.
const BYTES_MAX: usize = 1 << 20;

/// The output of one container.
#[derive(Debug)]
pub struct Log {
    kept: Mutex<Kept>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Offset of the first byte that is still here.
    start: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { kept: Mutex::default(), written: watch::Sender::new(0) }
    }
}

impl Log {
    /// Appends; drops the oldest bytes when there are too many.
    pub fn append(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        kept.bytes.extend(bytes);
        let surplus = kept.bytes.len().saturating_sub(BYTES_MAX);
        kept.bytes.drain(..surplus);
        kept.start += surplus as u64;
        let end = kept.start + kept.bytes.len() as u64;
        drop(kept);
        self.written.send_replace(end);
    }

    /// What was written from `offset` on and is still here, and the offset to go on from.
    pub fn read(&self, offset: u64) -> (Vec<u8>, u64) {
        let kept = self.lock();
        let skip = usize::try_from(offset.saturating_sub(kept.start)).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = kept.bytes.iter().skip(skip).copied().collect();
        (bytes, kept.start + kept.bytes.len() as u64)
    }

    /// Waits until something was written after `offset`. Cancel-safe.
    pub async fn more_than(&self, offset: u64) {
        let mut written = self.written.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = written.wait_for(|end| *end > offset).await;
    }

    /// The last lines that are not blank, at most so many.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.read(0).0).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends all that comes out of a pipe to some logs, until every writer has closed it.
pub async fn follow(mut pipe: pipe::Receiver, logs: Vec<std::sync::Arc<Log>>) {
    let mut buffer = vec![0; 8192];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => logs.iter().for_each(|log| log.append(&buffer[..length])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_where_it_was_and_misses_only_what_was_dropped() {
        let log = Log::default();
        log.append(b"one ");
        let (first, offset) = log.read(0);
        log.append(b"two");
        assert_eq!((first, log.read(offset).0), (b"one ".to_vec(), b"two".to_vec()));
        log.append(&vec![b'x'; BYTES_MAX]);
        let (rest, end) = log.read(offset);
        assert_eq!((rest.len(), end), (BYTES_MAX, 7 + BYTES_MAX as u64));
        assert_eq!(log.read(end).0, b"");
    }

    #[test]
    fn the_last_lines_are_found() {
        let log = Log::default();
        assert!(log.last_lines(2).is_empty());
        log.append(b"one\ntwo\n\nthree");
        assert_eq!(log.last_lines(2), ["two", "three"]);
    }

    #[tokio::test]
    async fn a_reader_wakes_up_when_there_is_more() {
        let log = Log::default();
        tokio::join!(log.more_than(2), async {
            log.append(b"abc");
        });
    }
}
