//! From a pod's manifest to what has to be run: processes, files, mounts. Pure.
//!
//! Called once for each pod, when its addresses are known and the sidecar is injected. What comes
//! out ([`PodPlan`]) needs no further look at the manifest, and everything that cannot be done on
//! one machine is refused here, by name, before anything was started.
//!
//! The rules are Kubernetes' own: how `$(VAR)` is expanded, what the downward API shows, which
//! files a configMap becomes. Deliberately not here: when anything happens ([`crate::pod`]).

mod environment;
mod files;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use crate::address::{GATEWAY, Pair};
use crate::image::{Images, UnknownImage};
use crate::objects::{Key, Objects};
use crate::spec::{self, Container, Handler, Pod, Probe, RestartPolicy};

/// Name of the one node of a lab.
pub const NODE: &str = "hauberk-local";
/// The DNS domain of the lab.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where programs look for the token of their service account.
const SERVICE_ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubernetes' default for a volume's token, and for its grace period.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
const GRACE_PERIOD: Duration = Duration::from_secs(30);

/// What the surroundings contribute to a plan.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Programs of images.
    pub images: &'a Images,
    /// For configMaps and secrets.
    pub objects: &'a Objects,
    /// The pod's own addresses.
    pub addresses: Pair,
    /// `PATH` for containers that set none.
    pub path: &'a str,
    /// Which ids the user namespace knows.
    pub ids: &'a IdRanges,
}

/// The ids a process of this user namespace can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges(Vec<std::ops::Range<u64>>);

impl IdRanges {
    /// Reads `/proc/self/uid_map` (user_namespaces(7)): first id inside, outside, and how many.
    pub fn parse(map: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
            let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some(first..first + count)
        };
        Self(map.lines().filter_map(range).collect())
    }

    /// Whether the id exists.
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|range| range.contains(&u64::from(id)))
    }
}

/// A pod, ready to be run.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// Addresses.
    pub addresses: Pair,
    /// Host name.
    pub hostname: String,
    /// Whose tokens it gets.
    pub service_account: String,
    /// Text of `/etc/hosts`.
    pub hosts: String,
    /// Text of `/etc/resolv.conf`.
    pub resolver: String,
    /// Directories that containers mount.
    pub volumes: Vec<Volume>,
    /// Init containers and sidecars, in order.
    pub init: Vec<ContainerPlan>,
    /// The containers proper.
    pub containers: Vec<ContainerPlan>,
    /// Restart policy of the containers proper.
    pub restart: RestartPolicy,
    /// Time between the request to end and the end.
    pub grace: Duration,
}

/// A directory of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Content.
    pub content: Content,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An empty directory that everybody may write to.
    Empty,
    /// These files.
    Files(Vec<File>),
    /// A directory or file of the machine.
    Host(PathBuf),
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path below the volume; has no `..`.
    pub path: String,
    /// Content.
    pub text: FileText,
}

/// What a file contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileText {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A token of the pod's service account, renewed before it ends.
    Token {
        /// For whom.
        audience: String,
        /// How long one is good.
        lifetime: Duration,
    },
}

/// What part a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerKind {
    /// Runs to its end before the next one starts.
    Init,
    /// Starts before the others and stops after them.
    Sidecar,
    /// The reason for the pod.
    Main,
}

/// A container, ready to be run.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    /// Name.
    pub name: String,
    /// Part.
    pub kind: ContainerKind,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whole environment.
    pub environment: Vec<(String, String)>,
    /// Working directory.
    pub directory: String,
    /// User and group, if not the runtime's.
    pub ids: Option<(u32, u32)>,
    /// Capabilities it has beside those of its user, by Kubernetes' names.
    pub capabilities: Vec<String>,
    /// Volumes to be seen.
    pub mounts: Vec<MountPlan>,
    /// Is it up?
    pub startup: Option<ProbePlan>,
    /// May it get traffic?
    pub readiness: Option<ProbePlan>,
    /// Should it be restarted?
    pub liveness: Option<ProbePlan>,
    /// Run after its start.
    pub post_start: Option<Action>,
    /// Run before it is asked to stop.
    pub pre_stop: Option<Action>,
}

/// A volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// The volume's name.
    pub volume: String,
    /// Part of the volume.
    pub sub_path: Option<String>,
    /// Where it is seen.
    pub path: PathBuf,
    /// Whether it can be written to.
    pub read_only: bool,
}

/// A probe with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    /// What is done.
    pub action: Action,
    /// Wait after the start.
    pub initial_delay: Duration,
    /// Time between two.
    pub period: Duration,
    /// Time for one.
    pub timeout: Duration,
    /// Successes in a row that change the state.
    pub success_threshold: u32,
    /// Failures in a row that change the state.
    pub failure_threshold: u32,
}

/// What a probe or hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a program in the container; good is exit code 0.
    Exec(Vec<String>),
    /// Asks; good is a status from 200 to 399.
    Http {
        /// Whom.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Sent along.
        headers: Vec<(String, String)>,
    },
    /// Connects.
    Tcp {
        /// Whom.
        host: String,
        /// Port.
        port: u16,
    },
    /// Waits.
    Sleep(Duration),
}

/// Why a pod cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The manifest does not fit the API.
    #[error("cannot read the pod's manifest: {0}")]
    Manifest(#[from] serde_json::Error),
    /// No program.
    #[error(transparent)]
    Image(#[from] UnknownImage),
    /// Asks for something that is not here.
    #[error("{0}")]
    Missing(String),
    /// Asks for something that a lab cannot do.
    #[error("{0}; hint: a lab on one machine cannot do this")]
    Unsupported(String),
}

/// Plans a pod.
///
/// # Errors
/// The first thing that cannot be done.
pub fn plan(manifest: &Value, context: Context<'_>) -> Result<PodPlan, PlanError> {
    let pod: Pod = spec::read(manifest)?;
    if pod.spec.host_network {
        return Err(PlanError::Unsupported("the pod wants the host's network".into()));
    }
    let hostname = pod.spec.hostname.clone().unwrap_or_else(|| pod.metadata.name.clone());
    let mut volumes = Vec::new();
    for volume in &pod.spec.volumes {
        volumes.push(files::volume(&pod, volume, context)?);
    }
    let automount = pod.spec.automount_service_account_token.unwrap_or(true);
    if automount {
        volumes.push(files::service_account(&pod, context));
    }
    let planner = Planner { pod: &pod, context, automount };
    let mut init = Vec::new();
    for container in &pod.spec.init_containers {
        let kind = match container.restart_policy {
            Some(RestartPolicy::Always) => ContainerKind::Sidecar,
            Some(RestartPolicy::OnFailure | RestartPolicy::Never) | None => ContainerKind::Init,
        };
        init.push(planner.container(container, kind)?);
    }
    let mut containers = Vec::new();
    for container in &pod.spec.containers {
        containers.push(planner.container(container, ContainerKind::Main)?);
    }
    Ok(PodPlan {
        hosts: hosts(&pod, &hostname, context.addresses),
        resolver: resolver(&pod.metadata.namespace),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        addresses: context.addresses,
        hostname,
        service_account: pod.spec.service_account().to_owned(),
        volumes,
        init,
        containers,
        restart: pod.spec.restart_policy,
        grace: pod.spec.termination_grace_period_seconds.map_or(GRACE_PERIOD, Duration::from_secs),
    })
}

/// Text of a pod's `/etc/resolv.conf`, as the kubelet writes it for `dnsPolicy: ClusterFirst`.
fn resolver(namespace: &str) -> String {
    format!(
        "nameserver {}\nsearch {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} \
         {CLUSTER_DOMAIN}\noptions ndots:5\n",
        GATEWAY.v4
    )
}

fn hosts(pod: &Pod, hostname: &str, addresses: Pair) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let namespace = &pod.metadata.namespace;
    let names = match &pod.spec.subdomain {
        Some(subdomain) => {
            format!("{hostname}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}\t{hostname}")
        }
        None => hostname.to_owned(),
    };
    for address in addresses.both() {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for alias in &pod.spec.host_aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}

struct Planner<'a> {
    pod: &'a Pod,
    context: Context<'a>,
    automount: bool,
}

impl Planner<'_> {
    fn container(
        &self,
        container: &Container,
        kind: ContainerKind,
    ) -> Result<ContainerPlan, PlanError> {
        let (pod, context) = (self.pod, self.context);
        let environment = environment::environment(pod, container, context)?;
        let command = context.images.command(&pod.metadata, container)?;
        let command = command.iter().map(|word| environment::expand(word, &environment)).collect();
        let probe =
            |probe: &Option<Probe>| probe.as_ref().map(|p| self.probe(container, p)).transpose();
        let action = |handler: &Option<Handler>| {
            handler.as_ref().map(|h| self.action(container, h)).transpose()
        };
        Ok(ContainerPlan {
            name: container.name.clone(),
            kind,
            command,
            directory: container.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            ids: self.ids(container),
            capabilities: container.security_context.capabilities.add.clone(),
            mounts: self.mounts(container)?,
            startup: probe(&container.startup_probe)?,
            readiness: probe(&container.readiness_probe)?,
            liveness: probe(&container.liveness_probe)?,
            post_start: action(&container.lifecycle.post_start)?,
            pre_stop: action(&container.lifecycle.pre_stop)?,
            environment,
        })
    }

    /// An id that the user namespace does not know is left out: the process stays the lab's root,
    /// and a proxy is told from its application by its mark.
    fn ids(&self, container: &Container) -> Option<(u32, u32)> {
        let (own, shared) = (&container.security_context, &self.pod.spec.security_context);
        let user = own.run_as_user.or(shared.run_as_user);
        let group = own.run_as_group.or(shared.run_as_group);
        let known = |id: &u32| self.context.ids.contains(*id);
        match (user.filter(known), group.filter(known)) {
            (None, None) => None,
            (user, group) => Some((user.unwrap_or(0), group.unwrap_or(0))),
        }
    }

    fn mounts(&self, container: &Container) -> Result<Vec<MountPlan>, PlanError> {
        let mut mounts = Vec::new();
        for mount in &container.volume_mounts {
            if !self.pod.spec.volumes.iter().any(|volume| volume.name == mount.name) {
                let message = format!(
                    "container {} mounts {}, which is no volume",
                    container.name, mount.name
                );
                return Err(PlanError::Missing(message));
            }
            mounts.push(MountPlan {
                volume: mount.name.clone(),
                sub_path: mount.sub_path.clone(),
                path: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only,
            });
        }
        let is_taken = mounts.iter().any(|mount| mount.path.starts_with(SERVICE_ACCOUNT_PATH));
        if self.automount && !is_taken {
            mounts.push(MountPlan {
                volume: files::SERVICE_ACCOUNT_VOLUME.to_owned(),
                sub_path: None,
                path: SERVICE_ACCOUNT_PATH.into(),
                read_only: true,
            });
        }
        // A mount below another one comes after it.
        mounts.sort_by_key(|mount| mount.path.components().count());
        Ok(mounts)
    }

    fn probe(&self, container: &Container, probe: &Probe) -> Result<ProbePlan, PlanError> {
        Ok(ProbePlan {
            action: self.action(container, &probe.handler)?,
            initial_delay: Duration::from_secs(probe.initial_delay_seconds),
            period: Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1)),
            timeout: Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1)),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }

    fn action(&self, container: &Container, handler: &Handler) -> Result<Action, PlanError> {
        let host = |host: &Option<String>| {
            host.clone().unwrap_or_else(|| self.context.addresses.v4.to_string())
        };
        let port = |port| {
            self.pod.spec.port(port).ok_or_else(|| {
                PlanError::Missing(format!("container {} has no port {port:?}", container.name))
            })
        };
        if let Some(exec) = &handler.exec {
            return Ok(Action::Exec(exec.command.clone()));
        }
        if let Some(http) = &handler.http_get {
            if http.scheme.as_deref() == Some("HTTPS") {
                // The kubelet does not verify the certificate; that the port answers is what is left.
                return Ok(Action::Tcp { host: host(&http.host), port: port(&http.port)? });
            }
            let path = if http.path.starts_with('/') { "" } else { "/" }.to_owned() + &http.path;
            let headers = http.http_headers.iter().map(|h| (h.name.clone(), h.value.clone()));
            let headers = headers.collect();
            return Ok(Action::Http {
                host: host(&http.host),
                port: port(&http.port)?,
                path,
                headers,
            });
        }
        if let Some(tcp) = &handler.tcp_socket {
            return Ok(Action::Tcp { host: host(&tcp.host), port: port(&tcp.port)? });
        }
        if let Some(sleep) = &handler.sleep {
            return Ok(Action::Sleep(Duration::from_secs(sleep.seconds)));
        }
        let what =
            if handler.grpc.is_some() { "a gRPC probe" } else { "a probe without an action" };
        Err(PlanError::Unsupported(format!("container {} has {what}", container.name)))
    }
}

/// The data of a configMap or secret.
fn data(
    context: Context<'_>,
    kind: &'static str,
    namespace: &str,
    name: &str,
) -> Option<Vec<(String, Vec<u8>)>> {
    let object = context.objects.get(&Key::core(kind, namespace, name))?;
    let decode =
        |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let entries = |field: &str| object[field].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain_field = if kind == "Secret" { "stringData" } else { "data" };
    let encoded_field = if kind == "Secret" { "data" } else { "binaryData" };
    let plain = entries(plain_field).map(|(key, value)| (key.clone(), text(value).into_bytes()));
    let encoded = entries(encoded_field).map(|(key, value)| (key.clone(), decode(&text(value))));
    Some(encoded.chain(plain).collect())
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
