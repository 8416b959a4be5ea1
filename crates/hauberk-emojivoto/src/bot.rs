//! The robot that votes.

use crate::{Stop, catalogue};
use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use std::time::Duration;

/// Share of votes that go to the doughnut.
const DOUGHNUT_RATIO: f64 = 0.15;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of the role.
#[derive(Args)]
pub(crate) struct Config {
    /// `host:port` of the page.
    #[arg(long, env = "WEB_HOST")]
    web_host: String,
    /// Host header to send instead of the real one.
    #[arg(long, env = "HOST_OVERRIDE")]
    host_override: Option<String>,
    /// Votes per second.
    #[arg(long, env = "REQUEST_RATE", default_value_t = 1.0)]
    request_rate: f64,
    /// Seconds to live; for ever if not given.
    #[arg(long, env = "TTL")]
    ttl: Option<u64>,
}

#[derive(Deserialize)]
struct Listed {
    shortcode: String,
}

pub(crate) async fn run(config: Config, mut stop: Stop) -> anyhow::Result<()> {
    anyhow::ensure!(config.request_rate > 0.0, "REQUEST_RATE must be above zero");
    let bot = Bot {
        client: Client::builder(TokioExecutor::new()).build_http(),
        host: config.host_override.map(HeaderValue::try_from).transpose()?,
        base: format!("http://{}", config.web_host),
    };
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / config.request_rate));
    let end = config.ttl.map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.asked() => return Ok(()),
        }
        if end.is_some_and(|end| tokio::time::Instant::now() >= end) {
            return Ok(());
        }
        if let Err(error) = bot.vote().await {
            eprintln!("{error:#}");
        }
    }
}

struct Bot {
    client: Client<HttpConnector, Empty<Bytes>>,
    host: Option<HeaderValue>,
    base: String,
}

impl Bot {
    /// Lists the emoji and votes for one; a refused vote is not an error of the robot's.
    async fn vote(&self) -> anyhow::Result<()> {
        let list = self.get("/api/list").await.context("cannot list the emoji")?;
        let list: Vec<Listed> = serde_json::from_slice(&list).context("the list is not JSON")?;
        anyhow::ensure!(!list.is_empty(), "the list is empty");
        let choice = if rand::random::<f64>() < DOUGHNUT_RATIO {
            catalogue::DOUGHNUT
        } else {
            &list[rand::random_range(0..list.len())].shortcode
        };
        println!("✔ Voting for {choice}");
        self.get(&format!("/api/vote?choice={choice}")).await.context("cannot vote")?;
        Ok(())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let mut request = Request::get(format!("{}{path}", self.base)).body(Empty::new())?;
        if let Some(host) = &self.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        let answer = async {
            let response = self.client.request(request).await?;
            Ok::<_, anyhow::Error>(response.into_body().collect().await?.to_bytes())
        };
        tokio::time::timeout(TIMEOUT, answer).await.context("no answer in time")?
    }
}
