//! The lab's runtime, from its first instruction to its exit code.
//!
//! Runs as the first process of the lab's namespaces ([`crate::launch`]). The order is: things of
//! the machine are opened while they can be seen; the root changes; the network is set up; then the
//! tasks start, each with what it needs: the writer, the name server, the rules, the files, the
//! socket. It ends when it is told to, or by signal, after the pods have ended.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hauberk_process::{Shutdown, Tasks, logging, shutdown};
use tokio::sync::{mpsc, watch};

use crate::address::GATEWAY;
use crate::container::Machine;
use crate::control::Authority;
use crate::dns::{self, Zone};
use crate::image::Images;
use crate::lab::{Event, Lab, Outputs, Setup};
use crate::launch::{Mesh, Options};
use crate::plan::{IdRanges, NODE};
use crate::pod::Surroundings;
use crate::root::{self, Kept, LAB_DIRECTORY, MountPoints};
use crate::rules::{self, Loaded, Wanted};
use crate::server::Server;
use crate::{dns_server, network, watch as files};

/// Requests and changes that wait for the writer; more make their senders wait.
const EVENTS_MAX: usize = 256;
/// News of pods that wait for the writer.
const REPORTS_MAX: usize = 1024;
/// Time for tasks to end after the last pod.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Things of the machine that the lab uses.
struct Opened {
    listener: UnixListener,
    sources: Vec<files::Source>,
    host_proc: Kept,
    state: Kept,
}

impl Opened {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let socket = options.state.join("api.sock");
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let sources = options.files.iter().map(|path| files::Source::open(path));
        Ok(Self {
            listener,
            sources: sources.collect::<anyhow::Result<_>>()?,
            host_proc: Kept::open(Path::new("/proc")).context("there is no /proc")?,
            state: Kept::open(&options.state)?,
        })
    }
}

/// Runs the lab.
///
/// # Errors
/// When it cannot be set up.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let log = logging::Config {
        filter: options.log_filter.parse().unwrap_or_default(),
        format: logging::Format::Plain,
        output: logging::Output::Stderr,
    };
    logging::init(&log).context("logging was set up before")?;
    let opened = Opened::new(options)?;
    let ids = IdRanges::parse(&fs::read_to_string("/proc/self/uid_map")?);
    root::enter().context("cannot make the lab's root")?;
    nix::unistd::sethostname(format!("hauberk-{}", options.lab))?;
    network::become_router().context("cannot make the lab's network")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()?;
    let state = opened.state.path();
    let result = runtime.block_on(serve(options, opened, ids));
    runtime.shutdown_timeout(JOIN_TIMEOUT);
    let _ = fs::remove_file(state.join("api.sock")); // The directory is the front's to remove.
    result
}

async fn serve(options: &Options, opened: Opened, ids: IdRanges) -> anyhow::Result<ExitCode> {
    let tasks = Tasks::new(Shutdown::new());
    shutdown::on_signals(&tasks)?;
    let objects = Path::new(LAB_DIRECTORY).join("objects");
    fs::create_dir_all(&objects)?;
    let control = Path::new(LAB_DIRECTORY).join("control");
    fs::create_dir_all(&control)?;
    let authority = Authority::create(&control, options.authority.as_deref(), SystemTime::now())?;
    let (version, mesh) = (env!("CARGO_PKG_VERSION"), options.mesh == Mesh::On);
    let inject = mesh.then(|| authority.inject_config(version));
    let mut manifests = vec![node()];
    let mut cluster = None;
    if mesh {
        cluster = authority.cluster(&objects, &options.controller_arguments);
        manifests.extend(authority.manifests(&objects, version, &options.controller_arguments));
    }

    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
    let (rules_loaded, loaded_rules) = watch::channel(Loaded::default());
    let outputs = Outputs {
        loaded_rules,
        zone: watch::Sender::new(Arc::new(Zone::default())),
        rules: watch::Sender::new(Wanted::default()),
    };
    for address in dns::server_addresses() {
        dns_server::serve(address, outputs.zone.subscribe(), &tasks).await?;
    }
    let rules = rules::follow(outputs.rules.subscribe(), rules_loaded, tasks.shutdown().clone());
    tasks.spawn("service rules", rules);

    let machine = Arc::new(Machine {
        mount_points: Mutex::new(MountPoints::new()?),
        host_proc: opened.host_proc,
        signer: authority.signer,
    });
    let setup =
        Setup { images: images(options), ids, path: path(options), inject, cluster, objects };
    let surroundings =
        Surroundings { machine: Arc::clone(&machine), tasks: tasks.clone(), reports: reports_in };
    let lab = Lab::new(setup, surroundings, outputs);
    let life = tasks.spawn("lab", lab.run(events, reports));

    let (answer, _) = tokio::sync::oneshot::channel();
    events_in.send(Event::Asked(crate::api::Request::Apply { manifests }, answer)).await?;
    files::follow(opened.sources, events_in.clone(), &tasks)?;
    let listener = tokio::net::UnixListener::from_std(opened.listener)?;
    let server = Server { events: events_in.clone(), machine, tasks: tasks.clone() };
    tasks.spawn("socket", server.run(listener));

    let stop = async {
        tasks.shutdown().draining().await;
        let _ = events_in.send(Event::Stop).await; // If the writer has gone, it is over.
        tasks.shutdown().forced().await;
    };
    let clean = tokio::select! {
        ended = life => ended.is_ok(),
        () = stop => false,
    };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The machine, as the lab's only node.
fn node() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}},
        "status": {"addresses": [{"type": "InternalIP", "address": GATEWAY.v4}]},
    })
}

fn images(options: &Options) -> Images {
    let mut images = Images::new(options.programs.clone());
    for (image, command) in &options.images {
        images.map(image, command);
    }
    if let Some(command) = options.proxy.clone().filter(|command| !command.is_empty()) {
        images.replace_program("hauberk-proxy", command);
    }
    images
}

fn path(options: &Options) -> String {
    let own: &PathBuf = &options.programs;
    format!("{}:{}", own.display(), options.path)
}
