//! The application's own TLS, routed by the server name it asks for and passed on untouched.

use crate::{
    connection::Facts,
    copy,
    detect::Sniffed,
    http::failure::{Failure, What},
    io::Io,
    outbound::{
        discover::Target,
        opaque::{self, Passing},
    },
    telemetry::labels::Labels,
    tls::client_hello::{self, Hello},
    transport_header::Session,
    worker::Worker,
};
use hauberk_model::{
    OutboundPolicy,
    outbound::{OutboundProtocol, TlsRoute},
    route::{HostRank, route_host_rank},
};
use std::rc::Rc;

/// Serves a TLS connection to its end. A hello without a server name, or none within the detection timeout, ends it.
pub async fn serve(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: &Facts,
    target: &Target,
) -> Result<(), Failure> {
    let mut sniffed = Sniffed::default();
    let timeout = worker.config.outbound.side.detect_timeout;
    let sni = match tokio::time::timeout(timeout, server_name(&mut io, &mut sniffed)).await {
        Ok(sni) => sni?,
        Err(_elapsed) => return Err(Failure::client(What::DetectTimeout)),
    };
    sniffed.give_back(&mut io);

    let policy = target.policy();
    let Some(route) = find(&policy, &sni) else {
        let why = format!("no TLS route for the server name {sni}");
        return Err(Failure::client(What::InvalidPolicy(why.into())));
    };
    let hostname = if worker.config.outbound.hostname_labels { sni } else { String::new() };
    let labels = Labels::new()
        .parent(&policy.parent)
        .outbound_route(&route.meta)
        .with("target_ip", facts.original_dst.ip().to_string())
        .with("target_port", facts.original_dst.port().to_string())
        .with("hostname", hostname);
    let outbound = &worker.metrics.outbound;
    let passing = Passing::new(&outbound.tls_route_open, &outbound.tls_route_close, labels);
    let (client, session) = (facts.client.ip(), Session::Opaque);
    let names = (&policy.parent, &route.meta);
    let following = opaque::follow(worker, names, &route.filters, &route.backends, client, session);
    let result = match Box::pin(following).await {
        Ok(mut connected) => {
            drop(policy);
            let copied = copy::both_ways(&mut io, &mut connected.io).await;
            copied.map_err(|error| Failure::peer(What::Io(error)))
        }
        Err(failure) => Err(failure),
    };
    passing.end(result.as_ref().err());
    result
}

async fn server_name(io: &mut Io, sniffed: &mut Sniffed) -> Result<String, Failure> {
    loop {
        match client_hello::parse(sniffed.bytes()) {
            Hello::Tls { sni: Some(sni) } => return Ok(sni),
            Hello::Partial if !sniffed.is_ended() => {
                sniffed.more(io).await.map_err(|error| Failure::client(What::Io(error)))?;
            }
            Hello::Partial | Hello::NotTls | Hello::Tls { sni: None } => {
                return Err(Failure::client(What::NoServerName));
            }
        }
    }
}

/// The route whose server name fits best; the first of equals (Gateway API, TLSRoute).
fn find<'p>(policy: &'p OutboundPolicy, sni: &str) -> Option<&'p TlsRoute> {
    let OutboundProtocol::Tls(routes) = &policy.protocol else {
        return None;
    };
    let mut best: Option<(HostRank, &TlsRoute)> = None;
    for route in routes {
        if let Some(rank) = route_host_rank(&route.snis, sni)
            && best.as_ref().is_none_or(|(found, _)| rank > *found)
        {
            best = Some((rank, route));
        }
    }
    best.map(|(_, route)| route)
}
