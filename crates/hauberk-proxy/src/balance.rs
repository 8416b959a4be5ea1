//! Choosing one endpoint of many.
//!
//! - [`balancer`] is the choice itself, per target and worker, with its parts: [`p2c`] (which of
//!   two), [`load`] (how slow), [`breaker`] (left alone, by
//!   [`window`] among others), [`queue`] (who may wait), [`affinity`] (whose endpoint it is) and
//!   [`slow_start`] (how much of a share).
//! - [`Pools`] keeps one [`Balancer`] per authority and settings on a worker, feeds it from
//!   `worker.directory.endpoints(authority)`, and lets go of it, and of the stream behind it, once
//!   nobody has used it for the discovery idle time.
//! - [`connect`] is the whole thing for opaque connections: choose, dial, measure. HTTP chooses per
//!   request and does its own dialling (see `http::client`).
//!
//! Pools of different kinds of use (HTTP, opaque) are kept apart, since a connection's time to
//! connect and a request's time to answer do not compare.

pub mod affinity;
pub mod balancer;
pub mod breaker;
pub mod load;
pub mod p2c;
pub mod queue;
pub mod slow_start;
pub mod window;

pub use affinity::{GivenCookie, Key};
pub use balancer::{Balancer, Lease, Penalty, Settings, Updated};
pub use breaker::Outcome;
pub use queue::Refusal;

use crate::{
    control::{Live, Lookup},
    dial::{self, Found},
    http::failure::{Failure, What},
    io::Io,
    settings::Side,
    telemetry::{balancer::Series, labels::Labels},
    transport_header::Session,
    worker::Worker,
};
use hauberk_model::{
    Authority, Endpoint, Endpoints, Meta,
    endpoints::Labels as EndpointLabels,
    failure_accrual::FailureAccrual,
    outbound::{Backend, BackendTarget, Load, PeakEwma, Queue},
};
use rand::Rng;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};
use tokio::time::Instant;

/// The balancers for opaque connections of one worker.
pub type Balancers = Pools<Arc<EndpointLabels>>;

/// A balancer with where its endpoints come from.
#[derive(Debug)]
pub struct Pool<E> {
    /// The choice among endpoints.
    pub balancer: Balancer<E>,
    /// What endpoints are asked for.
    pub authority: Authority,
    used: Cell<Instant>,
}

/// The balancers of one worker, by authority.
#[derive(Debug)]
pub struct Pools<E> {
    by_authority: RefCell<HashMap<Authority, Vec<Rc<Pool<E>>>>>,
}

impl<E> Default for Pools<E> {
    fn default() -> Self {
        Self { by_authority: RefCell::default() }
    }
}

/// Makes what a pool keeps per endpoint.
pub trait Build<E>: 'static {
    /// Builds it for `endpoint` of `set`; called when the endpoint is new or changed.
    fn build(&self, worker: &Rc<Worker>, set: &Endpoints, endpoint: &Arc<Endpoint>) -> E;
}

/// Keeps the labels of the set that an endpoint came with.
struct LabelsOfSet;

impl Build<Arc<EndpointLabels>> for LabelsOfSet {
    fn build(&self, _: &Rc<Worker>, set: &Endpoints, _: &Arc<Endpoint>) -> Arc<EndpointLabels> {
        Arc::clone(&set.labels)
    }
}

impl<E: 'static> Pools<E> {
    /// The pool for `authority`; begins to follow its endpoints if nobody did.
    ///
    /// `pools` says where the pool is kept, so that it can be taken out again when idle; `counted` gives the counters
    /// of a pool that is new.
    pub fn get(
        worker: &Rc<Worker>,
        pools: fn(&Worker) -> &Self,
        authority: &Authority,
        settings: Settings,
        build: impl Build<E>,
        counted: impl FnOnce(&Worker, &Settings) -> Option<Series>,
    ) -> Rc<Pool<E>> {
        let now = Instant::now();
        let mut by_authority = pools(worker).by_authority.borrow_mut();
        let known = by_authority.entry(authority.clone()).or_default();
        if let Some(pool) = known.iter().find(|pool| *pool.balancer.settings() == settings) {
            pool.used.set(now);
            return Rc::clone(pool);
        }
        let seed = worker.random.borrow_mut().random();
        let series = counted(worker, &settings);
        let balancer = Balancer::counted(settings, seed, series);
        let pool = Rc::new(Pool { balancer, authority: authority.clone(), used: Cell::new(now) });
        known.push(Rc::clone(&pool));
        let live = worker.directory.endpoints(authority);
        let follower = follow(Rc::clone(worker), pools, Rc::clone(&pool), live, build);
        worker.tasks.spawn_local("endpoints", follower);
        pool
    }

    fn forget(&self, pool: &Rc<Pool<E>>) {
        let mut by_authority = self.by_authority.borrow_mut();
        if let Some(known) = by_authority.get_mut(&pool.authority) {
            known.retain(|other| !Rc::ptr_eq(other, pool));
            if known.is_empty() {
                by_authority.remove(&pool.authority);
            }
        }
    }

    /// Authorities known now.
    pub fn len(&self) -> usize {
        self.by_authority.borrow().len()
    }

    /// Whether no authority is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gives a pool every new set of endpoints, until it has been idle for long enough.
///
/// The last set is kept while the control plane is away; an authority that does not exist has no
/// endpoints.
async fn follow<E: 'static>(
    worker: Rc<Worker>,
    pools: fn(&Worker) -> &Pools<E>,
    pool: Rc<Pool<E>>,
    mut live: Live<Endpoints>,
    build: impl Build<E>,
) {
    let idle_timeout = worker.config.outbound.side.discovery_idle_timeout;
    let nobody = Endpoints::default();
    loop {
        let newest = live.borrow_and_update().clone();
        match newest {
            Lookup::Pending => {}
            Lookup::Absent => {
                pool.balancer.update(&nobody, Instant::now(), |e| build.build(&worker, &nobody, e));
            }
            Lookup::Known(set) => {
                pool.balancer.update(&set, Instant::now(), |e| build.build(&worker, &set, e));
            }
        }
        // One holder is the registry, the other this task.
        let wait = async {
            loop {
                let idle_at = pool.used.get() + idle_timeout;
                // While the control plane is away nothing is forgotten that could not be asked for again.
                if Rc::strong_count(&pool) > 2 || !worker.directory.is_reachable() {
                    pool.used.set(Instant::now());
                } else if idle_at <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until((pool.used.get() + idle_timeout).max(Instant::now()))
                    .await;
            }
        };
        tokio::select! {
            changed = live.changed() => {
                if changed.is_err() {
                    // The question could not be asked; the next user asks again.
                    break;
                }
            }
            () = wait => break,
            () = worker.shutdown.ended() => break,
        }
    }
    pools(&worker).forget(&pool);
}

/// The parameters of a balancer for `load` on one side of the proxy; with nothing beyond load.
pub fn settings(
    load: Load,
    queue: Queue,
    accrual: Option<&FailureAccrual>,
    side: &Side,
) -> Settings {
    let (load, penalty) = match load {
        Load::PeakEwma(ewma) => (ewma, None),
        Load::PenaltyPeakEwma { ewma, penalty, max_retry_after } => {
            (ewma, Some(Penalty { least: penalty, most: max_retry_after.max(penalty) }))
        }
    };
    let connect_backoff = side.connect_backoff;
    Settings {
        load,
        penalty,
        queue,
        accrual: accrual.cloned(),
        connect_backoff,
        slow_start: None,
        affinity: None,
        owner: None,
    }
}

/// The parameters of a balancer whose only endpoint is a known address.
pub fn forward_settings(queue: Queue, accrual: Option<&FailureAccrual>, side: &Side) -> Settings {
    settings(Load::PeakEwma(PeakEwma::default()), queue, accrual, side)
}

/// A connection to an endpoint that was chosen, for opaque bytes. What it keeps alive (load
/// accounting) ends when it is dropped.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub io: Io,
    /// The endpoint it leads to.
    pub endpoint: Arc<Endpoint>,
    _lease: Option<Lease<Arc<EndpointLabels>>>,
}

/// Endpoints tried for one connection. More would only add to the client's waiting.
const CONNECT_ATTEMPTS_MAX: usize = 3;

/// Connects to an endpoint of `backend`, for a policy of `parent`, chosen by load, or for its `client` where the backend has
/// affinity. For connections, not requests.
///
/// An endpoint that cannot be reached is left alone and another one tried: nothing has been sent
/// yet, so this is safe for every protocol. Waits at most for the queue's failfast time and
/// three connect timeouts. Cancel-safe.
pub async fn connect(
    worker: &Rc<Worker>,
    (parent, backend): (&Meta, &Arc<Backend>),
    client: IpAddr,
    session: Session,
) -> Result<Connected, Failure> {
    let outbound = &worker.config.outbound;
    let (authority, load, balancing) = match &backend.target {
        BackendTarget::Invalid(why) => {
            return Err(Failure::us(What::InvalidBackend(Arc::clone(why))));
        }
        BackendTarget::Forward(endpoint) => {
            let found = Found::default();
            let io = Box::pin(dial::dial(worker, (endpoint, &found), session)).await?;
            return Ok(Connected { io, endpoint: Arc::clone(endpoint), _lease: None });
        }
        BackendTarget::Balance { authority, load, balancing } => (authority, *load, balancing),
    };
    let queue = Queue {
        capacity: outbound.tcp_queue_capacity,
        failfast_timeout: outbound.tcp_failfast_timeout,
    };
    // What opaque bytes answer says nothing of failures.
    let settings = Settings {
        penalty: None,
        slow_start: balancing.slow_start,
        affinity: balancing.affinity.clone(),
        ..settings(load, queue, None, &outbound.side)
    };
    let key = balancing.affinity.as_ref().and_then(|a| Key::of_connection(a, client));
    let counted = |worker: &Worker, settings: &Settings| {
        let name = authority.to_string();
        let labels = Labels::new().parent(parent).backend(&backend.meta);
        let labels = labels.with("logical", name.clone()).with("concrete", name);
        let timeout = settings.queue.failfast_timeout;
        Some(worker.metrics.balancers.tcp.series(&labels, timeout))
    };
    let pool =
        Pools::get(worker, |worker| &worker.balancers, authority, settings, LabelsOfSet, counted);
    let mut failed = None;
    for _ in 0..CONNECT_ATTEMPTS_MAX {
        let mut lease = match pool.balancer.acquire_for(key).await {
            Ok(lease) => lease,
            Err(refusal) => return Err(failed.unwrap_or_else(|| refused(refusal, authority))),
        };
        // Boxed, so that the long life after it does not carry the size of a handshake.
        let labels = Arc::clone(lease.endpoint());
        let found = Found { authority: Some(authority.clone()), labels };
        match Box::pin(dial::dial(worker, (lease.source(), &found), session)).await {
            Ok(io) => {
                lease.opened(Instant::now());
                let endpoint = Arc::clone(lease.source());
                return Ok(Connected { io, endpoint, _lease: Some(lease) });
            }
            Err(failure) => {
                lease.unreachable(Instant::now());
                failed = Some(failure);
            }
        }
    }
    Err(failed.expect("the loop ran, and ends only after a failure"))
}

/// A refusal by the queue as a failure of the request or connection.
pub fn refused(refusal: Refusal, authority: &Authority) -> Failure {
    match refusal {
        Refusal::Failfast => Failure::us(What::FailFast(authority.to_string().into())),
        Refusal::Full => Failure::us(What::Shed),
    }
}
