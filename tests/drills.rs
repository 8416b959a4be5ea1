//! Failure drills: what breaks in operation is broken on purpose while traffic flows, and what is
//! lost is counted. `docs/concepts/failures.md` says for each outage what may be lost; these are the
//! proofs. Labs, loads and waits are bounded; each drill kills only processes that its lab shows.

#[path = "drills/traffic.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod traffic;

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};
use system_tests::{Lab, Pod, can_run, metric, peers, text};
use traffic::{Connections, Load, Moods, PYTHON, THREADS, manifest};

const SECOND: Duration = Duration::from_secs(1);

fn servers(lab: &Lab) -> Vec<Pod> {
    lab.ps().into_iter().filter(|pod| pod.name().starts_with("server")).collect()
}

/// Requests that came to a server from meshed clients.
fn secured_requests(lab: &Lab, server: &Pod) -> f64 {
    let page = lab.metrics(server, "main");
    metric(&page, "request_total", &["direction=\"inbound\"", "tls=\"true\""])
}

/// Waits until there are `count` servers, all ready, none of them among `gone`.
fn wait_for_servers(lab: &mut Lab, count: usize, gone: &[&Pod], limit: Duration) {
    lab.wait("the servers are ready", limit, |lab| {
        let servers = servers(lab);
        let is_gone = |pod: &Pod| gone.iter().any(|gone| gone.name() == pod.name());
        servers.len() == count && servers.iter().all(|pod| pod.is_ready() && !is_gone(pod))
    });
}

fn signal(pid: u64, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "cannot send {signal} to {pid}");
}

/// Kills the control plane's program whenever it runs, until `over`.
fn keep_down(lab: &mut Lab, limit: Duration, mut over: impl FnMut(&Lab) -> bool) {
    lab.wait("the outage is over", limit, |lab| {
        if let Some(pid) = lab.control_plane().pid("destination") {
            // It may have ended between the look and the signal.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
        }
        over(lab)
    });
}

/// Ends a pod; its workload makes another.
fn delete(lab: &Lab, pod: &Pod) {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: {}}}\n",
        pod.name(),
        pod.namespace()
    );
    let file = lab.file("delete.yml", &manifest);
    lab.hauberk(&["delete", "-f", &file.display().to_string()]);
}

#[test]
fn the_control_plane_may_die_and_come_back_to_changed_endpoints() {
    if !can_run("control plane") {
        return;
    }
    let moods = Moods::new();
    let mut lab = Lab::up("control", &manifest(2, "", moods.0.path()));
    let [kept, replaced] = &servers(&lab)[..] else { panic!("two servers\n{}", lab.story()) };
    let http = Load::start(&mut lab, "http", "http://server/", Connections::Kept);
    let raw = Load::start(&mut lab, "raw", "http://server:90/", Connections::Fresh);

    // Down for 12 seconds at least, more by the back-off of restarts. Meanwhile a server is
    // replaced; the other one keeps answering, and the new one waits for its certificate.
    let began = Instant::now();
    keep_down(&mut lab, 30 * SECOND, |_| began.elapsed() >= 5 * SECOND);
    delete(&lab, replaced);
    keep_down(&mut lab, 30 * SECOND, |_| began.elapsed() >= 12 * SECOND);
    assert!(!lab.control_plane().is_ready(), "{}", lab.story());
    wait_for_servers(&mut lab, 2, &[replaced], 40 * SECOND);
    println!("control plane: away for up to {:?}", began.elapsed());

    // Proxies find the control plane again and with it the new endpoint.
    let new = servers(&lab).into_iter().find(|pod| pod.name() != kept.name());
    let new = new.expect("a new server");
    lab.wait("the new server gets requests", 15 * SECOND, |lab| secured_requests(lab, &new) > 10.0);
    let (http, raw) = (http.stop(&mut lab), raw.stop(&mut lab));
    // Nobody tells of the pod that ends: opaque bytes that come to it between the end of its program
    // and that of its proxy are lost, some hundredths of a second's. Requests go elsewhere, but for
    // those that were on their way over connections which the program still had open.
    raw.assert_lost_at_most(4 * THREADS, "control plane, TCP");
    http.assert_lost_at_most(THREADS, "control plane, HTTP");
    assert!(http.answers.contains_key(new.name()), "{:?}", http.answers);
}

#[test]
fn the_control_plane_may_hang_and_wake_up() {
    if !can_run("hang") {
        return;
    }
    let moods = Moods::new();
    let mut lab = Lab::up("hang", &manifest(2, "", moods.0.path()));
    let http = Load::start(&mut lab, "http", "http://server/", Connections::Kept);
    let raw = Load::start(&mut lab, "raw", "http://server:90/", Connections::Fresh);

    // Long enough for proxies to give up its connections, which are pinged every 10 seconds.
    let program = lab.control_plane().pid("destination").expect("it runs");
    signal(program, "STOP");
    sleep(20 * SECOND);
    signal(program, "CONT");
    lab.wait("it is ready", 15 * SECOND, |lab| lab.control_plane().is_ready());
    assert_eq!(lab.control_plane().pid("destination"), Some(program), "it was not restarted");

    // What changes from now on is heard of again.
    let old = servers(&lab);
    delete(&lab, &old[0]);
    wait_for_servers(&mut lab, 2, &[&old[0]], 20 * SECOND);
    let new = servers(&lab).into_iter().find(|pod| pod.name() != old[1].name());
    let new = new.expect("a new server");
    lab.wait("the new server gets requests", 15 * SECOND, |lab| secured_requests(lab, &new) > 10.0);
    http.stop(&mut lab).assert_lost_at_most(0, "a hanging control plane, HTTP");
    raw.stop(&mut lab).assert_lost_at_most(0, "a hanging control plane, TCP");
}

/// A certificate authority in files that a lab follows.
struct Authority {
    files: tempfile::TempDir,
    old: hauberk_identity::ca::Anchor,
    new: hauberk_identity::ca::Anchor,
}

impl Authority {
    /// Two anchors, both trusted; the issuer is of the old one.
    fn new() -> Self {
        let anchor = |name| {
            let lifetime = 3600 * SECOND;
            let now = SystemTime::now();
            let made =
                hauberk_identity::ca::Anchor::generate(name, lifetime, now, &mut rand::rng());
            made.expect("an anchor")
        };
        let files = tempfile::tempdir().expect("a temporary directory");
        let one = Self {
            files,
            old: anchor("root.linkerd.cluster.local"),
            new: anchor("root-2.linkerd.cluster.local"),
        };
        let bundle = [&one.old, &one.new].map(|anchor| anchor.to_pem().certificate_pem).concat();
        std::fs::write(one.files.path().join("ca-bundle.crt"), bundle).expect("write the bundle");
        one.issue_by(&one.old);
        one
    }

    /// A new issuer, of this anchor.
    fn issue_by(&self, anchor: &hauberk_identity::ca::Anchor) {
        let name = "identity.linkerd.cluster.local";
        let made = anchor.issuer(name, 1800 * SECOND, SystemTime::now(), &mut rand::rng());
        let pem = made.expect("an issuer");
        let write = |file: &str, text: String| std::fs::write(self.files.path().join(file), text);
        write("issuer.key", pem.key_pem).expect("write the issuer's key");
        write("issuer.crt", pem.certificate_pem).expect("write the issuer");
    }
}

/// Certificates that the client has asked for, by result.
fn refreshes(lab: &Lab, result: &str) -> f64 {
    let page = lab.metrics(&lab.pod("drill", "client"), "main");
    metric(&page, "control_identity_cert_refreshes_total", &[&format!("result=\"{result}\"")])
}

/// Until that long after the client got its certificate; nothing if that is over.
fn since_certified(lab: &Lab, time: Duration) -> Duration {
    let page = lab.metrics(&lab.pod("drill", "client"), "main");
    let at = metric(&page, "control_identity_cert_refresh_timestamp_seconds", &[]);
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(at) + time;
    then.duration_since(SystemTime::now()).unwrap_or_default()
}

#[test]
fn issuer_and_anchor_may_change_and_identity_may_be_away_when_certificates_are_due() {
    if !can_run("identity") {
        return;
    }
    let (moods, authority) = (Moods::new(), Authority::new());
    let directory = authority.files.path().display().to_string();
    // Certificates of 40 seconds are renewed after 28.
    let flags =
        ["--controller-arg=--issuance-lifetime=40s", "--controller-arg=--clock-skew-allowance=0s"];
    let arguments = [&["--authority", directory.as_str()][..], &flags].concat();
    let began = Instant::now();
    let mut lab = Lab::up_with("identity", &manifest(2, "", moods.0.path()), &arguments);
    let [first, second] = &servers(&lab)[..] else { panic!("two servers\n{}", lab.story()) };
    // Each fresh opaque connection is a handshake of its own between the proxies.
    let raw = Load::start(&mut lab, "raw", "http://server:90/", Connections::Fresh);
    let http = Load::start(&mut lab, "http", "http://server/", Connections::Kept);

    // A new issuer of the same anchor, then one of the new anchor: each time a server is replaced
    // and gets its certificate by it, while the others have theirs by older ones.
    let taken = |lab: &Lab| {
        let logs = lab.try_hauberk(&["logs", "-n", "linkerd", lab.control_plane().name()]);
        text(&logs.stdout).matches("issuer").count()
    };
    let before = taken(&lab);
    authority.issue_by(&authority.old);
    lab.wait("the new issuer is in force", 10 * SECOND, |lab| taken(lab) > before);
    delete(&lab, first);
    wait_for_servers(&mut lab, 2, &[first], 20 * SECOND);
    let before = taken(&lab);
    authority.issue_by(&authority.new);
    lab.wait("the new anchor's issuer is in force", 10 * SECOND, |lab| taken(lab) > before);
    delete(&lab, second);
    wait_for_servers(&mut lab, 2, &[first, second], 20 * SECOND);
    println!("identity: rotated after {:?}", began.elapsed());

    // Identity is away when the client's certificate is due, and back before it ends.
    let bad = refreshes(&lab, "error");
    sleep(since_certified(&lab, 22 * SECOND));
    let first_ends = Instant::now() + since_certified(&lab, 40 * SECOND);
    keep_down(&mut lab, 30 * SECOND, |lab| refreshes(lab, "error") > bad);
    println!("identity: a renewal failed after {:?}", began.elapsed());
    let good = refreshes(&lab, "ok");
    lab.wait("the client's certificate is renewed", 40 * SECOND, |lab| refreshes(lab, "ok") > good);
    println!("identity: renewed after {:?}", began.elapsed());
    // The first certificates are of the past when the load ends.
    sleep(first_ends.saturating_duration_since(Instant::now()) + 2 * SECOND);

    let (http, raw) = (http.stop(&mut lab), raw.stop(&mut lab));
    http.assert_lost_at_most(0, "identity, HTTP");
    raw.assert_lost_at_most(0, "identity, TCP");
    for server in servers(&lab) {
        assert!(raw.answers.contains_key(server.name()), "{:?}", raw.answers);
    }
}

#[test]
fn endpoints_may_be_replaced_killed_hang_reset_and_fail() {
    if !can_run("endpoints") {
        return;
    }
    let moods = Moods::new();
    let accrual = "balancer.linkerd.io/failure-accrual: consecutive, \
                   balancer.linkerd.io/failure-accrual-consecutive-max-failures: '5', \
                   balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 2s, ";
    let mut lab = Lab::up("endpoints", &manifest(2, accrual, moods.0.path()));
    let start =
        |lab: &mut Lab, name: &str| Load::start(lab, name, "http://server/", Connections::Kept);

    // Every pod in turn, without a spare one.
    let load = start(&mut lab, "replaced");
    let old = servers(&lab);
    for n in 1..=old.len() {
        delete(&lab, &old[n - 1]);
        wait_for_servers(&mut lab, 2, &old[..n].iter().collect::<Vec<_>>(), 20 * SECOND);
    }
    load.stop(&mut lab).assert_lost_at_most(0, "every pod replaced");

    let pods = servers(&lab);
    let [bad, good] = &pods[..] else { panic!("two servers\n{}", lab.story()) };
    let again = |lab: &mut Lab, load: Load, lost: u64, drill: &str| {
        wait_for_servers(lab, 2, &[], 20 * SECOND);
        let before = secured_requests(lab, bad);
        lab.wait("the endpoint gets requests again", 20 * SECOND, |lab| {
            secured_requests(lab, bad) > before + 20.0
        });
        let outcome = load.stop(lab);
        outcome.assert_lost_at_most(lost, drill);
        assert!(outcome.answers.contains_key(good.name()), "{:?}", outcome.answers);
        assert!(outcome.silence < 2 * SECOND, "{drill}: silence {:?}", outcome.silence);
    };

    // Requests inside a proxy that is killed are lost; all others go elsewhere.
    let load = start(&mut lab, "killed");
    let proxy = bad.pid("linkerd-proxy").expect("the sidecar runs");
    signal(proxy, "KILL");
    lab.wait("the sidecar runs again", 20 * SECOND, |lab| {
        servers(lab).iter().any(|pod| {
            pod.name() == bad.name() && pod.pid("linkerd-proxy").is_some_and(|pid| pid != proxy)
        })
    });
    again(&mut lab, load, THREADS, "a proxy killed");

    // What hangs is slow, then not ready: nothing is lost, and others are asked meanwhile.
    let load = start(&mut lab, "hangs");
    let application = bad.pid("main").expect("the application runs");
    signal(application, "STOP");
    lab.wait("the endpoint is not ready", 8 * SECOND, |lab| {
        servers(lab).iter().any(|pod| pod.name() == bad.name() && !pod.is_ready())
    });
    signal(application, "CONT");
    again(&mut lab, load, 0, "an endpoint hangs");

    // Failures in a row shut it out; then one request at a time finds out whether it is well.
    for (mood, drill) in [("reset", "an endpoint resets"), ("error", "an endpoint answers 500")] {
        let load = start(&mut lab, mood);
        moods.set(bad, mood);
        sleep(4 * SECOND);
        moods.set(bad, "well");
        again(&mut lab, load, 5 + THREADS + 3, drill);
    }
}

/// Further objects: a service `mine` of one pod at a fixed address.
fn mine(address: &str, moods: &Path) -> String {
    let server = peers().join("moody_server.py");
    let program = format!("{} {} 8080", server.display(), moods.display());
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: mine, namespace: drill}}
spec:
  selector: {{app: mine}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
{pod}",
        pod = pod_at(address, "mine", "", &program),
    )
}

/// A pod at a fixed address, named and labelled so, that runs a program of ours.
fn pod_at(address: &str, name: &str, annotations: &str, program: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: drill
  labels: {{app: {name}}}
  annotations: {{local.hauberk.io/ip: {address}, {annotations}}}
spec:
  terminationGracePeriodSeconds: 3
  containers: [{{name: main, image: local/server, command: [sh, -c, exec {PYTHON} {program}]}}]
"
    )
}

#[test]
fn a_stranger_at_a_known_address_gets_nothing_and_applications_stay_captured() {
    const ADDRESS: &str = "10.42.77.7";
    if !can_run("addresses") {
        return;
    }
    let moods = Moods::new();
    let own = mine(ADDRESS, moods.0.path());
    let whole = format!("{}---\n{own}", manifest(1, "", moods.0.path()));
    let mut lab = Lab::up("addresses", &whole);
    let client = lab.pod("drill", "client");

    // While the control plane is away, the pod goes and a stranger gets its address. It listens on
    // the application's port and on the proxy's, but cannot prove to be who was there.
    let load = Load::start(&mut lab, "stranger", "http://mine/", Connections::Kept);
    keep_down(&mut lab, 5 * SECOND, |lab| !lab.control_plane().is_ready());
    let program = format!(
        "{} {} 8080 4143",
        peers().join("moody_server.py").display(),
        moods.0.path().display()
    );
    let stranger = pod_at(ADDRESS, "stranger", "linkerd.io/inject: disabled", &program);
    let stranger = lab.file("stranger.yml", &stranger).display().to_string();
    delete(&lab, &lab.pod("drill", "mine"));
    lab.hauberk(&["apply", "-f", &stranger]);
    keep_down(&mut lab, 20 * SECOND, |lab| {
        let pods = lab.ps();
        pods.iter().any(|pod| pod.name() == "stranger" && pod.is_ready() && pod.ip() == ADDRESS)
            && !pods.iter().any(|pod| pod.name() == "mine")
    });
    let (stranger, direct) = (lab.pod("drill", "stranger"), format!("http://{ADDRESS}:8080/"));
    keep_down(&mut lab, 10 * SECOND, |lab| {
        let asked = lab.try_exec(&stranger, "main", &["curl", "-sf", &direct]);
        text(&asked.stdout).trim() == "stranger"
    });
    let began = Instant::now();
    keep_down(&mut lab, 20 * SECOND, |_| began.elapsed() > 2 * SECOND);
    let outcome = load.stop(&mut lab);
    println!("a stranger: {:?} and {:?}", outcome.answers, outcome.failures);
    assert!(outcome.failed() > 0 && outcome.answers.keys().eq(["mine"]), "{:?}", outcome.answers);

    // The application's traffic does not go around a proxy that is dead.
    let load = Load::start(&mut lab, "captured", "http://server/", Connections::Kept);
    let proxy = client.pid("linkerd-proxy").expect("the sidecar runs");
    signal(proxy, "KILL");
    let asked = lab.try_exec(&client, "main", &["curl", "-sS", "-m", "2", "http://server/"]);
    assert!(!asked.status.success(), "a request went around: {}", text(&asked.stdout));
    lab.wait("everything is ready", 40 * SECOND, |lab| {
        lab.control_plane().is_ready() && lab.ps().iter().all(Pod::is_ready)
    });
    let asked = lab.exec(&client, "main", &["curl", "-sSf", "-m", "5", "http://server/"]);
    assert!(asked.starts_with("server"), "{asked}");
    let outcome = load.stop(&mut lab);
    println!("own proxy killed: {} answered, {:?}", outcome.answered(), outcome.failures);
}

/// The soft limit of open files (proc_pid_limits(5)).
fn open_files_max(pid: u64) -> String {
    let table = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process runs");
    let line = table.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()).expect("a limit").to_owned()
}

/// Sets a soft limit of a process while it runs, as its own user, who alone may (prlimit(2)).
fn limit(pid: u64, what: &str) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).expect("an id").to_owned()
    };
    let done = Command::new("setpriv")
        .args(["--reuid", &id("Uid:"), "--regid", &id("Gid:"), "--clear-groups", "prlimit"])
        .args(["--pid", &pid.to_string(), what])
        .status();
    assert!(done.is_ok_and(|status| status.success()), "cannot set {what} of {pid}");
}

fn open_files(pid: u64) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

#[test]
fn descriptors_and_memory_may_run_out() {
    if !can_run("limits") {
        return;
    }
    let moods = Moods::new();
    let mut lab = Lab::up("limits", &manifest(1, "", moods.0.path()));
    let client = lab.pod("drill", "client");
    let server = servers(&lab).remove(0);
    let proxy = server.pid("linkerd-proxy").expect("the sidecar runs");

    // Forty connections want two descriptors each where four are left. Who is connected is served.
    let load = Load::start(&mut lab, "descriptors", "http://server/", Connections::Kept);
    let (many, few) = (open_files_max(proxy), open_files(proxy) + 4);
    limit(proxy, &format!("--nofile={few}:"));
    let hold = "import socket, time; \
                held = [socket.create_connection(('server', 90)) for _ in range(40)]; \
                [one.sendall(b'G') for one in held]; time.sleep(4)";
    lab.exec(&client, "main", &[PYTHON, "-c", hold]);
    let logs = lab.logs(&server);
    assert!(logs.contains("cannot accept connections"), "descriptors did not run out: {logs}");
    let outcome = load.stop(&mut lab);
    outcome.assert_lost_at_most(THREADS, "descriptors exhausted");
    limit(proxy, &format!("--nofile={many}:"));
    let fresh = Load::start(&mut lab, "enough", "http://server:90/", Connections::Fresh);
    sleep(SECOND);
    fresh.stop(&mut lab).assert_lost_at_most(0, "descriptors are back");

    // Near the limit of memory requests are refused with 503, and taken again when there is room.
    let load = Load::start(&mut lab, "memory", "http://server/", Connections::Kept);
    let status = std::fs::read_to_string(format!("/proc/{proxy}/status")).expect("it runs");
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("VmData");
    let data: u64 = data.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    limit(proxy, &format!("--data={}:", data * 1024 * 100 / 95));
    sleep(2 * SECOND);
    limit(proxy, "--data=unlimited:");
    lab.wait("requests are taken again", 10 * SECOND, |lab| {
        let asked = lab.try_exec(&client, "main", &["curl", "-sf", "-m", "2", "http://server/"]);
        asked.status.success()
    });
    sleep(SECOND);
    let outcome = load.stop(&mut lab);
    println!("memory: {} answered, {:?}", outcome.answered(), outcome.failures);
    assert!(outcome.failed() > 0 && outcome.answered() > 100, "{:?}", outcome.failures);
    assert!(outcome.failures.keys().all(|why| why.starts_with("503")), "{:?}", outcome.failures);

    let now = servers(&lab).remove(0);
    assert_eq!(now.pid("linkerd-proxy"), Some(proxy), "the sidecar lived through it");
}
