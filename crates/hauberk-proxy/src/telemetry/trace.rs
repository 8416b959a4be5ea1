//! Spans of requests that somebody traces.
//!
//! Built when a span collector is configured. The request paths ask [`Tracer::begin`] for each request. A request
//! that carries the context of a sampled trace (see [`context`]) becomes a [`Traced`]: a server span whose parent is
//! the sender's, and for each attempt to send it a client span whose parent is that one and which the receiver gets as its
//! parent. They end when the response's head has come, and go to the collector by the exporter ([`export`]) through a bounded queue that drops
//! and counts when it is full.
//!
//! A trace is never begun here, and a context that is not sampled passes unchanged: a span that nobody will ever see is
//! no good parent (linkerd2-proxy v2 replaces the parent in that case too).
//!
//! Cost: nothing without a collector; with one, a pass over the names of a request's headers, by their length first.

pub mod context;
pub mod export;
pub mod otlp;

use crate::connection::Direction;
use context::{Context, SpanId, TraceId};
use hauberk_process::metrics::Counter;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::mpsc, time::Instant};

/// Gives spans to the exporter. Cloning copies an `Arc` or two.
#[derive(Clone, Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Exchange>,
    dropped: Counter,
}

/// The two spans of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The trace.
    pub trace: TraceId,
    /// The sender's span.
    pub parent: SpanId,
    /// From the request's arrival to its response's head.
    pub server: SpanId,
    /// The parts of it that the request was under way to somebody else; none if it never was.
    pub attempts: Vec<Sending>,
    /// When the request arrived.
    pub began: SystemTime,
    /// Until the response's head.
    pub duration: Duration,
    /// Which side of the proxy.
    pub direction: Direction,
    /// Who sent it.
    pub peer: SocketAddr,
    /// What was asked.
    pub asked: Asked,
    /// What was answered; none if the request was given up.
    pub status: Option<StatusCode>,
}

/// One attempt to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Its span.
    pub span: SpanId,
    /// When it began, from the request's arrival.
    pub after: Duration,
    /// When it had failed, if another one followed; else it lasted to the end.
    pub until: Option<Duration>,
    /// What it was answered, if another one followed.
    pub status: Option<StatusCode>,
}

/// What a span says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Scheme.
    pub scheme: Arc<str>,
    /// Authority, without user information; may be empty.
    pub authority: String,
    /// Path.
    pub path: String,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// `content-length`, `content-type` and, on its way in, `l5d-orig-proto`, as they were sent.
    pub headers: Vec<(&'static str, String)>,
}

impl Tracer {
    /// A tracer that fills `queue`, and counts what finds no place there.
    pub fn new(queue: mpsc::Sender<Exchange>, dropped: Counter) -> Self {
        Self { queue, dropped }
    }

    /// Begins the spans of a request, if it belongs to a sampled trace, and makes the proxy its sender. `random` draws
    /// the names of spans.
    pub fn begin<B>(
        &self,
        request: &mut Request<B>,
        direction: Direction,
        peer: SocketAddr,
        random: impl FnMut() -> u64,
    ) -> Option<Box<Traced>> {
        let context = context::find(request.headers())?;
        if !context.is_sampled {
            return None;
        }
        self.enter(context, request, direction, peer, random)
    }

    #[cold]
    fn enter<B>(
        &self,
        context: Context,
        request: &mut Request<B>,
        direction: Direction,
        peer: SocketAddr,
        mut random: impl FnMut() -> u64,
    ) -> Option<Box<Traced>> {
        let mut draw = || SpanId::new(random().max(1));
        let (server, client) = (draw()?, draw()?);
        context::replace(request.headers_mut(), &context, server, client);
        let exchange = Exchange {
            trace: context.trace,
            parent: context.span,
            server,
            attempts: Vec::new(),
            began: SystemTime::now(),
            duration: Duration::ZERO,
            direction,
            peer,
            asked: asked(request, direction),
            status: None,
        };
        let (began, tracer) = (Instant::now(), self.clone());
        Some(Box::new(Traced { tracer, context, exchange: Some(exchange), client, began }))
    }

    fn give(&self, exchange: Exchange) {
        // When the exporter has gone, the process ends.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(exchange) {
            self.dropped.inc();
        }
    }
}

/// A request that is traced. Told to the collector when it ends, also by being dropped.
#[derive(Debug)]
pub struct Traced {
    tracer: Tracer,
    context: Context,
    exchange: Option<Exchange>,
    /// The span of the attempt that comes next.
    client: SpanId,
    began: Instant,
}

impl Traced {
    /// The request goes out.
    pub fn send(&mut self) {
        let after = self.began.elapsed();
        if let Some(exchange) = &mut self.exchange {
            let span = self.client;
            exchange.attempts.push(Sending { span, after, until: None, status: None });
        }
    }

    /// The attempt has failed, with an answer or without.
    pub fn failed(&mut self, status: Option<StatusCode>) {
        let until = Some(self.began.elapsed());
        if let Some(attempt) = self.exchange.as_mut().and_then(|e| e.attempts.last_mut()) {
            (attempt.until, attempt.status) = (until, status);
        }
    }

    /// Another attempt is to go out with these headers, under a span of its own, which `random` names.
    pub fn send_again(&mut self, headers: &mut HeaderMap, random: u64) {
        let (Some(exchange), Some(client)) = (&self.exchange, SpanId::new(random.max(1))) else {
            return;
        };
        context::replace(headers, &self.context, exchange.server, client);
        self.client = client;
        self.send();
    }

    /// The response's head is here, or has been made up.
    pub fn end(mut self, status: StatusCode) {
        self.give(Some(status));
    }

    fn give(&mut self, status: Option<StatusCode>) {
        if let Some(exchange) = self.exchange.take() {
            let duration = self.began.elapsed();
            self.tracer.give(Exchange { duration, status, ..exchange });
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.give(None);
    }
}

fn asked<B>(request: &Request<B>, direction: Direction) -> Asked {
    let (uri, headers) = (request.uri(), request.headers());
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let authority = authority.or_else(|| text(header::HOST)).unwrap_or_default();
    let orig_proto = (direction == Direction::Inbound).then_some("l5d-orig-proto");
    let told = ["content-length", "content-type"].into_iter().chain(orig_proto);
    // What stands before the at sign may be a password.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Asked {
        method: request.method().clone(),
        scheme: uri.scheme_str().unwrap_or("http").into(),
        authority: authority.to_owned(),
        path: uri.path().to_owned(),
        user_agent: text(header::USER_AGENT).map(ToOwned::to_owned),
        headers: told
            .filter_map(|name| Some((name, text(HeaderName::from_static(name))?.to_owned())))
            .collect(),
    }
}
