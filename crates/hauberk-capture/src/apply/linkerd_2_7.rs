//! The run of Linkerd 2.7's init container: the same commands, one by one, and the same log.
//!
//! For comparing with documents of that time (`hauberk-init --compat 2.7`), not for daily use: single
//! commands leave gaps that a transaction does not. Two things differ from the original on purpose: a
//! second run succeeds, because the old jumps are deleted first, and a failing command leaves nothing
//! behind instead of half a rule set.

use super::iptables::{self, Unknown, Variant};
use super::nft::Tables;
use super::{ApplyError, PodNetwork};
use crate::plan::{CaptureConfig, InboundPorts, plan};
use crate::render::iptables::{Command, INBOUND_CHAIN, OUTBOUND_CHAIN, commands};
use crate::rules::{Family, Generation};

/// One line of the log, or one command with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something to say.
    Say(String),
    /// A command whose failure is tolerated: what it removes may not be there.
    Try(Command),
    /// A command that must succeed.
    Run(Command),
}

/// Everything the run says and does, for a namespace that may hold the given jumps of an earlier run,
/// as `iptables-save` shows them.
pub fn script(config: &CaptureConfig, old_jumps: &[String]) -> Vec<Step> {
    let Generation::Linkerd27 { trace_id } = config.generation else { return Vec::new() };
    let say = |text: String| Step::Say(text);
    let mut steps = vec![
        say(format!("Tracing this script execution as [{trace_id}]")),
        say("State of iptables rules before run:".to_owned()),
        Step::Run(nat(&["-vnL"])),
    ];
    if !old_jumps.is_empty() {
        steps.extend(old_jumps.iter().map(|line| Step::Try(deletion(line))));
        // Its first rule leads to the other chain, which could not be deleted otherwise.
        steps.push(Step::Try(nat(&["-F", OUTBOUND_CHAIN])));
    }
    steps.extend(forget(INBOUND_CHAIN));
    steps.extend(ignored_ports(&config.inbound_ports_to_ignore, INBOUND_CHAIN));
    steps.push(say(match &config.inbound {
        InboundPorts::All => "Will redirect all INPUT ports to proxy".to_owned(),
        InboundPorts::Listed(ports) => {
            format!("Will redirect some INPUT ports to proxy: {}", list(ports))
        }
    }));
    steps.extend(forget(OUTBOUND_CHAIN));
    steps.push(say(match config.proxy_uid {
        Some(uid) => format!("Ignoring uid {uid}"),
        None => "Not ignoring any uid".to_owned(),
    }));
    steps.extend(ignored_ports(&config.outbound_ports_to_ignore, OUTBOUND_CHAIN));
    steps.push(say(format!("Redirecting all OUTPUT to {}", config.outbound_port)));
    steps.push(say("Executing commands:".to_owned()));
    steps.extend(commands(&plan(config)).into_iter().map(Step::Run));
    steps.push(Step::Run(nat(&["-vnL"])));
    steps
}

/// Runs the script, saying each line to `log`.
///
/// # Errors
/// The first refused command, after everything of ours has been removed again.
pub fn apply(
    pod: &PodNetwork,
    config: &CaptureConfig,
    variant: Variant,
    log: &mut dyn FnMut(&str),
) -> Result<(), ApplyError> {
    let existing = iptables::read(pod, variant, Family::V4)?;
    for step in script(config, &existing.jumps) {
        let (command, must_succeed) = match step {
            Step::Say(text) => {
                log(&text);
                continue;
            }
            Step::Try(command) => (command, false),
            Step::Run(command) => (command, true),
        };
        log(&format!("> {}", shown(variant, &command)));
        let said = iptables::said(pod, variant, &command.arguments)?;
        log(&format!("< {}{}", said.out, said.err));
        if must_succeed && said.code != Some(0) {
            log("Aborting firewall configuration");
            iptables::remove(pod, variant, &Tables::read(pod), Unknown::Look)?;
            return Err(ApplyError::refused(variant.program(), &said));
        }
    }
    Ok(())
}

/// The command as one would type it.
pub fn shown(variant: Variant, command: &Command) -> String {
    format!("{} {}", variant.program(), command.arguments.join(" "))
}

fn nat(arguments: &[&str]) -> Command {
    let arguments = ["-t", "nat"].iter().chain(arguments).map(ToString::to_string).collect();
    Command { arguments }
}

fn forget(chain: &str) -> [Step; 2] {
    [Step::Try(nat(&["-F", chain])), Step::Try(nat(&["-X", chain]))]
}

/// Comments of ours hold no blanks, so the words of a saved line are its arguments.
fn deletion(line: &str) -> Command {
    let line = line.replacen("-A ", "-D ", 1).replace('"', "");
    nat(&line.split_whitespace().collect::<Vec<_>>())
}

fn ignored_ports<T: ToString>(ports: &[T], chain: &str) -> Option<Step> {
    let text = format!("Will ignore port(s) {} on chain {chain}", list(ports));
    (!ports.is_empty()).then_some(Step::Say(text))
}

fn list<T: ToString>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", words.join(" "))
}
