//! Routes that are attached to something, and what their parts mean.
//!
//! Inbound and outbound policy use the same routes with different rules; what both share is here:
//! which routes count (this file), matches ([`matches`](mod@matches)), filters ([`filters`]).
//!
//! A route counts if its parent takes it and no more specific kind of route hangs on the very same
//! place (Gateway API, GEP-1426: gRPC before HTTP before TLS before TCP). This is computed here,
//! by the rules that a status would state, instead of waiting for the status to be written.

pub(crate) mod filters;
pub(crate) mod matches;

use crate::{derive::Derivation, relations::parent_key};
use hauberk_model::Port;
use hauberk_resources::{
    GrpcRoute, HttpRoute, Kind, Metadata, ParentRef, Resource, ResourceKey, TcpRoute, TlsRoute,
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

/// The routes on `parent` in the eyes of those who `sees` lets see a route's namespace.
///
/// Routes that hang on another port than `port` do not count; those that hang on all ports do, but
/// an egress network has too many ports to mean all. A route that is not seen conflicts
/// with nothing, so nobody's namespace can switch off the routes of others.
pub(crate) fn attached<'a>(
    derivation: &mut Derivation<'a>,
    parent: &ResourceKey,
    port: Option<Port>,
    sees: impl Fn(&Arc<str>) -> bool,
) -> Routes<'a> {
    let seen: Vec<(&'a Resource, Rank, Vec<Place<'a>>)> = derivation
        .attached(parent)
        .into_iter()
        .filter(|resource| sees(&resource.metadata().namespace))
        .filter_map(|resource| {
            let (rank, group, parents) = facts(resource)?;
            let of_parent = |one: &&ParentRef| {
                parent_key(resource.metadata(), group, one).as_ref() == Some(parent)
            };
            let places = parents
                .iter()
                .filter(of_parent)
                .map(|parent| (parent.port, parent.section_name.as_ref()));
            Some((resource, rank, places.collect()))
        })
        .collect();
    let mut taken: BTreeSet<(Rank, Place<'a>)> = BTreeSet::new();
    for (_, rank, places) in &seen {
        taken.extend(places.iter().map(|place| (*rank, *place)));
    }
    let counts = |rank: Rank, place: &Place<'a>| {
        let is_here = match place.0 {
            None => parent.kind != Kind::EgressNetwork,
            Some(wanted) => port.is_some_and(|port| port.get() == wanted),
        };
        is_here && !taken.iter().any(|(other, at)| *other > rank && at == place)
    };
    let mut routes = Routes::default();
    for (resource, rank, places) in &seen {
        if places.iter().any(|place| counts(*rank, place)) {
            routes.put(resource);
        }
    }
    routes.sort();
    routes
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
