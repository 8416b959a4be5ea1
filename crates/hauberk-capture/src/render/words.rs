//! Rules in words, for people.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::rules::{Condition, Families, Rule, RuleSet, Verdict};

pub(super) fn words(rules: &RuleSet) -> String {
    let families = match rules.families {
        Families::Both => "IPv4 and IPv6",
        Families::V4Only => "IPv4",
    };
    let mut text =
        format!("TCP over {families}; for each direction the first line that fits decides.\n");
    side(&mut text, "from outside to the pod", &rules.inbound);
    side(&mut text, "from the pod", &rules.outbound);
    text
}

fn side(text: &mut String, title: &str, rules: &[Rule]) {
    let _ = writeln!(text, "\n{title}:"); // Writing to a String cannot fail.
    for rule in rules {
        let (condition, verdict) = (condition(&rule.condition), verdict(rule.verdict));
        let _ = writeln!(text, "  {verdict:<16} {condition:<34} # {}", rule.purpose);
    }
    if !rules.iter().any(|rule| rule.condition == Condition::AnyTcp) {
        let _ =
            writeln!(text, "  {:<16} {:<34} # nothing else is captured", "leave alone", "the rest");
    }
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::AnyTcp => "everything".to_owned(),
        Condition::User(id) => format!("sent by user {id}"),
        Condition::Group(id) => format!("sent by group {id}"),
        Condition::Mark(mark) => format!("marked {mark:#x}"),
        Condition::Loopback => "over lo".to_owned(),
        Condition::UserOverLoopback(id) => {
            format!("sent by user {id} over lo, not to 127.0.0.1")
        }
        Condition::Ports(ports) => {
            let words: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("to ports {}", words.join(","))
        }
        Condition::Sources(nets) => format!("from {}", networks(nets)),
        Condition::Destinations(nets) => format!("to {}", networks(nets)),
    }
}

fn networks(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::LeaveAlone => "leave alone".to_owned(),
        Verdict::ToProxy(port) => format!("redirect to {port}"),
        Verdict::ToInboundRules => "as inbound".to_owned(),
    }
}
