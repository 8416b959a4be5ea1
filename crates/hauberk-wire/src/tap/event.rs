//! What a tap reports, each way.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use hauberk_model::tap::{StreamId, TapDirection, TapEnd, TapEvent, TapExchange, TapMoment};
use std::sync::Arc;

use super::scheme_from_wire;
use crate::api::http_types::{Headers, Scheme, headers::Header};
use crate::api::tap as wire;
use crate::api::tap::tap_event::http::{self, Event};
use crate::api::tap::tap_event::{self, EndpointMeta, ProxyDirection, RouteMeta};
use crate::invalid::{Invalid, Required};
use crate::scalar;

/// Says an event.
pub fn event_to_wire(event: &TapEvent) -> wire::TapEvent {
    let exchange = &*event.exchange;
    let endpoint = |labels| EndpointMeta { labels: scalar::labels_to_wire(labels) };
    let direction = match exchange.direction {
        TapDirection::Inbound => ProxyDirection::Inbound,
        TapDirection::Outbound => ProxyDirection::Outbound,
    };
    let http = tap_event::Http { event: Some(moment_to_wire(event.stream, &event.moment)) };
    wire::TapEvent {
        source: Some(exchange.source.into()),
        source_meta: Some(endpoint(&exchange.source_labels)),
        destination: Some(exchange.destination.into()),
        destination_meta: Some(endpoint(&exchange.destination_labels)),
        route_meta: Some(RouteMeta { labels: scalar::labels_to_wire(&exchange.route_labels) }),
        proxy_direction: direction.into(),
        event: Some(tap_event::Event::Http(http)),
    }
}

/// Understands an event. Headers that HTTP could not carry are left out.
///
/// # Errors
/// If an address, the direction or what happened is missing or unknown.
pub fn event_from_wire(wire: wire::TapEvent) -> Result<TapEvent, Invalid> {
    let direction = match wire.proxy_direction() {
        ProxyDirection::Inbound => TapDirection::Inbound,
        ProxyDirection::Outbound => TapDirection::Outbound,
        ProxyDirection::Unknown => return Err(Invalid::missing("TapEvent.proxy_direction")),
    };
    let endpoint =
        |meta: Option<EndpointMeta>| scalar::labels(meta.map(|m| m.labels).unwrap_or_default());
    let exchange = TapExchange {
        direction,
        source: scalar::address("TapEvent.source", wire.source)?,
        source_labels: endpoint(wire.source_meta),
        destination: scalar::address("TapEvent.destination", wire.destination)?,
        destination_labels: endpoint(wire.destination_meta),
        route_labels: scalar::labels(wire.route_meta.map(|m| m.labels).unwrap_or_default()),
    };
    let tap_event::Event::Http(http) = wire.event.required("TapEvent.event")?;
    let (stream, moment) = moment_from_wire(http.event.required("Http.event")?)?;
    Ok(TapEvent { stream, exchange: Arc::new(exchange), moment })
}

fn moment_to_wire(stream: StreamId, moment: &TapMoment) -> Event {
    let id = Some(http::StreamId { base: stream.base, stream: stream.stream });
    match moment {
        TapMoment::RequestInit { method, scheme, authority, path, headers } => {
            Event::RequestInit(http::RequestInit {
                id,
                method: Some(method.clone().into()),
                scheme: Some(Scheme::from(&**scheme)),
                authority: authority.clone(),
                path: path.clone(),
                headers: headers_to_wire(headers),
            })
        }
        TapMoment::ResponseInit { since_request_init, status, headers } => {
            Event::ResponseInit(http::ResponseInit {
                id,
                since_request_init: scalar::duration_to_wire(*since_request_init),
                http_status: status.as_u16().into(),
                headers: headers_to_wire(headers),
            })
        }
        TapMoment::ResponseEnd {
            since_request_init,
            since_response_init,
            response_bytes,
            end,
            trailers,
        } => Event::ResponseEnd(http::ResponseEnd {
            id,
            since_request_init: scalar::duration_to_wire(*since_request_init),
            since_response_init: scalar::duration_to_wire(*since_response_init),
            response_bytes: *response_bytes,
            eos: end.map(end_to_wire),
            trailers: headers_to_wire(trailers),
        }),
    }
}

fn moment_from_wire(event: Event) -> Result<(StreamId, TapMoment), Invalid> {
    let since = scalar::required_duration;
    Ok(match event {
        Event::RequestInit(init) => {
            let moment = TapMoment::RequestInit {
                method: scalar::method(
                    "RequestInit.method",
                    init.method.required("RequestInit.method")?,
                )?,
                scheme: scheme_from_wire(init.scheme.required("RequestInit.scheme")?)?,
                authority: init.authority,
                path: init.path,
                headers: headers_from_wire(init.headers),
            };
            (stream(init.id)?, moment)
        }
        Event::ResponseInit(init) => {
            let moment = TapMoment::ResponseInit {
                since_request_init: since(
                    "ResponseInit.since_request_init",
                    init.since_request_init,
                )?,
                status: scalar::status("ResponseInit.http_status", init.http_status)?,
                headers: headers_from_wire(init.headers),
            };
            (stream(init.id)?, moment)
        }
        Event::ResponseEnd(end) => {
            let response =
                scalar::duration("ResponseEnd.since_response_init", end.since_response_init)?;
            let moment = TapMoment::ResponseEnd {
                since_request_init: since(
                    "ResponseEnd.since_request_init",
                    end.since_request_init,
                )?,
                since_response_init: response.unwrap_or_default(),
                response_bytes: end.response_bytes,
                end: end.eos.and_then(|eos| eos.end).map(end_from_wire),
                trailers: headers_from_wire(end.trailers),
            };
            (stream(end.id)?, moment)
        }
    })
}

fn stream(id: Option<http::StreamId>) -> Result<StreamId, Invalid> {
    let id = id.required("StreamId")?;
    Ok(StreamId { base: id.base, stream: id.stream })
}

fn end_to_wire(end: TapEnd) -> wire::Eos {
    let end = match end {
        TapEnd::GrpcStatus(code) => wire::eos::End::GrpcStatusCode(code),
        TapEnd::Reset(code) => wire::eos::End::ResetErrorCode(code),
    };
    wire::Eos { end: Some(end) }
}

fn end_from_wire(end: wire::eos::End) -> TapEnd {
    match end {
        wire::eos::End::GrpcStatusCode(code) => TapEnd::GrpcStatus(code),
        wire::eos::End::ResetErrorCode(code) => TapEnd::Reset(code),
    }
}

/// None when there is none, so that an event without headers costs no field.
fn headers_to_wire(headers: &HeaderMap) -> Option<Headers> {
    let one = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.to_string(),
        value: value.as_bytes().to_vec(),
    };
    (!headers.is_empty()).then(|| Headers { headers: headers.iter().map(one).collect() })
}

fn headers_from_wire(headers: Option<Headers>) -> HeaderMap {
    let headers = headers.map(|headers| headers.headers).unwrap_or_default();
    let one = |header: Header| {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(&header.value).ok()?))
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.into_iter().filter_map(one) {
        // Appended, since a name may come again; what is beyond the map's bound of 32,768 is left out.
        if map.try_append(name, value).is_err() {
            break;
        }
    }
    map
}
