//! Rules as text for `iptables-restore`, and as single commands of the 2.7 generation.
//!
//! Chains and comments carry the names that Linkerd's init container gave them, so that tools and eyes
//! trained on those find everything. Lines have the form that `iptables-save` prints. One rule here may
//! become several lines: the `multiport` match takes 15 ports, a range counting as two, and networks
//! and listed ports get a line each.

use std::fmt::Write as _;

use hauberk_model::port::PortRange;
use ipnet::IpNet;

use crate::rules::{Condition, Family, Generation, Rule, RuleSet, Verdict};

/// Chain of the inbound rules.
pub const INBOUND_CHAIN: &str = "PROXY_INIT_REDIRECT";
/// Chain of the outbound rules.
pub const OUTBOUND_CHAIN: &str = "PROXY_INIT_OUTPUT";
/// Chains of the kernel and the chain of ours that each leads to.
pub const JUMPS: [(&str, &str); 2] = [("PREROUTING", INBOUND_CHAIN), ("OUTPUT", OUTBOUND_CHAIN)];

/// Ports that one `multiport` match can hold (`XT_MULTI_PORTS`).
const MULTIPORT_SLOTS: usize = 15;

/// The rules of one address family, line by line as `iptables-save` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The lines that lead from the kernel's chains into ours, in the order of [`JUMPS`].
    pub jumps: [String; 2],
    /// The lines of [`OUTBOUND_CHAIN`], then those of [`INBOUND_CHAIN`].
    pub rules: Vec<String>,
}

/// The rules for one family.
pub fn lines(rules: &RuleSet, family: Family) -> Lines {
    let piece = |chain: &str, piece: &Piece| {
        let Piece { save: matches, comment, target, .. } = piece;
        let comment = comment_of(rules.generation, comment);
        let matches = if matches.is_empty() { String::new() } else { format!("{matches} ") };
        format!("-A {chain} {matches}-m comment --comment \"{comment}\" -j {target}")
    };
    let side = |chain: &'static str, rules: &[Rule]| -> Vec<String> {
        pieces(rules, family, chain).iter().map(|one| piece(chain, one)).collect()
    };
    let mut all = side(OUTBOUND_CHAIN, &rules.outbound);
    all.extend(side(INBOUND_CHAIN, &rules.inbound));
    Lines { jumps: JUMPS.map(|(from, to)| piece(from, &jump(from, to))), rules: all }
}

/// The text for `iptables-restore --noflush` on a namespace that has none of our chains.
///
/// A chain declared with `:NAME -` is created, or emptied in the same transaction if it exists.
pub fn restore(rules: &RuleSet, family: Family) -> String {
    let lines = lines(rules, family);
    restore_with(&lines, &lines.jumps)
}

/// As [`restore`], with other lines in place of the jumps: those that change what is already there.
pub fn restore_with(lines: &Lines, jumps: &[String]) -> String {
    let mut text = format!("*nat\n:{OUTBOUND_CHAIN} - [0:0]\n:{INBOUND_CHAIN} - [0:0]\n");
    for line in jumps.iter().chain(&lines.rules) {
        let _ = writeln!(text, "{line}"); // Writing to a String cannot fail.
    }
    text.push_str("COMMIT\n");
    text
}

/// One command of the 2.7 generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Arguments after the program's name.
    pub arguments: Vec<String>,
}

/// The commands by which Linkerd 2.7 made the rules, in its order, for a namespace without our chains.
pub fn commands(rules: &RuleSet) -> Vec<Command> {
    let command = |start: &[&str], piece: &Piece| {
        let comment = comment_of(rules.generation, &piece.comment);
        let mut arguments: Vec<String> = vec!["-t".into(), "nat".into()];
        arguments.extend(start.iter().map(ToString::to_string));
        arguments.extend(piece.command.split_whitespace().map(str::to_owned));
        arguments.extend(["-m".into(), "comment".into(), "--comment".into(), comment]);
        Command { arguments }
    };
    let mut commands = Vec::new();
    for ((from, to), rules) in JUMPS.into_iter().zip([&rules.inbound, &rules.outbound]) {
        let new_chain = Piece::new("redirect-common-chain", "", "", "");
        commands.push(command(&["-N", to], &new_chain));
        for piece in pieces(rules, Family::V4, to) {
            commands.push(command(&["-A", to], &piece));
        }
        commands.push(command(&["-A", from], &jump(from, to)));
    }
    commands
}

fn comment_of(generation: Generation, what: &str) -> String {
    match generation {
        Generation::Today => format!("proxy-init/{what}"),
        Generation::Linkerd27 { trace_id } => format!("proxy-init/{what}/{trace_id}"),
    }
}

/// A line before chain and comment are put around it.
struct Piece {
    /// What comes after `proxy-init/` in the comment.
    comment: String,
    /// Matches as `iptables-save` prints them.
    save: String,
    /// Target as `iptables-save` prints it.
    target: String,
    /// Matches and target as Linkerd 2.7 typed them.
    command: String,
}

impl Piece {
    fn new(comment: &str, save: &str, target: &str, command: &str) -> Self {
        Self {
            comment: comment.to_owned(),
            save: save.to_owned(),
            target: target.to_owned(),
            command: command.to_owned(),
        }
    }
}

fn jump(from: &str, to: &str) -> Piece {
    let comment = format!("install-proxy-init-{}", from.to_lowercase());
    Piece::new(&comment, "", to, &format!("-j {to}"))
}

fn pieces(rules: &[Rule], family: Family, chain: &str) -> Vec<Piece> {
    rules.iter().flat_map(|rule| rule_pieces(rule, family, chain)).collect()
}

fn rule_pieces(rule: &Rule, family: Family, chain: &str) -> Vec<Piece> {
    let target = target(rule.verdict);
    let typed = target.replace("--to-ports", "--to-port");
    let one = |comment: &str, matches: &str| {
        vec![Piece::new(comment, matches, &target, &format!("{matches} -j {typed}"))]
    };
    match &rule.condition {
        Condition::AnyTcp => {
            let direction = if chain == INBOUND_CHAIN { "incoming" } else { "outgoing" };
            one(&format!("redirect-all-{direction}-to-proxy-port"), "-p tcp")
        }
        Condition::User(id) => one("ignore-proxy-user-id", &format!("-m owner --uid-owner {id}")),
        Condition::Group(id) => one("ignore-proxy-group-id", &format!("-m owner --gid-owner {id}")),
        Condition::Mark(mark) => one("ignore-proxy-mark", &format!("-m mark --mark {mark:#x}")),
        Condition::Loopback => one("ignore-loopback", "-o lo"),
        Condition::UserOverLoopback(id) => vec![Piece::new(
            "redirect-non-loopback-local-traffic",
            &format!("! -d 127.0.0.1/32 -o lo -m owner --uid-owner {id}"),
            &target,
            &format!("-m owner --uid-owner {id} -o lo ! -d 127.0.0.1/32 -j {typed}"),
        )],
        Condition::Ports(ports) => match rule.verdict {
            Verdict::LeaveAlone => chunks(ports).iter().map(|chunk| ignored(chunk)).collect(),
            Verdict::ToProxy(_) | Verdict::ToInboundRules => {
                ports.iter().map(|range| listed(*range, &target, &typed)).collect()
            }
        },
        Condition::Sources(nets) => of_family(nets, family)
            .flat_map(|net| one(&format!("ignore-subnet-{net}"), &network("-s", net)))
            .collect(),
        Condition::Destinations(nets) => of_family(nets, family)
            .flat_map(|net| one(&format!("ignore-destination-subnet-{net}"), &network("-d", net)))
            .collect(),
    }
}

fn ignored(chunk: &[PortRange]) -> Piece {
    let ports = chunk.iter().map(|range| colon(*range)).collect::<Vec<_>>().join(",");
    Piece {
        comment: format!("ignore-port-{ports}"),
        save: format!("-p tcp -m multiport --dports {ports}"),
        target: "RETURN".to_owned(),
        command: format!("-p tcp --match multiport --dports {ports} -j RETURN"),
    }
}

fn listed(range: PortRange, target: &str, typed: &str) -> Piece {
    let port = colon(range);
    Piece {
        comment: format!("redirect-port-{port}-to-proxy-port"),
        save: format!("-p tcp -m tcp --dport {port}"),
        target: target.to_owned(),
        command: format!("-p tcp --destination-port {port} -j {typed}"),
    }
}

/// Only networks of the family the rules are for: `ip6tables -s 10.0.0.0/8` is an error.
fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(move |net| match net {
        IpNet::V4(_) => family == Family::V4,
        IpNet::V6(_) => family == Family::V6,
    })
}

/// The network of all addresses is no match at all; `iptables-save` leaves it out.
fn network(flag: &str, net: &IpNet) -> String {
    if net.prefix_len() == 0 { String::new() } else { format!("{flag} {net}") }
}

/// Cuts the list wherever the next entry would not fit into one `multiport` match.
fn chunks(ports: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut chunks: Vec<Vec<PortRange>> = Vec::new();
    let mut free = 0;
    for range in ports {
        let slots = if range.first() == range.last() { 1 } else { 2 };
        match chunks.last_mut() {
            Some(chunk) if slots <= free => chunk.push(*range),
            _ => {
                free = MULTIPORT_SLOTS;
                chunks.push(vec![*range]);
            }
        }
        free -= slots;
    }
    chunks
}

/// iptables writes a range with a colon.
fn colon(range: PortRange) -> String {
    if range.first() == range.last() {
        range.first().to_string()
    } else {
        format!("{}:{}", range.first(), range.last())
    }
}

fn target(verdict: Verdict) -> String {
    match verdict {
        Verdict::LeaveAlone => "RETURN".to_owned(),
        Verdict::ToProxy(port) => format!("REDIRECT --to-ports {port}"),
        Verdict::ToInboundRules => INBOUND_CHAIN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists;

    fn slots(list: &str) -> Vec<usize> {
        let ports = lists::ports(&[list]).unwrap();
        chunks(&ports).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_match_takes_fifteen_ports() {
        assert_eq!(slots("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"), [15]);
        assert_eq!(slots("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"), [15, 1]);
    }

    #[test]
    fn a_range_takes_two_places() {
        assert_eq!(slots("1,2,3,4,5,6,7,8,9,10,11,12,13,14,20-30"), [14, 1]);
        assert_eq!(slots("1,2,3,4,5,6,7,8,9,10,11,12,13,20-30,40"), [14, 1]);
    }
}
