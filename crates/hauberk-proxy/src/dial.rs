//! Connecting to an endpoint: TCP, TLS if it has an identity, and the transport header if its proxy wants one, all
//! inside one deadline.
//!
//! | endpoint | dialled | ALPN | header |
//! |---|---|---|---|
//! | identity only | its address | none | none |
//! | identity and a port for opaque transport | that port | offered | the application's port |
//! | identity and an authority override | its address (a gateway) | offered | the override's port and name |
//! | no identity | its address | – | none |
//! | in our own pod | its address | – | none |
//!
//! If the server does not agree on the header, none is sent. Refused: loopback addresses, which would be this pod's
//! own and not what the application meant (linkerd2-proxy refuses them too).

use crate::{
    connection::Direction,
    http::failure::{Failure, What},
    io::Io,
    telemetry::{
        labels::{IsLocal, Labels},
        tcp::{PeerEnd, Sensor, Transport, ZoneLocality},
    },
    tls,
    transport_header::{Session, TransportHeader},
    worker::Worker,
};
use hauberk_identity::Alpn;
use hauberk_linux::socket::{self, ConnectionOptions};
use hauberk_model::{
    Authority, Endpoint, Port,
    endpoints::{EndpointTls, Labels as EndpointLabels},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

/// The mark on every socket we dial, which the capture rules let pass (`SO_MARK`).
const MARK: u32 = 0x539;

/// Whether `endpoint` is in our own pod, where no TLS is spoken and no header sent.
pub fn is_local(worker: &Worker, endpoint: &Endpoint) -> IsLocal {
    if worker.config.inbound.ips.contains(&endpoint.address.ip()) {
        IsLocal::Yes
    } else {
        IsLocal::No
    }
}

/// By what an endpoint was found; its requests and connections are counted under that.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Who was asked for; none if it is a known address.
    pub authority: Option<Authority>,
    /// Labels of everybody who was found.
    pub labels: Arc<EndpointLabels>,
}

impl Found {
    /// Adds `authority`, `target_*`, `tls` and `dst_*` of `endpoint`.
    pub fn label(&self, mut labels: Labels, worker: &Worker, endpoint: &Endpoint) -> Labels {
        if let Some(authority) = &self.authority {
            labels = labels.with("authority", authority.to_string());
        }
        labels
            .target(endpoint.address)
            .tls_dialled(endpoint, is_local(worker, endpoint))
            .endpoint(&self.labels, endpoint)
    }
}

/// Connects to `endpoint`, of a session in that protocol. The result counts its bytes.
pub async fn dial(
    worker: &Worker,
    (endpoint, found): (&Endpoint, &Found),
    session: Session,
) -> Result<Io, Failure> {
    let address = endpoint.address;
    let outbound = &worker.config.outbound;
    if address.ip().to_canonical().is_loopback() && !outbound.dials_loopback {
        return Err(Failure::us(What::Loop(address)));
    }
    let side = &outbound.side;
    let way = Way::new(endpoint, is_local(worker, endpoint), session);
    let connecting = connect(worker, &way, &side.connect, session);
    let mut io = within(side.connect_timeout, way.address, connecting).await?;
    io.observe(Sensor::open(&transport(worker, endpoint, found)));
    Ok(io)
}

/// Connects to the application beside us, in plain TCP.
pub async fn dial_application(worker: &Worker, address: SocketAddr) -> Result<Io, Failure> {
    let side = &worker.config.inbound.side;
    let connecting = async {
        let socket = tcp(address, &side.connect).await;
        socket.map(Io::plain).map_err(|error| Failure::peer(What::Connect { address, error }))
    };
    within(side.connect_timeout, address, connecting).await
}

async fn within<T>(
    timeout: Duration,
    address: SocketAddr,
    connecting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Failure::peer(What::ConnectTimeout { address, timeout })),
    }
}

/// How an endpoint is reached; the table of the module documentation as a value.
#[derive(Debug, PartialEq)]
struct Way<'e> {
    address: SocketAddr,
    tls: Option<&'e EndpointTls>,
    header: Option<TransportHeader>,
}

impl<'e> Way<'e> {
    fn new(endpoint: &'e Endpoint, is_local: IsLocal, session: Session) -> Self {
        let address = endpoint.address;
        let Some(tls) = endpoint.tls.as_ref().filter(|_| is_local == IsLocal::No) else {
            return Self { address, tls: None, header: None };
        };
        let over = endpoint.authority_override.as_deref().and_then(|text| {
            // An override without a port cannot be put into a header (linkerd2-proxy ignores it as well).
            let has_port =
                text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = Port::new(address.port())?;
            Authority::parse(text, port).ok().filter(|_| has_port)
        });
        let session = match endpoint.hint {
            hauberk_model::endpoints::ProtocolHint::Opaque => Session::Opaque,
            _ => session,
        };
        let (address, header) = match (over, endpoint.opaque_transport) {
            (Some(over), _) => {
                let name = Some(over.host().to_owned());
                (address, Some(TransportHeader { port: over.port().get(), name, session }))
            }
            (None, Some(port)) => (
                SocketAddr::new(address.ip(), port.get()),
                Some(TransportHeader { port: address.port(), name: None, session }),
            ),
            (None, None) => (address, None),
        };
        Self { address, tls: Some(tls), header }
    }
}

async fn connect(
    worker: &Worker,
    way: &Way<'_>,
    options: &ConnectionOptions,
    session: Session,
) -> Result<Io, Failure> {
    let address = way.address;
    let socket = tcp(address, options)
        .await
        .map_err(|error| Failure::peer(What::Connect { address, error }))?;
    let Some(peer) = way.tls else {
        return Ok(Io::plain(socket));
    };
    let Some(certified) = worker.identity.certified() else {
        return Err(Failure::us(What::NoCertificate));
    };
    let alpn = if way.header.is_some() { Alpn::Transport } else { Alpn::None };
    let config = match session {
        Session::Opaque if worker.config.outbound.tls_resumption => {
            certified.client_resuming(alpn, &worker.sessions.get(address, &peer.identity))
        }
        Session::Opaque | Session::Http1 | Session::Http2 => Arc::clone(certified.client(alpn)),
    };
    let connecting = tls::connect::connect(socket, &certified, config, peer);
    let connected = connecting.await.map_err(|error| {
        Failure::peer(What::Handshake { address, expected: peer.identity.clone(), error })
    })?;
    worker.metrics.handshake(Direction::Outbound, connected.handshake);
    let mut io = connected.io;
    if let Some(header) = way.header.as_ref().filter(|_| connected.is_transport_header_agreed) {
        let written = async {
            io.write_all(&header.encode()).await?;
            io.flush().await
        };
        written.await.map_err(|error| Failure::peer(What::Connect { address, error }))?;
    }
    Ok(io)
}

/// Connects in plain TCP, with the mark that capture rules let pass.
pub(crate) async fn tcp(address: SocketAddr, options: &ConnectionOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::set_mark(&socket, MARK)?;
    let stream = socket.connect(address).await?;
    // A connection without keep-alive or without the user timeout still works.
    if let Err(error) = socket::configure(&stream, options) {
        tracing::debug!(%address, %error, "cannot set socket options");
    }
    Ok(stream)
}

fn transport(worker: &Worker, endpoint: &Endpoint, found: &Found) -> Arc<Transport> {
    let labels = Labels::new().direction(Direction::Outbound);
    let labels = labels.with("peer", PeerEnd::Destination.as_str());
    let labels = found.label(labels, worker, endpoint);
    let zone = endpoint.labels.get("zone_locality").map(|zone| &**zone);
    worker.metrics.tcp.transport(labels, Some(ZoneLocality::new(zone)))
}
