//! Namespaces: naming their kinds, holding them open, running code inside of them.
//!
//! Called by the local runtime (each pod is a set of namespaces) and by tests that need a network of
//! their own. What is promised:
//!
//! - A thread that serves others never changes its namespace: [`inside`] starts a thread for the
//!   closure and ends it afterwards, so a forgotten way back cannot exist.
//! - Sockets keep the network namespace they were made in. Making a socket inside and using it
//!   outside is the way to reach into a pod.
//! - A namespace lives as long as a process in it, or a file descriptor of it.
//!
//! Deliberately not here: creating them. A namespace is created together with the process that
//! holds it, in [`crate::process`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// User and group ids, and the capabilities that go with them.
    User,
    /// The table of mounts.
    Mount,
    /// Interfaces, addresses, routes, rules, sockets.
    Network,
    /// The host name.
    Uts,
    /// System V objects and message queues.
    Ipc,
    /// Process ids. When its first process ends, the kernel kills all others.
    Pid,
}

impl Kind {
    /// The name of the kind's file in `/proc/<pid>/ns`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Network => "net",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Pid => "pid",
        }
    }

    pub(crate) fn clone_flag(self) -> libc::c_int {
        match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Network => libc::CLONE_NEWNET,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Pid => libc::CLONE_NEWPID,
        }
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Self::User => LinkNameSpaceType::User,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Network => LinkNameSpaceType::Network,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Pid => LinkNameSpaceType::ProcessID,
        }
    }
}

/// One namespace, kept alive by an open file.
#[derive(Debug)]
pub struct Namespace {
    kind: Kind,
    file: File,
}

impl Namespace {
    /// Opens the namespace of the given kind that process `pid` lives in.
    ///
    /// # Errors
    /// When the process is gone, or its namespaces are none of our business.
    pub fn of_process(pid: u32, kind: Kind) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/{}", kind.file_name())), kind)
    }

    /// Opens the calling thread's namespace of the given kind.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current(kind: Kind) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/thread-self/ns/{}", kind.file_name())), kind)
    }

    /// Opens the namespace a path names, as `/proc/<pid>/ns/net` or a bind mount of one.
    ///
    /// # Errors
    /// As opening a file.
    pub fn open(path: &Path, kind: Kind) -> io::Result<Self> {
        Ok(Self { kind, file: File::open(path)? })
    }

    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(self.kind.link_type()))?)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread of its own that has entered `namespaces`, and waits for it.
///
/// Blocks for as long as `work` does. Mount and user namespaces cannot be entered this way (the
/// kernel wants a process without other threads); entering a PID namespace concerns the children
/// that `work` starts.
///
/// # Errors
/// When a namespace cannot be entered; then `work` was not run.
pub fn inside<T: Send>(
    namespaces: &[&Namespace],
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(
            scope,
            move || -> io::Result<T> {
                for namespace in namespaces {
                    namespace.enter()?;
                }
                Ok(work())
            },
        )?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
