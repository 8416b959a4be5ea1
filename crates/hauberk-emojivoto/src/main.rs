//! The demo application: a page where people vote for an emoji, three services behind it and a
//! robot that votes.
//!
//! It behaves like the emojivoto demo that service meshes are commonly shown with: `web` serves
//! the page and speaks gRPC with `emoji` (which emoji there are) and `voting` (who has how many
//! votes); votes for the doughnut fail; `vote-bot` votes for it in about 15 % of its rounds. It
//! knows nothing of any mesh: that is the point.
//!
//! One binary, four roles, each configured by the environment variables of the original.

mod bot;
mod catalogue;
mod emoji;
mod http_server;
mod metrics;
mod rpc;
mod voting;
mod web;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::{net::Ipv6Addr, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Vote for an emoji: the demo application.
#[derive(Parser)]
#[command(name = "emojivoto", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve the page and its API over HTTP.
    Web(web::Config),
    /// Serve the catalogue of emoji over gRPC.
    #[command(name = "emoji-svc", alias = "emoji")]
    Emoji(emoji::Config),
    /// Count votes over gRPC.
    #[command(name = "voting-svc", alias = "voting")]
    Voting(voting::Config),
    /// Vote, again and again.
    VoteBot(bot::Config),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let stop = stop_signal()?;
    match Arguments::parse().role {
        Role::Web(config) => web::run(config, stop).await,
        Role::Emoji(config) => emoji::run(config, stop).await,
        Role::Voting(config) => voting::run(config, stop).await,
        Role::VoteBot(config) => bot::run(config, stop).await,
    }
}

/// A receiver that becomes `true` at the first SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<Stop> {
    let (tell, stop) = tokio::sync::watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell.send_replace(true);
    });
    Ok(Stop(stop))
}

/// Tells when the program is asked to end.
#[derive(Clone)]
struct Stop(tokio::sync::watch::Receiver<bool>);

impl Stop {
    /// Completes when the program is asked to end. Cancel-safe.
    async fn asked(&mut self) {
        // An error means that nobody can ask any more, which never happens before the end.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// Starts a task that may be dropped when the program ends.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "the demo application links nothing of Hauberk")]
    drop(tokio::spawn(task));
}

/// Listens on all addresses of both families.
async fn listen(port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    let bound = match tokio::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        // Without IPv6 in the kernel, IPv4 alone does.
        Err(_) => tokio::net::TcpListener::bind(("0.0.0.0", port)).await,
    };
    bound.with_context(|| format!("cannot listen on port {port}"))
}

/// How long open connections may finish after the program was asked to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
