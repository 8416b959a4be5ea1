//! What a pod and its containers are doing: the words for it, and how they are shown as Kubernetes'
//! status.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::address::{GATEWAY, Pair};
use crate::plan::ContainerKind;

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started.
    #[default]
    Pending,
    /// They have.
    Running,
    /// All have ended well and stay so.
    Succeeded,
    /// All have ended, not all well.
    Failed,
}

impl Phase {
    /// Kubernetes' word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether the pod has ended for good.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running => false,
        }
    }
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It is not running, for this reason.
    #[serde(rename_all = "camelCase")]
    Waiting {
        /// One word.
        reason: String,
        /// For people; empty if there is nothing to say.
        message: String,
    },
    /// It runs.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Process id as the machine sees it, if it can be told.
        pid: Option<u32>,
        /// Process id inside the lab.
        lab_pid: u32,
    },
    /// It has ended and will not be started again.
    #[serde(rename_all = "camelCase")]
    Terminated {
        /// As a shell tells it.
        exit_code: i32,
    },
}

/// A container's part of a pod's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name.
    pub name: String,
    /// Part it plays.
    pub kind: ContainerKind,
    /// What it does.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it was found to be up.
    pub started: bool,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Processes it was before upgrades, which finish what they have; ids as the machine sees them.
    pub draining: Vec<u32>,
}

impl ContainerStatus {
    /// A container that nobody has touched yet.
    pub fn new(name: &str, kind: ContainerKind) -> Self {
        let state = State::Waiting { reason: "PodInitializing".into(), message: String::new() };
        Self {
            name: name.to_owned(),
            kind,
            state,
            restarts: 0,
            started: false,
            ready: false,
            draining: Vec::new(),
        }
    }

    /// The process id as the machine sees it.
    pub fn pid(&self) -> Option<u32> {
        match self.state {
            State::Running { pid, .. } => pid,
            State::Waiting { .. } | State::Terminated { .. } => None,
        }
    }
}

/// What a pod is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it does not go on, for people.
    pub message: String,
    /// All containers, in the order of the plan.
    pub containers: Vec<ContainerStatus>,
    /// The file of its network namespace, as the machine sees it.
    pub network_namespace: Option<String>,
    /// Whether it is being ended.
    pub stopping: bool,
}

impl PodStatus {
    /// Whether the pod may get traffic.
    pub fn is_ready(&self) -> bool {
        let counts = |one: &&ContainerStatus| match one.kind {
            ContainerKind::Main | ContainerKind::Sidecar => true,
            ContainerKind::Init => false,
        };
        self.phase == Phase::Running && self.containers.iter().filter(counts).all(|one| one.ready)
    }

    /// Why the pod is not ready, in a few words.
    pub fn waiting_for(&self) -> Option<String> {
        if self.is_ready() || self.phase == Phase::Succeeded {
            return None;
        }
        if !self.message.is_empty() {
            return Some(self.message.clone());
        }
        let unready = self.containers.iter().find(|one| match (&one.kind, &one.state) {
            (ContainerKind::Init, State::Terminated { exit_code }) => *exit_code != 0,
            _ => !one.ready,
        })?;
        Some(match &unready.state {
            State::Waiting { reason, message } if message.is_empty() => {
                format!("{}: {reason}", unready.name)
            }
            State::Waiting { reason, message } => format!("{}: {reason}: {message}", unready.name),
            State::Running { .. } if !unready.started => format!("{} is starting", unready.name),
            State::Running { .. } => format!("{} is not ready", unready.name),
            State::Terminated { exit_code } => {
                format!("{} has ended with code {exit_code}", unready.name)
            }
        })
    }

    /// The `status` of the Pod object.
    pub fn to_object(&self, addresses: Pair) -> Value {
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": truth(holds)});
        let initialized = self.phase != Phase::Pending;
        let ready = self.is_ready();
        let of = |wanted: fn(ContainerKind) -> bool| -> Vec<Value> {
            let chosen = self.containers.iter().filter(|one| wanted(one.kind));
            chosen.map(ContainerStatus::to_object).collect()
        };
        let ips = |both: [IpAddr; 2]| both.map(|ip| json!({"ip": ip}));
        json!({
            "phase": self.phase.as_str(),
            "message": self.message,
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", initialized),
                condition("ContainersReady", ready),
                condition("Ready", ready && !self.stopping),
            ],
            "hostIP": GATEWAY.v4,
            "hostIPs": ips(GATEWAY.both()),
            "podIP": addresses.v4,
            "podIPs": ips(addresses.both()),
            "initContainerStatuses": of(|kind| kind != ContainerKind::Main),
            "containerStatuses": of(|kind| kind == ContainerKind::Main),
        })
    }
}

impl ContainerStatus {
    fn to_object(&self) -> Value {
        let state = match &self.state {
            State::Waiting { reason, message } => {
                json!({"waiting": {"reason": reason, "message": message}})
            }
            State::Running { .. } => json!({"running": {}}),
            State::Terminated { exit_code } => {
                let reason = if *exit_code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": exit_code, "reason": reason}})
            }
        };
        json!({
            "name": self.name,
            "state": state,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        })
    }
}

fn truth(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_when_its_containers_and_sidecars_are() {
        let container = |name: &str, kind, ready| ContainerStatus {
            state: State::Running { pid: Some(7), lab_pid: 5 },
            started: true,
            ready,
            ..ContainerStatus::new(name, kind)
        };
        let mut init = container("init", ContainerKind::Init, false);
        init.state = State::Terminated { exit_code: 0 };
        let mut status = PodStatus {
            phase: Phase::Running,
            containers: vec![
                init,
                container("proxy", ContainerKind::Sidecar, false),
                container("app", ContainerKind::Main, true),
            ],
            ..PodStatus::default()
        };
        assert!(!status.is_ready());
        assert_eq!(status.waiting_for().as_deref(), Some("proxy is not ready"));
        status.containers[1].ready = true;
        assert!(status.is_ready());
        assert_eq!(status.waiting_for(), None);
        let object = status.to_object(crate::address::POD_NETWORK.pair(10));
        assert_eq!(object["podIPs"][1]["ip"], "fd42::a");
        assert_eq!(object["conditions"][3], json!({"type": "Ready", "status": "True"}));
        status.stopping = true;
        let object = status.to_object(crate::address::POD_NETWORK.pair(10));
        assert_eq!(object["conditions"][3]["status"], "False");
    }
}
