//! Connections to our own port: another proxy, with a transport header.
//!
//! Mesh TLS with a client identity and the header's ALPN are required. The header names the application's port; the
//! policy of that port decides. A header with a name asks us to be a gateway to that service: see
//! [`gateway`].

use crate::{
    connection::{Direction, Facts, Tls},
    detect::Sniffed,
    http::{
        self, Version,
        failure::{Failure, What},
        server::Serving,
    },
    inbound::{forward, gateway, policy::Policies},
    io::Io,
    telemetry::labels::Labels,
    tls::accept::{self, Offer},
    transport_header::{self, Decoded, Session, TransportHeader},
    worker::Worker,
};
use hauberk_identity::Alpn;
use hauberk_model::{Authority, Port};
use std::{io, net::SocketAddr, rc::Rc};

/// Serves a direct connection to its end, or until it is known to be HTTP.
pub async fn serve(worker: &Rc<Worker>, io: Io, facts: Facts) -> Result<Option<Serving>, Failure> {
    let timeout = worker.config.inbound.side.detect_timeout;
    let opened = tokio::time::timeout(timeout, Box::pin(open(worker, io))).await;
    let (mut io, client, header) = opened.map_err(|_| Failure::client(What::DetectTimeout))??;
    let facts = Facts { tls: client, ..facts };
    count(worker, &facts, &header);
    let port = Port::new(header.port).expect("a header's port is not zero");
    if let Some(name) = &header.name {
        let wanted = Authority::new(name, port);
        return Box::pin(gateway::serve(worker, io, facts, wanted, header.session)).await;
    }
    let facts =
        Facts { original_dst: SocketAddr::new(facts.original_dst.ip(), header.port), ..facts };
    let policy = Policies::get(worker, port);
    super::observe(worker, &mut io, &facts, &policy);
    match header.session {
        Session::Opaque => forward::serve(worker, io, &facts, &policy, None).await.map(|()| None),
        Session::Http1 => {
            let worker = Rc::clone(worker);
            Ok(Some(http::serve_inbound(worker, io, facts, policy, Version::Http1)))
        }
        Session::Http2 => {
            let worker = Rc::clone(worker);
            Ok(Some(http::serve_inbound(worker, io, facts, policy, Version::Http2)))
        }
    }
}

/// TLS, then the header. What follows the header stays in front of the stream.
async fn open(worker: &Worker, mut io: Io) -> Result<(Io, Tls, TransportHeader), Failure> {
    let broken = |error| Failure::client(What::Io(error));
    let mut sniffed = Sniffed::default();
    let server_name = &worker.identity.server_name;
    match accept::offer(&mut io, &mut sniffed, server_name).await.map_err(broken)? {
        Offer::Ours => {}
        Offer::Foreign(_) | Offer::None => {
            return Err(Failure::client(What::DirectWithoutIdentity));
        }
    }
    sniffed.give_back(&mut io);
    let Some(certified) = worker.identity.certified() else {
        return Err(Failure::us(What::NoCertificate));
    };
    let accepted = accept::accept(io, &certified, Alpn::Transport).await.map_err(broken)?;
    worker.metrics.handshake(Direction::Inbound, accepted.handshake);
    if accepted.client_id.is_none() {
        return Err(Failure::client(What::DirectWithoutIdentity));
    }
    if !accepted.is_transport_header_agreed {
        return Err(Failure::client(What::DirectWithoutHeader));
    }
    let (mut io, tls) = (accepted.io, Tls::Established { client_id: accepted.client_id });
    let header = read(&mut io).await?;
    Ok((io, tls, header))
}

async fn read(io: &mut Io) -> Result<TransportHeader, Failure> {
    let mut sniffed = Sniffed::default();
    loop {
        match transport_header::decode(sniffed.bytes()) {
            Ok(Decoded::Complete(header, length)) => {
                sniffed.skip(length);
                sniffed.give_back(io);
                return Ok(header);
            }
            Ok(Decoded::Partial) if sniffed.is_ended() => {
                return Err(Failure::client(What::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            Ok(Decoded::Partial) => {
                sniffed.more(io).await.map_err(|error| Failure::client(What::Io(error)))?;
            }
            Err(malformed) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, malformed);
                return Err(Failure::client(What::Io(error)));
            }
        }
    }
}

fn count(worker: &Worker, facts: &Facts, header: &TransportHeader) {
    let session = match header.session {
        Session::Opaque => "",
        Session::Http1 => "http/1",
        Session::Http2 => "http/2",
    };
    let client_id = facts.client_id().map_or(String::new(), ToString::to_string);
    let labels = Labels::new()
        .with("session_protocol", session)
        .with("target_port", header.port.to_string())
        .with("target_name", header.name.clone().unwrap_or_default())
        .with("client_id", client_id);
    worker.metrics.inbound.transport_header.get_or_create(&labels).inc();
}
