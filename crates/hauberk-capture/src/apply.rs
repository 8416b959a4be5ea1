//! Rules into the kernel: all of them or none, again and again, and out of it.
//!
//! Called by `hauberk-init` and by the local runtime, on a thread that is in the pod's network
//! namespace. A [`PodNetwork`] stands for that namespace; making one checks that it is not the
//! machine's own. Applying is one transaction (nft), or one for each address family (iptables), that replaces
//! what an earlier run left, so connections that begin meanwhile meet either the old rules or the new
//! ones. Rules of ours in another backend are removed after the new ones are in place.
//!
//! [`nft`](mod@nft) and [`iptables`] hold what differs; [`verify`] compares with what is there.
//! Deliberately not here: entering namespaces, and any rule or text (see [`crate::render`]).

mod existing;
mod ids;
pub mod iptables;
pub mod linkerd_2_7;
pub mod nft;
pub mod verify;

use std::fmt;
use std::marker::PhantomData;

use thiserror::Error;

use crate::host;
use crate::rules::RuleSet;
use crate::tool::{Said, ToolError, Tools};
use iptables::{Unknown, Variant};
use nft::Tables;

/// What writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A table of our own through `nft`.
    Nft,
    /// Chains in the `nat` table through `iptables-restore` and `ip6tables-restore`.
    Iptables(Variant),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft => f.write_str("nft"),
            Self::Iptables(variant) => f.write_str(variant.program()),
        }
    }
}

/// Which backend to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first that works of: nft, iptables-nft, iptables-legacy.
    #[default]
    Auto,
    /// This one.
    Only(Backend),
    /// This variant of iptables, or one of the others if it is not installed.
    Prefer(Variant),
}

/// Whether the machine's own network namespace may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostNamespace {
    /// No: [`PodNetwork::current`] fails there.
    Refuse,
    /// Yes, somebody asked for it in so many words.
    Allow,
}

/// The network namespace of the calling thread, checked to be one that may be changed.
///
/// Not `Send`: on another thread it might stand for another namespace.
#[derive(Debug)]
pub struct PodNetwork {
    tools: Tools,
    on_this_thread: PhantomData<*const ()>,
}

/// What applying did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The backend that now holds the rules.
    pub backend: Backend,
    /// Things an operator should know, each a sentence without a final dot.
    pub notes: Vec<String>,
}

/// Why the rules could not be put in, looked at or removed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The namespace is the machine's own.
    #[error(
        "refusing to touch this network namespace because it looks like the machine's own: {why}; \
         hint: run in the pod's namespace (--netns), or pass --allow-host-namespace if this is meant"
    )]
    HostNamespace {
        /// The fact that speaks for it.
        why: &'static str,
    },
    /// A tool could not be run.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A tool refused; nothing was changed by it.
    #[error("{program} refused with {status}: {said}{}", hint(said))]
    Refused {
        /// The tool.
        program: String,
        /// Its exit status in words.
        status: String,
        /// What it said.
        said: String,
    },
    /// The proxy's user or group id does not exist here and nothing else would exempt the proxy.
    #[error(
        "{what} is not mapped in this user namespace, and without a packet mark nothing else keeps the \
         proxy's connections from being captured; hint: map the id, or pass --proxy-mark 1337"
    )]
    Unmapped {
        /// The ids.
        what: String,
    },
    /// No backend worked.
    #[error("no backend works here:{}", .attempts.iter().map(|(backend, error)| format!("\n  {backend}: {error}")).collect::<String>())]
    NoBackend {
        /// Each backend tried, and why it failed.
        attempts: Vec<(Backend, ApplyError)>,
    },
    /// Nothing to try is installed.
    #[error(
        "no tool to write rules with: looked for nft, iptables-nft-restore, iptables-legacy-restore and \
         iptables-restore; hint: install the package nftables (or iptables) in the image, or use one \
         that has it"
    )]
    NothingInstalled,
}

impl ApplyError {
    fn refused(program: &str, said: &Said) -> Self {
        let status = said.code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"));
        let text = if said.err.trim().is_empty() { &said.out } else { &said.err };
        let said = text.trim().lines().map(str::trim).collect::<Vec<_>>().join(" | ");
        Self::Refused { program: program.to_owned(), status, said }
    }
}

/// What usually helps against the message of a tool.
fn hint(said: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["Operation not permitted", "Permission denied", "you must be root"]) {
        "; hint: the process needs CAP_NET_ADMIN in this network namespace (iptables-legacy also \
         CAP_NET_RAW and a writable /run)"
    } else if has(&[
        "can't initialize iptables",
        "can't initialize ip6tables",
        "Table does not exist",
    ]) {
        "; hint: the kernel has no ip_tables nat table; use --backend nft, or --ipv6=false if only \
         IPv6 is concerned"
    } else if has(&[
        "rule set generation id",
        "cache initialization failed",
        "Protocol not supported",
    ]) {
        "; hint: the kernel has no nf_tables; use --backend iptables-legacy"
    } else if has(&["RULE_APPEND failed", "No chain/target/match"]) {
        "; hint: the kernel lacks an xt_ module (comment, multiport, owner, mark, REDIRECT); use \
         --backend nft"
    } else if has(&["xtables lock"]) {
        "; hint: another program holds the xtables lock; use --backend nft, which needs none"
    } else {
        ""
    }
}

impl PodNetwork {
    /// The network namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`ApplyError::HostNamespace`] if it is the machine's own and that is to be refused.
    pub fn current(tools: Tools, host: HostNamespace) -> Result<Self, ApplyError> {
        match (host, host::Facts::read().why_machine()) {
            (HostNamespace::Refuse, Some(why)) => Err(ApplyError::HostNamespace { why }),
            (HostNamespace::Refuse, None) | (HostNamespace::Allow, _) => {
                Ok(Self { tools, on_this_thread: PhantomData })
            }
        }
    }

    /// Puts the rules in, in place of those of an earlier run.
    ///
    /// # Errors
    /// When no backend that may be taken works. Nothing is changed then, except that iptables may have
    /// changed IPv4 before IPv6 failed; that IPv4 rule set is complete.
    pub fn apply(&self, rules: &RuleSet, choice: Choice) -> Result<Applied, ApplyError> {
        let mut attempts = Vec::new();
        let candidates = self.candidates(choice);
        for backend in &candidates {
            let result = match backend {
                Backend::Nft => nft::apply(self, rules).map(|tables| (Vec::new(), tables)),
                Backend::Iptables(variant) => {
                    iptables::apply(self, rules, *variant).map(|notes| (notes, Tables::read(self)))
                }
            };
            match result {
                Ok((mut notes, tables)) => {
                    notes.splice(
                        0..0,
                        attempts.iter().map(|(backend, error)| {
                            format!("{backend} does not work here: {error}")
                        }),
                    );
                    if let Choice::Prefer(variant) = choice
                        && *backend != Backend::Iptables(variant)
                    {
                        notes.push(format!(
                            "{} is not installed: taking {backend}",
                            variant.program()
                        ));
                    }
                    notes.extend(self.remove_from_others(*backend, &tables)?);
                    return Ok(Applied { backend: *backend, notes });
                }
                Err(error) if candidates.len() == 1 => return Err(error),
                Err(error) => attempts.push((*backend, error)),
            }
        }
        if attempts.is_empty() {
            return Err(ApplyError::NothingInstalled);
        }
        Err(ApplyError::NoBackend { attempts })
    }

    /// Removes the rules of any earlier run from all backends. Says where there were some.
    ///
    /// # Errors
    /// When a backend that holds rules refuses to let go of them.
    pub fn remove(&self) -> Result<Vec<Backend>, ApplyError> {
        let mut removed = Vec::new();
        let tables = Tables::read(self);
        if nft::remove(self, &tables)? {
            removed.push(Backend::Nft);
        }
        for variant in self.iptables_variants() {
            if iptables::remove(self, variant, &tables, Unknown::Look)? {
                removed.push(Backend::Iptables(variant));
            }
        }
        Ok(removed)
    }

    fn remove_from_others(
        &self,
        chosen: Backend,
        tables: &Tables,
    ) -> Result<Vec<String>, ApplyError> {
        let mut notes = Vec::new();
        let mut note = |backend: Backend| {
            notes.push(format!("removed the rules of an earlier run from {backend}"));
        };
        if chosen != Backend::Nft && nft::remove(self, tables)? {
            note(Backend::Nft);
        }
        let kept = match chosen {
            Backend::Nft => None,
            Backend::Iptables(variant) => Some(iptables::kind(self, variant)),
        };
        for variant in self.iptables_variants() {
            let is_other = kept != Some(iptables::kind(self, variant));
            if is_other && iptables::remove(self, variant, tables, Unknown::Absent)? {
                note(Backend::Iptables(variant));
            }
        }
        Ok(notes)
    }

    /// Backends to try, those installed only; an explicit choice is tried although its tool is missing,
    /// for the sake of the message.
    fn candidates(&self, choice: Choice) -> Vec<Backend> {
        match choice {
            Choice::Only(backend) => vec![backend],
            Choice::Auto => {
                let nft = self.tools.find("nft").map(|_| Backend::Nft);
                nft.into_iter()
                    .chain(self.iptables_variants().into_iter().map(Backend::Iptables))
                    .collect()
            }
            Choice::Prefer(variant) => {
                let order = [variant, Variant::Nft, Variant::Plain, Variant::Legacy];
                let found = order.into_iter().find(|one| one.is_installed(&self.tools));
                vec![Backend::Iptables(found.unwrap_or(variant))]
            }
        }
    }

    /// Installed variants of iptables; the plain one only where it is not one of the others.
    fn iptables_variants(&self) -> Vec<Variant> {
        let named = [Variant::Nft, Variant::Legacy];
        let mut found: Vec<Variant> =
            named.into_iter().filter(|variant| variant.is_installed(&self.tools)).collect();
        if found.len() < named.len() && Variant::Plain.is_installed(&self.tools) {
            let kind = iptables::kind(self, Variant::Plain);
            if !found.iter().any(|variant| iptables::kind(self, *variant) == kind) {
                found.push(Variant::Plain);
            }
        }
        found
    }

    /// Runs a tool whose refusal is an error.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ApplyError> {
        run(&self.tools, program, arguments, input)
    }
}

fn run(
    tools: &Tools,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ApplyError> {
    let said = tools.run(program, arguments, input)?;
    if said.code == Some(0) { Ok(said.out) } else { Err(ApplyError::refused(program, &said)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{CaptureConfig, plan};

    /// Without tools nothing can be changed, wherever the test runs.
    fn refusal(choice: Choice) -> String {
        let pod = PodNetwork { tools: Tools::default(), on_this_thread: PhantomData };
        let result = pod.apply(&plan(&CaptureConfig::sidecar()), choice);
        result.expect_err("there is no tool").to_string()
    }

    #[test]
    fn without_any_tool_the_message_says_what_to_install() {
        let message = refusal(Choice::Auto);

        assert!(
            message.contains("looked for nft") && message.contains("hint: install"),
            "{message}"
        );
    }

    #[test]
    fn a_chosen_tool_that_is_missing_is_named() {
        assert!(refusal(Choice::Only(Backend::Nft)).contains("cannot find nft; hint:"));
        let legacy = refusal(Choice::Prefer(Variant::Legacy));
        assert!(legacy.contains("cannot find iptables-legacy-save; hint:"), "{legacy}");
    }

    #[test]
    fn refusals_of_tools_come_with_a_hint() {
        let said = |err: &str| Said { out: String::new(), err: err.to_owned(), code: Some(4) };
        let message = |err| ApplyError::refused("iptables-nft-restore", &said(err)).to_string();

        assert!(message("Operation not permitted (you must be root)\n").contains("CAP_NET_ADMIN"));
        assert!(message("Could not fetch rule set generation id: x").contains("no nf_tables"));
        assert!(message("line 3: RULE_APPEND failed (No such file)").contains("xt_ module"));
        assert_eq!(
            message("odd\nthings\n"),
            "iptables-nft-restore refused with code 4: odd | things"
        );
    }
}
