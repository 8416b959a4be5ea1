//! Routes that are attached to something, and what their parts mean.
//!
//! Inbound and outbound policy use the same routes with different rules; what both share is here:
//! which routes count (this file), matches ([`matches`](mod@matches)), filters ([`filters`]), faults
//! ([`faults`]) and what backends are ([`references`]).
//!
//! A route counts if its parent takes it and no more specific kind of route hangs on the very same
//! place (Gateway API, GEP-1426: gRPC before HTTP before TLS before TCP). [`refusal`] decides, for
//! policy ([`attached`]) and for status ([`refusal_of`]); nobody waits for a status to be written.

pub(crate) mod faults;
pub(crate) mod filters;
pub(crate) mod matches;
pub(crate) mod references;

use crate::{derive::Derivation, outbound, relations::parent_key, status::Reason};
use hauberk_model::Port;
use hauberk_resources::{
    GrpcRoute, HttpRoute, Kind, Metadata, ParentRef, Resource, ResourceKey, Service, ServiceType,
    TcpRoute, TlsRoute,
};
use std::{collections::BTreeSet, sync::Arc};

/// Why a route cannot be used; it then counts as absent.
pub(crate) type Unusable = String;

/// The routes on one parent that count, each kind oldest first.
#[derive(Debug, Default)]
pub(crate) struct Routes<'a> {
    pub(crate) http: Vec<(Kind, &'a HttpRoute)>,
    pub(crate) grpc: Vec<&'a GrpcRoute>,
    pub(crate) tls: Vec<&'a TlsRoute>,
    pub(crate) tcp: Vec<&'a TcpRoute>,
}

/// Where on a parent a route hangs; two routes conflict if this is equal.
type Place<'a> = (Option<u16>, Option<&'a Arc<str>>);

/// The more specific, the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Tcp,
    Tls,
    Http,
    Grpc,
}

/// What is occupied on a parent, in somebody's eyes.
type Taken<'a> = BTreeSet<(Rank, Place<'a>)>;

/// What routes hang on.
enum Ground<'a> {
    Server,
    Service(&'a Service),
    EgressNetwork,
    /// It is not there, or is nothing for routes.
    Unfit(String),
}

/// Why a parent does not take a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// The routes on `parent` in the eyes of those who `sees` lets see a route's namespace.
///
/// Routes that hang on another port than `port` do not count; those that hang on all ports do. A
/// route that is not seen conflicts with nothing, so nobody's namespace can switch off the routes
/// of others.
pub(crate) fn attached<'a>(
    derivation: &mut Derivation<'a>,
    parent: &ResourceKey,
    port: Option<Port>,
    sees: impl Fn(&Arc<str>) -> bool,
) -> Routes<'a> {
    let Some(ground) = Ground::of(derivation, parent) else { return Routes::default() };
    let seen = seen(derivation, parent, sees);
    let taken = taken(&seen);
    let counts = |rank: Rank, place: Place<'a>| {
        let is_here = place.0.is_none_or(|wanted| port.is_some_and(|port| port.get() == wanted));
        is_here && refusal(&ground, rank, place, &taken).is_none()
    };
    let mut routes = Routes::default();
    for (resource, rank, places) in &seen {
        if places.iter().any(|place| counts(*rank, *place)) {
            routes.put(resource);
        }
    }
    routes.sort();
    routes
}

/// Why `parent`, as `route` refers to it, does not take that route: in the eyes of clients of the
/// route's own namespace, for whom it counts in any case. Others may have routes of their own that
/// conflict with it. The outer none is for parents of a kind that routes do not hang on.
pub(crate) fn refusal_of(
    derivation: &mut Derivation<'_>,
    route: &Resource,
    parent: &ParentRef,
) -> Option<Option<Refused>> {
    let (rank, group, _) = facts(route)?;
    let key = parent_key(route.metadata(), group, parent)?;
    let ground = Ground::of(derivation, &key)?;
    let own = &route.metadata().namespace;
    let seen = seen(derivation, &key, |other| other == own || *other == key.namespace);
    let taken = taken(&seen);
    Some(refusal(&ground, rank, (parent.port, parent.section_name.as_ref()), &taken))
}

/// Whether a route of that rank may hang at that place. The only function that says so.
fn refusal(
    ground: &Ground<'_>,
    rank: Rank,
    place: Place<'_>,
    taken: &Taken<'_>,
) -> Option<Refused> {
    let refused = |reason, message: String| Some(Refused { reason, message });
    match (ground, place.0) {
        (Ground::Unfit(why), _) => return refused(Reason::NoMatchingParent, why.clone()),
        (Ground::Server, _) if rank < Rank::Http => {
            let message = "a server takes HTTP and gRPC routes only".to_owned();
            return refused(Reason::UnsupportedValue, message);
        }
        (Ground::Service(service), Some(port)) if service.tcp_port(port).is_none() => {
            let message = format!("the service has no TCP port {port}");
            return refused(Reason::NoMatchingParent, message);
        }
        // It has too many ports to mean all.
        (Ground::EgressNetwork, None) => {
            let message = "a route on an egress network names a port of it".to_owned();
            return refused(Reason::NoMatchingParent, message);
        }
        (Ground::Server | Ground::Service(_) | Ground::EgressNetwork, _) => {}
    }
    let conflicts = taken.iter().any(|(other, at)| *other > rank && *at == place);
    let message = || "a more specific kind of route hangs on the same place".to_owned();
    if conflicts { refused(Reason::RouteReasonConflicted, message()) } else { None }
}

type Seen<'a> = Vec<(&'a Resource, Rank, Vec<Place<'a>>)>;

/// The routes that refer to `parent`, with the places they name on it.
fn seen<'a>(
    derivation: &mut Derivation<'a>,
    parent: &ResourceKey,
    sees: impl Fn(&Arc<str>) -> bool,
) -> Seen<'a> {
    let attached = derivation.attached(parent).into_iter();
    let seen = attached.filter(|resource| sees(&resource.metadata().namespace));
    let seen = seen.filter_map(|resource| {
        let (rank, group, parents) = facts(resource)?;
        let of_parent =
            |one: &&ParentRef| parent_key(resource.metadata(), group, one).as_ref() == Some(parent);
        let places = parents
            .iter()
            .filter(of_parent)
            .map(|parent| (parent.port, parent.section_name.as_ref()));
        Some((resource, rank, places.collect()))
    });
    seen.collect()
}

fn taken<'a>(seen: &Seen<'a>) -> Taken<'a> {
    let each = seen.iter();
    each.flat_map(|(_, rank, places)| places.iter().map(|place| (*rank, *place))).collect()
}

impl<'a> Ground<'a> {
    /// What routes find at `parent`; none for kinds that they do not hang on.
    fn of(derivation: &mut Derivation<'a>, parent: &ResourceKey) -> Option<Self> {
        let ground = match parent.kind {
            Kind::Server | Kind::Service | Kind::EgressNetwork => derivation.object(parent.clone()),
            _other => return None,
        };
        let unfit = |why: &str| Self::Unfit(why.to_owned());
        Some(match ground {
            Some(Resource::Server(_)) => Self::Server,
            Some(Resource::Service(service)) => {
                match service.kind() == ServiceType::ExternalName || service.is_headless() {
                    true => unfit("parent service must have a ClusterIP"),
                    false => Self::Service(service),
                }
            }
            Some(Resource::EgressNetwork(network)) => {
                match outbound::is_acceptable(derivation.config, network) {
                    true => Self::EgressNetwork,
                    false => unfit("the egress network is not accepted"),
                }
            }
            _ => Self::Unfit(format!("{parent} does not exist")),
        })
    }
}

/// What a route wants to be attached to; none for other objects.
pub(crate) fn parents(resource: &Resource) -> Option<(&str, &[ParentRef])> {
    facts(resource).map(|(_, group, parents)| (group, parents))
}

fn facts(resource: &Resource) -> Option<(Rank, &str, &[ParentRef])> {
    match resource {
        Resource::GrpcRoute(route) => Some((Rank::Grpc, route.group(), route.parents())),
        Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
            Some((Rank::Http, route.group(), route.parents()))
        }
        Resource::TlsRoute(route) => Some((Rank::Tls, route.group(), route.parents())),
        Resource::TcpRoute(route) => Some((Rank::Tcp, route.group(), route.parents())),
        _policies_and_limits => None,
    }
}

impl<'a> Routes<'a> {
    fn put(&mut self, resource: &'a Resource) {
        match resource {
            Resource::GrpcRoute(route) => self.grpc.push(route),
            Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
                self.http.push((resource.kind(), route));
            }
            Resource::TlsRoute(route) => self.tls.push(route),
            Resource::TcpRoute(route) => self.tcp.push(route),
            _policies_and_limits => {}
        }
    }

    fn sort(&mut self) {
        fn by_age(a: &Metadata, b: &Metadata) -> std::cmp::Ordering {
            a.age_order().cmp(&b.age_order())
        }
        self.http.sort_by(|(_, a), (_, b)| by_age(&a.metadata, &b.metadata));
        self.grpc.sort_by(|a, b| by_age(&a.metadata, &b.metadata));
        self.tls.sort_by(|a, b| by_age(&a.metadata, &b.metadata));
        self.tcp.sort_by(|a, b| by_age(&a.metadata, &b.metadata));
    }
}
