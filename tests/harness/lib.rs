//! A lab for tests of the whole system, and what is asked of it.
//!
//! The tests drive the real `hauberk` command as its user would. Each lab is a cluster of network
//! namespaces of its own; it goes when the [`Lab`] is dropped, and when the test is killed, because
//! the command is started to die with its parent.
//!
//! The binaries must have been built before (`cargo build --workspace --bins`): they are looked for
//! beside the tests.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long a lab may take until everything in it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A running lab.
pub struct Lab {
    name: String,
    front: Child,
    files: Files,
}

/// Where the lab's files lie: in a folder that goes with it, or in one that is used again.
enum Files {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Files {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// One pod, as `hauberk local ps -o json` shows it.
#[derive(Clone, Debug)]
pub struct Pod(pub Value);

impl Pod {
    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        self.0["namespace"].as_str().unwrap_or_default()
    }

    /// Name of the pod.
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.0["ready"].as_bool().unwrap_or(false)
    }

    /// Whether it has a sidecar.
    pub fn is_meshed(&self) -> bool {
        self.0["meshed"].as_bool().unwrap_or(false)
    }

    /// Its first address.
    pub fn ip(&self) -> &str {
        self.0["ips"][0].as_str().unwrap_or_default()
    }

    /// Process id of a container as the host sees it.
    pub fn pid(&self, container: &str) -> Option<u64> {
        let containers = self.0["containers"].as_array()?;
        containers.iter().find(|c| c["name"] == container)?["pid"].as_u64()
    }
}

/// Whether this machine lets us make namespaces. If not, says SKIPPED and why; where
/// `HAUBERK_REQUIRE_NAMESPACES` is set, that is a failure.
pub fn can_run(test: &str) -> bool {
    let probe =
        Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    let why = match probe {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
    assert!(!required, "{test}: namespaces are required but cannot be made: {why}");
    println!("SKIPPED {test}: cannot make namespaces: {why}");
    false
}

/// Whether a program is installed. If not, says SKIPPED; where `HAUBERK_REQUIRE_NAMESPACES` is set,
/// that is a failure.
pub fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
    assert!(found || !required, "{program} is required but not installed");
    if !found {
        println!("SKIPPED a case: {program} is not installed");
    }
    found
}

/// A binary of the workspace, beside the tests.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let profile = own.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let path = profile.join(name);
    assert!(path.exists(), "{} is missing: run cargo build --workspace --bins", path.display());
    path
}

/// Another proxy that all labs are to run instead of ours: the program in
/// `HAUBERK_PROXY_UNDER_TEST`.
pub fn proxy_under_test() -> Option<String> {
    std::env::var("HAUBERK_PROXY_UNDER_TEST").ok().filter(|program| !program.is_empty())
}

/// The folder of the peers' programs.
pub fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the checkout").to_owned()
}

impl Lab {
    /// Starts a lab with that manifest and waits until every pod is ready.
    pub fn up(test: &str, manifest: &str) -> Self {
        Self::up_with(test, manifest, &[])
    }

    /// The same with further arguments of `hauberk local up`.
    pub fn up_with(test: &str, manifest: &str, arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        Self::start(test, manifest, arguments, Files::Temporary(files))
    }

    /// The same with its files in `folder`, which is used again: for a lab that is never dropped,
    /// because all tests of a process share it. It dies with the thread that starts it.
    pub fn up_in(test: &str, manifest: &str, arguments: &[&str], folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("make a folder");
        Self::start(test, manifest, arguments, Files::Kept(folder.to_owned()))
    }

    fn start(test: &str, manifest: &str, arguments: &[&str], files: Files) -> Self {
        let path = files.path().join("lab.yml");
        std::fs::write(&path, manifest).expect("write the manifest");
        let name = format!("t{}-{test}", std::process::id());
        let log = std::fs::File::create(files.path().join("up.log")).expect("create the log");
        let front = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary("hauberk"))
            .args(["local", "up", "--lab", &name, "-f"])
            .arg(&path)
            .args(proxy_under_test().iter().flat_map(|program| ["--proxy-program", program]))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone the log"))
            .stderr(log)
            .spawn()
            .expect("start hauberk local up");
        let mut lab = Self { name, front, files };
        lab.wait("every pod is ready", READY_TIMEOUT, |lab| {
            let pods = lab.ps();
            !pods.is_empty() && pods.iter().all(Pod::is_ready)
        });
        lab
    }

    /// A file of the lab's own temporary folder.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).expect("write a file");
        path
    }

    /// Process id of the front process.
    pub fn front_pid(&self) -> u32 {
        self.front.id()
    }

    /// Waits until `done`, for at most `limit`; shows the lab's log if that never happens.
    pub fn wait(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !done(self) {
            let ended = self.front.try_wait().expect("ask for the front process");
            if Instant::now() > deadline || ended.is_some() {
                panic!("{what}: not within {limit:?} (front ended: {ended:?})\n{}", self.story());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What happened, for a failure's message.
    pub fn story(&self) -> String {
        let log = std::fs::read_to_string(self.files.path().join("up.log")).unwrap_or_default();
        let ps = self.try_hauberk(&["ps"]);
        format!("--- log\n{log}\n--- ps\n{}", text(&ps.stdout))
    }

    /// Runs `hauberk local ARGUMENTS --lab …`, however it ends.
    pub fn try_hauberk(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run hauberk")
    }

    /// `hauberk local ARGUMENTS --lab …`, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let (subcommand, rest) = arguments.split_first().expect("a subcommand");
        let mut command = Command::new(binary("hauberk"));
        command.args(["local", subcommand, "--lab", &self.name]).args(rest).stdin(Stdio::null());
        command
    }

    /// Runs `hauberk local ARGUMENTS` and returns what it printed; it must succeed.
    pub fn hauberk(&self, arguments: &[&str]) -> String {
        let output = self.try_hauberk(arguments);
        assert!(
            output.status.success(),
            "hauberk local {arguments:?} failed: {}\n{}\n{}",
            output.status,
            text(&output.stderr),
            self.story()
        );
        text(&output.stdout)
    }

    /// All pods but the control plane's.
    pub fn ps(&self) -> Vec<Pod> {
        self.all_pods().filter(|pod| pod.namespace() != "linkerd").collect()
    }

    /// The control plane's pod.
    pub fn control_plane(&self) -> Pod {
        let found = self.all_pods().find(|pod| pod.namespace() == "linkerd");
        found.unwrap_or_else(|| panic!("no control plane\n{}", self.story()))
    }

    fn all_pods(&self) -> impl Iterator<Item = Pod> {
        let output = self.try_hauberk(&["ps", "-o", "json"]);
        let pods: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        pods.as_array().cloned().unwrap_or_default().into_iter().map(Pod)
    }

    /// The pod of `namespace` whose name begins with `prefix`.
    pub fn pod(&self, namespace: &str, prefix: &str) -> Pod {
        let mut pods = self.ps().into_iter();
        let found = pods.find(|pod| pod.namespace() == namespace && pod.name().starts_with(prefix));
        found.unwrap_or_else(|| panic!("no pod {namespace}/{prefix}\n{}", self.story()))
    }

    /// Runs a command in a container, however it ends.
    pub fn try_exec(&self, pod: &Pod, container: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["exec", "-n", pod.namespace(), pod.name(), "-c", container, "--"];
        arguments.extend(command);
        self.try_hauberk(&arguments)
    }

    /// Runs a command in a container and returns what it printed; it must succeed.
    pub fn exec(&self, pod: &Pod, container: &str, command: &[&str]) -> String {
        let output = self.try_exec(pod, container, command);
        assert!(
            output.status.success(),
            "{command:?} in {}/{container} failed: {}\n{}{}\n{}",
            pod.name(),
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.logs(pod)
        );
        text(&output.stdout)
    }

    /// The end of the logs of a pod's sidecar and first container.
    pub fn logs(&self, pod: &Pod) -> String {
        let output =
            self.try_hauberk(&["logs", "-n", pod.namespace(), pod.name(), "-c", "linkerd-proxy"]);
        let logs = text(&output.stdout);
        let lines: Vec<_> = logs.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Leads a free port of this machine to a port of `place`, while the value lives.
    pub fn forward(&self, place: &str, port: u16) -> (Forward, String) {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary("hauberk"))
            .args(["local", "port-forward", "--lab", &self.name, place, &format!("0:{port}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start hauberk local port-forward");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let read = said.read_line(&mut line);
        let forward = Forward { child, _said: said };
        read.expect("a line");
        let address = line.strip_prefix("forwarding ").and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("no address: {line}\n{}", self.story()));
        (forward, address.to_owned())
    }

    /// A pod's metrics page, fetched from inside the pod.
    pub fn metrics(&self, pod: &Pod, container: &str) -> String {
        self.exec(pod, container, &["curl", "-sf", "http://127.0.0.1:4191/metrics"])
    }
}

/// A forwarded port.
pub struct Forward {
    child: Child,
    /// Kept open: a program that cannot complain ends.
    _said: BufReader<ChildStderr>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The tests' own end must not depend on the lab's: whatever is left dies with the front.
        let _ = self.try_hauberk(&["down"]);
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sum of all samples of `metric` whose labels include `labels`, written `name="value"`.
pub fn metric(page: &str, metric: &str, labels: &[&str]) -> f64 {
    let of_metric = page
        .lines()
        .filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let meant = of_metric.filter(|line| labels.iter().all(|label| line.contains(label)));
    meant.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
