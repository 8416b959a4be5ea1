//! Finding and running the tools of the packet filter: text in, text out, with a deadline.
//!
//! A tool runs in the network namespace of the calling thread, like every child process.
//!
//! Deliberately not here: what the tools are told (see [`crate::render`] and [`crate::apply`]).

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

/// A tool needs milliseconds; longer than this it waits for something that will not come, for example
/// a lock or a name service.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where system tools live, searched after `PATH`: containers often leave these out.
const SYSTEM_PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Where to look for tools, and what to tell them.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    places: Vec<PathBuf>,
    environment: Vec<(OsString, OsString)>,
}

/// What a tool said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
}

/// Why a tool gave no answer at all.
#[derive(Debug, Error)]
pub enum ToolError {
    /// The program is nowhere on the search path.
    #[error("cannot find {program}; hint: {}", install_hint(program))]
    Missing {
        /// Name of the program.
        program: String,
    },
    /// The program cannot be started, fed or read.
    #[error("cannot run {program}: {source}")]
    Io {
        /// Name of the program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program did not end in time and was killed.
    #[error("{program} did not end within {} s", DEADLINE.as_secs())]
    Late {
        /// Name of the program.
        program: String,
    },
}

fn install_hint(program: &str) -> &'static str {
    if program == "nft" {
        "install the package nftables, or choose --backend iptables-nft or iptables-legacy"
    } else {
        "install the package iptables, or choose --backend nft"
    }
}

impl Tools {
    /// Looks along `path` (the value of `PATH`) and then in the usual places of system tools.
    pub fn new(path: &OsStr) -> Self {
        let places = std::env::split_paths(path)
            .chain(SYSTEM_PLACES.map(PathBuf::from))
            .filter(|place| place.is_absolute())
            .collect();
        Self { places, environment: Vec::new() }
    }

    /// Sets a variable in the environment of every tool.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &Path) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Where `program` is, if anywhere.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        self.places.iter().map(|place| place.join(program)).find(|file| file.is_file())
    }

    /// Runs `program` with `input` on its standard input and waits for its end.
    ///
    /// # Errors
    /// When it cannot be run to its end; a non-zero exit code is an answer, not an error.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[S],
        input: &str,
    ) -> Result<Said, ToolError> {
        let failed = |source| ToolError::Io { program: program.to_owned(), source };
        let file =
            self.find(program).ok_or_else(|| ToolError::Missing { program: program.to_owned() })?;
        let mut child = Command::new(file)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let input = input.to_owned();
        let feed = child.stdin.take().map(|mut pipe| {
            // A tool that stops reading early says why by itself; the broken pipe adds nothing.
            thread::spawn(move || drop(pipe.write_all(input.as_bytes())))
        });
        let said = listen(&mut child);
        if said.is_none() {
            // Killing fails only if the child has ended meanwhile, which is as good.
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        if let Some(feed) = feed {
            // The pipe's reader is gone, so the feeder has ended or is about to.
            let _ = feed.join();
        }
        let (out, err) = said.ok_or_else(|| ToolError::Late { program: program.to_owned() })?;
        Ok(Said { out, err, code: status.code() })
    }
}

/// Reads both outputs to their ends; nothing if that takes too long.
fn listen(child: &mut Child) -> Option<(String, String)> {
    let (sender, receiver) = mpsc::sync_channel(2);
    let pipes: [(bool, Option<Box<dyn Read + Send>>); 2] = [
        (true, child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
        (false, child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
    ];
    for (is_out, pipe) in pipes {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // A pipe that breaks has been read as far as it goes.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            // Nobody listens any more only after the deadline.
            let _ = sender.send((is_out, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let (mut out, mut err) = (String::new(), String::new());
    for _ in 0..2 {
        match receiver.recv_timeout(DEADLINE).ok()? {
            (true, text) => out = text,
            (false, text) => err = text,
        }
    }
    Some((out, err))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        Tools::new(OsStr::new("/bin"))
    }

    #[test]
    fn hears_both_outputs_and_the_code() {
        let said = tools().run("sh", &["-c", "cat; echo oops >&2; exit 3"], "in").unwrap();

        assert_eq!(said, Said { out: "in".into(), err: "oops\n".into(), code: Some(3) });
    }

    #[test]
    fn a_tool_that_does_not_read_is_no_trouble() {
        let said = tools().run("true", &[""; 0], &"x".repeat(1 << 20)).unwrap();

        assert_eq!(said.code, Some(0));
    }

    #[test]
    fn a_missing_tool_is_named_with_a_way_out() {
        let error = tools().run("no-such-tool", &[""; 0], "").unwrap_err();

        assert!(error.to_string().contains("no-such-tool; hint: install"), "{error}");
    }
}
