//! The lab of a drill and the traffic in it: servers with moods, a load, and what became of it.

use crate::SECOND;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use system_tests::{Lab, Pod, peers};

pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Threads of a load, each with one request under way.
pub(crate) const THREADS: u64 = 8;
/// A load ends by itself after this many seconds, whatever happens to its drill.
const LOAD_SECONDS: u32 = 90;

/// A namespace with a client and servers whose moods are files; `service` are further annotations
/// of the service, whose port 90 is opaque.
pub(crate) fn manifest(replicas: u8, service: &str, moods: &Path) -> String {
    let server = peers().join("moody_server.py");
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: drill, annotations: {{linkerd.io/inject: enabled}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: drill}}
spec:
  containers: [{{name: main, image: local/client, command: [sleep, infinity]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: drill, annotations: {{config.linkerd.io/opaque-ports: '90', {service}}}}}
spec:
  selector: {{app: server}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: raw, port: 90, targetPort: 9090}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: server, namespace: drill}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}, annotations: {{config.linkerd.io/opaque-ports: '9090'}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: local/server
        command: [{PYTHON}, {server}, {moods}, \"8080\", \"9090\"]
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1, failureThreshold: 2}}
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
",
        server = server.display(),
        moods = moods.display(),
    )
}

/// How a load uses its connections.
#[derive(Clone, Copy)]
pub(crate) enum Connections {
    Kept,
    Fresh,
}

/// Requests that flow while something is broken.
pub(crate) struct Load {
    report: PathBuf,
    stop: PathBuf,
}

/// What became of a load.
pub(crate) struct Outcome {
    /// Answers by who gave them.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Failures by what was seen of them.
    pub(crate) failures: BTreeMap<String, u64>,
    /// The longest time without any answer.
    pub(crate) silence: Duration,
}

impl Outcome {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    pub(crate) fn assert_lost_at_most(&self, lost: u64, drill: &str) {
        println!(
            "{drill}: {} answered, {} failed, silence {:?}, {:?}",
            self.answered(),
            self.failed(),
            self.silence,
            self.failures
        );
        assert!(self.failed() <= lost, "{drill}: more than {lost} lost: {:?}", self.failures);
        assert!(self.answered() > 100, "{drill}: too little traffic: {:?}", self.answers);
    }
}

impl Load {
    /// Starts a load and waits for its first answers.
    pub(crate) fn start(lab: &mut Lab, name: &str, url: &str, connections: Connections) -> Self {
        let report = lab.file(&format!("{name}.txt"), "");
        let stop = report.with_extension("stop");
        let mode = match connections {
            Connections::Kept => "keep",
            Connections::Fresh => "fresh",
        };
        let command = format!(
            "{PYTHON} {load} {url} {LOAD_SECONDS} {THREADS} {mode} {stop} > {report} 2>&1 &",
            load = peers().join("load.py").display(),
            stop = stop.display(),
            report = report.display(),
        );
        lab.exec(&lab.pod("drill", "client"), "main", &["sh", "-c", &command]);
        lab.wait("requests flow", 15 * SECOND, |_| {
            std::fs::read_to_string(&report).is_ok_and(|text| text.contains("flowing"))
        });
        Self { report, stop }
    }

    /// Ends the load; requests under way get their answers.
    pub(crate) fn stop(self, lab: &mut Lab) -> Outcome {
        std::fs::write(&self.stop, "").expect("write the stop file");
        let read = || std::fs::read_to_string(&self.report).unwrap_or_default();
        lab.wait("the load has ended", 20 * SECOND, |_| read().contains("done"));
        let text = read();
        let line = text.lines().find_map(|line| line.strip_prefix("report "));
        let report: Value = serde_json::from_str(line.expect("a report")).expect("JSON");
        let counts = |name: &str| {
            let counts = report[name].as_object().cloned().unwrap_or_default();
            counts.into_iter().map(|(key, n)| (key, n.as_u64().unwrap_or_default())).collect()
        };
        let silence = Duration::from_secs_f64(report["silence"].as_f64().unwrap_or(f64::MAX));
        Outcome { answers: counts("answers"), failures: counts("failures"), silence }
    }
}

/// A folder whose files are the servers' moods.
pub(crate) struct Moods(pub(crate) tempfile::TempDir);

impl Moods {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn set(&self, pod: &Pod, mood: &str) {
        std::fs::write(self.0.path().join(pod.name()), mood).expect("write a mood");
    }

    /// Of all servers that were given none of their own.
    pub(crate) fn set_all(&self, mood: &str) {
        std::fs::write(self.0.path().join("all"), mood).expect("write a mood");
    }
}
