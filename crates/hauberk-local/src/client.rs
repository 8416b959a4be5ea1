//! The command line's side of the lab's socket. Blocks.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::{Access, access};

use crate::api::{Answer, Request, Target};
use crate::objects::new_uid;
use crate::wire::{Incoming, Outgoing};

/// A lab that is starting has no socket yet, but has it long before this.
const STALE_AGE: Duration = Duration::from_secs(60);

/// A socket is bound a moment before it can be connected to; after this time it is nobody's.
const UNHEARD_AGE: Duration = Duration::from_secs(2);

/// Where a lab has its socket and its notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirectory {
    lab: String,
    path: PathBuf,
}

impl StateDirectory {
    /// The directory of the lab of this name: `/run/hauberk/<lab>` for root, else in
    /// `$XDG_RUNTIME_DIR`, else `/tmp/hauberk-<uid>/<lab>`.
    ///
    /// # Errors
    /// When the name is not a DNS label.
    pub fn of(lab: &str, xdg_runtime_dir: Option<&Path>) -> anyhow::Result<Self> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if lab.is_empty() || lab.len() > 40 || !lab.bytes().all(letter) {
            bail!("{lab:?} cannot be a lab's name; hint: use a-z, 0-9 and -");
        }
        let user = rustix::process::geteuid();
        let base = match xdg_runtime_dir {
            // The root of a user namespace is not the machine's, and may not write there.
            _ if user.is_root() && access("/run", Access::WRITE_OK).is_ok() => {
                PathBuf::from("/run/hauberk")
            }
            Some(directory) if directory.is_dir() => directory.join("hauberk"),
            _ => PathBuf::from(format!("/tmp/hauberk-{}", user.as_raw())),
        };
        Ok(Self { lab: lab.to_owned(), path: base.join(lab) })
    }

    /// The lab's name.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// What the runtime of a lab that stands alone has to say.
    pub fn log(&self) -> PathBuf {
        self.path.join("runtime.log")
    }

    /// Makes the directory, readable by nobody else. What a dead lab has left there goes.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else.
    pub fn create(&self) -> anyhow::Result<Made> {
        self.remove_stale();
        let _ = fs::remove_dir_all(&self.path); // It need not be there.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("cannot make {}", self.path.display()))?;
        let base = self.path.parent().unwrap_or(&self.path);
        let owner = fs::metadata(base)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            bail!("{} belongs to user {owner}", base.display());
        }
        fs::write(self.path.join("id"), new_uid())?;
        self.made().context("the directory has vanished")
    }

    /// Removes what labs have left that were killed, also one of this name. Whoever asks for a lab
    /// does this first, so that nothing stays that only a daemon could take away.
    pub fn remove_stale(&self) {
        let base = self.path.parent().unwrap_or(&self.path);
        let owner = fs::symlink_metadata(base).map(|metadata| metadata.uid());
        if owner.ok() != Some(rustix::process::geteuid().as_raw()) {
            return; // Whoever owns it could lead us elsewhere.
        }
        let entries = fs::read_dir(base).into_iter().flatten().flatten();
        for stale in entries.filter(is_stale) {
            let _ = fs::remove_dir_all(stale.path()); // Somebody else may be at it.
            let _ = fs::remove_dir(base); // Labs may be in it.
        }
    }

    /// The directory that is there now.
    pub fn made(&self) -> Option<Made> {
        fs::read_to_string(self.path.join("id")).ok().map(Made)
    }

    /// Removes the directory, and its parent if that is empty then; but not that of another lab of
    /// the same name, which may have been started meanwhile.
    pub fn remove(&self, made: &Made) {
        if self.made().as_ref() != Some(made) {
            return;
        }
        let _ = fs::remove_dir_all(&self.path); // The other front may do the same.
        if let Some(base) = self.path.parent() {
            let _ = fs::remove_dir(base); // Another lab may be in it.
        }
    }
}

/// Whether a lab's directory is of a lab that is no more: nobody is behind its socket, or it has
/// none although it has had the time.
fn is_stale(entry: &fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|metadata| metadata.modified());
    let age = changed.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
    match UnixStream::connect(entry.path().join("api.sock")) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => age > UNHEARD_AGE,
        Err(_) => age > STALE_AGE,
    }
}

/// A state directory as it was made, told from a later one at the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made(String);

/// A conversation with a lab.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When no lab of this name runs.
    pub fn connect(state: &StateDirectory) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(state.socket()).with_context(|| {
            let lab = state.lab();
            format!("no lab {lab:?} is running; hint: start one with `hauberk local up`")
        })?;
        Ok(Self { stream })
    }

    /// Asks and gets the answer.
    ///
    /// # Errors
    /// When the lab says that it cannot be done, or has gone.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        self.send(request, &[])?;
        Ok(self.receive()?.0)
    }

    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut outgoing = Outgoing::new(request)?;
        while !outgoing.send(&self.stream, descriptors)? {}
        Ok(())
    }

    fn receive(&self) -> anyhow::Result<(Answer, Vec<std::os::fd::OwnedFd>, Vec<u8>)> {
        let mut incoming = Incoming::default();
        while !incoming.receive(&self.stream).context("the lab has gone")? {}
        match incoming.parse()? {
            (Answer::Failed { error }, _, _) => bail!(error),
            answer => Ok(answer),
        }
    }

    /// Copies a container's output.
    ///
    /// # Errors
    /// When there is no such container, or nobody reads `output`.
    pub fn logs(
        mut self,
        target: Target,
        follow: bool,
        output: &mut impl Write,
    ) -> anyhow::Result<()> {
        self.send(&Request::Logs { target, follow }, &[])?;
        let (_, _, rest) = self.receive()?;
        output.write_all(&rest)?;
        io::copy(&mut self.stream, output)?;
        Ok(output.flush()?)
    }

    /// Runs a program in a container with this process's standard streams; tells its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(self, target: Target, command: Vec<String>) -> anyhow::Result<i32> {
        let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
        let descriptors = [input.as_fd(), output.as_fd(), errors.as_fd()];
        self.send(&Request::Exec { target, command }, &descriptors)?;
        let (_, _, rest) = self.receive()?;
        // The second line may have come together with the first.
        let answer =
            if rest.is_empty() { self.receive()?.0 } else { serde_json::from_slice(&rest)? };
        match answer {
            Answer::Exit { code } => Ok(code),
            other => bail!("the lab answered {other:?}"),
        }
    }

    /// Opens a connection inside the lab.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn dial(self, target: Target, port: u16) -> anyhow::Result<TcpStream> {
        self.send(&Request::Dial { target, port }, &[])?;
        let (_, descriptors, _) = self.receive()?;
        let descriptor = descriptors.into_iter().next().context("the lab sent no connection")?;
        Ok(TcpStream::from(descriptor))
    }

    /// Asks the lab to end and waits until it has.
    ///
    /// # Errors
    /// When the lab cannot be asked.
    pub fn stop(self) -> anyhow::Result<()> {
        self.ask(&Request::Stop)?;
        // The runtime closes the connection by ending.
        let mut incoming = Incoming::default();
        while incoming.receive(&self.stream).is_ok_and(|complete| !complete) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::SystemTime;

    #[test]
    fn what_a_killed_lab_left_goes_and_what_lives_stays() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let state = |lab: &str| StateDirectory { lab: lab.to_owned(), path: base.path().join(lab) };
        let make = |lab: &str, age: Duration| {
            let state = state(lab);
            fs::create_dir(&state.path).expect("a directory");
            fs::write(state.log(), "").expect("a log");
            let listener = UnixListener::bind(state.socket()).expect("a socket");
            let changed = SystemTime::now() - age;
            let directory = fs::File::open(&state.path).expect("is there");
            directory.set_modified(changed).expect("can be set");
            listener
        };
        let old = UNHEARD_AGE * 2;
        let _alive = make("alive", old);
        drop(make("killed", old));
        drop(make("just-bound", Duration::ZERO));
        for (lab, age) in [("starting", old), ("never-started", STALE_AGE * 2)] {
            drop(make(lab, age));
            fs::remove_file(state(lab).socket()).expect("is there");
            let directory = fs::File::open(state(lab).path()).expect("is there");
            directory.set_modified(SystemTime::now() - age).expect("can be set");
        }
        state("other").remove_stale();
        let left = fs::read_dir(base.path()).expect("is there").flatten();
        let mut left: Vec<_> = left.map(|e| e.file_name().into_string().expect("text")).collect();
        left.sort();
        assert_eq!(left, ["alive", "just-bound", "starting"]);
    }
}
