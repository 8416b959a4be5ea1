//! The life of an outbound connection: from the application, to wherever it wanted to go.
//!
//! ```text
//! loop?            refuse
//! ingress mode?    ingress::serve: by what each request says
//! discover         what does the control plane say about the original destination   } at the
//! detect           what do the first bytes say                                       } same time
//! match protocol   HTTP -> http::serve_outbound, opaque -> opaque::serve, TLS -> tls::serve
//! ```
//!
//! Detection and discovery overlap, and a server that speaks first is noticed (see [`crate::detect::protocol`]), so no
//! connection waits for a timeout. If the control plane is away, targets that are known go on; unknown ones fail after
//! a deadline rather than leave the mesh in plaintext.

pub mod backend;
pub mod counters;
pub mod discover;
pub mod ingress;
pub mod mirror;
pub mod opaque;
pub mod persist;
pub mod request;
pub mod retry;
pub mod tls;

use crate::{
    connection::Facts,
    detect::{self, Decided, Sniffed},
    http::{
        self, Version,
        failure::{Failure, What},
        server::Serving,
    },
    io::Io,
    telemetry::{labels::Labels, tcp::Sensor},
    transport_header::Session,
    worker::Worker,
};
use counters::Carries;
use discover::{Key, Target, Targets};
use hauberk_model::{OutboundPolicy, outbound::OutboundProtocol};
use std::{net::IpAddr, rc::Rc, sync::Arc};
use tokio::time::Instant;

/// Serves one connection to its end. The caller holds the drain guard.
pub fn serve(worker: Rc<Worker>, io: Io, facts: Facts) -> impl Future<Output = ()> {
    // Boxed, so that a connection holds nothing of its beginning any more once it is known to be HTTP.
    let beginning = Box::pin(begin(worker, io, facts));
    async move {
        let Some(serving) = beginning.await else { return };
        serving.await;
    }
}

/// Serves one connection to its end, or, if it turns out to be HTTP, until that is known.
pub async fn begin(worker: Rc<Worker>, mut io: Io, facts: Facts) -> Option<Serving> {
    let is_loop = is_loop(&worker, &facts);
    let served = if is_loop || worker.config.outbound.ingress_mode {
        io.observe(Sensor::open(&discover::accepted(&worker, facts.original_dst)));
        match is_loop {
            true => Err(Failure::client(What::Loop(facts.original_dst))),
            false => Box::pin(ingress::serve(&worker, io, &facts)).await,
        }
    } else {
        let target = Targets::get(&worker, Key::Address(facts.original_dst));
        io.observe(Sensor::open(target.accepted(&worker, facts.original_dst)));
        serve_or_fail(&worker, io, &facts, target).await
    };
    served.unwrap_or_else(|failure| {
        let labels = Labels::new().with("error", error_label(&failure)).target(facts.original_dst);
        worker.metrics.outbound.tcp_errors.get_or_create(&labels).inc();
        tracing::debug!(client = %facts.client, target = %facts.original_dst, %failure, "connection failed");
        None
    })
}

async fn serve_or_fail(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: &Facts,
    target: Rc<Target>,
) -> Result<Option<Serving>, Failure> {
    let mut sniffed = Sniffed::default();
    if let Err(failure) = discover(&target, &mut io, &mut sniffed).await {
        let version = match detect::http(sniffed.bytes()) {
            detect::Detection::Http1 => Version::Http1,
            detect::Detection::Http2 => Version::Http2,
            _ => return Err(failure),
        };
        sniffed.give_back(&mut io);
        Box::pin(http::refuse::refuse(worker, io, version, &failure)).await;
        return Err(failure);
    }

    let policy = target.policy();
    let is_opaque = target.profile().is_some_and(|profile| profile.opaque);
    let protocol = if is_opaque {
        Protocol::Opaque(None)
    } else {
        let client = facts.client.ip();
        protocol(worker, &mut io, &mut sniffed, &target, &policy, client).await?
    };
    sniffed.give_back(&mut io);
    target.counters(&policy).carries(&worker.metrics.outbound, protocol.carries());
    drop(policy);

    match protocol {
        Protocol::Http(version) => {
            Ok(Some(http::serve_outbound(Rc::clone(worker), io, facts, target, version)))
        }
        Protocol::Opaque(connected) => {
            opaque::serve(worker, io, facts, &target, connected).await.map(|()| None)
        }
        Protocol::Tls => Box::pin(tls::serve(worker, io, facts, &target)).await.map(|()| None),
    }
}

/// What the connection turned out to be.
enum Protocol {
    Http(Version),
    Opaque(Option<opaque::Chosen>),
    Tls,
}

impl Protocol {
    fn carries(&self) -> Carries {
        match self {
            Self::Http(version) => Carries::Http(*version),
            Self::Opaque(_) => Carries::Opaque,
            Self::Tls => Carries::Tls,
        }
    }
}

/// Waits for the control plane's word; what the client says meanwhile is kept.
async fn discover(target: &Target, io: &mut Io, sniffed: &mut Sniffed) -> Result<(), Failure> {
    let discovered = target.discovered();
    tokio::pin!(discovered);
    loop {
        let enough = sniffed.is_ended()
            || matches!(
                detect::http(sniffed.bytes()),
                detect::Detection::Http1 | detect::Detection::Http2 | detect::Detection::Other
            );
        tokio::select! {
            // Biased: a known target is answered without looking at the socket.
            biased;
            result = &mut discovered => return result,
            result = sniffed.more(io), if !enough => result.map_err(|error| Failure::client(What::Io(error)))?,
        }
    }
}

/// What the policy says the protocol is, or else the first bytes.
async fn protocol(
    worker: &Rc<Worker>,
    io: &mut Io,
    sniffed: &mut Sniffed,
    target: &Target,
    policy: &Arc<OutboundPolicy>,
    client: IpAddr,
) -> Result<Protocol, Failure> {
    let routes = match &policy.protocol {
        OutboundProtocol::Opaque(_) => return Ok(Protocol::Opaque(None)),
        OutboundProtocol::Tls(_) => return Ok(Protocol::Tls),
        OutboundProtocol::Http1(_) => return Ok(Protocol::Http(Version::Http1)),
        OutboundProtocol::Http2(_) | OutboundProtocol::Grpc(_) => {
            return Ok(Protocol::Http(Version::Http2));
        }
        OutboundProtocol::Detect { opaque, .. } => opaque,
    };
    let begin = Instant::now();
    let early = async {
        opaque::choose(worker, target, policy, routes, client, Session::Opaque).await.ok()
    };
    let timeout = worker.config.outbound.side.detect_timeout;
    let decided = Box::pin(detect::protocol(io, sniffed, timeout, early)).await;
    let counters = target.counters(policy);
    counters.detected(&worker.metrics.outbound, &decided, begin.elapsed().as_secs_f64());
    match decided {
        Ok(Decided::Http1) => Ok(Protocol::Http(Version::Http1)),
        Ok(Decided::Http2) => Ok(Protocol::Http(Version::Http2)),
        Ok(Decided::Opaque(chosen, _)) => Ok(Protocol::Opaque(chosen)),
        Err(error) => Err(Failure::client(What::Io(error))),
    }
}

/// Whether the connection was made to this proxy itself, or would come back to it.
fn is_loop(worker: &Worker, facts: &Facts) -> bool {
    let target = facts.original_dst;
    let config = &worker.config;
    let is_own_port = config.outbound.listen.iter().any(|listen| listen.port() == target.port());
    let is_own_ip = target.ip().is_unspecified() || config.inbound.ips.contains(&target.ip());
    target.ip().is_loopback() || target.ip().is_unspecified() || (is_own_port && is_own_ip)
}

/// Value of the label `error` of `outbound_tcp_errors_total`, as linkerd2-proxy names them.
fn error_label(failure: &Failure) -> &'static str {
    match &failure.what {
        What::FailFast(_) => "failfast",
        What::Shed => "loadshed",
        What::Connect { .. }
        | What::ConnectTimeout { .. }
        | What::Io(_)
        | What::Handshake { .. } => "i/o",
        _ => "unexpected",
    }
}
