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

/// The manifests of all sources, as far as they could be read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// What each file holds.
    files: BTreeMap<PathBuf, BTreeMap<Key, Value>>,
    /// What could not be read, by the last reading.
    problems: Vec<String>,
}

impl Manifests {
    /// All objects; where two files have the same one, the later file's.
    pub fn objects(&self) -> BTreeMap<Key, Value> {
        let all = self.files.values().flatten();
        all.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Reads everything again. What cannot be read is named, and the rest counts: of a file that is
    /// broken now, the objects it had before stay until it is mended or gone.
    pub fn read(&mut self, sources: &[Source]) {
        let before = std::mem::take(self);
        for source in sources {
            let files = source.files().unwrap_or_else(|error| {
                self.problems.push(format!("{}: {error}", source.directory.original().display()));
                Vec::new()
            });
            for path in files {
                let name = source.directory.original().join(path.file_name().unwrap_or_default());
                let (now, problems) = match fs::read_to_string(&path) {
                    Ok(text) => parse(&text),
                    Err(error) => (BTreeMap::new(), vec![error.to_string()]),
                };
                let mut objects = match before.files.get(&name) {
                    Some(before) if !problems.is_empty() => before.clone(),
                    Some(_) | None => BTreeMap::new(),
                };
                objects.extend(now);
                let named = problems.iter().map(|problem| format!("{}: {problem}", name.display()));
                self.problems.extend(named);
                self.files.insert(name, objects);
            }
        }
    }
}

/// The objects of a text, and what is wrong with the rest of it.
fn parse(text: &str) -> (BTreeMap<Key, Value>, Vec<String>) {
    let (values, broken) = yaml::objects(text);
    let mut problems: Vec<_> = broken.iter().map(ToString::to_string).collect();
    let mut objects = BTreeMap::new();
    for value in values {
        match Key::of(&value) {
            Ok(key) => {
                objects.insert(key, value);
            }
            Err(problem) => problems.push(problem),
        }
    }
    (objects, problems)
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
        let mut manifests = Manifests::default();
        let mut told = None;
        loop {
            let known = manifests.problems.clone();
            manifests.read(&sources);
            for problem in manifests.problems.iter().filter(|problem| !known.contains(problem)) {
                tracing::error!(problem, "cannot read a manifest");
            }
            // Other files of the same directory change too; the lab need not hear of it.
            let news = (manifests.objects(), manifests.problems.clone());
            if told.as_ref() != Some(&news) {
                told = Some(news.clone());
                if events.send(Event::Files(news.0, news.1)).await.is_err() {
                    return;
                }
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
        let mut manifests = Manifests::default();
        manifests.read(&sources);
        assert_eq!(keys(&manifests), ["namespace/a"]);
        let problems = &manifests.problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].ends_with("b.yaml: the Pod has no apiVersion"), "{problems:?}");
    }

    #[test]
    fn a_file_that_breaks_keeps_its_objects_and_one_that_goes_takes_them_along() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yml");
        let object =
            |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        let sources = [Source::open(directory.path()).unwrap()];
        let mut manifests = Manifests::default();
        let mut check = |expect: &[&str], problems: usize| {
            manifests.read(&sources);
            assert_eq!(keys(&manifests), expect);
            assert_eq!(manifests.problems.len(), problems, "{:?}", manifests.problems);
        };
        fs::write(&file, object("a") + "---\n" + &object("b")).unwrap();
        check(&["namespace/a", "namespace/b"], 0);
        // An editor has written half of it.
        fs::write(&file, object("a") + "---\napiVersion: [").unwrap();
        check(&["namespace/a", "namespace/b"], 1);
        fs::write(&file, object("c")).unwrap();
        check(&["namespace/c"], 0);
        fs::remove_file(&file).unwrap();
        check(&[], 0);
    }

    fn keys(manifests: &Manifests) -> Vec<String> {
        manifests.objects().keys().map(ToString::to_string).collect()
    }
}
