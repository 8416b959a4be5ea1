//! `hauberk local up`: starting a lab, and staying with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use hauberk_local::api::{Answer, Progress, Request};
use hauberk_local::client::{Client, StateDirectory};
use hauberk_local::launch::{Attachment, Ended, Mesh, Options, Running, Signal, launch};

use super::forward::Forward;

/// How often the runtime is asked how far it is.
const POLL: Duration = Duration::from_millis(25);
/// How often a person is told.
const TELL: Duration = Duration::from_secs(1);
/// Programs that a lab with a mesh starts.
const PROGRAMS: [&str; 3] = ["hauberk-controller", "hauberk-proxy", "hauberk-init"];

#[derive(Args, Debug)]
pub(super) struct Up {
    /// File or directory with manifests, which is followed while the lab runs; - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Let the lab stand alone; `hauberk local down` ends it
    #[arg(short, long)]
    detach: bool,
    /// Show what the workloads do, again and again, once they are ready
    #[arg(long, conflicts_with = "detach")]
    stat: bool,
    /// Lead a port of this machine to a service while the lab runs, as svc/web=8080:80
    #[arg(long = "forward", value_name = "PLACE=[LOCAL:]REMOTE", conflicts_with = "detach")]
    forwards: Vec<Forward>,
    /// Program of an image, as nginx="nginx -g 'daemon off;'"
    #[arg(long = "image", value_name = "IMAGE=COMMAND", value_parser = image)]
    images: Vec<(String, String)>,
    /// What sidecars run instead of hauberk-proxy, as /opt/linkerd2-proxy; it gets the same settings,
    /// and key.p8 and csr.der in its identity directory
    #[arg(long, value_name = "PROGRAM", conflicts_with = "no_mesh")]
    proxy_program: Option<PathBuf>,
    /// Pods and services only: no control plane, nothing is injected
    #[arg(long)]
    no_mesh: bool,
    /// Certificate authority instead of a new one: a directory with ca-bundle.crt, issuer.crt and
    /// issuer.key, whose changes are followed
    #[arg(long, value_name = "DIR", conflicts_with = "no_mesh")]
    authority: Option<PathBuf>,
    /// Further argument of the control plane's program, as --issuance-lifetime=1h
    #[arg(
        long = "controller-arg",
        value_name = "ARG",
        conflicts_with = "no_mesh",
        allow_hyphen_values = true,
        hide = true
    )]
    controller_arguments: Vec<String>,
    /// Give up when not all pods are ready by then, in seconds; 0 never
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Directory of the other programs of Hauberk; that of this one by default
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// What the runtime logs
    #[arg(long, default_value = "warn,hauberk=warn", value_name = "FILTER")]
    log_level: String,
}

fn image(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((image, command)) if !image.is_empty() && !command.trim().is_empty() => {
            Ok((image.to_owned(), command.to_owned()))
        }
        _ => Err("expected IMAGE=COMMAND".to_owned()),
    }
}

pub(super) fn run(up: &Up, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    if Client::connect(state).is_ok() {
        let lab = state.lab();
        bail!("lab {lab:?} is running already; hint: `hauberk local down`, or another --lab");
    }
    let options = options(up, state)?;
    let from_stdin = read_stdin(up)?;
    let made = state.create()?;
    if let Some(manifests) = from_stdin {
        let path = stdin_file(state);
        std::fs::write(&path, manifests)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let attachment = if up.detach { Attachment::Detached } else { Attachment::Foreground };
    let began = Instant::now();
    let signals = Signals::install()?;
    let arguments = ["local", "runtime"];
    let running =
        launch(&options, state, &arguments, attachment).inspect_err(|_| state.remove(&made))?;
    let lab = LabProcess { running, state };
    match wait_until_ready(up, &lab, &signals, began)? {
        Outcome::Ready if up.detach => Ok(ExitCode::SUCCESS),
        Outcome::Ready => {
            for forward in &up.forwards {
                let (at, place) = forward.start(state)?;
                eprintln!("http://{at} leads to {place}");
            }
            eprintln!("Ctrl-C ends the lab");
            if up.stat {
                let state = state.clone();
                // It ends with the lab, or with this process.
                std::thread::spawn(move || super::stat::follow(&state));
            }
            let ended = lab.wait(&signals);
            state.remove(&made);
            Ok(exit_code(ended))
        }
        Outcome::Ended(ended) => {
            if up.detach {
                let log = std::fs::read_to_string(state.log()).unwrap_or_default();
                eprint!("{log}");
            }
            state.remove(&made);
            Ok(exit_code(ended))
        }
        Outcome::TooLate => {
            lab.end(&signals);
            state.remove(&made);
            bail!("not all pods were ready within {} s", up.timeout)
        }
    }
}

fn exit_code(ended: Ended) -> ExitCode {
    ExitCode::from(u8::try_from(ended.exit_code()).unwrap_or(1))
}

fn options(up: &Up, state: &StateDirectory) -> anyhow::Result<Options> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let directory = || own.parent().map(PathBuf::from).unwrap_or_default();
    let programs = up.programs.clone().unwrap_or_else(directory);
    if !up.no_mesh {
        for program in PROGRAMS {
            if !programs.join(program).is_file() {
                let directory = programs.display();
                bail!(
                    "{program} is not in {directory}; hint: build it, or --programs, or --no-mesh"
                );
            }
        }
    }
    let whole = |path: &Path| {
        if path.as_os_str() == "-" {
            return Ok(stdin_file(state));
        }
        path.canonicalize().with_context(|| format!("cannot read {}", path.display()))
    };
    let files = up.files.iter().map(|file| whole(file)).collect::<anyhow::Result<_>>()?;
    let proxy =
        up.proxy_program.as_deref().map(|program| other_proxy(&own, program)).transpose()?;
    Ok(Options {
        lab: state.lab().to_owned(),
        state: state.path().to_owned(),
        files,
        images: up.images.clone(),
        proxy,
        mesh: if up.no_mesh { Mesh::Off } else { Mesh::On },
        authority: up.authority.as_deref().map(whole).transpose()?,
        controller_arguments: up.controller_arguments.clone(),
        programs,
        path: search_path(&std::env::var("PATH").unwrap_or_default()),
        log_filter: up.log_level.clone(),
    })
}

/// The command of sidecars that are not ours: this program makes what they expect to find, then
/// becomes them.
fn other_proxy(own: &Path, program: &Path) -> anyhow::Result<Vec<String>> {
    let whole = program.canonicalize();
    let whole = whole.with_context(|| format!("cannot find the proxy {}", program.display()))?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![path(own), "local".to_owned(), "with-identity".to_owned(), path(&whole)])
}

/// `PATH` of the lab: the caller's, and where system programs such as `nft` are, which ordinary users
/// often do not have in theirs.
fn search_path(own: &str) -> String {
    let system = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let own = own.split(':').filter(|one| !one.is_empty());
    let mut all: Vec<&str> = Vec::new();
    for directory in own.chain(system) {
        if !all.contains(&directory) {
            all.push(directory);
        }
    }
    all.join(":")
}

/// Where manifests of standard input lie while the lab runs.
fn stdin_file(state: &StateDirectory) -> PathBuf {
    state.path().join("stdin.yml")
}

fn read_stdin(up: &Up) -> anyhow::Result<Option<String>> {
    if !up.files.iter().any(|file| file.as_os_str() == "-") {
        return Ok(None);
    }
    std::io::read_to_string(std::io::stdin()).context("cannot read standard input").map(Some)
}

enum Outcome {
    Ready,
    Ended(Ended),
    TooLate,
}

/// Waits until all pods are ready, and tells what they wait for.
fn wait_until_ready(
    up: &Up,
    lab: &LabProcess<'_>,
    signals: &Signals,
    began: Instant,
) -> anyhow::Result<Outcome> {
    let mut told = Instant::now();
    let mut known = BTreeSet::new();
    loop {
        if let Some(ended) = lab.running.try_wait()? {
            return Ok(Outcome::Ended(ended));
        }
        if signals.count() > 0 {
            return Ok(Outcome::Ended(lab.wait(signals)));
        }
        let progress = match Client::connect(lab.state).and_then(|lab| lab.ask(&Request::Progress))
        {
            Ok(Answer::Progress(progress)) => Some(progress),
            Ok(_) | Err(_) => None,
        };
        let elapsed = began.elapsed();
        for problem in progress.iter().flat_map(|progress| &progress.problems) {
            if known.insert(problem.clone()) {
                eprintln!("[{:5.1} s] {problem}", elapsed.as_secs_f32());
            }
        }
        if let Some(progress) = &progress
            && progress.is_complete()
        {
            eprintln!("[{:5.1} s] {} pods are ready", elapsed.as_secs_f32(), progress.pods);
            return Ok(Outcome::Ready);
        }
        if up.timeout > 0 && elapsed > Duration::from_secs(up.timeout) {
            tell(elapsed, progress.as_ref());
            return Ok(Outcome::TooLate);
        }
        if told.elapsed() >= TELL {
            tell(elapsed, progress.as_ref());
            told = Instant::now();
        }
        std::thread::sleep(POLL);
    }
}

fn tell(elapsed: Duration, progress: Option<&Progress>) {
    let seconds = elapsed.as_secs_f32();
    match progress {
        None => eprintln!("[{seconds:5.1} s] the lab is starting"),
        Some(progress) => {
            eprintln!("[{seconds:5.1} s] {} of {} pods are ready", progress.ready, progress.pods);
            for line in progress.waiting.iter().take(5) {
                eprintln!("            {line}");
            }
        }
    }
}

/// The runtime of a lab that this process has started.
struct LabProcess<'a> {
    running: Running,
    state: &'a StateDirectory,
}

impl LabProcess<'_> {
    /// Stays until the lab has ended; a first signal asks it to, a second one makes it.
    fn wait(&self, signals: &Signals) -> Ended {
        let mut passed_on = 0;
        loop {
            if let Ok(Some(ended)) = self.running.try_wait() {
                // A lab that was told to end has done what it should.
                return if passed_on > 0 { Ended::Code(0) } else { ended };
            }
            let count = signals.count();
            if count > passed_on {
                let signal = if passed_on == 0 { Signal::TERM } else { Signal::KILL };
                if passed_on == 0 {
                    eprintln!("ending the lab; once more to end it at once");
                }
                passed_on = count;
                let _ = self.running.signal(signal); // It may have ended just now.
            }
            std::thread::sleep(POLL);
        }
    }

    fn end(&self, signals: &Signals) {
        let _ = self.running.signal(Signal::TERM); // It may have ended just now.
        self.wait(signals);
    }
}

/// Counts the signals that ask this process to end.
struct Signals(Arc<AtomicUsize>);

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let count = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (counted, ready) = (Arc::clone(&count), std::sync::mpsc::sync_channel(1));
        let (installed, wait) = ready;
        // The thread lives as long as the process.
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async move {
                use tokio::signal::unix::{SignalKind, signal};
                let kinds =
                    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal)
                else {
                    return; // The sender is dropped, which the other side notices.
                };
                let _ = installed.send(());
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        })?;
        wait.recv().context("cannot listen for signals")?;
        Ok(Self(count))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_programs_are_found_by_ordinary_users() {
        assert_eq!(
            search_path("/opt:/usr/bin:"),
            "/opt:/usr/bin:/usr/local/bin:/bin:/usr/sbin:/sbin"
        );
    }

    #[test]
    fn an_image_needs_a_command() {
        assert_eq!(image("nginx=nginx -g x=y"), Ok(("nginx".into(), "nginx -g x=y".into())));
        assert!(image("nginx").is_err() && image("nginx= ").is_err() && image("=x").is_err());
    }
}
