//! The pods of the behaviour list, and sockets inside them.
//!
//! One lab serves all cases. Its pods only sleep: a case plays application and client itself, with
//! sockets that are made inside the pods' network namespaces. What lies between is the kernel's
//! rules, the control plane and the proxy as a process, which knows nothing but its settings.
//!
//! `HAUBERK_PROXY_UNDER_TEST` is the program of another proxy to hold against the list. It is
//! started as the injected container is, with the same settings, by `hauberk local up
//! --proxy-program`.

use crate::script::{self, Script};
use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use system_tests::{Lab, can_run};

/// No single step may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const SERVICES: [(&str, &str, &str); 2] =
    [("server", "10.96.77.1", "enabled"), ("bare", "10.96.77.2", "disabled")];

/// Ports where the protocol is found out, and ports that are declared opaque.
const DETECTED_PORTS: std::ops::Range<u16> = 7000..7199;
const OPAQUE_PORTS: std::ops::Range<u16> = 7200..7220;

/// How long the scripted proxy waits for a client to show what it speaks; elsewhere it is ten seconds.
pub(crate) const DETECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Every pod of the lab.
pub(crate) struct World {
    /// An application with a proxy.
    pub(crate) client: Place,
    /// An application without.
    pub(crate) outsider: Place,
    /// A server with a proxy.
    pub(crate) server: Place,
    /// A server without.
    pub(crate) bare: Place,
    /// An application whose proxy asks `script` instead of the lab's control plane about targets
    /// and its own ports; its certificate is the lab's.
    pub(crate) scripted: Place,
    /// What that proxy is told.
    pub(crate) script: Script,
}

/// What a connection passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The client's proxy and the server's.
    Both,
    /// The client's proxy only.
    Outbound,
    /// The server's proxy only.
    Inbound,
}

pub(crate) const WAYS: [Way; 3] = [Way::Both, Way::Outbound, Way::Inbound];

/// The world, made by the first case that asks for it; `None` where namespaces cannot be made.
pub(crate) fn world(case: &str) -> Option<&'static World> {
    static WORLD: OnceLock<Option<Result<World, mpsc::RecvError>>> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        if !can_run("behaviour") {
            return None;
        }
        let (sender, receiver) = mpsc::channel();
        // The lab dies with the thread that started it, and has to outlive the case that did.
        std::thread::spawn(move || {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("behaviour");
            let mut lab = Lab::up_in("behaviour", &manifest(), &[], &folder);
            // What is listed as ready is told to the proxies a moment later.
            lab.wait("every pod has its address", PATIENCE, |lab| lab.ps().len() == 5);
            let place = |name| Place::of(&lab, name);
            let scripted = place("scripted");
            let script = Script::serve(scripted.listen_at(script::ADDRESS));
            let world = World {
                scripted,
                script,
                client: place("client"),
                outsider: place("outsider"),
                server: place("server"),
                bare: place("bare"),
            };
            let _ = sender.send(world);
            loop {
                // It may return early.
                std::thread::park();
            }
        });
        Some(receiver.recv())
    });
    if world.is_none() {
        println!("SKIPPED {case}: there is no lab");
    }
    // Nobody tries a second time.
    world.as_ref().map(|world| world.as_ref().expect("the lab came up"))
}

impl World {
    /// A new connection that passes `way` to `port`.
    pub(crate) fn connect(&self, way: Way, port: u16) -> TcpStream {
        self.from(way).connect(self.address(way, port))
    }

    /// Where connections of that way begin.
    pub(crate) fn from(&self, way: Way) -> &Place {
        match way {
            Way::Both | Way::Outbound => &self.client,
            Way::Inbound => &self.outsider,
        }
    }

    /// The address a client of that way dials.
    pub(crate) fn address(&self, way: Way, port: u16) -> SocketAddr {
        let service = match way {
            Way::Both | Way::Inbound => SERVICES[0].1,
            Way::Outbound => SERVICES[1].1,
        };
        SocketAddr::new(service.parse().expect("an address"), port)
    }

    /// The proxies on that way.
    pub(crate) fn proxies(&self, way: Way) -> Vec<&Place> {
        match way {
            Way::Both => vec![&self.client, &self.server],
            Way::Outbound => vec![&self.client],
            Way::Inbound => vec![&self.server],
        }
    }

    /// Starts an application at both servers: `serve` gets each connection, in a thread of its own.
    pub(crate) fn serve(
        &self,
        port: u16,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> u16 {
        for place in [&self.server, &self.bare] {
            place.serve(port, serve.clone());
        }
        port
    }
}

/// A pod, seen from inside its network namespace.
pub(crate) struct Place {
    namespace: File,
    /// Process id of the proxy.
    proxy: Option<u64>,
    /// Its address.
    pub(crate) ip: IpAddr,
}

impl Place {
    fn of(lab: &Lab, name: &str) -> Self {
        let pod = lab.pod("behaviour", name);
        let pid = pod.pid("main").expect("the application runs");
        let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
        let ip = pod.ip().parse().expect("an address");
        Self { namespace, proxy: pod.pid("linkerd-proxy"), ip }
    }

    /// Runs `act` inside the pod's network. Sockets made there stay there.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                use std::os::fd::AsFd as _;
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.namespace.as_fd(), kind)
                    .expect("enter a network namespace");
                act()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A connection whose reads and writes are limited.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        let socket = self.within(|| TcpStream::connect_timeout(&to, PATIENCE));
        let socket = socket.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        limit(&socket);
        socket
    }

    /// A listener on all addresses.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.listen_at(SocketAddr::from(([0, 0, 0, 0], port)))
    }

    /// A listener on one address.
    pub(crate) fn listen_at(&self, address: SocketAddr) -> TcpListener {
        let listener = self.within(|| TcpListener::bind(address));
        listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"))
    }

    /// Starts an application here: `serve` gets each connection, in a thread of its own.
    pub(crate) fn serve(&self, port: u16, serve: impl Fn(TcpStream) + Clone + Send + 'static) {
        let listener = self.listen(port);
        // It ends with the process; a case that has failed has nobody to join it.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                limit(&socket);
                let serve = serve.clone();
                std::thread::spawn(move || serve(socket));
            }
        });
    }

    /// The proxy's metrics page.
    pub(crate) fn metrics(&self) -> String {
        self.admin("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    }

    /// What the proxy's admin port says to a request that closes its connection.
    pub(crate) fn admin(&self, request: &str) -> String {
        let mut admin = self.connect("127.0.0.1:4191".parse().expect("an address"));
        admin.write_all(request.as_bytes()).expect("ask the admin port");
        let mut page = Vec::new();
        admin.read_to_end(&mut page).expect("read its answer");
        String::from_utf8_lossy(&page).into_owned()
    }

    /// Waits until the samples of a metric whose labels include `labels` sum up to what is wanted.
    pub(crate) fn counted(&self, metric: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
        let mut last = 0.0;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = system_tests::metric(&self.metrics(), metric, labels);
            if wanted(last) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let page = self.metrics();
        let lines: Vec<_> = page.lines().filter(|line| line.starts_with(metric)).collect();
        panic!("{metric} {labels:?} is {last}:\n{}", lines.join("\n"));
    }

    /// Bytes of memory that are the proxy's own.
    pub(crate) fn memory(&self) -> u64 {
        let pid = self.proxy.expect("it has a proxy");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.expect("the proxy that was there at the start still runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("RssAnon in kB") * 1024
    }

    /// Files the proxy has open.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.proxy.expect("it has a proxy");
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the proxy runs").count()
    }
}

/// A port nobody else uses.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(DETECTED_PORTS.start);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(DETECTED_PORTS.contains(&port), "more ports are needed");
    port
}

/// A port nobody else uses, which is declared opaque.
pub(crate) fn opaque_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(OPAQUE_PORTS.start);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(OPAQUE_PORTS.contains(&port), "more ports are needed");
    port
}

/// Held by cases that measure a proxy's memory or fill it, so that they do not measure each other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `done`, with a deadline.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn limit(socket: &TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).expect("limit reads");
    socket.set_write_timeout(Some(PATIENCE)).expect("limit writes");
    socket.set_nodelay(true).expect("no delay");
}

fn manifest() -> String {
    let opaque = format!("{}-{}", OPAQUE_PORTS.start, OPAQUE_PORTS.end - 1);
    let command = |line: &str| format!("local.hauberk.io/command.linkerd-proxy: {line:?}");
    let opaque_ports = format!("config.linkerd.io/opaque-ports: {opaque}");
    let scripted = {
        let line = match std::env::var("HAUBERK_PROXY_UNDER_TEST") {
            Ok(other) => {
                let hauberk = system_tests::binary("hauberk");
                format!("{} local with-identity {other}", hauberk.display())
            }
            Err(_) => system_tests::binary("hauberk-proxy").display().to_string(),
        };
        let (at, detect) = (script::ADDRESS, DETECT_TIMEOUT.as_millis());
        command(&format!(
            "env LINKERD2_PROXY_DESTINATION_SVC_ADDR={at} LINKERD2_PROXY_POLICY_SVC_ADDR={at} \
             LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT={detect}ms {line}"
        ))
    };
    let mut all = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: behaviour}\n");
    let mut pods = vec![("client", "enabled", &opaque_ports), ("scripted", "enabled", &scripted)];
    pods.push(("outsider", "disabled", &opaque_ports));
    pods.extend(SERVICES.map(|(name, _, inject)| (name, inject, &opaque_ports)));
    for (name, inject, annotations) in pods {
        all += &format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: behaviour
  labels: {{app: {name}}}
  annotations:
    linkerd.io/inject: {inject}
    {annotations}
spec:
  containers: [{{name: main, image: local/{name}, command: [sleep, infinity]}}]
"
        );
    }
    for (name, address, _) in SERVICES {
        let ports = DETECTED_PORTS.chain(OPAQUE_PORTS);
        let ports: Vec<_> = ports.map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
        all += &format!(
            "---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: behaviour
  annotations: {{config.linkerd.io/opaque-ports: {opaque}}}
spec:
  clusterIP: {address}
  selector: {{app: {name}}}
  ports: [{}]
",
            ports.join(", ")
        );
    }
    all
}
