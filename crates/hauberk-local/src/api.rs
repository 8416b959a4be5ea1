//! What the command line and the runtime say to each other over the lab's socket.
//!
//! One connection carries one request: a line of JSON, answered by a line of JSON. `logs` and `exec`
//! go on after that: the output as plain bytes, or a second line with the exit code. File
//! descriptors travel beside the first byte of a line (`SCM_RIGHTS`, unix(7)): the terminal of
//! `exec` to the runtime, the connected socket of `dial` back.
//!
//! An answer about the lab's state comes when the kernel has the rules of that state: a pod that it
//! calls ready can be dialled by its services' addresses, and so can a service that was applied.
//!
//! Both sides are the same program, so there are no versions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::status::{PodStatus, State};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// How far the lab is.
    Progress,
    /// Put these objects in.
    Apply {
        /// Manifests.
        manifests: Vec<Value>,
    },
    /// Take these objects out.
    Delete {
        /// Manifests, of which only kind, namespace and name matter.
        manifests: Vec<Value>,
    },
    /// Show objects.
    Get {
        /// Kind as typed.
        kind: String,
        /// Name; all if absent.
        name: Option<String>,
        /// Namespace; all if absent.
        namespace: Option<String>,
    },
    /// Show all pods.
    Pods,
    /// A container's output.
    Logs {
        /// Which.
        target: Target,
        /// Whether to go on when the end is reached.
        follow: bool,
    },
    /// Run a program in a container; comes with standard input, output and error.
    Exec {
        /// Where.
        target: Target,
        /// What.
        command: Vec<String>,
    },
    /// Open a connection inside the lab; the answer comes with the socket.
    Dial {
        /// A pod, or `svc/name`.
        target: Target,
        /// Port of the pod or service.
        port: u16,
    },
    /// Put a new process in the place of a pod's sidecar, without a gap; the rest of the pod is not
    /// touched.
    Upgrade {
        /// The pod.
        target: Target,
        /// The new program; the file that runs now, as it is by now, if absent.
        program: Option<PathBuf>,
        /// Time for the new process until it serves.
        timeout_seconds: u64,
    },
    /// Run this program as the sidecar of pods that are made from now on.
    UseProxy {
        /// The program.
        program: PathBuf,
    },
    /// End the lab.
    Stop,
}

/// The container that `Upgrade` is about.
pub const PROXY_CONTAINER: &str = "linkerd-proxy";

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Name of a pod, or of what owns it (`web`, `deploy/web`), or `namespace/name`.
    pub pod: String,
    /// Namespace; any if absent.
    pub namespace: Option<String>,
    /// Container; the first one proper if absent.
    pub container: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// To `Progress`.
    Progress(Progress),
    /// To `Apply` and `Delete`: a line for each object.
    Changed {
        /// As `deployment/web configured`.
        lines: Vec<String>,
    },
    /// To `Get`.
    Objects {
        /// Them.
        objects: Vec<Value>,
    },
    /// To `Pods`.
    Pods {
        /// Them.
        pods: Vec<PodRow>,
    },
    /// To `Upgrade`.
    Upgraded(Upgraded),
    /// It goes on from here.
    Ready,
    /// The end of `Exec`.
    Exit {
        /// As a shell tells it.
        code: i32,
    },
    /// It cannot be done.
    Failed {
        /// Why.
        error: String,
    },
}

/// A sidecar that was upgraded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgraded {
    /// Process id of the former one, as the machine sees it; none if there was none at the time.
    pub pid_before: Option<u32>,
    /// Process id of the new one.
    pub pid_after: Option<u32>,
}

/// How far a lab is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whether all manifests of the command line have been read.
    pub loaded: bool,
    /// Pods that should be there.
    pub pods: usize,
    /// Those of them that are ready or have succeeded.
    pub ready: usize,
    /// What the others wait for, a line each.
    pub waiting: Vec<String>,
    /// What cannot be done as it is, a line each.
    pub problems: Vec<String>,
}

impl Progress {
    /// Whether nothing is left to wait for.
    pub fn is_complete(&self) -> bool {
        self.loaded && self.ready == self.pods
    }
}

/// A pod, for `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `deployment/web`, or empty.
    pub owner: String,
    /// Addresses, IPv4 first.
    pub ips: Vec<String>,
    /// Kubernetes' word for where it is in its life; `Terminating` while it is being ended.
    pub phase: String,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Whether it has a sidecar of the mesh.
    pub meshed: bool,
    /// File of its network namespace, as the machine sees it.
    pub network_namespace: Option<String>,
    /// What it waits for.
    pub message: Option<String>,
    /// Its containers.
    pub containers: Vec<ContainerRow>,
}

/// A container, for `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRow {
    /// Name.
    pub name: String,
    /// `init`, `sidecar` or `main`.
    pub kind: crate::plan::ContainerKind,
    /// Process id as the machine sees it.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it may get traffic.
    pub ready: bool,
    /// What it does, in a word or two.
    pub state: String,
    /// Processes it was before upgrades, which finish what they have.
    pub draining: Vec<u32>,
}

impl ContainerRow {
    /// The rows of a status.
    pub fn all(status: &PodStatus) -> Vec<Self> {
        let row = |one: &crate::status::ContainerStatus| Self {
            name: one.name.clone(),
            kind: one.kind,
            pid: one.pid(),
            draining: one.draining.clone(),
            restarts: one.restarts,
            ready: one.ready,
            state: match &one.state {
                State::Waiting { reason, .. } => reason.clone(),
                State::Running { .. } => "Running".to_owned(),
                State::Terminated { exit_code: 0 } => "Completed".to_owned(),
                State::Terminated { exit_code } => format!("Error {exit_code}"),
            },
        };
        status.containers.iter().map(row).collect()
    }
}
