//! A control plane that says what a test wants, and proxies that listen to it; all in this process, on loopback.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod http;

use hauberk_identity::request::Request as CertificateRequest;
use hauberk_model::{
    Authority, Endpoint, Endpoints, InboundPolicy, Meta, OutboundPolicy, Port, Profile, WorkloadId,
    endpoints::EndpointTls,
    outbound::{Backend, HttpPolicy, OpaqueRoute, OutboundProtocol},
};
use hauberk_process::{Shutdown, Tasks, metrics::Metrics as Registry};
use hauberk_proxy::{
    connection::{Direction, Facts, NoTls, Tls},
    control::{Directory, Publisher},
    listen::{OriginalDst, Start},
    run::{Capture, Proxy, Surroundings},
    settings,
    telemetry::{metrics::Metrics, tap::Taps},
    tls::Identity,
    worker::{Parts, Worker},
};
use hauberk_testkit::{
    ca::TestCa,
    control::{self, Answer, Streamed},
};
use hauberk_wire::{
    self as wire,
    api::{
        destination as api_destination,
        identity::{self as api_identity, identity_server},
        inbound as api_inbound, outbound as api_outbound,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Nothing in a test takes longer; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where applications in tests dial: an address that nobody has.
pub const SERVICE: &str = "10.99.99.99:7000";

/// What the control plane knows.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    pub outbound: HashMap<SocketAddr, OutboundPolicy>,
    pub inbound: HashMap<Port, InboundPolicy>,
    pub endpoints: HashMap<Authority, Endpoints>,
    pub profiles: HashMap<SocketAddr, Profile>,
    pub outbound_by_name: HashMap<Authority, OutboundPolicy>,
    pub profiles_by_name: HashMap<Authority, Profile>,
}

/// The control plane: a thread with a gRPC server.
pub struct Control {
    pub address: SocketAddr,
    pub knowledge: watch::Sender<Knowledge>,
    pub ca: Arc<Mutex<TestCa>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Control {
    pub fn start() -> Self {
        let ca = Arc::new(Mutex::new(TestCa::new(SystemTime::now())));
        let (knowledge, _) = watch::channel(Knowledge::default());
        let service = Service { knowledge: knowledge.clone(), ca: Arc::clone(&ca) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = control::routes(service.clone())
            .add_service(identity_server::IdentityServer::new(service));
        let thread = thread::spawn(move || control::serve(listener, routes, stopped));
        Self { address, knowledge, ca, stop: Some(stop), thread: Some(thread) }
    }

    pub fn know(&self, change: impl FnOnce(&mut Knowledge)) {
        self.knowledge.send_modify(change);
    }

    /// Goes away without a word: all its connections break.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone)]
struct Service {
    knowledge: watch::Sender<Knowledge>,
    ca: Arc<Mutex<TestCa>>,
}

impl Service {
    /// Sends what `answer` makes of the knowledge, now and after each change.
    fn stream<T: Send + 'static>(
        &self,
        mut answer: impl FnMut(&Knowledge) -> Vec<T> + Send + 'static,
    ) -> Streamed<T> {
        let mut knowledge = self.knowledge.subscribe();
        let (sender, receiver) = mpsc::channel(16);
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("stream", async move {
            loop {
                let messages = answer(&knowledge.borrow_and_update());
                for message in messages {
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = knowledge.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

/// What a destination request is about.
fn asked(name: &str) -> Authority {
    Authority::parse(name, Port::new(80).unwrap()).unwrap()
}

impl control::Script for Service {
    async fn endpoints(&self, name: &str) -> Answer<api_destination::Update> {
        let asked = asked(name);
        let mut told: Option<Endpoints> = None;
        Ok(self.stream(move |knowledge| {
            let newest = knowledge.endpoints.get(&asked);
            let exists = newest.is_some();
            let newest = newest.cloned().unwrap_or_default();
            let updates = wire::destination::updates(told.as_ref(), &newest, exists);
            told = Some(newest);
            updates.iter().map(wire::destination::to_wire).collect()
        }))
    }

    async fn profile(&self, name: &str) -> Answer<api_destination::DestinationProfile> {
        let asked = asked(name);
        let Some(ip) = asked.ip() else {
            if !self.knowledge.borrow().profiles_by_name.contains_key(&asked) {
                return Err(Status::not_found("unknown name"));
            }
            return Ok(self.stream(move |knowledge| {
                knowledge
                    .profiles_by_name
                    .get(&asked)
                    .map(wire::profile::to_wire)
                    .into_iter()
                    .collect()
            }));
        };
        let address = SocketAddr::new(ip, asked.port().get());
        Ok(self.stream(move |knowledge| {
            let profile = knowledge.profiles.get(&address).cloned().unwrap_or_default();
            vec![wire::profile::to_wire(&profile)]
        }))
    }

    async fn outbound(
        &self,
        target: wire::outbound::Target,
    ) -> Answer<api_outbound::OutboundPolicy> {
        let address = match target {
            wire::outbound::Target::Address(address) => address,
            wire::outbound::Target::Authority(name) => {
                if !self.knowledge.borrow().outbound_by_name.contains_key(&name) {
                    return Err(Status::not_found("unknown name"));
                }
                return Ok(self.stream(move |knowledge| {
                    let policy = knowledge.outbound_by_name.get(&name);
                    policy.map(wire::outbound::to_wire).into_iter().collect()
                }));
            }
        };
        if !self.knowledge.borrow().outbound.contains_key(&address) {
            return Err(Status::not_found("unknown address"));
        }
        Ok(self.stream(move |knowledge| {
            knowledge.outbound.get(&address).map(wire::outbound::to_wire).into_iter().collect()
        }))
    }

    async fn inbound(&self, port: Port) -> Answer<api_inbound::Server> {
        Ok(self.stream(move |knowledge| {
            knowledge.inbound.get(&port).map(wire::inbound::to_wire).into_iter().collect()
        }))
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Service {
    async fn certify(
        &self,
        request: Request<api_identity::CertifyRequest>,
    ) -> Result<Response<api_identity::CertifyResponse>, Status> {
        let request = wire::identity::request_from_wire(request.into_inner()).unwrap();
        assert_eq!(request.token, b"a token");
        let asked = CertificateRequest::parse(&request.csr, &request.identity).unwrap();
        let ca = self.ca.lock().unwrap();
        let issued = ca.issuer().issue(&asked, SystemTime::now(), &mut rand::rng()).unwrap();
        let certified = wire::identity::Certified {
            leaf: issued.leaf.to_vec(),
            intermediates: issued.intermediates.iter().map(|der| der.to_vec()).collect(),
            valid_until: issued.valid_until,
        };
        Ok(Response::new(wire::identity::to_wire(&certified)))
    }
}

/// The identity of a service account in the namespace `test`.
pub fn identity(account: &str) -> WorkloadId {
    WorkloadId::service_account(account, "test", "linkerd", "cluster.local")
}

/// A proxy under test.
pub struct Sidecar {
    pub proxy: Option<Proxy>,
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub admin: SocketAddr,
    pub shutdown: Shutdown,
    _token: tempfile::NamedTempFile,
}

/// The environment of a proxy.
fn environment(
    control: &str,
    account: &str,
    anchors: &str,
    token: &str,
    changes: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let name = identity(account).to_string();
    let settings = [
        ("INBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
        ("DESTINATION_SVC_ADDR", control),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8"),
        ("POLICY_SVC_ADDR", control),
        ("POLICY_WORKLOAD", r#"{"ns":"test","pod":"pod"}"#),
        ("IDENTITY_SVC_ADDR", control),
        ("IDENTITY_LOCAL_NAME", &name),
        ("IDENTITY_TRUST_ANCHORS", anchors),
        ("IDENTITY_TOKEN_FILE", token),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "60s"),
    ];
    let changed = settings.iter().chain(changes);
    changed.map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), (*value).to_owned())).collect()
}

/// CPUs that a started proxy is told of; it has one worker unless `CORES` says more.
const CORES: usize = 4;

/// The settings of a proxy that is not started.
pub fn config(
    control: &str,
    account: &str,
    anchors: &str,
    token: &str,
    changes: &[(&str, &str)],
) -> settings::Config {
    settings::read(&environment(control, account, anchors, token, changes), 1).unwrap()
}

/// A worker without threads and sockets around it, and the hand that answers its questions.
pub fn worker() -> (Rc<Worker>, Publisher) {
    let (_, certified) = watch::channel(None);
    let identity = identity("web");
    let name = identity.as_str().into();
    let (directory, publisher) = Directory::unconnected();
    let worker = Worker::new(Parts {
        config: Arc::new(config("127.0.0.1:1", "web", "anchors", "/token", &[])),
        directory,
        identity: Identity::new(identity, name, certified),
        metrics: Arc::new(Metrics::register(&Registry::new())),
        taps: Taps::default(),
        tracer: None,
        tasks: Tasks::new(Shutdown::new()),
        seed: 1,
    });
    (worker, publisher)
}

/// A connection from 10.0.0.1 to [`SERVICE`].
pub fn facts(direction: Direction) -> Facts {
    Facts {
        direction,
        client: "10.0.0.1:1".parse().unwrap(),
        original_dst: SERVICE.parse().unwrap(),
        tls: Tls::None(NoTls::Loopback),
        accepted_at: tokio::time::Instant::now(),
    }
}

/// Starts a proxy for `account` and waits until it is ready.
pub async fn sidecar(control: &Control, account: &str, capture: Capture) -> Sidecar {
    sidecar_with(control, account, capture, &[]).await
}

/// The same with further settings, without their prefix.
pub async fn sidecar_with(
    control: &Control,
    account: &str,
    capture: Capture,
    changes: &[(&str, &str)],
) -> Sidecar {
    let sidecar = start(control, account, capture, changes).await;
    sidecar.admin_until("/ready", |answer| answer.starts_with("HTTP/1.1 200")).await;
    sidecar
}

/// Starts a proxy without waiting until it is ready.
pub async fn start(
    control: &Control,
    account: &str,
    capture: Capture,
    changes: &[(&str, &str)],
) -> Sidecar {
    start_as(control, account, capture, changes, (Start::Fresh, None)).await
}

/// Starts a proxy where `old` serves, which gets its certificate at that address; who is named by
/// `notify` is told when it serves.
pub async fn succeed(
    control: &Control,
    account: &str,
    old: (&Sidecar, Capture),
    identity: SocketAddr,
    notify: String,
) -> Sidecar {
    let (old, capture) = old;
    let addresses = [old.outbound, old.inbound, old.admin, identity].map(|one| one.to_string());
    let names =
        ["OUTBOUND_LISTEN_ADDR", "INBOUND_LISTEN_ADDR", "ADMIN_LISTEN_ADDR", "IDENTITY_SVC_ADDR"];
    let changes: Vec<_> = names.into_iter().zip(addresses.iter().map(String::as_str)).collect();
    start_as(control, account, capture, &changes, (Start::TakeOver, Some(notify))).await
}

async fn start_as(
    control: &Control,
    account: &str,
    capture: Capture,
    changes: &[(&str, &str)],
    (start, notify): (Start, Option<String>),
) -> Sidecar {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a token").unwrap();
    let anchors = control.ca.lock().unwrap().anchors().to_pem();
    let address = control.address.to_string();
    let token_path = token.path().to_str().unwrap();
    let environment = environment(&address, account, &anchors, token_path, changes);
    let mut config = settings::read(&environment, CORES).unwrap();
    config.outbound.dials_loopback = true;
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    let surroundings =
        Surroundings { tasks, capture, environment, log: None, seed: 1, start, notify };
    let proxy = Proxy::start(config, surroundings).await.unwrap();
    Sidecar {
        outbound: proxy.outbound[0],
        inbound: proxy.inbound,
        admin: proxy.admin,
        proxy: Some(proxy),
        shutdown,
        _token: token,
    }
}

impl Sidecar {
    /// One answer of the admin port, head and body.
    pub async fn admin_get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks the admin port until the answer is as wanted.
    pub async fn admin_until(&self, path: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let begin = tokio::time::Instant::now();
        loop {
            let answer = self.admin_get(path).await;
            if is_wanted(&answer) {
                return answer;
            }
            assert!(begin.elapsed() < PATIENCE, "{path} still says:\n{answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until some metric line begins with `name`, contains all of `labels` and ends in `value`.
    pub async fn metric(&self, name: &str, labels: &[&str], value: &str) {
        self.admin_until("/metrics", |text| {
            text.lines().any(|line| {
                line.starts_with(name)
                    && labels.iter().all(|label| line.contains(label))
                    && line.ends_with(&format!(" {value}"))
            })
        })
        .await;
    }

    /// Drains and waits for the end.
    pub async fn end(mut self) {
        self.shutdown.drain(hauberk_process::shutdown::Cause::Requested);
        let proxy = self.proxy.take().expect("it ends once");
        within(proxy.finish()).await;
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // A failed test must not leave worker threads behind that wait for connections.
        self.shutdown.force();
    }
}

/// Fails the test if it takes too long.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Captured for `target` on the way out.
pub fn captured_for(target: &str) -> Capture {
    Capture { outbound: OriginalDst::Fixed(target.parse().unwrap()), inbound: OriginalDst::Kernel }
}

/// Captured for `target` on the way in.
pub fn captured_in_for(target: SocketAddr) -> Capture {
    Capture { outbound: OriginalDst::Kernel, inbound: OriginalDst::Fixed(target) }
}

/// The authority that [`SERVICE`] is balanced over.
pub fn authority() -> Authority {
    Authority::new("server.test.svc.cluster.local", Port::new(7000).unwrap())
}

/// A backend that balances over [`authority`].
pub fn backend() -> Arc<Backend> {
    hauberk_testkit::policy::balanced(Meta::service("test", "server", Port::new(7000)), authority())
}

/// A route for opaque bytes to [`backend`].
pub fn opaque_route() -> OpaqueRoute {
    hauberk_testkit::policy::opaque_route(Meta::default("opaque"), backend())
}

/// A policy for [`SERVICE`].
pub fn policy(protocol: OutboundProtocol) -> OutboundPolicy {
    OutboundPolicy { parent: Meta::service("test", "server", Port::new(7000)), protocol }
}

/// To be detected; HTTP goes nowhere.
pub fn detect() -> OutboundProtocol {
    OutboundProtocol::Detect {
        timeout: Duration::from_secs(10),
        http1: HttpPolicy::default(),
        http2: HttpPolicy::default(),
        opaque: vec![opaque_route()],
    }
}

/// An endpoint at `address` of the account `server`.
pub fn meshed(address: SocketAddr, opaque_transport: Option<SocketAddr>) -> Endpoint {
    let identity = identity("server");
    let server_name = identity.as_str().into();
    Endpoint {
        tls: Some(EndpointTls { identity, server_name }),
        opaque_transport: opaque_transport.map(|at| Port::new(at.port()).unwrap()),
        ..Endpoint::bare(address)
    }
}

/// A set of endpoints.
pub fn endpoints(all: impl IntoIterator<Item = Endpoint>) -> Endpoints {
    let by_address = all.into_iter().map(|endpoint| (endpoint.address, Arc::new(endpoint)));
    Endpoints { labels: Arc::default(), by_address: by_address.collect() }
}
