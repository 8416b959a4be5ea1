//! Endpoints: where a request can really go, and how one set differs from another.

use crate::{Port, WorkloadId};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Labels for metrics, in a fixed order.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// An address that serves a target, and how to speak with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens (the application's address, also when reached through its proxy).
    pub address: SocketAddr,
    /// Relative weight; carried for compatibility, not used for balancing.
    pub weight: u32,
    /// Labels for metrics (`pod`, `deployment`, `zone`, …).
    pub labels: Labels,
    /// Identity to expect and the name to ask for; none means plaintext.
    pub tls: Option<EndpointTls>,
    /// What its proxy understands.
    pub hint: ProtocolHint,
    /// Port of its proxy for connections with a transport header, if it wants them.
    pub opaque_transport: Option<Port>,
    /// Authority to ask for instead of the request's own (gateways of other clusters).
    pub authority_override: Option<Arc<str>>,
    /// HTTP/2 parameters for connections to it.
    pub http2: Option<Http2Params>,
    /// The resource behind it, if known.
    pub resource: Option<crate::Meta>,
}

impl Endpoint {
    /// A bare address: plaintext, nothing known.
    pub fn bare(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 10_000,
            labels: Labels::new(),
            tls: None,
            hint: ProtocolHint::Unknown,
            opaque_transport: None,
            authority_override: None,
            http2: None,
            resource: None,
        }
    }
}

/// How an endpoint proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointTls {
    /// The identity its certificate must carry.
    pub identity: WorkloadId,
    /// The name to send as SNI.
    pub server_name: Arc<str>,
}

/// What an endpoint's proxy understands beyond the application's own protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolHint {
    /// Nothing known: speak the application's protocol.
    #[default]
    Unknown,
    /// HTTP/2 by prior knowledge: HTTP/1 may be carried over it.
    Http2,
    /// Treat as opaque bytes.
    Opaque,
}

/// HTTP/2 parameters of a client connection; `None` leaves the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http2Params {
    /// Flow control of a connection, in bytes.
    pub initial_connection_window: Option<u32>,
    /// Flow control of a stream, in bytes.
    pub initial_stream_window: Option<u32>,
    /// Whether windows follow the measured bandwidth.
    pub adaptive_flow_control: bool,
    /// Interval and time limit of keep-alive pings.
    pub keep_alive: Option<KeepAlive>,
    /// Streams reset by us that are remembered.
    pub max_concurrent_reset_streams: Option<u32>,
    /// Largest frame, in bytes.
    pub max_frame_size: Option<u32>,
    /// Largest send buffer of a stream, in bytes.
    pub max_send_buf_size: Option<u32>,
}

/// HTTP/2 keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// Between pings.
    pub interval: Duration,
    /// Until a ping is held to be lost.
    pub timeout: Duration,
    /// Whether idle connections are pinged too.
    pub while_idle: bool,
}

/// All endpoints of a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoints {
    /// Labels that hold for all of them (`namespace`, `service`).
    pub labels: Arc<Labels>,
    /// By address. Each endpoint is shared between versions of the set.
    pub by_address: BTreeMap<SocketAddr, Arc<Endpoint>>,
}

impl Endpoints {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Endpoints on an address, whatever the port.
    pub fn on(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Endpoint>> {
        let range = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
        self.by_address.range(range).map(|(_, endpoint)| endpoint)
    }
}

/// What must be told to somebody who knows an older set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// New or changed.
    pub add: Vec<Arc<Endpoint>>,
    /// Gone.
    pub remove: Vec<SocketAddr>,
}

impl Difference {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes `endpoints` as told.
    pub fn apply(&self, endpoints: &mut Endpoints) {
        for address in &self.remove {
            endpoints.by_address.remove(address);
        }
        for endpoint in &self.add {
            endpoints.by_address.insert(endpoint.address, Arc::clone(endpoint));
        }
    }
}

/// What `new` has that `old` has not. Cost: linear in both; equal `Arc`s are not looked into.
pub fn difference(old: &Endpoints, new: &Endpoints) -> Difference {
    let same = |a: &Arc<Endpoint>, b: &Arc<Endpoint>| Arc::ptr_eq(a, b) || a == b;
    let added = new.by_address.iter().filter(|(address, endpoint)| {
        !old.by_address.get(*address).is_some_and(|known| same(known, endpoint))
    });
    let gone = old.by_address.keys().filter(|address| !new.by_address.contains_key(*address));
    Difference {
        add: added.map(|(_, endpoint)| Arc::clone(endpoint)).collect(),
        remove: gone.copied().collect(),
    }
}
