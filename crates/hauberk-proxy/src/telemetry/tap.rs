//! Requests that somebody watches while they pass.
//!
//! [`Taps`] is shared by the data workers, who ask [`Taps::begin`] for each request they send on, and the
//! [`server`], which opens a tap for whoever may. A watched request becomes a [`Tapped`]: it reports when the request
//! begins, when its response begins, and when that ends, in this order, through the bounded queue of each tap that
//! wants it. A queue that is full loses events, never requests; what is lost is counted.
//!
//! Cost when nobody watches: one relaxed load per request, no lock, no allocation, no formatting. While somebody does,
//! each request takes a short lock and is compared with each tap.
//!
//! Deliberately not here: the gRPC service ([`server`]), and the match language (`hauberk_model::tap`).

pub mod server;

use crate::{
    connection::{Direction, Tls},
    http::classify::{Break, Class},
};
use hauberk_model::{
    Endpoint, Meta,
    endpoints::Labels,
    tap::{StreamId, Tap, TapDirection, TapEnd, TapEvent, TapExchange, TapMoment, TapRequest},
};
use hauberk_process::metrics::{Counter, Registry};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{sync::mpsc, time::Instant};

/// Events that may wait for one watcher (linkerd2-proxy v2).
const EVENTS_MAX: usize = 400;

/// Taps at a time; each costs every request a comparison.
const TAPS_MAX: usize = 64;

/// All taps of a process. Cloning copies an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Taps {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Length of `list`, so that nobody looks there in vain.
    active: AtomicUsize,
    list: Mutex<Arc<[Arc<Active>]>>,
    next_base: AtomicU32,
    dropped: Counter,
}

/// A tap that still wants requests.
#[derive(Debug)]
struct Active {
    base: u32,
    tap: Tap,
    remaining: AtomicU32,
    next_stream: AtomicU64,
    events: mpsc::Sender<TapEvent>,
}

/// What a tap reports; dropping it ends the tap.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<TapEvent>,
    taps: Taps,
    base: u32,
}

/// There are as many taps as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{TAPS_MAX} taps are open already")]
pub struct TooMany;

/// Between whom a request travels, as far as it is known before its endpoint is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// Which side of the proxy sees it.
    pub direction: Direction,
    /// The client.
    pub client: SocketAddr,
    /// What TLS told about the client.
    pub tls: &'a Tls,
    /// The route that was taken.
    pub route: &'a Meta,
}

impl Taps {
    /// Registers the count of events that were lost.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Events of watched requests lost because the watcher was too slow";
        registry.register("hauberk_tap_dropped_events", help, self.inner.dropped.clone());
    }

    /// Begins to report requests.
    ///
    /// # Errors
    /// If there are too many taps already.
    pub fn open(&self, tap: Tap) -> Result<Events, TooMany> {
        let base = self.inner.next_base.fetch_add(1, Relaxed);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let (remaining, next_stream) = (AtomicU32::new(tap.limit), AtomicU64::new(0));
        let active = Arc::new(Active { base, tap, remaining, next_stream, events });
        let mut list = self.inner.list.lock();
        if list.len() >= TAPS_MAX {
            return Err(TooMany);
        }
        *list = list.iter().cloned().chain([active]).collect();
        self.inner.active.store(list.len(), Relaxed);
        Ok(Events { receiver, taps: self.clone(), base })
    }

    /// Ends all taps, after the requests they report now.
    pub fn close(&self) {
        *self.inner.list.lock() = Arc::default();
        self.inner.active.store(0, Relaxed);
    }

    fn remove(&self, base: u32) {
        let mut list = self.inner.list.lock();
        *list = list.iter().filter(|active| active.base != base).cloned().collect();
        self.inner.active.store(list.len(), Relaxed);
    }

    /// A request is about to be sent to `endpoint`; gives who reports it, if anybody does.
    #[inline]
    pub fn begin<B>(
        &self,
        between: &Between<'_>,
        endpoint: &Endpoint,
        request: &Request<B>,
    ) -> Option<Box<Tapped>> {
        if self.inner.active.load(Relaxed) == 0 {
            return None;
        }
        self.compare(between, endpoint, request)
    }

    #[cold]
    fn compare<B>(
        &self,
        between: &Between<'_>,
        endpoint: &Endpoint,
        request: &Request<B>,
    ) -> Option<Box<Tapped>> {
        let list = Arc::clone(&self.inner.list.lock());
        let exchange = exchange(between, endpoint);
        let (uri, headers) = (request.uri(), request.headers());
        let host = || headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let authority = uri.authority().map(http::uri::Authority::as_str).or_else(host);
        // What passes here was plain or has been made so.
        let scheme = uri.scheme_str().unwrap_or("http");
        let seen = TapRequest {
            source: exchange.source,
            destination: exchange.destination,
            destination_labels: &exchange.destination_labels,
            route_labels: &exchange.route_labels,
            scheme: Some(scheme),
            method: request.method(),
            authority,
            path: uri.path(),
        };
        let wanted = list.iter().filter(|active| active.tap.condition.matches(&seen));
        let watchers: Vec<Watcher> = wanted.filter_map(|active| self.take(active)).collect();
        if watchers.is_empty() {
            return None;
        }
        let mut tapped = Tapped {
            watchers,
            exchange: Arc::new(exchange),
            began: Instant::now(),
            responded: None,
            response_bytes: 0,
            has_ended: false,
            dropped: self.inner.dropped.clone(),
        };
        tapped.report(|with_headers| TapMoment::RequestInit {
            method: request.method().clone(),
            scheme: scheme.into(),
            authority: authority.unwrap_or_default().to_owned(),
            path: uri.path().to_owned(),
            headers: shown(headers, with_headers),
        });
        Some(Box::new(tapped))
    }

    /// Uses up one request of the tap's limit.
    fn take(&self, active: &Arc<Active>) -> Option<Watcher> {
        let one_less = |remaining: u32| remaining.checked_sub(1);
        let before = active.remaining.fetch_update(Relaxed, Relaxed, one_less).ok()?;
        if before == 1 {
            self.remove(active.base);
        }
        let stream = active.next_stream.fetch_add(1, Relaxed);
        Some(Watcher { active: Arc::clone(active), stream })
    }
}

impl Events {
    /// The next event; none once the limit is reached and the last request has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<TapEvent> {
        self.receiver.recv().await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.taps.remove(self.base);
    }
}

#[derive(Debug)]
struct Watcher {
    active: Arc<Active>,
    stream: u64,
}

/// A watched request. Its end is reported exactly once, also when it is dropped.
#[derive(Debug)]
pub struct Tapped {
    watchers: Vec<Watcher>,
    exchange: Arc<TapExchange>,
    began: Instant,
    responded: Option<Instant>,
    response_bytes: u64,
    has_ended: bool,
    dropped: Counter,
}

impl Tapped {
    /// The response's head is here.
    pub fn respond<B>(&mut self, response: &Response<B>) {
        let now = Instant::now();
        self.responded = Some(now);
        let since_request_init = now.saturating_duration_since(self.began);
        self.report(|with_headers| TapMoment::ResponseInit {
            since_request_init,
            status: response.status(),
            headers: shown(response.headers(), with_headers),
        });
    }

    /// A piece of the response's body is here.
    pub fn count(&mut self, bytes: usize) {
        self.response_bytes = self.response_bytes.saturating_add(bytes as u64);
    }

    /// The response has ended, or will never come.
    pub fn end(mut self, class: Class, trailers: Option<&HeaderMap>) {
        let end = match class {
            Class::Grpc(_, code) => Some(TapEnd::GrpcStatus(code.into())),
            Class::Broken(Break::Reset(reason)) => Some(TapEnd::Reset(reason.into())),
            Class::Http(_)
            | Class::Broken(Break::Timeout(_) | Break::Withdrawn | Break::Unclassified) => None,
        };
        self.report_end(end, trailers);
    }

    fn report_end(&mut self, end: Option<TapEnd>, trailers: Option<&HeaderMap>) {
        self.has_ended = true;
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then);
        let since_request_init = since(self.began);
        let since_response_init = self.responded.map(since).unwrap_or_default();
        let response_bytes = self.response_bytes;
        self.report(|with_headers| TapMoment::ResponseEnd {
            since_request_init,
            since_response_init,
            response_bytes,
            end,
            trailers: trailers.map(|trailers| shown(trailers, with_headers)).unwrap_or_default(),
        });
    }

    fn report(&mut self, moment: impl Fn(bool) -> TapMoment) {
        for Watcher { active, stream } in &self.watchers {
            let event = TapEvent {
                stream: StreamId { base: active.base, stream: *stream },
                exchange: Arc::clone(&self.exchange),
                moment: moment(active.tap.with_headers),
            };
            // A watcher that has gone wants nothing, one that is slow loses.
            if let Err(mpsc::error::TrySendError::Full(_)) = active.events.try_send(event) {
                self.dropped.inc();
            }
        }
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        if !self.has_ended {
            self.report_end(None, None);
        }
    }
}

fn shown(headers: &HeaderMap, with_headers: bool) -> HeaderMap {
    if with_headers { headers.clone() } else { HeaderMap::new() }
}

fn exchange(between: &Between<'_>, endpoint: &Endpoint) -> TapExchange {
    TapExchange {
        direction: match between.direction {
            Direction::Inbound => TapDirection::Inbound,
            Direction::Outbound => TapDirection::Outbound,
        },
        source: between.client,
        source_labels: source_labels(between.tls),
        destination: endpoint.address,
        destination_labels: destination_labels(endpoint),
        route_labels: route_labels(between.route),
    }
}

fn label(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
    (key.into(), value.into())
}

/// `tls` is `true`, `opaque`, or why there is none.
fn source_labels(tls: &Tls) -> Labels {
    match tls {
        Tls::None(why) => Labels::from([label("tls", why.as_str())]),
        Tls::Passthrough { .. } => Labels::from([label("tls", "opaque")]),
        Tls::Established { client_id: None } => Labels::from([label("tls", "true")]),
        Tls::Established { client_id: Some(id) } => {
            Labels::from([label("tls", "true"), label("client_id", id.as_str())])
        }
    }
}

fn destination_labels(endpoint: &Endpoint) -> Labels {
    let mut labels = endpoint.labels.clone();
    if let Some(tls) = &endpoint.tls {
        labels.extend([label("tls", "true"), label("server_id", tls.identity.as_str())]);
    }
    labels
}

/// The names that metrics have.
fn route_labels(route: &Meta) -> Labels {
    Labels::from([
        label("route_group", route.group()),
        label("route_kind", route.kind()),
        label("route_namespace", route.namespace()),
        label("route_name", route.name()),
    ])
}

#[cfg(test)]
mod tests;
