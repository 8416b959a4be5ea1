//! From settings to rules, without touching anything.
//!
//! Called by `hauberk-init` and by the local runtime. [`plan`] is total: each [`CaptureConfig`] has a
//! rule set, and equal settings give equal rules. Reading settings from text is in [`crate::lists`].

use hauberk_model::port::{Port, PortRange};
use ipnet::IpNet;

use crate::rules::{Condition, Families, Generation, Rule, RuleSet, Verdict};

/// Mark of packets that are never captured: the proxy sets it on its sockets where it may (`SO_MARK`).
///
/// It stands beside the user id because ids may be unmapped (user namespaces), random (OpenShift) or
/// shared with the application by mistake. The number, 1337, is Istio's.
pub const PROXY_MARK: u32 = 0x539;

/// Everything that decides which connections of a pod are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Port of the proxy that takes connections from outside.
    pub inbound_port: Port,
    /// Port of the proxy that takes connections of the application.
    pub outbound_port: Port,
    /// User the proxy runs as. User 0 cannot be exempted: too much else runs as root.
    pub proxy_uid: Option<u32>,
    /// Group the proxy runs as, in addition.
    pub proxy_gid: Option<u32>,
    /// Mark on the packets of the proxy.
    pub proxy_mark: Option<u32>,
    /// Ports whose inbound connections are captured.
    pub inbound: InboundPorts,
    /// Ports of the pod that clients reach directly.
    pub inbound_ports_to_ignore: Vec<PortRange>,
    /// Ports that the application reaches directly, wherever.
    pub outbound_ports_to_ignore: Vec<PortRange>,
    /// Networks whose clients reach the application directly, for example the bridge of a container
    /// daemon that runs inside the pod.
    pub subnets_to_ignore: Vec<IpNet>,
    /// Networks that the application reaches directly.
    pub outbound_subnets_to_ignore: Vec<IpNet>,
    /// Captured address families.
    pub families: Families,
    /// Which tool's rules to reproduce.
    pub generation: Generation,
}

/// Ports whose inbound connections are captured. Outbound, everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InboundPorts {
    /// All of them ("redirect-all").
    #[default]
    All,
    /// These ("redirect-listed"). An empty list captures nothing inbound.
    Listed(Vec<Port>),
}

impl CaptureConfig {
    /// Settings without any exemption but the mark: what `-p` and `-o` alone mean.
    pub fn new(inbound_port: Port, outbound_port: Port) -> Self {
        Self {
            inbound_port,
            outbound_port,
            proxy_uid: None,
            proxy_gid: None,
            proxy_mark: Some(PROXY_MARK),
            inbound: InboundPorts::All,
            inbound_ports_to_ignore: Vec::new(),
            outbound_ports_to_ignore: Vec::new(),
            subnets_to_ignore: Vec::new(),
            outbound_subnets_to_ignore: Vec::new(),
            families: Families::Both,
            generation: Generation::Today,
        }
    }

    /// Linkerd's defaults for an injected pod: ports 4143 and 4140, user 2102; the proxy's control and
    /// admin ports 4190 and 4191 are reached directly, and so is Galera on 4567 and 4568, whose servers
    /// speak first.
    pub fn sidecar() -> Self {
        let ranges = |ports: &[u16]| ports.iter().map(|n| PortRange::from(known(*n))).collect();
        Self {
            proxy_uid: Some(2102),
            inbound_ports_to_ignore: ranges(&[4190, 4191, 4567, 4568]),
            outbound_ports_to_ignore: ranges(&[4567, 4568]),
            ..Self::new(known(4143), known(4140))
        }
    }
}

fn known(port: u16) -> Port {
    Port::new(port).expect("the ports written in this file are not zero")
}

/// The rules that `config` asks for.
pub fn plan(config: &CaptureConfig) -> RuleSet {
    match config.generation {
        Generation::Today => RuleSet {
            families: config.families,
            generation: config.generation,
            inbound: inbound(config),
            outbound: outbound(config),
        },
        Generation::Linkerd27 { .. } => RuleSet {
            families: Families::V4Only,
            generation: config.generation,
            inbound: inbound(config),
            outbound: outbound_of_2_7(config),
        },
    }
}

fn inbound(config: &CaptureConfig) -> Vec<Rule> {
    let to_proxy = Verdict::ToProxy(config.inbound_port);
    let mut rules = Vec::new();
    ignore_ports(&mut rules, &config.inbound_ports_to_ignore, "skipped inbound ports");
    if !config.subnets_to_ignore.is_empty() {
        rules.push(Rule {
            condition: Condition::Sources(config.subnets_to_ignore.clone()),
            verdict: Verdict::LeaveAlone,
            purpose: "skipped client networks",
        });
    }
    match &config.inbound {
        InboundPorts::All => rules.push(Rule {
            condition: Condition::AnyTcp,
            verdict: to_proxy,
            purpose: "everything else to the proxy",
        }),
        InboundPorts::Listed(ports) if ports.is_empty() => {}
        InboundPorts::Listed(ports) => rules.push(Rule {
            condition: Condition::Ports(ports.iter().copied().map(PortRange::from).collect()),
            verdict: to_proxy,
            purpose: "listed ports to the proxy",
        }),
    }
    rules
}

fn outbound(config: &CaptureConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut ignore = |condition, purpose| {
        rules.push(Rule { condition, verdict: Verdict::LeaveAlone, purpose });
    };
    if let Some(uid) = config.proxy_uid {
        ignore(Condition::User(uid), "the proxy itself, by user id");
    }
    if let Some(gid) = config.proxy_gid {
        ignore(Condition::Group(gid), "the proxy itself, by group id");
    }
    if let Some(mark) = config.proxy_mark {
        ignore(Condition::Mark(mark), "the proxy itself, by packet mark");
    }
    ignore(Condition::Loopback, "whatever stays inside the pod");
    ignore_ports(&mut rules, &config.outbound_ports_to_ignore, "skipped outbound ports");
    if !config.outbound_subnets_to_ignore.is_empty() {
        rules.push(Rule {
            condition: Condition::Destinations(config.outbound_subnets_to_ignore.clone()),
            verdict: Verdict::LeaveAlone,
            purpose: "skipped server networks",
        });
    }
    rules.push(everything_outbound(config));
    rules
}

/// Linkerd 2.7 knew neither groups nor marks nor destination networks.
fn outbound_of_2_7(config: &CaptureConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(uid) = config.proxy_uid {
        rules.push(Rule {
            condition: Condition::UserOverLoopback(uid),
            verdict: Verdict::ToInboundRules,
            purpose: "the proxy calls its own pod: through the inbound side",
        });
        rules.push(Rule {
            condition: Condition::User(uid),
            verdict: Verdict::LeaveAlone,
            purpose: "the proxy itself, by user id",
        });
    }
    rules.push(Rule {
        condition: Condition::Loopback,
        verdict: Verdict::LeaveAlone,
        purpose: "whatever stays inside the pod",
    });
    ignore_ports(&mut rules, &config.outbound_ports_to_ignore, "skipped outbound ports");
    rules.push(everything_outbound(config));
    rules
}

fn everything_outbound(config: &CaptureConfig) -> Rule {
    Rule {
        condition: Condition::AnyTcp,
        verdict: Verdict::ToProxy(config.outbound_port),
        purpose: "everything else to the proxy",
    }
}

fn ignore_ports(rules: &mut Vec<Rule>, ports: &[PortRange], purpose: &'static str) {
    if !ports.is_empty() {
        let condition = Condition::Ports(ports.to_vec());
        rules.push(Rule { condition, verdict: Verdict::LeaveAlone, purpose });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(rules: &[Rule]) -> Vec<&Condition> {
        rules.iter().map(|rule| &rule.condition).collect()
    }

    #[test]
    fn exemptions_come_before_the_redirect() {
        let rules = plan(&CaptureConfig { proxy_gid: Some(2103), ..CaptureConfig::sidecar() });

        let skipped = vec![PortRange::from(known(4567)), PortRange::from(known(4568))];
        assert_eq!(
            conditions(&rules.outbound),
            [
                &Condition::User(2102),
                &Condition::Group(2103),
                &Condition::Mark(0x539),
                &Condition::Loopback,
                &Condition::Ports(skipped),
                &Condition::AnyTcp,
            ]
        );
    }

    #[test]
    fn listed_mode_changes_only_inbound() {
        let all = plan(&CaptureConfig::sidecar());
        let listed = plan(&CaptureConfig {
            inbound: InboundPorts::Listed(vec![known(80), known(8080)]),
            ..CaptureConfig::sidecar()
        });

        assert_eq!(listed.outbound, all.outbound);
        assert_eq!(listed.inbound.len(), all.inbound.len());
        assert!(!conditions(&listed.inbound).contains(&&Condition::AnyTcp));
    }

    #[test]
    fn rules_of_2_7_are_ipv4_and_know_no_mark() {
        let generation = Generation::Linkerd27 { trace_id: 1 };

        let rules = plan(&CaptureConfig { generation, ..CaptureConfig::sidecar() });

        assert_eq!(rules.families, Families::V4Only);
        assert_eq!(conditions(&rules.outbound)[0], &Condition::UserOverLoopback(2102));
        assert!(!conditions(&rules.outbound).contains(&&Condition::Mark(PROXY_MARK)));
    }

    #[test]
    fn owner_rules_go_only_where_the_mark_remains() {
        let with_mark = plan(&CaptureConfig::sidecar());
        let without_mark = plan(&CaptureConfig { proxy_mark: None, ..CaptureConfig::sidecar() });

        let remaining = with_mark.without_owner_rules().expect("the mark exempts the proxy");
        assert_eq!(remaining.owners().count(), 0);
        assert_eq!(without_mark.without_owner_rules(), None);
    }
}
