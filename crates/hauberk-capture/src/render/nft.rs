//! Rules as a native table of nftables, one for both address families.
//!
//! Ports and networks become sets: lookup cost does not grow with their number, and an operator can
//! add an exception to a running pod with `nft add element`. Only syntax that nft 1.0.6 (Debian 12)
//! understands is used: priorities are numbers because the name `dstnat` is refused on the output hook,
//! and each redirect names its protocol in the same rule.

use std::fmt::Write as _;

use hauberk_model::port::{PortRange, PortSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::rules::{Condition, Families, Rule, RuleSet, Verdict};

/// Family and name of the table. Nothing else is touched.
pub const TABLE: &str = "inet hauberk_capture";

/// Destination NAT comes at this priority (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;

/// Replaces whatever an earlier run left by `rules`. The first line makes the second one succeed when
/// there is no table yet; nft 1.0.6 has no `destroy`.
pub(super) fn transaction(rules: &RuleSet) -> String {
    format!("{}{}", remove(), table(rules))
}

/// Removes the table; no error if there is none.
pub fn remove() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

/// The table as `nft -s -y list table` prints it, apart from line breaks within sets.
pub fn table(rules: &RuleSet) -> String {
    let inbound = Side::render("inbound", &rules.inbound);
    let outbound = Side::render("outbound", &rules.outbound);
    let tcp = match rules.families {
        Families::Both => "meta l4proto tcp",
        Families::V4Only => "meta nfproto ipv4 meta l4proto tcp",
    };
    let chains = [
        chain("prerouting", &hook("prerouting", tcp, "inbound")),
        chain("output", &hook("output", tcp, "outbound")),
        chain("inbound", &inbound.rules),
        chain("outbound", &outbound.rules),
    ];
    let blocks: Vec<String> = inbound.sets.into_iter().chain(outbound.sets).chain(chains).collect();
    format!("table {TABLE} {{\n{}}}\n", blocks.join("\n"))
}

fn hook(hook: &str, tcp: &str, target: &str) -> [String; 2] {
    [
        format!("type nat hook {hook} priority {PRIORITY}; policy accept;"),
        format!("{tcp} jump {target}"),
    ]
}

fn chain(name: &str, lines: &[String]) -> String {
    block("chain", name, lines)
}

fn block(kind: &str, name: &str, lines: &[String]) -> String {
    let mut text = format!("\t{kind} {name} {{\n");
    for line in lines {
        let _ = writeln!(text, "\t\t{line}"); // Writing to a String cannot fail.
    }
    text.push_str("\t}\n");
    text
}

/// Rules of one direction, and the sets they look into.
struct Side {
    name: &'static str,
    sets: Vec<String>,
    rules: Vec<String>,
}

impl Side {
    fn render(name: &'static str, rules: &[Rule]) -> Self {
        let mut side = Self { name, sets: Vec::new(), rules: Vec::new() };
        for rule in rules {
            for condition in side.conditions(rule) {
                let verdict = verdict(rule.verdict);
                let line = format!("{condition} counter {verdict} comment \"{}\"", rule.purpose);
                side.rules.push(line);
            }
        }
        side
    }

    /// The condition in nft's words; networks of two families need a rule each.
    fn conditions(&mut self, rule: &Rule) -> Vec<String> {
        match &rule.condition {
            Condition::AnyTcp => vec!["meta l4proto tcp".to_owned()],
            Condition::User(id) => vec![format!("meta skuid {id}")],
            Condition::Group(id) => vec![format!("meta skgid {id}")],
            Condition::Mark(mark) => vec![format!("meta mark 0x{mark:08x}")],
            Condition::Loopback => vec!["oifname \"lo\"".to_owned()],
            Condition::UserOverLoopback(id) => {
                vec![format!("oifname \"lo\" meta skuid {id} ip daddr != 127.0.0.1")]
            }
            Condition::Ports(ports) => vec![self.ports(ports, rule.verdict)],
            Condition::Sources(nets) => self.networks("sources", "saddr", nets),
            Condition::Destinations(nets) => self.networks("destinations", "daddr", nets),
        }
    }

    fn ports(&mut self, ports: &[PortRange], verdict: Verdict) -> String {
        let what = match verdict {
            Verdict::LeaveAlone => "skip",
            Verdict::ToProxy(_) | Verdict::ToInboundRules => "capture",
        };
        let set = format!("{}_{what}_ports", self.name);
        let ports: PortSet = ports.iter().copied().collect();
        self.set(&set, "inet_service", &mut ports.ranges().map(|range| range.to_string()));
        format!("tcp dport @{set}")
    }

    fn networks(&mut self, what: &str, field: &str, nets: &[IpNet]) -> Vec<String> {
        let (mut v4, mut v6): (Vec<Ipv4Net>, Vec<Ipv6Net>) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push(*net),
                IpNet::V6(net) => v6.push(*net),
            }
        }
        let mut conditions = Vec::new();
        if !v4.is_empty() {
            let set = format!("{}_skip_{what}_ipv4", self.name);
            let nets = Ipv4Net::aggregate(&v4);
            self.set(&set, "ipv4_addr", &mut nets.iter().map(|net| element(IpNet::V4(*net))));
            conditions.push(format!("ip {field} @{set}"));
        }
        if !v6.is_empty() {
            let set = format!("{}_skip_{what}_ipv6", self.name);
            let nets = Ipv6Net::aggregate(&v6);
            self.set(&set, "ipv6_addr", &mut nets.iter().map(|net| element(IpNet::V6(*net))));
            conditions.push(format!("ip6 {field} @{set}"));
        }
        conditions
    }

    fn set(&mut self, name: &str, kind: &str, elements: &mut dyn Iterator<Item = String>) {
        let elements: Vec<String> = elements.collect();
        let lines = [
            format!("type {kind}"),
            "flags interval".to_owned(),
            format!("elements = {{ {} }}", elements.join(", ")),
        ];
        self.sets.push(block("set", name, &lines));
    }
}

/// nft prints a network of one address as that address.
fn element(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::LeaveAlone => "return".to_owned(),
        Verdict::ToProxy(port) => format!("redirect to :{port}"),
        Verdict::ToInboundRules => "jump inbound".to_owned(),
    }
}
