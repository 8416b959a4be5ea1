//! What proxies and the control plane tell, as a real Prometheus takes it: classic buckets by text,
//! native histograms by protobuf.
//!
//! Two servers of Debian's package scrape the same proxies at the same time, one as it is installed,
//! the other with native histograms switched on. Between them goes a load whose times are known, and
//! both must find those times in what they have stored. Not here: which families there are
//! (`proxy/tests/metrics.rs`), and exemplars, of which we send none.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, can_run, has, metric, peers, proxy_under_test, text};

const PYTHON: &str = "/usr/bin/python3";

/// How long Prometheus may take until it knows something: some scrapes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two scrapes, and the longest one.
const INTERVAL: &str = "2s";

/// How far two neighbouring native buckets are apart (schema 3): 2^(1/8).
const NATIVE_STEP: f64 = 1.0906;

/// What a request may take in the client beyond what its proxy counts or the other way about, in
/// milliseconds: a proxy has seen the end of a body only after the client has been given it.
const SLACK: f64 = 50.0;

/// Endpoints of the server's service.
const REPLICAS: usize = 2;

/// What is asked of the server: so many requests that take so many milliseconds there. Before the
/// load is measured each series must be known, or the first scrape would hide a part of it.
const WARM_UP: &[&str] = &["16x30"];
const WARM_UP_REQUESTS: f64 = 16.0;
/// None near a bound of the classic buckets: two servers that scrape at different moments may see a
/// quantile there on either side of it.
const LOAD: &[&str] = &["40x12", "40x120", "20x350"];
const REQUESTS: f64 = 100.0;

/// Quantiles in the middle of each kind of request, and what the server slept for it.
const QUANTILES: [(f64, f64); 3] = [(0.2, 12.0), (0.6, 120.0), (0.9, 350.0)];

/// The same load as proxies on both sides count it. `per_millisecond` is what a
/// millisecond is there.
struct Histogram {
    name: &'static str,
    labels: &'static str,
    per_millisecond: f64,
}

const HISTOGRAMS: [Histogram; 4] = [
    Histogram {
        name: "response_latency_ms",
        labels: r#"job="client", direction="outbound", dst_service="server""#,
        per_millisecond: 1.0,
    },
    Histogram {
        name: "response_latency_ms",
        labels: r#"job=~"server.", direction="inbound", target_port="8080""#,
        per_millisecond: 1.0,
    },
    Histogram {
        name: "outbound_http_route_request_duration_seconds",
        labels: r#"job="client", parent_name="server""#,
        per_millisecond: 0.001,
    },
    Histogram {
        name: "outbound_http_route_backend_response_duration_seconds",
        labels: r#"job="client", backend_name="server""#,
        per_millisecond: 0.001,
    },
];

fn manifest() -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: scrape, annotations: {{linkerd.io/inject: enabled}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: scrape}}
spec:
  containers: [{{name: main, image: local/client, command: [sleep, infinity]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: scrape}}
spec:
  selector: {{app: server}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: server, namespace: scrape}}
spec:
  replicas: {REPLICAS}
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}}}
    spec:
      containers:
      - name: main
        image: local/server
        command: [{PYTHON}, {server}, server, '8080']
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
",
        server = peers().join("timed.py").display()
    )
}

/// A running Prometheus; it goes when the value does.
struct Prometheus {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Prometheus {
    /// Starts one that scrapes each of these addresses, each a job of its own.
    fn start(folder: &Path, arguments: &[&str], jobs: &[(String, String)]) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        std::fs::create_dir_all(folder).expect("make a folder");
        let mut config = format!(
            "global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}}}\nscrape_configs:\n"
        );
        for (job, address) in jobs {
            let _ = writeln!(
                config,
                "- {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}"
            );
        }
        std::fs::write(file("prometheus.yml"), config).expect("write a file");
        let log = folder.join("log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus"])
            .arg(format!("--config.file={}", file("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", file("data")))
            .arg("--web.listen-address=127.0.0.1:0")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("create the log"))
            .spawn()
            .expect("start prometheus");
        let mut started = Self { child, address: String::new(), log };
        let address = until("prometheus serves", || {
            let log = started.log();
            assert!(started.child.try_wait().is_ok_and(|ended| ended.is_none()), "{log}");
            let line = log.lines().find(|line| line.contains("msg=\"Listening on\""))?;
            log.contains("Server is ready").then_some(())?;
            line.rsplit_once("address=").map(|(_, address)| address.to_owned())
        });
        started.address = address;
        started
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the API says under that path, which must succeed.
    fn api(&self, path: &str, parameter: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--get", &url, "--data-urlencode", parameter])
            .output()
            .expect("run curl");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(answer["status"], "success", "{path} {parameter}: {said}\n{}", self.log());
        answer["data"].clone()
    }

    /// The values that a query finds now, by series.
    fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let data = self.api("query", &format!("query={query}"));
        let list = data["result"].as_array().cloned().unwrap_or_default();
        let number = |sample: &Value| sample["value"][1].as_str()?.parse().ok();
        list.into_iter()
            .map(|sample| {
                let value = number(&sample);
                let value = value.unwrap_or_else(|| panic!("{query}: no number in {sample}"));
                (sample["metric"].clone(), value)
            })
            .collect()
    }

    /// The only value of a query.
    fn value(&self, query: &str) -> Option<f64> {
        match &self.query(query)[..] {
            [] => None,
            [(_, value)] => Some(*value),
            more => panic!("{query}: {more:?}"),
        }
    }

    /// Waits until a query has this value.
    fn wait(&self, query: &str, wanted: f64) {
        let mut last = None;
        let what = format!("{query} is {wanted}");
        let found = attempt(PATIENCE, || {
            last = self.value(query);
            last.filter(|value| (value - wanted).abs() < 0.01)
        });
        assert!(found.is_some(), "{what}: it is {last:?}\n{}", self.log());
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn attempt<T>(limit: Duration, mut get: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = get();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn until<T>(what: &str, get: impl FnMut() -> Option<T>) -> T {
    attempt(PATIENCE, get).unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"))
}

#[test]
fn a_real_prometheus_finds_the_times_of_a_known_load() {
    if !can_run("scrape") || !has("prometheus") || !has("promtool") || !has("curl") {
        return;
    }
    if proxy_under_test().is_some() {
        println!("SKIPPED scrape: it is about our metrics");
        return;
    }
    let lab = Lab::up("scrape", &manifest());
    let client = lab.pod("scrape", "client");
    let mut pods = vec![("client".to_owned(), client.clone(), 4191)];
    let servers = lab.ps().into_iter().filter(|pod| pod.name().starts_with("server"));
    pods.extend(servers.enumerate().map(|(n, pod)| (format!("server{n}"), pod, 4191)));
    assert_eq!(pods.len(), 1 + REPLICAS, "{}", lab.story());
    pods.push(("control".to_owned(), lab.control_plane(), 9990));
    let forwarded = |(job, pod, port): &(String, _, u16)| {
        let (forward, address) = lab.forward(Pod::name(pod), *port);
        (forward, (job.clone(), address))
    };
    let (_forwards, jobs): (Vec<_>, Vec<_>) = pods.iter().map(forwarded).unzip();
    let load = |load: &[&str]| -> Vec<f64> {
        let program = peers().join("timed.py").display().to_string();
        let command = [&[PYTHON, &program, "client", "http://server"][..], load].concat();
        serde_json::from_str(&lab.exec(&client, "main", &command)).expect("times")
    };

    let folder = tempfile::tempdir().expect("a temporary directory");
    let native = ["--enable-feature=native-histograms"];
    let mut before = 0.0;
    until("each server has answered", || {
        load(WARM_UP);
        before += WARM_UP_REQUESTS;
        let answered = |pod| {
            let labels = ["direction=\"inbound\"", "target_port=\"8080\""];
            metric(&lab.metrics(pod, "main"), "response_latency_ms_count", &labels) > 0.0
        };
        pods[1..=REPLICAS].iter().all(|(_, pod, _)| answered(pod)).then_some(())
    });
    let classic = Prometheus::start(&folder.path().join("classic"), &[], &jobs);
    let native = Prometheus::start(&folder.path().join("native"), &native, &jobs);
    wait_for_counts(&classic, &native, before);
    let times = load(LOAD);
    assert_eq!(times.len() as f64, REQUESTS);
    wait_for_counts(&classic, &native, before + REQUESTS);

    // Connections are counted under who was asked for, as requests are.
    let labels =
        r#"peer="dst", authority="server.scrape.svc.cluster.local:80", dst_service="server""#;
    let query = format!("count(tcp_open_total{{job=\"client\", {labels}}})");
    assert_eq!(classic.value(&query), Some(REPLICAS as f64), "{query}");
    // Each worker has a balancer; an endpoint is one nevertheless.
    for (name, state) in [("endpoints", ", endpoint_state=\"ready\""), ("p2c_endpoints", "")] {
        let labels = format!("job=\"client\", backend_name=\"server\"{state}");
        let query = format!("outbound_http_balancer_{name}{{{labels}}}");
        assert_eq!(classic.value(&query), Some(REPLICAS as f64), "{query}");
        assert_eq!(native.value(&query), Some(REPLICAS as f64), "{query}");
    }
    for histogram in &HISTOGRAMS {
        check_quantiles(histogram, &classic, &native, &times);
    }
    check_all_histograms(&classic, &native);
    for prometheus in [&classic, &native] {
        check_scrapes(prometheus, jobs.len());
        check_types(prometheus);
    }
    for (job, address) in &jobs {
        lint(job, address);
    }
}

/// Waits until both have scraped that many requests in each histogram.
fn wait_for_counts(classic: &Prometheus, native: &Prometheus, count: f64) {
    for Histogram { name, labels, .. } in &HISTOGRAMS {
        classic.wait(&format!("sum({name}_count{{{labels}}})"), count);
        native.wait(&format!("histogram_count(sum({name}{{{labels}}}))"), count);
    }
}

/// Both know the load's quantiles as dashboards ask for them: by rates.
fn check_quantiles(
    histogram: &Histogram,
    classic: &Prometheus,
    native: &Prometheus,
    times: &[f64],
) {
    let Histogram { name, labels, per_millisecond } = histogram;
    let what = format!("{name}{{{labels}}}");
    let increase = classic.value(&format!("sum(increase({name}_count{{{labels}}}[5m]))"));
    let increase = increase.unwrap_or_else(|| panic!("{what}: no increase"));
    // Prometheus goes on drawing the line to the ends of the range, so it says more.
    assert!(increase >= REQUESTS - 0.01, "{what}: {increase}");
    for (quantile, slept) in QUANTILES {
        let by_classic = classic.value(&format!(
            "histogram_quantile({quantile}, sum by (le) (rate({name}_bucket{{{labels}}}[5m])))"
        ));
        let by_native = native
            .value(&format!("histogram_quantile({quantile}, sum(rate({name}{{{labels}}}[5m])))"));
        let milliseconds = |found: Option<f64>| {
            found.unwrap_or_else(|| panic!("{what}: no quantile {quantile}")) / per_millisecond
        };
        let (by_classic, by_native) = (milliseconds(by_classic), milliseconds(by_native));
        let what = format!("{what}: {quantile} is {by_classic} and {by_native} ms");
        println!("{what}");

        // The n-th shortest of the requests took at least what the server slept, and at most what
        // the n-th shortest took the client. Native buckets are as fine as their step.
        let rank = (quantile * times.len() as f64).ceil() as usize;
        let longest = times[rank - 1] + SLACK;
        assert!(by_native >= slept / NATIVE_STEP, "{what}, but it slept {slept}");
        assert!(by_native <= longest * NATIVE_STEP, "{what}, but the client had {longest}");

        // The classic answer lies somewhere in its bucket, the truth in the same one.
        let bounds = classic.query(&format!("count by (le) ({name}_bucket{{{labels}}})"));
        let bounds = bounds.iter().map(|(series, _)| match series["le"].as_str() {
            Some("+Inf") => f64::INFINITY,
            Some(bound) => bound.parse::<f64>().expect("a number") / per_millisecond,
            None => panic!("{what}: {series}"),
        });
        let bounds: Vec<f64> = bounds.collect();
        let below = bounds.iter().copied().filter(|bound| *bound < by_classic - 1e-6);
        let above = bounds.iter().copied().filter(|bound| *bound >= by_classic - 1e-6);
        let (below, above) = (below.fold(0.0, f64::max), above.fold(f64::INFINITY, f64::min));
        assert!(
            (below / NATIVE_STEP..=above * NATIVE_STEP).contains(&by_native),
            "{what}, but the bucket is ({below}, {above}]"
        );
    }
}

/// Every histogram that text shows has come by protobuf as a native one, with as many observations
/// and the same sum where nothing is going on any more.
fn check_all_histograms(classic: &Prometheus, native: &Prometheus) {
    let names = |prometheus: &Prometheus| -> BTreeSet<String> {
        let names = prometheus.api("label/__name__/values", "limit=10000");
        let names = names.as_array().expect("a list").iter();
        names.map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
    };
    let (of_classic, of_native) = (names(classic), names(native));
    let histograms: Vec<&str> =
        of_classic.iter().filter_map(|name| name.strip_suffix("_bucket")).collect();
    assert!(histograms.len() >= 12, "{histograms:?}");
    for name in &histograms {
        assert!(of_native.contains(*name), "{name} is not native");
        let is_classic = of_native.contains(&format!("{name}_bucket"));
        assert!(!is_classic, "{name} came without native buckets");
    }
    // Nobody sends requests now, but scrapes and streams of the control plane go on.
    let quiet = [
        "outbound_http_route_request_duration_seconds",
        "outbound_http_route_request_frame_size_bytes",
        "outbound_http_route_backend_response_frame_size_bytes",
        "outbound_http_balancer_queue_latency_seconds",
        "outbound_tcp_detect_http_duration_seconds",
    ];
    for name in quiet {
        assert!(histograms.contains(&name), "{name} in {histograms:?}");
        for (of_classic, of_native) in [("_count", "histogram_count"), ("_sum", "histogram_sum")] {
            let labels = "{job=\"client\"}";
            let of_classic = format!("sum({name}{of_classic}{labels})");
            let of_native = format!("{of_native}(sum({name}{labels}))");
            // The last scrapes of the two may lie on both sides of the last observation.
            until(&format!("{of_classic} is {of_native}"), || {
                let (one, other) = (classic.value(&of_classic)?, native.value(&of_native)?);
                ((one - other).abs() <= one.abs() * 1e-9).then_some(())
            });
        }
    }
    // What is not a histogram is there in both.
    let scalars = of_classic
        .iter()
        .filter(|name| !["_bucket", "_sum", "_count"].iter().any(|suffix| name.ends_with(suffix)));
    let missing: Vec<_> = scalars.filter(|name| !of_native.contains(*name)).collect();
    assert!(missing.is_empty(), "not by protobuf: {missing:?}");
}

/// Every scrape succeeded and nothing was complained of.
fn check_scrapes(prometheus: &Prometheus, jobs: usize) {
    let scrapes = prometheus.query("min_over_time(up[5m])");
    assert_eq!(scrapes.len(), jobs, "{scrapes:?}");
    for (job, up) in scrapes {
        assert!(
            up == 1.0,
            "{job}: {}\n{}",
            prometheus.api("targets", "state=active"),
            prometheus.log()
        );
    }
    let targets = prometheus.api("targets", "state=active");
    for target in targets["activeTargets"].as_array().expect("targets") {
        assert_eq!(
            (&target["health"], &target["lastError"]),
            (&"up".into(), &"".into()),
            "{target}"
        );
    }
    let log = prometheus.log();
    let complaints: Vec<_> = log.lines().filter(|line| !line.contains("level=info")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Prometheus knows what each family is.
fn check_types(prometheus: &Prometheus) {
    let targets = prometheus.api("targets/metadata", "limit=10000");
    let mut types = BTreeMap::new();
    for family in targets.as_array().expect("a list") {
        let (name, kind) = (family["metric"].as_str(), family["type"].as_str());
        let (Some(name), Some(kind)) = (name, kind) else { panic!("{family}") };
        assert!(family["help"].as_str().is_some_and(|help| !help.is_empty()), "{family}");
        let known = types.insert(name.to_owned(), kind.to_owned());
        assert!(known.is_none_or(|known| known == kind), "{name} is two kinds");
    }
    for (name, kind) in &types {
        let is_counter = name.ends_with("_total");
        assert_eq!(is_counter, kind == "counter", "{name} is a {kind}");
        assert!(["counter", "gauge", "histogram"].contains(&&**kind), "{name} is a {kind}");
    }
    for (name, kind) in [
        ("request_total", "counter"),
        ("response_latency_ms", "histogram"),
        ("tcp_open_connections", "gauge"),
        ("control_streams", "gauge"),
    ] {
        assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}");
    }
}

/// What `promtool check metrics` complains of and we keep, because dashboards know these names from
/// linkerd2-proxy.
const KEPT: &[&str] = &[
    "control_response_latency_ms metric names should not contain abbreviated units",
    "response_latency_ms metric names should not contain abbreviated units",
];

/// Prometheus' own judge of pages has nothing to say that we have not judged.
fn lint(job: &str, address: &str) {
    let page = Command::new("curl")
        .args(["-sSf", "--max-time", "20", &format!("http://{address}/metrics")])
        .output()
        .expect("run curl");
    assert!(page.status.success(), "{job}: {}", text(&page.stderr));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool");
    let mut stdin = promtool.stdin.take().expect("stdin is piped");
    stdin.write_all(&page.stdout).expect("give it the page");
    drop(stdin);
    let output = promtool.wait_with_output().expect("wait for promtool");
    let said = text(&output.stdout) + &text(&output.stderr);
    let complaints: Vec<_> = said.lines().filter(|line| !KEPT.contains(line)).collect();
    assert!(complaints.is_empty(), "{job}: {complaints:#?}");
    // 3 says that there was something to complain of, 1 that the page cannot be read.
    assert_ne!(output.status.code(), Some(1), "{job}: {said}");
}
