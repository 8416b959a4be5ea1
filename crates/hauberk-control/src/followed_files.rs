//! Files that are read again when they change, keeping the last good value.
//!
//! For the issuer, the trust anchors, the token keys and the webhooks' certificate, which are rotated while the process runs.
//! The content is compared every two seconds instead of waiting for kernel events: a mounted Secret
//! is swapped by renaming links above the file, editors replace files in several steps, and reading
//! a few kilobytes costs nothing. Files that belong together and are caught between two writes make
//! a value that does not fit; it is refused, and the next look finds the whole.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hauberk_process::Tasks;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::metrics::FileMetrics;

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Longest file that is read, in bytes; a bundle of a hundred certificates is below 200 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no first value.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A file cannot be read.
    #[error("cannot read {what} from {}: {error}", path.display())]
    Unreadable {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The files can be read but are of no use.
    #[error("cannot use {what} from {}: {reason}", path.display())]
    Unusable {
        /// What the files should hold.
        what: &'static str,
        /// The first of the files.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Reads `paths` now, and again whenever their content changes, until the process drains.
///
/// `parse` gets the texts in the order of `paths`.
///
/// # Errors
/// If there is no good value now. Later trouble is logged once and leaves the value as it is.
pub(crate) fn follow<T, E>(
    what: &'static str,
    paths: Vec<PathBuf>,
    parse: impl Fn(&[String]) -> Result<T, E> + Send + 'static,
    tasks: &Tasks,
    metrics: FileMetrics,
) -> Result<watch::Receiver<Arc<T>>, FollowError>
where
    T: Send + Sync + 'static,
    E: Display,
{
    let mut texts =
        read_all(&paths).map_err(|(path, error)| FollowError::Unreadable { what, path, error })?;
    let unusable = |error: E| {
        let path = paths.first().cloned().unwrap_or_default();
        FollowError::Unusable { what, path, reason: error.to_string() }
    };
    let (sender, receiver) = watch::channel(Arc::new(parse(&texts).map_err(unusable)?));
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("followed-files", async move {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_unreadable = false;
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = sender.closed() => return,
                () = shutdown.draining() => return,
            }
            // Some kilobytes from a memory-backed or local file system: not worth another thread.
            match read_all(&paths) {
                Ok(newest) if newest == texts => is_unreadable = false,
                Ok(newest) => {
                    is_unreadable = false;
                    texts = newest;
                    match parse(&texts) {
                        Ok(value) => {
                            metrics.content(what, "used");
                            sender.send_replace(Arc::new(value));
                            info!(what, "files changed, new content in force");
                        }
                        Err(error) => {
                            metrics.content(what, "refused");
                            warn!(what, %error, "files changed, keeping the old content");
                        }
                    }
                }
                Err((path, error)) => {
                    if !std::mem::replace(&mut is_unreadable, true) {
                        warn!(what, path = %path.display(), %error, "cannot read, keeping the old content");
                    }
                }
            }
        }
    });
    Ok(receiver)
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<String>, (PathBuf, io::Error)> {
    paths.iter().map(|path| read(path).map_err(|error| (path.clone(), error))).collect()
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_process::Shutdown;

    #[tokio::test(start_paused = true)]
    async fn takes_good_content_and_keeps_it_when_bad_content_follows() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("number");
        std::fs::write(&path, "1").expect("can write");
        let tasks = Tasks::new(Shutdown::new());
        let parse = |texts: &[String]| texts[0].parse::<u32>();
        let mut number =
            follow("a number", vec![path.clone()], parse, &tasks, FileMetrics::default())
                .expect("is good");
        assert_eq!(**number.borrow_and_update(), 1);

        std::fs::write(&path, "nonsense").expect("can write");
        tokio::time::sleep(LOOK_INTERVAL * 2).await;
        std::fs::remove_file(&path).expect("can remove");
        tokio::time::sleep(LOOK_INTERVAL * 2).await;
        assert!(!number.has_changed().expect("still followed"));
        std::fs::write(&path, "2").expect("can write");
        number.changed().await.expect("still followed");
        assert_eq!(**number.borrow_and_update(), 2);
    }

    #[tokio::test]
    async fn bad_content_at_the_start_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("number");
        let tasks = Tasks::new(Shutdown::new());
        let parse = |texts: &[String]| texts[0].parse::<u32>();
        let check = |expect: &str| {
            let error =
                follow("a number", vec![path.clone()], parse, &tasks, FileMetrics::default())
                    .expect_err(expect);
            assert!(error.to_string().starts_with(expect), "{error}");
        };
        check("cannot read a number from ");
        std::fs::write(&path, "x").expect("can write");
        check("cannot use a number from ");
    }
}
