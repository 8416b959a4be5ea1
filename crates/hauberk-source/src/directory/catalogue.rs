//! Which file defines which object, and what changes when a file does. Pure.
//!
//! Called by the directory source's task only. Rules, so that broken input never costs more than itself:
//! - an object whose document became unusable keeps its last good version;
//! - while a file holds a document that cannot even be named, the objects the file held before and does not
//!   mention any more are kept too, because that document may be one of them;
//! - an object defined in several files takes the definition of the first path in order, whichever file was read
//!   first, and the others are ready to step in when that file goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey};

/// What one file was found to hold.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Usable objects.
    pub(super) objects: BTreeMap<ResourceKey, Arc<Resource>>,
    /// Objects that are named but cannot be used.
    pub(super) broken: BTreeSet<ResourceKey>,
    /// Whether some document could not even be named.
    pub(super) has_unnamed: bool,
    /// What is wrong, for people.
    pub(super) problems: Vec<String>,
}

/// All objects of a directory, by the file that defines them.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    files: BTreeMap<PathBuf, BTreeMap<ResourceKey, Arc<Resource>>>,
    definitions: BTreeMap<ResourceKey, BTreeSet<PathBuf>>,
    /// Objects with more than one definition.
    contested: BTreeSet<ResourceKey>,
}

impl Catalogue {
    /// Takes over the new content of `path` and tells what that changes.
    pub(super) fn replace(&mut self, path: &Path, content: Content) -> Vec<ResourceEvent> {
        let before = self.files.get(path).cloned().unwrap_or_default();
        let mut after = content.objects;
        for (key, object) in &before {
            if content.has_unnamed || content.broken.contains(key) {
                after.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        self.exchange(path, &before, after)
    }

    /// Forgets `path` and tells what that changes.
    pub(super) fn remove(&mut self, path: &Path) -> Vec<ResourceEvent> {
        let before = self.files.get(path).cloned().unwrap_or_default();
        let events = self.exchange(path, &before, BTreeMap::new());
        self.files.remove(path);
        events
    }

    /// The known files at or below `directory`.
    pub(super) fn files_below(&self, directory: &Path) -> BTreeSet<PathBuf> {
        let from = self.files.range(directory.to_owned()..);
        from.take_while(|(path, _)| path.starts_with(directory))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// All objects of one kind.
    pub(super) fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        let keys = self.definitions.keys().filter(|key| key.kind == kind);
        keys.filter_map(|key| self.effective(key)).collect()
    }

    /// Definitions that do not count because an earlier path defines the same object, with the reason.
    pub(super) fn contested(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for key in &self.contested {
            let mut paths = self.definitions.get(key).into_iter().flatten();
            let Some(decides) = paths.next() else { continue };
            found.extend(paths.map(|path| {
                (path.clone(), format!("{key} is already defined in {}", decides.display()))
            }));
        }
        found
    }

    fn exchange(
        &mut self,
        path: &Path,
        before: &BTreeMap<ResourceKey, Arc<Resource>>,
        after: BTreeMap<ResourceKey, Arc<Resource>>,
    ) -> Vec<ResourceEvent> {
        let touched: BTreeSet<ResourceKey> = before.keys().chain(after.keys()).cloned().collect();
        let was: Vec<_> = touched.iter().map(|key| self.effective(key)).collect();
        for key in &touched {
            let paths = self.definitions.entry(key.clone()).or_default();
            if after.contains_key(key) {
                paths.insert(path.to_owned());
            } else {
                paths.remove(path);
            }
            if paths.len() > 1 {
                self.contested.insert(key.clone());
            } else {
                self.contested.remove(key);
            }
            if paths.is_empty() {
                self.definitions.remove(key);
            }
        }
        self.files.insert(path.to_owned(), after);

        let mut events = Vec::new();
        for (key, was) in touched.into_iter().zip(was) {
            match (was, self.effective(&key)) {
                (was, Some(is)) if was.as_ref() != Some(&is) => {
                    events.push(ResourceEvent::Applied(is))
                }
                (Some(_), None) => events.push(ResourceEvent::Deleted(key)),
                (Some(_), Some(_)) | (None, _) => {}
            }
        }
        events
    }

    fn effective(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        let path = self.definitions.get(key)?.first()?;
        self.files.get(path)?.get(key).cloned()
    }
}
