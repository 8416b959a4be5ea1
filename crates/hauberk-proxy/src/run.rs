//! What is built, in which order, and who owns it.
//!
//! ```text
//! bind        inbound, outbound and admin sockets; early connections wait in the kernel's queues
//! build       identity -> connections to the control plane -> directory -> metrics
//! start       admin server, certifier, control streams      on the caller's runtime ("admin", one thread)
//!             one thread per data worker                     each waits for the first certificate, then accepts
//! ready       whoever started us is told; a successor listens at all, probes included, from this moment on
//! end         signal, request or failure -> drain (connections hold guards) -> grace period -> force
//!             -> workers stop, threads are joined -> exit code
//! ```
//!
//! [`Proxy::start`] and [`Proxy::finish`] are what `main` and the tests run; nothing is different in tests but
//! [`Capture`].

use crate::{
    admin,
    connection::Direction,
    control::{
        self, Directory,
        client::Connector,
        identity::{Certifier, IdentityError},
    },
    inbound::policy::Policies,
    listen::{self, Entrance, Listeners, OriginalDst, Start},
    memory,
    settings::Config,
    telemetry::{
        metrics::{Metrics, register_tls},
        tap::{self, Taps},
        trace::export,
    },
    tls::Identity,
    worker::{Parts, Worker},
};
use hauberk_identity::{TrustAnchors, anchors::AnchorsError};
use hauberk_linux::allocations;
use hauberk_process::{
    Shutdown, Tasks,
    admin::Admin,
    build_info,
    logging::LogHandle,
    metrics::{self, Exposition, Kind, Metrics as Registry},
    notify,
    ready::Readiness,
    shutdown::{Cause, Exit},
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
    time::Instant,
};

/// How connections are found to have been captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Where outbound connections were going.
    pub outbound: OriginalDst,
    /// Where inbound connections were going.
    pub inbound: OriginalDst,
}

impl Capture {
    /// By kernel rules.
    pub const KERNEL: Self = Self { outbound: OriginalDst::Kernel, inbound: OriginalDst::Kernel };
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Listen(#[from] io::Error),
    /// The trust anchors cannot be used.
    #[error("cannot use the trust anchors: {0}")]
    Anchors(#[from] AnchorsError),
    /// There is no key.
    #[error(transparent)]
    Credentials(#[from] IdentityError),
}

/// What a proxy gets from its process, beside the settings.
#[derive(Debug)]
pub struct Surroundings {
    /// The set all tasks belong to, with the shutdown handle.
    pub tasks: Tasks,
    /// How connections are found to have been captured.
    pub capture: Capture,
    /// What `/env.json` shows.
    pub environment: BTreeMap<String, String>,
    /// Where `/proxy-log-level` goes; `None` in tests.
    pub log: Option<LogHandle>,
    /// Seed of all randomness on the data path.
    pub seed: u64,
    /// Whether another proxy is to be succeeded.
    pub start: Start,
    /// Who is told when the proxy serves, as [`notify`] names it.
    pub notify: Option<String>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it accepts the application's connections.
    pub outbound: Vec<SocketAddr>,
    /// Where it accepts everybody else's.
    pub inbound: SocketAddr,
    /// Where it answers probes.
    pub admin: SocketAddr,
    /// Where it tells what passes to whoever may watch.
    pub tap: Option<SocketAddr>,
    config: Arc<Config>,
    tasks: Tasks,
    workers: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Binds, builds and starts everything. The current runtime becomes the admin runtime.
    ///
    /// # Errors
    /// If an address cannot be bound, or trust anchors or key cannot be used.
    pub async fn start(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        let Surroundings { tasks, capture, environment, log, seed, start, notify } = surroundings;
        let listeners = listen::bind(&config, start)?;
        let config = Arc::new(config_with_ports(config, &listeners)?);
        let admin_listener = listen::bind_server(config.admin_listen, &config, start)?;
        let tap_listener = match &config.tap {
            Some(tap) => {
                Some((listen::bind_server(tap.listen, &config, start)?, tap.client.clone()))
            }
            None => None,
        };
        let bound =
            Bound::new(&listeners, &admin_listener, tap_listener.as_ref().map(|(tap, _)| tap))?;
        bound.report(&config);

        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry));
        metrics::process::register(&registry, SystemTime::now());
        metrics::process::register_tasks(&registry, &tasks);
        build_info::register(&registry, "proxy_build");
        register_tls(&registry, &hauberk_identity::provider());
        registry.add_collector(write_allocations);
        let taps = Taps::default();
        registry.register(|registry| taps.register(registry));
        let anchors = Arc::new(TrustAnchors::from_pem(&config.identity.trust_anchors)?);
        let credentials = control::identity::credentials(&config.identity)?;
        let (publish, certified) = watch::channel(None);
        let identity = Identity::new(
            config.identity.local.clone(),
            Arc::clone(&config.identity.server_name),
            certified,
        );
        let connector =
            Connector::new(identity.clone(), Arc::clone(&anchors), metrics.control.clone(), &tasks);
        let directory = Directory::connect(&config, &connector, &metrics.control, &tasks);
        let tracer = config.traces.as_ref().map(|traces| {
            let metrics = export::Metrics::default();
            registry.register(|registry| metrics.register(registry));
            export::start(traces, &connector, metrics, &tasks)
        });

        let readiness = Readiness::new();
        let has_identity = readiness.condition("identity");
        let gate = Gate { readiness: readiness.clone(), start, config: Arc::clone(&config) };
        let mut admin = Admin::new(readiness, registry.clone()).with_environment(environment);
        if let Some(log) = log {
            admin = admin.with_log_level(log);
        }
        let admin = admin::with_shutdown(admin, config.shutdown_endpoint, tasks.shutdown());
        // Dropped by each server that listens and each worker that accepts; nothing is ever sent.
        let (begins, mut all_begun) = mpsc::channel::<Infallible>(1);
        let (serves, mut all_serve) = mpsc::channel::<Infallible>(1);
        let door = admin::Door::new(&config, &directory, Arc::clone(&metrics), bound.admin);
        let (gates, began) = (gate.clone(), serves.clone());
        let (admin, admin_identity, admin_tasks) =
            (Arc::new(admin), identity.clone(), tasks.clone());
        tasks.spawn("admin", async move {
            if let Some(listener) = gates.begin(admin_listener, &admin_tasks).await {
                drop(began);
                admin::serve(listener, admin, door, admin_identity, admin_tasks).await;
            }
        });
        if let Some((listener, client)) = tap_listener {
            let (taps, identity, tasks) = (taps.clone(), identity.clone(), tasks.clone());
            let server = tap::server::Server { taps, client, identity, tasks: tasks.clone() };
            let set = tasks.clone();
            set.spawn("tap", async move {
                if let Some(listener) = gate.begin(listener, &tasks).await {
                    drop(serves);
                    server.serve(listener).await;
                }
            });
        } else {
            drop(serves);
        }
        let certifier = Certifier::new(
            &config,
            credentials,
            anchors,
            connector,
            publish,
            metrics.identity.clone(),
        );
        tasks.spawn_essential("identity", certifier.run(tasks.shutdown().clone()));
        let first_certificate = identity.clone();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("readiness", async move {
            tokio::select! {
                () = first_certificate.ready() => {}
                () = shutdown.ended() => return,
            }
            let _ = all_begun.recv().await; // None, once the last one has begun.
            has_identity.set_ready();
            let _ = all_serve.recv().await;
            if let Some(socket) = notify
                && let Err(error) = notify::ready(&socket)
            {
                tracing::warn!(%error, "cannot tell that the proxy serves");
            }
        });

        tasks.spawn("memory", memory::watch(tasks.shutdown().clone()));
        tasks.spawn(
            "metrics-retention",
            forget_idle_series(
                registry.clone(),
                Arc::clone(&metrics),
                config.metrics_retain_idle,
                tasks.shutdown().clone(),
            ),
        );

        let mut workers = Vec::with_capacity(listeners.len());
        for (index, listeners) in listeners.into_iter().enumerate() {
            let parts = Parts {
                config: Arc::clone(&config),
                directory: directory.clone(),
                identity: identity.clone(),
                metrics: Arc::clone(&metrics),
                taps: taps.clone(),
                tracer: tracer.clone(),
                tasks: tasks.clone(),
                seed: seed.wrapping_add(index as u64),
            };
            let thread = thread::Builder::new().name(format!("worker-{index}"));
            let begins = begins.clone();
            workers.push(thread.spawn(move || work(parts, listeners, capture, begins))?);
        }
        drop(begins);
        let Bound { outbound, inbound, admin, tap } = bound;
        Ok(Self { outbound, inbound, admin, tap, config, tasks, workers })
    }

    /// Waits for the end: draining, then at most the grace period, then whatever is left is cut.
    pub async fn finish(self) -> Exit {
        let exit = self.tasks.shutdown().finish(self.config.grace_period).await;
        let workers = self.workers;
        let joined = self.tasks.spawn_blocking("join-workers", move || {
            workers.into_iter().filter_map(|worker| worker.join().err()).count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "worker threads panicked"),
            Err(error) => tracing::error!(%error, "cannot join worker threads"),
        }
        if let Err(unfinished) = self.tasks.join(JOIN_TIMEOUT).await {
            tracing::warn!(%unfinished, "tasks did not end in time");
        }
        exit
    }
}

/// Drops metric series of targets that nobody speaks with any more.
async fn forget_idle_series(
    registry: Registry,
    metrics: Arc<Metrics>,
    retain: Duration,
    shutdown: Shutdown,
) {
    let pause = (retain / 4).max(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                metrics.tcp.forget_unused();
                registry.forget_idle(Instant::now(), retain);
            }
            () = shutdown.ended() => return,
        }
    }
}

/// What was allocated, in a build that counts it.
fn write_allocations(out: &mut Exposition) {
    let Some(counted) = allocations::counted() else { return };
    for (name, help, value) in [
        (
            "process_allocations_total",
            "Allocations, and changes of their size",
            counted.allocations,
        ),
        ("process_allocated_bytes_total", "Bytes allocated, in all", counted.bytes),
    ] {
        out.single(name, Kind::Counter, help, value);
    }
}

/// When the admin and tap servers begin.
#[derive(Clone, Debug)]
struct Gate {
    readiness: Readiness,
    start: Start,
    config: Arc<Config>,
}

impl Gate {
    /// The listener once it takes connections: at once, but that of a successor when the proxy is ready, so that nobody
    /// meets a proxy that cannot serve yet. None if the process ends before.
    async fn begin(&self, listener: TcpListener, tasks: &Tasks) -> Option<tokio::net::TcpListener> {
        if self.start == Start::TakeOver {
            tokio::select! {
                () = self.readiness.wait() => {}
                () = tasks.shutdown().draining() => return None,
            }
        }
        match listen::begin_server(listener, &self.config) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tasks.shutdown().drain(Cause::Failure(format!("cannot listen: {error}")));
                None
            }
        }
    }
}

/// For tasks to notice that the process has ended.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The life of a data worker's thread.
fn work(parts: Parts, listeners: Listeners, capture: Capture, begins: mpsc::Sender<Infallible>) {
    let shutdown = parts.tasks.shutdown().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            shutdown.drain(Cause::Failure(format!("cannot make a worker's runtime: {error}")));
            return;
        }
    };
    // If this thread panics, the process must not go on with a part of its listeners dead.
    let _alarm = Alarm(shutdown.clone());
    let local = LocalSet::new();
    local.block_on(&runtime, accept(parts, listeners, capture, begins));
}

/// Waits for the first certificate, accepts until draining begins, and lets connections go on until the end.
async fn accept(
    parts: Parts,
    listeners: Listeners,
    capture: Capture,
    begins: mpsc::Sender<Infallible>,
) {
    let shutdown = parts.tasks.shutdown().clone();
    let identity = parts.identity.clone();
    tokio::select! {
        () = identity.ready() => {}
        () = shutdown.draining() => return,
    }
    if let Err(error) = listeners.begin(&parts.config) {
        shutdown.drain(Cause::Failure(format!("cannot listen: {error}")));
        return;
    }
    let worker = Worker::new(parts);
    Policies::watch_listed(&worker);
    let accepting = worker.tasks.kind("accept");
    let Listeners { outbound, inbound, outbound_spread, inbound_spread } = listeners;
    for (direction, listeners, (spread, handed_over), original) in [
        (Direction::Outbound, outbound, outbound_spread, capture.outbound),
        (Direction::Inbound, vec![inbound], inbound_spread, capture.inbound),
    ] {
        let worker = Rc::clone(&worker);
        let entrance = Rc::new(Entrance { worker, direction, original, spread });
        for listener in listeners {
            accepting.spawn_local(listen::accept(Rc::clone(&entrance), listener));
        }
        accepting.spawn_local(listen::adopt(entrance, handed_over));
    }
    drop(begins);
    shutdown.ended().await;
}

/// Ends the process if a worker's thread goes away before it should.
struct Alarm(Shutdown);

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.0.is_draining() {
            self.0.drain(Cause::Failure("a worker thread ended".to_owned()));
        }
    }
}

/// The addresses that were bound.
struct Bound {
    outbound: Vec<SocketAddr>,
    inbound: SocketAddr,
    admin: SocketAddr,
    tap: Option<SocketAddr>,
}

impl Bound {
    fn new(
        listeners: &[Listeners],
        admin: &TcpListener,
        tap: Option<&TcpListener>,
    ) -> io::Result<Self> {
        let first = listeners.first().expect("there is at least one worker");
        let outbound = first.outbound.iter().map(std::net::TcpListener::local_addr);
        Ok(Self {
            outbound: outbound.collect::<io::Result<_>>()?,
            inbound: first.inbound.local_addr()?,
            admin: admin.local_addr()?,
            tap: tap.map(TcpListener::local_addr).transpose()?,
        })
    }

    /// The lines that tools look for in Linkerd's logs.
    fn report(&self, config: &Config) {
        tracing::info!("Admin interface on {}", self.admin);
        tracing::info!("Inbound interface on {}", self.inbound);
        for address in &self.outbound {
            tracing::info!("Outbound interface on {address}");
        }
        match self.tap {
            Some(address) => tracing::info!("Tap interface on {address}"),
            None => tracing::info!("Tap DISABLED"),
        }
        tracing::info!("SNI is {}", config.identity.server_name);
        tracing::info!("Local identity is {}", config.identity.local);
        tracing::info!("Destinations resolved via {:?}", config.destination.address);
    }
}

/// The configuration with the ports that the kernel chose where the settings say zero, so that loops are recognised.
fn config_with_ports(mut config: Config, listeners: &[Listeners]) -> io::Result<Config> {
    let first = listeners.first().expect("there is at least one worker");
    config.inbound.listen = first.inbound.local_addr()?;
    let outbound = first.outbound.iter().map(std::net::TcpListener::local_addr);
    config.outbound.listen = outbound.collect::<io::Result<_>>()?;
    Ok(config)
}
