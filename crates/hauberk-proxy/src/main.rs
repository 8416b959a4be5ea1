//! The sidecar proxy's program: settings, the admin runtime, signals, exit code; nothing else.
//!
//! `--take-over` starts it beside a proxy that serves: it shares that one's addresses, listens when it can serve, and
//! says so by `NOTIFY_SOCKET`. Whoever started it then sends SIGUSR2 to the other, which drains.
//!
//! Exit codes: 64 (`EX_USAGE`) for wrong settings, 1 if it cannot start or something essential failed, 0 after draining.

use hauberk_linux::limits;
use hauberk_process::{Shutdown, Tasks, build_info, logging, notify::NOTIFY_SOCKET, shutdown};
use hauberk_proxy::{
    listen::Start,
    run::{Capture, Proxy, Surroundings},
    settings::{self, Config},
};
use std::{collections::BTreeMap, process::ExitCode};

#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Only in the build that the benchmark counts with; the numbers are among the metrics.
#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: hauberk_linux::allocations::Counting<mimalloc::MiMalloc> =
    hauberk_linux::allocations::Counting::new(mimalloc::MiMalloc);

/// Wrong use, by the convention of BSD's sysexits.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut start = Start::Fresh;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "sidecar" => {}
            "--take-over" => start = Start::TakeOver,
            "--version" | "-V" => {
                println!("{}", build_info::line("hauberk-proxy"));
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!(
                    "hauberk-proxy: unknown argument '{other}'\nhint: it takes none but --take-over; settings come from LINKERD2_PROXY_* variables"
                );
                return ExitCode::from(EX_USAGE);
            }
        }
    }
    // Both may be refused; the proxy then uses more memory, or holds fewer connections.
    let _ = limits::use_small_pages();
    let _ = limits::raise_open_files();
    let environment = match environment() {
        Ok(environment) => environment,
        Err(name) => {
            eprintln!("hauberk-proxy: the variable {name} is not valid UTF-8");
            return ExitCode::from(EX_USAGE);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = match settings::read(&environment, cores) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("hauberk-proxy: the settings are wrong:\n{problems}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hauberk-proxy: cannot make a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(serve(config, environment, start))
}

async fn serve(config: Config, environment: BTreeMap<String, String>, start: Start) -> ExitCode {
    let log = match start_logging(&config) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("hauberk-proxy: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let tasks = Tasks::new(Shutdown::new());
    let listening = shutdown::on_signals(&tasks).and_then(|()| shutdown::on_replacement(&tasks));
    if let Err(error) = listening {
        tracing::error!(%error, "cannot listen for signals");
        return ExitCode::FAILURE;
    }
    let surroundings = Surroundings {
        tasks,
        capture: Capture::KERNEL,
        notify: environment.get(NOTIFY_SOCKET).cloned(),
        environment,
        start,
        log: Some(log),
        seed: rand::random(),
    };
    match Proxy::start(config, surroundings).await {
        Ok(proxy) => ExitCode::from(proxy.finish().await.code()),
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(config: &Config) -> Result<logging::LogHandle, Box<dyn std::error::Error>> {
    let format = if config.log.json { logging::Format::Json } else { logging::Format::Plain };
    let filter = config.log.filter.parse()?;
    Ok(logging::init(&logging::Config { filter, format, ..logging::Config::default() })?)
}

/// The environment as text; the name of the first variable of ours that is not.
fn environment() -> Result<BTreeMap<String, String>, String> {
    let mut environment = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                environment.insert(name, value);
            }
            Err(_) if name.starts_with(hauberk_model::settings::PREFIX) => return Err(name),
            Err(_) => {}
        }
    }
    Ok(environment)
}
