//! Stand-ins for proxies: each has a connection of its own and one stream of endpoints.

use super::cluster;
use anyhow::{Context, ensure};
use hauberk_wire::api::destination::{
    GetDestination, Update, destination_client::DestinationClient,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Streaming, transport::Endpoint};

/// Longest wait for what must come.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Updates that may wait to be counted. One change is one update for each, and the next change
/// waits for all of them.
const QUEUE_LENGTH: usize = 4_096;

/// What arrived: the number of the service, and when.
type Arrival = (usize, Instant);

pub(crate) struct Subscribers {
    arrivals: mpsc::Receiver<Arrival>,
    /// Followers end with this.
    _followers: JoinSet<()>,
}

impl Subscribers {
    /// One for each of these services, all of which have had their first answer.
    pub(crate) async fn follow(
        destination: SocketAddr,
        services: impl Iterator<Item = usize>,
    ) -> anyhow::Result<Self> {
        let (sender, mut arrivals) = mpsc::channel(QUEUE_LENGTH);
        let mut followers = JoinSet::new();
        let mut count = 0;
        for service in services {
            let stream = open(destination, service).await?;
            followers.spawn(follow(service, stream, sender.clone()));
            count += 1;
        }
        drop(sender);
        for _ in 0..count {
            next(&mut arrivals).await.context("a first answer is missing")?;
        }
        Ok(Self { arrivals, _followers: followers })
    }

    /// Waits for this many updates about a service; how long each took since `began`.
    pub(crate) async fn updates(
        &mut self,
        service: usize,
        count: usize,
        began: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut delays = Vec::with_capacity(count);
        while delays.len() < count {
            let (about, at) = next(&mut self.arrivals)
                .await
                .with_context(|| format!("{} of {count} updates arrived", delays.len()))?;
            ensure!(about == service, "service {about} was told a change of service {service}");
            delays.push(at.duration_since(began));
        }
        Ok(delays)
    }
}

async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> anyhow::Result<Arrival> {
    let arrival = tokio::time::timeout(SILENCE_MAX, arrivals.recv()).await;
    arrival.context("nothing arrives any more")?.context("all streams ended")
}

async fn open(destination: SocketAddr, service: usize) -> anyhow::Result<Streaming<Update>> {
    let channel = Endpoint::from_shared(format!("http://{destination}"))?
        .connect()
        .await
        .with_context(|| format!("cannot connect to {destination}"))?;
    let question = GetDestination {
        scheme: "k8s".to_owned(),
        path: cluster::authority(service),
        ..GetDestination::default()
    };
    let answer = DestinationClient::new(channel).get(question).await;
    Ok(answer.with_context(|| format!("no answer about service {service}"))?.into_inner())
}

/// Ends when the stream does or nobody counts any more.
async fn follow(service: usize, mut stream: Streaming<Update>, sender: mpsc::Sender<Arrival>) {
    while let Ok(Some(_)) = stream.message().await {
        if sender.send((service, Instant::now())).await.is_err() {
            return;
        }
    }
}
