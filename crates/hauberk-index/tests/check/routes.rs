//! Routes: which of them count, and what becomes of their parts on each side.

use crate::world::{PodText, SERVICE, ask, check, check_with, index, meshed};
use hauberk_index::ClusterConfig;

const BY_IP: &str = "outbound 10.96.0.1:80";
const TO_WEB: &str = "to web.ns.svc.cluster.local:80 (Service ns/web:80)";
const OPAQ: &str = "opaque opaq
    to web.ns.svc.cluster.local:80 (Service ns/web:80)";

/// A route of a kind, on port 80 of service `web` unless the spec says otherwise.
fn route(api: &str, kind: &str, name: &str, metadata: &str, spec: &str) -> String {
    let parents = if spec.contains("parentRefs") {
        String::new()
    } else {
        "parentRefs: [{group: core, kind: Service, name: web, port: 80}],".to_owned()
    };
    format!(
        "---
apiVersion: {api}
kind: {kind}
metadata: {{name: {name}, namespace: ns{metadata}}}
spec: {{{parents} {spec}}}
"
    )
}

fn http(name: &str, spec: &str) -> String {
    route("gateway.networking.k8s.io/v1", "HTTPRoute", name, "", spec)
}

fn annotated(annotations: &str, spec: &str) -> String {
    let metadata = format!(", annotations: {annotations}");
    route("gateway.networking.k8s.io/v1", "HTTPRoute", "r", &metadata, spec)
}

fn detected(routes: &str) -> String {
    format!("Service ns/web:80: detect 10s\n{routes}\n{OPAQ}")
}

const DEFAULT: &str = "http http []
    to web.ns.svc.cluster.local:80 (Service ns/web:80)";

fn to_itself(name: &str) -> String {
    format!("http HTTPRoute ns/{name} []\n/*\n{TO_WEB}")
}

#[test]
fn a_route_without_backends_leads_to_its_parent() {
    let yaml = SERVICE.to_owned() + &http("r", "rules: [{}]");
    check(&yaml, BY_IP, &detected(&to_itself("r")));
    check(&yaml, "outbound web.ns.svc.cluster.local:80", &detected(&to_itself("r")));
}

#[test]
fn routes_of_linkerds_own_group_count_too() {
    let own = route("policy.linkerd.io/v1beta3", "HTTPRoute", "r", "", "rules: [{}]");
    check(&(SERVICE.to_owned() + &own), BY_IP, &detected(&to_itself("r")));
}

#[test]
fn matches_filters_and_weights_are_understood() {
    let spec = "hostnames: [web.example, '*.example'], rules: [{matches: [{path: {type: Exact, value: /a}, method: GET}, \
        {path: {value: /b}, headers: [{name: x-y, value: '1'}], queryParams: [{type: RegularExpression, name: q, value: 'a+'}]}, {path: {type: RegularExpression, value: '/c.*'}}], \
        filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}], \
        backendRefs: [{name: web, port: 80, weight: 9}, {name: web, port: 80}]}]";
    check(
        &(SERVICE.to_owned() + &http("r", spec)),
        BY_IP,
        &detected(&format!(
            "http HTTPRoute ns/r [Exact(\"web.example\"), Suffix(\".example\")]
             GET /a | /b* Exact(\"x-y\", \"1\") Regex(\"q\", Pattern(\"a+\")) | ~/c.*
             9 {TO_WEB}
             1 {TO_WEB}
             RequestHeaders(HeaderEdits {{ add: [], set: [(\"a\", \"b\")], remove: [\"c\"] }})"
        )),
    );
}

#[test]
fn a_match_without_a_path_is_for_every_path() {
    let spec = "rules: [{matches: [{headers: [{name: a, value: b}]}, {method: GET}]}, {}]";
    check(
        &(SERVICE.to_owned() + &http("r", spec)),
        BY_IP,
        &detected(&format!(
            "http HTTPRoute ns/r []\n/* Exact(\"a\", \"b\") | GET /*\n{TO_WEB}\n/*\n{TO_WEB}"
        )),
    );
}

#[test]
fn urls_are_rewritten_towards_services_only() {
    let rewrite = |parts: &str| {
        format!("rules: [{{filters: [{{type: URLRewrite, urlRewrite: {{{parts}}}}}]}}]")
    };
    let path = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    check(
        &(SERVICE.to_owned() + &http("r", &rewrite(&format!("hostname: a.org, {path}")))),
        BY_IP,
        &detected(&format!(
            "{}\nUrlRewrite(UrlRewrite {{ host: Some(\"a.org\"), path: Some(Prefix(\"/new\")) }})",
            to_itself("r")
        )),
    );
    let unusable =
        ["hostname: 'a.org:80'", "path: {type: ReplaceFullPath, replaceFullPath: no-slash}"];
    for bad in unusable.map(rewrite) {
        check(&(SERVICE.to_owned() + &http("r", &bad)), BY_IP, &detected(DEFAULT));
    }
}

#[test]
fn a_route_with_a_part_that_cannot_be_used_is_left_out_alone() {
    let good = http("good", "rules: [{}]");
    for bad in [
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, percent: 101}}]}]",
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, percent: 1, fraction: {numerator: 1}}}]}]",
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 0}}}]}]",
        "rules: [{filters: [{type: CORS, cors: {allowOrigins: [example.org]}}]}]",
        "rules: [{filters: [{type: CORS, cors: {allowMethods: ['G T']}}]}]",
        "rules: [{filters: [{type: CORS, cors: {allowHeaders: ['a b']}}]}]",
        "rules: [{matches: [{path: {type: Exact, value: no-slash}}]}]",
        "rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]",
        "rules: [{matches: [{headers: [{name: 'a b', value: c}]}]}]",
        "rules: [{timeouts: {request: 1.5s}}]",
    ] {
        let yaml = SERVICE.to_owned() + &good + &http("bad", bad);
        check(&yaml, BY_IP, &detected(&to_itself("good")));
        check(&(SERVICE.to_owned() + &http("bad", bad)), BY_IP, &detected(DEFAULT));
    }
}

#[test]
fn a_backend_that_cannot_be_used_fails_its_share_of_requests() {
    let check = |backend: &str, expect: &str| {
        let spec = format!("rules: [{{backendRefs: [{{name: web, port: 80}}, {{{backend}}}]}}]");
        check(
            &(SERVICE.to_owned() + &http("r", &spec)),
            BY_IP,
            &detected(&format!("http HTTPRoute ns/r []\n/*\n1 {TO_WEB}\n{expect}")),
        );
    };
    check("name: gone, port: 80", "1 to invalid: Service not found gone (default invalid gone)");
    check("name: web", "1 to invalid: a service as backend needs a port (default invalid web)");
    check(
        "kind: Gateway, name: g",
        "1 to invalid: a backend cannot be of kind Gateway (default invalid g)",
    );
    check(
        "group: policy.linkerd.io, kind: EgressNetwork, name: e, port: 1",
        "1 to invalid: an egress network can only be a backend of its own routes (default invalid e)",
    );
    check(
        "name: web, port: 80, filters: [{type: ExtensionRef}]",
        "1 to invalid: a filter of this type is not supported (default invalid web)",
    );
}

#[test]
fn requests_are_mirrored_by_rules_and_by_backends() {
    let mirror = |share: &str| {
        format!(
            "type: RequestMirror, requestMirror: {{backendRef: {{name: copy, port: 81}}{share}}}"
        )
    };
    let copy = SERVICE
        .replace("name: web,", "name: copy,")
        .replace("10.96.0.1", "10.96.0.2")
        .replace("port: 80", "port: 81");
    let yaml = |spec: &str| SERVICE.to_owned() + &copy + &http("r", spec);
    let mirrored = |numerator: u32, denominator: u32| {
        format!(
            "Mirror(Mirror {{ service: ServiceName {{ namespace: Namespace(\"ns\"), name: \"copy\" }}, \
            authority: Authority {{ host: \"copy.ns.svc.cluster.local\", port: Port(81) }}, \
            ratio: Ratio {{ numerator: {numerator}, denominator: {denominator} }} }})"
        )
    };
    for (share, numerator, denominator) in [
        ("", 1, 1),
        (", percent: 42", 42, 100),
        (", fraction: {numerator: 5}", 5, 100),
        (", fraction: {numerator: 1, denominator: 1000}", 1, 1000),
        (", percent: 0", 0, 100),
    ] {
        let spec = format!("rules: [{{filters: [{{{}}}]}}]", mirror(share));
        let expect = format!("{}\n{}", to_itself("r"), mirrored(numerator, denominator));
        check(&yaml(&spec), BY_IP, &detected(&expect));
    }
    let of_backend = format!(
        "rules: [{{backendRefs: [{{name: web, port: 80, filters: [{{{}}}]}}]}}]",
        mirror(", percent: 1")
    );
    let expect = format!("http HTTPRoute ns/r []\n/*\n1 {TO_WEB} {}", mirrored(1, 100));
    check(&yaml(&of_backend), BY_IP, &detected(&expect));
    // Calls are mirrored too.
    let calls = route(
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "r",
        "",
        &format!("rules: [{{filters: [{{{}}}]}}]", mirror("")),
    );
    let got = ask(&index(&(SERVICE.to_owned() + &copy + &calls)), BY_IP);
    assert!(got.contains("Mirror(Mirror { service: ServiceName"), "{got}");
    // A mirror that leads nowhere is left out.
    let nowhere = format!("rules: [{{filters: [{{{}}}]}}]", mirror(""));
    check(&(SERVICE.to_owned() + &http("r", &nowhere)), BY_IP, &detected(&to_itself("r")));
}

#[test]
fn cors_is_for_http_towards_services() {
    let cors = "type: CORS, cors: {allowOrigins: ['https://*.Example.org', '*'], allowCredentials: true, \
        allowMethods: [GET, '*'], allowHeaders: [x-A], exposeHeaders: ['*'], maxAge: 60}";
    let rules = |filter: &str| format!("rules: [{{filters: [{{{filter}}}]}}]");
    check(
        &(SERVICE.to_owned() + &http("r", &rules(cors))),
        BY_IP,
        &detected(&format!(
            "{}\nCors(Cors {{ origins: [OriginPattern(\"https://*.example.org\"), OriginPattern(\"*\")], \
            credentials: true, methods: [GET], any_method: true, headers: [\"x-a\"], any_header: false, \
            exposed: [], exposes_all: true, max_age: 60 }})",
            to_itself("r")
        )),
    );
    let calls = route("gateway.networking.k8s.io/v1", "GRPCRoute", "r", "", &rules(cors));
    let got = ask(&index(&(SERVICE.to_owned() + &calls)), BY_IP);
    assert!(!got.contains("GRPCRoute"), "{got}");
}

#[test]
fn faults_are_injected_by_annotation() {
    let delay = |millis: u32, share: u32, of: u32| {
        format!(
            "Delay(Delay {{ time: {millis}ms, ratio: Ratio {{ numerator: {share}, denominator: {of} }} }})"
        )
    };
    let failure = |status: u16, share: u32, of: u32| {
        format!(
            "InjectFailure(InjectHttpFailure {{ status: {status}, message: \"failure injected by the route\", ratio: Ratio {{ numerator: {share}, denominator: {of} }} }})"
        )
    };
    let is = |annotations: &str, expect: &[String]| {
        let expect = format!("{}\n{}", to_itself("r"), expect.join("\n"));
        check(
            &(SERVICE.to_owned() + &annotated(annotations, "rules: [{}]")),
            BY_IP,
            &detected(&expect),
        );
    };
    is("{fault.hauberk.io/delay: 100ms}", &[delay(100, 1, 1)]);
    is("{fault.hauberk.io/failure: '503'}", &[failure(503, 1, 1)]);
    is(
        "{fault.hauberk.io/failure: 418;percent=0.5, fault.hauberk.io/delay: 1s ; percent=10}",
        &[
            "Delay(Delay { time: 1s, ratio: Ratio { numerator: 1000, denominator: 10000 } })"
                .to_owned(),
            failure(418, 50, 10_000),
        ],
    );
    for bad in [
        "{fault.hauberk.io/delay: '100'}",
        "{fault.hauberk.io/delay: '0'}",
        "{fault.hauberk.io/delay: 2m}",
        "{fault.hauberk.io/delay: 1s;percent=101}",
        "{fault.hauberk.io/delay: 1s;share=1}",
        "{fault.hauberk.io/failure: '199'}",
        "{fault.hauberk.io/failure: unavailable}",
        "{fault.hauberk.io/failure: '600'}",
    ] {
        check(&(SERVICE.to_owned() + &annotated(bad, "rules: [{}]")), BY_IP, &detected(DEFAULT));
    }
    let call = |failure: &str| {
        let metadata = format!(", annotations: {{fault.hauberk.io/failure: '{failure}'}}");
        let route =
            route("gateway.networking.k8s.io/v1", "GRPCRoute", "r", &metadata, "rules: [{}]");
        ask(&index(&(SERVICE.to_owned() + &route)), BY_IP)
    };
    for (text, code) in [("unavailable", 14), ("14", 14), ("unauthenticated;percent=1", 16)] {
        let got = call(text);
        assert!(got.contains(&format!("InjectGrpcFailure {{ code: {code},")), "{text}: {got}");
    }
    for bad in ["ok", "0", "17", "503"] {
        assert!(!call(bad).contains("GRPCRoute"), "{bad}");
    }
}

#[test]
fn where_grants_are_required_other_namespaces_have_to_agree() {
    let other =
        SERVICE.replace("namespace: ns}", "namespace: other}").replace("10.96.0.1", "10.96.0.2");
    let spec = "rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]";
    let grant = |namespace: &str, from: &str, to: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: g, namespace: {namespace}}}
spec: {{from: [{{{from}}}], to: [{{{to}}}]}}
"
        )
    };
    let strict = || ClusterConfig { requires_reference_grants: true, ..ClusterConfig::default() };
    let is = |grant: &str, backend: &str| {
        let yaml = SERVICE.to_owned() + &other + &http("r", spec) + grant;
        let expect = format!("http HTTPRoute ns/r []\n/*\n1 {backend}");
        check_with(strict(), &yaml, BY_IP, &detected(&expect));
    };
    let there = "to web.other.svc.cluster.local:80 (Service other/web:80)";
    let refused = "to invalid: no ReferenceGrant in other lets HTTPRoute of ns refer to service web (default invalid web)";
    let us = "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: ns";
    is("", refused);
    is(&grant("other", us, "group: '', kind: Service"), there);
    is(&grant("other", us, "group: '', kind: Service, name: web"), there);
    is(&grant("other", us, "group: '', kind: Service, name: db"), refused);
    is(&grant("other", us, "group: '', kind: Secret"), refused);
    is(&grant("ns", us, "group: '', kind: Service"), refused);
    for others in [
        "group: policy.linkerd.io, kind: HTTPRoute, namespace: ns",
        "group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: ns",
        "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: third",
    ] {
        is(&grant("other", others, "group: '', kind: Service"), refused);
    }
    // A consumer's route may lead where its requests would have gone anyway, and nowhere else.
    let consumer = |backend: &str| {
        http(
            "r",
            &format!(
                "parentRefs: [{{group: core, kind: Service, name: web, namespace: ns}}], \
                rules: [{{backendRefs: [{{name: {backend}, namespace: ns, port: 80}}]}}]"
            ),
        )
        .replace("namespace: ns}\nspec", "namespace: other}\nspec")
    };
    let in_other = format!("{BY_IP} in other");
    let expect = detected(&format!("http HTTPRoute other/r []\n/*\n1 {TO_WEB}"));
    check_with(strict(), &(SERVICE.to_owned() + &consumer("web")), &in_other, &expect);
    let db = SERVICE.replace("name: web,", "name: db,").replace("10.96.0.1", "10.96.0.3");
    let expect = detected(
        "http HTTPRoute other/r []\n/*\n1 to invalid: no ReferenceGrant in ns lets HTTPRoute of other refer to service db (default invalid db)",
    );
    check_with(strict(), &(SERVICE.to_owned() + &db + &consumer("db")), &in_other, &expect);
}

#[test]
fn a_route_on_a_port_that_the_service_does_not_have_counts_nowhere() {
    let spec = "parentRefs: [{group: core, kind: Service, name: web, port: 81}], rules: [{}]";
    let yaml = SERVICE.to_owned() + &http("r", spec);
    check(&yaml, BY_IP, &detected(DEFAULT));
    let elsewhere = "Service ns/web:81: detect 10s
        http http []
        to web.ns.svc.cluster.local:81 (Service ns/web:81)
        opaque opaq
        to web.ns.svc.cluster.local:81 (Service ns/web:81)";
    check(&yaml, "outbound web.ns.svc.cluster.local:81", elsewhere);
}

#[test]
fn a_backend_may_be_in_another_namespace_and_defaults_to_the_routes_own() {
    let other =
        SERVICE.replace("namespace: ns}", "namespace: other}").replace("10.96.0.1", "10.96.0.2");
    let spec = "rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]";
    let there = "1 to web.other.svc.cluster.local:80 (Service other/web:80)";
    check(
        &(SERVICE.to_owned() + &other + &http("r", spec)),
        BY_IP,
        &detected(&format!("http HTTPRoute ns/r []\n/*\n{there}")),
    );
    // A consumer's route: the service without a namespace is the consumer's own.
    let consumer = http(
        "r",
        "parentRefs: [{group: core, kind: Service, name: web, namespace: ns}], rules: [{backendRefs: [{name: web, port: 80}]}]",
    )
    .replace("namespace: ns}\nspec", "namespace: other}\nspec");
    check(
        &(SERVICE.to_owned() + &other + &consumer),
        &format!("{BY_IP} in other"),
        &detected(&format!("http HTTPRoute other/r []\n/*\n{there}")),
    );
}

#[test]
fn routes_of_a_client_hold_for_that_client_only() {
    let consumer = http(
        "r",
        "parentRefs: [{group: core, kind: Service, name: web, namespace: ns}], rules: [{}]",
    )
    .replace("namespace: ns}\nspec", "namespace: other}\nspec");
    let yaml = SERVICE.to_owned() + &consumer;
    let own = to_itself("r").replace("ns/r", "other/r");
    check(&yaml, &format!("{BY_IP} in other"), &detected(&own));
    check(&yaml, BY_IP, &detected(DEFAULT));
    check(&yaml, &format!("{BY_IP} in ns"), &detected(DEFAULT));
    // Beside the producer's.
    let both = yaml + &http("s", "rules: [{}]");
    let both_routes = format!("{own}\n{}", to_itself("s"));
    check(&both, &format!("{BY_IP} in other"), &detected(&both_routes));
    check(&both, BY_IP, &detected(&to_itself("s")));
}

#[test]
fn a_route_hangs_on_one_port_or_on_all() {
    let spec = |port: &str| {
        format!("parentRefs: [{{group: core, kind: Service, name: web{port}}}], rules: [{{}}]")
    };
    let with = |port: &str| SERVICE.to_owned() + &http("r", &spec(port));
    check(&with(""), BY_IP, &detected(&to_itself("r")));
    check(&with(", port: 80"), BY_IP, &detected(&to_itself("r")));
    check(&with(", port: 81"), BY_IP, &detected(DEFAULT));
    // A parent without a kind is a gateway, not a service.
    let yaml = SERVICE.to_owned() + &http("r", "parentRefs: [{name: web}], rules: [{}]");
    check(&yaml, BY_IP, &detected(DEFAULT));
}

#[test]
fn a_service_without_an_address_takes_no_routes() {
    let headless =
        SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: None").replace("[10.96.0.1]", "[None]");
    let yaml = headless + &http("r", "rules: [{}]");
    check(&yaml, "outbound web.ns.svc.cluster.local:80", &detected(DEFAULT));
}

#[test]
fn routes_come_oldest_first_then_by_name() {
    let at = |name: &str, year: &str| {
        let metadata = format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
        route("gateway.networking.k8s.io/v1", "HTTPRoute", name, &metadata, "rules: [{}]")
    };
    let yaml = SERVICE.to_owned()
        + &http("a", "rules: [{}]")
        + &at("d", "2023")
        + &at("c", "2024")
        + &at("b", "2024");
    let routes = ["d", "b", "c", "a"].map(to_itself).join("\n");
    check(&yaml, BY_IP, &detected(&routes));
}

fn grpc(name: &str, spec: &str) -> String {
    route("gateway.networking.k8s.io/v1", "GRPCRoute", name, "", spec)
}

#[test]
fn the_most_specific_kind_of_route_on_a_place_counts() {
    let tls = |spec: &str| route("gateway.networking.k8s.io/v1alpha2", "TLSRoute", "t", "", spec);
    let tcp = |spec: &str| route("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "c", "", spec);
    let rules = "rules: [{}]";
    let as_grpc = format!("Service ns/web:80: grpc\ngrpc GRPCRoute ns/g\n[]\n{TO_WEB}");
    let all = [grpc("g", rules), http("h", rules), tls(rules), tcp(rules)];
    check(&(SERVICE.to_owned() + &all.concat()), BY_IP, &as_grpc);
    check(&(SERVICE.to_owned() + &all[1..].concat()), BY_IP, &detected(&to_itself("h")));
    let as_tls = format!("Service ns/web:80: tls\ntls TLSRoute ns/t [] []\n{TO_WEB}");
    check(&(SERVICE.to_owned() + &all[2..].concat()), BY_IP, &as_tls);
    let as_tcp = format!("Service ns/web:80: opaque\nopaque TCPRoute ns/c\n{TO_WEB}");
    check(&(SERVICE.to_owned() + &all[3]), BY_IP, &as_tcp);
}

#[test]
fn a_route_may_have_a_breaker_of_its_own() {
    let asks = "{balancer.linkerd.io/failure-accrual: consecutive, \
                balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3'}";
    let own = "own breaker Consecutive { max_failures: 3, backoff: Backoff { min: 1s, max: 60s, \
               jitter_ratio: 0.5 } }";
    let with_own = TO_WEB.replace(" (", &format!(" {own} ("));
    let rules = "rules: [{}, {backendRefs: [{name: web, port: 80}]}]";
    // The other route, and bytes that are not looked into, go without.
    let yaml = SERVICE.to_owned() + &annotated(asks, rules) + &http("z", "rules: [{}]");
    let routes = format!("http HTTPRoute ns/r []\n/*\n{with_own}\n/*\n1 {with_own}");
    check(&yaml, BY_IP, &detected(&format!("{routes}\n{}", to_itself("z"))));
    let grpc = annotated(asks, "rules: [{}]").replace("kind: HTTPRoute", "kind: GRPCRoute");
    let as_grpc = format!("Service ns/web:80: grpc\ngrpc GRPCRoute ns/r\n[]\n{with_own}");
    check(&(SERVICE.to_owned() + &grpc), BY_IP, &as_grpc);
    // A bad value drops the group, not the route.
    let bad = asks.replace("'3'", "many");
    let yaml = SERVICE.to_owned() + &annotated(&bad, "rules: [{}]");
    check(&yaml, BY_IP, &detected(&to_itself("r")));
}

#[test]
fn a_route_somebody_else_wrote_for_himself_switches_off_none_of_ours() {
    let foreign = grpc("g", "parentRefs: [{group: core, kind: Service, name: web, namespace: ns, port: 80}], rules: [{}]")
        .replace("namespace: ns}\nspec", "namespace: other}\nspec");
    let yaml = SERVICE.to_owned() + &http("h", "rules: [{}]") + &foreign;
    check(&yaml, BY_IP, &detected(&to_itself("h")));
    check(
        &yaml,
        &format!("{BY_IP} in other"),
        &format!("Service ns/web:80: grpc\ngrpc GRPCRoute other/g\n[]\n{TO_WEB}"),
    );
}

#[test]
fn the_application_protocol_decides_which_routes_are_used() {
    let with =
        |protocol: &str| SERVICE.replace("port: 80", &format!("port: 80, appProtocol: {protocol}"));
    let rules = "rules: [{}]";
    let http1 = format!("Service ns/web:80: http1\n{}", to_itself("r"));
    check(&(with("http") + &http("r", rules)), BY_IP, &http1);
    let http2 = http1.replace("http1", "http2");
    check(&(with("kubernetes.io/h2c") + &http("r", rules)), BY_IP, &http2);
    let as_grpc = format!("Service ns/web:80: grpc\ngrpc GRPCRoute ns/r\n[]\n{TO_WEB}");
    check(&(with("kubernetes.io/h2c") + &grpc("r", rules)), BY_IP, &as_grpc);
    check(&(with("grpc") + &grpc("r", rules)), BY_IP, &as_grpc);
    check(&(with("grpc") + &http("r", rules)), BY_IP, &http2);
    let opaque = format!("Service ns/web:80: opaque\n{OPAQ}");
    check(&(with("linkerd.io/opaque") + &http("r", rules)), BY_IP, &opaque);
}

#[test]
fn time_limits_of_the_route_replace_those_of_the_service() {
    let service = SERVICE.replace(
        "namespace: ns}",
        "namespace: ns, annotations: {timeout.linkerd.io/request: 3s, timeout.linkerd.io/idle: 1m}}",
    );
    let limits = |limits: &str| detected(&format!("{}\ntimeouts {limits}", to_itself("r")));
    let with = |route: &str| service.clone() + route;
    check(&service, BY_IP, &detected(&format!("{DEFAULT}\ntimeouts Some(3s) None Some(60s)")));
    check(&with(&http("r", "rules: [{}]")), BY_IP, &limits("Some(3s) None Some(60s)"));
    check(
        &with(&annotated("{timeout.linkerd.io/response: 250ms}", "rules: [{}]")),
        BY_IP,
        &limits("None Some(250ms) None"),
    );
    let by_rule = "rules: [{timeouts: {request: 1h2m, backendRequest: 1s}}]";
    check(&with(&http("r", by_rule)), BY_IP, &limits("Some(3720s) None None"));
    check(
        &with(&annotated("{timeout.linkerd.io/request: 7s}", by_rule)),
        BY_IP,
        &limits("Some(7s) None None"),
    );
    let never = "rules: [{timeouts: {request: 0s}}]";
    check(&with(&http("r", never)), BY_IP, &limits("Some(3s) None Some(60s)"));
    // A bad value drops the service's group, and the route as a whole.
    let bad = SERVICE.replace("namespace: ns}", "namespace: ns, annotations: {timeout.linkerd.io/request: 3s, timeout.linkerd.io/idle: soon}}");
    check(&bad, BY_IP, &detected(DEFAULT));
    let bad = SERVICE.to_owned() + &annotated("{timeout.linkerd.io/request: soon}", "rules: [{}]");
    check(&bad, BY_IP, &detected(DEFAULT));
}

#[test]
fn retries_of_the_route_replace_those_of_the_service() {
    let service = SERVICE.replace(
        "namespace: ns}",
        "namespace: ns, annotations: {retry.linkerd.io/http: '5xx,404', retry.linkerd.io/limit: '3'}}",
    );
    let retry = |text: &str| detected(&format!("{}\nretry {text}", to_itself("r")));
    let with = |annotations: &str| service.clone() + &annotated(annotations, "rules: [{}]");
    check(&with("{}"), BY_IP, &retry("3 HttpConditions([500..=599, 404..=404]) None"));
    check(
        &with("{retry.linkerd.io/http: 'gateway-error, 410-411', retry.linkerd.io/timeout: 1s}"),
        BY_IP,
        &retry("1 HttpConditions([502..=504, 410..=411]) Some(1s)"),
    );
    check(&with("{retry.linkerd.io/limit: '2'}"), BY_IP, &retry("2 HttpConditions([]) None"));
    // The conditions of the other protocol are no reason to retry.
    let grpc_only = SERVICE.to_owned()
        + &annotated("{retry.linkerd.io/grpc: 'unavailable,internal'}", "rules: [{}]");
    check(&grpc_only, BY_IP, &detected(&to_itself("r")));
    let on_grpc = route(
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "g",
        ", annotations: {retry.linkerd.io/grpc: 'unavailable,internal'}",
        "rules: [{matches: [{method: {service: a.B, method: C}}]}]",
    );
    check(
        &(SERVICE.to_owned() + &on_grpc),
        BY_IP,
        &format!(
            "Service ns/web:80: grpc
             grpc GRPCRoute ns/g
             [GrpcMatch {{ service: Some(\"a.B\"), method: Some(\"C\"), headers: [] }}]
             {TO_WEB}
             retry 1 GrpcConditions {{ cancelled: false, deadline_exceeded: false, \
             resource_exhausted: false, internal: true, unavailable: true }} None"
        ),
    );
    for bad in ["'6xx'", "'700'", "'500-400'", "'often'"] {
        let yaml = SERVICE.to_owned()
            + &annotated(&format!("{{retry.linkerd.io/http: {bad}}}"), "rules: [{}]");
        check(&yaml, BY_IP, &detected(DEFAULT));
    }
}

#[test]
fn clients_may_set_limits_by_header_only_where_the_cluster_allows_it() {
    let config = ClusterConfig { allow_l5d_request_headers: true, ..Default::default() };
    let expect = detected(&format!("{}\nallows l5d headers", to_itself("r")));
    check_with(config, &(SERVICE.to_owned() + &http("r", "rules: [{}]")), BY_IP, &expect);
}

const SERVER: &str = "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: ns}
spec: {podSelector: {matchLabels: {app: web}}, port: http}
";
const INBOUND: &str = "inbound ns/web-1:8080";
const TO_SERVER: &str = "parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}],";

fn on_server(parents: &str, rules: &str) -> String {
    route("policy.linkerd.io/v1beta3", "HTTPRoute", "r", "", &format!("{parents} {rules}"))
}

#[test]
fn a_server_with_a_route_takes_nothing_else_not_even_probes() {
    let container = "ports: [{name: http, containerPort: 8080}], livenessProbe: {httpGet: {path: /live, port: http}}";
    let pod = PodText { container, ..Default::default() }.yaml();
    let policy = "---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: p, namespace: ns}
spec:
  targetRef: {group: policy.linkerd.io, kind: HTTPRoute, name: r}
  requiredAuthenticationRefs: [{kind: ServiceAccount, name: client}]
";
    let with = pod
        + SERVER
        + &on_server(TO_SERVER, "rules: [{matches: [{path: {value: /api}}]}]")
        + policy;
    check(
        &with,
        INBOUND,
        "server web detect 10s
         route HTTPRoute/r /api*
         for it authorizationpolicy/p client.ns from anywhere",
    );
}

#[test]
fn a_route_names_servers_of_its_own_namespace_as_a_whole() {
    let by_default = "server web detect 10s\nroute default";
    let pod = meshed("web-1", "10.1.0.1");
    for parents in [
        "parentRefs: [{group: policy.linkerd.io, kind: Server, name: web, port: 8080}],",
        "parentRefs: [{group: policy.linkerd.io, kind: Server, name: web, sectionName: x}],",
        "parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}, {group: policy.linkerd.io, kind: Server, name: web, namespace: other}],",
        "parentRefs: [{group: policy.linkerd.io, kind: Server, name: other}],",
    ] {
        check(&(pod.clone() + SERVER + &on_server(parents, "rules: [{}]")), INBOUND, by_default);
    }
    let foreign = on_server(
        "parentRefs: [{group: policy.linkerd.io, kind: Server, name: web, namespace: ns}],",
        "rules: [{}]",
    )
    .replace("namespace: ns}\nspec", "namespace: other}\nspec");
    check(&(pod.clone() + SERVER + &foreign), INBOUND, by_default);
    let unsupported =
        on_server(TO_SERVER, "rules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]");
    check(&(pod + SERVER + &unsupported), INBOUND, by_default);
}

#[test]
fn a_grpc_server_takes_grpc_routes() {
    let server = SERVER.replace("port: http", "port: http, proxyProtocol: gRPC");
    let yaml =
        meshed("web-1", "10.1.0.1") + &server + &grpc("g", &format!("{TO_SERVER} rules: [{{}}]"));
    check(&yaml, INBOUND, "server web grpc\ngrpc route GRPCRoute/g");
}

#[test]
fn the_oldest_rate_limit_of_a_server_counts() {
    let limit = |name: &str, year: &str, total: u32| {
        format!(
            "---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {{name: {name}, namespace: ns, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: web}}
  total: {{requestsPerSecond: {total}}}
  overrides: [{{requestsPerSecond: 5, clientRefs: [{{kind: ServiceAccount, name: a}}, {{kind: ServiceAccount, name: b, namespace: other}}]}}]
"
        )
    };
    let yaml =
        meshed("web-1", "10.1.0.1") + SERVER + &limit("a", "2025", 10) + &limit("b", "2024", 20);
    check(
        &yaml,
        INBOUND,
        "server web detect 10s
         route default
         limit b total Some(20) identity None overrides [\"5: \
         a.ns.serviceaccount.identity.linkerd.cluster.local \
         b.other.serviceaccount.identity.linkerd.cluster.local\"]",
    );
    let opaque = yaml.replace("port: http}", "port: http, proxyProtocol: opaque}");
    check(&opaque, INBOUND, "server web opaque");
}
