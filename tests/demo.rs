//! The script `./demo`, as somebody runs it who has just got the project: root or an ordinary user, with one key to
//! end it.
//!
//! The script runs in a copy of what it needs, with the programs that were built for the tests, so that a user finds
//! everything who may not read the checkout. Only the build itself is left out.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use system_tests::{binary, can_run, checkout, has, text};

/// All of it: a lab that becomes ready, a table with figures, and the end.
const PATIENCE: Duration = Duration::from_secs(55);

/// Programs of a lab with the demo.
const PROGRAMS: [&str; 5] =
    ["hauberk", "hauberk-controller", "hauberk-proxy", "hauberk-init", "emojivoto"];

/// A folder that everybody can read: the script, what it needs of the checkout, and the programs.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path();
    for folder in ["scripts", "examples/emojivoto", "programs"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let copy = |from: PathBuf, to: &str| {
        let to = root.join(to);
        fs::copy(&from, &to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
    };
    for file in ["demo", "scripts/install-packages"] {
        copy(checkout().join(file), file);
    }
    for file in fs::read_dir(checkout().join("examples/emojivoto")).expect("examples").flatten() {
        let name = file.file_name().into_string().expect("a plain name");
        copy(file.path(), &format!("examples/emojivoto/{name}"));
    }
    for program in PROGRAMS {
        copy(binary(program), &format!("programs/{program}"));
    }
    fs::create_dir(root.join("tmp")).expect("a folder");
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("set mode");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o777)).expect("set mode");
    place
}

/// The running script. Its process group goes with it.
struct Demo {
    script: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    deadline: Instant,
}

impl Demo {
    fn start(place: &Path, lab: &str, user: Option<u32>) -> Self {
        let mut command = match user {
            None => Command::new(place.join("demo")),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={user}")]);
                command.arg("--clear-groups").arg(place.join("demo"));
                command
            }
        };
        command.env("HAUBERK_PROGRAMS", place.join("programs")).env("HAUBERK_LAB", lab);
        command.env("HAUBERK_DEMO_PORT", "0").env("TMPDIR", place.join("tmp"));
        command.env_remove("XDG_RUNTIME_DIR").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut script = command.spawn().expect("run ./demo");
        let (sender, lines) = mpsc::channel();
        let (out, err) = (script.stdout.take(), script.stderr.take());
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(out.expect("piped")), Box::new(err.expect("piped"))];
        for stream in streams {
            let sender = sender.clone();
            // The thread ends with the script.
            std::thread::spawn(move || {
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                lines.for_each(|line| drop(sender.send(line)));
            });
        }
        Self { script, lines, said: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    /// The next line that is meant.
    fn line(&mut self, what: &str, is_meant: impl Fn(&str) -> bool) -> String {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("never said {what}:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            if is_meant(&line) {
                return line;
            }
        }
    }

    /// Presses Ctrl-C, as a terminal does it: for the whole group. The exit code.
    fn interrupt(&mut self) -> Option<i32> {
        self.signal("INT");
        while Instant::now() < self.deadline {
            if let Some(status) = self.script.try_wait().expect("ask for the script") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("did not end:\n{}", self.said.join("\n"));
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.script.id());
        let status = Command::new("kill").args(["-s", signal, "--", &group]).status();
        assert!(status.expect("run kill").success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.script.try_wait(), Ok(None)) {
            self.signal("KILL");
            let _ = self.script.wait();
        }
    }
}

/// Process ids of all pods and containers of a lab.
fn pids(place: &Path, lab: &str, user: Option<u32>) -> Vec<u64> {
    let hauberk = place.join("programs/hauberk");
    let mut command = match user {
        None => Command::new(&hauberk),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={user}")]);
            command.arg("--clear-groups").arg(&hauberk);
            command
        }
    };
    command.args(["local", "--lab", lab, "ps", "-o", "json"]).env_remove("XDG_RUNTIME_DIR");
    let output = command.output().expect("run hauberk local ps");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let pods: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    let mut pids = Vec::new();
    for pod in pods.as_array().expect("a list") {
        let namespace = pod["networkNamespace"].as_str().and_then(|path| path.split('/').nth(2));
        pids.extend(namespace.and_then(|pid| pid.parse::<u64>().ok()));
        let containers = pod["containers"].as_array().into_iter().flatten();
        pids.extend(containers.filter_map(|container| container["pid"].as_u64()));
    }
    pids
}

/// The success rate in a line of the table, in per cent.
fn success(line: &str) -> Option<f64> {
    // NAMESPACE NAME MESHED SUCCESS; a dash before there are requests.
    line.split_whitespace().nth(3)?.strip_suffix('%')?.parse().ok()
}

fn demo_runs_and_ends(user: Option<u32>) {
    let place = place();
    let lab = format!("demo-{}-{}", user.unwrap_or(0), std::process::id());
    let mut demo = Demo::start(place.path(), &lab, user);
    let page = demo.line("where the page is", |line| line.contains(" leads to svc/web-svc"));
    demo.line("how to end it", |line| line == "Ctrl-C ends the lab");
    let url = page.split(' ').next().expect("an address");
    let fetched = Command::new("curl").args(["-sSf", "--max-time", "10", url]).output();
    let fetched = fetched.expect("run curl");
    assert!(fetched.status.success(), "{url}: {}", text(&fetched.stderr));
    assert!(text(&fetched.stdout).contains("<html"));

    // The robot votes for the doughnut with every seventh vote or so, and all of these fail; among the first there
    // may be none.
    let row = demo.line("a table in which votes fail", |line| {
        line.contains("voting") && success(line).is_some_and(|share| share < 100.0)
    });
    println!("{row}");
    let pids = pids(place.path(), &lab, user);
    assert!(pids.len() > 8, "five pods with their containers: {pids:?}");

    assert_eq!(demo.interrupt(), Some(0), "{}", demo.said.join("\n"));
    let left = |pids: &[u64]| -> Vec<u64> {
        let is_there = |pid: &&u64| Path::new(&format!("/proc/{pid}")).exists();
        pids.iter().filter(is_there).copied().collect()
    };
    while !left(&pids).is_empty() {
        assert!(Instant::now() < demo.deadline, "still there: {:?}", left(&pids));
        std::thread::sleep(Duration::from_millis(20));
    }
    // A network namespace is bound nowhere, so it has gone with its last process.
    let temporary = fs::read_dir(place.path().join("tmp")).expect("a folder").count();
    assert_eq!(temporary, 0, "the manifests were removed");
    let runtime = user.map_or("/run/hauberk".to_owned(), |user| format!("/tmp/hauberk-{user}"));
    assert!(!Path::new(&runtime).join(&lab).exists(), "the lab's directory was removed");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&lab), "{mounts}");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[test]
fn the_demo_runs_for_whoever_starts_the_tests() {
    if !can_run("demo") || !has("curl") || !has("nft") {
        return;
    }
    if is_root() {
        demo_runs_and_ends(None);
    } else {
        println!(
            "SKIPPED: the tests run as an ordinary user, whose id is not that of files in /run"
        );
    }
}

#[test]
fn the_demo_runs_for_an_ordinary_user() {
    if !can_run("demo as a user") || !has("curl") || !has("nft") {
        return;
    }
    if !is_root() {
        println!("SKIPPED: only root can become another user");
        return;
    }
    demo_runs_and_ends(Some(4242));
}
