//! What the status of an object should say: values, for whoever can write or show them.
//!
//! | kind | says |
//! |---|---|
//! | routes, for each parent | whether it takes the route, and whether what the route refers to is there |
//! | `EgressNetwork` | whether its networks are outside of the cluster |
//! | `HTTPLocalRateLimitPolicy` | whether it is the one that counts for its server |
//!
//! Conditions, reasons and who says so are those of the Gateway API and of Linkerd's policy
//! controller. They come from the functions that policy is derived by (`routes::refusal_of`,
//! `outbound::usable`, `references::resolve`), so a status cannot say anything else than what
//! happens. Not here: times of transition (no clock), JSON, and statuses of other controllers.

use crate::{
    answer::{Answer, Refusal},
    derive::Derivation,
    inbound,
    outbound::{self, is_acceptable},
    relations::{parent_key, target_key},
    routes::{
        self,
        references::{self, Referrer, resolve},
    },
};
use hauberk_resources::{
    Kind, ParentRef, Resource, ResourceKey,
    policy::{EgressNetwork, HttpLocalRateLimitPolicy},
};
use std::{fmt, sync::Arc};

/// Who says it; Linkerd's policy controller has the same name, because its readers look for it.
pub const CONTROLLER: &str = "linkerd.io/policy-controller";

/// What the status of an object should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The generation of the object that it is about, if the object has one.
    pub generation: Option<i64>,
    /// Of the object itself; empty for routes.
    pub conditions: Vec<Condition>,
    /// Of a route on each of its parents of a kind that the mesh knows, in the route's order.
    pub parents: Vec<ParentStatus>,
}

/// What a route's status should say about one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent, as the route refers to it.
    pub parent: ParentRef,
    /// `Accepted`, and for parents on the client's side `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub holds: bool,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, for people; may be empty.
    pub message: String,
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// The object counts.
    Accepted,
    /// All that a route refers to is there, and may be referred to.
    ResolvedRefs,
    /// A route counts, but some of its parts cannot be used.
    PartiallyInvalid,
}

/// Why a condition holds or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It counts.
    Accepted,
    /// The parent is not there, does not have the port, or is nothing for routes.
    NoMatchingParent,
    /// A more specific kind of route hangs on the same place (GEP-1426).
    RouteReasonConflicted,
    /// A part of the object cannot be used.
    UnsupportedValue,
    /// Everything is there.
    ResolvedRefs,
    /// A backend is not there.
    BackendNotFound,
    /// A backend is of a kind that takes no requests.
    InvalidKind,
    /// A backend in another namespace has not been granted.
    RefNotPermitted,
    /// The server is not there.
    NoMatchingTarget,
    /// An older policy counts.
    RateLimitReasonAlreadyExists,
    /// Networks overlap with those of the cluster.
    EgressReasonNetworkOverlap,
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are those of the API.
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are those of the API.
        write!(f, "{self:?}")
    }
}

pub(crate) fn answer(derivation: &mut Derivation<'_>, key: &ResourceKey) -> Answer {
    let Some(resource) = derivation.object(key.clone()) else {
        return Answer::Refused(Refusal::NotFound(format!("there is no {key}")));
    };
    let (conditions, parents) = match resource {
        Resource::EgressNetwork(network) => (vec![of_egress(derivation, network)], Vec::new()),
        Resource::HttpLocalRateLimitPolicy(policy) => {
            (vec![of_rate_limit(derivation, policy)], Vec::new())
        }
        route => match routes::parents(route) {
            Some((group, refs)) => (Vec::new(), of_route(derivation, route, group, refs)),
            None => {
                let what = format!("the mesh says nothing in the status of {}", key.kind);
                return Answer::Refused(Refusal::Invalid(what));
            }
        },
    };
    let generation = resource.metadata().generation;
    Answer::Status(Arc::new(Status { generation, conditions, parents }))
}

fn of_route(
    derivation: &mut Derivation<'_>,
    route: &Resource,
    group: &str,
    refs: &[ParentRef],
) -> Vec<ParentStatus> {
    let mut parents: Vec<ParentStatus> = Vec::new();
    for parent in refs {
        if parents.iter().any(|known| known.parent == *parent) {
            continue;
        }
        if let Some(conditions) = on_parent(derivation, route, group, parent) {
            parents.push(ParentStatus { parent: parent.clone(), conditions });
        }
    }
    parents
}

/// None for parents of kinds that are not the mesh's.
fn on_parent(
    derivation: &mut Derivation<'_>,
    route: &Resource,
    group: &str,
    parent: &ParentRef,
) -> Option<Vec<Condition>> {
    let key = parent_key(route.metadata(), group, parent)?;
    let refused = routes::refusal_of(derivation, route, parent)?;
    let is_server = key.kind == Kind::Server;
    let usable = match is_server {
        true => inbound::usable(route).map(|()| Vec::new()),
        false => outbound::usable(derivation, &key, parent.port, route),
    };
    let accepted = match (refused, &usable) {
        (Some(refused), _) => not(ConditionKind::Accepted, refused.reason, refused.message),
        (None, Err(why)) => not(ConditionKind::Accepted, Reason::UnsupportedValue, why.clone()),
        (None, Ok(_)) => holds(ConditionKind::Accepted, Reason::Accepted),
    };
    let mut conditions = vec![accepted];
    if is_server {
        return Some(conditions);
    }
    let from =
        Referrer { kind: route.kind(), namespace: &route.metadata().namespace, parent: &key };
    let unresolved = references::of(route)
        .iter()
        .find_map(|reference| resolve(derivation, from, reference).err());
    conditions.push(match unresolved {
        Some(why) => not(ConditionKind::ResolvedRefs, why.reason, why.message),
        None => holds(ConditionKind::ResolvedRefs, Reason::ResolvedRefs),
    });
    if let Ok(wrong) = usable
        && !wrong.is_empty()
    {
        let message = wrong.join("; ");
        let condition = holds(ConditionKind::PartiallyInvalid, Reason::UnsupportedValue);
        conditions.push(Condition { message, ..condition });
    }
    Some(conditions)
}

fn of_egress(derivation: &Derivation<'_>, network: &EgressNetwork) -> Condition {
    match is_acceptable(derivation.config, network) {
        true => holds(ConditionKind::Accepted, Reason::Accepted),
        false => not(
            ConditionKind::Accepted,
            Reason::EgressReasonNetworkOverlap,
            "its networks overlap with those of the cluster".to_owned(),
        ),
    }
}

fn of_rate_limit(derivation: &mut Derivation<'_>, policy: &HttpLocalRateLimitPolicy) -> Condition {
    let refused = |reason, message: String| not(ConditionKind::Accepted, reason, message);
    let target = target_key(&policy.metadata, policy.target());
    let server = target.filter(|target| target.kind == Kind::Server);
    let Some(server) = server.filter(|server| derivation.object(server.clone()).is_some()) else {
        let message = format!("there is no server {}", policy.target().name);
        return refused(Reason::NoMatchingTarget, message);
    };
    match inbound::rate_limit_in_force(derivation, &server) {
        Some(other) if other.metadata.name != policy.metadata.name => {
            let message = format!("{} is older and counts for the server", other.metadata.name);
            refused(Reason::RateLimitReasonAlreadyExists, message)
        }
        Some(_) | None => holds(ConditionKind::Accepted, Reason::Accepted),
    }
}

fn holds(kind: ConditionKind, reason: Reason) -> Condition {
    Condition { kind, holds: true, reason, message: String::new() }
}

fn not(kind: ConditionKind, reason: Reason, message: String) -> Condition {
    Condition { kind, holds: false, reason, message }
}
