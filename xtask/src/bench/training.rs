//! What only happens in the training of a proxy (`cargo xtask dist`).
//!
//! Its program lies on a file system of its own on which nothing is read ahead. Then the kernel maps
//! just the pages that were touched, and /proc tells which.

use super::process::run;
use anyhow::{Context, ensure};
use std::{
    collections::BTreeSet,
    fmt::Write,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A page, in bytes, and the size of its entry in /proc/PID/pagemap (proc_pid_pagemap(5)).
const PAGE: u64 = 4096;
const ENTRY: u64 = 8;

/// The bit of an entry that tells whether the page is mapped.
const PRESENT: u64 = 1 << 63;

/// Room for the file system's own data, in bytes.
const OVERHEAD: u64 = 16 * 1024 * 1024;

/// Copies a program to where nothing is read ahead; returns where it is. `scratch` is a directory of
/// the enclosure, with which the file system ends.
pub(super) fn lay_cold(program: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
    let image = scratch.join("cold.img");
    let point = scratch.join("cold");
    let bytes =
        fs::metadata(program).with_context(|| format!("cannot see {}", program.display()))?.len();
    File::create(&image)?.set_len(bytes + OVERHEAD)?;
    fs::create_dir(&point)?;
    let mut make = Command::new("mkfs.ext4");
    run(make.args(["-q", "-b", &PAGE.to_string(), "-O", "^has_journal"]).arg(&image))?;
    let mount = || run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&point));
    let name = program.file_name().context("a program has a name")?;
    mount()?;
    fs::copy(program, point.join(name))?;
    // Mounted anew, nothing of it is in memory.
    run(Command::new("umount").arg(&point))?;
    mount()?;
    let mut find = Command::new("findmnt");
    let found = find.args(["--noheadings", "--output", "SOURCE"]).arg(&point).output()?;
    ensure!(found.status.success(), "cannot find the device of {}", point.display());
    let device = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    run(Command::new("blockdev").args(["--setra", "0", &device]))?;
    Ok(point.join(name))
}

/// Writes which pages of its program a process has touched: offsets in the file, a line each.
pub(super) fn write_touched(process: u32, file: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for offset in touched(process).with_context(|| format!("cannot see into {process}"))? {
        writeln!(text, "{offset}")?;
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn touched(process: u32) -> anyhow::Result<BTreeSet<u64>> {
    let program = fs::read_link(format!("/proc/{process}/exe"))?;
    let program = program.to_str().context("its program has a strange name")?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let pages = File::open(format!("/proc/{process}/pagemap"))?;
    let mut touched = BTreeSet::new();
    for (start, end, offset) in maps.lines().filter_map(|line| mapping(line, program)) {
        for page in 0..(end - start) / PAGE {
            let mut entry = [0; ENTRY as usize];
            pages.read_exact_at(&mut entry, (start / PAGE + page) * ENTRY)?;
            if u64::from_le_bytes(entry) & PRESENT != 0 {
                touched.insert(offset + page * PAGE);
            }
        }
    }
    Ok(touched)
}

/// Start, end and offset of a mapping of the program: `start-end mode offset device inode path`.
fn mapping(line: &str, program: &str) -> Option<(u64, u64, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [range, _, offset, _, _, path] = fields[..] else { return None };
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (path == program).then_some((number(start)?, number(end)?, number(offset)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_the_program_are_told_from_others() {
        let program = "7f00-9f00 r-xp 00001000 07:00 12 /mnt/cold/hauberk-proxy";
        assert_eq!(mapping(program, "/mnt/cold/hauberk-proxy"), Some((0x7f00, 0x9f00, 0x1000)));
        assert_eq!(mapping(program, "/mnt/cold/other"), None);
        assert_eq!(mapping("7f00-9f00 rw-p 00000000 00:00 0", "/mnt/cold/hauberk-proxy"), None);
    }

    #[test]
    fn a_running_program_has_touched_some_of_its_pages() {
        let touched = touched(std::process::id()).unwrap();
        assert!(touched.iter().all(|offset| offset % PAGE == 0));
        assert!(touched.len() > 10, "{} pages", touched.len());
    }
}
