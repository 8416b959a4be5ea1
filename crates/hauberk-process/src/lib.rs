//! What every long-running Hauberk binary shares: how it logs, how it ends, how it is watched.
//!
//! A binary's `run` builds these in order and hands them down:
//!
//! ```no_run
//! # use hauberk_process::{Shutdown, Tasks, admin::Admin, logging, metrics::Metrics, ready::Readiness, shutdown};
//! # use std::time::{Duration, SystemTime};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let log = logging::init(&logging::Config::default())?;
//! let shutdown = Shutdown::new();
//! let tasks = Tasks::new(shutdown.clone());
//! shutdown::on_signals(&tasks)?;
//!
//! let metrics = Metrics::new();
//! let readiness = Readiness::new();
//! let caches = readiness.condition("caches");
//! let admin = Admin::new(readiness, metrics).with_log_level(log);
//! admin.serve(tokio::net::TcpListener::bind("127.0.0.1:9990").await?, &tasks);
//! caches.set_ready();
//!
//! let exit = shutdown.finish(Duration::from_secs(30)).await;
//! if let Err(left) = tasks.join(Duration::from_secs(1)).await {
//!     tracing::warn!(%left, "tasks did not end in time");
//! }
//! std::process::exit(i32::from(exit.code()));
//! # }
//! ```
//!
//! Promises: a task started through [`Tasks`] has a name and is waited for; the process ends at the
//! latest when the grace period is over; the admin server answers until the very end, or until a
//! successor answers instead.
//! Not here: anything that knows what a mesh is, TLS, settings and their parsing.

pub mod admin;
pub mod build_info;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod ready;
pub mod shutdown;
pub mod tasks;

pub use shutdown::{DrainGuard, Shutdown};
pub use tasks::{Spawner, Tasks};
