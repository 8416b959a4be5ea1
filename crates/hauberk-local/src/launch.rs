//! Bringing up a lab: the runtime is this same program, started again in new namespaces.
//!
//! Called by `hauberk local up`. The new process is the first of a PID namespace, so its end, by
//! whatever signal, ends every process of the lab; and unless the lab is to stand alone, the kernel
//! kills it when the front process ends. What lives in memory and namespaces goes with them; only
//! the state directory may be left, and the next lab of the name removes it.
//!
//! Without root the runtime gets a user namespace. `newuidmap` and `newgidmap` give it a range of ids
//! where the machine has them set up; otherwise it has a single one, and proxies are told from
//! applications by their packets' mark instead of their user.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use hauberk_linux::namespace::Kind;
pub use hauberk_linux::process::{Ended, Running};
use hauberk_linux::process::{Mounts, Program, Tie};
pub use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::client::StateDirectory;

/// What the runtime needs to know; travels as JSON in an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Name of the lab.
    pub lab: String,
    /// Its state directory.
    pub state: PathBuf,
    /// Files and directories with manifests.
    pub files: Vec<PathBuf>,
    /// Programs of images, as `image=command`.
    pub images: Vec<(String, String)>,
    /// What sidecars run instead of our proxy: a program and its first arguments.
    pub proxy: Option<Vec<String>>,
    /// Whether there is a control plane, and pods are injected.
    pub mesh: Mesh,
    /// Where the certificate authority's files are, if it is not to be made anew.
    pub authority: Option<PathBuf>,
    /// Further arguments of the control plane's program.
    pub controller_arguments: Vec<String>,
    /// Where our other programs are.
    pub programs: PathBuf,
    /// `PATH` of the runtime, and of containers after that directory.
    pub path: String,
    /// What is logged.
    pub log_filter: String,
}

/// Whether the lab has a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mesh {
    /// A control plane, and sidecars for those who want them.
    On,
    /// Pods only.
    Off,
}

/// How the lab's life hangs together with the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It ends with the caller's thread, and says what it has to say on the same terminal.
    Foreground,
    /// It stands alone.
    Detached,
}

/// Starts the runtime.
///
/// # Errors
/// When the kernel forbids namespaces; the message names the setting that does.
pub fn launch(
    options: &Options,
    state: &StateDirectory,
    runtime_arguments: &[&str],
    attachment: Attachment,
) -> anyhow::Result<Running> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut arguments: Vec<OsString> = vec!["hauberk".into()];
    arguments.extend(runtime_arguments.iter().map(OsString::from));
    arguments.push(serde_json::to_string(options)?.into());
    let root = rustix::process::geteuid().is_root();
    let mut create = vec![Kind::Network, Kind::Mount, Kind::Uts, Kind::Ipc, Kind::Pid];
    if !root {
        create.push(Kind::User);
    }
    let program = Program {
        candidates: vec![own],
        arguments,
        environment: std::env::vars_os()
            .filter(|(name, _)| name != "PATH")
            .chain([("PATH".into(), options.path.clone().into())])
            .collect(),
        directory: "/".into(),
        stdio: stdio(state, attachment)?,
        create,
        mounts: Mounts::Inherit,
        ids: None,
        tie: match attachment {
            Attachment::Foreground => Tie::ToParent,
            Attachment::Detached => Tie::None,
        },
    };
    program
        .spawn_after(|pid| if root { Ok(()) } else { map_ids(pid) })
        .map_err(|error| explain(error.into(), &remedies(sysctl)))
}

fn stdio(state: &StateDirectory, attachment: Attachment) -> io::Result<[OwnedFd; 3]> {
    let null = fs::File::open("/dev/null")?.into();
    Ok(match attachment {
        Attachment::Foreground => {
            let errors = rustix::io::dup(rustix::stdio::stderr())?;
            [null, errors.try_clone()?, errors]
        }
        Attachment::Detached => {
            let log: OwnedFd =
                fs::File::options().create(true).append(true).open(state.log())?.into();
            [null, log.try_clone()?, log]
        }
    })
}

/// Gives a new user namespace its ids: a whole range if the machine allows it, else one.
fn map_ids(pid: u32) -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let (user, group) = (user.as_raw(), group.as_raw());
    let mapped = map_range("newuidmap", pid, user, "/etc/subuid", user)
        && map_range("newgidmap", pid, group, "/etc/subgid", user);
    if mapped {
        return Ok(());
    }
    let write = |file: &str, text: String| fs::write(format!("/proc/{pid}/{file}"), text);
    write("uid_map", format!("0 {user} 1")).or_else(|error| {
        // newuidmap did its part, newgidmap did not: the first map stays.
        if fs::read_to_string(format!("/proc/{pid}/uid_map"))?.is_empty() {
            Err(error)
        } else {
            Ok(())
        }
    })?;
    write("setgroups", "deny".into())?;
    write("gid_map", format!("0 {group} 1"))
}

fn map_range(program: &str, pid: u32, id: u32, table: &str, user: u32) -> bool {
    let Some((first, count)) = fs::read_to_string(table).ok().and_then(|text| {
        let name = user_name(&fs::read_to_string("/etc/passwd").unwrap_or_default(), user);
        subordinate_ids(&text, user, name.as_deref())
    }) else {
        return false;
    };
    let numbers = [pid, 0, id, 1, 1, first, count].map(|number| number.to_string());
    let output = Command::new(program).args(numbers).output();
    output.is_ok_and(|output| output.status.success())
}

fn user_name(passwd: &str, user: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    })
}

/// The user's first range in the form of subuid(5): `user:first:count`.
fn subordinate_ids(table: &str, user: u32, name: Option<&str>) -> Option<(u32, u32)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        let is_ours = Some(owner) == name || owner.parse() == Ok(user);
        // Uid 2102 must be in it to be of use.
        (is_ours && count > 2102).then_some((first, count))
    })
}

/// A setting that can keep ordinary users from making namespaces.
struct Setting {
    name: &'static str,
    is_fine: fn(u64) -> bool,
    good: u64,
}

/// user_namespaces(7), and what Debian and Ubuntu have added.
const SETTINGS: [Setting; 4] = [
    Setting { name: "user.max_user_namespaces", is_fine: |value| value > 0, good: 15_000 },
    Setting { name: "user.max_net_namespaces", is_fine: |value| value > 1, good: 15_000 },
    Setting { name: "kernel.unprivileged_userns_clone", is_fine: |value| value == 1, good: 1 },
    Setting {
        name: "kernel.apparmor_restrict_unprivileged_userns",
        is_fine: |value| value == 0,
        good: 0,
    },
];

/// The kernel's value of a setting, in this process's user namespace; none where it has no such
/// setting.
fn sysctl(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What to do about settings that stand in the way.
fn remedies(value: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    SETTINGS
        .iter()
        .filter(|setting| value(setting.name).is_some_and(|value| !(setting.is_fine)(value)))
        .map(|setting| format!("sysctl -w {}={}", setting.name, setting.good))
        .collect()
}

fn explain(error: anyhow::Error, remedies: &[String]) -> anyhow::Error {
    let hint = if remedies.is_empty() {
        "run as root, or where user namespaces are allowed (a container may forbid them by seccomp)"
            .to_owned()
    } else {
        format!("as root: {}", remedies.join("; "))
    };
    error.context(format!("cannot make the lab's namespaces; hint: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number_if_it_is_long_enough() {
        let table = "other:1:65536\nann:100000:65536\n4242:300000:1000\n4242:400000:65536\n";
        assert_eq!(subordinate_ids(table, 1000, Some("ann")), Some((100_000, 65536)));
        assert_eq!(subordinate_ids(table, 4242, None), Some((400_000, 65536)));
        assert_eq!(subordinate_ids(table, 7, None), None);
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 1001), None);
    }

    #[test]
    fn a_refusal_names_the_setting() {
        let error = || anyhow::anyhow!("cannot fork: operation not permitted");
        let text = format!("{:#}", explain(error(), &["sysctl -w a=1".to_owned()]));
        assert!(text.contains("as root: sysctl -w a=1"), "{text}");
        assert!(format!("{:#}", explain(error(), &[])).contains("run as root"));
    }

    /// A kernel with the settings of all distributions; few have more than the first two, which
    /// `tests/local.rs` of the command line provokes for real.
    #[test]
    fn each_setting_that_forbids_is_named() {
        let check = |name: &str, forbids: u64, allows: u64| {
            let kernel = |forbidden: u64| {
                move |asked: &str| match asked {
                    _ if asked == name => Some(forbidden),
                    "kernel.apparmor_restrict_unprivileged_userns" => Some(0),
                    "kernel.unprivileged_userns_clone" => Some(1),
                    _ => Some(15_000),
                }
            };
            let remedy = format!("sysctl -w {name}={}", if allows > 1 { 15_000 } else { allows });
            assert_eq!(remedies(kernel(forbids)), [remedy]);
            assert_eq!(remedies(kernel(allows)), [""; 0]);
        };
        check("user.max_user_namespaces", 0, 15_000);
        check("user.max_net_namespaces", 0, 15_000);
        check("user.max_net_namespaces", 1, 2);
        check("kernel.unprivileged_userns_clone", 0, 1);
        check("kernel.apparmor_restrict_unprivileged_userns", 1, 0);
        assert_eq!(remedies(|_| None), [""; 0], "a kernel without them");
        assert_eq!(remedies(|_| Some(0)).len(), 3, "all that stand in the way are named at once");
    }
}
