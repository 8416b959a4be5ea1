//! Traces through two whole proxies, told to a collector by OTLP.
//!
//! The collector is made of the code that OpenTelemetry's own definitions generate, so that our
//! messages are read by numbers and types that are not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    Endpoint, Meta,
    endpoints::ProtocolHint,
    outbound::{HttpPolicy, HttpRoute, OutboundProtocol},
    retry::{HttpConditions, Retry},
};
use hauberk_process::{Shutdown, Tasks};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest as Export, ExportTraceServiceResponse as Exported,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use std::{collections::BTreeMap, net::SocketAddr};
use support::{
    Control, SERVICE, authority, backend, captured_for, captured_in_for, endpoints, meshed, policy,
    sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A collector that takes everything; gives its address and what it got.
async fn collector() -> (SocketAddr, mpsc::Receiver<Export>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel(64);
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("collector", async move {
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        serving.await.unwrap();
    });
    (address, receiver)
}

struct Collector(mpsc::Sender<Export>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<Export>) -> Result<Response<Exported>, Status> {
        self.0.try_send(request.into_inner()).unwrap();
        Ok(Response::new(Exported::default()))
    }
}

/// An application that answers 503 and tells the heads of requests.
async fn application() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel(64);
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("application", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            sender.send(String::from_utf8(head).unwrap()).await.unwrap();
            let answer = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            // The proxy may have gone.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (address, receiver)
}

fn http_route(retry: Option<Retry<HttpConditions>>) -> HttpRoute {
    let meta = Meta::default("http");
    let mut route = hauberk_testkit::policy::http_route(meta, Vec::new(), backend());
    route.route.rules[0].action.retry = retry;
    route
}

/// The head that the application got for a request with `headers` that passed both proxies, and the spans of each.
async fn through_both(
    headers: &str,
    is_collected: bool,
) -> (String, BTreeMap<&'static str, Vec<Span>>, BTreeMap<String, String>) {
    let (mut heads, spans, resource) = through_both_with(headers, is_collected, None).await;
    (heads.remove(0), spans, resource)
}

/// The same with the heads of all attempts.
async fn through_both_with(
    headers: &str,
    is_collected: bool,
    retry: Option<Retry<HttpConditions>>,
) -> (Vec<String>, BTreeMap<&'static str, Vec<Span>>, BTreeMap<String, String>) {
    let attempts = 1 + retry.as_ref().map_or(0, |retry| usize::from(retry.max_retries));
    let control = Control::start();
    let (application, mut heads) = application().await;
    let (collector_of_server, mut of_server) = collector().await;
    let (collector_of_client, mut of_client) = collector().await;
    let settings = |collector: SocketAddr| {
        let collector = if is_collected { collector.to_string() } else { String::new() };
        [("TRACE_COLLECTOR_SVC_ADDR", collector), ("TRACE_EXTRA_ATTRIBUTES", "app=\"web\"".into())]
    };
    let server = settings(collector_of_server);
    let server = server.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = sidecar_with(&control, "server", captured_in_for(application), &server).await;
    // Retried requests travel as HTTP/2, the others as they are.
    let hint = if attempts > 1 { ProtocolHint::Http2 } else { ProtocolHint::Unknown };
    let endpoint = Endpoint { hint, ..meshed(server.inbound, None) };
    control.know(|knowledge| {
        let http = HttpPolicy { routes: vec![http_route(retry)].into(), failure_accrual: None };
        let protocol = OutboundProtocol::Http1(http);
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
        knowledge.endpoints.insert(authority(), endpoints([endpoint]));
    });
    let client = settings(collector_of_client);
    let client = client.each_ref().map(|(name, value)| (*name, value.as_str()));
    let client = sidecar_with(&control, "client", captured_for(SERVICE), &client).await;

    let mut socket = TcpStream::connect(client.outbound).await.unwrap();
    let request = format!(
        "GET /vote?token=secret HTTP/1.1\r\nhost: web:80\r\nuser-agent: test\r\n{headers}\
         connection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let mut seen = Vec::new();
    for _ in 0..attempts {
        seen.push(within(heads.recv()).await.unwrap());
    }

    // The end gives what is left to the collector, so nobody has to wait for a batch.
    client.end().await;
    server.end().await;
    let mut spans = BTreeMap::new();
    let mut resource = BTreeMap::new();
    for (name, exports) in [("client", &mut of_client), ("server", &mut of_server)] {
        while let Ok(export) = exports.try_recv() {
            for of_resource in export.resource_spans {
                resource = texts(&of_resource.resource.unwrap().attributes);
                let all = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.entry(name).or_insert_with(Vec::new).extend(all);
            }
        }
    }
    (seen, spans, resource)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |pair: &KeyValue| match pair.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{}: {other:?}", pair.key),
    };
    attributes.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// From the sender through four spans to the receiver, each the parent of the next.
fn check_chain(spans: &BTreeMap<&'static str, Vec<Span>>) -> String {
    let mut parent = SPAN.to_owned();
    for proxy in ["client", "server"] {
        let [server, client] = &*spans[proxy] else { panic!("{spans:?}") };
        for (span, kind) in [(server, SpanKind::Server), (client, SpanKind::Client)] {
            assert_eq!(span.kind(), kind);
            assert_eq!(hex(&span.trace_id), TRACE);
            assert_eq!(hex(&span.parent_span_id), parent);
            parent = hex(&span.span_id);
        }
        assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
        assert_eq!(server.end_time_unix_nano, client.end_time_unix_nano);
        assert!(client.start_time_unix_nano < client.end_time_unix_nano, "{client:?}");
    }
    parent
}

#[tokio::test]
async fn each_proxy_adds_two_spans_with_the_right_parents() {
    let sent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\n");
    let (head, spans, resource) = through_both(&sent, true).await;
    let last = check_chain(&spans);
    assert_eq!(header(&head, "traceparent"), Some(&*format!("00-{TRACE}-{last}-01")));
    assert_eq!(header(&head, "tracestate"), Some("a=b"));

    assert_eq!(resource["service.name"], "linkerd-proxy");
    assert_eq!(resource["app"], "web");
    let span = &spans["server"][0];
    assert_eq!(span.name, "GET");
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error, "503");
    let attributes = texts(&span.attributes);
    for (key, value) in [
        ("direction", "inbound"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "503"),
        ("url.path", "/vote"),
        ("url.scheme", "http"),
        ("server.address", "web"),
        ("server.port", "80"),
        ("user_agent.original", "test"),
    ] {
        assert_eq!(attributes[key], value, "{key}");
    }
    let attributes = texts(&spans["client"][1].attributes);
    assert_eq!(attributes["url.full"], "http://web:80/vote", "the query may hold secrets");
    assert_eq!(attributes["direction"], "outbound");
}

#[tokio::test]
async fn b3_goes_on_as_b3() {
    let sent = format!("x-b3-traceid: {TRACE}\r\nx-b3-spanid: {SPAN}\r\nx-b3-sampled: 1\r\n");
    let (head, spans, _) = through_both(&sent, true).await;
    let last = check_chain(&spans);
    assert_eq!(header(&head, "x-b3-traceid"), Some(TRACE));
    assert_eq!(header(&head, "x-b3-spanid"), Some(&*last));
    let before = hex(&spans["server"][1].parent_span_id);
    assert_eq!(header(&head, "x-b3-parentspanid"), Some(&*before));
    assert_eq!(header(&head, "traceparent"), None);
}

#[tokio::test]
async fn contexts_of_grpc_go_on_as_those_of_grpc() {
    // OpenCensus' binary form: version 0, field 0 the trace, field 1 the span, field 2 the flags.
    let bytes = |span: &str| {
        let mut bytes = vec![0, 0];
        bytes.extend_from_slice(&unhex(TRACE));
        bytes.push(1);
        bytes.extend_from_slice(&unhex(span));
        bytes.extend_from_slice(&[2, 1]);
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, bytes)
    };
    let (head, spans, _) =
        through_both(&format!("grpc-trace-bin: {}\r\n", bytes(SPAN)), true).await;
    let last = check_chain(&spans);
    assert_eq!(header(&head, "grpc-trace-bin"), Some(&*bytes(&last)));
}

#[tokio::test]
async fn each_attempt_has_a_span_of_its_own_and_is_the_receivers_parent() {
    let retry = Retry {
        max_retries: 1,
        max_request_bytes: 1024,
        conditions: HttpConditions(vec![500..=599]),
        timeout: None,
        backoff: None,
    };
    let sent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let (heads, spans, _) = through_both_with(&sent, true, Some(retry)).await;
    let [server, first, second] = &*spans["client"] else { panic!("{spans:?}") };
    for (resent, attempt) in [first, second].into_iter().enumerate() {
        assert_eq!(attempt.kind(), SpanKind::Client);
        assert_eq!(attempt.parent_span_id, server.span_id);
        let attributes = texts(&attempt.attributes);
        assert_eq!(attributes["http.response.status_code"], "503");
        let count = attributes.get("http.request.resend_count").map(String::as_str);
        assert_eq!(count, (resent > 0).then_some("1"));
        // What the next proxy tells of it has it as its parent.
        let mut received = spans["server"].iter().filter(|s| s.kind() == SpanKind::Server);
        assert!(received.any(|span| span.parent_span_id == attempt.span_id), "{spans:?}");
    }
    assert_ne!(first.span_id, second.span_id);
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    assert_ne!(header(&heads[0], "traceparent"), header(&heads[1], "traceparent"));
    // How it came is told where it came in.
    let received = spans["server"].iter().find(|span| span.kind() == SpanKind::Server).unwrap();
    let attributes = texts(&received.attributes);
    assert_eq!(attributes["http.request.header.l5d-orig-proto"], "HTTP/1.1");
    assert!(!texts(&server.attributes).contains_key("http.request.header.l5d-orig-proto"));
}

#[tokio::test]
async fn nothing_is_begun_and_nothing_unsampled_is_touched() {
    let (head, spans, _) = through_both("", true).await;
    assert_eq!(header(&head, "traceparent"), None);
    assert!(spans.is_empty());
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let (head, spans, _) = through_both(&format!("traceparent: {unsampled}\r\n"), true).await;
    assert_eq!(header(&head, "traceparent"), Some(&*unsampled));
    assert!(spans.is_empty());
}

#[tokio::test]
async fn without_a_collector_contexts_pass_as_they_are() {
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let (head, spans, _) = through_both(&format!("traceparent: {sampled}\r\n"), false).await;
    assert_eq!(header(&head, "traceparent"), Some(&*sampled));
    assert!(spans.is_empty());
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    let control = Control::start();
    let (application, mut heads) = application().await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let settings = [("TRACE_COLLECTOR_SVC_ADDR", &*dead)];
    let server = sidecar_with(&control, "server", captured_in_for(application), &settings).await;
    let mut socket = TcpStream::connect(server.inbound).await.unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nhost: web\r\nb3: {TRACE}-{SPAN}-1\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let head = within(heads.recv()).await.unwrap();
    assert!(header(&head, "b3").unwrap().starts_with(TRACE));
    server.metric("hauberk_trace_dropped_requests_total", &[], "1").await;
}
