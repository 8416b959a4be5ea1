//! What one data thread owns.
//!
//! A [`Worker`] lives on one thread with a current-thread runtime and a `LocalSet`; everything on the data path gets
//! it as `&Rc<Worker>`. What threads share comes as immutable snapshots (`Arc`, `watch`) or atomics (metrics), so
//! there is no lock to wait for. The caches are bounded and forget what is idle.
//!
//! Built by `run`; tests build one with [`Worker::new`] on a paused clock.

use crate::{
    balance::Balancers,
    control::Directory,
    http,
    inbound::policy::Policies,
    outbound::discover::Targets,
    settings::Config,
    telemetry::{metrics::Metrics, tap::Taps, trace::Tracer},
    tls::{Identity, sessions::ByPeer},
};
use hauberk_process::{Shutdown, Spawner, Tasks};
use rand::{SeedableRng, rngs::SmallRng};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// What one data thread owns. See the module documentation.
#[derive(Debug)]
pub struct Worker {
    /// The settings.
    pub config: Arc<Config>,
    /// Questions to the control plane.
    pub directory: Directory,
    /// Our certificate, as TLS configurations; renewed behind this handle.
    pub identity: Identity,
    /// Every metric family.
    pub metrics: Arc<Metrics>,
    /// Who watches requests.
    pub taps: Taps,
    /// Who follows requests, if anybody collects that.
    pub tracer: Option<Tracer>,
    /// Starts named tasks; use [`Tasks::spawn_local`].
    pub tasks: Tasks,
    /// Tells when to drain; connections hold [`Shutdown::guard`].
    pub shutdown: Shutdown,
    /// Starts a task for each accepted connection.
    pub connections: Spawner,
    /// Starts a task for each stream of an HTTP/2 connection that we serve.
    pub http_streams: Spawner,
    /// What is known of original destinations.
    pub targets: Targets,
    /// What this pod's ports accept.
    pub policies: Policies,
    /// Balancers by authority.
    pub balancers: Balancers,
    /// TLS sessions that opaque connections resume.
    pub sessions: ByPeer,
    /// What HTTP keeps per worker.
    pub http: http::State,
    /// Randomness; seeded by the caller, so a test can repeat a run.
    pub random: RefCell<SmallRng>,
}

/// What a worker is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The settings.
    pub config: Arc<Config>,
    /// Questions to the control plane.
    pub directory: Directory,
    /// Our certificate.
    pub identity: Identity,
    /// Every metric family.
    pub metrics: Arc<Metrics>,
    /// Who watches requests.
    pub taps: Taps,
    /// Who follows requests, if anybody collects that.
    pub tracer: Option<Tracer>,
    /// The process's tasks.
    pub tasks: Tasks,
    /// Seed of this worker's randomness.
    pub seed: u64,
}

impl Worker {
    /// A worker with empty caches, for the current thread.
    pub fn new(parts: Parts) -> Rc<Self> {
        let Parts { config, directory, identity, metrics, taps, tracer, tasks, seed } = parts;
        Rc::new(Self {
            shutdown: tasks.shutdown().clone(),
            connections: tasks.kind("connection"),
            http_streams: tasks.kind("http2"),
            targets: Targets::new(&config),
            policies: Policies::new(&config),
            balancers: Balancers::default(),
            sessions: ByPeer::default(),
            http: http::State::default(),
            random: RefCell::new(SmallRng::seed_from_u64(seed)),
            config,
            directory,
            identity,
            metrics,
            taps,
            tracer,
            tasks,
        })
    }
}
