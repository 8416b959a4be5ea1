//! `hauberk local` from outside: real labs, with real processes, without a mesh.
//!
//! Each test has a lab of its own, in namespaces of its own, and nothing of the machine's network is
//! touched. Containers run this test program again: the ignored tests below are its server and
//! client, so nothing else has to be installed but `nft`. Where the kernel forbids namespaces the
//! tests say SKIPPED, unless `HAUBERK_REQUIRE_NAMESPACES` makes that a failure.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const HAUBERK: &str = env!("CARGO_BIN_EXE_hauberk");
/// Everything here takes well under a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server that containers run: says who asks, and who it is.
#[test]
#[ignore = "run inside a pod"]
fn serve() {
    let port = std::env::var("PORT").expect("PORT is set").parse::<u16>().expect("a number");
    let listener = TcpListener::bind(("::", port)).expect("listen");
    for stream in listener.incoming() {
        let mut stream = stream.expect("accept");
        let peer = stream.peer_addr().expect("peer").ip().to_canonical();
        let name = fs::read_to_string("/etc/hostname").expect("host name");
        let _ = write!(stream, "{} greets {peer}", name.trim()); // Probes do not wait.
    }
}

/// The client that `exec` runs: prints what the server at `TARGET` says.
#[test]
#[ignore = "run inside a pod"]
fn ask() {
    let target = std::env::var("TARGET").expect("TARGET is set");
    let mut text = String::new();
    let mut stream = TcpStream::connect(target).expect("connect");
    stream.read_to_string(&mut text).expect("read");
    println!("answer: {text}");
}

/// Calls this program again, as one of the two above.
fn myself(role: &str) -> Vec<String> {
    let own = std::env::current_exe().expect("own path");
    let own = own.to_str().expect("a plain path").to_owned();
    [own.as_str(), role, "--exact", "--ignored", "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

fn container(name: &str, command: &[String], env: Value) -> Value {
    json!({"name": name, "image": "none", "command": command, "env": env})
}

fn deployment(name: &str, replicas: u32, mut container: Value) -> Value {
    container["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [container],
        }},
    }})
}

fn server(replicas: u32) -> Value {
    let env = json!([{"name": "PORT", "value": "8080"}]);
    deployment("web", replicas, container("server", &myself("serve"), env))
}

fn service(name: &str, cluster_ip: Option<&str>) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "clusterIP": cluster_ip,
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"app": "web"},
        "ports": [{"name": "tcp", "port": 80, "targetPort": 8080}],
    }})
}

fn client() -> Value {
    let command = ["sleep", "100000"].map(str::to_owned);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [container("client", &command, json!([]))],
    }})
}

/// Who starts the lab.
#[derive(Clone, Copy)]
enum User {
    Same,
    /// A user without a name, a home, or any range of ids.
    Stranger,
}

/// A lab with its front process. Ends with the test, however that ends.
struct Lab {
    name: String,
    user: User,
    manifests: TempDir,
    front: Child,
}

impl Lab {
    /// Starts a lab and waits until all its pods are ready; none where namespaces are forbidden.
    fn up(name: &str, user: User, manifests: &[Value]) -> Option<Self> {
        Self::up_as(name, user, manifests, |_| {})
    }

    /// The same, with a change to the command.
    fn up_as(
        name: &str,
        user: User,
        manifests: &[Value],
        change: impl FnOnce(&mut Command),
    ) -> Option<Self> {
        let directory = tempfile::tempdir().expect("temporary directory");
        for (number, manifest) in manifests.iter().enumerate() {
            write_manifest(directory.path(), number, manifest);
        }
        allow_everybody(directory.path());
        let name = format!("{name}-{}", std::process::id());
        let mut command = hauberk(user);
        command.args(["local", "--lab", &name, "up", "--no-mesh", "-f"]).arg(directory.path());
        change(&mut command);
        let mut front = command.stderr(Stdio::piped()).spawn().expect("start hauberk");
        let errors = BufReader::new(front.stderr.take().expect("piped"));
        let mut said = String::new();
        for line in errors.lines() {
            let line = line.expect("text");
            said += &line;
            said += "\n";
            if line.contains("Ctrl-C ends the lab") {
                return Some(Self { name, user, manifests: directory, front });
            }
        }
        let _ = front.wait();
        let forbidden = said.contains("cannot make the lab's");
        let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
        assert!(forbidden && !required, "the lab did not come up:\n{said}");
        eprintln!("SKIPPED: {said}");
        None
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = hauberk(self.user);
        command.args(["local", "--lab", &self.name]).args(arguments);
        command.stdin(Stdio::null()).output().expect("run hauberk")
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn pods(&self) -> Vec<Value> {
        let text = self.says(&["ps", "-o", "json"]);
        serde_json::from_str(&text).expect("json")
    }

    fn pods_named(&self, prefix: &str) -> Vec<Value> {
        let is_named = |pod: &Value| pod["name"].as_str().is_some_and(|n| n.starts_with(prefix));
        self.pods().into_iter().filter(is_named).collect()
    }

    /// What the server at this address says to the client.
    fn ask(&self, target: &str) -> String {
        let mut shell = format!("TARGET={target} exec");
        for word in myself("ask") {
            shell += &format!(" '{word}'");
        }
        let text = self.says(&["exec", "client", "--", "sh", "-c", &shell]);
        let answer = text.lines().find_map(|line| line.split_once("answer: "));
        answer.unwrap_or_else(|| panic!("no answer in {text}")).1.to_owned()
    }

    /// All processes of the lab.
    fn remains(&self) -> Remains {
        let mut pids = vec![self.runtime()];
        for pod in self.pods() {
            let namespace = pod["networkNamespace"].as_str().expect("a path").to_owned();
            pids.extend(namespace.split('/').nth(2).and_then(|pid| pid.parse::<u32>().ok()));
            let containers = pod["containers"].as_array().expect("a list").clone();
            pids.extend(
                containers.iter().filter_map(|one| one["pid"].as_u64()).map(|pid| pid as u32),
            );
        }
        Remains { pids }
    }

    /// The process id of the runtime: the front's only child.
    fn runtime(&self) -> u32 {
        let front = self.front.id();
        let children = fs::read_to_string(format!("/proc/{front}/task/{front}/children"));
        children.expect("children").trim().parse().expect("one child")
    }

    fn kill(&mut self, pid: u32) {
        let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(status.expect("run kill").success());
        let _ = self.front.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

/// What must be gone when a lab is. A namespace is gone with its last process, since it is bound
/// nowhere.
struct Remains {
    pids: Vec<u32>,
}

impl Remains {
    fn assert_gone(&self) {
        assert!(self.pids.len() >= 3, "there was a lab");
        until("all processes have ended", || {
            self.pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        });
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(".hauberk-lab"), "{mounts}");
        let interfaces = fs::read_dir("/sys/class/net").expect("interfaces").flatten();
        let ours = interfaces.filter(|one| one.file_name().to_string_lossy().starts_with("pod"));
        assert_eq!(ours.count(), 0);
    }
}

fn hauberk(user: User) -> Command {
    match user {
        User::Same => Command::new(HAUBERK),
        User::Stranger => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=4242", "--regid=4242", "--clear-groups", HAUBERK]);
            command.env_remove("XDG_RUNTIME_DIR");
            command
        }
    }
}

/// The directories of all labs, wherever this user's are.
fn state_directories() -> Vec<PathBuf> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(|base| PathBuf::from(base).join("hauberk"));
    let temporary = fs::read_dir("/tmp").into_iter().flatten().flatten().map(|entry| entry.path());
    let temporary = temporary.filter(|path| path.to_string_lossy().starts_with("/tmp/hauberk-"));
    let bases = temporary.chain(runtime).chain([PathBuf::from("/run/hauberk")]);
    let labs = bases.flat_map(|base| fs::read_dir(base).into_iter().flatten().flatten());
    labs.map(|entry| entry.path()).collect()
}

fn write_manifest(directory: &Path, number: usize, manifest: &Value) {
    let path = directory.join(format!("{number}.yaml"));
    fs::write(path, manifest.to_string()).expect("write a manifest");
}

fn allow_everybody(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("set mode");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pods_find_and_reach_each_other_by_name() {
    let manifests = [server(2), service("web", None), service("each", Some("None")), client()];
    let Some(lab) = Lab::up("names", User::Same, &manifests) else { return };
    let client = &lab.pods_named("client")[0];
    let own: Vec<&str> =
        client["ips"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let service = lab.says(&["get", "svc", "web", "-o", "json"]);
    let service: Value = serde_json::from_str(&service).expect("json");
    let [v4, v6] = [0, 1].map(|n| service["spec"]["clusterIPs"][n].as_str().expect("an address"));
    for (target, sender) in [(format!("{v4}:80"), own[0]), (format!("[{v6}]:80"), own[1])] {
        let answer = lab.ask(&target);
        assert!(answer.ends_with(&format!("greets {sender}")), "the sender stays: {answer}");
    }
    for target in ["web:80", "web.default:80", "web.default.svc.cluster.local:80"] {
        assert!(lab.ask(target).starts_with("web-"));
    }
    // A headless name leads to the pods themselves, on their own port.
    assert!(lab.ask("each:8080").starts_with("web-"));
    let shell = |script: &str| lab.run(&["exec", "client", "--", "sh", "-c", script]);
    let all = String::from_utf8(shell("getent ahostsv4 each | grep STREAM | wc -l").stdout);
    assert_eq!(all.expect("text").trim(), "2");
    let began = Instant::now();
    assert!(!shell("getent hosts nowhere.example").status.success());
    assert!(began.elapsed() < Duration::from_secs(4), "unknown names are refused at once");
    assert_eq!(shell("exit 7").status.code(), Some(7));

    let read = "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; hostname";
    assert_eq!(String::from_utf8_lossy(&shell(read).stdout), "defaultclient\n");
    let logs = lab.says(&["logs", "web"]);
    assert!(logs.contains("running 1 test"), "{logs}");
}

/// Makes an `nft` in that directory that takes its time, and then is the real one.
fn make_slow_nft(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let find = ["-c", "PATH=$PATH:/usr/sbin:/sbin command -v nft"];
    let found = Command::new("sh").args(find).output().expect("run sh").stdout;
    let real = String::from_utf8(found).expect("text");
    let path = directory.join("nft");
    fs::write(&path, format!("#!/bin/sh\nsleep 0.8\nexec {} \"$@\"\n", real.trim()))
        .expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set mode");
}

#[test]
fn who_hears_of_a_ready_pod_reaches_its_service_however_long_the_rules_take() {
    let slow = tempfile::tempdir().expect("temporary directory");
    make_slow_nft(slow.path());
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", slow.path().display());
    let manifests = [server(1), service("web", Some("10.96.5.1")), client()];
    let lab = Lab::up_as("ready", User::Same, &manifests, |command| {
        command.env("PATH", path);
    });
    let Some(lab) = lab else { return };
    assert!(lab.ask("10.96.5.1:80").starts_with("web-"), "what was there at the start");

    let apply = |manifest: &Value| {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), manifest.to_string()).expect("write");
        lab.says(&["apply", "-f", file.path().to_str().expect("a plain path")]);
    };
    apply(&service("second", Some("10.96.5.2")));
    assert!(lab.ask("10.96.5.2:80").starts_with("web-"), "a service applied to a ready pod");

    let named = |object: Value| {
        let text = object.to_string().replace("\"web\"", "\"late\"");
        serde_json::from_str::<Value>(&text).expect("json")
    };
    let is_ready = || lab.pods_named("late-").iter().any(|pod| pod["ready"] == true);
    apply(&named(service("late", Some("10.96.5.3"))));
    apply(&named(server(1)));
    until("the applied pod is ready", is_ready);
    assert!(lab.ask("10.96.5.3:80").starts_with("late-"), "a pod applied to a service");

    lab.says(&["delete", "deploy", "late"]);
    until("it is gone", || lab.pods_named("late-").is_empty());
    write_manifest(lab.manifests.path(), 7, &named(server(1)));
    until("the pod of the new file is ready", is_ready);
    assert!(lab.ask("10.96.5.3:80").starts_with("late-"), "a pod of a file that came later");
}

#[test]
fn ports_are_forwarded_from_the_machine() {
    let Some(lab) = Lab::up("forward", User::Same, &[server(1), service("web", None)]) else {
        return;
    };
    let mut command = hauberk(User::Same);
    command.args(["local", "--lab", &lab.name, "port-forward", "svc/web", "0:80"]);
    let mut forward = command.stderr(Stdio::piped()).spawn().expect("start hauberk");
    let mut line = String::new();
    let mut errors = BufReader::new(forward.stderr.take().expect("piped"));
    errors.read_line(&mut line).expect("a line");
    let address = line.split_whitespace().nth(1).expect("an address").to_owned();
    let mut text = String::new();
    let answer = TcpStream::connect(&address).and_then(|mut one| one.read_to_string(&mut text));
    let _ = forward.kill();
    let _ = forward.wait();
    answer.expect("an answer");
    assert!(text.starts_with("web-") && text.ends_with("greets 127.0.0.1"), "{text}");
}

#[test]
fn changed_files_and_objects_change_the_pods() {
    let Some(lab) = Lab::up("live", User::Same, &[server(1), client()]) else { return };
    let ready = |count: usize| {
        let pods = lab.pods_named("web-");
        pods.len() == count && pods.iter().all(|pod| pod["ready"] == true)
    };
    let first = lab.pods_named("web-")[0]["name"].clone();
    write_manifest(lab.manifests.path(), 0, &server(3));
    until("there are three", || ready(3));
    assert!(lab.pods_named("web-").iter().any(|pod| pod["name"] == first), "the first one stays");

    let mut other = server(3);
    other["spec"]["template"]["metadata"]["annotations"] = json!({"changed": "yes"});
    write_manifest(lab.manifests.path(), 0, &other);
    until("all are replaced", || {
        ready(3) && lab.pods_named("web-").iter().all(|pod| pod["name"] != first)
    });

    fs::remove_file(lab.manifests.path().join("0.yaml")).expect("remove a manifest");
    until("none is left", || lab.pods_named("web-").is_empty());
    assert_eq!(lab.pods().len(), 1);

    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers":
            [container("main", &["sh", "-c", "echo done"].map(str::to_owned), json!([]))],
        }},
    }});
    write_manifest(lab.manifests.path(), 9, &json!({"not": "read"}));
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs::write(file.path(), job.to_string()).expect("write");
    let path = file.path().to_str().expect("a plain path");
    assert_eq!(lab.says(&["apply", "-f", path]), "job/once in default created\n");
    until("the job has ended", || {
        lab.pods_named("once-").first().is_some_and(|pod| pod["phase"] == "Succeeded")
    });
    assert_eq!(lab.says(&["logs", "job/once"]), "done\n");
    assert_eq!(lab.says(&["delete", "job", "once"]), "job/once in default deleted\n");
    until("its pod is gone", || lab.pods_named("once-").is_empty());
}

#[test]
fn a_crashed_container_is_started_again_and_an_unknown_image_is_explained() {
    let crash = [
        "sh",
        "-c",
        "test -e /tmp/$HOSTNAME-was-here || { touch /tmp/$HOSTNAME-was-here; exit 1; }; sleep 1000",
    ];
    let name = format!("crash-{}", std::process::id());
    let mut pod = client();
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["containers"] = json!([container("c", &crash.map(str::to_owned), json!([]))]);
    let Some(lab) = Lab::up("crash", User::Same, &[client()]) else { return };
    write_manifest(lab.manifests.path(), 1, &pod);
    until("it was restarted", || {
        let pods = lab.pods_named("crash-");
        pods.first()
            .is_some_and(|pod| pod["containers"][0]["restarts"] == 1 && pod["ready"] == true)
    });
    let _ = fs::remove_file(format!("/tmp/{name}-was-here"));

    pod["metadata"]["name"] = json!("unknown");
    pod["spec"]["containers"] = json!([{"name": "c", "image": "nginx"}]);
    write_manifest(lab.manifests.path(), 2, &pod);
    until("the image is explained", || {
        let pods = lab.pods_named("unknown");
        let message = pods.first().and_then(|pod| pod["message"].as_str().map(str::to_owned));
        message.is_some_and(|message| message.contains("local.hauberk.io/command.c"))
    });
}

#[test]
fn a_failing_liveness_probe_restarts_and_the_hook_after_the_start_runs_each_time() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let shell = |script: &str| ["sh", "-c", script].map(str::to_owned);
    let mut main = container("main", &shell("sleep 100000"), json!([]));
    main["volumeMounts"] = json!([{"name": "note", "mountPath": "/note"}]);
    let hook = "echo hook >> /note/log; rm -f /note/broken; touch /note/prepared";
    main["lifecycle"] = json!({"postStart": {"exec": {"command": shell(hook)}}});
    let probe = |script: &str| {
        let command = shell(script);
        json!({"exec": {"command": command}, "periodSeconds": 1, "failureThreshold": 1})
    };
    main["livenessProbe"] = probe("test ! -e /note/broken || { rm /note/prepared; exit 1; }");
    main["readinessProbe"] = probe("test -e /note/prepared");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "frail"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "note", "hostPath": {"path": directory.path()}}],
        "containers": [main],
    }});
    let Some(lab) = Lab::up("frail", User::Same, &[pod]) else { return };
    let state = || {
        let pod = lab.pods_named("frail").remove(0);
        (pod["containers"][0]["restarts"].as_u64().expect("a number"), pod["ready"] == true)
    };
    let hooks = || {
        let log = fs::read_to_string(directory.path().join("log")).expect("a log");
        log.lines().filter(|line| *line == "hook").count()
    };
    // It is ready by the hook alone, so the hook has run.
    assert_eq!((state(), hooks()), ((0, true), 1));
    let first = lab.pods_named("frail")[0]["containers"][0]["pid"].clone();
    fs::write(directory.path().join("broken"), "").expect("write");
    until("it was restarted and is ready again", || state() == (1, true) && hooks() == 2);
    assert_ne!(lab.pods_named("frail")[0]["containers"][0]["pid"], first, "another process");
    assert!(!directory.path().join("broken").exists(), "the hook of the second start mended it");
}

#[test]
fn sidecars_start_first_and_stop_last_and_hooks_run_before_the_end() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let note = |name: &str| {
        let script = format!(
            "trap 'echo {name} ends >> /order/log; exit 0' TERM; echo {name} >> /order/log; \
             while :; do sleep 0.05; done"
        );
        let mut container = container(name, &["sh".to_owned(), "-c".to_owned(), script], json!([]));
        container["volumeMounts"] = json!([{"name": "order", "mountPath": "/order"}]);
        container
    };
    let (mut init, mut sidecar, mut main) = (note("init"), note("sidecar"), note("main"));
    init["command"] = json!(["sh", "-c", "echo init >> /order/log"]);
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["grep", "sidecar", "/order/log"]}, "periodSeconds": 1});
    main["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /order/log"]}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ordered"}, "spec": {
        "terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "order", "hostPath": {"path": directory.path()}}],
        "initContainers": [init, sidecar], "containers": [main],
    }});
    let Some(lab) = Lab::up("order", User::Same, &[client(), pod]) else { return };
    lab.says(&["delete", "pod", "ordered"]);
    until("the pod is gone", || lab.pods_named("ordered").is_empty());
    let log = fs::read_to_string(directory.path().join("log")).expect("a log");
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines, ["init", "sidecar", "main", "hook", "main ends", "sidecar ends"]);
}

#[test]
fn a_pod_whose_probe_hangs_ends_when_asked() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut main = container("main", &["sleep", "100000"].map(str::to_owned), json!([]));
    main["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
    let probe = ["sh", "-c", "echo probe >> /notes/log; exec sleep 1000"];
    main["livenessProbe"] = json!({"exec": {"command": probe}, "periodSeconds": 1,
        "timeoutSeconds": 1, "failureThreshold": 1000});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probed"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "notes", "hostPath": {"path": directory.path()}}],
        "containers": [main],
    }});
    let Some(lab) = Lab::up("probed", User::Same, &[client(), pod]) else { return };
    until("a probe was given up and the next one begun", || {
        fs::read_to_string(directory.path().join("log")).is_ok_and(|log| log.lines().count() >= 2)
    });
    lab.says(&["delete", "pod", "probed"]);
    until("the pod is gone", || lab.pods_named("probed").is_empty());
}

#[test]
fn nothing_is_left_when_the_front_is_killed() {
    let Some(mut lab) = Lab::up("front", User::Same, &[server(2), client()]) else { return };
    let remains = lab.remains();
    lab.kill(lab.front.id());
    remains.assert_gone();
    // Nobody was there to remove the lab's directory. The next command does.
    assert!(state_directories().iter().any(|path| path.ends_with(&lab.name)));
    until("the directory has gone too", || {
        assert!(!lab.run(&["ps"]).status.success(), "no lab is running");
        !state_directories().iter().any(|path| path.ends_with(&lab.name))
    });
}

#[test]
fn nothing_is_left_when_the_runtime_is_killed() {
    let Some(mut lab) = Lab::up("runtime", User::Same, &[server(2), client()]) else { return };
    let remains = lab.remains();
    lab.kill(lab.runtime());
    remains.assert_gone();
}

#[test]
fn nothing_is_left_after_down() {
    let Some(mut lab) = Lab::up("down", User::Same, &[server(2), client()]) else { return };
    let remains = lab.remains();
    lab.says(&["down"]);
    let _ = lab.front.wait();
    remains.assert_gone();
    assert!(!lab.run(&["ps"]).status.success(), "no lab is running");
}

#[test]
fn an_ordinary_user_has_labs_too() {
    if !is_root() {
        eprintln!(
            "SKIPPED: only root can become another user; the other tests run rootless already"
        );
        return;
    }
    let reachable = hauberk(User::Stranger).arg("version").output();
    if !reachable.is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
        assert!(!required, "{HAUBERK} cannot be run by another user");
        eprintln!("SKIPPED: {HAUBERK} cannot be run by another user");
        return;
    }
    let manifests = [server(1), service("web", None), client()];
    let Some(mut lab) = Lab::up("rootless", User::Stranger, &manifests) else { return };
    assert!(lab.ask("web:80").starts_with("web-"));
    let remains = lab.remains();
    lab.kill(lab.front.id());
    remains.assert_gone();
}

/// Starts a lab as an ordinary user of a user namespace where `setting` is zero; what it says.
/// Settings of `user.*` belong to a user namespace, so nobody else feels this one.
fn refused_by(setting: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", setting.replace('.', "/"));
    if !Path::new(&path).exists() {
        eprintln!("SKIPPED a case: this kernel has no {setting}");
        return None;
    }
    // It waits until its ids are mapped, which only somebody outside can do for several. The second
    // shell is root from its first instruction, and so may set what the first one may not.
    let script = format!(
        "echo 0 > {path} && exec setpriv --reuid=4242 --regid=4242 --clear-groups \
         \"$0\" local --lab refused-{} up --no-mesh",
        std::process::id()
    );
    let wait = "read go && exec sh -c \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "sh", "-c", wait, &script, HAUBERK]).env_remove("XDG_RUNTIME_DIR");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run unshare");
    let own = fs::read_link("/proc/self/ns/user").expect("a user namespace");
    let namespace = format!("/proc/{}/ns/user", child.id());
    until("the namespace is there", || {
        fs::read_link(&namespace).is_ok_and(|namespace| namespace != own)
            || child.try_wait().expect("ask for the child").is_some()
    });
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{map}", child.id());
        fs::write(path, "0 0 65536").expect("root may map ids");
    }
    child.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(!output.status.success(), "it started although {setting} forbids it");
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The other two settings of `launch.rs` exist on Debian and Ubuntu only and concern the whole
/// machine; its own tests show them what those kernels would say.
#[test]
fn a_kernel_that_forbids_labs_to_ordinary_users_is_explained() {
    if !is_root() {
        eprintln!("SKIPPED: only root can map several ids into a namespace");
        return;
    }
    let made = Command::new("unshare").args(["--user", "true"]).status();
    let reachable = hauberk(User::Stranger).arg("version").output();
    if !made.is_ok_and(|status| status.success())
        || !reachable.is_ok_and(|output| output.status.success())
    {
        let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
        assert!(!required, "no user namespaces, or {HAUBERK} cannot be run by another user");
        eprintln!("SKIPPED: no user namespaces, or {HAUBERK} cannot be run by another user");
        return;
    }
    for setting in ["user.max_user_namespaces", "user.max_net_namespaces"] {
        let Some(said) = refused_by(setting) else { continue };
        let hint = format!("hint: as root: sysctl -w {setting}=15000");
        assert!(said.contains("cannot make the lab's namespaces"), "{setting}: {said}");
        assert!(said.contains(&hint), "{setting}: {said}");
    }
}

/// Whether this process is root, as the file system sees it.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
