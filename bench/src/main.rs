//! The parts of a benchmark that no existing tool fits: see `bench-tools --help`.
//!
//! `cargo xtask bench` runs this program inside network namespaces. Each load prints one line
//! `RESULT key=value …` at its end. Saturating loads are not here: wrk and h2load make those.

mod bulk;
mod credentials;
mod hold;
mod latency;
mod open_loop;
mod probe;
mod relay;
mod request;
mod scale;
mod stream;

use clap::{Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Loads and the plain relay for `cargo xtask bench`.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Write certificates, keys and tokens of a throw-away mesh.
    Credentials {
        /// Where to; must exist.
        directory: PathBuf,
    },
    /// Forward TCP connections: the least a relay in user space costs.
    Relay {
        /// Where to listen and where to connect to: 127.0.0.1:80=10.0.0.1:80. May be repeated.
        #[arg(long = "route", required = true)]
        routes: Vec<relay::Route>,
        /// Move bytes through pipes in the kernel instead of copying them.
        #[arg(long)]
        splice: bool,
    },
    /// Wait until a server answers a request with 200.
    Probe {
        /// The server.
        address: SocketAddr,
        /// When to give up.
        #[arg(long, default_value_t = 15)]
        deadline_seconds: u64,
    },
    /// Send requests at fixed times, whatever the server does, and measure from those times.
    OpenLoop {
        /// The server.
        address: SocketAddr,
        /// Requests per second over all connections.
        #[arg(long, default_value_t = 1_000)]
        rate: u32,
        /// Connections that take turns.
        #[arg(long, default_value_t = 16)]
        connections: u32,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Read one large body after the other over one connection.
    Bulk {
        /// The server.
        address: SocketAddr,
        /// Path of the body.
        #[arg(long, default_value = "/bulk")]
        path: String,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Open connections, send one request on each, and keep them until standard input ends.
    Hold {
        /// The server.
        address: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
    },
    /// Answer gRPC messages on streams with themselves.
    Echo {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Send gRPC messages back and forth on streams that stay open.
    Stream {
        /// The server.
        address: SocketAddr,
        /// Connections.
        #[arg(long, default_value_t = 4)]
        connections: u32,
        /// Streams on each.
        #[arg(long, default_value_t = 32)]
        streams: u32,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Measure the control plane over a made-up cluster.
    Scale {
        /// The program `hauberk-controller`.
        controller: PathBuf,
        /// Pods of the cluster.
        #[arg(long, default_value_t = 10_000)]
        pods: usize,
        /// Subscribed streams, each on a connection of its own.
        #[arg(long, default_value_t = 1_000)]
        subscribers: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().tool {
        Tool::Credentials { directory } => credentials::write(&directory),
        Tool::Relay { routes, splice } => {
            relay::run(&routes, if splice { relay::Means::Splice } else { relay::Means::Copy })
        }
        Tool::Probe { address, deadline_seconds } => {
            probe::run(address, Duration::from_secs(deadline_seconds))
        }
        Tool::OpenLoop { address, rate, connections, seconds } => {
            let plan = open_loop::Plan { rate, connections, lasts: Duration::from_secs(seconds) };
            open_loop::run(address, plan)
        }
        Tool::Bulk { address, path, seconds } => {
            bulk::run(address, &path, Duration::from_secs(seconds))
        }
        Tool::Hold { address, connections } => hold::run(address, connections),
        Tool::Echo { address } => stream::serve(address),
        Tool::Stream { address, connections, streams, seconds } => {
            let lasts = Duration::from_secs(seconds);
            stream::run(address, stream::Plan { connections, streams, lasts })
        }
        Tool::Scale { controller, pods, subscribers } => {
            scale::run(&controller, scale::Plan { pods, subscribers })
        }
    }
}
