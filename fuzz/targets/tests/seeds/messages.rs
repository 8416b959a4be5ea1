//! Messages of the control plane and the proxy, with as much in them as fits a small file.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_model::backoff::Backoff;
use hauberk_model::cors::{Cors, OriginPattern};
use hauberk_model::endpoints::{
    Endpoint, EndpointTls, Http2Params, KeepAlive, Labels, ProtocolHint,
};
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::filter::{
    Delay, HeaderEdits, HttpFilter, InjectHttpFailure, Mirror, PathRewrite, Ratio, Redirect,
    TcpFilter, UrlRewrite,
};
use hauberk_model::inbound::{
    Authentication, Authorization, HttpRoute, HttpServer, InboundProtocol,
};
use hauberk_model::name::ServiceName;
use hauberk_model::outbound::{self, Backend, BackendTarget, Distribution, RouteBackend};
use hauberk_model::profile::{
    ProfileRoute, RequestMatch, ResponseClass, ResponseMatch, WeightedTarget,
};
use hauberk_model::rate_limit::{RateLimit, RateLimitOverride};
use hauberk_model::retry::{HttpConditions, Retry, RetryBudget};
use hauberk_model::route::http::{HeaderMatch, HttpMatch, PathMatch, QueryMatch};
use hauberk_model::route::{HostMatch, Route, Rule};
use hauberk_model::tap::{Tap, TapMatch, TextMatch};
use hauberk_model::timeout::Timeouts;
use hauberk_model::workload_id::IdentityMatch;
use hauberk_model::{
    Authority, InboundPolicy, Meta, Network, OutboundPolicy, Pattern, Port, Profile, WorkloadId,
};
use hauberk_wire::{destination, identity, inbound, profile, tap};
use http::{HeaderName, HeaderValue, Method, StatusCode, uri::Scheme};
use prost::Message;

pub(crate) fn write_all() {
    let write = |name: &str, kind: u8, message: Vec<u8>| {
        super::write("wire", name, &[&[kind], message.as_slice()].concat());
    };
    let labels = Arc::new(labels());
    let add = destination::Update::Add { labels, endpoints: vec![Arc::new(endpoint())] };
    let remove = destination::Update::Remove(vec!["[fd42::7]:8080".parse().expect("an address")]);
    write("update_add", 0, destination::to_wire(&add).encode_to_vec());
    write("update_remove", 0, destination::to_wire(&remove).encode_to_vec());
    write("profile", 1, profile::to_wire(&any_profile()).encode_to_vec());
    let request =
        identity::Request { identity: web(), token: b"token".to_vec(), csr: b"request".to_vec() };
    write("certify_request", 2, identity::request_to_wire(&request).encode_to_vec());
    let certified = identity::Certified {
        leaf: b"leaf".to_vec(),
        intermediates: vec![b"issuer".to_vec()],
        valid_until: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
    };
    write("certify_response", 3, identity::to_wire(&certified).encode_to_vec());
    write("tap", 4, tap::to_wire(&any_tap()).encode_to_vec());
    write("inbound_policy", 5, inbound::to_wire(&inbound_policy()).encode_to_vec());
    for (name, filters) in [
        ("outbound_policy", Vec::new()),
        // What the wire says in the words of other filters.
        ("outbound_policy_mirror", vec![mirror(), HttpFilter::Delay(delay())]),
        ("outbound_policy_cors", vec![HttpFilter::Cors(Arc::new(cors())), rewrite()]),
    ] {
        let policy = hauberk_wire::outbound::to_wire(&outbound_policy(filters));
        write(name, 6, policy.encode_to_vec());
    }
    for (name, target) in [
        ("traffic_spec_name", hauberk_wire::outbound::Target::Authority(authority())),
        ("traffic_spec_address", hauberk_wire::outbound::Target::Address(endpoint().address)),
    ] {
        write(name, 7, hauberk_wire::outbound::request("ns:pod", &target).encode_to_vec());
    }
}

fn web() -> WorkloadId {
    WorkloadId::service_account("web", "ns", "linkerd", "cluster.local")
}

fn port(number: u16) -> Port {
    Port::new(number).expect("not zero")
}

fn authority() -> Authority {
    Authority::new("web.ns.svc.cluster.local", port(80))
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).expect("it was written here")
}

fn meta() -> Meta {
    Meta::service("ns", "web", Some(port(80)))
}

fn labels() -> Labels {
    [("namespace".into(), "ns".into()), ("zone".into(), "a".into())].into_iter().collect()
}

fn endpoint() -> Endpoint {
    let keep_alive = KeepAlive {
        interval: Duration::from_secs(10),
        timeout: Duration::from_millis(2500),
        while_idle: true,
    };
    Endpoint {
        weight: 9,
        labels: labels(),
        tls: Some(EndpointTls { identity: web(), server_name: "web.ns".into() }),
        hint: ProtocolHint::Http2,
        opaque_transport: Some(port(4143)),
        authority_override: Some("web:80".into()),
        http2: Some(Http2Params { keep_alive: Some(keep_alive), ..Http2Params::default() }),
        resource: Some(meta()),
        ..Endpoint::bare("10.42.0.7:8080".parse().expect("an address"))
    }
}

fn any_profile() -> Profile {
    let condition = RequestMatch::All(vec![
        RequestMatch::Method(Method::POST),
        RequestMatch::Not(Box::new(RequestMatch::Path(pattern("/a/[^/]+")))),
    ]);
    let failure = ResponseMatch::Any(vec![ResponseMatch::Status(500..=599)]);
    let route = ProfileRoute {
        condition,
        response_classes: vec![ResponseClass { condition: failure, is_failure: true }],
        labels: Arc::new(labels()),
        is_retryable: true,
        timeout: Some(Duration::from_millis(300)),
    };
    let target = WeightedTarget { authority: authority(), weight: 3, backend: Some(meta()) };
    Profile {
        name: Some("web.ns.svc.cluster.local".into()),
        opaque: false,
        endpoint: Some(Arc::new(endpoint())),
        routes: [route].into(),
        retry_budget: Some(RetryBudget::default()),
        targets: vec![target],
        parent: Some(meta()),
        profile: Some(Meta::resource("linkerd.io", "ServiceProfile", "ns", "web")),
    }
}

fn any_tap() -> Tap {
    let net = "10.0.0.0/8".parse().expect("a network");
    let condition = TapMatch::All(vec![
        TapMatch::SourceNet(net),
        TapMatch::DestinationPorts(80..=443),
        TapMatch::Not(Box::new(TapMatch::Path(TextMatch::Prefix("/a".into())))),
        TapMatch::Any(vec![
            TapMatch::Method(Method::GET),
            TapMatch::Scheme("https".into()),
            TapMatch::DestinationLabel("zone".into(), "a".into()),
        ]),
    ]);
    Tap { limit: 100, condition, with_headers: true }
}

fn http_match() -> HttpMatch {
    let header = HeaderName::from_static("x-user");
    HttpMatch {
        path: Some(PathMatch::Prefix("/api".into())),
        headers: vec![HeaderMatch::Exact(header, HeaderValue::from_static("me"))],
        query: vec![QueryMatch::Regex("q".into(), pattern("[a-z]*"))],
        method: Some(Method::PUT),
    }
}

fn http_filters() -> Vec<HttpFilter> {
    let (name, value) = (HeaderName::from_static("x-a"), HeaderValue::from_static("1"));
    let edits =
        HeaderEdits { add: vec![(name.clone(), value)], set: Vec::new(), remove: vec![name] };
    let redirect = Redirect {
        scheme: Some(Scheme::HTTPS),
        host: Some("example.org".into()),
        path: Some(PathRewrite::Prefix("/new".into())),
        port: Some(port(443)),
        status: Some(StatusCode::MOVED_PERMANENTLY),
    };
    let failure = InjectHttpFailure {
        status: StatusCode::BAD_GATEWAY,
        message: "on purpose".into(),
        ratio: Ratio { numerator: 1, denominator: 10 },
    };
    vec![
        HttpFilter::RequestHeaders(edits),
        HttpFilter::Redirect(redirect),
        HttpFilter::InjectFailure(failure),
        HttpFilter::Invalid("unknown".into()),
    ]
}

fn hosts() -> Vec<HostMatch> {
    vec![HostMatch::parse("a.example.org"), HostMatch::parse("*.example.org")]
}

fn inbound_policy() -> InboundPolicy {
    let mut network = Network::new("10.0.0.0/8".parse().expect("a network"));
    network.except.push("10.1.0.0/16".parse().expect("a network"));
    let matches = [web().as_str(), "*.ns.serviceaccount.identity.linkerd.cluster.local"]
        .map(|text| IdentityMatch::parse(text).expect("an identity"));
    let authorizations: Arc<[_]> = [Authorization {
        meta: Meta::resource("policy.linkerd.io", "authorizationpolicy", "", "web"),
        networks: vec![network],
        authentication: Authentication::TlsAuthenticated(matches.into()),
    }]
    .into();
    let limit = RateLimit {
        meta: Meta::resource("policy.linkerd.io", "httplocalratelimitpolicy", "ns", "web"),
        total: Some(100),
        identity: Some(10),
        overrides: vec![RateLimitOverride { requests_per_second: 50, clients: vec![web()] }],
    };
    let rules = vec![Rule { matches: vec![http_match()], action: http_filters() }];
    let route = HttpRoute {
        meta: Meta::resource("gateway.networking.k8s.io", "HTTPRoute", "ns", "web"),
        authorizations: authorizations.clone(),
        route: Route { hosts: hosts(), rules },
    };
    let http = HttpServer { routes: [route].into(), rate_limit: Some(Arc::new(limit)) };
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "server", "", "web-http"),
        protocol: InboundProtocol::Detect { timeout: Duration::from_secs(10), http },
        authorizations,
    }
}

fn backoff() -> Backoff {
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(10));
    Backoff::new(min, max, 0.5).expect("in order")
}

fn mirror() -> HttpFilter {
    let ratio = Ratio { numerator: 1, denominator: 4 };
    HttpFilter::Mirror(Mirror {
        service: ServiceName::new("ns", "copies"),
        authority: authority(),
        ratio,
    })
}

fn delay() -> Delay {
    Delay { time: Duration::from_millis(1500), ratio: Ratio { numerator: 3, denominator: 10 } }
}

fn rewrite() -> HttpFilter {
    let path = Some(PathRewrite::Prefix("/new".into()));
    HttpFilter::UrlRewrite(UrlRewrite { host: Some("other.example.org".into()), path })
}

fn cors() -> Cors {
    let origins = ["https://a.example.org", "https://*.example.net:8443"];
    let name = HeaderName::from_static;
    Cors {
        origins: origins.map(|text| OriginPattern::parse(text).expect("an origin")).into(),
        credentials: true,
        methods: vec![Method::GET, Method::PUT],
        any_method: false,
        headers: vec![name("x-user")],
        any_header: false,
        exposed: vec![name("x-sum"), name("etag")],
        exposes_all: false,
        max_age: 600,
    }
}

fn outbound_policy(filters: Vec<HttpFilter>) -> OutboundPolicy {
    let backend = |target| Arc::new(Backend { meta: meta(), target, queue: Default::default() });
    let balance = backend(BackendTarget::Balance {
        authority: authority(),
        load: Default::default(),
        balancing: Arc::default(),
    });
    let forward = backend(BackendTarget::Forward(Arc::new(endpoint())));
    let http_backend = |backend| RouteBackend { filters: http_filters(), backend };
    let retry = Retry {
        max_retries: 2,
        max_request_bytes: 64 * 1024,
        conditions: HttpConditions(vec![500..=504]),
        timeout: Some(Duration::from_secs(1)),
        backoff: Some(backoff()),
    };
    let action = outbound::RuleAction {
        filters,
        backends: Distribution::Random(vec![(http_backend(balance.clone()), 7)]),
        timeouts: Timeouts { request: Some(Duration::from_secs(5)), ..Timeouts::default() },
        retry: Some(retry),
        allow_l5d_request_headers: true,
    };
    let rules = vec![Rule { matches: vec![http_match()], action }];
    let route = outbound::HttpRoute { meta: meta(), route: Route { hosts: hosts(), rules } };
    let kind = FailureAccrualKind::Consecutive { max_failures: 7, backoff: backoff() };
    let http1 = outbound::HttpPolicy {
        routes: [route].into(),
        failure_accrual: Some(FailureAccrual { kind, min_ready_endpoints: 1 }),
    };
    let opaque = outbound::OpaqueRoute {
        meta: meta(),
        filters: vec![TcpFilter::Forbidden],
        backends: Distribution::FirstAvailable(vec![RouteBackend {
            filters: vec![TcpFilter::Invalid("unknown".into())],
            backend: forward,
        }]),
    };
    let protocol = outbound::OutboundProtocol::Detect {
        timeout: Duration::from_secs(10),
        http2: outbound::HttpPolicy::default(),
        http1,
        opaque: vec![opaque],
    };
    OutboundPolicy { parent: meta(), protocol }
}
