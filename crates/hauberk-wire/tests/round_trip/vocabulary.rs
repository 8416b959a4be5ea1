//! Any value of the small types that everything is made of.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::backoff::Backoff;
use hauberk_model::cors::{Cors, OriginPattern};
use hauberk_model::endpoints::{EndpointTls, Http2Params, KeepAlive, Labels, ProtocolHint};
use hauberk_model::filter::{
    Delay, GrpcFilter, HeaderEdits, HttpFilter, InjectGrpcFailure, InjectHttpFailure, Mirror,
    PathRewrite, Ratio, Redirect, UrlRewrite,
};
use hauberk_model::meta::ResourceMeta;
use hauberk_model::name::{Authority, ServiceName};
use hauberk_model::route::grpc::GrpcMatch;
use hauberk_model::route::http::{HeaderMatch, HttpMatch, PathMatch, QueryMatch};
use hauberk_model::route::{HostMatch, Route, Rule};
use hauberk_model::{Endpoint, Meta, Pattern, Port, WorkloadId};
use http::{HeaderName, HeaderValue, Method, StatusCode, uri::Scheme};
use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

pub(crate) fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zA-Z0-9ü/ .-]{1,12}".prop_map(Into::into)
}

pub(crate) fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(), text(), 0..4)
}

pub(crate) fn port() -> impl Strategy<Value = Port> {
    (1u16..).prop_map(|port| Port::new(port).expect("not zero"))
}

pub(crate) fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from),]
}

pub(crate) fn address() -> impl Strategy<Value = SocketAddr> {
    (ip(), port()).prop_map(|(ip, port)| SocketAddr::new(ip, port.get()))
}

pub(crate) fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0u8..=32).prop_map(|(ip, prefix)| IpNet::new(ip, prefix).expect("fits both families"))
}

pub(crate) fn duration() -> impl Strategy<Value = Duration> {
    (0u64..1 << 40, 0u32..1_000_000_000).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn host() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}"
}

pub(crate) fn authority() -> impl Strategy<Value = Authority> {
    let host = prop_oneof![host(), any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_string())];
    (host, port()).prop_map(|(host, port)| Authority::new(&host, port))
}

pub(crate) fn workload_id() -> impl Strategy<Value = WorkloadId> {
    prop_oneof![host(), host().prop_map(|host| format!("spiffe://{host}/ns/a/sa/b"))]
        .prop_map(|text| text.parse().expect("an identity"))
}

pub(crate) fn meta() -> impl Strategy<Value = Meta> {
    let resource = (text(), text(), text(), text(), text(), of(port()));
    prop_oneof![
        text().prop_map(Meta::Default),
        resource.prop_map(|(group, kind, namespace, name, section, port)| {
            Meta::Resource(Arc::new(ResourceMeta { group, kind, namespace, name, section, port }))
        }),
    ]
}

pub(crate) fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![Just("/a.*"), Just("a|b"), Just("[^/]+"), Just("")]
        .prop_map(|source| Pattern::new(source).expect("valid"))
}

pub(crate) fn method() -> impl Strategy<Value = Method> {
    prop_oneof![Just("GET"), Just("POST"), Just("CONNECT"), Just("TRACE"), Just("PURGE")]
        .prop_map(|name| name.parse().expect("a method"))
}

pub(crate) fn backoff() -> impl Strategy<Value = Backoff> {
    (duration(), duration(), 0f32..=100.0).prop_map(|(a, b, jitter)| {
        let max = a.max(b).max(Duration::from_nanos(1));
        Backoff::new(a.min(b), max, jitter).expect("ordered")
    })
}

pub(crate) fn endpoint() -> impl Strategy<Value = Endpoint> {
    let tls = (workload_id(), host())
        .prop_map(|(identity, name)| EndpointTls { identity, server_name: name.into() });
    let hint = prop_oneof![
        Just(ProtocolHint::Unknown),
        Just(ProtocolHint::Http2),
        Just(ProtocolHint::Opaque)
    ];
    let parts = (
        address(),
        any::<u32>(),
        labels(),
        of(tls),
        hint,
        of(port()),
        of(text()),
        of(http2()),
        of(meta()),
    );
    parts.prop_map(
        |(
            address,
            weight,
            labels,
            tls,
            hint,
            opaque_transport,
            authority_override,
            http2,
            resource,
        )| {
            Endpoint {
                address,
                weight,
                labels,
                tls,
                hint,
                opaque_transport,
                authority_override,
                http2,
                resource,
            }
        },
    )
}

fn http2() -> impl Strategy<Value = Http2Params> {
    let size = || of(1u32..);
    let keep_alive = (duration(), duration(), any::<bool>())
        .prop_map(|(interval, timeout, while_idle)| KeepAlive { interval, timeout, while_idle });
    (size(), size(), any::<bool>(), of(keep_alive), size(), size(), size()).prop_map(
        |(connection, stream, adaptive_flow_control, keep_alive, resets, frame, buffer)| {
            Http2Params {
                initial_connection_window: connection,
                initial_stream_window: stream,
                adaptive_flow_control,
                keep_alive,
                max_concurrent_reset_streams: resets,
                max_frame_size: frame,
                max_send_buf_size: buffer,
            }
        },
    )
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,10}".prop_map(|name| name.parse().expect("a header name"))
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    vec(prop_oneof![0x20u8..0x7f, 0x80u8..], 0..10)
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).expect("a header value"))
}

fn header_edits() -> impl Strategy<Value = HeaderEdits> {
    let pairs = || vec((header_name(), header_value()), 0..3);
    (pairs(), pairs(), vec(header_name(), 0..3)).prop_map(|(add, set, remove)| HeaderEdits {
        add,
        set,
        remove,
    })
}

fn status() -> impl Strategy<Value = StatusCode> {
    (100u16..1000).prop_map(|status| StatusCode::from_u16(status).expect("in range"))
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (any::<u32>(), 1u32..).prop_map(|(numerator, denominator)| Ratio { numerator, denominator })
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![text().prop_map(PathRewrite::Full), text().prop_map(PathRewrite::Prefix)]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = prop_oneof![Just(Scheme::HTTP), Just(Scheme::HTTPS)];
    (of(scheme), of(text()), of(path_rewrite()), of(port()), of(status())).prop_map(
        |(scheme, host, path, port, status)| Redirect { scheme, host, path, port, status },
    )
}

fn url_rewrite() -> impl Strategy<Value = UrlRewrite> {
    (of(host().prop_map(Into::into)), of(path_rewrite()))
        .prop_map(|(host, path)| UrlRewrite { host, path })
}

fn mirror() -> impl Strategy<Value = Mirror> {
    let name = || "[a-z0-9-]{1,12}";
    (name(), name(), authority(), ratio()).prop_map(|(namespace, name, authority, ratio)| Mirror {
        service: ServiceName::new(&*namespace, name),
        authority,
        ratio,
    })
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = prop_oneof![
        Just("*".to_owned()),
        (host(), of(port())).prop_map(|(host, port)| {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            format!("https://*.{host}{port}")
        }),
    ];
    let origin = origin.prop_map(|text| OriginPattern::parse(&text).expect("an origin"));
    let names = || (any::<bool>(), vec(header_name(), 0..3));
    let methods = (any::<bool>(), vec(method(), 0..3));
    (vec(origin, 0..3), any::<bool>(), methods, names(), names(), any::<u32>()).prop_map(
        |(origins, credentials, methods, headers, exposed, max_age)| Cors {
            origins,
            credentials,
            any_method: methods.0,
            methods: methods.1,
            any_header: headers.0,
            headers: headers.1,
            exposes_all: exposed.0,
            exposed: exposed.1,
            max_age,
        },
    )
}

fn delay() -> impl Strategy<Value = Delay> {
    (any::<u32>(), ratio())
        .prop_map(|(millis, ratio)| Delay { time: Duration::from_millis(millis.into()), ratio })
}

pub(crate) fn inbound_http_filter() -> impl Strategy<Value = HttpFilter> {
    let failure = (status(), text(), ratio())
        .prop_map(|(status, message, ratio)| InjectHttpFailure { status, message, ratio });
    prop_oneof![
        failure.prop_map(HttpFilter::InjectFailure),
        redirect().prop_map(HttpFilter::Redirect),
        header_edits().prop_map(HttpFilter::RequestHeaders),
    ]
}

pub(crate) fn http_filter() -> impl Strategy<Value = HttpFilter> {
    prop_oneof![
        inbound_http_filter(),
        header_edits().prop_map(HttpFilter::ResponseHeaders),
        url_rewrite().prop_map(HttpFilter::UrlRewrite),
        mirror().prop_map(HttpFilter::Mirror),
        delay().prop_map(HttpFilter::Delay),
        cors().prop_map(|cors| HttpFilter::Cors(Arc::new(cors))),
    ]
}

pub(crate) fn inbound_grpc_filter() -> impl Strategy<Value = GrpcFilter> {
    let failure = (1u16..=16, text(), ratio())
        .prop_map(|(code, message, ratio)| InjectGrpcFailure { code, message, ratio });
    prop_oneof![
        failure.prop_map(GrpcFilter::InjectFailure),
        header_edits().prop_map(GrpcFilter::RequestHeaders),
    ]
}

pub(crate) fn grpc_filter() -> impl Strategy<Value = GrpcFilter> {
    prop_oneof![
        inbound_grpc_filter(),
        mirror().prop_map(GrpcFilter::Mirror),
        delay().prop_map(GrpcFilter::Delay),
    ]
}

pub(crate) fn host_match() -> impl Strategy<Value = HostMatch> {
    (host(), any::<bool>()).prop_map(|(host, is_suffix)| match is_suffix {
        true => HostMatch::Suffix(format!(".{host}").into()),
        false => HostMatch::Exact(host.into()),
    })
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    prop_oneof![
        (header_name(), header_value()).prop_map(|(name, value)| HeaderMatch::Exact(name, value)),
        (header_name(), pattern()).prop_map(|(name, pattern)| HeaderMatch::Regex(name, pattern)),
    ]
}

pub(crate) fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex),
    ];
    let query = prop_oneof![
        (text(), text()).prop_map(|(name, value)| QueryMatch::Exact(name, value)),
        (text(), pattern()).prop_map(|(name, pattern)| QueryMatch::Regex(name, pattern)),
    ];
    (of(path), vec(header_match(), 0..3), vec(query, 0..3), of(method()))
        .prop_map(|(path, headers, query, method)| HttpMatch { path, headers, query, method })
}

pub(crate) fn grpc_match() -> impl Strategy<Value = GrpcMatch> {
    (of(text()), of(text()), vec(header_match(), 0..3))
        .prop_map(|(service, method, headers)| GrpcMatch { service, method, headers })
}

pub(crate) fn route<M, R>(
    matches: impl Strategy<Value = M>,
    action: impl Strategy<Value = R>,
) -> impl Strategy<Value = Route<M, R>>
where
    M: std::fmt::Debug,
    R: std::fmt::Debug,
{
    let rule = (vec(matches, 0..3), action).prop_map(|(matches, action)| Rule { matches, action });
    (vec(host_match(), 0..3), vec(rule, 0..3)).prop_map(|(hosts, rules)| Route { hosts, rules })
}
