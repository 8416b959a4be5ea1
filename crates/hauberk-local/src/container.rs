//! Processes of a pod: its namespaces, its files, and starting a program inside.
//!
//! Everything here blocks for a few milliseconds at most and is called on threads that may block.
//! Who calls when is the supervisor's business ([`crate::pod`]).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hauberk_identity::token::{ServiceAccount, TokenSigner, TokenSubject};
use hauberk_linux::namespace::{Kind, Namespace, inside};
use hauberk_linux::process::{
    Capabilities, Ended, Ids, Mount, Mounts, Program, ReadOnly, Running, Tie, hold,
};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::network::{self, Plug};
use crate::plan::{ContainerPlan, Content, File, FileText, PodPlan};
use crate::root::{self, Kept, LAB_DIRECTORY, MountPoints};

/// What all pods share.
#[derive(Debug)]
pub struct Machine {
    /// Places to mount at.
    pub mount_points: Mutex<MountPoints>,
    /// `/proc` of the machine, to tell its process ids.
    pub host_proc: Kept,
    /// Makes the tokens.
    pub signer: TokenSigner,
}

impl Machine {
    /// The number the machine outside of the lab knows a process by.
    fn host_pid(&self, process: &impl AsFd) -> Option<u32> {
        // A pidfd's information is numbered for the reader of that /proc (pidfd_open(2)).
        let number = process.as_fd().as_raw_fd();
        let path = self.host_proc.path().join(format!("self/fdinfo/{number}"));
        let text = fs::read_to_string(path).ok()?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        pid.trim().parse().ok().filter(|pid| *pid > 0)
    }
}

/// A child that can be waited for without a thread.
#[derive(Debug)]
pub struct Child {
    running: Running,
    ended: AsyncFd<OwnedFd>,
    host_pid: Option<u32>,
}

impl Child {
    fn new(running: Running, machine: &Machine) -> io::Result<Self> {
        let host_pid = machine.host_pid(&running);
        let pidfd = running.as_fd().try_clone_to_owned()?;
        #[expect(deprecated, reason = "its unsafe successor asks for what an OwnedFd guarantees")]
        let ended = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self { running, ended, host_pid })
    }

    /// Process id inside the lab.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Process id as the machine sees it.
    pub fn host_pid(&self) -> Option<u32> {
        self.host_pid
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let _ = self.running.signal(signal); // One that has ended needs no signal.
    }

    /// Waits for the end. Cancel-safe.
    pub async fn wait(&self) -> Ended {
        loop {
            let readable = self.ended.readable().await;
            match self.running.try_wait() {
                Ok(Some(ended)) => return ended,
                Ok(None) => {
                    if let Ok(mut guard) = readable {
                        guard.clear_ready();
                    }
                }
                Err(error) => {
                    tracing::error!(%error, pid = self.pid(), "cannot wait for a process");
                    return Ended::Signal(0);
                }
            }
        }
    }
}

/// A pod's namespaces and files.
#[derive(Debug)]
pub struct Home {
    holder: Child,
    namespaces: [Namespace; 4],
    plug: Plug,
    directory: PathBuf,
    /// `/etc` files: where each is, and where it is seen.
    etc: Vec<(PathBuf, &'static str)>,
}

impl Home {
    /// Makes a pod's namespaces, connects them, and writes its files.
    ///
    /// # Errors
    /// When anything of it fails; what was made before is taken away.
    pub fn create(plan: &PodPlan, plug: Plug, machine: &Machine) -> anyhow::Result<Self> {
        let directory = Path::new(LAB_DIRECTORY).join("pods").join(&plan.uid);
        let etc = write_etc(plan, &directory)?;
        for volume in &plan.volumes {
            let at = directory.join("volumes").join(&volume.name);
            match &volume.content {
                Content::Host(_) => {}
                Content::Empty => make_directory(&at, 0o777)?,
                Content::Files(files) => {
                    make_directory(&at, 0o755)?;
                    write_files(&at, files, plan, &machine.signer)?;
                }
            }
        }
        let running = hold(&[Kind::Network, Kind::Uts, Kind::Ipc, Kind::Pid])
            .context("cannot make the pod's namespaces")?;
        let holder = Child::new(running, machine)?;
        let open = |kind| Namespace::of_process(holder.pid(), kind);
        let made = || -> anyhow::Result<[Namespace; 4]> {
            let (network, uts) = (open(Kind::Network)?, open(Kind::Uts)?);
            network::plug(&network, &uts, &plan.hostname, plug)?;
            Ok([network, uts, open(Kind::Ipc)?, open(Kind::Pid)?])
        };
        match made() {
            Ok(namespaces) => Ok(Self { holder, namespaces, plug, directory, etc }),
            Err(error) => {
                holder.signal(Signal::KILL);
                let _ = holder.running.wait(); // It holds nobody else yet.
                Err(error)
            }
        }
    }

    /// The file of the network namespace, as the machine sees it.
    pub fn network_namespace(&self) -> Option<String> {
        self.holder.host_pid().map(|pid| format!("/proc/{pid}/ns/net"))
    }

    /// Ends every process of the pod. Waiting for [`Home::gone`] is only wise when nobody else waits
    /// for one of them.
    pub fn kill(&self) {
        self.holder.signal(Signal::KILL);
    }

    /// Waits until no process is left, then takes the rest away.
    pub async fn gone(&self) {
        self.holder.wait().await;
        network::unplug(self.plug);
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove a pod's files");
        }
    }

    /// Writes all tokens anew.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn renew_tokens(&self, plan: &PodPlan, machine: &Machine) -> anyhow::Result<()> {
        for volume in &plan.volumes {
            if let Content::Files(files) = &volume.content {
                let is_token = |file: &&File| matches!(file.text, FileText::Token { .. });
                let tokens: Vec<File> = files.iter().filter(is_token).cloned().collect();
                let at = self.directory.join("volumes").join(&volume.name);
                write_files(&at, &tokens, plan, &machine.signer)?;
            }
        }
        Ok(())
    }

    /// Starts a container's program.
    ///
    /// # Errors
    /// When a mount point cannot be made, or the program cannot be started.
    pub fn start(
        &self,
        plan: &PodPlan,
        container: &ContainerPlan,
        machine: &Machine,
        stdio: [OwnedFd; 3],
    ) -> anyhow::Result<Child> {
        let mut mounts = vec![Mount::Proc];
        for (source, target) in &self.etc {
            let (source, target) = (source.clone(), PathBuf::from(target));
            mounts.push(Mount::Bind { source, target, read_only: ReadOnly::No });
        }
        for mount in &container.mounts {
            let mut source = match plan.volumes.iter().find(|volume| volume.name == mount.volume) {
                Some(crate::plan::Volume { content: Content::Host(path), .. }) => path.clone(),
                _ => self.directory.join("volumes").join(&mount.volume),
            };
            if let Some(sub_path) = &mount.sub_path {
                source.push(sub_path);
                if !source.exists() {
                    make_directory(&source, 0o777)?;
                }
            }
            // Only what the lab made itself is known to have the flags a remount must repeat.
            let own = source.starts_with(LAB_DIRECTORY);
            let read_only = if mount.read_only && own { ReadOnly::Yes } else { ReadOnly::No };
            mounts.push(Mount::Bind { source, target: mount.path.clone(), read_only });
        }
        self.ensure_mount_points(&mounts, machine)?;
        let program = program(container, &container.command, Mounts::Own(mounts), stdio);
        self.spawn(program, machine)
    }

    /// Starts another program in the place of a running container.
    ///
    /// # Errors
    /// When the container has ended, or the program cannot be started.
    pub fn start_beside(
        &self,
        container: &ContainerPlan,
        lab_pid: u32,
        command: &[String],
        machine: &Machine,
        stdio: [OwnedFd; 3],
    ) -> anyhow::Result<Child> {
        let mounts = Namespace::of_process(lab_pid, Kind::Mount)
            .with_context(|| format!("container {} has ended", container.name))?;
        self.spawn(program(container, command, Mounts::Join(mounts), stdio), machine)
    }

    fn spawn(&self, program: Program, machine: &Machine) -> anyhow::Result<Child> {
        let name = program.arguments.first().cloned().unwrap_or_default();
        let namespaces = self.namespaces.each_ref();
        let running = inside(&namespaces, || program.spawn())
            .context("cannot enter the pod's namespaces")?
            .with_context(|| format!("cannot start {}", name.display()))?;
        Ok(Child::new(running, machine)?)
    }

    /// Runs `work` on a thread in the pod's network. What it opens there stays usable outside.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let [network, ..] = &self.namespaces;
        inside(&[network], work)
    }

    /// A socket on which a process of the pod can say that it serves, and its name as
    /// [`hauberk_process::notify`] takes it. It is reached from the pod's network namespace only.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn ready_socket(&self) -> io::Result<(String, UnixDatagram)> {
        let name = format!("hauberk-{}", crate::objects::new_uid());
        let address = SocketAddr::from_abstract_name(&name)?;
        let socket = self.inside_network(|| UnixDatagram::bind_addr(&address))??;
        socket.set_nonblocking(true)?;
        Ok((format!("@{name}"), socket))
    }

    fn ensure_mount_points(&self, mounts: &[Mount], machine: &Machine) -> anyhow::Result<()> {
        let mut points = machine.mount_points.lock().unwrap_or_else(PoisonError::into_inner);
        let mut earlier: Vec<(PathBuf, &Path)> = Vec::new();
        for mount in mounts {
            let Mount::Bind { source, target, .. } = mount else { continue };
            let like = fs::metadata(source)
                .with_context(|| format!("cannot mount {}", source.display()))?;
            let resolved = root::resolve(target);
            // Below another volume of the lab's own, the place is made in that volume.
            let inside = earlier.iter().rev().find_map(|(above, volume)| {
                let below = resolved.strip_prefix(above).ok()?;
                volume.starts_with(LAB_DIRECTORY).then(|| volume.join(below))
            });
            let place = inside.as_deref().unwrap_or(target);
            points
                .ensure(place, &like)
                .with_context(|| format!("cannot mount at {}", target.display()))?;
            earlier.push((resolved, source));
        }
        Ok(())
    }
}

fn program(
    container: &ContainerPlan,
    command: &[String],
    mounts: Mounts,
    stdio: [OwnedFd; 3],
) -> Program {
    let name = command.first().cloned().unwrap_or_default();
    let path = container.environment.iter().find(|(key, _)| key == "PATH");
    let candidates = if name.contains('/') {
        vec![PathBuf::from(&name)]
    } else {
        let directories =
            path.map_or("", |(_, path)| path).split(':').filter(|one| !one.is_empty());
        directories.map(|directory| Path::new(directory).join(&name)).collect()
    };
    let environment = container.environment.iter();
    Program {
        candidates,
        arguments: command.iter().map(OsString::from).collect(),
        environment: environment.map(|(key, value)| (key.into(), value.into())).collect(),
        directory: PathBuf::from(&container.directory),
        stdio,
        create: Vec::new(),
        mounts,
        ids: container.ids.map(|(user, group)| {
            let capabilities = capabilities(&container.capabilities);
            Ids { user, group, capabilities }
        }),
        tie: Tie::None,
    }
}

/// Capabilities that containers ask for, of those that concern what is the pod's own; the names are
/// capabilities(7)'s. Others would reach the machine itself and are not given.
fn capabilities(names: &[String]) -> Capabilities {
    let known = [
        ("NET_BIND_SERVICE", 10),
        ("NET_BROADCAST", 11),
        ("NET_ADMIN", 12),
        ("NET_RAW", 13),
        ("SYS_CHROOT", 18),
        ("SYS_PTRACE", 19),
    ];
    let bits = known.iter().filter(|(name, _)| {
        names.iter().any(|asked| asked.trim_start_matches("CAP_") == *name || asked == "ALL")
    });
    Capabilities(bits.fold(0, |all, (_, number)| all | 1 << number))
}

/// An empty standard input.
///
/// # Errors
/// When there is no `/dev/null`.
pub fn no_input() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/dev/null")?.into())
}

fn write_etc(plan: &PodPlan, directory: &Path) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    make_directory(directory, 0o755)?;
    let mut files = Vec::new();
    for (name, target, text) in [
        ("hosts", "/etc/hosts", plan.hosts.clone()),
        ("hostname", "/etc/hostname", format!("{}\n", plan.hostname)),
        ("resolv.conf", "/etc/resolv.conf", plan.resolver.clone()),
        // The machine's may ask a daemon that is not in the lab.
        ("nsswitch.conf", "/etc/nsswitch.conf", NAME_SERVICES.to_owned()),
    ] {
        let path = directory.join(name);
        fs::write(&path, text)?;
        files.push((path, target));
    }
    Ok(files)
}

const NAME_SERVICES: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n\
                             networks: files\nprotocols: files\nservices: files\n";

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

fn write_files(
    at: &Path,
    files: &[File],
    plan: &PodPlan,
    signer: &TokenSigner,
) -> anyhow::Result<()> {
    for file in files {
        let bytes = match &file.text {
            FileText::Bytes(bytes) => bytes.clone(),
            FileText::Token { audience, lifetime } => {
                token(plan, signer, audience, *lifetime)?.into_bytes()
            }
        };
        let path = at.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // By rename, so that a reader sees the old text or the new one.
        let temporary = at.join(".new");
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn token(
    plan: &PodPlan,
    signer: &TokenSigner,
    audience: &str,
    lifetime: Duration,
) -> anyhow::Result<String> {
    let subject = TokenSubject {
        account: ServiceAccount {
            namespace: plan.namespace.clone(),
            name: plan.service_account.clone(),
        },
        pod_name: plan.name.clone(),
        pod_uid: plan.uid.clone(),
    };
    signer.mint(&subject, audience, lifetime, SystemTime::now()).context("cannot sign a token")
}
