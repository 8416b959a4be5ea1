//! The service that counts votes. They are kept in memory: a restart forgets them.

use crate::{
    Stop, catalogue, emoji,
    metrics::Metrics,
    rpc::{self, Empty, Procedures},
};
use clap::Args;
use http::{Request, Response};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tonic::{Status, body::Body};

/// Settings of the role.
#[derive(Args)]
pub(crate) struct Config {
    /// Port of the gRPC service.
    #[arg(long, env = "GRPC_PORT", default_value_t = 8080)]
    grpc_port: u16,
    /// Port of the metrics.
    #[arg(long, env = "PROM_PORT", default_value_t = 8801)]
    prom_port: u16,
    /// Share of doughnut votes that fail, 0 to 1.
    #[arg(long, env = "FAILURE_RATE", default_value_t = 1.0, value_parser = ratio)]
    failure_rate: f64,
    /// Delay of every vote, in milliseconds.
    #[arg(long, env = "ARTIFICIAL_DELAY_MS", default_value_t = 0)]
    artificial_delay_ms: u64,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(format!("{ratio} is not in 0 to 1")) }
}

pub(crate) async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let voting = VotingService {
        votes: Mutex::default(),
        metrics: Arc::clone(&metrics),
        failure_rate: config.failure_rate,
        delay: Duration::from_millis(config.artificial_delay_ms),
    };
    let service = rpc::Service::new(voting, Arc::clone(&metrics));
    emoji::serve(config.grpc_port, config.prom_port, service, metrics, stop).await
}

struct VotingService {
    votes: Mutex<BTreeMap<&'static str, i32>>,
    metrics: Arc<Metrics>,
    failure_rate: f64,
    delay: Duration,
}

impl Procedures for VotingService {
    const SERVICE: &'static str = "emojivoto.v1.VotingService";

    async fn call(service: Arc<Self>, procedure: String, request: Request<Body>) -> Response<Body> {
        if procedure == "Results" {
            return rpc::unary(request, move |_: Empty| async move { Ok(service.results()) }).await;
        }
        let mut all = catalogue::all();
        match all.find(|emoji| catalogue::procedure(emoji.shortcode) == procedure) {
            Some(emoji) => {
                let vote = move |_: Empty| service.vote(emoji.shortcode);
                rpc::unary(request, vote).await
            }
            None => rpc::unimplemented(&procedure),
        }
    }
}

impl VotingService {
    async fn vote(self: Arc<Self>, shortcode: &'static str) -> Result<Empty, Status> {
        tokio::time::sleep(self.delay).await;
        // This is the failure that the demo is there to find.
        if shortcode == catalogue::DOUGHNUT && rand::random::<f64>() < self.failure_rate {
            return Err(Status::unknown("ERROR"));
        }
        *self.lock().entry(shortcode).or_default() += 1;
        self.metrics.voted(shortcode);
        Ok(Empty {})
    }

    fn results(&self) -> rpc::Results {
        let result = |(shortcode, votes): (&&str, &i32)| rpc::VotingResult {
            shortcode: (*shortcode).to_owned(),
            votes: *votes,
        };
        let mut results: Vec<_> = self.lock().iter().map(result).collect();
        results.sort_by_key(|result| std::cmp::Reverse(result.votes));
        rpc::Results { results }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, i32>> {
        self.votes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
