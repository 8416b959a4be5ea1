//! The watched directory tree: which paths may have changed.
//!
//! Called by the directory source's task only. It owns the inotify watches and turns kernel events into [`Dirty`]
//! marks; it never reads a file. A watch is always set *before* its directory is listed, so that a file which
//! appears in between is seen twice rather than never.
//!
//! Directories behind symbolic links are not entered (a link may point upwards), files behind symbolic links are
//! read: that is how a mounted ConfigMap looks. Names that begin with a dot are left alone, they are temporary files
//! before their rename; only `..data` marks its whole directory, because the kubelet publishes a ConfigMap's new
//! content by renaming that link.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, EventOwned, WatchDescriptor, WatchMask, Watches};

/// How deep below the root directories are entered; deeper ones are left out rather than followed for ever.
const DEPTH_MAX: usize = 16;

/// The link a kubelet renames when the content of a mounted ConfigMap changed.
const KUBELET_DATA_LINK: &str = "..data";

/// Something that has to be looked at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dirty {
    /// This directory and everything below it.
    Directory(PathBuf),
    /// This one file.
    File(PathBuf),
}

/// The inotify watches of a directory and all directories below it.
pub(super) struct Tree {
    root: PathBuf,
    watches: Watches,
    paths: HashMap<WatchDescriptor, PathBuf>,
    descriptors: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Tree {
    /// A tree that watches nothing until [`Tree::scan`] is called for its root.
    pub(super) fn new(root: PathBuf, watches: Watches) -> Self {
        Self { root, watches, paths: HashMap::new(), descriptors: BTreeMap::new() }
    }

    /// The directory at the top.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What a kernel event asks to look at again.
    pub(super) fn interpret(&mut self, event: &EventOwned) -> Option<Dirty> {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Some(Dirty::Directory(self.root.clone()));
        }
        let directory = self.paths.get(&event.wd)?.clone();
        if event.mask.contains(EventMask::IGNORED) {
            self.paths.remove(&event.wd);
            if self.descriptors.get(&directory) == Some(&event.wd) {
                self.descriptors.remove(&directory);
            }
            return None;
        }
        if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF) {
            return Some(Dirty::Directory(directory));
        }
        let name = event.name.as_deref()?;
        if name == KUBELET_DATA_LINK {
            return Some(Dirty::Directory(directory));
        }
        if is_hidden(name) {
            return None;
        }
        if event.mask.contains(EventMask::ISDIR) {
            return Some(Dirty::Directory(directory));
        }
        let path = directory.join(name);
        if !is_readable_name(&path) {
            return None;
        }
        // A new ordinary file is still being written; its closing is announced separately. Hard and symbolic
        // links are complete when they appear and are announced by their creation alone.
        if event.mask.contains(EventMask::CREATE) && is_freshly_created(&path) {
            return None;
        }
        Some(Dirty::File(path))
    }

    /// Watches `directory` and everything below it, and lists the files there that may hold objects.
    ///
    /// # Errors
    /// Only if `directory` itself cannot be watched or listed; trouble further down is returned beside the files.
    pub(super) fn scan(&mut self, directory: &Path) -> io::Result<Listing> {
        self.forget_below(directory);
        let mut listing = Listing::default();
        self.scan_into(directory, 0, &mut listing)?;
        Ok(listing)
    }

    fn scan_into(
        &mut self,
        directory: &Path,
        depth: usize,
        listing: &mut Listing,
    ) -> io::Result<()> {
        self.watch(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if is_hidden(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                if is_readable_name(&path) {
                    listing.files.insert(path);
                }
            } else if depth == DEPTH_MAX {
                listing.problems.insert(
                    path,
                    format!("directories are entered {DEPTH_MAX} levels deep at most"),
                );
            } else if let Err(error) = self.scan_into(&path, depth + 1, listing) {
                // A directory that vanished between listing and entering is an ordinary deletion.
                if error.kind() != io::ErrorKind::NotFound {
                    listing.problems.insert(path, format!("cannot list directory: {error}"));
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, directory: &Path) -> io::Result<()> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let descriptor = self.watches.add(directory, mask)?;
        // The kernel hands out the same descriptor for the same directory, also after it was renamed.
        if let Some(old) = self.paths.insert(descriptor.clone(), directory.to_owned()) {
            self.descriptors.remove(&old);
        }
        self.descriptors.insert(directory.to_owned(), descriptor);
        Ok(())
    }

    /// Drops the watches of `directory` and below; those that still exist are set again by the scan that follows.
    fn forget_below(&mut self, directory: &Path) {
        let gone: Vec<PathBuf> = self
            .descriptors
            .range(directory.to_owned()..)
            .take_while(|(path, _)| path.starts_with(directory))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(descriptor) = self.descriptors.remove(&path) {
                self.paths.remove(&descriptor);
                // Fails when the directory is gone already, which removed the watch as well.
                let _ = self.watches.remove(descriptor);
            }
        }
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files whose name says that they hold objects.
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories that could not be entered, and why.
    pub(super) problems: BTreeMap<PathBuf, String>,
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_readable_name(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn is_freshly_created(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}
