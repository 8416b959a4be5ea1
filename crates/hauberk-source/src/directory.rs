//! A directory of YAML files as a cluster.
//!
//! Called by the control plane (`--source-dir`) and by whoever wants to follow a directory. Files ending in `.yaml`,
//! `.yml` or `.json` are read, in all directories below; a file may hold several documents and lists.
//!
//! Promises beyond those of every source:
//! - writing to a temporary name and renaming is seen as one change; so is a burst of changes within the debounce
//!   time. A file written in place is read when its writer closes it;
//! - a broken document or file never stops the good ones: it is reported and logged once, and the last good version
//!   of its objects stays until the file is mended or removed;
//! - a removed file deletes its objects. Losing the whole directory (unmounted, renamed) deletes nothing: the last
//!   state stays and the directory is looked for every second;
//! - when the kernel's event queue overflows, everything is listed again and only differences are sent.
//!
//! One task owns all state; reading files happens on the blocking pool, one batch at a time.

mod catalogue;
mod read;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use hauberk_process::Tasks;
use hauberk_resources::{Kind, ResourceEvent};
use inotify::{EventOwned, EventStream, Inotify};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use self::catalogue::Catalogue;
use self::read::Read;
use self::tree::{Dirty, Tree};
use crate::{Problems, QUEUE_LENGTH, Source};

/// Room for kernel events, in bytes; an event with the longest name takes about 270.
const EVENT_BUFFER_BYTES: usize = 64 * 1024;

/// How often a lost directory is looked for.
const LOST_RETRY: Duration = Duration::from_secs(1);

/// How patiently changes are gathered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A batch ends when nothing happened for this long.
    pub quiet: Duration,
    /// A batch ends after this long although changes go on.
    pub batch: Duration,
}

impl Default for Options {
    /// 5 ms and 100 ms: a pod's start is not delayed noticeably, an `rsync` of a thousand files is a few batches.
    fn default() -> Self {
        Self { quiet: Duration::from_millis(5), batch: Duration::from_millis(100) }
    }
}

/// Why a directory cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It does not exist, is no directory, or may not be read.
    #[error("cannot list directory {}: {error}", path.display())]
    Unlistable {
        /// The directory asked for.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel gives out no more watches.
    #[error("cannot watch directory {}: {error} (hint: raise fs.inotify.max_user_instances)", path.display())]
    Unwatchable {
        /// The directory asked for.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Follows the directory `path`; must be called on a tokio runtime.
///
/// # Errors
/// If the directory cannot be listed or watched now. Later trouble is a value in [`Source::problems`].
pub fn directory(path: &Path, options: Options, tasks: &Tasks) -> Result<Source, DirectoryError> {
    let unlistable = |error| DirectoryError::Unlistable { path: path.to_owned(), error };
    let unwatchable = |error| DirectoryError::Unwatchable { path: path.to_owned(), error };
    std::fs::read_dir(path).map_err(unlistable)?;
    let root = path.canonicalize().map_err(unlistable)?;
    let inotify = Inotify::init().map_err(unwatchable)?;
    let watches = inotify.watches();
    let kernel = inotify.into_event_stream(vec![0; EVENT_BUFFER_BYTES]).map_err(unwatchable)?;

    let (sender, events) = mpsc::channel(QUEUE_LENGTH);
    let (problems_sender, problems) = watch::channel(Problems::default());
    let state = State {
        tree: Tree::new(root, watches),
        catalogue: Catalogue::default(),
        unreadable: BTreeMap::new(),
        problems: BTreeMap::new(),
        is_lost: false,
    };
    tasks.spawn(
        "source-directory",
        run(state, kernel, options, sender, problems_sender, tasks.clone()),
    );
    Ok(Source { events, problems })
}

async fn run(
    state: State,
    mut kernel: EventStream<Vec<u8>>,
    options: Options,
    sender: mpsc::Sender<ResourceEvent>,
    problems: watch::Sender<Problems>,
    tasks: Tasks,
) {
    let everything = BTreeSet::from([Dirty::Directory(state.tree.root().to_owned())]);
    let Some((mut state, _)) = look_again(&tasks, state, everything).await else { return };
    problems.send_replace(state.problems.clone());
    for kind in Kind::ALL.iter().copied() {
        let event = ResourceEvent::Relisted { kind, all: state.catalogue.all(kind) };
        if sender.send(event).await.is_err() {
            return;
        }
    }
    info!(directory = %state.tree.root().display(), problems = state.problems.len(), "directory listed");

    loop {
        let dirty = tokio::select! {
            dirty = gather(&mut kernel, &mut state, options) => dirty,
            () = sender.closed() => return,
        };
        let Some((looked, events)) = look_again(&tasks, state, dirty).await else { return };
        state = looked;
        problems.send_if_modified(|published| {
            let differs = *published != state.problems;
            if differs {
                published.clone_from(&state.problems);
            }
            differs
        });
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Waits for changes and collects them until they pause.
async fn gather(
    kernel: &mut EventStream<Vec<u8>>,
    state: &mut State,
    options: Options,
) -> BTreeSet<Dirty> {
    let mut dirty = BTreeSet::new();
    while dirty.is_empty() {
        let event = if state.is_lost {
            tokio::time::timeout(LOST_RETRY, kernel.next()).await
        } else {
            Ok(kernel.next().await)
        };
        match event {
            Ok(event) => dirty.extend(state.interpret(event)),
            Err(_elapsed) => dirty.extend([Dirty::Directory(state.tree.root().to_owned())]),
        }
    }
    let end = Instant::now() + options.batch;
    loop {
        let pause = end.min(Instant::now() + options.quiet);
        match tokio::time::timeout_at(pause, kernel.next()).await {
            Ok(event) => dirty.extend(state.interpret(event)),
            Err(_elapsed) => return dirty,
        }
        if Instant::now() >= end {
            return dirty;
        }
    }
}

/// Reads what is dirty on the blocking pool. `None` only while the runtime is ending.
async fn look_again(
    tasks: &Tasks,
    mut state: State,
    dirty: BTreeSet<Dirty>,
) -> Option<(State, Vec<ResourceEvent>)> {
    let work = tasks.spawn_blocking("source-directory-read", move || {
        let events = state.refresh(dirty);
        (state, events)
    });
    match work.await {
        Ok(done) => Some(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_cancelled) => None,
    }
}

/// Everything known about the directory.
struct State {
    tree: Tree,
    catalogue: Catalogue,
    /// What reading and listing had to complain about.
    unreadable: Problems,
    /// The same and objects with several definitions: what is published.
    problems: Problems,
    is_lost: bool,
}

impl State {
    fn interpret(&mut self, event: Option<io::Result<EventOwned>>) -> Option<Dirty> {
        match event {
            Some(Ok(event)) => self.tree.interpret(&event),
            Some(Err(error)) => {
                warn!(%error, "cannot read directory events, listing everything again");
                Some(Dirty::Directory(self.tree.root().to_owned()))
            }
            None => Some(Dirty::Directory(self.tree.root().to_owned())),
        }
    }

    /// Reads everything dirty and returns what changed. Blocks on the file system.
    fn refresh(&mut self, dirty: BTreeSet<Dirty>) -> Vec<ResourceEvent> {
        let mut files = BTreeSet::new();
        for dirty in dirty {
            match dirty {
                Dirty::File(path) => {
                    files.insert(path);
                }
                Dirty::Directory(path) => files.extend(self.list(&path)),
            }
        }
        let mut events = Vec::new();
        let mut gone = Vec::new();
        // Definitions before removals: an object that moved from one file to another is never deleted in between.
        for path in files {
            match read::read(&path) {
                Read::Gone => gone.push(path),
                Read::Unreadable(problem) => self.note(path, vec![problem]),
                Read::Content(mut content) => {
                    let problems = std::mem::take(&mut content.problems);
                    events.extend(self.catalogue.replace(&path, content));
                    self.note(path, problems);
                }
            }
        }
        for path in gone {
            events.extend(self.catalogue.remove(&path));
            self.note(path, Vec::new());
        }
        self.publish_problems();
        events
    }

    /// The files to read because `directory` is dirty: those there now and those known from before.
    fn list(&mut self, directory: &Path) -> BTreeSet<PathBuf> {
        let is_root = directory == self.tree.root();
        match self.tree.scan(directory) {
            Ok(listing) => {
                self.is_lost &= !is_root;
                let known = self.catalogue.files_below(directory);
                let settled: Vec<_> = self
                    .unreadable
                    .keys()
                    .filter(|path| path.starts_with(directory))
                    .cloned()
                    .collect();
                for path in settled
                    .into_iter()
                    .filter(|path| !known.contains(path) && !listing.files.contains(path))
                {
                    self.note(path, Vec::new());
                }
                for (path, problem) in listing.problems {
                    self.note(path, vec![problem]);
                }
                listing.files.into_iter().chain(known).collect()
            }
            Err(error) if is_root => {
                self.is_lost = true;
                self.note(directory.to_owned(), vec![format!("cannot list directory: {error}")]);
                BTreeSet::new()
            }
            // A directory that is gone took its files with it, which reading them will show.
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.note(
                        directory.to_owned(),
                        vec![format!("cannot list directory: {error}")],
                    );
                }
                self.catalogue.files_below(directory)
            }
        }
    }

    /// Remembers what is wrong with `path` now.
    fn note(&mut self, path: PathBuf, problems: Vec<String>) {
        if problems.is_empty() {
            self.unreadable.remove(&path);
        } else {
            self.unreadable.insert(path, problems);
        }
    }

    /// Brings the published problems up to date and logs those that are news.
    fn publish_problems(&mut self) {
        let mut problems = self.unreadable.clone();
        for (path, problem) in self.catalogue.contested() {
            problems.entry(path).or_default().push(problem);
        }
        for (path, texts) in &problems {
            let known = self.problems.get(path).map_or(&[][..], Vec::as_slice);
            for problem in texts.iter().filter(|text| !known.contains(text)) {
                warn!(path = %path.display(), problem, "keeping the last good version");
            }
        }
        for path in self.problems.keys().filter(|path| !problems.contains_key(*path)) {
            info!(path = %path.display(), "problem settled");
        }
        self.problems = problems;
    }
}
