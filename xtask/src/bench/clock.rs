//! How long things may take.

use anyhow::bail;
use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// The time a whole run may take.
pub(super) struct Budget {
    ends: Option<Instant>,
}

impl Budget {
    /// From now on; `None` is without limit.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { ends: limit.map(|limit| Instant::now() + limit) }
    }

    /// Whether nothing new may begin.
    pub(super) fn is_spent(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }
}

/// Looks again until `look` finds something.
pub(super) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let ends = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= ends {
            bail!("{what} took more than {} s", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}
