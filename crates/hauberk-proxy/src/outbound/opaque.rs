//! Bytes that are not looked into, from the application to an endpoint chosen by load.

use crate::{
    balance::{self, Connected},
    connection::Facts,
    copy,
    detect::Early,
    http::failure::{Failure, What},
    io::Io,
    outbound::discover::Target,
    telemetry::labels::Labels,
    transport_header::Session,
    worker::Worker,
};
use hauberk_model::{
    Meta, OutboundPolicy, Profile,
    filter::TcpFilter,
    outbound::{
        Backend, BackendTarget, Distribution, Load, OpaqueRoute, OutboundProtocol, Queue,
        RouteBackend,
    },
    profile::WeightedTarget,
};
use hauberk_process::metrics::{Counter, Family};
use rand::Rng;
use std::{net::IpAddr, rc::Rc, sync::Arc};

/// A connection to the endpoint that was chosen, with the route that led there.
#[derive(Debug)]
pub struct Chosen {
    connected: Connected,
    route: Labels,
}

impl Early for Chosen {
    fn io(&mut self) -> &mut Io {
        &mut self.connected.io
    }
}

/// Serves an opaque connection to its end; `chosen` is there if the server was asked early.
pub async fn serve(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: &Facts,
    target: &Target,
    chosen: Option<Chosen>,
) -> Result<(), Failure> {
    let policy = target.policy();
    let mut chosen = match chosen {
        Some(chosen) => chosen,
        None => Box::pin(choose_or_count(worker, facts, target, &policy)).await?,
    };
    drop(policy);
    let outbound = &worker.metrics.outbound;
    let (open, close) = (&outbound.tcp_route_open, &outbound.tcp_route_close);
    let passing = Passing::new(open, close, to(chosen.route.clone(), facts));
    let result = copy::both_ways(&mut io, &mut chosen.connected.io).await;
    let result = result.map_err(|error| Failure::peer(What::Io(error)));
    passing.end(result.as_ref().err());
    result
}

/// [`choose`], where a failure counts as a connection of the route that was to be followed.
async fn choose_or_count(
    worker: &Rc<Worker>,
    facts: &Facts,
    target: &Target,
    policy: &OutboundPolicy,
) -> Result<Chosen, Failure> {
    let (client, routes) = (facts.client.ip(), routes(policy));
    let chosen = choose(worker, target, policy, routes, client, Session::Opaque).await;
    if let (Err(failure), Some(labels)) = (&chosen, labels(target, policy)) {
        let outbound = &worker.metrics.outbound;
        let (open, close) = (&outbound.tcp_route_open, &outbound.tcp_route_close);
        Passing::new(open, close, to(labels, facts)).end(Some(failure));
    }
    chosen
}

/// Labels of the route that [`choose`] follows; none if there is no route.
fn labels(target: &Target, policy: &OutboundPolicy) -> Option<Labels> {
    let labels = Labels::new().parent(&policy.parent);
    match target.profile().filter(|profile| !profile.targets.is_empty()) {
        Some(profile) => Some(labels.outbound_route(&meta(&profile))),
        None => routes(policy).first().map(|route| labels.outbound_route(&route.meta)),
    }
}

fn to(labels: Labels, facts: &Facts) -> Labels {
    labels
        .with("target_ip", facts.original_dst.ip().to_string())
        .with("target_port", facts.original_dst.port().to_string())
}

/// A connection that follows a route, counted when it begins and when it ends.
pub(super) struct Passing<'m> {
    close: &'m Family<Labels, Counter>,
    labels: Labels,
}

impl<'m> Passing<'m> {
    /// Counts the beginning.
    pub(super) fn new(
        open: &Family<Labels, Counter>,
        close: &'m Family<Labels, Counter>,
        labels: Labels,
    ) -> Self {
        open.get_or_create(&labels).inc();
        Self { close, labels }
    }

    /// Counts the end, with the names that linkerd2-proxy v2 has for failures.
    pub(super) fn end(self, failure: Option<&Failure>) {
        let error = match failure.map(|failure| &failure.what) {
            None => "",
            Some(What::Forbidden) => "forbidden",
            Some(What::InvalidBackend(_)) => "invalid_backend",
            Some(What::InvalidPolicy(_)) => "invalid_policy",
            Some(_) => "unexpected",
        };
        self.close.get_or_create(&self.labels.with("error", error)).inc();
    }
}

/// The opaque routes of a policy. A policy that has turned to pure HTTP while the connection was found to be opaque
/// has none, and the connection fails.
pub(super) fn routes(policy: &OutboundPolicy) -> &[OpaqueRoute] {
    match &policy.protocol {
        OutboundProtocol::Detect { opaque, .. } | OutboundProtocol::Opaque(opaque) => opaque,
        OutboundProtocol::Http1(_)
        | OutboundProtocol::Http2(_)
        | OutboundProtocol::Grpc(_)
        | OutboundProtocol::Tls(_) => &[],
    }
}

/// Follows the route to a backend and connects to one of its endpoints.
///
/// A ServiceProfile that splits traffic goes before the policy (linkerd2-proxy does so).
pub async fn choose(
    worker: &Rc<Worker>,
    target: &Target,
    policy: &OutboundPolicy,
    routes: &[OpaqueRoute],
    client: IpAddr,
    session: Session,
) -> Result<Chosen, Failure> {
    if let Some(profile) = target.profile().filter(|profile| !profile.targets.is_empty()) {
        return split(worker, policy, &profile, client, session).await;
    }
    let Some(route) = routes.first() else {
        return Err(Failure::us(What::InvalidPolicy("the policy has no route for TCP".into())));
    };
    let labels = Labels::new().parent(&policy.parent).outbound_route(&route.meta);
    let filters = &route.filters;
    let connected =
        follow(worker, (&policy.parent, &route.meta), filters, &route.backends, client, session);
    let connected = connected.await?;
    Ok(Chosen { connected, route: labels })
}

/// Follows the traffic split of a ServiceProfile.
async fn split(
    worker: &Rc<Worker>,
    policy: &OutboundPolicy,
    profile: &Profile,
    client: IpAddr,
    session: Session,
) -> Result<Chosen, Failure> {
    let to_target = |target: &WeightedTarget| {
        let meta = target.backend.clone();
        let backend = Backend {
            meta: meta.unwrap_or_else(|| Meta::default(target.authority.to_string())),
            target: BackendTarget::Balance {
                authority: target.authority.clone(),
                load: Load::default(),
                balancing: Arc::default(),
            },
            queue: Queue::default(),
        };
        (RouteBackend { filters: Vec::new(), backend: Arc::new(backend) }, target.weight)
    };
    let backends = Distribution::Random(profile.targets.iter().map(to_target).collect());
    let meta = meta(profile);
    let connected =
        follow(worker, (&policy.parent, &meta), &[], &backends, client, session).await?;
    Ok(Chosen { connected, route: Labels::new().parent(&policy.parent).outbound_route(&meta) })
}

fn meta(profile: &Profile) -> Meta {
    profile.profile.clone().unwrap_or_else(|| Meta::default("profile"))
}

/// Applies filters, picks a backend and connects to one of its endpoints, by a route of `parent`.
pub(super) async fn follow(
    worker: &Rc<Worker>,
    (parent, route): (&Meta, &Meta),
    filters: &[TcpFilter],
    backends: &Distribution<TcpFilter>,
    client: IpAddr,
    session: Session,
) -> Result<Connected, Failure> {
    apply(filters)?;
    match backends {
        Distribution::Empty => {
            Err(Failure::us(What::InvalidPolicy(format!("{route} has no backend").into())))
        }
        Distribution::FirstAvailable(backends) => {
            // The next backend is for when the first cannot be reached at all.
            let mut last =
                Failure::us(What::InvalidPolicy(format!("{route} has no backend").into()));
            for backend in backends {
                match to_backend(worker, (parent, backend), client, session).await {
                    Ok(connected) => return Ok(connected),
                    Err(failure) if failure.retryable => last = failure,
                    Err(failure) => return Err(failure),
                }
            }
            Err(last)
        }
        Distribution::Random(backends) => {
            let random = worker.random.borrow_mut().random::<f64>();
            match draw(backends, random) {
                Some(backend) => to_backend(worker, (parent, backend), client, session).await,
                None => {
                    let why = format!("every backend of {route} has weight zero");
                    Err(Failure::us(What::InvalidPolicy(why.into())))
                }
            }
        }
    }
}

async fn to_backend(
    worker: &Rc<Worker>,
    (parent, backend): (&Meta, &RouteBackend<TcpFilter>),
    client: IpAddr,
    session: Session,
) -> Result<Connected, Failure> {
    apply(&backend.filters)?;
    let backend: &Arc<Backend> = &backend.backend;
    balance::connect(worker, (parent, backend), client, session).await
}

fn apply(filters: &[TcpFilter]) -> Result<(), Failure> {
    match filters.first() {
        None => Ok(()),
        Some(TcpFilter::Forbidden) => Err(Failure::client(What::Forbidden)),
        Some(TcpFilter::Invalid(why)) => Err(Failure::us(What::InvalidPolicy(Arc::clone(why)))),
    }
}

/// The backend that `random`, drawn uniformly from 0 to 1, falls on.
fn draw<F>(backends: &[(RouteBackend<F>, u32)], random: f64) -> Option<&RouteBackend<F>> {
    let total: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut left = (random * total as f64) as u64;
    backends.iter().filter(|(_, weight)| *weight > 0).find_map(|(backend, weight)| {
        let weight = u64::from(*weight);
        if left < weight {
            return Some(backend);
        }
        left -= weight;
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str) -> RouteBackend<TcpFilter> {
        let backend = Backend {
            meta: Meta::default(name),
            target: BackendTarget::Invalid("test".into()),
            queue: Queue::default(),
        };
        RouteBackend { filters: Vec::new(), backend: Arc::new(backend) }
    }

    #[test]
    fn draws_backends_by_weight() {
        let backends = [(backend("a"), 1), (backend("never"), 0), (backend("b"), 3)];
        let drawn =
            |random| draw(&backends, random).map(|found| found.backend.meta.name().to_owned());
        assert_eq!(drawn(0.0).as_deref(), Some("a"));
        assert_eq!(drawn(0.24).as_deref(), Some("a"));
        assert_eq!(drawn(0.25).as_deref(), Some("b"));
        assert_eq!(drawn(0.999_999).as_deref(), Some("b"));
        assert!(draw(&[(backend("never"), 0)], 0.5).is_none());
        assert!(draw::<TcpFilter>(&[], 0.5).is_none());
    }
}
