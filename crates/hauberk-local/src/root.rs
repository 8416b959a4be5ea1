//! The file system a lab sees: the machine's own, with room for what pods need.
//!
//! Called once, at the start of the runtime, in its new mount namespace. The new root is a memory
//! file system that shows every top-level directory of the machine, has a `/proc` of the lab and a
//! private `/run`. So containers can have mount points anywhere, and nothing of it touches the disk:
//! when the lab's last process is gone, so is all of it.
//!
//! Where a mount point is missing below a directory of the machine, that directory gets an overlay
//! in memory ([`MountPoints::ensure`]). From then on, what containers write there stays in the lab.
//!
//! Deliberately not here: the mounts of one container, made by the container's own process.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount, mount_bind_recursive, mount_change, unmount};

/// Where the lab keeps its own files: at the top of its root, where no container mounts anything over.
pub const LAB_DIRECTORY: &str = "/.hauberk-lab";

/// A directory or file of the machine, usable after the root has changed.
#[derive(Debug)]
pub struct Kept {
    handle: OwnedFd,
    original: PathBuf,
}

impl Kept {
    /// Opens a path, for nothing but going on from there.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { handle, original: path.to_owned() })
    }

    /// The path that leads there now.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd()).into()
    }

    /// The path that it was opened by.
    pub fn original(&self) -> &Path {
        &self.original
    }
}

/// Changes to the lab's root. The process must be alone in a new mount namespace.
///
/// # Errors
/// Names the step that the kernel refused.
pub fn enter() -> anyhow::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    // Any directory will do to stand on while the root changes; /tmp comes back right below.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/tmp", "tmpfs", flags, c"mode=0755").context("cannot mount a tmpfs")?;
    fs::create_dir("/tmp/old")?;
    rustix::process::pivot_root("/tmp", "/tmp/old").context("cannot change the root")?;
    std::env::set_current_dir("/")?;
    for entry in fs::read_dir("/old")? {
        let entry = entry?;
        show(&entry).with_context(|| format!("cannot show {}", entry.path().display()))?;
    }
    unmount("/old", UnmountFlags::DETACH).context("cannot leave the old root")?;
    fs::remove_dir("/old")?;
    fs::create_dir(LAB_DIRECTORY).context("cannot make the lab's directory")
}

/// Shows one top-level entry of the old root in the new one.
fn show(entry: &fs::DirEntry) -> io::Result<()> {
    let (name, old) = (entry.file_name(), entry.path());
    let new = Path::new("/").join(&name);
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(&old)?, &new);
    }
    if !kind.is_dir() {
        return Ok(()); // Files there (images of kernels, swap) are nothing for containers.
    }
    fs::create_dir(&new)?;
    match name.to_str() {
        Some("run") => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            Ok(mount("tmpfs", &new, "tmpfs", flags, c"mode=0755")?)
        }
        Some("proc") => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            // Refused where a container runtime masks parts of /proc; the old one does as well.
            Ok(mount("proc", &new, "proc", flags, None)
                .or_else(|_| mount_bind_recursive(&old, &new))?)
        }
        _ => Ok(mount_bind_recursive(&old, &new)?),
    }
}

/// Where a path leads when links are followed, as far as it exists.
pub fn resolve(path: &Path) -> PathBuf {
    let mut missing = PathBuf::new();
    for ancestor in path.ancestors() {
        if let Ok(existing) = ancestor.canonicalize() {
            return existing.join(missing);
        }
        missing = match (ancestor.file_name(), missing.as_os_str().is_empty()) {
            (Some(name), true) => PathBuf::from(name),
            (Some(name), false) => Path::new(name).join(missing),
            (None, _) => missing,
        };
    }
    path.to_owned()
}

/// Makes places where containers can mount something.
#[derive(Debug)]
pub struct MountPoints {
    /// Device numbers of file systems that are the lab's own.
    private: BTreeSet<u64>,
    overlays: usize,
}

impl MountPoints {
    /// To be called after [`enter`].
    ///
    /// # Errors
    /// When the lab's root cannot be looked at.
    pub fn new() -> io::Result<Self> {
        let device = |path: &str| fs::metadata(path).map(|metadata| metadata.dev());
        Ok(Self { private: BTreeSet::from([device("/")?, device("/run")?]), overlays: 0 })
    }

    /// Makes sure that `path` exists, as a directory or a file like `like`.
    ///
    /// # Errors
    /// When it cannot be made, or is of the other kind.
    pub fn ensure(&mut self, path: &Path, like: &fs::Metadata) -> io::Result<()> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() == like.is_dir() => return Ok(()),
            Ok(_) => {
                let message = format!(
                    "{} is a file and a directory is wanted, or the other way round",
                    path.display()
                );
                return Err(io::Error::other(message));
            }
            Err(_) => {}
        }
        if let Ok(target) = fs::read_link(path) {
            // A link to nowhere, as /etc/resolv.conf into the /run of the machine.
            let target = path.parent().unwrap_or(Path::new("/")).join(target);
            return self.ensure(&target, like);
        }
        let existing = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir());
        let existing = existing.unwrap_or(Path::new("/")).canonicalize()?;
        if !self.private.contains(&fs::metadata(&existing)?.dev()) {
            self.overlay(&existing)?;
        }
        if like.is_dir() {
            return fs::create_dir_all(path);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(path).map(drop)
    }

    fn overlay(&mut self, directory: &Path) -> io::Result<()> {
        self.overlays += 1;
        let base = format!("{LAB_DIRECTORY}/overlay/{}", self.overlays);
        for part in ["upper", "work"] {
            fs::create_dir_all(format!("{base}/{part}"))?;
        }
        let lower = directory.display().to_string().replace('\\', "\\\\").replace(':', "\\:");
        let lower = lower.replace(',', "\\,");
        let options = format!("lowerdir={lower},upperdir={base}/upper,workdir={base}/work");
        let mount_with = |options: String| {
            let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
            Ok(mount("overlay", directory, "overlay", MountFlags::empty(), options.as_c_str())?)
        };
        // A user namespace may only use attributes of the user; older kernels do not know the option.
        mount_with(format!("{options},userxattr"))
            .or_else(|_: io::Error| mount_with(options))
            .map_err(|error: io::Error| {
                let message =
                    format!("cannot lay a writable layer over {}: {error}", directory.display());
                io::Error::new(error.kind(), message)
            })?;
        self.private.insert(fs::metadata(directory)?.dev());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_far_as_a_path_exists() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        fs::create_dir(base.join("run")).unwrap();
        std::os::unix::fs::symlink("run", base.join("link")).unwrap();
        let check =
            |path: &str, expect: &str| assert_eq!(resolve(&base.join(path)), base.join(expect));
        check("link/a/b", "run/a/b");
        check("link", "run");
        check("x/y", "x/y");
    }
}
