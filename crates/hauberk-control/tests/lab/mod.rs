//! A control plane over a temporary directory, and what its clients need.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hauberk_control::{Config, IdentityConfig, Running, start};
use hauberk_identity::Key;
use hauberk_identity::issuer::Lifetimes;
use hauberk_identity::token::{ServiceAccount, TokenSigner, TokenSubject};
use hauberk_index::ClusterConfig;
use hauberk_model::Endpoints;
use hauberk_process::metrics::Metrics;
use hauberk_process::ready::Readiness;
use hauberk_process::shutdown::Cause;
use hauberk_process::{Shutdown, Tasks};
use hauberk_testkit::ca::TestCa;
use hauberk_wire::api::destination::destination_client::DestinationClient;
use hauberk_wire::api::destination::{GetDestination, Update};
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Longer than any step takes, however busy the machine is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The `iss` of the lab's tokens.
const TOKEN_ISSUER: &str = "https://lab.test";

pub(crate) struct Lab {
    /// The cluster.
    pub(crate) cluster: TempDir,
    /// Anchors, issuer, token keys.
    pub(crate) secrets: TempDir,
    pub(crate) ca: TestCa,
    pub(crate) tokens: TokenSigner,
    pub(crate) running: Running,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
}

impl Lab {
    /// A running control plane with these files, ready.
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        Self::start_with(files, |_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(
        files: &[(&str, &str)],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (cluster, secrets) = (temporary(), temporary());
        for (name, text) in files {
            write(cluster.path(), name, text);
        }
        let ca = TestCa::new(SystemTime::now());
        let key = Key::generate().expect("randomness");
        let tokens = TokenSigner::new(&key, TOKEN_ISSUER).expect("a key on P-256");
        write(secrets.path(), "anchors.pem", &ca.anchors().to_pem());
        write(secrets.path(), "token-keys.pem", tokens.public_pem());
        write_issuer(secrets.path(), &ca);

        let tasks = Tasks::new(Shutdown::new());
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        let mut config = config(cluster.path(), secrets.path());
        change(&mut config);
        let running = start(config, SystemTime::now, &tasks, &metrics, &readiness);
        let running = running.await.expect("starts");
        tokio::time::timeout(DEADLINE, readiness.wait()).await.expect("is ready");
        Self { cluster, secrets, ca, tokens, running, tasks, metrics }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        write(self.cluster.path(), name, text);
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.cluster.path().join(name)).expect("can remove");
    }

    /// Puts the authority's present issuer in force.
    pub(crate) fn write_issuer(&self) {
        write_issuer(self.secrets.path(), &self.ca);
    }

    pub(crate) async fn destination(&self) -> DestinationClient<Channel> {
        DestinationClient::new(plaintext(self.running.destination).await)
    }

    /// The token of a service account for the identity service.
    pub(crate) fn token(&self, account: &str, namespace: &str, audience: &str) -> Vec<u8> {
        let account = ServiceAccount { namespace: namespace.into(), name: account.into() };
        let subject = TokenSubject { account, pod_name: "pod-1".into(), pod_uid: "1".into() };
        let hour = Duration::from_secs(3600);
        let token = self.tokens.mint(&subject, audience, hour, SystemTime::now());
        token.expect("can sign").into_bytes()
    }

    /// Ends the control plane; everything must be gone in time.
    pub(crate) async fn stop(self) {
        self.tasks.shutdown().drain(Cause::Requested);
        let exit = self.tasks.shutdown().finish(DEADLINE).await;
        assert_eq!(exit.code(), 0, "{exit:?}");
        self.tasks.join(DEADLINE).await.expect("every task ends");
    }
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn config(cluster: &Path, secrets: &Path) -> Config {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let secret = |name: &str| -> PathBuf { secrets.join(name) };
    Config {
        source_dir: cluster.to_owned(),
        destination_addr: anywhere,
        policy_addr: anywhere,
        identity_addr: anywhere,
        admin_addr: anywhere,
        cluster: ClusterConfig::default(),
        identity: Some(IdentityConfig {
            trust_anchors_file: secret("anchors.pem"),
            issuer_cert_file: secret("issuer.pem"),
            issuer_key_file: secret("issuer-key.pem"),
            token_key_file: secret("token-keys.pem"),
            token_issuer: TOKEN_ISSUER.to_owned(),
            lifetimes: Lifetimes::default(),
        }),
        admission: None,
    }
}

fn write_issuer(secrets: &Path, ca: &TestCa) {
    let pem = ca.issuer_pem();
    write(secrets, "issuer-key.pem", &pem.key_pem);
    write(secrets, "issuer.pem", &pem.certificate_pem);
}

/// Written aside and renamed.
pub(crate) fn write(directory: &Path, name: &str, text: &str) {
    let aside = directory.join(format!(".{name}.tmp"));
    fs::write(&aside, text).expect("can write");
    fs::rename(&aside, directory.join(name)).expect("can rename");
}

/// A channel in the clear, with small windows: what a client does not read stays with the server.
pub(crate) async fn plaintext(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    endpoint.connect().await.expect("can connect")
}

pub(crate) fn ask(path: &str) -> GetDestination {
    GetDestination { path: path.to_owned(), ..GetDestination::default() }
}

/// The next message of a stream; `None` if it ended well.
pub(crate) async fn next<M>(stream: &mut Streaming<M>) -> Option<M> {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await;
    message.expect("a message in time").expect("the stream goes on or ends well")
}

/// Looks again until `look` finds something, at most until the deadline.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Follows endpoints as a proxy does.
pub(crate) struct Follower {
    pub(crate) stream: Streaming<Update>,
    pub(crate) known: Endpoints,
    pub(crate) messages: usize,
}

impl Follower {
    pub(crate) async fn start(client: &mut DestinationClient<Channel>, path: &str) -> Self {
        let stream = client.get(ask(path)).await.expect("is answered").into_inner();
        Self { stream, known: Endpoints::default(), messages: 0 }
    }

    /// Takes one message.
    pub(crate) async fn step(&mut self) {
        let update = next(&mut self.stream).await.expect("the stream goes on");
        let (update, problems) = hauberk_wire::destination::from_wire(update).expect("valid");
        assert_eq!(problems, []);
        update.apply(&mut self.known);
        self.messages += 1;
    }

    /// Takes messages until the addresses are these.
    pub(crate) async fn until(&mut self, addresses: &[&str]) {
        while self.addresses() != addresses {
            self.step().await;
        }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.known.by_address.keys().map(ToString::to_string).collect()
    }
}

pub(crate) fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

pub(crate) fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: test}}
spec:
  clusterIP: {ip}
  clusterIPs: [{ip}]
  ports: [{{name: http, port: 80, targetPort: 8080, protocol: TCP}}]
"
    )
}

pub(crate) fn slice(service: &str, pods: &[(&str, &str)]) -> String {
    let endpoints = pods.iter().map(|(pod, ip)| {
        format!(
            "- addresses: [{ip}]
  conditions: {{ready: true}}
  targetRef: {{kind: Pod, namespace: test, name: {pod}}}
"
        )
    });
    let endpoints: String = endpoints.collect();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata:
  name: {service}-1
  namespace: test
  labels: {{kubernetes.io/service-name: {service}}}
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

/// A meshed pod.
pub(crate) fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: test
  labels: {{app: web, linkerd.io/control-plane-ns: linkerd}}
spec:
  serviceAccountName: web
  containers:
  - name: app
    ports: [{{name: http, containerPort: 8080, protocol: TCP}}]
  - name: linkerd-proxy
    env: [{{name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: '0.0.0.0:4143'}}]
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: 'True'}}]
"
    )
}
