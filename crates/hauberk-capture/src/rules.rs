//! Capture rules as values: what a connection looks like, and what becomes of it.
//!
//! [`crate::plan()`] makes a [`RuleSet`], [`crate::render`] turns it into text for a tool of the kernel's
//! packet filter. Rules are tried in order and only once for each connection, on its first packet; the
//! first one whose condition holds decides. A connection that no rule decides is left alone.
//!
//! Deliberately not here: names of chains, tables and comments. They belong to the renderers.

use hauberk_model::port::{Port, PortRange};
use ipnet::IpNet;

/// An address family. Each iptables backend keeps one rule set for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The address families whose connections are captured. IPv6 alone does not occur: rules for IPv4 do
/// no harm in a pod without an IPv4 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv6 connections are left alone.
    V4Only,
    /// Connections of both families are captured.
    #[default]
    Both,
}

impl Families {
    /// The families in the order in which they are applied.
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::V4Only => &[Family::V4],
            Self::Both => &[Family::V4, Family::V6],
        }
    }
}

/// Which tool's rules are reproduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// Those of today.
    #[default]
    Today,
    /// Those of Linkerd 2.7: IPv4 only, no packet mark, and what the proxy sends to its own pod's
    /// address goes through the inbound side. The number is the run's trace id, a Unix time, which ends
    /// each comment.
    Linkerd27 {
        /// Seconds since 1970 when the run began.
        trace_id: i64,
    },
}

/// All rules of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Families the rules apply to.
    pub families: Families,
    /// Which tool's rules these are.
    pub generation: Generation,
    /// Rules for connections that arrive at the pod from outside.
    pub inbound: Vec<Rule>,
    /// Rules for connections that begin in the pod.
    pub outbound: Vec<Rule>,
}

impl RuleSet {
    /// The same rules without those that ask who owns the socket.
    ///
    /// `None` if nothing else would keep the proxy's own connections from being captured again.
    pub fn without_owner_rules(&self) -> Option<Self> {
        let is_exempt_by_mark =
            self.outbound.iter().any(|rule| matches!(rule.condition, Condition::Mark(_)));
        is_exempt_by_mark.then(|| {
            let mut rules = self.clone();
            rules.outbound.retain(|rule| !rule.condition.is_owner());
            rules
        })
    }

    /// User and group ids that the rules ask for, in order.
    pub fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.outbound.iter().filter_map(|rule| match rule.condition {
            Condition::User(id) | Condition::UserOverLoopback(id) => Some(Owner::User(id)),
            Condition::Group(id) => Some(Owner::Group(id)),
            Condition::AnyTcp
            | Condition::Mark(_)
            | Condition::Loopback
            | Condition::Ports(_)
            | Condition::Sources(_)
            | Condition::Destinations(_) => None,
        })
    }
}

/// Who owns a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A user id.
    User(u32),
    /// A group id.
    Group(u32),
}

/// One rule: if the condition holds, the verdict is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which connections are meant.
    pub condition: Condition,
    /// What becomes of them.
    pub verdict: Verdict,
    /// Why the rule is there, for people.
    pub purpose: &'static str,
}

/// Which connections a rule means. Lists are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every TCP connection.
    AnyTcp,
    /// The socket belongs to this user.
    User(u32),
    /// The socket belongs to this group.
    Group(u32),
    /// The packet carries this mark (`SO_MARK` of the socket).
    Mark(u32),
    /// The connection stays inside the pod.
    Loopback,
    /// The socket belongs to this user, the connection stays inside the pod, and it does not go to
    /// 127.0.0.1 (Linkerd 2.7).
    UserOverLoopback(u32),
    /// The destination port is in one of these ranges, kept in the order in which they were given.
    Ports(Vec<PortRange>),
    /// The source address is in one of these networks.
    Sources(Vec<IpNet>),
    /// The destination address is in one of these networks.
    Destinations(Vec<IpNet>),
}

impl Condition {
    fn is_owner(&self) -> bool {
        matches!(self, Self::User(_) | Self::Group(_) | Self::UserOverLoopback(_))
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it was going.
    LeaveAlone,
    /// It goes to this port of the proxy.
    ToProxy(Port),
    /// The inbound rules decide (Linkerd 2.7).
    ToInboundRules,
}
