//! `hauberk-init`: puts the capture rules into a pod's network namespace and ends.
//!
//! Runs as the first init container of a pod, also under the names `proxy-init` and
//! `linkerd2-proxy-init`, with the flags those had (see [`args`]). Exit code 0 means that the rules are
//! in place as asked, 1 anything else; then a pod does not start, rather than start uncaptured.

mod args;
mod log;

use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use hauberk_capture::apply::linkerd_2_7::{self, Step};
use hauberk_capture::rules::{Family, Generation};
use hauberk_capture::{
    Backend, CaptureConfig, Choice, HostNamespace, PodNetwork, Tools, Variant, plan, render, verify,
};
use hauberk_linux::namespace::{Kind, Namespace, inside};
use jiff::Timestamp;

use args::{Command, CommandLine, Init, Place, Plan, Problems, Remove, Show};
use log::{Format, Level, Log};

/// Life of CLOSE_WAIT entries in the connection table of the network namespace.
const CLOSE_WAIT_SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Nobody reads the message if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let mut log = Log { format: Format::Plain, level: Level::Info, clock: Timestamp::now };
    match run(&line, &mut log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.write(Level::Error, &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked, inside the network namespace asked for.
fn run(line: &CommandLine, log: &mut Log) -> anyhow::Result<()> {
    let Some(path) = line.namespace() else { return dispatch(line, log) };
    let failed = || format!("cannot enter the network namespace {}", path.display());
    let namespace = Namespace::open(path, Kind::Network).with_context(failed)?;
    inside(&[&namespace], || dispatch(line, log)).with_context(failed)?
}

fn dispatch(line: &CommandLine, log: &mut Log) -> anyhow::Result<()> {
    match &line.command {
        None => init(&line.init, log),
        Some(Command::Init(init_args)) => init(init_args, log),
        Some(Command::Verify(init_args)) => check(init_args, log),
        Some(Command::Plan(plan_args)) => show(plan_args),
        Some(Command::Remove(Remove { place, log: logging })) => {
            let mut problems = Problems::default();
            (log.format, log.level) = logging.settings(&mut problems);
            problems.into_result()?;
            remove(place, log)
        }
    }
}

/// What the flags of an [`Init`] mean.
struct Request {
    config: CaptureConfig,
    choice: Choice,
    close_wait_seconds: Option<u32>,
}

impl Request {
    fn read(args: &Init, log: &mut Log) -> anyhow::Result<Self> {
        let mut problems = Problems::default();
        (log.format, log.level) = args.log.settings(&mut problems);
        let request = Self {
            config: args.rules.config((log.clock)().as_second(), &mut problems),
            choice: args.place.choice(&mut problems),
            close_wait_seconds: args.close_wait_seconds(&mut problems),
        };
        problems.into_result()?;
        let is_old = matches!(request.config.generation, Generation::Linkerd27 { .. });
        if is_old && request.choice == Choice::Only(Backend::Nft) {
            anyhow::bail!("--compat 2.7 needs iptables; hint: leave out --backend nft");
        }
        Ok(request)
    }
}

fn init(args: &Init, log: &mut Log) -> anyhow::Result<()> {
    if args.cleanup {
        let mut problems = Problems::default();
        (log.format, log.level) = args.log.settings(&mut problems);
        problems.into_result()?;
        return remove(&args.place, log);
    }
    if args.verify {
        return check(args, log);
    }
    let request = Request::read(args, log)?;
    if args.simulate {
        return simulate(&request, log);
    }
    let pod = pod_network(&args.place)?;
    let result = match request.config.generation {
        Generation::Today => apply(&pod, &request, log),
        Generation::Linkerd27 { .. } => apply_2_7(&pod, &request, log),
    };
    result.context("aborting firewall configuration")?;
    if let Some(seconds) = request.close_wait_seconds {
        fs::write(CLOSE_WAIT_SETTING, seconds.to_string())
            .with_context(|| format!("cannot write {CLOSE_WAIT_SETTING}"))?;
        log.info(&format!("connections stay in CLOSE_WAIT for {seconds} s at most"));
    }
    Ok(())
}

fn apply(pod: &PodNetwork, request: &Request, log: &Log) -> anyhow::Result<()> {
    let rules = plan(&request.config);
    log.write(Level::Debug, &render::words(&rules));
    let applied = pod.apply(&rules, request.choice)?;
    for note in &applied.notes {
        log.write(Level::Warning, note);
    }
    let CaptureConfig { inbound_port, outbound_port, .. } = &request.config;
    log.info(&format!(
        "capture rules are in place ({}): inbound to port {inbound_port}, outbound to port \
         {outbound_port}",
        applied.backend
    ));
    Ok(())
}

fn apply_2_7(pod: &PodNetwork, request: &Request, log: &Log) -> anyhow::Result<()> {
    let log = Log {
        format: if log.format == Format::Json { Format::Json } else { Format::Dated },
        ..*log
    };
    let variant = variant_of_2_7(request.choice);
    linkerd_2_7::apply(pod, &request.config, variant, &mut |text| log.info(text))?;
    Ok(())
}

/// Linkerd 2.7 called plain `iptables`.
fn variant_of_2_7(choice: Choice) -> Variant {
    match choice {
        Choice::Only(Backend::Iptables(variant)) | Choice::Prefer(variant) => variant,
        Choice::Auto | Choice::Only(Backend::Nft) => Variant::Plain,
    }
}

/// Prints exactly what would be given to the tool.
fn simulate(request: &Request, log: &Log) -> anyhow::Result<()> {
    if let Generation::Linkerd27 { .. } = request.config.generation {
        let log = Log { format: Format::Dated, ..*log };
        let variant = variant_of_2_7(request.choice);
        for step in linkerd_2_7::script(&request.config, &[]) {
            match step {
                Step::Say(text) => log.info(&text),
                Step::Try(command) | Step::Run(command) => {
                    log.info(&format!("> {}", linkerd_2_7::shown(variant, &command)));
                }
            }
        }
        return Ok(());
    }
    let rules = plan(&request.config);
    match request.choice {
        Choice::Auto | Choice::Only(Backend::Nft) => print(&render::nft(&rules)),
        Choice::Only(Backend::Iptables(_)) | Choice::Prefer(_) => {
            let text = |family: &Family| render::iptables::restore(&rules, *family);
            print(&rules.families.list().iter().map(text).collect::<String>())
        }
    }
}

fn show(args: &Plan) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let config = args.rules.config(Timestamp::now().as_second(), &mut problems);
    problems.into_result()?;
    let rules = plan(&config);
    print(&match args.show {
        None => render::words(&rules),
        Some(Show::Nft) => render::nft(&rules),
        Some(Show::Iptables) => render::iptables::restore(&rules, Family::V4),
        Some(Show::Ip6tables) => render::iptables::restore(&rules, Family::V6),
    })
}

fn check(args: &Init, log: &mut Log) -> anyhow::Result<()> {
    let request = Request::read(args, log)?;
    let pod = pod_network_to_look()?;
    let verified = verify(&pod, &plan(&request.config), request.choice)?;
    if verified.differences.is_empty() {
        let backend = verified.backend.map_or_else(String::new, |backend| backend.to_string());
        log.info(&format!("the capture rules are as asked ({backend})"));
        return Ok(());
    }
    for difference in &verified.differences {
        log.write(Level::Error, difference);
    }
    anyhow::bail!(
        "the capture rules are not as asked: {} difference(s)",
        verified.differences.len()
    )
}

fn remove(place: &Place, log: &Log) -> anyhow::Result<()> {
    let removed = pod_network(place)?.remove()?;
    if removed.is_empty() {
        log.info("there were no capture rules");
    }
    for backend in removed {
        log.info(&format!("removed the capture rules ({backend})"));
    }
    Ok(())
}

/// The namespace this thread is in, which may be changed unless it is the machine's own.
fn pod_network(place: &Place) -> anyhow::Result<PodNetwork> {
    let host =
        if place.allow_host_namespace { HostNamespace::Allow } else { HostNamespace::Refuse };
    Ok(PodNetwork::current(tools(), host)?)
}

/// The namespace this thread is in, to look at only. That does no harm anywhere.
fn pod_network_to_look() -> anyhow::Result<PodNetwork> {
    Ok(PodNetwork::current(tools(), HostNamespace::Allow)?)
}

fn tools() -> Tools {
    Tools::new(&std::env::var_os("PATH").unwrap_or_default())
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("cannot print")
}
