//! Where the endpoints of a target are, each way, as additions and removals.
//!
//! Inside the control plane and inside the proxy whole sets travel; only the wire wants
//! differences. The control plane computes them with [`updates`] against what it last sent, the
//! proxy folds them back with [`Update::apply`].

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_model::endpoints::{
    EndpointTls, Http2Params, KeepAlive, Labels, ProtocolHint, difference,
};
use hauberk_model::name::Authority;
use hauberk_model::{Endpoint, Endpoints, Port, WorkloadId};

use crate::api::destination as wire;
use crate::invalid::{Invalid, Required};
use crate::{meta, scalar};

/// Most endpoints in one message. At about 500 bytes each this stays well below the 4 MiB that
/// gRPC libraries accept by default.
const ENDPOINTS_PER_MESSAGE_MAX: usize = 2000;

/// Asks for endpoints or a profile; `context` is the token the proxy was given by its injector.
pub fn request(authority: &Authority, context: &str) -> wire::GetDestination {
    wire::GetDestination {
        scheme: "k8s".to_owned(),
        path: authority.to_string(),
        context_token: context.to_owned(),
    }
}

/// A change of a set of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// These are new or changed.
    Add {
        /// Labels that hold for these endpoints together.
        labels: Arc<Labels>,
        /// The endpoints.
        endpoints: Vec<Arc<Endpoint>>,
    },
    /// The endpoints on these addresses are gone.
    Remove(Vec<SocketAddr>),
    /// There are none at all.
    NoEndpoints {
        /// Whether the target itself exists.
        exists: bool,
    },
}

impl Update {
    /// Folds the change into what is known.
    pub fn apply(self, known: &mut Endpoints) {
        match self {
            Self::Add { labels, endpoints } => add(known, labels, endpoints),
            Self::Remove(addresses) => {
                for address in addresses {
                    known.by_address.remove(&address);
                }
            }
            Self::NoEndpoints { .. } => known.by_address.clear(),
        }
    }
}

/// Labels of a message hold for its endpoints only (a federated service sends the endpoints of each
/// member with labels of their own), so a message with other labels than the known ones moves both
/// down to the endpoints they are about.
fn add(known: &mut Endpoints, labels: Arc<Labels>, endpoints: Vec<Arc<Endpoint>>) {
    let replaced = endpoints.iter().filter(|e| known.by_address.contains_key(&e.address)).count();
    if known.labels == labels || replaced == known.by_address.len() {
        known.labels = labels;
        known.by_address.extend(endpoints.into_iter().map(|e| (e.address, e)));
        return;
    }
    let common = std::mem::take(&mut known.labels);
    for endpoint in known.by_address.values_mut() {
        *endpoint = with_labels(endpoint, &common);
    }
    let added = endpoints.iter().map(|e| (e.address, with_labels(e, &labels)));
    known.by_address.extend(added);
}

fn with_labels(endpoint: &Arc<Endpoint>, common: &Labels) -> Arc<Endpoint> {
    if common.is_empty() {
        return Arc::clone(endpoint);
    }
    let mut labels = common.clone();
    labels.extend(endpoint.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    Arc::new(Endpoint { labels, ..(**endpoint).clone() })
}

/// What to say to somebody who was told `known` last, or nothing yet, so that they know `newest`.
///
/// Additions come first: the other side never sees an empty set between two full ones. Somebody who
/// was told nothing is always told something, at once, also if there are no endpoints: proxies wait
/// for a first message and retry without it. `exists` is for that case.
pub fn updates(known: Option<&Endpoints>, newest: &Endpoints, exists: bool) -> Vec<Update> {
    let add = |endpoints: Vec<Arc<Endpoint>>| {
        let chunks = endpoints.chunks(ENDPOINTS_PER_MESSAGE_MAX);
        let labels = &newest.labels;
        let chunk =
            |chunk: &[_]| Update::Add { labels: Arc::clone(labels), endpoints: chunk.into() };
        chunks.map(chunk).collect::<Vec<_>>()
    };
    let all = || newest.by_address.values().cloned().collect();
    let Some(known) = known else {
        return if newest.is_empty() { vec![Update::NoEndpoints { exists }] } else { add(all()) };
    };
    let difference = difference(known, newest);
    let added = if known.labels == newest.labels { difference.add } else { all() };
    let mut updates = add(added);
    let removed = difference.remove.chunks(ENDPOINTS_PER_MESSAGE_MAX);
    updates.extend(removed.map(|addresses| Update::Remove(addresses.to_vec())));
    updates
}

/// Says a change.
pub fn to_wire(update: &Update) -> wire::Update {
    let update = match update {
        Update::Add { labels, endpoints } => wire::update::Update::Add(wire::WeightedAddrSet {
            addrs: endpoints.iter().map(|endpoint| endpoint_to_wire(endpoint)).collect(),
            metric_labels: scalar::labels_to_wire(labels),
        }),
        Update::Remove(addresses) => wire::update::Update::Remove(wire::AddrSet {
            addrs: addresses.iter().copied().map(Into::into).collect(),
        }),
        Update::NoEndpoints { exists } => {
            wire::update::Update::NoEndpoints(wire::NoEndpoints { exists: *exists })
        }
    };
    wire::Update { update: Some(update) }
}

/// Understands a change, with what was wrong about single endpoints: these are left out, the others
/// count.
///
/// # Errors
/// If the message says nothing that this version knows.
pub fn from_wire(wire: wire::Update) -> Result<(Update, Vec<Invalid>), Invalid> {
    let mut problems = Vec::new();
    let update = match wire.update.required("Update.update")? {
        wire::update::Update::Add(set) => {
            let endpoints = good(set.addrs.into_iter().map(endpoint_from_wire), &mut problems);
            Update::Add {
                labels: Arc::new(scalar::labels(set.metric_labels)),
                endpoints: endpoints.into_iter().map(Arc::new).collect(),
            }
        }
        wire::update::Update::Remove(set) => {
            let address = |address| scalar::address("AddrSet.addrs", Some(address));
            Update::Remove(good(set.addrs.into_iter().map(address), &mut problems))
        }
        wire::update::Update::NoEndpoints(none) => Update::NoEndpoints { exists: none.exists },
    };
    Ok((update, problems))
}

/// The good results; the others are added to `problems`.
fn good<T>(
    results: impl Iterator<Item = Result<T, Invalid>>,
    problems: &mut Vec<Invalid>,
) -> Vec<T> {
    results.filter_map(|result| result.map_err(|invalid| problems.push(invalid)).ok()).collect()
}

pub(crate) fn endpoint_to_wire(from: &Endpoint) -> wire::WeightedAddr {
    wire::WeightedAddr {
        addr: Some(from.address.into()),
        weight: from.weight,
        metric_labels: scalar::labels_to_wire(&from.labels),
        tls_identity: from.tls.as_ref().map(tls_to_wire),
        protocol_hint: hint_to_wire(from),
        authority_override: from
            .authority_override
            .as_ref()
            .map(|authority| wire::AuthorityOverride { authority_override: authority.to_string() }),
        http2: from.http2.as_ref().map(http2_to_wire),
        resource_ref: from.resource.as_ref().map(meta::to_wire),
    }
}

pub(crate) fn endpoint_from_wire(wire: wire::WeightedAddr) -> Result<Endpoint, Invalid> {
    use wire::protocol_hint::Protocol;
    let hint = wire.protocol_hint.unwrap_or_default();
    let inbound_port = |transport: wire::protocol_hint::OpaqueTransport| {
        scalar::port("OpaqueTransport.inbound_port", transport.inbound_port)
    };
    let authority = wire.authority_override.map(|wire| wire.authority_override);
    Ok(Endpoint {
        address: scalar::address("WeightedAddr.addr", wire.addr)?,
        weight: wire.weight,
        labels: scalar::labels(wire.metric_labels),
        tls: wire.tls_identity.map(tls_from_wire).transpose()?,
        hint: match hint.protocol {
            None => ProtocolHint::Unknown,
            Some(Protocol::H2(_)) => ProtocolHint::Http2,
            Some(Protocol::Opaque(_)) => ProtocolHint::Opaque,
        },
        opaque_transport: hint.opaque_transport.map(inbound_port).transpose()?,
        authority_override: authority.filter(|text| !text.is_empty()).map(Into::into),
        http2: wire.http2.map(http2_from_wire).transpose()?,
        resource: meta::optional_from_wire("WeightedAddr.resource_ref", wire.resource_ref)?,
    })
}

fn hint_to_wire(from: &Endpoint) -> Option<wire::ProtocolHint> {
    use wire::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
    let protocol = match from.hint {
        ProtocolHint::Unknown => None,
        ProtocolHint::Http2 => Some(Protocol::H2(H2 {})),
        ProtocolHint::Opaque => Some(Protocol::Opaque(Opaque {})),
    };
    let transport = |port: Port| OpaqueTransport { inbound_port: port.get().into() };
    let opaque_transport = from.opaque_transport.map(transport);
    let is_known = protocol.is_some() || opaque_transport.is_some();
    is_known.then_some(wire::ProtocolHint { opaque_transport, protocol })
}

fn tls_to_wire(from: &EndpointTls) -> wire::TlsIdentity {
    use wire::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
    let strategy = match &from.identity {
        WorkloadId::Dns(name) => {
            Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.to_string() })
        }
        WorkloadId::Uri(uri) => Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.to_string() }),
    };
    let server_name = Some(DnsLikeIdentity { name: from.server_name.to_string() });
    wire::TlsIdentity { server_name, strategy: Some(strategy) }
}

/// Without a server name a DNS-like identity is asked for by itself; a URI cannot be. Such an
/// endpoint is refused: talking to it in the clear, as linkerd2-proxy does, would give up what the
/// control plane asked for.
fn tls_from_wire(wire: wire::TlsIdentity) -> Result<EndpointTls, Invalid> {
    use wire::tls_identity::Strategy;
    let server_name = wire.server_name.map(|server_name| server_name.name);
    let server_name = server_name.filter(|name| !name.is_empty());
    let (text, server_name) = match wire.strategy.required("TlsIdentity.strategy")? {
        Strategy::DnsLikeIdentity(dns) => {
            let server_name = server_name.unwrap_or_else(|| dns.name.clone());
            (dns.name, server_name)
        }
        Strategy::UriLikeIdentity(uri) => {
            (uri.uri, server_name.required("TlsIdentity.server_name")?)
        }
    };
    let identity = text.parse();
    let identity =
        identity.map_err(|error| Invalid::malformed("TlsIdentity.strategy", &text, error))?;
    Ok(EndpointTls { identity, server_name: server_name.into() })
}

fn http2_to_wire(from: &Http2Params) -> wire::Http2ClientParams {
    use wire::http2_client_params as params;
    let flow_control = params::FlowControl {
        initial_connection_window_size: from.initial_connection_window.unwrap_or(0),
        initial_stream_window_size: from.initial_stream_window.unwrap_or(0),
        adaptive_flow_control: from.adaptive_flow_control,
    };
    let internals = params::Internals {
        max_concurrent_reset_streams: from.max_concurrent_reset_streams.unwrap_or(0),
        max_frame_size: from.max_frame_size.unwrap_or(0),
        max_send_buf_size: from.max_send_buf_size.unwrap_or(0),
    };
    wire::Http2ClientParams {
        flow_control: (flow_control != params::FlowControl::default()).then_some(flow_control),
        keep_alive: from.keep_alive.map(|keep_alive| params::KeepAlive {
            interval: scalar::duration_to_wire(keep_alive.interval),
            timeout: scalar::duration_to_wire(keep_alive.timeout),
            while_idle: keep_alive.while_idle,
        }),
        internals: (internals != params::Internals::default()).then_some(internals),
    }
}

fn http2_from_wire(wire: wire::Http2ClientParams) -> Result<Http2Params, Invalid> {
    let flow_control = wire.flow_control.unwrap_or_default();
    let internals = wire.internals.unwrap_or_default();
    let given = |number: u32| (number != 0).then_some(number);
    let keep_alive = match wire.keep_alive {
        None => None,
        Some(wire) => {
            let interval = scalar::duration("KeepAlive.interval", wire.interval)?;
            let timeout = scalar::duration("KeepAlive.timeout", wire.timeout)?;
            // Pings need both; with one of them missing there are none.
            interval.zip(timeout).map(|(interval, timeout)| KeepAlive {
                interval,
                timeout,
                while_idle: wire.while_idle,
            })
        }
    };
    Ok(Http2Params {
        initial_connection_window: given(flow_control.initial_connection_window_size),
        initial_stream_window: given(flow_control.initial_stream_window_size),
        adaptive_flow_control: flow_control.adaptive_flow_control,
        keep_alive,
        max_concurrent_reset_streams: given(internals.max_concurrent_reset_streams),
        max_frame_size: given(internals.max_frame_size),
        max_send_buf_size: given(internals.max_send_buf_size),
    })
}
