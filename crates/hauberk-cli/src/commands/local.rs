//! `hauberk local`: a cluster on this machine.
//!
//! Each command is a short conversation with the lab's runtime; only `up` starts one. What is typed
//! is here, what is shown is in the modules.

mod fleet;
mod forward;
mod problems;
mod proxies;
mod show;
mod stat;
mod tap;
mod up;
mod upgrade;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use hauberk_local::api::{Answer, Request, Target};
use hauberk_local::client::{Client, StateDirectory};
use hauberk_resources::yaml;
use serde_json::{Value, json};

/// A cluster on this machine: pods are namespaces, containers are processes
#[derive(Args, Debug)]
pub(crate) struct Local {
    /// Name of the lab; several can run side by side
    #[arg(
        long,
        global = true,
        default_value = "default",
        value_name = "NAME",
        env = "HAUBERK_LAB"
    )]
    lab: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the lab and run the pods of the given manifests
    Up(up::Up),
    /// End the lab and everything in it
    Down,
    /// List the pods
    Ps(Ps),
    /// Show what the workloads do: success rate, requests, latency, secured connections
    Stat(stat::Stat),
    /// Show requests as they pass a workload's sidecars
    Tap(tap::Tap),
    /// List the sidecars: version, age, certificate, load; or set something in all of them
    Proxies(proxies::Proxies),
    /// Replace running sidecars by a new program; applications and their connections go on
    Upgrade(upgrade::Upgrade),
    /// Print what a container has written
    Logs(Logs),
    /// Run a program in a container
    Exec(Exec),
    /// Put objects in, or change them
    Apply(Manifests),
    /// Take objects out
    Delete(Delete),
    /// Show objects
    Get(Get),
    /// Forward ports of this machine to a pod or service
    PortForward(forward::PortForward),
    /// Make a sidecar's key and certificate request as files, then become another proxy's program
    WithIdentity(WithIdentity),
    /// The lab itself; started by `up`
    #[command(hide = true)]
    Runtime(Runtime),
}

#[derive(Args, Debug)]
struct Ps {
    #[command(flatten)]
    shown: Shown,
    /// Only this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// How a list is printed.
#[derive(Args, Debug)]
struct Shown {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Yaml,
    Json,
}

/// A container of a pod.
#[derive(Args, Debug)]
struct Place {
    /// A pod, or what owns it: web-7c9-x2x, web, deploy/web, svc/web, or namespace/pod
    pod: String,
    /// Container; the first one proper by default
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl Place {
    fn target(&self) -> Target {
        Target {
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            container: self.container.clone(),
        }
    }
}

#[derive(Args, Debug)]
struct Logs {
    #[command(flatten)]
    place: Place,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
}

#[derive(Args, Debug)]
struct Exec {
    #[command(flatten)]
    place: Place,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Args, Debug)]
struct Manifests {
    /// File or directory with manifests, or - for standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct Delete {
    /// File or directory with manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR", conflicts_with = "kind")]
    files: Vec<PathBuf>,
    /// Kind, if not by file
    #[arg(requires = "name", required_unless_present = "files")]
    kind: Option<String>,
    /// Name
    name: Option<String>,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Args, Debug)]
struct Get {
    /// Kind, as deploy or services; all for everything
    kind: String,
    /// Name; all by default
    name: Option<String>,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args, Debug)]
struct WithIdentity {
    /// Program and arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

#[derive(Args, Debug)]
struct Runtime {
    /// Options as JSON
    options: String,
}

pub(crate) fn run(local: &Local) -> anyhow::Result<ExitCode> {
    let state = || {
        let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let state = StateDirectory::of(&local.lab, directory.as_deref())?;
        state.remove_stale();
        anyhow::Ok(state)
    };
    match &local.command {
        Command::Up(up) => up::run(up, &state()?),
        Command::Down => down(&state()?),
        Command::Ps(ps) => list_pods(ps, &state()?),
        Command::Stat(stat) => stat::run(&state()?, stat).map(|()| ExitCode::SUCCESS),
        Command::Tap(tap) => tap::run(&state()?, tap),
        Command::Proxies(proxies) => proxies::run(proxies, &state()?),
        Command::Upgrade(upgrade) => upgrade::run(upgrade, &state()?),
        Command::Logs(logs) => {
            let client = Client::connect(&state()?)?;
            client.logs(logs.place.target(), logs.follow, &mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Exec(exec) => {
            let code =
                Client::connect(&state()?)?.exec(exec.place.target(), exec.command.clone())?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Command::Apply(manifests) => {
            let manifests = read(&manifests.files)?;
            change(&state()?, Request::Apply { manifests })
        }
        Command::Delete(delete) => remove(delete, &state()?),
        Command::Get(get) => show_objects(get, &state()?),
        Command::PortForward(forward) => forward::run(forward, &state()?),
        Command::WithIdentity(proxy) => become_with_identity(proxy),
        Command::Runtime(runtime) => {
            let options = serde_json::from_str(&runtime.options)
                .context("this command is for `hauberk local up` only")?;
            hauberk_local::run::run(&options)
        }
    }
}

/// Returns only if the program cannot be run.
fn become_with_identity(proxy: &WithIdentity) -> anyhow::Result<ExitCode> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    hauberk_local::key_files::write(&std::env::vars_os().filter_map(text).collect())?;
    let (program, arguments) = proxy.command.split_first().context("no program is given")?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn down(state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let client = Client::connect(state)?;
    let made = state.made();
    eprintln!("ending lab {}", state.lab());
    client.stop()?;
    made.inspect(|made| state.remove(made));
    Ok(ExitCode::SUCCESS)
}

fn list_pods(ps: &Ps, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let Answer::Pods { mut pods } = Client::connect(state)?.ask(&Request::Pods)? else {
        bail!("the lab gave another answer than asked for");
    };
    pods.retain(|pod| ps.namespace.as_ref().is_none_or(|namespace| pod.namespace == *namespace));
    let text = match ps.shown.output {
        Format::Table => show::pods(&pods),
        Format::Json => serde_json::to_string_pretty(&pods)? + "\n",
        Format::Yaml => yaml::write(&serde_json::to_value(&pods)?)?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Reads all manifests; a broken one stops the command before anything is changed.
fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut manifests = Vec::new();
    for path in expand(files)? {
        let text = if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            text
        } else {
            let context = || format!("cannot read {}", path.display());
            std::fs::read_to_string(&path).with_context(context)?
        };
        let (values, problems) = yaml::objects(&text);
        if let Some(problem) = problems.first() {
            bail!("{}: {problem}", path.display());
        }
        manifests.extend(values);
    }
    Ok(manifests)
}

/// The manifests of a directory are its YAML and JSON files, not those of directories below.
fn expand(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let is_manifest = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("yml" | "yaml" | "json"))
    };
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
        let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
        entries.retain(|path| is_manifest(path));
        entries.sort();
        files.extend(entries);
    }
    Ok(files)
}

fn change(state: &StateDirectory, request: Request) -> anyhow::Result<ExitCode> {
    let Answer::Changed { lines } = Client::connect(state)?.ask(&request)? else {
        bail!("the lab gave another answer than asked for");
    };
    let mut code = ExitCode::SUCCESS;
    for line in lines {
        if line.starts_with("error: ") {
            eprintln!("{line}");
            code = ExitCode::FAILURE;
        } else {
            writeln!(io::stdout(), "{line}")?;
        }
    }
    Ok(code)
}

fn remove(delete: &Delete, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let manifests = match &delete.kind {
        None => read(&delete.files)?,
        Some(kind) => {
            let (name, namespace) = (delete.name.clone(), delete.namespace.clone());
            let request = Request::Get { kind: kind.clone(), name, namespace };
            match Client::connect(state)?.ask(&request)? {
                Answer::Objects { objects } => objects,
                _ => bail!("the lab gave another answer than asked for"),
            }
        }
    };
    change(state, Request::Delete { manifests })
}

fn show_objects(get: &Get, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let request = Request::Get {
        kind: get.kind.clone(),
        name: get.name.clone(),
        namespace: get.namespace.clone(),
    };
    let Answer::Objects { mut objects } = Client::connect(state)?.ask(&request)? else {
        bail!("the lab gave another answer than asked for");
    };
    let problems = problems::Problems::ask(state).unwrap_or_else(|error| {
        eprintln!("cannot ask the control plane what it cannot read: {error:#}");
        problems::Problems::default()
    });
    for object in &mut objects {
        problems.write_to(object);
    }
    let whole = || match (&get.name, objects.as_slice()) {
        (Some(_), [one]) => one.clone(),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    };
    let text = match get.shown.output {
        Format::Table => show::objects(&objects, &problems),
        Format::Json => serde_json::to_string_pretty(&whole())? + "\n",
        Format::Yaml => yaml::write(&whole())?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
