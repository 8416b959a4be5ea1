//! Manifests in files that are followed: a changed file changes the lab.
//!
//! The whole set is read again after each change and compared by the lab's writer, so nothing
//! depends on which notification came when. The files are looked up through handles that were opened
//! before the lab changed its root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use hauberk_process::Tasks;
use hauberk_resources::yaml;
use inotify::{Inotify, WatchMask};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::lab::Event;
use crate::objects::Key;
use crate::root::Kept;

/// Editors write a file in several steps; what happens within this time is one change.
const SETTLE_TIME: Duration = Duration::from_millis(60);

/// A file or directory named on the command line.
#[derive(Debug)]
pub struct Source {
    directory: Kept,
    /// The one file of the directory that is meant, if not all.
    file: Option<PathBuf>,
}

impl Source {
    /// Opens the directory, or the directory that the file is in.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let whole = fs::canonicalize(path).with_context(context)?;
        if whole.is_dir() {
            return Ok(Self { directory: Kept::open(&whole)?, file: None });
        }
        let parent = whole.parent().unwrap_or(Path::new("/"));
        let file = whole.file_name().map(PathBuf::from);
        Ok(Self { directory: Kept::open(parent).with_context(context)?, file })
    }

    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        let directory = self.directory.path();
        if let Some(file) = &self.file {
            let path = directory.join(file);
            return Ok(if path.exists() { vec![path] } else { Vec::new() });
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("yml" | "yaml" | "json")) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Reads all manifests. What cannot be read is named; the rest counts.
pub fn read(sources: &[Source]) -> (BTreeMap<Key, Value>, Vec<String>) {
    let (mut manifests, mut problems) = (BTreeMap::new(), Vec::new());
    for source in sources {
        let files = source.files().unwrap_or_else(|error| {
            problems.push(format!("{}: {error}", source.directory.original().display()));
            Vec::new()
        });
        for path in files {
            let name = source.directory.original().join(path.file_name().unwrap_or_default());
            let name = name.display();
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    problems.push(format!("{name}: {error}"));
                    continue;
                }
            };
            let (values, broken) = yaml::objects(&text);
            problems.extend(broken.iter().map(|problem| format!("{name}: {problem}")));
            for value in values {
                match Key::of(&value) {
                    Ok(key) => {
                        manifests.insert(key, value);
                    }
                    Err(problem) => problems.push(format!("{name}: {problem}")),
                }
            }
        }
    }
    (manifests, problems)
}

/// Reads all manifests, now and whenever one changes.
///
/// # Errors
/// When changes cannot be followed.
pub fn follow(
    sources: Vec<Source>,
    events: mpsc::Sender<Event>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let inotify = Inotify::init()
        .context("cannot follow files; hint: raise the sysctl fs.inotify.max_user_instances")?;
    let changes = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE;
    for source in &sources {
        inotify
            .watches()
            .add(source.directory.path(), changes)
            .with_context(|| format!("cannot follow {}", source.directory.original().display()))?;
    }
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("manifest files", async move {
        let Ok(mut stream) = inotify.into_event_stream([0; 4096]) else { return };
        loop {
            let (manifests, problems) = read(&sources);
            for problem in &problems {
                tracing::error!(problem, "cannot read a manifest");
            }
            if events.send(Event::Files(manifests, problems)).await.is_err() {
                return;
            }
            tokio::select! {
                change = stream.next() => if change.is_none() { return },
                () = shutdown.ended() => return,
            }
            tokio::time::sleep(SETTLE_TIME).await;
            // What has come meanwhile is covered by the reading that follows.
            while futures::FutureExt::now_or_never(stream.next()).flatten().is_some() {}
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_does_not_hide_its_neighbours() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("a.yml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n{[\n");
        write("b.yaml", "kind: Pod\nmetadata: {name: b}\n");
        write("c.txt", "not ours");
        let sources = [Source::open(directory.path()).unwrap()];
        let (manifests, problems) = read(&sources);
        let keys: Vec<_> = manifests.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["namespace/a"]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].ends_with("b.yaml: the Pod has no apiVersion"), "{problems:?}");

        let one = [Source::open(&directory.path().join("b.yaml")).unwrap()];
        fs::remove_file(directory.path().join("b.yaml")).unwrap();
        assert_eq!(read(&one).0.len(), 0, "a file that is gone has no objects");
    }
}
