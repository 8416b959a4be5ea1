//! Ingress mode: each request says by `l5d-dst-override` which service it is for.
//!
//! Ingress controllers dial the endpoints they found themselves. In this mode their proxy balances, routes and
//! secures all the same, if they name the service: `l5d-dst-override: web.emojivoto.svc.cluster.local:8080`, port 80
//! if there is none. As linkerd2-proxy v2:
//!
//! ```text
//! detect      always, whatever the policy says           not HTTP -> opaque, to the original destination
//! request     header      a service that is known        route by its policy or profile
//!                         unknown, or no name at all     500, 400
//!             no header                                  route by the original destination
//! ```
//!
//! The header goes no further. Requests of one connection may go to different services, so the connection outlives
//! what is known of any of them. Nothing informational is said to clients, because those of an ingress are strangers
//! ([`hide_informational_headers`](crate::settings::Outbound::hide_informational_headers)).

use super::{
    discover::{Key, Target, Targets},
    opaque,
    request::Connection,
};
use crate::{
    connection::{Direction, Facts},
    detect::{self, Decided, Sniffed},
    http::{
        Version,
        answer::{self, Manner},
        failure::{Failure, What},
        headers,
        incoming::Incoming,
        server::{self, Answered, Control, Serving},
    },
    io::Io,
    telemetry::labels::Labels,
    transport_header::Session,
    worker::Worker,
};
use hauberk_model::{Authority, Meta, Port};
use http::{HeaderMap, HeaderName, Request};
use std::rc::Rc;

/// The service that a request is for.
const L5D_DST_OVERRIDE: HeaderName = HeaderName::from_static("l5d-dst-override");

/// The port of a service whose name comes without one.
const HTTP_PORT: Port = Port::new(80).expect("80 is not zero");

/// Serves one connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: &Facts,
) -> Result<Option<Serving>, Failure> {
    let mut sniffed = Sniffed::default();
    let original = || Targets::get(worker, Key::Address(facts.original_dst));
    let early = async {
        let target = original();
        target.discovered().await.ok()?;
        let policy = target.policy();
        let (client, routes) = (facts.client.ip(), opaque::routes(&policy));
        opaque::choose(worker, &target, &policy, routes, client, Session::Opaque).await.ok()
    };
    let timeout = worker.config.outbound.side.detect_timeout;
    let decided = Box::pin(detect::protocol(&mut io, &mut sniffed, timeout, early)).await;
    let (name, version) = match decided.map_err(|error| Failure::client(What::Io(error)))? {
        Decided::Http1 => ("http/1", Version::Http1),
        Decided::Http2 => ("http/2", Version::Http2),
        Decided::Opaque(chosen, _) => {
            sniffed.give_back(&mut io);
            let target = original();
            target.discovered().await?;
            count(worker, "opaq", &target.policy().parent);
            return opaque::serve(worker, io, facts, &target, chosen).await.map(|()| None);
        }
    };
    sniffed.give_back(&mut io);
    count(worker, name, &Meta::default("ingress"));
    let ingress = Ingress {
        worker: Rc::clone(worker),
        facts: facts.clone(),
        version,
        control: Rc::new(Control::default()),
    };
    let control = Rc::clone(&ingress.control);
    let ingress = Rc::new(ingress);
    let (worker, direction) = (Rc::clone(worker), Direction::Outbound);
    let serving = server::serve(worker, io, version, direction, control, move |request| {
        let ingress = Rc::clone(&ingress);
        Box::pin(async move { ingress.answer(request).await })
    });
    Ok(Some(serving))
}

fn count(worker: &Worker, protocol: &'static str, parent: &Meta) {
    let labels = Labels::new().with("protocol", protocol).parent(parent);
    worker.metrics.outbound.protocol.get_or_create(&labels).inc();
}

/// What the requests of one connection share.
struct Ingress {
    worker: Rc<Worker>,
    facts: Facts,
    version: Version,
    control: Rc<Control>,
}

impl Ingress {
    async fn answer(&self, mut request: Request<Incoming>) -> Answered {
        let key = match take_override(request.headers_mut()) {
            Ok(Some(name)) => Key::Name(name),
            Ok(None) => Key::Address(self.facts.original_dst),
            Err(why) => {
                tracing::debug!(client = %self.facts.client, why, "malformed l5d-dst-override");
                return Ok(answer::bad_request(request.version()));
            }
        };
        let target: Rc<Target> = Targets::get(&self.worker, key);
        let discovered = target.discovered().await;
        let (worker, control) = (Rc::clone(&self.worker), Rc::clone(&self.control));
        let connection = Connection::new(worker, self.facts.client, target, self.version, control);
        match discovered {
            Ok(()) => connection.answer(request).await,
            Err(failure) => {
                let manner = Manner {
                    grpc: headers::is_grpc(&request),
                    version: request.version(),
                    informs: !self.worker.config.outbound.hide_informational_headers,
                };
                Ok(connection.refuse(&failure, manner))
            }
        }
    }
}

/// Takes the name of the service out of a request's headers. Addresses are no names (linkerd2-proxy v2).
fn take_override(headers: &mut HeaderMap) -> Result<Option<Authority>, &'static str> {
    let Some(value) = headers.remove(L5D_DST_OVERRIDE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| "not text")?;
    let name = Authority::parse(text.trim(), HTTP_PORT).map_err(|invalid| invalid.reason)?;
    match name.ip() {
        None => Ok(Some(name)),
        Some(_) => Err("an address is no name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_name_out_of_the_headers() {
        let check = |value: &str, expect: Result<&str, &str>| {
            let mut headers = HeaderMap::new();
            headers.insert(L5D_DST_OVERRIDE, value.parse().unwrap());
            let taken = take_override(&mut headers).map(|name| name.unwrap().to_string());
            assert_eq!(taken.as_deref().map_err(|why| *why), expect, "{value}");
            assert!(headers.is_empty());
        };
        check("web.ns.svc.cluster.local:8080", Ok("web.ns.svc.cluster.local:8080"));
        check(" Web.ns.svc.cluster.local. ", Ok("web.ns.svc.cluster.local:80"));
        check("", Err("the host is empty"));
        check("web:none", Err("the port must be 1 to 65535"));
        check("http://web/", Err("the port must be 1 to 65535"));
        check("10.0.0.1:80", Err("an address is no name"));
        check("[fd00::1]:80", Err("an address is no name"));
        assert_eq!(take_override(&mut HeaderMap::new()), Ok(None));
    }
}
