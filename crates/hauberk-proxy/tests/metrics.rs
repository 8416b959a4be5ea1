//! Every metric family that dashboards made for linkerd2-proxy look for, with its labels, as a whole proxy shows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_model::{
    Authority, Endpoint, Endpoints, Meta, Port,
    outbound::{
        Backend, BackendTarget, Distribution, GrpcPolicy, GrpcRoute, HttpPolicy, HttpRoute, Load,
        OutboundProtocol, Queue, RouteBackend, RuleAction,
    },
    retry::{GrpcConditions, HttpConditions, Retry},
    route::{Route, Rule},
    timeout::Timeouts,
};
use hauberk_process::metrics::messages::{MetricFamily, MetricType};
use prost::Message;
use std::{io::Read, net::SocketAddr, sync::Arc};
use support::{
    Control, SERVICE, authority, backend, captured_for, captured_in_for, detect, endpoints, meshed,
    policy, sidecar, sidecar_with, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Fails unless some line has that name and all of the labels.
#[track_caller]
fn has(text: &str, name: &str, labels: &str) {
    let found = text.lines().any(|line| {
        let rest = line.strip_prefix(name);
        let is_it = rest.is_some_and(|rest| rest.starts_with(['{', ' ']));
        is_it && labels.split(' ').all(|label| line.contains(label))
    });
    let known: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
    assert!(found, "no {name} with {labels} in {known:#?}");
}

/// The samples of a histogram.
#[track_caller]
fn has_histogram(text: &str, name: &str, labels: &str, bound: &str) {
    has(text, &format!("{name}_bucket"), &format!("le=\"{bound}\" {labels}"));
    has(text, &format!("{name}_bucket"), &format!("le=\"+Inf\" {labels}"));
    has(text, &format!("{name}_sum"), labels);
    has(text, &format!("{name}_count"), labels);
}

/// An application that reads a head and answers by what it was asked: a status, with a body.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = hauberk_process::Tasks::new(hauberk_process::Shutdown::new());
    let connections = tasks.kind("application-connection");
    tasks.spawn("application", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let count = socket.read(&mut buffer).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    seen.extend_from_slice(&buffer[..count]);
                    let text = String::from_utf8_lossy(&seen).into_owned();
                    if text.starts_with("raw") {
                        // The test says what is missing.
                        let _ = socket.write_all(b"raw answer").await;
                        return;
                    }
                    if !text.contains("\r\n\r\n")
                        || (text.starts_with("POST") && !text.ends_with("body"))
                    {
                        continue;
                    }
                    let status = if text.contains("/bad") { "503 Busy" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nhello");
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    seen.clear();
                }
            });
        }
    });
    address
}

fn http_route(retry: Option<Retry<HttpConditions>>) -> HttpRoute {
    let meta = Meta::resource("gateway.networking.k8s.io", "HTTPRoute", "test", "all");
    let mut route = hauberk_testkit::policy::http_route(meta, Vec::new(), backend());
    route.route.rules[0].action.retry = retry;
    route
}

fn retry() -> Retry<HttpConditions> {
    Retry {
        max_retries: 1,
        max_request_bytes: 1024,
        conditions: HttpConditions(vec![500..=599]),
        timeout: None,
        backoff: None,
    }
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn every_family_is_there_with_its_labels() {
    let control = Control::start();
    let application = application().await;
    let server = sidecar(&control, "server", captured_in_for(application)).await;
    control.know(|knowledge| {
        let http =
            HttpPolicy { routes: vec![http_route(Some(retry()))].into(), failure_accrual: None };
        let OutboundProtocol::Detect { timeout, opaque, .. } = detect() else { unreachable!() };
        let protocol =
            OutboundProtocol::Detect { timeout, http1: http.clone(), http2: http, opaque };
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(protocol));
        let mut endpoint = meshed(server.inbound, None);
        endpoint.labels.insert("zone_locality".into(), "remote".into());
        endpoint.labels.insert("pod".into(), "server-1".into());
        let labels = [("service".into(), "server".into())].into();
        let set = Endpoints { labels: Arc::new(labels), ..endpoints([endpoint]) };
        knowledge.endpoints.insert(authority(), set);
    });
    let settings = [("OUTBOUND_METRICS_HOSTNAME_LABELS", "true")];
    let client = sidecar_with(&control, "client", captured_for(SERVICE), &settings).await;

    let post =
        "POST / HTTP/1.1\r\nhost: web.test\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    assert!(ask(client.outbound, post).await.starts_with("HTTP/1.1 200"));
    let bad = "GET /bad HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n";
    assert!(ask(client.outbound, bad).await.starts_with("HTTP/1.1 503"));
    assert_eq!(ask(client.outbound, "raw bytes\r\n\r\n").await, "raw answer");
    assert!(ask(server.inbound, bad).await.starts_with("HTTP/1.1 503"));
    let done = "outbound_tcp_route_close_total";
    let text = client.admin_until("/metrics", |text| text.contains(done)).await;

    // Endpoints, as before client policies.
    let endpoint = "direction=\"outbound\" authority=\"server.test.svc.cluster.local:7000\" \
                    target_addr= target_ip=\"127.0.0.1\" target_port= tls=\"true\" server_id=\"server.test. \
                    dst_pod=\"server-1\" dst_zone_locality=\"remote\"";
    has(&text, "request_total", endpoint);
    let ok = format!(
        "{endpoint} status_code=\"200\" classification=\"success\" grpc_status=\"\" error=\"\""
    );
    has(&text, "response_total", &ok);
    has(&text, "response_total", &ok.replace("200", "503").replace("success", "failure"));
    has_histogram(
        &text,
        "response_latency_ms",
        &format!("{endpoint} status_code=\"200\""),
        "50000.0",
    );

    // Connections.
    let accepted = "direction=\"outbound\" peer=\"src\" target_addr=\"10.99.99.99:7000\" \
                    tls=\"no_identity\" no_tls_reason=\"loopback\"";
    let dialled = "direction=\"outbound\" peer=\"dst\" authority=\"server.test.svc.cluster.local:7000\" \
                   target_ip=\"127.0.0.1\" tls=\"true\" server_id= dst_pod= dst_service=\"server\"";
    for peer in [accepted, dialled] {
        for name in [
            "tcp_open_total",
            "tcp_open_connections",
            "tcp_read_bytes_total",
            "tcp_write_bytes_total",
        ] {
            has(&text, name, peer);
        }
    }
    has(&text, "tcp_close_total", &format!("{accepted} errno=\"\""));
    let parent = "parent_group=\"core\" parent_kind=\"Service\" parent_namespace=\"test\" \
                  parent_name=\"server\" parent_port=\"7000\" parent_section_name=\"\"";
    has_histogram(&text, "outbound_tcp_detect_http_duration_seconds", parent, "0.1");
    for result in ["http/1", "not_http"] {
        let labels = format!("{parent} result=\"{result}\"");
        has(&text, "outbound_tcp_detect_http_results_total", &labels);
    }
    for protocol in ["http/1", "opaq"] {
        let labels = format!("{parent} protocol=\"{protocol}\"");
        has(&text, "outbound_tcp_protocol_connections_total", &labels);
    }
    for op in ["Send", "Recv"] {
        let labels = format!("op=\"{op}\" zone_locality=\"Remote\"");
        has(&text, "outbound_tcp_transfer_cost_bytes_total", &labels);
    }
    let to = "route_kind=\"default\" route_name=\"opaque\" target_ip=\"10.99.99.99\" target_port=\"7000\"";
    has(&text, "outbound_tcp_route_open_total", &format!("{parent} {to}"));
    has(&text, "outbound_tcp_route_close_total", &format!("{parent} {to} error=\"\""));

    // Routes.
    let route = format!(
        "{parent} route_group=\"gateway.networking.k8s.io\" route_kind=\"HTTPRoute\" \
         route_namespace=\"test\" route_name=\"all\""
    );
    let of_host = format!("{route} hostname=\"web.test\"");
    let name = |rest: &str| format!("outbound_http_route_{rest}");
    has_histogram(&text, &name("request_duration_seconds"), &of_host, "0.05");
    for status in ["200", "503"] {
        let labels = format!("{of_host} http_status=\"{status}\" error=\"\"");
        has(&text, &name("request_statuses_total"), &labels);
    }
    has_histogram(&text, &name("request_frame_size_bytes"), &of_host, "10240.0");
    for retries in ["requests", "successes", "limit_exceeded", "overflow"] {
        has(&text, &name(&format!("retry_{retries}_total")), &route);
    }
    let to_backend = format!(
        "{route} backend_group=\"core\" backend_kind=\"Service\" backend_namespace=\"test\" \
         backend_name=\"server\" backend_port=\"7000\" backend_section_name=\"\""
    );
    has(&text, &name("backend_requests_total"), &to_backend);
    has_histogram(&text, &name("backend_response_duration_seconds"), &to_backend, "0.025");
    let labels = format!("{to_backend} http_status=\"200\" error=\"\"");
    has(&text, &name("backend_response_statuses_total"), &labels);
    has_histogram(&text, &name("backend_response_frame_size_bytes"), &to_backend, "128.0");

    // Balancers.
    let of_backend = format!("{parent} backend_name=\"server\" backend_port=\"7000\"");
    let asked = "server.test.svc.cluster.local:7000";
    let of_tcp = format!("{of_backend} logical=\"{asked}\" concrete=\"{asked}\"");
    for (kind, labels) in [("http", &of_backend), ("tcp", &of_tcp)] {
        let name = |rest: &str| format!("outbound_{kind}_balancer_{rest}");
        has(&text, &name("endpoints"), &format!("{labels} endpoint_state=\"ready\""));
        has(&text, &name("endpoints"), &format!("{labels} endpoint_state=\"pending\""));
        for op in ["Reset", "Add", "Remove"] {
            has(&text, &name("p2c_updates_total"), &format!("{labels} op=\"{op}\""));
        }
        for rest in [
            "p2c_endpoints",
            "queue_length",
            "queue_requests_total",
            "queue_gate_open_total",
            "queue_gate_shut_total",
            "queue_gate_open_time_seconds",
            "queue_gate_shut_time_seconds",
            "queue_gate_timeout_seconds",
        ] {
            has(&text, &name(rest), labels);
        }
        has_histogram(&text, &name("queue_latency_seconds"), labels, "0.0005");
        let line = text.lines().find(|line| {
            line.starts_with(&name("endpoints")) && line.contains("endpoint_state=\"ready\"")
        });
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
    }

    // The control plane, and the process.
    let of_control =
        format!("addr=\"{}\" tls=\"no_identity\" no_tls_reason=\"loopback\"", control.address);
    has(&text, "control_request_total", &of_control);
    let labels =
        format!("{of_control} status_code=\"200\" classification=\"success\" grpc_status=\"0\"");
    has(&text, "control_response_total", &labels);
    has_histogram(&text, "control_response_latency_ms", &of_control, "1.0");
    has(&text, "control_identity_cert_expiration_timestamp_seconds", "");
    has(&text, "control_identity_cert_refresh_timestamp_seconds", "");
    has(&text, "control_identity_cert_refreshes_total", "");
    has(&text, "proxy_build_info", "version= vendor=\"hauberk\"");
    has(
        &text,
        "rustls_info",
        "tls_suites=\"TLS13_AES_128_GCM_SHA256, tls_kx_groups=\"X25519MLKEM768, tls_rand= tls_key_provider= \
         tls_fips=\"false\"",
    );
    for name in [
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
    ] {
        has(&text, name, "");
    }

    // The other side.
    let text = server.admin_get("/metrics").await;
    let at = format!("target_addr=\"{application}\" target_ip=\"127.0.0.1\" target_port=");
    let srv = "srv_group=\"\" srv_kind=\"default\" srv_name=\"all-unauthenticated\" srv_port=";
    let from = "tls=\"true\" client_id=\"client.test.";
    let (rt, authz) = (
        "route_kind=\"default\" route_name=\"default\"",
        "authz_group=\"\" authz_kind=\"default\" authz_name=",
    );
    has(&text, "inbound_http_authz_allow_total", &format!("{at} {srv} {rt} {authz} {from}"));
    has(&text, "inbound_tcp_authz_allow_total", &format!("{at} {srv} {authz} {from}"));
    has(&text, "request_total", &format!("direction=\"inbound\" {at} {from} {srv} {rt} {authz}"));
    let stranger = "tls=\"no_identity\" no_tls_reason=\"no_tls_from_remote\"";
    has(&text, "request_total", &format!("direction=\"inbound\" {at} {stranger} {srv}"));
    has(&text, "tcp_open_total", &format!("direction=\"inbound\" peer=\"src\" {at} {from} {srv}"));
    has(&text, "tcp_open_total", "direction=\"inbound\" peer=\"dst\" tls=\"no_identity\"");
    let parent = "parent_group=\"\" parent_kind=\"default\" parent_name=\"all-unauthenticated\" parent_port=";
    let labels = format!("{parent} {rt}");
    has(&text, "inbound_http_requests_total", &labels);
    has(&text, "inbound_http_statuses_total", &format!("{labels} status=\"503\""));
    has_histogram(&text, "inbound_http_request_duration_seconds", &labels, "0.025");
    has_histogram(&text, "inbound_http_response_duration_seconds", &labels, "0.05");
    has_histogram(&text, "inbound_http_request_frame_size_bytes", &labels, "128.0");
    has_histogram(&text, "inbound_http_response_frame_size_bytes", &labels, "1024.0");
    has_histogram(&text, "inbound_tcp_detect_http_duration_seconds", srv, "0.001");
    let labels = format!("{srv} result=\"http/1\"");
    has(&text, "inbound_tcp_detect_http_results_total", &labels);
}

#[tokio::test]
async fn failures_have_their_names() {
    let control = Control::start();
    let grpc = {
        let nowhere = Authority::new("nowhere.test.svc.cluster.local", Port::new(1).unwrap());
        let target = BackendTarget::Balance {
            authority: nowhere.clone(),
            load: Load::default(),
            balancing: Default::default(),
        };
        control.know(|knowledge| {
            knowledge.endpoints.insert(nowhere, endpoints([]));
        });
        let backend = Backend { meta: Meta::default("nowhere"), target, queue: Queue::default() };
        let backend = RouteBackend { filters: Vec::new(), backend: backend.into() };
        let action = RuleAction::<_, GrpcConditions> {
            filters: Vec::new(),
            backends: Distribution::FirstAvailable(vec![backend]),
            timeouts: Timeouts::default(),
            retry: None,
            allow_l5d_request_headers: false,
        };
        let rules = vec![Rule { matches: Vec::new(), action }];
        let route = Route { hosts: Vec::new(), rules };
        GrpcPolicy {
            routes: vec![GrpcRoute { meta: Meta::default("grpc"), route }].into(),
            failure_accrual: None,
        }
    };
    control.know(|knowledge| {
        knowledge.outbound.insert(SERVICE.parse().unwrap(), policy(OutboundProtocol::Grpc(grpc)));
    });
    let settings = [("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "50ms")];
    let client = sidecar_with(&control, "client", captured_for(SERVICE), &settings).await;
    let socket = TcpStream::connect(client.outbound).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = hauberk_process::Tasks::new(hauberk_process::Shutdown::new());
    tasks.spawn("client", async move {
        let _ = connection.await; // The proxy closes it after such a failure.
    });
    let request =
        http::Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(within(answer).await.unwrap().headers()["grpc-status"], "4");

    client.metric("outbound_http_errors_total", &["error=\"failfast\""], "1").await;
    let text = client.admin_get("/metrics").await;
    has(&text, "outbound_grpc_route_backend_requests_total", "backend_name=\"nowhere\"");
    let labels = "route_name=\"grpc\" hostname=\"\" grpc_status=\"\" error=\"FAIL_FAST\"";
    has(&text, "outbound_grpc_route_request_statuses_total", labels);
    for (name, value) in [("shut", "1"), ("open", "0")] {
        let name = format!("outbound_http_balancer_queue_gate_{name}_total");
        client.metric(&name, &["backend_name=\"nowhere\""], value).await;
    }
    let shut = "outbound_http_balancer_queue_gate_shut_time_seconds";
    let line = text.lines().find(|line| line.starts_with(&format!("{shut}{{"))).unwrap();
    let at: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(at > 1.6e9, "{line}");
}

#[tokio::test]
async fn scrapers_get_what_they_ask_for() {
    let control = Control::start();
    let client = sidecar(&control, "client", captured_for(SERVICE)).await;
    let raw = async |headers: &str| {
        let mut socket = TcpStream::connect(client.admin).await.unwrap();
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: a\r\n{headers}connection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let split = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..split].to_vec()).unwrap(), answer[split + 4..].to_vec())
    };
    let (head, body) = raw("").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.ends_with(b"# EOF\n"));

    let (head, body) = raw("accept-encoding: br, gzip;q=0.8\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n") && text.contains("proxy_build_info{"), "{text}");
    assert!(body.len() < text.len() / 2);

    let accept = "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                  encoding=delimited;q=0.6,text/plain;q=0.3\r\n";
    let (head, body) = raw(accept).await;
    assert!(head.contains("content-type: application/vnd.google.protobuf; proto=io.p"), "{head}");
    let mut rest = &body[..];
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
    }
    let latency =
        families.iter().find(|family| family.name == "control_response_latency_ms").unwrap();
    assert_eq!(latency.r#type(), MetricType::Histogram);
    let histogram = latency.metric[0].histogram.as_ref().unwrap();
    assert_eq!((histogram.schema, histogram.bucket.len()), (3, 26));
    let mut count = i64::try_from(histogram.zero_count).unwrap();
    let mut bucket = 0;
    for delta in &histogram.positive_delta {
        bucket += delta;
        count += bucket;
    }
    assert_eq!(u64::try_from(count).unwrap(), histogram.sample_count);
    assert!(histogram.sample_count > 0, "a certificate has been asked for");
}

/// An endpoint that nobody describes is no member of a zone.
#[test]
fn endpoints_say_nothing_of_zones_by_themselves() {
    assert!(Endpoint::bare("10.0.0.1:80".parse().unwrap()).labels.is_empty());
}
