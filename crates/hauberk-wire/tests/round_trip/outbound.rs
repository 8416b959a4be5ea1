//! Outbound policies.

use std::sync::Arc;

use hauberk_model::balancing::{Affinity, AffinityKey, Balancing, Bound, Cookie, Lifetime};
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::filter::{Delay, HttpFilter, Mirror, PathRewrite, Ratio, TcpFilter, UrlRewrite};
use hauberk_model::name::{Authority, ServiceName};
use hauberk_model::outbound::{
    Backend, BackendTarget, Distribution, GrpcPolicy, GrpcRoute, HttpPolicy, HttpRoute, Load,
    OpaqueRoute, OutboundProtocol, PeakEwma, Queue, RouteBackend, RuleAction, TlsRoute,
};
use hauberk_model::retry::{GrpcConditions, HttpConditions, Retry};
use hauberk_model::timeout::Timeouts;
use hauberk_model::{Meta, OutboundPolicy};
use hauberk_wire::{api, outbound};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::through_bytes;
use crate::vocabulary::*;

fn backend() -> impl Strategy<Value = Arc<Backend>> {
    let ewma = || {
        (duration(), duration()).prop_map(|(default_rtt, decay)| PeakEwma { default_rtt, decay })
    };
    let load = prop_oneof![
        ewma().prop_map(Load::PeakEwma),
        (ewma(), duration(), duration()).prop_map(|(ewma, penalty, max_retry_after)| {
            Load::PenaltyPeakEwma { ewma, penalty, max_retry_after }
        }),
    ];
    let target = prop_oneof![
        endpoint().prop_map(|endpoint| BackendTarget::Forward(Arc::new(endpoint))),
        (authority(), load, balancing()).prop_map(|(authority, load, balancing)| {
            BackendTarget::Balance { authority, load, balancing: Arc::new(balancing) }
        }),
        text().prop_map(BackendTarget::Invalid),
    ];
    let queue = (any::<u32>(), duration()).prop_map(|(capacity, failfast_timeout)| Queue {
        capacity: usize::try_from(capacity).expect("32 bits fit"),
        failfast_timeout,
    });
    (meta(), target, queue)
        .prop_map(|(meta, target, queue)| Arc::new(Backend { meta, target, queue }))
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![Just(Lifetime::Session), duration().prop_map(Lifetime::For)]
}

fn balancing() -> impl Strategy<Value = Balancing> {
    let key = prop_oneof![
        Just(AffinityKey::Source),
        "[a-z][a-z0-9-]{0,8}"
            .prop_map(|name| AffinityKey::Header(name.parse().expect("a header name"))),
        ("[!-:<>-~]{1,8}", of(lifetime()))
            .prop_map(|(name, given)| { AffinityKey::Cookie(Cookie { name: name.into(), given }) }),
    ];
    let bound = (100..=Bound::MAX_PERCENT)
        .prop_map(|percent| Bound::from_percent(percent).expect("within bounds"));
    let affinity = (key, of(bound), of(duration())).prop_map(|(key, bound, memory)| Affinity {
        key,
        bound,
        memory,
    });
    (of(duration()), of(affinity), of(accrual()))
        .prop_map(|(slow_start, affinity, breaker)| Balancing { slow_start, affinity, breaker })
}

fn distribution<F: std::fmt::Debug + Clone>(
    filter: impl Strategy<Value = F> + Clone,
) -> impl Strategy<Value = Distribution<F>> {
    let one = move || {
        (vec(filter.clone(), 0..2), backend())
            .prop_map(|(filters, backend)| RouteBackend { filters, backend })
    };
    prop_oneof![
        Just(Distribution::Empty),
        vec(one(), 0..2).prop_map(Distribution::FirstAvailable),
        vec((one(), any::<u32>()), 0..2).prop_map(Distribution::Random),
    ]
}

fn retry<C: std::fmt::Debug>(
    conditions: impl Strategy<Value = C>,
) -> impl Strategy<Value = Retry<C>> {
    let bytes = any::<u32>().prop_map(|bytes| usize::try_from(bytes).expect("32 bits fit"));
    (any::<u16>(), bytes, conditions, of(duration()), of(backoff())).prop_map(
        |(max_retries, max_request_bytes, conditions, timeout, backoff)| Retry {
            max_retries,
            max_request_bytes,
            conditions,
            timeout,
            backoff,
        },
    )
}

fn action<F, C>(
    filter: impl Strategy<Value = F> + Clone,
    conditions: impl Strategy<Value = C>,
) -> impl Strategy<Value = RuleAction<F, C>>
where
    F: std::fmt::Debug + Clone,
    C: std::fmt::Debug,
{
    let timeouts = (of(duration()), of(duration()), of(duration()))
        .prop_map(|(request, response, idle)| Timeouts { request, response, idle });
    let parts = (
        vec(filter.clone(), 0..2),
        distribution(filter),
        timeouts,
        of(retry(conditions)),
        any::<bool>(),
    );
    parts.prop_map(|(filters, backends, timeouts, retry, allow_l5d_request_headers)| RuleAction {
        filters,
        backends,
        timeouts,
        retry,
        allow_l5d_request_headers,
    })
}

fn accrual() -> impl Strategy<Value = FailureAccrual> {
    let unified = (any::<u32>(), 0f64..=1.0, duration(), any::<u32>(), backoff(), any::<bool>())
        .prop_map(
            |(max_consecutive, threshold, window, min_requests, backoff, honor_retry_after)| {
                FailureAccrualKind::Unified {
                    max_consecutive,
                    success_rate_threshold: threshold,
                    window,
                    min_requests,
                    backoff,
                    honor_retry_after,
                }
            },
        );
    let kind = prop_oneof![
        (any::<u32>(), backoff()).prop_map(|(max_failures, backoff)| {
            FailureAccrualKind::Consecutive { max_failures, backoff }
        }),
        unified,
    ];
    (kind, any::<u32>())
        .prop_map(|(kind, min_ready_endpoints)| FailureAccrual { kind, min_ready_endpoints })
}

fn http_policy() -> impl Strategy<Value = HttpPolicy> {
    let conditions = vec((any::<u16>(), any::<u16>()).prop_map(|(min, max)| min..=max), 0..3)
        .prop_map(HttpConditions);
    let action = action(http_filter().boxed(), conditions);
    let route =
        (meta(), route(http_match(), action)).prop_map(|(meta, route)| HttpRoute { meta, route });
    (vec(route, 0..2), of(accrual()))
        .prop_map(|(routes, failure_accrual)| HttpPolicy { routes: routes.into(), failure_accrual })
}

fn grpc_policy() -> impl Strategy<Value = GrpcPolicy> {
    let conditions = any::<[bool; 5]>().prop_map(|[a, b, c, d, e]| GrpcConditions {
        cancelled: a,
        deadline_exceeded: b,
        resource_exhausted: c,
        internal: d,
        unavailable: e,
    });
    let action = action(grpc_filter().boxed(), conditions);
    let route =
        (meta(), route(grpc_match(), action)).prop_map(|(meta, route)| GrpcRoute { meta, route });
    (vec(route, 0..2), of(accrual()))
        .prop_map(|(routes, failure_accrual)| GrpcPolicy { routes: routes.into(), failure_accrual })
}

fn tcp_filter() -> BoxedStrategy<TcpFilter> {
    prop_oneof![Just(TcpFilter::Forbidden), text().prop_map(TcpFilter::Invalid)].boxed()
}

fn opaque_route() -> impl Strategy<Value = OpaqueRoute> {
    (meta(), vec(tcp_filter(), 0..2), distribution(tcp_filter()))
        .prop_map(|(meta, filters, backends)| OpaqueRoute { meta, filters, backends })
}

fn tls_route() -> impl Strategy<Value = TlsRoute> {
    (meta(), vec(host_match(), 0..3), vec(tcp_filter(), 0..2), distribution(tcp_filter()))
        .prop_map(|(meta, snis, filters, backends)| TlsRoute { meta, snis, filters, backends })
}

fn policy() -> impl Strategy<Value = OutboundPolicy> {
    let opaque = || vec(opaque_route(), 0..2);
    let protocol = prop_oneof![
        (duration(), http_policy(), http_policy(), opaque()).prop_map(
            |(timeout, http1, http2, opaque)| OutboundProtocol::Detect {
                timeout,
                http1,
                http2,
                opaque
            }
        ),
        http_policy().prop_map(OutboundProtocol::Http1),
        http_policy().prop_map(OutboundProtocol::Http2),
        grpc_policy().prop_map(OutboundProtocol::Grpc),
        opaque().prop_map(OutboundProtocol::Opaque),
        vec(tls_route(), 0..2).prop_map(OutboundProtocol::Tls),
    ];
    (meta(), protocol).prop_map(|(parent, protocol)| OutboundPolicy { parent, protocol })
}

proptest! {
    #[test]
    fn outbound_policies_survive(policy in policy()) {
        let back = outbound::from_wire(through_bytes(outbound::to_wire(&policy)));
        prop_assert_eq!(back, Ok(policy));
    }

    #[test]
    fn outbound_questions_survive(address in address(), authority in authority(), is_name in any::<bool>()) {
        use outbound::Target;
        let target = if is_name { Target::Authority(authority) } else { Target::Address(address) };
        let asked = through_bytes(outbound::request("{}", &target));
        prop_assert_eq!(outbound::target(&asked), Ok(target));
    }
}

/// One HTTP route with this filter and nothing else, as a message.
fn with_filter(
    kind: Option<api::outbound::http_route::filter::Kind>,
) -> api::outbound::OutboundPolicy {
    let policy = OutboundPolicy {
        parent: Meta::default("test"),
        protocol: OutboundProtocol::Http1(HttpPolicy {
            routes: Arc::from([HttpRoute {
                meta: Meta::default("test"),
                route: hauberk_model::route::Route {
                    hosts: vec![],
                    rules: vec![hauberk_model::route::Rule {
                        matches: vec![],
                        action: RuleAction {
                            filters: vec![],
                            backends: Distribution::Empty,
                            timeouts: Timeouts::default(),
                            retry: None,
                            allow_l5d_request_headers: false,
                        },
                    }],
                },
            }]),
            failure_accrual: None,
        }),
    };
    let mut wire = outbound::to_wire(&policy);
    let protocol = wire.protocol.as_mut().and_then(|protocol| protocol.kind.as_mut());
    let Some(api::outbound::proxy_protocol::Kind::Http1(http)) = protocol else {
        panic!("said as HTTP/1")
    };
    let filter = api::outbound::http_route::Filter { kind };
    http.routes[0].rules[0].filters.push(filter);
    wire
}

#[test]
fn a_filter_of_an_unknown_kind_spoils_its_rule_only() {
    let policy = outbound::from_wire(with_filter(None)).expect("the policy is understood");
    let OutboundProtocol::Http1(http) = policy.protocol else { panic!("HTTP/1") };
    let filters = &http.routes[0].route.rules[0].action.filters;
    assert!(matches!(filters[..], [HttpFilter::Invalid(_)]), "{filters:?}");
}

#[test]
fn a_url_rewrite_is_a_failure_to_proxies_that_know_no_more() {
    use api::outbound::http_route::filter::Kind;
    // These words are spoken between releases (docs/decisions/0012).
    let words = "route rewrites URLs, which this proxy cannot do:";
    let check = |rest: &str, expect: Option<UrlRewrite>| {
        let injector = api::http_route::HttpFailureInjector {
            status: 500,
            message: format!("{words}{rest}"),
            ratio: None,
        };
        let wire = with_filter(Some(Kind::FailureInjector(injector)));
        let policy = outbound::from_wire(wire).expect("the policy is understood");
        let OutboundProtocol::Http1(http) = policy.protocol else { panic!("HTTP/1") };
        match (&http.routes[0].route.rules[0].action.filters[..], expect) {
            ([HttpFilter::UrlRewrite(seen)], Some(expect)) => assert_eq!(*seen, expect),
            ([HttpFilter::InjectFailure(_)], None) => {}
            other => panic!("{rest}: {other:?}"),
        }
    };
    let host = || Some("a.org".into());
    check(" host=a.org", Some(UrlRewrite { host: host(), path: None }));
    let path = Some(PathRewrite::Prefix("/a b".into()));
    check(" host=a.org prefix=/a b", Some(UrlRewrite { host: host(), path }));
    check(" full=/a", Some(UrlRewrite { host: None, path: Some(PathRewrite::Full("/a".into())) }));
    check("", Some(UrlRewrite::default()));
    for other in [" ", " host", " host=a.org ", " host=a.org query=b", "full=/a", " prefix"] {
        check(other, None);
    }
}

#[test]
fn mirrors_and_delays_are_failures_of_no_request_to_proxies_that_know_no_more() {
    use api::outbound::http_route::filter::Kind;
    // These words are spoken between releases (docs/decisions/0018).
    let mirrors = "route mirrors requests, which this proxy leaves out:";
    let delays = "route delays requests, which this proxy leaves out:";
    let check = |numerator: u32, message: String, expect: Option<HttpFilter>| {
        let ratio = Some(api::http_route::Ratio { numerator, denominator: 1 });
        let injector =
            api::http_route::HttpFailureInjector { status: 500, message: message.clone(), ratio };
        let wire = with_filter(Some(Kind::FailureInjector(injector.clone())));
        let policy = outbound::from_wire(wire).expect("the policy is understood");
        let OutboundProtocol::Http1(http) = policy.protocol.clone() else { panic!("HTTP/1") };
        match (&http.routes[0].route.rules[0].action.filters[..], expect) {
            ([seen], Some(expect)) => {
                assert_eq!(*seen, expect);
                // And they are said so: to who knows no more, as a failure that hits no request.
                let said = outbound::to_wire(&policy);
                assert_eq!(said, with_filter(Some(Kind::FailureInjector(injector))));
            }
            ([HttpFilter::InjectFailure(_)], None) => {}
            other => panic!("{message}: {other:?}"),
        }
    };
    let ratio = Ratio { numerator: 1, denominator: 4 };
    let authority = Authority::new("w.ns.svc.cluster.local", hauberk_model::Port::new(80).unwrap());
    let mirror = Mirror { service: ServiceName::new("ns", "w"), authority, ratio };
    let words = "share=1/4 service=ns/w to=w.ns.svc.cluster.local:80";
    check(0, format!("{mirrors} {words}"), Some(HttpFilter::Mirror(mirror)));
    let delay = Delay { time: std::time::Duration::from_millis(100), ratio };
    check(0, format!("{delays} share=1/4 millis=100"), Some(HttpFilter::Delay(delay)));
    // A failure that does hit requests is one.
    check(1, format!("{mirrors} {words}"), None);
    check(1, format!("{delays} share=1/4 millis=100"), None);
    for other in
        ["", " share=1/0 millis=1", " share=1/4", " share=1/4 millis=x", " share=1/4 millis=01"]
    {
        check(0, format!("{delays}{other}"), None);
    }
    for other in [
        "",
        " share=1/4 service=ns to=w:80",
        " share=1/4 service=ns/w to=w",
        " share=1/4 service=ns/w to=W:80",
    ] {
        check(0, format!("{mirrors}{other}"), None);
    }
}

#[test]
fn a_filter_that_could_not_be_understood_fails_requests() {
    use api::outbound::http_route::filter::Kind;
    let injector = api::http_route::HttpFailureInjector { status: 500, ..Default::default() };
    let policy = outbound::from_wire(with_filter(Some(Kind::FailureInjector(injector))));
    assert!(policy.is_ok());
    let nonsense = api::http_route::HttpFailureInjector { status: 7, ..Default::default() };
    let error = outbound::from_wire(with_filter(Some(Kind::FailureInjector(nonsense))));
    assert_eq!(error.expect_err("no status").field, "HttpFailureInjector.status");
}

#[test]
fn refuses_questions_that_make_no_sense() {
    use api::outbound::{TrafficSpec, traffic_spec::Target};
    let check = |target: Option<Target>, field: &str| {
        let spec = TrafficSpec { source_workload: "n:p".into(), target };
        assert_eq!(outbound::target(&spec).expect_err(field).field, field);
    };
    check(None, "TrafficSpec.target");
    check(Some(Target::Authority("web:0".into())), "TrafficSpec.authority");
    let no_ip = api::net::TcpAddress { ip: None, port: 80 };
    check(Some(Target::Addr(no_ip)), "TrafficSpec.addr");
}
