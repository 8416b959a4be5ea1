//! The iptables backends: our chains in the `nat` table, one transaction for each address family.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::existing::Existing;
use super::nft::Tables;
use super::{ApplyError, PodNetwork, ids};
use crate::render::iptables as render;
use crate::rules::{Family, Owner, RuleSet};
use crate::tool::{Said, Tools};

/// Which programs are meant by "iptables".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `iptables-nft`: the old rules in the new packet filter.
    Nft,
    /// `iptables-legacy`: the old packet filter.
    Legacy,
    /// `iptables`: whichever of them the distribution chose.
    Plain,
}

/// The packet filter behind a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NfTables,
    IpTables,
}

impl Variant {
    /// Name of the program for IPv4.
    pub fn program(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
            Self::Plain => "iptables",
        }
    }

    /// Name of the program with an ending such as `-save`.
    fn named(self, family: Family, ending: &str) -> String {
        let program = self.program();
        match family {
            Family::V4 => format!("{program}{ending}"),
            Family::V6 => format!("{}{ending}", program.replacen("iptables", "ip6tables", 1)),
        }
    }

    pub(super) fn is_installed(self, tools: &Tools) -> bool {
        ["-save", "-restore"].iter().all(|end| tools.find(&self.named(Family::V4, end)).is_some())
    }
}

/// Seconds to wait for the lock that programs of the legacy variant share; the other ignores it.
const WAIT: [&str; 2] = ["-w", "10"];

/// Where programs of the legacy variant keep their lock.
const LOCK: &str = "/run/xtables.lock";

/// The packet filter behind the variant; a plain program that does not say is an old one.
pub(super) fn kind(pod: &PodNetwork, variant: Variant) -> Kind {
    match variant {
        Variant::Nft => Kind::NfTables,
        Variant::Legacy => Kind::IpTables,
        Variant::Plain => match pod.run("iptables", &["--version"], "") {
            Ok(version) if version.contains("nf_tables") => Kind::NfTables,
            Ok(_) | Err(_) => Kind::IpTables,
        },
    }
}

/// Puts the rules in. Costs two processes for each family.
pub(super) fn apply(
    pod: &PodNetwork,
    rules: &RuleSet,
    variant: Variant,
) -> Result<Vec<String>, ApplyError> {
    let mut notes = Vec::new();
    let unmapped = ids::unmapped(rules.owners());
    let mut reduced;
    let mut rules = rules;
    if !unmapped.is_empty() {
        let what = describe(&unmapped);
        let Some(remaining) = rules.without_owner_rules() else {
            return Err(ApplyError::Unmapped { what });
        };
        notes.push(format!(
            "{what} is not mapped in this user namespace: the proxy is exempted by its packet mark alone"
        ));
        reduced = remaining;
        rules = &reduced;
    }
    for family in rules.families.list() {
        if *family == Family::V6 && !has_ipv6() {
            notes.push("this namespace has no IPv6: only IPv4 is captured".to_owned());
            continue;
        }
        match apply_family(pod, rules, variant, *family) {
            Ok(more) => notes.extend(more),
            // The kernel also refuses owner rules of a writer whose user namespace is not the one that
            // owns the network namespace, and says nothing but "invalid argument".
            Err(error @ ApplyError::Refused { .. }) => {
                let Some(remaining) = rules.without_owner_rules() else { return Err(error) };
                let Ok(more) = apply_family(pod, &remaining, variant, *family) else {
                    return Err(error);
                };
                notes.push(format!(
                    "the kernel refuses rules about users here ({error}): the proxy is exempted by its \
                     packet mark alone"
                ));
                notes.extend(more);
                reduced = remaining;
                rules = &reduced;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(notes)
}

fn apply_family(
    pod: &PodNetwork,
    rules: &RuleSet,
    variant: Variant,
    family: Family,
) -> Result<Vec<String>, ApplyError> {
    let lines = render::lines(rules, family);
    let existing = read(pod, variant, family)?;
    let text = render::restore_with(&lines, &existing.jumps_to_change(&lines));
    restore(pod, variant, family, &text)?;
    let mut notes = Vec::new();
    if !existing.is_empty() {
        let count = existing.rules.len() + existing.jumps.len();
        notes.push(format!(
            "replaced {count} rules of an earlier run in {}",
            variant.named(family, "")
        ));
    }
    if !existing.foreign.is_empty() {
        notes.push(format!(
            "there are rules of another mesh ({}); whichever came first decides for a connection",
            existing.foreign.join(", ")
        ));
    }
    Ok(notes)
}

/// Removes our chains and jumps of both families; says whether there were any.
pub(super) fn remove(
    pod: &PodNetwork,
    variant: Variant,
    tables: &Tables,
    unknown: Unknown,
) -> Result<bool, ApplyError> {
    let mut found = false;
    for family in [Family::V4, Family::V6] {
        let existing = find(pod, variant, family, tables, unknown);
        if !existing.is_empty() {
            restore(pod, variant, family, &existing.removal())?;
            found = true;
        }
    }
    Ok(found)
}

/// What to do when nobody can tell whether a table exists: asking the legacy packet filter for a table
/// creates that table, and in a user namespace its list of tables may not be readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Look at it all the same: somebody asked for this.
    Look,
    /// Take it for absent.
    Absent,
}

/// What of ours the `nat` table of a family holds. A table that is absent or cannot be read holds
/// nothing of ours: applying reads it before it writes.
pub(super) fn find(
    pod: &PodNetwork,
    variant: Variant,
    family: Family,
    tables: &Tables,
    unknown: Unknown,
) -> Existing {
    let has_table = match (kind(pod, variant), family) {
        // Here asking creates nothing.
        (Kind::NfTables, Family::V4) => tables.hold("ip nat").or(Some(true)),
        (Kind::NfTables, Family::V6) => tables.hold("ip6 nat").or(Some(true)),
        (Kind::IpTables, Family::V4) => legacy_table("/proc/thread-self/net/ip_tables_names"),
        (Kind::IpTables, Family::V6) => legacy_table("/proc/thread-self/net/ip6_tables_names"),
    };
    if has_table.unwrap_or(unknown == Unknown::Look) {
        read(pod, variant, family).unwrap_or_default()
    } else {
        Existing::default()
    }
}

/// Whether the legacy packet filter has the table, if that can be known. Without the file the kernel
/// has no such filter.
fn legacy_table(list: &str) -> Option<bool> {
    match fs::read_to_string(list) {
        Ok(names) => Some(names.lines().any(|name| name == "nat")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// What the `nat` table of a family holds.
pub(super) fn read(
    pod: &PodNetwork,
    variant: Variant,
    family: Family,
) -> Result<Existing, ApplyError> {
    let saved = run(pod, &variant.named(family, "-save"), &["-t", "nat"], "")?;
    Ok(Existing::parse(&saved))
}

/// Whether the calling thread's network namespace speaks IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/thread-self/net/if_inet6").exists()
}

fn restore(
    pod: &PodNetwork,
    variant: Variant,
    family: Family,
    text: &str,
) -> Result<(), ApplyError> {
    let arguments = ["--noflush", WAIT[0], WAIT[1]];
    run(pod, &variant.named(family, "-restore"), &arguments, text).map(drop)
}

/// Runs one command of the program for IPv4, whatever it answers.
pub(super) fn said(
    pod: &PodNetwork,
    variant: Variant,
    arguments: &[String],
) -> Result<Said, ApplyError> {
    Ok(with_usable_lock(pod.tools.clone()).run(variant.program(), arguments, "")?)
}

fn run(
    pod: &PodNetwork,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ApplyError> {
    super::run(&with_usable_lock(pod.tools.clone()), program, arguments, input)
}

fn describe(owners: &[Owner]) -> String {
    let mut words: Vec<String> = owners
        .iter()
        .map(|owner| match owner {
            Owner::User(id) => format!("user {id}"),
            Owner::Group(id) => format!("group {id}"),
        })
        .collect();
    words.dedup();
    words.join(" and ")
}

/// Programs of the legacy variant fail where they cannot write their lock file: with a read-only root
/// and in a user namespace. The lock protects the tables of one network namespace, so a file named
/// after that namespace does as well.
fn with_usable_lock(tools: Tools) -> Tools {
    let is_usable = OpenOptions::new().create(true).append(true).open(LOCK).is_ok();
    let namespace = fs::read_link("/proc/thread-self/ns/net").ok();
    let number = namespace
        .as_deref()
        .and_then(Path::to_str)
        .map(|name| name.chars().filter(char::is_ascii_digit).collect::<String>());
    match number {
        Some(number) if !is_usable => {
            let file = std::env::temp_dir().join(format!("hauberk-xtables-{number}.lock"));
            tools.with_environment("XTABLES_LOCKFILE", &file)
        }
        Some(_) | None => tools,
    }
}
