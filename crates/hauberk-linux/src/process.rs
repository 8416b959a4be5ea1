//! Starting processes in namespaces: the idle holder of a pod, a container, a whole lab.
//!
//! Called by the local runtime, and by tests that need a network of their own. The standard
//! library's `Command` cannot make or enter namespaces, mount, or hand out a pidfd, so this module
//! does the fork itself. What is promised:
//!
//! - [`Program::spawn`] returns when the program runs, or with the step that failed and why.
//! - The child inherits nothing but what it is given: all descriptors above 2 close at exec, signal
//!   handlers and the mask are back at their defaults, the environment is the one given.
//! - A [`Running`] is known by its pidfd, so a signal cannot hit a stranger that got the same pid.
//! - Dropping a [`Running`] does not end the process; a child that nobody waits for is a zombie
//!   until its parent ends. [`Running::wait`] and [`Running::try_wait`] collect it.
//!
//! Between fork and exec a child of a process with threads may only make system calls: it neither
//! allocates nor locks. So everything the child needs is prepared as C strings before the fork
//! (`Prepared`), and the child (`child`) is a straight list of system calls.
//!
//! Deliberately not here: what is mounted where, and restart policies (`hauberk-local`).

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::namespace::Kind;

/// A user and group to become before exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id, as seen inside the user namespace.
    pub user: u32,
    /// Group id, as seen inside the user namespace. No supplementary group is kept.
    pub group: u32,
    /// What another user than root keeps.
    pub capabilities: Capabilities,
}

/// A set of capabilities, a bit for each number of capabilities(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

/// One mount that the child makes in its own mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Shows `source` (a file or directory) at `target`, which must exist.
    Bind {
        /// Path as the parent sees it.
        source: PathBuf,
        /// Path in the child; symbolic links are followed.
        target: PathBuf,
        /// Whether writing is refused.
        read_only: ReadOnly,
    },
    /// A `/proc` of the child's PID namespace. Where the kernel refuses (a container with a masked
    /// `/proc`), the old one stays visible and the child goes on.
    Proc,
}

/// Whether a mount refuses to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// Which mount namespace the child gets.
#[derive(Debug)]
pub enum Mounts {
    /// The parent's.
    Inherit,
    /// A copy of the parent's that does not propagate back, with these added in order.
    Own(Vec<Mount>),
    /// That of another process.
    Join(crate::namespace::Namespace),
}

/// What ties the child's life to its parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The kernel kills the child when the parent *thread* that started it ends.
    ToParent,
    /// The child stands alone.
    None,
}

/// A program to be started.
#[derive(Debug)]
pub struct Program {
    /// Paths tried in order until one can be executed, as a shell does with `PATH`.
    pub candidates: Vec<PathBuf>,
    /// The argument vector, the program's own name first.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Working directory, looked up in the child's mount namespace.
    pub directory: PathBuf,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Namespaces made for the child. `Kind::Mount` is spelled by `mounts` instead.
    pub create: Vec<Kind>,
    /// The mount namespace.
    pub mounts: Mounts,
    /// User and group to become, if not the parent's.
    pub ids: Option<Ids>,
    /// Whether the child dies with its parent.
    pub tie: Tie,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct SpawnError {
    /// What was attempted, as a verb phrase.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// Whether it ended by itself with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would report: 128 plus the signal's number for a killed process.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A child process that was started here.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    pidfd: OwnedFd,
}

impl Running {
    /// The process id as the parent's PID namespace numbers it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to this process and to nobody else.
    ///
    /// # Errors
    /// When it has ended and was collected.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// How it ended, if it has; collects the zombie.
    ///
    /// # Errors
    /// When it was collected before.
    pub fn try_wait(&self) -> io::Result<Option<Ended>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Blocks until it ends; collects the zombie.
    ///
    /// # Errors
    /// When it was collected before.
    pub fn wait(&self) -> io::Result<Ended> {
        loop {
            match self.wait_with(WaitIdOptions::EXITED) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_with(&self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        }))
    }
}

impl AsFd for Running {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Program {
    /// Starts the program.
    ///
    /// # Errors
    /// The first step that failed; then no process is left.
    pub fn spawn(self) -> Result<Running, SpawnError> {
        self.spawn_after(|_| Ok(()))
    }

    /// Starts the program once `prepare` has run in the parent.
    ///
    /// `prepare` gets the child's pid while the child waits in its new namespaces: the moment to
    /// write the id maps of a user namespace.
    ///
    /// # Errors
    /// As [`Program::spawn`], and when `prepare` fails.
    pub fn spawn_after(
        self,
        prepare: impl FnOnce(u32) -> io::Result<()>,
    ) -> Result<Running, SpawnError> {
        let prepared =
            Prepared::new(&self).map_err(|source| SpawnError { step: "prepare", source })?;
        let fork = |source| SpawnError { step: "fork", source };
        let (mut report, report_child) = pipe().map_err(fork)?;
        let (go_child, mut go) = pipe().map_err(fork)?;
        let channel = Channel { report: report_child.as_raw_fd(), go: go_child.as_raw_fd() };

        let running = fork_into(&self.create, || child(&prepared, channel)).map_err(fork)?;
        drop((report_child, go_child));

        let started = prepare(running.pid())
            .map_err(|source| SpawnError { step: "prepare the new process", source })
            .and_then(|()| {
                // A child that is already gone has said why in its report.
                let _ = go.write_all(&[1]);
                read_report(&mut report)
            });
        if let Err(error) = started {
            let _ = running.signal(Signal::KILL);
            let _ = running.wait();
            return Err(error);
        }
        Ok(running)
    }
}

/// Starts a process that does nothing but keep the given new namespaces alive.
///
/// It ignores every signal but `SIGKILL`, collects orphans (it is the first process of its PID
/// namespace when that kind is among them), holds no descriptor, and costs a fork without exec. Its
/// death ends every process of its PID namespace; it is itself gone only when all of these have been
/// waited for, so wait for them first.
///
/// # Errors
/// When the kernel refuses a namespace.
pub fn hold(kinds: &[Kind]) -> io::Result<Running> {
    fork_into(kinds, idle)
}

/// Forks; the child runs `run`, which must only make system calls and never return.
fn fork_into(kinds: &[Kind], run: impl FnOnce() -> Never) -> io::Result<Running> {
    let flags = kinds.iter().fold(libc::CLONE_PIDFD, |flags, kind| flags | kind.clone_flag());
    let mut pidfd: RawFd = -1;
    // The kernel reads integers that hold addresses; `flags` is a set of bits, all positive.
    let mut arguments = CloneArguments {
        flags: u64::from(flags as u32),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    let masked = MaskedSignals::new()?;
    #[expect(unsafe_code, reason = "no library offers fork with new namespaces and a pidfd")]
    // SAFETY: without CLONE_VM the child gets its own copy of memory, as by fork. It only runs
    // `run`, whose callers pass `child` and `idle`: system calls on prepared memory, no allocation,
    // no lock, never returning. `arguments` and `pidfd` outlive the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<CloneArguments>())
    };
    if pid == 0 {
        run();
    }
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => {
            drop(masked);
            #[expect(
                unsafe_code,
                reason = "the kernel wrote a new descriptor that nobody owns yet"
            )]
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is open and ours alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Running { pid: u32::try_from(pid).unwrap_or_default(), pidfd })
        }
    }
}

enum Never {}

/// `struct clone_args` of `linux/sched.h`, first published size (64 bytes, Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// All signals blocked on this thread, so that no handler of the parent runs in the child.
struct MaskedSignals(nix::sys::signal::SigSet);

impl MaskedSignals {
    fn new() -> io::Result<Self> {
        use nix::sys::signal::{SigSet, SigmaskHow};
        Ok(Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?))
    }
}

impl Drop for MaskedSignals {
    fn drop(&mut self) {
        let restored = self.0.thread_set_mask();
        debug_assert!(restored.is_ok(), "a mask that the kernel gave out is a valid one");
    }
}

fn pipe() -> io::Result<(std::io::PipeReader, std::io::PipeWriter)> {
    std::io::pipe()
}

/// Descriptors of the child for talking with its parent while it is being born.
#[derive(Clone, Copy)]
struct Channel {
    report: RawFd,
    go: RawFd,
}

/// The steps of a child, in order; the number travels through the report pipe.
const STEPS: [&str; 10] = [
    "set the parent's death signal",
    "start a session",
    "make a mount namespace",
    "mount",
    "enter the mount namespace",
    "take the standard streams",
    "set the group",
    "set the user",
    "change to the working directory",
    "execute",
];

#[derive(Clone, Copy)]
enum Step {
    Tie,
    Session,
    NewMounts,
    Mount,
    JoinMounts,
    Stdio,
    Group,
    User,
    Directory,
    Execute,
}

fn read_report(report: &mut impl Read) -> Result<(), SpawnError> {
    let mut bytes = [0_u8; 5];
    match report.read_exact(&mut bytes) {
        // Closed by exec.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(source) => Err(SpawnError { step: "read the new process's report", source }),
        Ok(()) => {
            let [step, errno @ ..] = bytes;
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            Err(SpawnError {
                step: STEPS.get(usize::from(step)).copied().unwrap_or("start"),
                source,
            })
        }
    }
}

/// Everything the child needs, allocated before the fork.
struct Prepared {
    candidates: Vec<CString>,
    /// Point into `_arguments` and `_environment`, with a null at the end.
    argument_pointers: Vec<*const libc::c_char>,
    environment_pointers: Vec<*const libc::c_char>,
    _arguments: Vec<CString>,
    _environment: Vec<CString>,
    directory: CString,
    stdio: [RawFd; 3],
    own_mounts: Option<Vec<PreparedMount>>,
    join_mounts: Option<RawFd>,
    ids: Option<Ids>,
    tie: Tie,
}

enum PreparedMount {
    Bind { source: CString, target: CString, read_only: ReadOnly },
    Proc,
}

impl Prepared {
    fn new(program: &Program) -> io::Result<Self> {
        let arguments: Vec<CString> = program
            .arguments
            .iter()
            .map(|one| c_string(one.as_bytes()))
            .collect::<Result<_, _>>()?;
        let environment: Vec<CString> = program
            .environment
            .iter()
            .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?;
        let (own_mounts, join_mounts) = match &program.mounts {
            Mounts::Inherit => (None, None),
            Mounts::Own(mounts) => {
                (Some(mounts.iter().map(prepare_mount).collect::<Result<_, _>>()?), None)
            }
            Mounts::Join(namespace) => (None, Some(namespace.as_fd().as_raw_fd())),
        };
        Ok(Self {
            candidates: program.candidates.iter().map(|p| c_path(p)).collect::<Result<_, _>>()?,
            argument_pointers: pointers(&arguments),
            environment_pointers: pointers(&environment),
            _arguments: arguments,
            _environment: environment,
            directory: c_path(&program.directory)?,
            stdio: program.stdio.each_ref().map(AsRawFd::as_raw_fd),
            own_mounts,
            join_mounts,
            ids: program.ids,
            tie: program.tie,
        })
    }
}

fn prepare_mount(mount: &Mount) -> io::Result<PreparedMount> {
    Ok(match mount {
        Mount::Bind { source, target, read_only } => PreparedMount::Bind {
            source: c_path(source)?,
            target: c_path(target)?,
            read_only: *read_only,
        },
        Mount::Proc => PreparedMount::Proc,
    })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect()
}

fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_bytes())
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "a program's text contains a zero byte")
    })
}

/// The life of a child up to exec. Only system calls on memory that was prepared before.
fn child(prepared: &Prepared, channel: Channel) -> Never {
    let step = match become_program(prepared, channel) {
        Ok(never) => match never {},
        Err(step) => step,
    };
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0).to_ne_bytes();
    let report = [step as u8, errno[0], errno[1], errno[2], errno[3]];
    #[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
    // SAFETY: writes five bytes of the stack to a descriptor; then ends without running anything.
    unsafe {
        libc::write(channel.report, report.as_ptr().cast(), report.len());
        libc::_exit(127);
    }
}

#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn become_program(prepared: &Prepared, channel: Channel) -> Result<Never, Step> {
    // SAFETY: every call is a system call that is safe after a fork (signal-safety(7), or made by
    // number so that libc's locks and its list of threads are not touched). All pointers are into
    // `prepared` or the stack, zero-terminated, and live until exec.
    unsafe {
        if prepared.tie == Tie::ToParent {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), Step::Tie)?;
        }
        // Only now may the parent die: the end of the pipe tells that it has died before.
        let mut go = [0_u8; 1];
        if libc::read(channel.go, go.as_mut_ptr().cast(), 1) != 1 {
            libc::_exit(127);
        }
        // A caller's child is never a group leader, so this can only fail in a bug.
        check(libc::setsid(), Step::Session)?;
        if let Some(mounts) = &prepared.own_mounts {
            check(libc::unshare(libc::CLONE_NEWNS), Step::NewMounts)?;
            let none = ptr::null::<libc::c_char>();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(none, c"/".as_ptr(), none, private, ptr::null()), Step::NewMounts)?;
            for mount in mounts {
                make_mount(mount)?;
            }
        }
        if let Some(namespace) = prepared.join_mounts {
            check(libc::setns(namespace, libc::CLONE_NEWNS), Step::JoinMounts)?;
        }
        take_stdio(prepared.stdio)?;
        if let Some(ids) = prepared.ids {
            // Refused where the user namespace has no group map of its own; then there is nothing to drop.
            libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>());
            let (group, user) = (ids.group, ids.user);
            check(libc::syscall(libc::SYS_setresgid, group, group, group) as i32, Step::Group)?;
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), Step::User)?;
            check(libc::syscall(libc::SYS_setresuid, user, user, user) as i32, Step::User)?;
            if user != 0 {
                keep_capabilities(ids.capabilities)?;
            }
            if prepared.tie == Tie::ToParent {
                // The kernel forgets it when ids change.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), Step::Tie)?;
            }
        }
        check(libc::chdir(prepared.directory.as_ptr()), Step::Directory)?;
        default_signals();
        execute(prepared);
        Err(Step::Execute)
    }
}

/// Reduces the capabilities to these and makes them survive exec without file capabilities: ambient,
/// as a container image would have them on its files.
#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn keep_capabilities(kept: Capabilities) -> Result<(), Step> {
    // `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: three words twice, low bits first.
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (kept.0 as u32, (kept.0 >> 32) as u32);
    let sets = [low, low, low, high, high, high];
    // SAFETY: as in `become_program`; the kernel reads 8 and 24 bytes.
    unsafe {
        check(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) as i32, Step::User)?;
        for number in (0..64).filter(|number| kept.0 & (1 << number) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE;
            check(libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0), Step::User)?;
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn make_mount(mount: &PreparedMount) -> Result<(), Step> {
    let none = ptr::null::<libc::c_char>();
    // SAFETY: as in `become_program`.
    unsafe {
        match mount {
            PreparedMount::Bind { source, target, read_only } => {
                let bind = libc::MS_BIND | libc::MS_REC;
                let (source, target) = (source.as_ptr(), target.as_ptr());
                check(libc::mount(source, target, none, bind, ptr::null()), Step::Mount)?;
                if *read_only == ReadOnly::Yes {
                    // The flags that the runtime's own file system has must be repeated.
                    let flags = libc::MS_BIND
                        | libc::MS_REMOUNT
                        | libc::MS_RDONLY
                        | libc::MS_NOSUID
                        | libc::MS_NODEV;
                    check(libc::mount(none, target, none, flags, ptr::null()), Step::Mount)?;
                }
            }
            PreparedMount::Proc => {
                let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                let kind = c"proc".as_ptr();
                libc::mount(kind, c"/proc".as_ptr(), kind, flags, ptr::null());
            }
        }
    }
    Ok(())
}

/// Puts the given descriptors on 0, 1, 2 and marks all others to be closed by exec.
#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn take_stdio(stdio: [RawFd; 3]) -> Result<(), Step> {
    // SAFETY: only descriptor numbers are passed.
    unsafe {
        // First out of the way of 0..2, so that none is overwritten before it was copied.
        let mut moved = [0; 3];
        for (to, from) in moved.iter_mut().zip(stdio) {
            *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 3);
            check(*to, Step::Stdio)?;
        }
        for (at, from) in (0..3).zip(moved) {
            check(libc::dup2(from, at), Step::Stdio)?;
        }
        let cloexec = libc::CLOSE_RANGE_CLOEXEC;
        check(libc::syscall(libc::SYS_close_range, 3, u32::MAX, cloexec) as i32, Step::Stdio)
    }
}

/// Handlers end at exec by themselves, but an ignored signal (Rust ignores `SIGPIPE`) and the mask
/// would be inherited.
#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn default_signals() {
    // `struct sigaction` of the kernel, all zero: the default, no flags, no mask. Asked for by number,
    // because libc refuses to touch the two signals that it keeps for itself.
    let default = [0_u64; 4];
    let mask_bytes = 8;
    let nothing = ptr::null_mut::<u64>();
    // SAFETY: the kernel reads at most 32 bytes of `default` and writes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, mask_bytes);
        }
        let (set, mask) = (libc::SIG_SETMASK, default.as_ptr());
        libc::syscall(libc::SYS_rt_sigprocmask, set, mask, nothing, mask_bytes);
    }
}

/// Tries each candidate; returns only if none could be executed, with the best reason in `errno`.
#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn execute(prepared: &Prepared) {
    let mut denied = false;
    for candidate in &prepared.candidates {
        // SAFETY: both pointer lists end with null and point to strings that live in `prepared`.
        unsafe {
            libc::execve(
                candidate.as_ptr(),
                prepared.argument_pointers.as_ptr(),
                prepared.environment_pointers.as_ptr(),
            );
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => denied = true,
            _ => return,
        }
    }
    // SAFETY: the address of the calling thread's errno is always valid.
    unsafe { *libc::__errno_location() = if denied { libc::EACCES } else { libc::ENOENT } };
}

/// The life of a namespace's holder.
#[expect(unsafe_code, reason = "after a fork only raw system calls are allowed")]
fn idle() -> Never {
    // SAFETY: system calls without pointers, but for a zero-terminated constant.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"hauberk-pod".as_ptr());
        libc::setsid();
        // Ignoring it makes the kernel collect every orphan that this process inherits.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            // All signals are masked since before the fork, so this does not return.
            libc::pause();
        }
    }
}

fn check(result: i32, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
