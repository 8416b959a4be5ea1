//! Spans on their way to the collector: OTLP over gRPC, in batches.
//!
//! One task on the admin runtime owns the connection. A batch leaves when it is full or a second after its first span.
//! While the collector does not answer, the queue fills, then spans are dropped and counted; nobody waits. What is left
//! at the end of the process gets one short chance.

use super::{
    Asked, Exchange, Tracer,
    otlp::{
        Export, Exported, KeyValue, Kind, PATH, Resource, ResourceSpans, Scope, ScopeSpans, Span,
        Status, StatusCode,
    },
};
use crate::{
    connection::Direction,
    control::{Channel, client::Connector},
    settings::Traces,
};
use hauberk_process::{
    Shutdown, Tasks,
    metrics::{Counter, Registry},
};
use http::uri::PathAndQuery;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

/// Requests whose spans may wait, about 400 KiB of them.
const QUEUE_MAX: usize = 1000;

/// Requests in a batch; their spans stay below the 4 MiB that gRPC servers take by default.
const BATCH_MAX: usize = 500;

/// How long the first span of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// For the collector to answer, connecting included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The same when the process ends.
const LAST_TIMEOUT: Duration = Duration::from_millis(500);

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    exported: Counter,
    dropped: Counter,
    /// As linkerd2-proxy counts them: times the exporter began, batches, and spans in them.
    streams: Counter,
    requests: Counter,
    spans: Counter,
}

impl Metrics {
    /// Registers the counts.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Traced requests whose spans the collector has taken";
        registry.register("hauberk_trace_exported_requests", help, self.exported.clone());
        let help =
            "Traced requests whose spans were lost: the queue was full, or the collector failed";
        registry.register("hauberk_trace_dropped_requests", help, self.dropped.clone());
        let help = "Times that exporting spans began";
        registry.register("opentelemetry_span_export_streams", help, self.streams.clone());
        let help = "Batches of spans sent to the collector";
        registry.register("opentelemetry_span_export_requests", help, self.requests.clone());
        let help = "Spans that the collector has taken";
        registry.register("opentelemetry_span_exports", help, self.spans.clone());
    }
}

/// Starts the exporter, and gives what feeds it.
pub fn start(traces: &Traces, connector: &Connector, metrics: Metrics, tasks: &Tasks) -> Tracer {
    let (queue, spans) = mpsc::channel(QUEUE_MAX);
    let tracer = Tracer::new(queue, metrics.dropped.clone());
    let client = Grpc::new(connector.channel(&traces.collector));
    let resource = resource(traces);
    let exporter = Exporter { client, resource, spans, metrics, fails: false };
    tasks.spawn("trace-export", exporter.run(tasks.shutdown().clone()));
    tracer
}

struct Exporter {
    client: Grpc<Channel>,
    resource: Resource,
    spans: mpsc::Receiver<Exchange>,
    metrics: Metrics,
    /// The last batch was lost, and it was said.
    fails: bool,
}

/// Whether there will be another batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Batch,
    End,
}

impl Exporter {
    async fn run(mut self, shutdown: Shutdown) {
        self.metrics.streams.inc();
        let mut batch = Vec::new();
        loop {
            let next = self.collect(&mut batch, &shutdown).await;
            if !batch.is_empty() {
                let patience = if next == Next::End { LAST_TIMEOUT } else { EXPORT_TIMEOUT };
                self.export(std::mem::take(&mut batch), patience, &shutdown).await;
            }
            if next == Next::End {
                return;
            }
        }
    }

    /// Fills a batch.
    async fn collect(&mut self, batch: &mut Vec<Exchange>, shutdown: &Shutdown) -> Next {
        let mut deadline = None;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let waited = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = self.spans.recv_many(batch, room) => match received {
                    0 => return Next::End,
                    _ => {
                        deadline.get_or_insert_with(|| Instant::now() + BATCH_WAIT);
                    }
                },
                () = waited => return Next::Batch,
                () = shutdown.ended() => {
                    while batch.len() < BATCH_MAX && let Ok(exchange) = self.spans.try_recv() {
                        batch.push(exchange);
                    }
                    return Next::End;
                }
            }
        }
        Next::Batch
    }

    async fn export(&mut self, batch: Vec<Exchange>, patience: Duration, shutdown: &Shutdown) {
        let count = batch.len() as u64;
        let spans: Vec<_> = batch.iter().flat_map(spans).collect();
        let span_count = spans.len() as u64;
        self.metrics.requests.inc();
        let scope = Scope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let export = Export {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
            }],
        };
        let last = patience.min(LAST_TIMEOUT);
        let sent = tokio::select! {
            sent = timeout(patience, call(&mut self.client, export)) => sent,
            // An exporter that waits for a dead collector must not hold up the end.
            () = async { shutdown.ended().await; tokio::time::sleep(last).await } => return,
        };
        let sent = sent.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        match sent {
            Ok(exported) => {
                self.fails = false;
                self.metrics.exported.inc_by(count);
                self.metrics.spans.inc_by(span_count);
                if let Some(partial) = exported.partial_success.filter(|p| p.rejected_spans > 0) {
                    let (rejected, why) = (partial.rejected_spans, partial.error_message);
                    tracing::debug!(rejected, why, "collector did not take all spans");
                }
            }
            Err(error) => {
                self.metrics.dropped.inc_by(count);
                // Once until it works again; the counter tells the rest.
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(%error, "cannot export spans");
                }
            }
        }
    }
}

async fn call(client: &mut Grpc<Channel>, export: Export) -> Result<Exported, tonic::Status> {
    let failed = |error| tonic::Status::unavailable(format!("cannot reach the collector: {error}"));
    client.ready().await.map_err(failed)?;
    let path = PathAndQuery::from_static(PATH);
    let codec = ProstCodec::default();
    Ok(client.unary(tonic::Request::new(export), path, codec).await?.into_inner())
}

/// What is the same for all spans. Later sources go first (linkerd2-proxy v2).
fn resource(traces: &Traces) -> Resource {
    let mut all = BTreeMap::from([("service.name".to_owned(), traces.service_name.clone())]);
    all.extend(traces.hostname.iter().map(|name| ("host.name".to_owned(), name.clone())));
    if let Some(path) = &traces.attributes_path {
        match std::fs::read_to_string(path) {
            Ok(text) => all.extend(attributes(text.lines())),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read attributes of spans");
            }
        }
    }
    all.extend(attributes(traces.extra_attributes.lines()));
    all.extend(attributes(traces.otel_attributes.split(',')));
    let attributes = all.iter().map(|(key, value)| KeyValue::text(key, value.as_str()));
    Resource { attributes: attributes.collect() }
}

/// Pieces of the form `key=value` or `key="value"`; others are left out.
fn attributes<'t>(pieces: impl Iterator<Item = &'t str>) -> impl Iterator<Item = (String, String)> {
    pieces.filter_map(|piece| {
        let (key, value) = piece.trim().split_once('=')?;
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    })
}

/// A server span and the client spans, by OpenTelemetry's semantic conventions for HTTP. A query may hold secrets and is
/// left out.
fn spans(exchange: &Exchange) -> impl Iterator<Item = Span> {
    let server = Part {
        kind: Kind::Server,
        span: exchange.server.bytes(),
        parent: exchange.parent.bytes(),
        from: Duration::ZERO,
        until: exchange.duration,
        status: exchange.status,
        is_given_up: exchange.status.is_none(),
    };
    let server = server.span(exchange, attributes_of_server(&exchange.asked, exchange.peer));
    let attempts = exchange.attempts.iter().enumerate().map(|(resent, attempt)| {
        let mut attributes = attributes_of_client(&exchange.asked);
        if let Ok(resent @ 1..) = u16::try_from(resent) {
            attributes.push(KeyValue::number("http.request.resend_count", resent));
        }
        let is_last = attempt.until.is_none();
        let part = Part {
            kind: Kind::Client,
            span: attempt.span.bytes(),
            parent: exchange.server.bytes(),
            from: attempt.after,
            until: attempt.until.unwrap_or(exchange.duration),
            status: if is_last { exchange.status } else { attempt.status },
            is_given_up: is_last && exchange.status.is_none(),
        };
        part.span(exchange, attributes)
    });
    std::iter::once(server).chain(attempts)
}

/// What a span is about: the whole of an exchange, or one attempt.
struct Part {
    kind: Kind,
    span: [u8; 8],
    parent: [u8; 8],
    from: Duration,
    until: Duration,
    status: Option<http::StatusCode>,
    is_given_up: bool,
}

impl Part {
    fn span(self, exchange: &Exchange, mut attributes: Vec<KeyValue>) -> Span {
        let direction = match exchange.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        attributes.push(KeyValue::text("direction", direction));
        attributes.push(KeyValue::text("network.transport", "tcp"));
        attributes.push(KeyValue::text("http.request.method", exchange.asked.method.as_str()));
        for (name, value) in &exchange.asked.headers {
            attributes.push(KeyValue::text(&format!("http.request.header.{name}"), value.as_str()));
        }
        if let Some(status) = self.status {
            attributes.push(KeyValue::number("http.response.status_code", status.as_u16()));
        }
        Span {
            trace_id: exchange.trace.bytes().to_vec(),
            span_id: self.span.to_vec(),
            parent_span_id: self.parent.to_vec(),
            name: exchange.asked.method.to_string(),
            kind: self.kind.into(),
            start_time_unix_nano: nanos(exchange.began + self.from),
            end_time_unix_nano: nanos(exchange.began + self.until),
            attributes,
            status: self.failure(),
        }
    }

    /// Servers are not to blame for what the client did wrong (semantic conventions, "Status").
    fn failure(&self) -> Option<Status> {
        let message = match self.status {
            None if self.is_given_up => "given up before the response came",
            None => "no response",
            Some(status) if status.is_server_error() => "",
            Some(status) if status.is_client_error() && self.kind == Kind::Client => "",
            Some(_) => return None,
        };
        Some(Status { message: message.to_owned(), code: StatusCode::Error.into() })
    }
}

fn attributes_of_server(asked: &Asked, peer: SocketAddr) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::text("url.scheme", &*asked.scheme),
        KeyValue::text("url.path", asked.path.as_str()),
        KeyValue::text("network.peer.address", peer.ip().to_string()),
        KeyValue::number("network.peer.port", peer.port()),
    ];
    attributes
        .extend(asked.user_agent.as_deref().map(|a| KeyValue::text("user_agent.original", a)));
    attributes.extend(server_address(&asked.authority));
    attributes
}

fn attributes_of_client(asked: &Asked) -> Vec<KeyValue> {
    let Asked { scheme, authority, path, .. } = asked;
    let mut attributes = vec![KeyValue::text("url.full", format!("{scheme}://{authority}{path}"))];
    attributes.extend(server_address(authority));
    attributes
}

fn server_address(authority: &str) -> impl Iterator<Item = KeyValue> {
    let authority = authority.parse::<http::uri::Authority>().ok();
    let address = authority.as_ref().map(|of| KeyValue::text("server.address", of.host()));
    let port = authority.as_ref().and_then(http::uri::Authority::port_u16);
    address.into_iter().chain(port.map(|port| KeyValue::number("server.port", port)))
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_attributes_of_all_forms() {
        let read = |text: &str| attributes(text.lines()).collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            read("app=\"web\"\n a = b=c \n\nnonsense\n=x"),
            [pair("app", "web"), pair("a", "b=c")]
        );
        let otel: Vec<_> = attributes("a=1,b=2".split(',')).collect();
        assert_eq!(otel, [pair("a", "1"), pair("b", "2")]);
    }
}
