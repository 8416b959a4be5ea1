//! From the environment to [`Config`], by the table in `hauberk_model::settings`.

use super::{
    AccessLogFormat, Config, Http2Client, Http2Server, Identity, Inbound, Log, Outbound, Service,
    Side, StreamLimits, Tap, Traces,
};
use hauberk_linux::socket::ConnectionOptions;
use hauberk_model::{
    WorkloadId,
    backoff::Backoff,
    settings::{self as table, BadValue, Problem, Reader, value},
};
use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Reads the settings. `cores` is how many processors there are.
///
/// # Errors
/// All problems at once.
pub fn read(environment: &BTreeMap<String, String>, cores: usize) -> Result<Config, Problems> {
    let mut reader = Reader::new(environment);
    let config = config(&mut reader, cores);
    let problems = reader.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems(problems)),
    }
}

/// The settings that both sides have under names of their own.
struct SideNames {
    detect_timeout: &'static str,
    connect_timeout: &'static str,
    backoff: [&'static str; 3],
    accept: [&'static str; 2],
    connect: [&'static str; 2],
    backlog: &'static str,
    queue: [&'static str; 2],
    in_flight: &'static str,
    pool: [&'static str; 2],
    discovery_idle: &'static str,
    head_timeout: &'static str,
    windows: [&'static str; 2],
    adaptive: &'static str,
    keep_alive: [&'static str; 2],
    streams: &'static str,
    frame: &'static str,
    headers: &'static str,
    resets: &'static str,
    send_buffer: &'static str,
}

const INBOUND: SideNames = SideNames {
    detect_timeout: table::INBOUND_DETECT_TIMEOUT,
    connect_timeout: table::INBOUND_CONNECT_TIMEOUT,
    backoff: [
        table::INBOUND_CONNECT_EXP_BACKOFF_MIN,
        table::INBOUND_CONNECT_EXP_BACKOFF_MAX,
        table::INBOUND_CONNECT_EXP_BACKOFF_JITTER,
    ],
    accept: [table::INBOUND_ACCEPT_KEEPALIVE, table::INBOUND_ACCEPT_USER_TIMEOUT],
    connect: [table::INBOUND_CONNECT_KEEPALIVE, table::INBOUND_CONNECT_USER_TIMEOUT],
    backlog: table::INBOUND_TCP_LISTEN_BACKLOG,
    queue: [table::INBOUND_HTTP_QUEUE_CAPACITY, table::INBOUND_HTTP_FAILFAST_TIMEOUT],
    in_flight: table::INBOUND_MAX_IN_FLIGHT,
    pool: [table::MAX_IDLE_CONNS_PER_ENDPOINT, table::INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT],
    discovery_idle: table::INBOUND_DISCOVERY_IDLE_TIMEOUT,
    head_timeout: table::INBOUND_HTTP1_HEAD_TIMEOUT,
    windows: [
        table::INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE,
        table::INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE,
    ],
    adaptive: table::INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL,
    keep_alive: [
        table::INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL,
        table::INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT,
    ],
    streams: table::INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS,
    frame: table::INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE,
    headers: table::INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE,
    resets: table::INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS,
    send_buffer: table::INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE,
};

const OUTBOUND: SideNames = SideNames {
    detect_timeout: table::OUTBOUND_DETECT_TIMEOUT,
    connect_timeout: table::OUTBOUND_CONNECT_TIMEOUT,
    backoff: [
        table::OUTBOUND_CONNECT_EXP_BACKOFF_MIN,
        table::OUTBOUND_CONNECT_EXP_BACKOFF_MAX,
        table::OUTBOUND_CONNECT_EXP_BACKOFF_JITTER,
    ],
    accept: [table::OUTBOUND_ACCEPT_KEEPALIVE, table::OUTBOUND_ACCEPT_USER_TIMEOUT],
    connect: [table::OUTBOUND_CONNECT_KEEPALIVE, table::OUTBOUND_CONNECT_USER_TIMEOUT],
    backlog: table::OUTBOUND_TCP_LISTEN_BACKLOG,
    queue: [table::OUTBOUND_HTTP_QUEUE_CAPACITY, table::OUTBOUND_HTTP_FAILFAST_TIMEOUT],
    in_flight: table::OUTBOUND_MAX_IN_FLIGHT,
    pool: [
        table::OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT,
        table::OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT,
    ],
    discovery_idle: table::OUTBOUND_DISCOVERY_IDLE_TIMEOUT,
    head_timeout: table::OUTBOUND_HTTP1_HEAD_TIMEOUT,
    windows: [
        table::OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE,
        table::OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE,
    ],
    adaptive: table::OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL,
    keep_alive: [
        table::OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL,
        table::OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT,
    ],
    streams: table::OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS,
    frame: table::OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE,
    headers: table::OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE,
    resets: table::OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS,
    send_buffer: table::OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE,
};

/// Every field is read before any is missed, so that all problems are noted.
fn config(reader: &mut Reader<'_>, cores: usize) -> Option<Config> {
    let destination = service(reader, table::DESTINATION_SVC_ADDR, table::DESTINATION_SVC_NAME);
    let policy = service(reader, table::POLICY_SVC_ADDR, table::POLICY_SVC_NAME);
    let policy_workload = reader.read(table::POLICY_WORKLOAD, value::text);
    let destination_context = reader.read(table::DESTINATION_CONTEXT, value::text);
    let identity = identity(reader);
    let streams = stream_limits(reader);
    let workers = workers(reader, cores);
    let admin_listen = reader.read(table::ADMIN_LISTEN_ADDR, value::socket_address);
    let shutdown_endpoint = reader.read(table::SHUTDOWN_ENDPOINT_ENABLED, value::boolean);
    let tap = tap(reader);
    let traces = traces(reader);
    let grace_period = reader.read(table::SHUTDOWN_GRACE_PERIOD, value::duration);
    let metrics_retain_idle = reader.read(table::METRICS_RETAIN_IDLE, value::duration);
    let log = reader.read(table::LOG, value::text);
    let log_format = reader.read(table::LOG_FORMAT, value::text);
    let inbound = inbound(reader);
    let outbound = outbound(reader);
    Some(Config {
        workers,
        inbound: inbound?,
        outbound: outbound?,
        admin_listen: admin_listen?,
        shutdown_endpoint: shutdown_endpoint?,
        tap,
        traces,
        destination: destination?,
        policy: policy?,
        destination_context: destination_context.unwrap_or_default().into(),
        policy_workload: policy_workload?.into(),
        identity: identity?,
        streams,
        grace_period: grace_period?,
        metrics_retain_idle: metrics_retain_idle?,
        log: Log { filter: log?, json: log_format?.eq_ignore_ascii_case("json") },
    })
}

fn inbound(reader: &mut Reader<'_>) -> Option<Inbound> {
    let side = side(reader, &INBOUND);
    let listen = reader.read(table::INBOUND_LISTEN_ADDR, value::socket_address);
    let ips = reader.read(table::INBOUND_IPS, value::ips).unwrap_or_default();
    let cluster_networks =
        reader.read(table::POLICY_CLUSTER_NETWORKS, value::networks).unwrap_or_default();
    let default_policy = reader.read(table::INBOUND_DEFAULT_POLICY, |text| {
        text.parse().map_err(|_| BadValue {
            expected: "all-unauthenticated, all-authenticated, cluster-unauthenticated, \
                       cluster-authenticated, deny or audit",
            got: text.to_owned(),
        })
    });
    let ports = reader.read(table::INBOUND_PORTS, value::ports).unwrap_or_default();
    let opaque_ports = reader
        .read(table::INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION, value::ports)
        .unwrap_or_default();
    let gateway_suffixes =
        reader.read(table::INBOUND_GATEWAY_SUFFIXES, value::suffixes).unwrap_or_default();
    let authority_labels = reader.read(table::INBOUND_METRICS_AUTHORITY_LABELS, |text| {
        let is_unsafe = text.eq_ignore_ascii_case("unsafe");
        is_unsafe.then_some(true).ok_or(BadValue { expected: "unsafe", got: text.to_owned() })
    });
    let access_log =
        reader.read(table::ACCESS_LOG, |text| match text.to_ascii_lowercase().as_str() {
            "apache" => Ok(AccessLogFormat::Apache),
            "json" => Ok(AccessLogFormat::Json),
            _ => Err(BadValue { expected: "apache or json", got: text.to_owned() }),
        });
    let tls_resumption = reader.read(table::INBOUND_TLS_RESUMPTION, value::boolean);
    Some(Inbound {
        side: side?,
        listen: listen?,
        ips: ips.into_iter().map(|ip| ip.to_canonical()).collect(),
        default_policy: default_policy?,
        cluster_networks,
        ports,
        opaque_ports,
        gateway_suffixes,
        authority_labels: authority_labels.unwrap_or(false),
        access_log,
        tls_resumption: tls_resumption?,
    })
}

fn outbound(reader: &mut Reader<'_>) -> Option<Outbound> {
    let side = side(reader, &OUTBOUND);
    let several = reader.read(table::OUTBOUND_LISTEN_ADDRS, value::socket_addresses);
    let single = reader.read(table::OUTBOUND_LISTEN_ADDR, value::socket_address);
    let tcp_queue_capacity = reader.read(table::OUTBOUND_TCP_QUEUE_CAPACITY, value::count);
    let tcp_failfast_timeout = reader.read(table::OUTBOUND_TCP_FAILFAST_TIMEOUT, value::duration);
    let suffixes = reader.read(table::DESTINATION_PROFILE_SUFFIXES, value::suffixes);
    let networks = reader.read(table::DESTINATION_PROFILE_NETWORKS, value::networks);
    let ingress_mode = reader.read(table::INGRESS_MODE, value::boolean)?;
    let hide = reader.read(table::OUTBOUND_DISABLE_INFORMATIONAL_HEADERS, value::boolean);
    let hostname_labels = reader.read(table::OUTBOUND_METRICS_HOSTNAME_LABELS, value::boolean);
    let tls_resumption = reader.read(table::OUTBOUND_TLS_RESUMPTION, value::boolean);
    Some(Outbound {
        side: side?,
        listen: several.or_else(|| single.map(|address| vec![address]))?,
        tcp_queue_capacity: tcp_queue_capacity?,
        tcp_failfast_timeout: tcp_failfast_timeout?,
        profile_suffixes: suffixes.unwrap_or_default(),
        profile_networks: networks.unwrap_or_default(),
        hide_informational_headers: hide.unwrap_or(ingress_mode),
        hostname_labels: hostname_labels?,
        tls_resumption: tls_resumption?,
        ingress_mode,
        dials_loopback: false,
    })
}

fn side(reader: &mut Reader<'_>, names: &SideNames) -> Option<Side> {
    let detect_timeout = reader.read(names.detect_timeout, value::duration);
    let connect_timeout = reader.read(names.connect_timeout, value::duration);
    let connect_backoff = backoff(reader, names.backoff);
    let accept = connection_options(reader, names.accept);
    let connect = connection_options(reader, names.connect);
    let backlog = reader.read(names.backlog, value::count);
    let queue_capacity = reader.read(names.queue[0], value::count);
    let failfast_timeout = reader.read(names.queue[1], value::duration);
    let in_flight_max = reader.read(names.in_flight, value::count);
    let idle_connections_max = reader.read(names.pool[0], value::count);
    let pool_idle_timeout = reader.read(names.pool[1], value::duration);
    let discovery_idle_timeout = reader.read(names.discovery_idle, value::duration);
    let http1_head_timeout = reader.read(names.head_timeout, value::duration);
    let http2_server = http2_server(reader, names);
    let initial_stream_window = reader.read(table::HTTP2_INITIAL_STREAM_WINDOW_SIZE, bytes);
    let initial_connection_window = reader.read(table::HTTP2_INITIAL_CONNECTION_WINDOW_SIZE, bytes);
    Some(Side {
        detect_timeout: detect_timeout?,
        connect_timeout: connect_timeout?,
        connect_backoff: connect_backoff?,
        accept,
        connect,
        backlog: backlog.map(|backlog| i32::try_from(backlog).unwrap_or(i32::MAX)),
        queue_capacity: queue_capacity?,
        failfast_timeout: failfast_timeout?,
        in_flight_max: in_flight_max?,
        idle_connections_max: idle_connections_max?,
        pool_idle_timeout: pool_idle_timeout?,
        discovery_idle_timeout: discovery_idle_timeout?,
        http1_head_timeout: http1_head_timeout?,
        http2_server,
        http2_client: Http2Client {
            initial_stream_window: initial_stream_window?,
            initial_connection_window: initial_connection_window?,
        },
    })
}

fn http2_server(reader: &mut Reader<'_>, names: &SideNames) -> Http2Server {
    let windows = names.windows.map(|name| reader.read(name, bytes));
    let keep_alive = names.keep_alive.map(|name| reader.read(name, value::duration));
    Http2Server {
        windows: windows[0].zip(windows[1]),
        adaptive_flow_control: reader.read(names.adaptive, value::boolean).unwrap_or(false),
        keep_alive: keep_alive[0].zip(keep_alive[1]),
        max_concurrent_streams: reader.read(names.streams, bytes),
        max_frame_size: reader.read(names.frame, bytes),
        max_header_list_size: reader.read(names.headers, bytes),
        max_pending_accept_reset_streams: reader.read(names.resets, bytes),
        max_send_buf_size: reader.read(names.send_buffer, bytes),
    }
}

fn connection_options(reader: &mut Reader<'_>, names: [&str; 2]) -> ConnectionOptions {
    ConnectionOptions {
        nodelay: true,
        keepalive: reader.read(names[0], value::duration),
        user_timeout: reader.read(names[1], value::duration),
    }
}

fn backoff(
    reader: &mut Reader<'_>,
    [min_name, max_name, jitter_name]: [&str; 3],
) -> Option<Backoff> {
    if reader.raw(min_name).is_some() != reader.raw(max_name).is_some() {
        reader.conflict(min_name, format!("needs {max_name} too, and the other way round"));
    }
    let min = reader.read(min_name, value::duration);
    let max = reader.read(max_name, value::duration);
    let jitter = reader.read(jitter_name, value::ratio);
    match Backoff::new(min?, max?, jitter? as f32) {
        Ok(backoff) => Some(backoff),
        Err(invalid) => {
            reader.conflict(min_name, invalid.to_string());
            None
        }
    }
}

fn service(reader: &mut Reader<'_>, address_name: &str, identity_name: &str) -> Option<Service> {
    let address = reader.read(address_name, value::address);
    let name = reader.read(identity_name, workload_id);
    let address = address?;
    if address.is_loopback() {
        return Some(Service { address, identity: None });
    }
    if name.is_none() && reader.raw(identity_name).is_none() {
        reader
            .conflict(identity_name, format!("is needed, because {address_name} is not loopback"));
    }
    Some(Service { address, identity: Some(name?) })
}

fn identity(reader: &mut Reader<'_>) -> Option<Identity> {
    if reader.raw(table::IDENTITY_DISABLED).is_some() {
        reader.conflict(table::IDENTITY_DISABLED, "a proxy without an identity is not possible");
    }
    let trust_anchors = reader.read(table::IDENTITY_TRUST_ANCHORS, value::text);
    let local_name = reader.read(table::IDENTITY_LOCAL_NAME, workload_id);
    let server_id = reader.read(table::IDENTITY_SERVER_ID, workload_id);
    let server_name = reader.read(table::IDENTITY_SERVER_NAME, value::text);
    for name in [table::IDENTITY_SPIRE_WORKLOAD_API_ADDRESS, table::IDENTITY_SPIRE_SOCKET] {
        if reader.raw(name).is_some() {
            reader.conflict(name, "an identity from a SPIRE agent is not supported yet");
        }
    }
    let service = required_service(reader);
    let token_file = reader.read(table::IDENTITY_TOKEN_FILE, value::text);
    if token_file.is_none() {
        reader.conflict(table::IDENTITY_TOKEN_FILE, "is needed");
    }
    let directory = reader.read(table::IDENTITY_DIR, value::text);
    let refresh_min = reader.read(table::IDENTITY_MIN_REFRESH, value::duration);
    let refresh_max = reader.read(table::IDENTITY_MAX_REFRESH, value::duration);
    let (local, server_name) = match (local_name, server_id, server_name) {
        (Some(local), _, _) => (local.clone(), local.as_str().to_owned()),
        (None, Some(id), Some(name)) => (id, name.trim_end_matches('.').to_ascii_lowercase()),
        (None, _, _) => {
            if reader.raw(table::IDENTITY_LOCAL_NAME).is_none() {
                let why = "is needed, unless server id and server name are both given";
                reader.conflict(table::IDENTITY_LOCAL_NAME, why);
            }
            return None;
        }
    };
    Some(Identity {
        trust_anchors: trust_anchors?.into(),
        local,
        server_name: server_name.into(),
        service: service?,
        directory: directory.map(Into::into),
        token_file: token_file?.into(),
        refresh_min: refresh_min?,
        refresh_max: refresh_max?,
    })
}

fn required_service(reader: &mut Reader<'_>) -> Option<Service> {
    if reader.raw(table::IDENTITY_SVC_ADDR).is_none() {
        reader.conflict(table::IDENTITY_SVC_ADDR, "is needed");
        return None;
    }
    service(reader, table::IDENTITY_SVC_ADDR, table::IDENTITY_SVC_NAME)
}

fn stream_limits(reader: &mut Reader<'_>) -> StreamLimits {
    let limits = StreamLimits {
        initial_timeout: reader.read(table::CONTROL_STREAM_INITIAL_TIMEOUT, value::duration),
        idle_timeout: reader.read(table::CONTROL_STREAM_IDLE_TIMEOUT, value::duration),
        lifetime: reader.read(table::CONTROL_STREAM_LIFETIME, value::duration),
    };
    let exceeds = |shorter: Option<Duration>, longer: Option<Duration>| matches!((shorter, longer), (Some(shorter), Some(longer)) if shorter > longer);
    if exceeds(limits.initial_timeout, limits.idle_timeout)
        || exceeds(limits.idle_timeout, limits.lifetime)
        || exceeds(limits.initial_timeout, limits.lifetime)
    {
        let why = "must be at most CONTROL_STREAM_IDLE_TIMEOUT, and that at most \
                   CONTROL_STREAM_LIFETIME";
        reader.conflict(table::CONTROL_STREAM_INITIAL_TIMEOUT, why);
    }
    limits
}

fn tap(reader: &mut Reader<'_>) -> Option<Tap> {
    let listen: Option<SocketAddr> = reader.read(table::CONTROL_LISTEN_ADDR, value::socket_address);
    let client = reader.read(table::TAP_SVC_NAME, workload_id);
    Some(Tap { listen: listen?, client: client? })
}

fn traces(reader: &mut Reader<'_>) -> Option<Traces> {
    // Empty counts as absent.
    reader.raw(table::TRACE_COLLECTOR_SVC_ADDR)?;
    let collector =
        service(reader, table::TRACE_COLLECTOR_SVC_ADDR, table::TRACE_COLLECTOR_SVC_NAME);
    let service_name = reader.read(table::TRACE_SERVICE_NAME, value::text);
    let attributes_path = reader.read(table::TRACE_ATTRIBUTES_PATH, value::text);
    let extra_attributes = reader.read(table::TRACE_EXTRA_ATTRIBUTES, value::text);
    Some(Traces {
        collector: collector?,
        service_name: service_name.unwrap_or_else(|| "linkerd-proxy".to_owned()),
        hostname: reader.raw("HOSTNAME").map(ToOwned::to_owned),
        attributes_path: attributes_path.map(Into::into),
        extra_attributes: extra_attributes.unwrap_or_default(),
        otel_attributes: reader.raw("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().to_owned(),
    })
}

/// At least the minimum, at most the maximum or its share of the cores, never more than there are; without any
/// setting one, as linkerd2-proxy does.
fn workers(reader: &mut Reader<'_>, cores: usize) -> usize {
    let min = reader.read(table::CORES_MIN, value::count);
    let min = min.or_else(|| reader.read(table::CORES, value::count)).unwrap_or(1).max(1);
    let max = reader.read(table::CORES_MAX, value::count);
    let share = reader.read(table::CORES_MAX_RATIO, value::ratio);
    let share = share.map(|share| (cores as f64 * share).round() as usize);
    max.or(share).unwrap_or(1).max(min).min(cores.max(1)).max(1)
}

fn workload_id(text: &str) -> Result<WorkloadId, BadValue> {
    text.parse().map_err(|_| BadValue { expected: "a DNS name or a URI", got: text.to_owned() })
}

fn bytes(text: &str) -> Result<u32, BadValue> {
    let count = value::count(text)?;
    u32::try_from(count)
        .map_err(|_| BadValue { expected: "a number below 4294967296", got: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let base = [
            (table::DESTINATION_SVC_ADDR, "linkerd-dst-headless.linkerd.svc.cluster.local.:8086"),
            (
                table::DESTINATION_SVC_NAME,
                "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local",
            ),
            (table::POLICY_SVC_ADDR, "localhost.:8090"),
            (table::POLICY_WORKLOAD, r#"{"ns":"default","pod":"web-0"}"#),
            (table::IDENTITY_TRUST_ANCHORS, "-----BEGIN CERTIFICATE-----"),
            (
                table::IDENTITY_LOCAL_NAME,
                "web.default.serviceaccount.identity.linkerd.cluster.local",
            ),
            (table::IDENTITY_SVC_ADDR, "127.0.0.1:8080"),
            (table::IDENTITY_TOKEN_FILE, "/token"),
        ];
        let changed = base
            .iter()
            .chain(changes)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        changed.collect()
    }

    #[test]
    fn reads_what_the_injector_writes() {
        let environment = environment(&[
            (table::OUTBOUND_LISTEN_ADDRS, "127.0.0.1:4140,[::1]:4140"),
            (table::INBOUND_IPS, "10.1.2.3,::ffff:10.1.2.4"),
            (table::INBOUND_PORTS, "80,443"),
            (table::OUTBOUND_CONNECT_KEEPALIVE, "10000ms"),
            (table::OUTBOUND_DETECT_TIMEOUT, "365d"),
            (table::INBOUND_GATEWAY_SUFFIXES, "svc.cluster.local."),
            (table::INGRESS_MODE, "true"),
            ("LINKERD2_PROXY_SOMETHING_NEW", "whatever"),
        ]);
        let config = read(&environment, 4).unwrap();
        assert_eq!(config.workers, 1);
        assert_eq!(config.outbound.listen.len(), 2);
        assert!(config.inbound.ips.contains(&"10.1.2.4".parse().unwrap()));
        assert_eq!(config.outbound.side.connect.keepalive, Some(Duration::from_secs(10)));
        assert_eq!(config.outbound.side.detect_timeout, Duration::from_secs(365 * 24 * 60 * 60));
        assert!(config.destination.identity.is_some());
        assert!(config.policy.identity.is_none());
        assert!(config.inbound.gateway_suffixes.contains("web.default.svc.cluster.local"));
        assert!(config.outbound.ingress_mode && config.outbound.hide_informational_headers);
        assert_eq!(&*config.identity.server_name, config.identity.local.as_str());
    }

    #[test]
    fn reports_all_problems_at_once() {
        let environment = environment(&[
            (table::DESTINATION_SVC_NAME, ""),
            (table::INBOUND_CONNECT_TIMEOUT, "soon"),
            (table::INBOUND_DEFAULT_POLICY, "everybody"),
            (table::OUTBOUND_CONNECT_EXP_BACKOFF_MIN, "2m"),
            (table::CONTROL_STREAM_INITIAL_TIMEOUT, "10s"),
            (table::CONTROL_STREAM_LIFETIME, "3s"),
            (table::IDENTITY_DISABLED, "yes"),
            (table::IDENTITY_TOKEN_FILE, ""),
        ]);
        let Problems(problems) = read(&environment, 4).unwrap_err();
        let text = Problems(problems.clone()).to_string();
        for name in [
            table::DESTINATION_SVC_NAME,
            table::INBOUND_CONNECT_TIMEOUT,
            table::INBOUND_DEFAULT_POLICY,
            table::OUTBOUND_CONNECT_EXP_BACKOFF_MIN,
            table::CONTROL_STREAM_INITIAL_TIMEOUT,
            table::IDENTITY_DISABLED,
            table::IDENTITY_TOKEN_FILE,
        ] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }

    #[test]
    fn chooses_the_number_of_workers() {
        for (changes, cores, expect) in [
            (&[][..], 8, 1),
            (&[(table::CORES, "2")][..], 8, 2),
            (&[(table::CORES_MAX, "3")][..], 8, 3),
            (&[(table::CORES_MAX, "16")][..], 8, 8),
            (&[(table::CORES_MAX_RATIO, "0.5")][..], 8, 4),
            (&[(table::CORES_MIN, "6"), (table::CORES_MAX_RATIO, "0.1")][..], 8, 6),
            (&[(table::CORES_MIN, "6")][..], 2, 2),
        ] {
            assert_eq!(read(&environment(changes), cores).unwrap().workers, expect, "{changes:?}");
        }
    }
}
