//! Log lines for whoever asks while the process runs.
//!
//! Each stream has a filter of its own, which may let more through than the log does. A reader that is slow misses
//! lines; nobody waits for it. Without a stream, events that the log does not want cost what they did before: one look
//! at the most verbose level anybody wants.

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter};

/// Streams that may be open at a time.
const STREAMS_MAX: usize = 4;
/// Lines that wait for the reader of a stream.
const LINES_MAX: usize = 1024;

/// The streams that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    open: Arc<RwLock<Vec<Stream>>>,
}

#[derive(Clone, Debug)]
struct Stream {
    targets: Arc<Targets>,
    lines: mpsc::Sender<Bytes>,
}

/// The lines of one stream. Dropping it closes the stream.
pub struct Lines {
    lines: mpsc::Receiver<Bytes>,
    targets: Arc<Targets>,
    open: Weak<RwLock<Vec<Stream>>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("targets", &self.targets).finish_non_exhaustive()
    }
}

impl Lines {
    /// The next line, with its end; none once logging is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.lines.recv().await
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(open) = self.open.upgrade() {
            open.write().retain(|stream| !Arc::ptr_eq(&stream.targets, &self.targets));
            tracing::callsite::rebuild_interest_cache();
        }
    }
}

impl Streams {
    /// Opens a stream of what `targets` lets through, unless there are too many.
    pub(super) fn open(&self, targets: Targets) -> Option<Lines> {
        let targets = Arc::new(targets);
        let (sender, lines) = mpsc::channel(LINES_MAX);
        {
            let mut open = self.open.write();
            if open.len() >= STREAMS_MAX {
                return None;
            }
            open.push(Stream { targets: Arc::clone(&targets), lines: sender });
        }
        tracing::callsite::rebuild_interest_cache();
        Some(Lines { lines, targets, open: Arc::downgrade(&self.open) })
    }
}

impl Stream {
    fn wants(&self, meta: &Metadata<'_>) -> bool {
        self.targets.would_enable(meta.target(), meta.level())
    }
}

impl<S: Subscriber> Filter<S> for Streams {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.open.read().iter().any(|stream| stream.wants(meta))
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.open.read().iter().any(|stream| stream.wants(meta)) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let open = self.open.read();
        let levels = open.iter().filter_map(|stream| Filter::<S>::max_level_hint(&*stream.targets));
        Some(levels.max().unwrap_or(LevelFilter::OFF))
    }
}

impl<'a> MakeWriter<'a> for Streams {
    type Writer = Fan;

    fn make_writer(&'a self) -> Fan {
        Fan { readers: self.open.read().iter().map(|stream| stream.lines.clone()).collect() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Fan {
        let open = self.open.read();
        let wanting = open.iter().filter(|stream| stream.wants(meta));
        Fan { readers: wanting.map(|stream| stream.lines.clone()).collect() }
    }
}

/// Writes one line to every stream that wants it.
#[derive(Debug)]
pub(super) struct Fan {
    readers: Vec<mpsc::Sender<Bytes>>,
}

impl io::Write for Fan {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let line_bytes = Bytes::copy_from_slice(line);
        for reader in &self.readers {
            // Full or closed: the line is lost to that reader.
            let _ = reader.try_send(line_bytes.clone());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
