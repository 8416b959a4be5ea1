//! Connections to the services of the control plane.
//!
//! One HTTP/2 connection per service, made when it is needed and again after it broke, inside mesh TLS of our own or,
//! on loopback, in plaintext. Names are resolved by the system, on the admin runtime's blocking pool, anew for each
//! connection; addresses are tried in random order until one answers, so proxies spread over the replicas.

use super::calls::Channel;
use crate::{
    io::Raw,
    settings::Service,
    telemetry::{labels::Labels, metrics::Control},
    tls::Identity,
};
use hauberk_identity::{Alpn, TlsSettings, TrustAnchors, client_config, verify::expect_identity};
use hauberk_linux::socket::ConnectionOptions;
use hauberk_model::{WorkloadId, settings::value::Address};
use hauberk_process::{Spawner, Tasks};
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom;
use rustls_pki_types::ServerName;
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Endpoint, Uri};

/// Name look-up, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For each address of several, so that one dead replica does not use up the whole time.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// A control plane that has died without a word is noticed after these two.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What connections to the control plane need.
#[derive(Clone, Debug)]
pub struct Connector {
    way: Way,
    executor: Spawner,
    metrics: Control,
}

/// How the control plane is reached.
#[derive(Clone)]
enum Way {
    /// Through the kernel.
    Network { identity: Identity, anchors: Arc<TrustAnchors> },
    /// Inside this process.
    Memory { window_bytes: u32, dial: Arc<Dial> },
}

/// Connects to an address inside this process.
pub type Dial = dyn Fn(&Address) -> io::Result<DuplexStream> + Send + Sync;

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network { .. } => "Network",
            Self::Memory { .. } => "Memory",
        })
    }
}

impl Connector {
    /// A connector that shows the newest certificate of `identity`, if there is one yet.
    pub fn new(
        identity: Identity,
        anchors: Arc<TrustAnchors>,
        metrics: Control,
        tasks: &Tasks,
    ) -> Self {
        let way = Way::Network { identity, anchors };
        Self { way, executor: tasks.kind("control-connection"), metrics }
    }

    /// A connector for simulations: connections are pipes that `dial` makes, in plaintext. `window_bytes` is how much a
    /// stream may be ahead of its reader, so that a small one shows what slow readers do to the control plane.
    pub fn in_memory(window_bytes: u32, dial: Arc<Dial>, tasks: &Tasks) -> Self {
        let way = Way::Memory { window_bytes, dial };
        let executor = tasks.kind("control-connection");
        Self { way, executor, metrics: Control::default() }
    }

    /// A channel that connects when it is used.
    pub fn channel(&self, service: &Service) -> Channel {
        let (channel, labels) = (self.connecting(service), labels(service));
        Channel::new(channel, self.metrics.calls.clone(), labels)
    }

    fn connecting(&self, service: &Service) -> tonic::transport::Channel {
        let authority = &service.address;
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .expect("an address of the settings is a URI's authority")
            .executor(self.executor.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let endpoint = match &self.way {
            Way::Network { .. } => endpoint,
            Way::Memory { window_bytes, .. } => endpoint.initial_stream_window_size(*window_bytes),
        };
        let (connector, service) = (self.clone(), service.clone());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (connector, service) = (connector.clone(), service.clone());
            async move { connector.connect(&service).await.map(TokioIo::new) }
        }))
    }

    async fn connect(&self, service: &Service) -> io::Result<ControlIo> {
        let (identity, anchors) = match &self.way {
            Way::Network { identity, anchors } => (identity, anchors),
            Way::Memory { dial, .. } => {
                return dial(&service.address).map(|pipe| ControlIo::Plain(Raw::Memory(pipe)));
            }
        };
        let mut addresses = self.resolve(&service.address).await?;
        addresses.shuffle(&mut rand::rng());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let dialled = dial(address, &service.identity, identity, anchors);
            match tokio::time::timeout(ADDRESS_TIMEOUT, dialled).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
            tracing::debug!(%address, error = %last, "cannot connect to the control plane");
        }
        Err(last)
    }

    /// The addresses of a service. Loopback needs no look-up, and gets none.
    async fn resolve(&self, address: &Address) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = match address {
            Address::Socket(address) => return Ok(vec![*address]),
            Address::Name { port, .. } if address.is_loopback() => {
                let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
                let loopback: [IpAddr; 2] = [v4, v6];
                return Ok(loopback.map(|address| SocketAddr::new(address, *port)).to_vec());
            }
            Address::Name { host, port } => (host.as_str(), *port),
        };
        let found = tokio::net::lookup_host((host, port)).await;
        // The system asks for both kinds of address at once.
        let labels = Labels::new()
            .with("client", host.to_owned())
            .with("record_type", "A/AAAA")
            .with("result", if found.is_ok() { "ok" } else { "error" });
        self.metrics.resolutions.get_or_create(&labels).inc();
        Ok(found?.collect())
    }
}

/// `addr`, and `tls` with the name that the service must have.
fn labels(service: &Service) -> Labels {
    let labels = Labels::new().with("addr", service.address.to_string());
    match &service.identity {
        Some(identity) => labels.with("tls", "true").with("server_id", identity.to_string()),
        None => labels.with("tls", "no_identity").with("no_tls_reason", "loopback"),
    }
}

/// A connection to one address; TLS where the service has an identity.
async fn dial(
    address: SocketAddr,
    expected: &Option<WorkloadId>,
    identity: &Identity,
    anchors: &TrustAnchors,
) -> io::Result<ControlIo> {
    let options = ConnectionOptions {
        nodelay: true,
        keepalive: Some(PING_INTERVAL),
        user_timeout: Some(PING_INTERVAL + PING_TIMEOUT),
    };
    let socket = crate::dial::tcp(address, &options).await?;
    let Some(expected) = expected else {
        return Ok(ControlIo::Plain(Raw::Tcp(socket)));
    };
    let config = match identity.certified() {
        Some(certified) => Arc::clone(certified.client(Alpn::None)),
        None => client_config::without_certificate(anchors, Alpn::None, &TlsSettings::default()),
    };
    let name = ServerName::try_from(expected.as_str().to_owned()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "the service's identity is not a DNS name")
    })?;
    let tls = TlsConnector::from(config).connect(name, Raw::Tcp(socket)).await?;
    expect_identity(tls.get_ref().1.peer_certificates(), expected)
        .map_err(|wrong| io::Error::new(io::ErrorKind::PermissionDenied, wrong))?;
    Ok(ControlIo::Tls(Box::new(tls)))
}

/// A connection to the control plane.
#[derive(Debug)]
enum ControlIo {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

impl AsyncRead for ControlIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ControlIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_process::Shutdown;
    use hauberk_process::metrics::Registry;

    #[tokio::test]
    async fn names_are_looked_up_and_that_is_counted() {
        let tasks = Tasks::new(Shutdown::new());
        let refuse = |_: &Address| Err(io::ErrorKind::Unsupported.into());
        let connector = Connector::in_memory(1024, Arc::new(refuse), &tasks);
        let mut registry = Registry::default();
        let resolutions = connector.metrics.resolutions.clone();
        registry.register("control_dns_resolutions", "Look-ups", resolutions);
        for (address, is_found) in [
            ("localhost:80", true),
            ("name.invalid:80", false),
            ("localhost.:80", true),
            ("10.0.0.1:80", true),
        ] {
            let found =
                connector.resolve(&hauberk_model::settings::value::address(address).unwrap()).await;
            assert_eq!(found.is_ok_and(|all| !all.is_empty()), is_found, "{address}");
        }
        let text = registry.text();
        let name = "control_dns_resolutions_total";
        for (client, result) in [("localhost", "ok"), ("name.invalid", "error")] {
            let labels =
                format!("{{client=\"{client}\",record_type=\"A/AAAA\",result=\"{result}\"}} 1");
            assert!(text.contains(&format!("{name}{labels}\n")), "{text}");
        }
        assert_eq!(text.matches(&format!("{name}{{")).count(), 2, "addresses need no look-up");
    }
}
