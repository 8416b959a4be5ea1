//! What a long-running server asks of the kernel once, at its start.
//!
//! Called first thing in `main` by programs of which there is one per pod. Both wishes may be refused; the program
//! then works with less.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// Keeps the kernel from backing memory of this process with pages of 2 MiB.
///
/// Allocators reserve in advance and use sparsely; with huge pages every touched corner costs 2 MiB. A sidecar that
/// needs 2 MB of heap then holds 11.
///
/// The allocator has touched such pages before `main` begins, so the program is started over: the setting survives
/// `execve`, and so do process id, open files and environment. This function then returns at once. Costs two
/// milliseconds at the start of a process. Call it before anything else, and before there are other threads.
///
/// # Errors
/// What the kernel says, for example where it has no huge pages, or where there is no `/proc` to start over from; the
/// program then goes on with what it has.
pub fn use_small_pages() -> io::Result<()> {
    if prctl::get_thp_disable()? {
        return Ok(());
    }
    prctl::set_thp_disable(true)?;
    let mut arguments = std::env::args_os();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    Err(again.args(arguments).exec())
}

/// Raises the number of files that may be open to what the administrator allows (the hard limit), and says how many
/// that is.
///
/// # Errors
/// What the kernel says; the limit is then as it was.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_may_be_as_many_as_allowed() {
        let raised = raise_open_files().unwrap();

        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (raised, raised));
    }

    #[test]
    fn a_process_that_has_small_pages_is_not_started_over() {
        if let Err(error) = prctl::set_thp_disable(true) {
            println!("SKIPPED: this kernel refuses: {error}");
            return;
        }

        use_small_pages().unwrap();
    }
}
