//! A small mesh inside one thread: an application's proxy, a server's proxy, applications on
//! loopback sockets, mTLS by a test authority, and the answers of the control plane by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hauberk_identity::Certified;
use hauberk_model::endpoints::{EndpointTls, ProtocolHint};
use hauberk_model::failure_accrual::FailureAccrual;
use hauberk_model::inbound::InboundPolicy;
use hauberk_model::outbound::{
    Backend, BackendTarget, HttpPolicy, HttpRoute, OutboundPolicy, OutboundProtocol, Queue,
};
use hauberk_model::{Authority, Endpoint, Endpoints, Meta, Port, WorkloadId};
use hauberk_process::metrics::Metrics as Registry;
use hauberk_process::{Shutdown, Tasks};
use hauberk_proxy::connection::{Direction, Facts, NoTls, Tls};
use hauberk_proxy::control::{Directory, Lookup, Publisher, Target};
use hauberk_proxy::io::Io;
use hauberk_proxy::settings::Config;
use hauberk_proxy::telemetry::metrics::Metrics;
use hauberk_proxy::telemetry::tap::Taps;
use hauberk_proxy::tls::Identity;
use hauberk_proxy::worker::{Parts, Worker};
use hauberk_proxy::{inbound, outbound, settings};
use hauberk_testkit::ca::TestCa;
use hauberk_testkit::policy;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Longest time anything here may take; a test that needs longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The address that applications dial.
pub(crate) const SERVICE: &str = "10.96.0.1:80";
const AUTHORITY: &str = "web-svc.default.svc.cluster.local:80";

pub(crate) type TestError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type TestBody = UnsyncBoxBody<Bytes, TestError>;

/// Any body, as the type that all have here.
pub(crate) fn body<B>(body: B) -> TestBody
where
    B: http_body::Body<Data = Bytes, Error: Into<TestError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body of known content.
pub(crate) fn full(text: impl Into<Bytes>) -> TestBody {
    body(Full::new(text.into()))
}

/// Runs a test on one thread, with a deadline.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Mesh>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let mesh = Rc::new(Mesh::new());
        tokio::time::timeout(PATIENCE, test(mesh)).await.expect("the test hangs");
    }));
}

/// The same with a clock that jumps; for tests without sockets.
pub(crate) fn run_paused<F: Future<Output = ()>>(test: impl FnOnce(Rc<Mesh>) -> F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        test(Rc::new(Mesh::new())).await;
    }));
}

/// A proxy with its control plane.
pub(crate) struct Side {
    pub(crate) worker: Rc<Worker>,
    pub(crate) control: Publisher,
    pub(crate) registry: Registry,
    /// Gives it another certificate.
    pub(crate) certified: tokio::sync::watch::Sender<Option<Arc<Certified>>>,
}

pub(crate) struct Mesh {
    pub(crate) client: Side,
    pub(crate) server: Side,
    pub(crate) server_id: WorkloadId,
    pub(crate) client_id: WorkloadId,
}

/// How the endpoint's proxy is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Two proxies, mTLS, HTTP/1 over HTTP/2.
    Meshed,
    /// Two proxies, mTLS, each version as it is.
    MeshedPlainHttp,
    /// The application itself, without a proxy of its own.
    Unmeshed,
}

pub(crate) const WAYS: [Way; 3] = [Way::Meshed, Way::MeshedPlainHttp, Way::Unmeshed];

impl Mesh {
    fn new() -> Self {
        let mut ca = TestCa::new(SystemTime::now());
        let (client, client_id) = side(&mut ca, "client", |config| {
            config.outbound.profile_networks = vec!["10.0.0.0/8".parse().unwrap()];
        });
        client.control.profile(Target::Address(SERVICE.parse().unwrap()), Lookup::Absent);
        let (server, server_id) = side(&mut ca, "server", |_| {});
        Self { client, server, server_id, client_id }
    }

    /// A connection of the application to the service, through its proxy.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let facts = Facts {
            direction: Direction::Outbound,
            client: "10.0.0.9:5000".parse().unwrap(),
            original_dst: SERVICE.parse().unwrap(),
            tls: Tls::None(NoTls::Loopback),
            accepted_at: Instant::now(),
        };
        let worker = Rc::clone(&self.client.worker);
        tokio::task::spawn_local(async move {
            let _guard = worker.shutdown.guard();
            outbound::serve(Rc::clone(&worker), Io::memory(far), facts).await;
        });
        near
    }

    /// A connection of an unmeshed stranger to the application, through the server's proxy.
    pub(crate) fn connect_inbound(&self, application: SocketAddr) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let worker = Rc::clone(&self.server.worker);
        tokio::task::spawn_local(inbound::serve(worker, Io::memory(far), stranger(application)));
        near
    }

    /// The server's proxy in front of `application`: the address that peers dial.
    pub(crate) async fn proxied(&self, application: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let worker = Rc::clone(&self.server.worker);
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let worker = Rc::clone(&worker);
                let facts = stranger(application);
                tokio::task::spawn_local(inbound::serve(worker, Io::plain(socket), facts));
            }
        });
        address
    }

    /// An endpoint for `application`, reached that way.
    pub(crate) async fn endpoint(&self, application: SocketAddr, way: Way) -> Endpoint {
        if way == Way::Unmeshed {
            return Endpoint::bare(application);
        }
        let mut endpoint = Endpoint::bare(self.proxied(application).await);
        let server_name = self.server_id.as_str().into();
        endpoint.tls = Some(EndpointTls { identity: self.server_id.clone(), server_name });
        if way == Way::Meshed {
            endpoint.hint = ProtocolHint::Http2;
        }
        endpoint
    }

    /// The service has these endpoints.
    pub(crate) fn publish(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let by_address = endpoints.into_iter().map(|e| (e.address, Arc::new(e))).collect();
        let set = Endpoints { labels: Arc::default(), by_address };
        self.client.control.endpoints(authority(), Lookup::Known(Arc::new(set)));
    }

    /// The service's policy: one route, one backend.
    pub(crate) fn policy(&self, accrual: Option<FailureAccrual>) {
        self.publish_policy(vec![route(Vec::new())], accrual);
    }

    pub(crate) fn publish_policy(&self, routes: Vec<HttpRoute>, accrual: Option<FailureAccrual>) {
        let http = HttpPolicy { routes: routes.into(), failure_accrual: accrual };
        let policy = OutboundPolicy {
            parent: Meta::service("default", "web-svc", Port::new(80)),
            protocol: OutboundProtocol::Detect {
                timeout: Duration::from_secs(10),
                http1: http.clone(),
                http2: http,
                opaque: Vec::new(),
            },
        };
        let target = Target::Address(SERVICE.parse().unwrap());
        self.client.control.outbound_policy(target, Lookup::Known(Arc::new(policy)));
    }

    /// A service with one application behind it.
    pub(crate) async fn serve(&self, application: SocketAddr, way: Way) {
        self.policy(None);
        self.publish([self.endpoint(application, way).await]);
    }

    /// What the server accepts on the application's port.
    pub(crate) fn inbound_policy(&self, application: SocketAddr, policy: InboundPolicy) {
        let port = Port::new(application.port()).unwrap();
        self.server.control.inbound_policy(port, Lookup::Known(Arc::new(policy)));
    }
}

pub(crate) fn authority() -> Authority {
    Authority::parse(AUTHORITY, Port::new(80).unwrap()).unwrap()
}

/// A route to the service.
pub(crate) fn route(matches: Vec<hauberk_model::route::http::HttpMatch>) -> HttpRoute {
    let backend = policy::balanced(Meta::service("default", "web-svc", Port::new(80)), authority());
    policy::http_route(Meta::default("default"), matches, backend)
}

/// A route to one address, without discovery.
pub(crate) fn route_to(address: SocketAddr) -> HttpRoute {
    forward_to(Endpoint::bare(address))
}

/// The same to an address of which more is known.
pub(crate) fn forward_to(endpoint: Endpoint) -> HttpRoute {
    let target = BackendTarget::Forward(Arc::new(endpoint));
    let meta = Meta::service("default", "web-svc", Port::new(80));
    let backend = Arc::new(Backend { meta, target, queue: Queue::default() });
    policy::http_route(Meta::default("default"), Vec::new(), backend)
}

fn stranger(application: SocketAddr) -> Facts {
    Facts {
        direction: Direction::Inbound,
        client: "10.0.0.7:5000".parse().unwrap(),
        original_dst: application,
        tls: Tls::None(NoTls::NotFromRemote),
        accepted_at: Instant::now(),
    }
}

fn side(ca: &mut TestCa, name: &str, change: impl FnOnce(&mut Config)) -> (Side, WorkloadId) {
    let certified = ca.account(name, "default");
    let id = certified.identity().clone();
    let environment = [
        ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", "127.0.0.1:8086"),
        ("LINKERD2_PROXY_POLICY_SVC_ADDR", "127.0.0.1:8090"),
        ("LINKERD2_PROXY_POLICY_WORKLOAD", "default:test"),
        ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "-----BEGIN CERTIFICATE-----"),
        ("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", id.as_str()),
        ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "127.0.0.1:8080"),
        ("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/token"),
    ];
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mut config = settings::read(&environment, 1).unwrap_or_else(|e| panic!("{e}"));
    config.outbound.dials_loopback = true;
    change(&mut config);
    let registry = Registry::new();
    let (directory, control) = Directory::unconnected();
    let (certified, certified_now) = tokio::sync::watch::channel(Some(certified));
    let identity = Identity::new(id.clone(), id.as_str().into(), certified_now);
    let worker = Worker::new(Parts {
        config: Arc::new(config),
        directory,
        identity,
        metrics: Arc::new(Metrics::register(&registry)),
        taps: Taps::default(),
        tracer: None,
        tasks: Tasks::new(Shutdown::new()),
        seed: 1,
    });
    (Side { worker, control, registry, certified }, id)
}

/// An application that answers HTTP/1 requests; gives its address.
pub(crate) async fn http1_application<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Response<TestBody>> + 'static,
{
    let answer = Rc::new(answer);
    application(move |socket| {
        let answer = Rc::clone(&answer);
        let service = service_fn(move |request| {
            let response = answer(request);
            async move { Ok::<_, hyper::Error>(response.await) }
        });
        async move {
            let builder = hyper::server::conn::http1::Builder::new();
            // The proxy may close at any time.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await
}

/// An application that answers HTTP/2 requests; an error resets the stream.
pub(crate) async fn http2_application<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Result<Response<TestBody>, h2::Error>> + 'static,
{
    let answer = Rc::new(answer);
    application(move |socket| {
        let answer = Rc::clone(&answer);
        async move {
            let service = service_fn(move |request| answer(request));
            let builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await
}

/// An application that serves connections as it likes.
pub(crate) async fn application<F, R>(serve: F) -> SocketAddr
where
    F: Fn(tokio::net::TcpStream) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(socket));
        }
    });
    address
}

/// An address on which nobody listens.
pub(crate) async fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// An application that answers 200 and remembers the heads of requests.
pub(crate) async fn recording() -> (SocketAddr, Rc<RefCell<Vec<http::request::Parts>>>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let record = Rc::clone(&seen);
    let address = http1_application(move |request: Request<Incoming>| {
        let record = Rc::clone(&record);
        async move {
            let (parts, body) = request.into_parts();
            let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
            record.borrow_mut().push(parts);
            Response::new(full(format!("got {length}")))
        }
    })
    .await;
    (address, seen)
}

/// Writes `text` and reads until the other side closes.
pub(crate) async fn exchange(mut connection: DuplexStream, text: &str) -> String {
    connection.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `end` has come.
pub(crate) async fn read_until(connection: &mut DuplexStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with(end) {
        let count = connection.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {text:?} while waiting for {end:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

/// An HTTP/2 client on a connection.
pub(crate) async fn http2_client(
    connection: DuplexStream,
) -> hyper::client::conn::http2::SendRequest<TestBody> {
    let builder = hyper::client::conn::http2::Builder::new(LocalExecutor);
    let (sender, driver) = builder.handshake(TokioIo::new(connection)).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    sender
}

/// Waits until `holds`; the caller's deadline bounds it.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
