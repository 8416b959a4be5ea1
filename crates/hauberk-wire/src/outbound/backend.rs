//! Where requests go in the end, each way.

use std::sync::Arc;

use hauberk_model::Port;
use hauberk_model::name::Authority;
use hauberk_model::outbound::{Backend, BackendTarget, Load, PeakEwma, Queue};

use crate::api::outbound as wire;
use crate::api::outbound::backend::{
    BalanceP2c, EndpointDiscovery, Kind, balance_p2c, endpoint_discovery,
};
use crate::destination::{endpoint_from_wire, endpoint_to_wire};
use crate::invalid::{Invalid, Required};
use crate::{meta, scalar};

use super::balancing;

/// How fast a penalty is forgotten; fixed in Linkerd's policy controller too.
const PENALTY_DECAY: std::time::Duration = std::time::Duration::from_secs(10);

/// The reason given for a backend that came without one.
const NO_REASON: &str = "backend cannot be used";

pub(super) fn to_wire(from: &Backend) -> wire::Backend {
    let kind = match &from.target {
        BackendTarget::Forward(endpoint) => Some(Kind::Forward(endpoint_to_wire(endpoint))),
        BackendTarget::Balance { authority, load, .. } => Some(Kind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery {
                kind: Some(endpoint_discovery::Kind::Dst(endpoint_discovery::DestinationGet {
                    path: authority.to_string(),
                })),
            }),
            load: Some(load_to_wire(load)),
        })),
        BackendTarget::Invalid(_) => None,
    };
    let metadata = match &from.target {
        BackendTarget::Balance { balancing, .. } => {
            meta::to_wire(&balancing::add(&from.meta, balancing))
        }
        BackendTarget::Forward(_) | BackendTarget::Invalid(_) => meta::to_wire(&from.meta),
    };
    wire::Backend {
        metadata: Some(metadata),
        queue: Some(wire::Queue {
            capacity: u32::try_from(from.queue.capacity).unwrap_or(u32::MAX),
            failfast_timeout: scalar::duration_to_wire(from.queue.failfast_timeout),
        }),
        kind,
    }
}

pub(super) fn from_wire(wire: wire::Backend) -> Result<Backend, Invalid> {
    let mut meta = meta::from_wire("Backend.metadata", wire.metadata)?;
    let target = match wire.kind {
        None => BackendTarget::Invalid(NO_REASON.into()),
        Some(Kind::Forward(endpoint)) => {
            BackendTarget::Forward(Arc::new(endpoint_from_wire(endpoint)?))
        }
        Some(Kind::Balancer(balancer)) => {
            let (own, balancing) = balancing::take(meta);
            meta = own;
            BackendTarget::Balance {
                authority: authority_from_wire(balancer.discovery)?,
                load: load_from_wire(balancer.load)?,
                balancing: Arc::new(balancing),
            }
        }
    };
    Ok(Backend {
        meta,
        target,
        queue: wire.queue.map(queue_from_wire).transpose()?.unwrap_or_default(),
    })
}

fn authority_from_wire(wire: Option<EndpointDiscovery>) -> Result<Authority, Invalid> {
    const DEFAULT_PORT: Port = Port::new(80).expect("80 is a port");
    let discovery = wire.and_then(|discovery| discovery.kind).required("BalanceP2c.discovery")?;
    let endpoint_discovery::Kind::Dst(get) = discovery;
    Authority::parse(&get.path, DEFAULT_PORT)
        .map_err(|error| Invalid::malformed("DestinationGet.path", &get.path, error.reason))
}

fn queue_from_wire(wire: wire::Queue) -> Result<Queue, Invalid> {
    let capacity = usize::try_from(wire.capacity);
    Ok(Queue {
        capacity: capacity.map_err(|_| Invalid::out_of_range("Queue.capacity", wire.capacity))?,
        failfast_timeout: scalar::required_duration(
            "Queue.failfast_timeout",
            wire.failfast_timeout,
        )?,
    })
}

fn load_to_wire(from: &Load) -> balance_p2c::Load {
    match from {
        Load::PeakEwma(ewma) => balance_p2c::Load::PeakEwma(balance_p2c::PeakEwma {
            default_rtt: scalar::duration_to_wire(ewma.default_rtt),
            decay: scalar::duration_to_wire(ewma.decay),
        }),
        Load::PenaltyPeakEwma { ewma, penalty, max_retry_after } => {
            balance_p2c::Load::PenaltyPeakEwma(balance_p2c::PenaltyPeakEwma {
                default_rtt: scalar::duration_to_wire(ewma.default_rtt),
                decay: scalar::duration_to_wire(ewma.decay),
                penalty: scalar::duration_to_wire(*penalty),
                max_retry_after: scalar::duration_to_wire(*max_retry_after),
                penalty_decay: scalar::duration_to_wire(PENALTY_DECAY),
            })
        }
    }
}

/// A kind of load that this version does not know is estimated the ordinary way.
fn load_from_wire(wire: Option<balance_p2c::Load>) -> Result<Load, Invalid> {
    let duration = scalar::required_duration;
    match wire {
        None => Ok(Load::default()),
        Some(balance_p2c::Load::PeakEwma(wire)) => Ok(Load::PeakEwma(PeakEwma {
            default_rtt: duration("PeakEwma.default_rtt", wire.default_rtt)?,
            decay: duration("PeakEwma.decay", wire.decay)?,
        })),
        Some(balance_p2c::Load::PenaltyPeakEwma(wire)) => Ok(Load::PenaltyPeakEwma {
            ewma: PeakEwma {
                default_rtt: duration("PenaltyPeakEwma.default_rtt", wire.default_rtt)?,
                decay: duration("PenaltyPeakEwma.decay", wire.decay)?,
            },
            penalty: duration("PenaltyPeakEwma.penalty", wire.penalty)?,
            max_retry_after: duration("PenaltyPeakEwma.max_retry_after", wire.max_retry_after)?,
        }),
    }
}
