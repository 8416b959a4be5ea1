//! What the control plane costs as the cluster grows.
//!
//! For each size a cluster is written to a directory and followed by a real `hauberk-controller`:
//! how long until it is ready, what it holds in memory, and, with a thousand subscribed stand-ins
//! for proxies on connections of their own, what one change costs and when it arrives.
//! Two kinds of change are made, each by renaming a new version of one file into place:
//!
//! - a service that one is subscribed to changes, while the others follow other services: this must
//!   cost the same whatever exists;
//! - a service that all thousand follow changes: the last must be told in time.
//!
//! Beside that the index is asked within this process, without files and streams: what taking in
//! one change and deriving the answer again costs.
//!
//! Everything is on loopback and in a temporary directory, and gone at the end.

mod cluster;
mod controller;
mod subscribers;

use crate::latency::Percentiles;
use anyhow::Context;
use cluster::Cluster;
use controller::Controller;
use hauberk_index::{ClusterConfig, Index, Question};
use hauberk_resources::{Resource, ResourceEvent, yaml};
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use subscribers::Subscribers;

/// Changes of each kind that are measured. Even, so that everything is as before afterwards.
const CHANGES: usize = 40;

/// Open files that a thousand connections and whatever else need.
const FILES_MIN: u64 = 4_096;

/// Rest before memory is read.
const REST: Duration = Duration::from_secs(1);

/// Between two changes: a change must not end up in the batch of the one before.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Pods of the cluster; a fifth as many services, a twentieth as many routes.
    pub(crate) pods: usize,
    /// Streams that are open.
    pub(crate) subscribers: usize,
}

/// Measures one size and prints the result.
pub(crate) fn run(program: &Path, plan: Plan) -> anyhow::Result<()> {
    let cluster = Cluster { pods: plan.pods };
    anyhow::ensure!(cluster.services() > 1 && plan.subscribers > 0, "too small to measure");
    allow_files()?;
    let index = measure_index(cluster)?;
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let source = directory.path().join("cluster");
    fs::create_dir(&source)?;
    cluster.write(&source).with_context(|| format!("cannot write {}", source.display()))?;

    let controller = Controller::start(program, &source)?;
    thread::sleep(REST);
    let [resident, peak] = controller.resident_kib()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let writer = Writer { cluster, source: &source, next: &directory.path().join("next") };
    let (apart, together, subscribed) = runtime.block_on(async {
        let apart = {
            let services = (0..plan.subscribers).map(|number| cluster.apart(number));
            let mut followers = Subscribers::follow(controller.destination, services).await?;
            writer.change(&controller, &mut followers, 1).await?
        };
        let services = (0..plan.subscribers).map(|_| 0);
        let mut followers = Subscribers::follow(controller.destination, services).await?;
        let [subscribed, _] = controller.resident_kib()?;
        let together = writer.change(&controller, &mut followers, plan.subscribers).await?;
        anyhow::Ok((apart, together, subscribed))
    })?;
    println!(
        "RESULT pods={} services={} routes={} subscribers={} load_s={:.3} resident_kib={resident} \
         peak_kib={peak} subscribed_kib={subscribed} index_us={:.1} answer_us={:.1} \
         server_us={:.1} \
         change_cpu_us={:.1} change_recomputed={} change_p50_us={} change_p99_us={} \
         all_cpu_us={:.1} all_recomputed={} all_p50_us={} all_p99_us={} all_max_us={}",
        plan.pods,
        cluster.services(),
        cluster.routes(),
        plan.subscribers,
        controller.start.as_secs_f64(),
        micros(index.apply),
        micros(index.answer),
        micros(index.server),
        micros(apart.cpu),
        apart.recomputed,
        apart.delays.at(0.5).as_micros(),
        apart.delays.at(0.99).as_micros(),
        micros(together.cpu),
        together.recomputed,
        together.delays.at(0.5).as_micros(),
        together.delays.at(0.99).as_micros(),
        together.delays.at(1.0).as_micros(),
    );
    Ok(())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Both this process and the control plane, which inherits the limit, hold many connections.
fn allow_files() -> anyhow::Result<()> {
    let limit = getrlimit(Limit::Nofile);
    if limit.current.is_none_or(|files| files >= FILES_MIN) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(FILES_MIN), maximum: limit.maximum };
    setrlimit(Limit::Nofile, raised)
        .with_context(|| format!("cannot open {FILES_MIN} files; hint: raise the hard limit"))
}

/// Changes the first service.
struct Writer<'a> {
    cluster: Cluster,
    source: &'a Path,
    /// Where a new version is written before it is moved into place.
    next: &'a Path,
}

/// What changes cost, and when they arrived.
struct Changed {
    /// CPU of the control plane for one change.
    cpu: Duration,
    /// Answers derived again for one change.
    recomputed: f64,
    /// From moving the file into place to each arrival.
    delays: Percentiles,
}

impl Writer<'_> {
    /// Makes the changes, each after the one before has arrived everywhere.
    async fn change(
        &self,
        controller: &Controller,
        subscribers: &mut Subscribers,
        followers: usize,
    ) -> anyhow::Result<Changed> {
        // Twice for nothing: code and memory that the first ones touch are not what changes cost.
        for is_whole in [false, true] {
            self.change_once(subscribers, followers, is_whole).await?;
        }
        let (cpu, recomputed) = (controller.cpu()?, controller.recomputed()?);
        let mut delays = Vec::new();
        for number in 0..CHANGES {
            delays.extend(self.change_once(subscribers, followers, number % 2 == 1).await?);
        }
        let cpu = controller.cpu()?.saturating_sub(cpu) / CHANGES as u32;
        let recomputed = (controller.recomputed()? - recomputed) as f64 / CHANGES as f64;
        Ok(Changed { cpu, recomputed, delays: Percentiles::new(delays) })
    }

    async fn change_once(
        &self,
        subscribers: &mut Subscribers,
        followers: usize,
        is_whole: bool,
    ) -> anyhow::Result<Vec<Duration>> {
        tokio::time::sleep(PAUSE).await;
        fs::write(self.next, self.cluster.service(0, is_whole))?;
        let began = Instant::now();
        fs::rename(self.next, self.source.join("service-0.yaml"))?;
        subscribers.updates(0, followers, began).await
    }
}

/// What one change costs the index alone.
struct IndexCost {
    /// Taking the changed object in.
    apply: Duration,
    /// Deriving the one answer again that depends on it.
    answer: Duration,
    /// Taking in a changed server that selects the pods of one service.
    server: Duration,
}

/// Medians over many changes, of one endpoint slice and of one server.
fn measure_index(cluster: Cluster) -> anyhow::Result<IndexCost> {
    let mut index = Index::new(ClusterConfig::default());
    for (_, text) in cluster.files() {
        for resource in parse(&text)? {
            index.apply(ResourceEvent::Applied(resource));
        }
    }
    let config = index.config().clone();
    let key = Question::new(&config).endpoints(&cluster::authority(0), "");
    let key = key.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let slices = [parse(&cluster.service(0, false))?, parse(&cluster.service(0, true))?];
    let servers = [parse(&cluster::server(0, "HTTP/2"))?, parse(&cluster::server(0, "HTTP/1"))?];
    let (mut applied, mut answered, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..1_000 {
        applied.push(apply(&mut index, &slices[number % 2]));
        let began = Instant::now();
        let answer = index.answer(&key);
        answered.push(began.elapsed());
        drop(answer);
        served.push(apply(&mut index, &servers[number % 2]));
    }
    let median = |durations| Percentiles::new(durations).at(0.5);
    Ok(IndexCost { apply: median(applied), answer: median(answered), server: median(served) })
}

fn apply(index: &mut Index, resources: &[Arc<Resource>]) -> Duration {
    let resources = resources.to_vec();
    let began = Instant::now();
    for resource in resources {
        index.apply(ResourceEvent::Applied(resource));
    }
    began.elapsed()
}

fn parse(text: &str) -> anyhow::Result<Vec<Arc<Resource>>> {
    let (values, problems) = yaml::objects(text);
    anyhow::ensure!(problems.is_empty(), "{problems:?}");
    values.into_iter().map(|value| Ok(Arc::new(Resource::parse(value)?))).collect()
}
