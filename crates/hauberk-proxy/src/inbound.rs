//! The life of an inbound connection: from anywhere, to the application beside us.
//!
//! ```text
//! not one of our addresses     refuse
//! our own port                 direct::serve (another proxy, with a transport header)
//! the port's policy says opaque    forward, nobody looks
//! TLS?                         for us: end it; for the application: pass it on; none
//! match protocol               HTTP -> http::serve_inbound, anything else -> authorize, forward
//! ```
//!
//! The policy is live: it is read again at each of these points, for each HTTP request, and on each change for open
//! opaque connections. TLS detection that runs out of time ends the connection; HTTP detection that does makes it
//! opaque. A server that speaks first is noticed (see [`crate::detect::first_word`]); the application is then asked
//! early **only for clients whom connection-level authorization lets in**, since what it says goes straight to them.

pub mod direct;
pub mod forward;
pub mod gateway;
pub mod policy;
pub mod rate_limit;
pub mod request;

use crate::{
    connection::{Direction, Facts, NoTls, Tls},
    detect::{self, Decided, First, Sniffed, Why},
    http::{
        self, Version,
        failure::{Failure, What},
        server::Serving,
    },
    io::Io,
    telemetry::{
        labels::Labels,
        tcp::{PeerEnd, Sensor},
    },
    tls::accept::{self, Offer},
    worker::Worker,
};
use hauberk_identity::Alpn;
use hauberk_model::{Port, inbound::InboundProtocol};
use policy::{Policies, Policy};
use std::{rc::Rc, time::Duration};
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
pub async fn begin(worker: Rc<Worker>, io: Io, facts: Facts) -> Option<Serving> {
    let (client, target) = (facts.client, facts.original_dst);
    serve_or_fail(&worker, io, facts).await.unwrap_or_else(|failure| {
        if let Some(error) = error_label(&failure) {
            let labels = Labels::new().with("error", error).target(target);
            worker.metrics.inbound.tcp_errors.get_or_create(&labels).inc();
        }
        tracing::debug!(%client, %target, %failure, "connection failed");
        None
    })
}

async fn serve_or_fail(
    worker: &Rc<Worker>,
    io: Io,
    facts: Facts,
) -> Result<Option<Serving>, Failure> {
    let inbound = &worker.config.inbound;
    let target = facts.original_dst;
    if !inbound.ips.is_empty() && !inbound.ips.contains(&target.ip()) {
        tracing::debug!(client = %facts.client, %target, "connection for an address that is not ours");
        return Err(Failure::client(What::NotOurs(target)));
    }
    if target.port() == inbound.listen.port() {
        return Box::pin(direct::serve(worker, io, facts)).await;
    }
    let port = Port::new(target.port()).ok_or_else(|| Failure::client(What::NotOurs(target)))?;
    let policy = Policies::get(worker, port);
    if matches!(policy.now().protocol, InboundProtocol::Opaque) {
        let (mut io, facts) = (io, Facts { tls: Tls::None(NoTls::PortSkipped), ..facts });
        observe(worker, &mut io, &facts, &policy);
        return forward::serve(worker, io, &facts, &policy, None).await.map(|()| None);
    }
    let Secured { mut io, facts, sniffed, early } =
        match Box::pin(secure(worker, io, facts, &policy)).await? {
            Ok(secured) => secured,
            Err(ServerSpokeFirst { mut io, facts, application }) => {
                observe(worker, &mut io, &facts, &policy);
                let served = forward::serve(worker, io, &facts, &policy, Some(application)).await;
                return served.map(|()| None);
            }
        };
    observe(worker, &mut io, &facts, &policy);
    Box::pin(speak(worker, io, facts, sniffed, early, policy)).await
}

/// A connection of which is known whether it is TLS, and whose.
struct Secured {
    io: Io,
    facts: Facts,
    /// Bytes already read above TLS.
    sniffed: Sniffed,
    /// The application, if it was asked early.
    early: Option<Io>,
}

/// A plaintext connection on which the application spoke first.
struct ServerSpokeFirst {
    io: Io,
    facts: Facts,
    application: Io,
}

/// Finds out whether the client speaks TLS and ends it if it is for us.
async fn secure(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: Facts,
    policy: &Policy,
) -> Result<Result<Secured, ServerSpokeFirst>, Failure> {
    let broken = |error| Failure::client(What::Io(error));
    let timeout = worker.config.inbound.side.detect_timeout;
    let mut sniffed = Sniffed::default();
    let asking = ask_early(worker, &facts, policy);
    let early =
        match detect::first_word(&mut io, &mut sniffed, timeout, asking).await.map_err(broken)? {
            First::Client(early) => early,
            First::Server(application) => {
                sniffed.give_back(&mut io);
                return Ok(Err(ServerSpokeFirst { io, facts, application }));
            }
            First::Nobody => return Err(Failure::client(What::DetectTimeout)),
        };
    let offering = accept::offer(&mut io, &mut sniffed, &worker.identity.server_name);
    let offer = tokio::time::timeout(timeout, offering).await;
    match offer.map_err(|_| Failure::client(What::DetectTimeout))?.map_err(broken)? {
        Offer::Ours => {
            drop(early);
            sniffed.give_back(&mut io);
            let Some(certified) = worker.identity.certified() else {
                return Err(Failure::us(What::NoCertificate));
            };
            let accepting = accept::accept(io, &certified, Alpn::None);
            let accepted = tokio::time::timeout(timeout, accepting).await;
            let accepted =
                accepted.map_err(|_| Failure::client(What::DetectTimeout))?.map_err(broken)?;
            worker.metrics.handshake(Direction::Inbound, accepted.handshake);
            let facts = Facts { tls: Tls::Established { client_id: accepted.client_id }, ..facts };
            Ok(Ok(Secured { io: accepted.io, facts, sniffed: Sniffed::default(), early: None }))
        }
        Offer::Foreign(sni) => {
            let facts = Facts { tls: Tls::Passthrough { sni: sni.into() }, ..facts };
            Ok(Ok(Secured { io, facts, sniffed, early }))
        }
        Offer::None => Ok(Ok(Secured { io, facts, sniffed, early })),
    }
}

/// Connects to the application for a silent client: only where the protocol is not known, and only if the client may
/// have the connection.
async fn ask_early(worker: &Rc<Worker>, facts: &Facts, policy: &Policy) -> Option<Io> {
    let may_be_opaque = matches!(policy.now().protocol, InboundProtocol::Detect { .. });
    if !may_be_opaque || !forward::is_authorized(policy, facts) {
        return None;
    }
    forward::connect(worker, facts.original_dst).await.ok()
}

/// Goes on by the protocol that the policy says, or else by the first bytes.
async fn speak(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: Facts,
    mut sniffed: Sniffed,
    early: Option<Io>,
    policy: Policy,
) -> Result<Option<Serving>, Failure> {
    let detect_timeout = worker.config.inbound.side.detect_timeout;
    let next = match (&policy.now().protocol, &facts.tls) {
        (InboundProtocol::Opaque | InboundProtocol::Tls, _) => Next::Opaque,
        (InboundProtocol::Http2(_) | InboundProtocol::Grpc(_), _) => Next::Http(Version::Http2),
        (InboundProtocol::Http1(_), Tls::None(_)) => Next::Http(Version::Http1),
        // A peer's proxy may carry HTTP/1 over HTTP/2.
        (InboundProtocol::Http1(_), Tls::Passthrough { .. } | Tls::Established { .. }) => {
            Next::Look(detect_timeout, Some(Version::Http1))
        }
        (InboundProtocol::Detect { timeout, .. }, _) => Next::Look(*timeout, None),
    };
    let (version, application) = match next {
        Next::Http(version) => (Some(version), None),
        Next::Opaque => (None, early),
        Next::Look(timeout, otherwise) => {
            let begin = Instant::now();
            let asking = async {
                match early {
                    Some(application) => Some(application),
                    None => ask_early(worker, &facts, &policy).await,
                }
            };
            let decided = Box::pin(detect::protocol(&mut io, &mut sniffed, timeout, asking)).await;
            count_detection(worker, &policy, begin, &decided);
            match decided.map_err(|error| Failure::client(What::Io(error)))? {
                Decided::Http1 => (Some(Version::Http1), None),
                Decided::Http2 => (Some(Version::Http2), None),
                Decided::Opaque(_, Why::Timeout) if otherwise.is_some() => (otherwise, None),
                Decided::Opaque(application, _) => (None, application),
            }
        }
    };
    sniffed.give_back(&mut io);
    match version {
        Some(version) => {
            Ok(Some(http::serve_inbound(Rc::clone(worker), io, facts, policy, version)))
        }
        None => forward::serve(worker, io, &facts, &policy, application).await.map(|()| None),
    }
}

/// What to do with a connection.
enum Next {
    Http(Version),
    Opaque,
    /// Look at the first bytes within that time; then take it for that version, or for opaque.
    Look(Duration, Option<Version>),
}

fn count_detection(
    worker: &Worker,
    policy: &Policy,
    begin: Instant,
    decided: &std::io::Result<Decided<Io>>,
) {
    let result = match decided {
        Ok(Decided::Http1) => "http/1",
        Ok(Decided::Http2) => "http/2",
        Ok(Decided::Opaque(_, Why::Bytes | Why::ServerSpokeFirst)) => "not_http",
        Ok(Decided::Opaque(_, Why::Timeout)) => "read_timeout",
        Err(_) => "error",
    };
    let labels = Labels::new().server(&policy.now().server, policy.port().get());
    let inbound = &worker.metrics.inbound;
    inbound.detect_duration.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
    inbound.detect_results.get_or_create(&labels.with("result", result)).inc();
}

/// Begins to count the client's side, now that the labels are known.
fn observe(worker: &Worker, io: &mut Io, facts: &Facts, policy: &Policy) {
    let labels = Labels::new()
        .direction(Direction::Inbound)
        .with("peer", PeerEnd::Source.as_str())
        .target(facts.original_dst)
        .tls_accepted(&facts.tls)
        .server(&policy.now().server, policy.port().get());
    io.observe(Sensor::open(&worker.metrics.tcp.transport(labels, None)));
}

/// Value of the label `error` of `inbound_tcp_errors_total`; none for refusals by policy, which have counters of their
/// own.
fn error_label(failure: &Failure) -> Option<&'static str> {
    match &failure.what {
        What::Unauthorized => None,
        What::GatewayDomain(_) => Some("gateway domain invalid"),
        What::GatewayLoop => Some("gateway loop"),
        What::DetectTimeout => Some("tls detection timeout"),
        What::Connect { .. } | What::ConnectTimeout { .. } | What::Io(_) => Some("i/o"),
        _ => Some("unexpected"),
    }
}
