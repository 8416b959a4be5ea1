//! From an annotation in YAML to what happens to a request: affinity, slow start, breakers, load
//! penalties, retries, timeouts and profiles, each first seen to be absent. One lab; what is
//! applied is all that changes between two cases.

#[path = "drills/traffic.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod traffic;

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};
use system_tests::{Lab, Pod, can_run, metric, peers};
use traffic::{Connections, Load, Moods, PYTHON, manifest};

const SECOND: Duration = Duration::from_secs(1);

/// How long a change may take to hold; it takes milliseconds, and asking takes longer.
const CONVERGENCE: Duration = Duration::from_secs(20);

/// What came of a request.
#[derive(Debug)]
struct Answer {
    status: u64,
    /// Who answered.
    by: String,
    took: Duration,
}

struct Cluster {
    lab: Lab,
    moods: Moods,
}

impl Cluster {
    fn servers(&self) -> Vec<Pod> {
        self.lab.ps().into_iter().filter(|pod| pod.name().starts_with("server")).collect()
    }

    /// So many servers behind a service with these annotations.
    fn serve(&self, replicas: u8, annotations: &str) {
        self.apply(&manifest(replicas, annotations, self.moods.0.path()));
    }

    fn change(&self, verb: &str, manifest: &str) {
        let path = self.lab.file("change.yml", manifest).display().to_string();
        self.lab.hauberk(&[verb, "-f", &path]);
    }

    fn apply(&self, manifest: &str) {
        self.change("apply", manifest);
    }

    /// The answers to so many requests with that header, one after the other.
    fn ask(&self, path: &str, header: (&str, &str), count: usize) -> Vec<Answer> {
        self.ask_all(path, &[header], count).remove(0)
    }

    /// The same for each of these headers.
    fn ask_all(&self, path: &str, headers: &[(&str, &str)], count: usize) -> Vec<Vec<Answer>> {
        let url = format!("http://server{path}");
        let questions = headers
            .iter()
            .map(|(name, value)| json!({"url": url, "headers": [[name, value]], "count": count}));
        let questions = Value::Array(questions.collect()).to_string();
        let program = peers().join("ask.py").display().to_string();
        let client = self.lab.pod("drill", "client");
        let said = self.lab.exec(&client, "main", &[PYTHON, &program, &questions]);
        let all: Vec<Vec<Value>> = serde_json::from_str(&said).expect("JSON");
        let answer = |one: &Value| Answer {
            status: one["status"].as_u64().unwrap_or_default(),
            by: one["body"].as_str().unwrap_or_default().to_owned(),
            took: Duration::from_secs_f64(one["seconds"].as_f64().unwrap_or_default()),
        };
        all.iter().map(|answers| answers.iter().map(answer).collect()).collect()
    }

    /// Asks until all is as wanted.
    fn until<T: std::fmt::Debug>(
        &self,
        what: &str,
        ask: impl Fn() -> T,
        wanted: impl Fn(&T) -> bool,
    ) {
        let deadline = Instant::now() + CONVERGENCE;
        loop {
            let came = ask();
            if wanted(&came) {
                return;
            }
            let client = self.lab.pod("drill", "client");
            assert!(Instant::now() < deadline, "{what}: {came:?}\n{}", self.lab.logs(&client));
        }
    }

    /// The server that gets most of the requests now: one that was slow before gets few.
    fn favourite(&self) -> Pod {
        let answers = self.ask("/", ANY, 30);
        let share = |pod: &Pod| answers.iter().filter(|answer| answer.by == pod.name()).count();
        self.servers().into_iter().max_by_key(share).expect("there are servers")
    }

    /// Requests that a server has had from meshed clients.
    fn requests(&self, server: &Pod) -> f64 {
        let page = self.lab.metrics(server, "main");
        metric(&page, "request_total", &["direction=\"inbound\"", "tls=\"true\""])
    }
}

fn failed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status != 200).count()
}

fn who(answers: &[Answer]) -> BTreeSet<&str> {
    answers.iter().map(|answer| &*answer.by).collect()
}

/// A header that nothing depends on.
const ANY: (&str, &str) = ("x-any", "thing");

/// A header that is another one in each request, by which servers know a second attempt.
const NUMBERED: (&str, &str) = ("x-request", "%");

#[test]
fn what_is_annotated_is_what_happens() {
    if !can_run("resilience") {
        return;
    }
    let moods = Moods::new();
    let lab = Lab::up("resilience", &manifest(3, "", moods.0.path()));
    let mut cluster = Cluster { lab, moods };
    affinity(&cluster);
    retries_and_timeouts(&cluster);
    profiles(&cluster);
    a_breaker_of_a_route(&cluster);
    a_load_penalty(&cluster);
    slow_start(&mut cluster);
}

fn affinity(cluster: &Cluster) {
    let by_load = |what: &str| {
        let ask = || cluster.ask("/", ("x-user", "1"), 20);
        cluster.until(what, ask, |answers| who(answers).len() > 1 && failed(answers) == 0);
    };
    by_load("without affinity");
    let users: Vec<String> = (0..12).map(|user| format!("a=1; sid={user}")).collect();
    for (annotated, header) in [("header:x-user", "x-user"), ("cookie:sid", "cookie")] {
        cluster.serve(3, &format!("balancer.hauberk.io/affinity: '{annotated}'"));
        let headers: Vec<_> = users.iter().map(|user| (header, &**user)).collect();
        let ask = || cluster.ask_all("/", &headers, 5);
        cluster.until(annotated, ask, |answers| {
            let homes: BTreeSet<_> = answers.iter().flat_map(|answers| who(answers)).collect();
            answers.iter().all(|answers| who(answers).len() == 1) && homes.len() > 1
        });
    }
    // By the annotation, and by what Kubernetes itself has for it.
    let plain = manifest(3, "", cluster.moods.0.path());
    let ports = "  ports: [{name: http, port: 80";
    let by_client = plain.replace(ports, &format!("  sessionAffinity: ClientIP\n{ports}"));
    assert_ne!(plain, by_client, "the service was found");
    let annotated = "balancer.hauberk.io/affinity: source";
    for manifest in [manifest(3, annotated, cluster.moods.0.path()), by_client] {
        cluster.apply(&manifest);
        let ask = || cluster.ask("/", ("x-user", "1"), 30);
        cluster.until("source", ask, |answers| who(answers).len() == 1);
        cluster.apply(&plain);
        by_load("without affinity again");
    }
}

fn route(name: &str, annotations: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: drill, annotations: {{{annotations}}}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: server, port: 80}}]
  rules: {rules}
---
"
    )
}

const TO_SERVER: &str = "backendRefs: [{name: server, port: 80}]";

fn retries_and_timeouts(cluster: &Cluster) {
    let plain = format!("[{{{TO_SERVER}}}]");
    cluster.moods.set_all("once");
    assert_eq!(failed(&cluster.ask("/", NUMBERED, 5)), 5, "nobody asks again");
    let retry = "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2'";
    cluster.apply(&route("all", retry, &plain));
    let ask = || cluster.ask("/", NUMBERED, 15);
    cluster.until("retries", ask, |answers| failed(answers) == 0);

    cluster.moods.set_all("slow");
    let timeout = |answer: &Answer| answer.status == 504 && answer.took < SECOND;
    cluster.until(
        "no limit",
        || cluster.ask("/", ANY, 1),
        |answers| answers[0].status == 200 && answers[0].took >= SECOND,
    );
    cluster.apply(&route("all", "timeout.linkerd.io/request: 300ms", &plain));
    let ask = || cluster.ask("/", ANY, 2);
    cluster.until("a limit by annotation", ask, |answers| answers.iter().all(timeout));
    cluster.apply(&route("all", "", &plain));
    cluster.until("no limit again", ask, |answers| failed(answers) == 0);
    let rule = format!("[{{timeouts: {{request: 300ms}}, {TO_SERVER}}}]");
    cluster.apply(&route("all", "", &rule));
    cluster.until("a limit by its rule", ask, |answers| answers.iter().all(timeout));
    cluster.change("delete", &route("all", "", &plain));
    cluster.until("no route", ask, |answers| failed(answers) == 0);
    cluster.moods.set_all("well");
}

fn profiles(cluster: &Cluster) {
    let profile = |more: &str| {
        format!(
            "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {{name: server.drill.svc.cluster.local, namespace: drill}}
spec:
  retryBudget: {{retryRatio: 0.5, minRetriesPerSecond: 100, ttl: 10s}}
  routes:
  - {{name: all, condition: {{pathRegex: '/.*'}}, {more}}}
"
        )
    };
    cluster.moods.set_all("once");
    cluster.apply(&profile("isRetryable: false"));
    assert_eq!(failed(&cluster.ask("/", NUMBERED, 5)), 5, "nobody asks again");
    cluster.apply(&profile("isRetryable: true"));
    let ask = || cluster.ask("/", NUMBERED, 15);
    cluster.until("a route that may be asked again", ask, |answers| failed(answers) == 0);
    cluster.moods.set_all("slow");
    cluster.apply(&profile("timeout: 300ms"));
    let ask = || cluster.ask("/", ANY, 2);
    cluster.until("a route with a limit", ask, |answers| {
        answers.iter().all(|answer| answer.status == 504 && answer.took < SECOND)
    });
    cluster.change("delete", &profile("timeout: 300ms"));
    cluster.until("no profile", ask, |answers| failed(answers) == 0);
    cluster.moods.set_all("well");
}

fn a_breaker_of_a_route(cluster: &Cluster) {
    let bad = cluster.favourite();
    cluster.moods.set(&bad, "error /bad");
    let rules = |path: &str| {
        format!("[{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {TO_SERVER}}}]")
    };
    let ask = || cluster.ask("/bad", ANY, 30);
    cluster.apply(&(route("bad", "", &rules("/bad")) + &route("good", "", &rules("/good"))));
    cluster.until("without a breaker", ask, |answers| failed(answers) > 3);
    let breaker = "balancer.linkerd.io/failure-accrual: consecutive, \
                   balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3', \
                   balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 60s";
    cluster.apply(&route("bad", breaker, &rules("/bad")));
    cluster.until("with a breaker", ask, |answers| failed(answers) == 0);
    // The other route has the endpoint still.
    let good = cluster.ask("/good", ANY, 60);
    assert!(failed(&good) == 0 && who(&good).contains(bad.name()), "{good:?}");
    let bad_again = cluster.ask("/bad", ANY, 30);
    assert!(failed(&bad_again) == 0 && !who(&bad_again).contains(bad.name()), "{bad_again:?}");
    let both = route("bad", "", &rules("/bad")) + &route("good", "", &rules("/good"));
    cluster.change("delete", &both);
    cluster.moods.set(&bad, "well");
}

fn a_load_penalty(cluster: &Cluster) {
    let bad = cluster.favourite();
    cluster.moods.set(&bad, "error");
    let ask = || cluster.ask("/", ANY, 60);
    cluster.until("failures count as quick answers", ask, |answers| failed(answers) > 8);
    cluster.serve(3, "balancer.alpha.linkerd.io/penalize-failures: 'true'");
    cluster.until("failures count as slow answers", ask, |answers| failed(answers) <= 2);
    cluster.moods.set(&bad, "well");
    cluster.serve(3, "");
}

/// The share of requests that a server gets which has just joined the others.
fn share_of_a_new_server(cluster: &mut Cluster, replicas: u8, annotations: &str) -> f64 {
    let known: BTreeSet<String> =
        cluster.servers().iter().map(|pod| pod.name().to_owned()).collect();
    cluster.serve(replicas - 1, annotations);
    let name = format!("joins-{replicas}");
    let load = Load::start(&mut cluster.lab, &name, "http://server/", Connections::Kept);
    cluster.serve(replicas, annotations);
    let is_new = |pod: &&Pod| !known.contains(pod.name());
    let deadline = Instant::now() + CONVERGENCE;
    let new = loop {
        let servers = cluster.servers();
        match servers.iter().find(is_new) {
            // One request at least has come to it, so it is among the endpoints.
            Some(new) if new.is_ready() && cluster.requests(new) > 0.0 => break new.clone(),
            _ => assert!(Instant::now() < deadline, "no new server\n{}", cluster.lab.story()),
        }
    };
    let count = || {
        let servers = cluster.servers();
        let all: f64 = servers.iter().map(|server| cluster.requests(server)).sum();
        [cluster.requests(&new), all]
    };
    let [before, all_before] = count();
    sleep(2 * SECOND);
    let [after, all_after] = count();
    load.stop(&mut cluster.lab).assert_lost_at_most(0, annotations);
    (after - before) / (all_after - all_before)
}

fn slow_start(cluster: &mut Cluster) {
    // Slower than endpoints are assumed to be, so that a new one looks better than the others.
    cluster.moods.set_all("tardy");
    for pod in cluster.servers() {
        cluster.moods.set(&pod, "tardy");
    }
    let gentle = share_of_a_new_server(cluster, 4, "balancer.hauberk.io/slow-start: 60s");
    println!("share of a new one of four, with slow start: {gentle:.3}");
    let abrupt = share_of_a_new_server(cluster, 5, "");
    println!("share of a new one of five, without: {abrupt:.3}");
    // Half of an even share divides them, however busy the machine is.
    let (gentle, abrupt) = (gentle * 4.0, abrupt * 5.0);
    assert!(gentle < 0.5 && abrupt > 0.5, "{gentle} of an even share, {abrupt} without");
}
