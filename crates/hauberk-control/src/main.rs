//! `hauberk-controller`: arguments, logging, runtime, signals; everything else is in the library.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Parser as _;
use hauberk_control::config::{Arguments, ProcessConfig};
use hauberk_control::run::{bind, problems_route};
use hauberk_control::{Config, start};
use hauberk_process::admin::Admin;
use hauberk_process::metrics::{Metrics, process};
use hauberk_process::ready::Readiness;
use hauberk_process::{Shutdown, Tasks, build_info, logging, shutdown};
use tracing::{info, warn};

/// Time for tasks to end after connections have.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let (config, process) = Arguments::parse().into_config();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(run(config, process));
        // Blocking file reads, if any, are not waited for.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hauberk-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, process: ProcessConfig) -> anyhow::Result<u8> {
    let started = SystemTime::now();
    let log = logging::Config {
        filter: process.log_level,
        format: process.log_format,
        ..logging::Config::default()
    };
    let log = logging::init(&log)?;
    info!("{}", build_info::line("hauberk-controller"));
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    shutdown::on_signals(&tasks).context("cannot handle signals")?;

    let metrics = Metrics::new();
    process::register(&metrics, started);
    process::register_tasks(&metrics, &tasks);
    build_info::register(&metrics, "control_build");
    let readiness = Readiness::new();
    let admin_addr = config.admin_addr;
    let admin_socket = bind(admin_addr)
        .await
        .with_context(|| format!("cannot listen on {admin_addr} for admin"))?;
    let running = start(config, SystemTime::now, &tasks, &metrics, &readiness).await?;
    let problems = problems_route(running.problems, running.annotations);
    let status = running.status;
    Admin::new(readiness, metrics)
        .with_log_level(log)
        .with_shutdown(shutdown.clone())
        .with_route("/problems", move |_| std::future::ready(problems()))
        .with_route("/status", move |request| status.clone().answer(request))
        .serve(admin_socket, &tasks);

    let exit = shutdown.finish(process.shutdown_grace_period).await;
    if let Err(left) = tasks.join(JOIN_TIMEOUT).await {
        warn!(%left, "tasks did not end in time");
    }
    Ok(exit.code())
}
