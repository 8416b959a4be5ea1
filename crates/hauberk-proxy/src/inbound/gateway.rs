//! Being the gateway to services of this cluster, for proxies of other ones.
//!
//! A direct connection whose transport header has a name wants that service. It is let in by the policy of our **own**
//! port, because the name is not one of ours; then the service is discovered by name and the connection goes on as if
//! an application beside us had made it, with a new hop of mesh TLS to the endpoint. The header says what is spoken;
//! nobody looks.
//!
//! ```text
//! name not under INBOUND_GATEWAY_SUFFIXES, or unknown    HTTP: 404, opaque: closed
//! the client is ourselves, or `forwarded` names us       HTTP: 508, opaque: closed
//! HTTP      authorize each request by our port's policy, append `forwarded`, name the service in `host` -> outbound
//! opaque    authorize the connection, and again on each change -> outbound
//! ```
//!
//! As linkerd2-proxy v2, which closes HTTP connections to unknown names instead of answering them. Requests are routed
//! by the service's profile alone; see [`Key::Gateway`]. HTTP/1 that came inside HTTP/2 is HTTP/1 again here, and may
//! be carried on the next hop as well. `forwarded` (RFC 7239) is how loops of several gateways are seen:
//! `by=<us>;for=<client>;host=<service>;proto=https`.

use super::{
    forward, observe,
    policy::Policies,
    request::{self, Onward},
};
use crate::{
    connection::Facts,
    http::{
        Version,
        answer::Manner,
        body::Body,
        failure::{Failure, What},
        incoming::Incoming,
        server::{Control, Serving},
    },
    io::Io,
    outbound::{
        discover::{Key, Target, Targets},
        opaque,
        request::{Connection, Refused},
    },
    transport_header::Session,
    worker::Worker,
};
use hauberk_model::{Authority, Port, WorkloadId};
use http::{
    HeaderMap, HeaderValue, Request, Response, Version as HttpVersion,
    header::{FORWARDED, HOST},
};
use std::rc::Rc;
use tokio::time::Instant;

/// Serves a connection that wants `wanted`.
pub async fn serve(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: Facts,
    wanted: Authority,
    session: Session,
) -> Result<Option<Serving>, Failure> {
    let own = Port::new(facts.original_dst.port()).expect("a connection came to it");
    let policy = Policies::get(worker, own);
    observe(worker, &mut io, &facts, &policy);
    let version = match session {
        Session::Opaque => {
            let work = Box::pin(serve_opaque(worker, io, &facts, wanted));
            let served = forward::while_authorized(worker, &facts, &policy, work).await;
            return served.map(|()| None);
        }
        Session::Http1 => Version::Http1,
        Session::Http2 => Version::Http2,
    };
    let gateway = Gateway::new(worker, &facts, wanted);
    let onward = Onward::Gateway(Box::new(gateway));
    Ok(Some(request::serve_onward(Rc::clone(worker), io, facts, policy, version, onward)))
}

async fn serve_opaque(
    worker: &Rc<Worker>,
    io: Io,
    facts: &Facts,
    wanted: Authority,
) -> Result<(), Failure> {
    if facts.client_id() == Some(&worker.identity.local) {
        return Err(Failure::client(What::GatewayLoop));
    }
    let target = find(worker, &wanted).ok_or(Failure::client(What::GatewayDomain(wanted)))?;
    target.discovered().await?;
    opaque::serve(worker, io, facts, &target, None).await
}

/// What is known of a service that we are the gateway to.
fn find(worker: &Rc<Worker>, wanted: &Authority) -> Option<Rc<Target>> {
    let is_ours = worker.config.inbound.gateway_suffixes.contains(wanted.host());
    is_ours.then(|| Targets::get(worker, Key::Gateway(wanted.clone())))
}

/// Where the requests of one connection go on to.
pub struct Gateway {
    wanted: Authority,
    /// What is known of it; none if we are no gateway to such names.
    target: Option<Rc<Target>>,
    /// Whom we must not have been asked by before.
    local: WorkloadId,
    is_loop: bool,
    /// What is appended to `forwarded`.
    forwarded: HeaderValue,
    /// What `host` becomes in HTTP/1.
    host: HeaderValue,
}

impl Gateway {
    fn new(worker: &Rc<Worker>, facts: &Facts, wanted: Authority) -> Self {
        let local = worker.identity.local.clone();
        let client = facts.client_id().map_or("unknown", WorkloadId::as_str);
        // Without the port that HTTP has anyway, as linkerd2-proxy writes it.
        let host = match wanted.port().get() {
            80 => wanted.host().to_owned(),
            port => format!("{}:{port}", wanted.host()),
        };
        let forwarded = format!("by={local};for={client};host={host};proto=https");
        let header = |text: &str| HeaderValue::from_str(text);
        Self {
            target: find(worker, &wanted),
            wanted,
            is_loop: facts.client_id() == Some(&local),
            forwarded: header(&forwarded).expect("identities and names are printable"),
            host: header(&host).expect("a name is printable"),
            local,
        }
    }

    /// Sends a request that our own port's policy has let in.
    pub async fn pass_on(
        &self,
        worker: &Rc<Worker>,
        facts: &Facts,
        mut request: Request<Incoming>,
        manner: Manner,
        control: &Rc<Control>,
    ) -> Result<Response<Body>, Refused> {
        if self.is_loop || has_passed(request.headers(), &self.local) {
            return Err(Failure::client(What::GatewayLoop).into());
        }
        let Some(target) = &self.target else {
            return Err(Failure::client(What::GatewayDomain(self.wanted.clone())).into());
        };
        target.discovered().await?;
        request.headers_mut().append(FORWARDED, self.forwarded.clone());
        let version = match request.version() {
            HttpVersion::HTTP_2 => Version::Http2,
            _ => {
                request.headers_mut().insert(HOST, self.host.clone());
                Version::Http1
            }
        };
        let manner = Manner { version: request.version(), ..manner };
        let (worker, target) = (Rc::clone(worker), Rc::clone(target));
        let connection = Connection::new(worker, facts.client, target, version, Rc::clone(control));
        connection.pass_on(request, manner, Instant::now(), None, &mut Vec::new()).await
    }
}

/// Whether a gateway of that identity has passed the request on before. Gateways sign in `by`, unquoted.
fn has_passed(headers: &HeaderMap, local: &WorkloadId) -> bool {
    let values = headers.get_all(FORWARDED).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split([',', ';'])).map(str::trim);
    pairs.any(|pair| match pair.split_once('=') {
        Some((name, by)) => {
            name.eq_ignore_ascii_case("by") && by.trim_matches('"') == local.as_str()
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself_among_those_who_passed_a_request_on() {
        let local: WorkloadId = "gateway.ns.serviceaccount.identity.linkerd.a".parse().unwrap();
        let check = |values: &[&str], expect: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(has_passed(&headers, &local), expect, "{values:?}");
        };
        check(&[], false);
        check(&["for=a;by=somebody.else;proto=https"], false);
        check(&["for=gateway.ns.serviceaccount.identity.linkerd.a"], false);
        check(&["by=gateway.ns.serviceaccount.identity.linkerd.a.b"], false);
        check(&["by=gateway.ns.serviceaccount.identity.linkerd.a;for=x"], true);
        check(&["for=x", "for=y; By=\"gateway.ns.serviceaccount.identity.linkerd.a\""], true);
        check(&["by=other, by=gateway.ns.serviceaccount.identity.linkerd.a"], true);
        check(&["by", "=", "by="], false);
    }
}
