//! Operating many sidecars: upgrading them beneath running applications, looking at all of them, and
//! setting something in all of them. Real labs with traffic; every failed request counts.

#[path = "drills/traffic.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod traffic;

use serde_json::Value;
use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use system_tests::{Lab, Pod, binary, can_run, metric, peers, text};
use traffic::{Connections, Load, Moods, PYTHON, manifest};

const SECOND: Duration = Duration::from_secs(1);
const PROXY: &str = "linkerd-proxy";

/// What an upgrade must leave alone, and what it must change, by pod.
fn processes(lab: &Lab) -> BTreeMap<String, (u64, u64)> {
    let pids = |pod: &Pod| {
        let of = |name| pod.pid(name).unwrap_or_else(|| panic!("{name} runs\n{}", lab.story()));
        (pod.name().to_owned(), (of("main"), of(PROXY)))
    };
    lab.ps().iter().map(pids).collect()
}

fn container<'a>(pod: &'a Pod, name: &str) -> &'a Value {
    let all = pod.0["containers"].as_array().expect("containers");
    all.iter().find(|one| one["name"] == name).expect("the container")
}

fn draining(pod: &Pod) -> Vec<u64> {
    let pids = container(pod, PROXY)["draining"].as_array().cloned().unwrap_or_default();
    pids.iter().filter_map(Value::as_u64).collect()
}

fn started(lab: &Lab, pod: &Pod) -> f64 {
    metric(&lab.metrics(pod, "main"), "process_start_time_seconds", &[])
}

/// A failed command, its report in JSON, and what it said to people.
fn refused(output: &Output) -> (Vec<Value>, String) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    (serde_json::from_slice(&output.stdout).expect("a report in JSON"), said)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A program that sidecars, which run as another user, can execute.
fn program(path: PathBuf) -> PathBuf {
    let everybody = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("set mode");
    };
    everybody(path.parent().expect("a folder"));
    everybody(&path);
    path
}

/// Further objects: a gRPC server.
fn grpc() -> String {
    let program = peers().join("grpc_peer.py");
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: grpc, namespace: drill}}
spec:
  selector: {{app: grpc}}
  ports: [{{name: grpc, port: 70, targetPort: 7070}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: grpc, namespace: drill, labels: {{app: grpc}}}}
spec:
  containers:
  - name: main
    image: local/grpc
    command: [{PYTHON}, {program}, server, '7070']
    readinessProbe: {{tcpSocket: {{port: 7070}}, periodSeconds: 1}}
",
        program = program.display()
    )
}

#[test]
fn sidecars_are_upgraded_beneath_running_applications_without_a_loss() {
    if !can_run("upgrade") {
        return;
    }
    let moods = Moods::new();
    let mut lab = Lab::up("upgrade", &(manifest(2, "", moods.0.path()) + &grpc()));
    let before = processes(&lab);
    let starts: BTreeMap<_, _> =
        lab.ps().iter().map(|pod| (pod.name().to_owned(), started(&lab, pod))).collect();
    let mut start =
        |name: &str, url: &str, connections| Load::start(&mut lab, name, url, connections);
    // HTTP on connections that are kept and on fresh ones; opaque bytes on fresh connections and on
    // ones that no proxy may end.
    let kept = start("kept", "http://server/", Connections::Kept);
    let fresh = start("fresh", "http://server/", Connections::Fresh);
    let raw = start("raw", "http://server:90/", Connections::Fresh);
    let held = start("held", "http://server:90/", Connections::Kept);
    // Calls of one message each way, and calls that go on throughout.
    let calls = start("calls", "grpc://grpc:70/", Connections::Kept);
    let streams = start("streams", "grpc-stream://grpc:70/", Connections::Kept);

    let copy = lab.file("hauberk-proxy-new", "");
    std::fs::copy(binary("hauberk-proxy"), &copy).expect("copy the program");
    let new = program(copy);
    let report = lab.hauberk(&[
        "upgrade",
        "--all",
        "--proxy",
        path(&new),
        "--parallel",
        "2",
        "--timeout",
        "60",
        "-o",
        "json",
    ]);
    let report: Vec<Value> = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report.len(), 4, "{report:?}");
    assert!(report.iter().all(|row| row["result"] == "upgraded"), "{report:?}");

    let after = processes(&lab);
    for pod in lab.ps() {
        let (name, old, new) = (pod.name(), before[pod.name()], after[pod.name()]);
        assert_eq!(old.0, new.0, "{name}: the application is the same process");
        assert_ne!(old.1, new.1, "{name}: the proxy is another process");
        assert!(pod.is_ready(), "{name}\n{}", lab.story());
        for one in ["main", PROXY] {
            assert_eq!(container(&pod, one)["restarts"], 0, "{name}: an upgrade is no restart");
        }
        assert!(
            started(&lab, &pod) > starts[name],
            "{name}: the new proxy answers on the admin port"
        );
        let runs = std::fs::read_link(format!("/proc/{}/exe", new.1)).expect("it runs");
        assert!(runs.ends_with("hauberk-proxy-new"), "{}", runs.display());
        // Only a server to which none of the held connections goes has nothing to keep.
        let (left, is_client) = (draining(&pod), name == "client");
        assert!(left == [old.1] || left.is_empty() && !is_client, "{name}: {left:?} keeps its own");
    }
    let server = |lab: &Lab| lab.pod("drill", "server");
    lab.wait("requests come to a new proxy", 20 * SECOND, |lab| {
        let page = lab.metrics(&server(lab), "main");
        metric(&page, "request_total", &["direction=\"inbound\"", "tls=\"true\""]) > 20.0
    });
    let loads = [(kept, "kept"), (fresh, "fresh"), (raw, "raw"), (held, "held")];
    for (load, what) in loads.into_iter().chain([(calls, "calls"), (streams, "streams")]) {
        load.stop(&mut lab).assert_lost_at_most(0, &format!("upgrade, {what}"));
    }
    // Nothing is left to do for the old ones.
    lab.wait("the old proxies have ended", 20 * SECOND, |lab| {
        lab.ps().iter().all(|pod| draining(pod).is_empty())
    });
    for (_, proxy) in before.values() {
        assert!(!Path::new(&format!("/proc/{proxy}")).exists(), "{proxy} has ended");
    }

    // Pods that are made later get the new program too.
    let old = server(&lab);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: drill}}\n",
        old.name()
    );
    let file = lab.file("delete.yml", &pod);
    lab.hauberk(&["delete", "-f", &file.display().to_string()]);
    lab.wait("a new server is ready", 40 * SECOND, |lab| {
        let pods = lab.ps();
        pods.len() == 4 && pods.iter().all(|pod| pod.is_ready() && pod.name() != old.name())
    });
    for (name, (_, proxy)) in processes(&lab) {
        let runs = std::fs::read_link(format!("/proc/{proxy}/exe")).expect("it runs");
        assert!(runs.ends_with("hauberk-proxy-new"), "{name} runs {}", runs.display());
    }
}

#[test]
fn a_new_proxy_that_does_not_serve_leaves_the_old_one_and_the_fleet_is_seen_and_set() {
    if !can_run("fleet") {
        return;
    }
    let moods = Moods::new();
    let mut lab = Lab::up("fleet", &manifest(2, "", moods.0.path()));
    let before = processes(&lab);
    let load = Load::start(&mut lab, "kept", "http://server/", Connections::Kept);

    // One fails, the next is not tried.
    let ends = program(lab.file("ends", "#!/bin/sh\necho no such luck\nexit 3\n"));
    let arguments = ["upgrade", "server", "--proxy", path(&ends)];
    let once = [&arguments[..], &["--parallel", "1", "-o", "json"]].concat();
    let (report, said) = refused(&lab.try_hauberk(&once));
    let results: Vec<_> = report.iter().map(|row| row["result"].as_str().unwrap_or("")).collect();
    assert_eq!(results, ["failed", "notTried"], "{said}");
    for part in ["drill/server-", "ended with code 3", "no such luck", "1 not tried"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // Unless told otherwise.
    let all = [&arguments[..], &["--keep-going", "-o", "json"]].concat();
    let (report, said) = refused(&lab.try_hauberk(&all));
    assert!(report.iter().all(|row| row["result"] == "failed"), "{said}");
    // One that never serves is given up.
    let hangs = program(lab.file("hangs", "#!/bin/sh\nexec sleep 1000\n"));
    let (_, said) = refused(&lab.try_hauberk(&[
        "upgrade",
        "client",
        "--proxy",
        path(&hangs),
        "--timeout",
        "1",
        "-o",
        "json",
    ]));
    assert!(said.contains("did not serve within 1s"), "{said}");
    // What cannot be meant is refused before anything is done.
    let nowhere = ["upgrade", "client", "--proxy", "/nowhere/proxy"];
    for (arguments, why) in [
        (&["upgrade", "nobody"][..], "no pod of nobody"),
        (&nowhere, "cannot use /nowhere/proxy as proxy"),
        (&["upgrade"], "--all"),
    ] {
        let output = lab.try_hauberk(arguments);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{why}: {said}");
    }
    assert_eq!(processes(&lab), before, "the old proxies are the same processes");
    assert!(lab.ps().iter().all(|pod| pod.is_ready() && draining(pod).is_empty()));
    load.stop(&mut lab).assert_lost_at_most(0, "failed upgrades");

    // The fleet: what each proxy says of itself.
    let fleet = |lab: &Lab, arguments: &[&str]| -> Value {
        let arguments = [&["proxies", "-o", "json"], arguments].concat();
        serde_json::from_str(&lab.hauberk(&arguments)).expect("JSON")
    };
    let seen = fleet(&lab, &[]);
    let rows = seen["proxies"].as_array().expect("rows").clone();
    assert_eq!(rows.len(), 3, "{seen}");
    for row in &rows {
        assert_eq!(row["facts"]["version"], env!("CARGO_PKG_VERSION"), "{row}");
        assert_eq!((&row["ready"], &row["error"]), (&true.into(), &Value::Null), "{row}");
        for positive in ["started", "certificateEnds", "residentBytes"] {
            assert!(row["facts"][positive].as_f64().is_some_and(|value| value > 0.0), "{row}");
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(seen["controlPlaneVersion"], version);
    assert_eq!(seen["warnings"], Value::Array(Vec::new()), "{seen}");
    let table = lab.hauberk(&["proxies", "server"]);
    assert!(table.contains("CERTIFICATE") && table.contains("(2)"), "{table}");

    // One that hangs is a line with an error.
    let client = lab.pod("drill", "client");
    let proxy = client.pid(PROXY).expect("it runs").to_string();
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, &proxy]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    };
    signal("-STOP");
    let seen = fleet(&lab, &["client"]);
    signal("-CONT");
    let error = seen["proxies"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("no answer within 3s"), "{seen}");
    assert_eq!(seen["warnings"][0], "1 proxy did not answer");

    // A setting in those that are meant, and only there.
    let filter = "warn,hauberk=debug";
    lab.hauberk(&["proxies", "set", "log-level", filter, "server"]);
    let level = |lab: &Lab, pod: &Pod| {
        lab.exec(pod, "main", &["curl", "-sf", "http://127.0.0.1:4191/proxy-log-level"])
    };
    for pod in lab.ps() {
        let is_set = level(&lab, &pod).contains("hauberk=debug");
        assert_eq!(is_set, pod.name().starts_with("server"), "{}", pod.name());
    }
    let output = lab.try_hauberk(&["proxies", "set", "log-level", "a=b=c,"]);
    assert!(!output.status.success(), "a filter that nobody understands");
    let said = text(&output.stderr);
    assert!(said.contains("0 set, 3 failed") && said.contains("it answers 400"), "{said}");
}
