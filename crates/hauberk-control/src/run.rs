//! Builds the control plane in order, and holds nothing back: every part is a task of the set it is
//! given and ends with it.
//!
//! Order: listeners are bound (a taken port is found out first), webhooks begin to answer (they
//! need nothing of the cluster), the issuer is loaded and the own
//! certificates are issued, the source begins to list, the publisher takes the index, services
//! begin to answer. Questions that arrive before the listing is complete wait for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hauberk_identity::token::{AUDIENCE, TokenVerifier};
use hauberk_identity::{Certified, Issuer, TrustAnchors, https};
use hauberk_index::ClusterConfig;
use hauberk_model::WorkloadId;
use hauberk_process::metrics::{Kind, Metrics};
use hauberk_process::ready::{Condition, Readiness};
use hauberk_process::{Tasks, admin};
use hauberk_resources::ResourceEvent;
use hauberk_source::{DirectoryError, Options, Problems, Source, directory};
use hauberk_wire::api::destination::destination_server::DestinationServer;
use hauberk_wire::api::identity::identity_server::IdentityServer;
use hauberk_wire::api::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use hauberk_wire::api::outbound::outbound_policies_server::OutboundPoliciesServer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use tracing::info;

use crate::admission::serve::Room;
use crate::config::{AdmissionConfig, Config, IdentityConfig};
use crate::followed_files::{FollowError, follow};
use crate::metrics::{AdmissionMetrics, FileMetrics, PublisherMetrics, ServiceMetrics};
use crate::own_identity::{self, OwnIdentityError};
use crate::publisher::{self, Annotations, Board};
use crate::server::Listener;
pub use crate::server::bind;
use crate::services::Desk;
use crate::services::destination::DestinationService;
use crate::services::identity::IdentityService;
use crate::services::inbound_policy::InboundPolicyService;
use crate::services::outbound_policy::OutboundPolicyService;
use crate::status::StatusRoute;
use crate::subscribe::Subscriber;

/// The account that destination and policy run under, wherever they run.
const DESTINATION_ACCOUNT: &str = "linkerd-destination";

/// The account that identity runs under.
const IDENTITY_ACCOUNT: &str = "linkerd-identity";

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or its address is not ours.
    #[error("cannot listen on {address} for {what}: {error}")]
    Bind {
        /// The service.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// The issuer, anchors or token keys are not there or of no use.
    #[error(transparent)]
    Files(#[from] FollowError),
    /// The control plane cannot certify itself.
    #[error(transparent)]
    Identity(#[from] OwnIdentityError),
    /// The source directory cannot be followed.
    #[error(transparent)]
    Source(#[from] DirectoryError),
}

/// A control plane that is running; its tasks belong to the set it was started with.
#[derive(Debug)]
pub struct Running {
    /// Where destination is served.
    pub destination: SocketAddr,
    /// Where policy is served.
    pub policy: SocketAddr,
    /// Where identity is served, if it is.
    pub identity: Option<SocketAddr>,
    /// Where the admission webhooks are served, if they are.
    pub webhooks: Option<Webhooks>,
    /// What is wrong with the source now.
    pub problems: watch::Receiver<Problems>,
    /// Which annotations cannot be read now.
    pub annotations: watch::Receiver<Annotations>,
    /// Answers for the statuses of objects.
    pub status: StatusRoute,
}

/// Where admission webhooks are served.
#[derive(Clone, Copy, Debug)]
pub struct Webhooks {
    /// For policies and routes.
    pub policy: SocketAddr,
    /// For ServiceProfiles.
    pub profile: SocketAddr,
}

/// Starts the control plane; must be called on a tokio runtime. `now` is the wall clock.
///
/// # Errors
/// If a port is taken, or a file or the directory is of no use. Tasks that were started before the
/// error was found end when the set drains.
pub async fn start(
    config: Config,
    now: fn() -> SystemTime,
    tasks: &Tasks,
    metrics: &Metrics,
    readiness: &Readiness,
) -> Result<Running, StartError> {
    let listed = readiness.condition("resources");
    let destination_socket = listen("destination", config.destination_addr).await?;
    let policy_socket = listen("policy", config.policy_addr).await?;
    let file_metrics = FileMetrics::register(metrics);
    let webhooks = match &config.admission {
        Some(admission) => Some(webhooks(admission, tasks, metrics, file_metrics.clone()).await?),
        None => None,
    };

    let service_metrics = ServiceMetrics::register(metrics);
    let authority = match &config.identity {
        Some(identity) => {
            Some(Authority::load(identity, &config, now, tasks, metrics, file_metrics)?)
        }
        None => None,
    };
    let identity = match &authority {
        Some(authority) => {
            let socket = listen("identity", config.identity_addr).await?;
            let address = local_address(&socket, config.identity_addr);
            let service = authority.service(&config, now, service_metrics.clone());
            let routes = Routes::new(IdentityServer::new(service));
            let certificate = Some(authority.certificate(IDENTITY_ACCOUNT, &config, now, tasks)?);
            Listener { name: "identity", socket, certificate, routes }.serve(tasks);
            Some(address)
        }
        None => None,
    };
    let certificate = match &authority {
        Some(authority) => Some(authority.certificate(DESTINATION_ACCOUNT, &config, now, tasks)?),
        None => None,
    };

    let Source { events, problems } = directory(&config.source_dir, Options::default(), tasks)?;
    count_problems(metrics, problems.clone());
    let served = services(events, config.cluster, listed, service_metrics, tasks, metrics);
    let Services {
        destination: destination_routes,
        policy: policy_routes,
        subscriber,
        annotations,
    } = served;
    let status = StatusRoute { subscriber };
    let destination = local_address(&destination_socket, config.destination_addr);
    let (name, socket, routes) = ("destination", destination_socket, destination_routes);
    Listener { name, socket, certificate: certificate.clone(), routes }.serve(tasks);

    let policy = local_address(&policy_socket, config.policy_addr);
    let (name, socket, routes) = ("policy", policy_socket, policy_routes);
    Listener { name, socket, certificate, routes }.serve(tasks);

    info!(%destination, %policy, ?identity, ?webhooks, "control plane listens");
    Ok(Running { destination, policy, identity, webhooks, problems, annotations, status })
}

/// Starts the admission webhooks.
async fn webhooks(
    config: &AdmissionConfig,
    tasks: &Tasks,
    metrics: &Metrics,
    counts: FileMetrics,
) -> Result<Webhooks, StartError> {
    let policy = listen("the policy webhook", config.policy_addr).await?;
    let profile = listen("the profile webhook", config.profile_addr).await?;
    let files = ["tls.crt", "tls.key"].map(|name| config.tls_dir.join(name));
    let parse = |texts: &[String]| https::server(&texts[0], &texts[1]);
    let certificate = follow("webhook certificate", files.into(), parse, tasks, counts)?;
    let addresses = Webhooks {
        policy: local_address(&policy, config.policy_addr),
        profile: local_address(&profile, config.profile_addr),
    };
    let room = Room::new(certificate, AdmissionMetrics::register(metrics), tasks);
    room.serve("policy webhook", policy);
    room.serve("profile webhook", profile);
    Ok(addresses)
}

/// What is behind the listeners of discovery and policy.
pub(crate) struct Services {
    pub(crate) destination: Routes,
    pub(crate) policy: Routes,
    pub(crate) subscriber: Subscriber,
    pub(crate) annotations: watch::Receiver<Annotations>,
}

/// Starts the publisher over a source, and makes the services that answer from it.
pub(crate) fn services(
    events: mpsc::Receiver<ResourceEvent>,
    cluster: ClusterConfig,
    listed: Condition,
    service_metrics: ServiceMetrics,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Services {
    let (subscriber, questions) = Subscriber::new();
    let board = Board::new(cluster.clone(), PublisherMetrics::register(metrics));
    let annotations = board.annotations();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_essential("publisher", publisher::run(board, events, questions, listed, shutdown));

    let (config, shutdown) = (Arc::new(cluster), tasks.shutdown().clone());
    let desk = Desk { config, subscriber: subscriber.clone(), shutdown, metrics: service_metrics };
    let destination = DestinationServer::new(DestinationService { desk: desk.clone() });
    let inbound = InboundServerPoliciesServer::new(InboundPolicyService { desk: desk.clone() });
    let outbound = OutboundPoliciesServer::new(OutboundPolicyService { desk });
    Services {
        destination: Routes::new(destination),
        policy: Routes::new(inbound).add_service(outbound),
        subscriber,
        annotations,
    }
}

/// Answers `/problems` of the admin server: what is wrong with the source now, by file, and which annotations cannot
/// be read, by object.
pub fn problems_route(
    problems: watch::Receiver<Problems>,
    annotations: watch::Receiver<Annotations>,
) -> impl Fn() -> admin::Response {
    move || {
        let (problems, annotations) = (problems.borrow(), annotations.borrow());
        let of_files =
            problems.iter().map(|(path, texts)| (path.display().to_string(), json!(texts)));
        let of_objects = annotations.iter().map(|(object, found)| {
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            (object.to_string(), json!(texts))
        });
        let value = serde_json::Value::Object(of_files.chain(of_objects).collect());
        admin::json(hyper::StatusCode::OK, &value)
    }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    bind(address).await.map_err(|error| StartError::Bind { what, address, error })
}

/// The address really bound, when port 0 was asked for.
fn local_address(socket: &TcpListener, asked: SocketAddr) -> SocketAddr {
    socket.local_addr().unwrap_or(asked)
}

fn count_problems(metrics: &Metrics, problems: watch::Receiver<Problems>) {
    metrics.add_collector(move |out| {
        let count: usize = problems.borrow().values().map(Vec::len).sum();
        let help = "Things wrong with the source now";
        out.single("control_source_problems", Kind::Gauge, help, count as u64);
    });
}

/// The certificate authority: what is needed to check requests and to sign.
struct Authority {
    issuer: watch::Receiver<Arc<Issuer>>,
    tokens: watch::Receiver<Arc<TokenVerifier>>,
}

impl Authority {
    fn load(
        identity: &IdentityConfig,
        config: &Config,
        now: fn() -> SystemTime,
        tasks: &Tasks,
        metrics: &Metrics,
        counts: FileMetrics,
    ) -> Result<Self, StartError> {
        let lifetimes = identity.lifetimes;
        let files =
            [&identity.issuer_cert_file, &identity.issuer_key_file, &identity.trust_anchors_file];
        let parse_issuer = move |texts: &[String]| {
            let anchors = TrustAnchors::from_pem(&texts[2]).map_err(|error| error.to_string())?;
            Issuer::from_pem(&texts[0], &texts[1], &anchors, lifetimes, now())
                .map_err(|error| error.to_string())
        };
        let files = files.into_iter().cloned().collect();
        let issuer = follow("issuer", files, parse_issuer, tasks, counts.clone())?;

        let token_issuer = identity.token_issuer.clone();
        let parse_keys = move |texts: &[String]| {
            let keys = pem_blocks(&texts[0]);
            TokenVerifier::new(&keys, &*token_issuer, AUDIENCE, lifetimes.clock_skew)
        };
        let files = vec![identity.token_key_file.clone()];
        let tokens = follow("token keys", files, parse_keys, tasks, counts)?;

        count_down(metrics, issuer.clone(), now);
        let trust_domain = &config.cluster.trust_domain;
        let ends = issuer.borrow().not_after();
        info!(%trust_domain, issuer_ends = ?ends, "certificate authority loaded");
        Ok(Self { issuer, tokens })
    }

    fn service(
        &self,
        config: &Config,
        now: fn() -> SystemTime,
        metrics: ServiceMetrics,
    ) -> IdentityService {
        IdentityService {
            issuer: self.issuer.clone(),
            tokens: self.tokens.clone(),
            control_plane_namespace: Arc::clone(&config.cluster.control_plane_namespace),
            trust_domain: Arc::clone(&config.cluster.trust_domain),
            now,
            metrics,
        }
    }

    /// A certificate of our own, for an account in the control plane's namespace.
    fn certificate(
        &self,
        account: &str,
        config: &Config,
        now: fn() -> SystemTime,
        tasks: &Tasks,
    ) -> Result<watch::Receiver<Certified>, OwnIdentityError> {
        let namespace = &config.cluster.control_plane_namespace;
        let trust_domain = &config.cluster.trust_domain;
        let identity = WorkloadId::service_account(account, namespace, namespace, trust_domain);
        own_identity::keep(identity, self.issuer.clone(), now, tasks)
    }
}

/// `issuer_cert_ttl_seconds`, the name under which Linkerd's alerts look for it.
fn count_down(metrics: &Metrics, issuer: watch::Receiver<Arc<Issuer>>, now: fn() -> SystemTime) {
    metrics.add_collector(move |out| {
        let left = issuer.borrow().not_after().duration_since(now()).unwrap_or_default();
        let help = "Time until the issuer's certificate, or one above it, expires";
        out.single("issuer_cert_ttl_seconds", Kind::Gauge, help, left.as_secs());
    });
}

/// The sections of a PEM text, each with its markers.
fn pem_blocks(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN ";
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| text[*start..end].trim()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_pem_into_blocks() {
        let key = |name: &str| format!("-----BEGIN {name}-----\nAAAA\n-----END {name}-----");
        let text = format!("# keys\n{}\n\n{}\n", key("PUBLIC KEY"), key("OTHER"));
        assert_eq!(pem_blocks(&text), [key("PUBLIC KEY"), key("OTHER")]);
        assert!(pem_blocks("nothing").is_empty());
    }
}
