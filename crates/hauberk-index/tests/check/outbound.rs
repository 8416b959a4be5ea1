//! `OutboundPolicies`: what a client should do with traffic to a target.

use crate::world::{SERVICE, check, meshed};

const BY_IP: &str = "outbound 10.96.0.1:80";
const TO_WEB: &str = "to web.ns.svc.cluster.local:80 (Service ns/web:80)";

fn detected() -> String {
    format!(
        "Service ns/web:80: detect 10s
         http http []
         {TO_WEB}
         opaque opaq
         {TO_WEB}"
    )
}

fn opaque() -> String {
    format!("Service ns/web:80: opaque\nopaque opaq\n{TO_WEB}")
}

#[test]
fn a_service_is_detected_and_balanced() {
    check(SERVICE, BY_IP, &detected());
    check(SERVICE, "outbound web.ns.svc.cluster.local:80", &detected());
    check(SERVICE, "outbound web.ns.svc.cluster.local", &detected());
}

#[test]
fn a_service_that_does_not_exist_yet_has_a_policy_by_name_only() {
    check("", "outbound web.ns.svc.cluster.local:80", &detected());
    check("", BY_IP, "NotFound(\"No such service\")");
}

#[test]
fn names_outside_of_the_cluster_are_not_found() {
    for name in ["example.org:80", "web.ns:80", "one.web.ns.svc.cluster.local:80"] {
        let expect = format!("NotFound(\"{name} is no service of the cluster\")");
        check(SERVICE, &format!("outbound {name}"), &expect);
    }
}

#[test]
fn a_port_the_service_does_not_have_is_forbidden() {
    let forbidden = "Service ns/web:81: opaque
         opaque undefined-port [Forbidden]
         to nowhere";
    check(SERVICE, "outbound 10.96.0.1:81", forbidden);
    let udp = SERVICE.replace("targetPort: http", "targetPort: http, protocol: UDP");
    check(&udp, BY_IP, &forbidden.replace(":81", ":80"));
}

#[test]
fn an_address_in_the_cluster_that_is_no_service_is_not_found() {
    check(&meshed("web-1", "10.1.0.1"), "outbound 10.1.0.1:8080", "NotFound(\"No such service\")");
    let headless =
        SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: None").replace("[10.96.0.1]", "[None]");
    check(&headless, BY_IP, "NotFound(\"No such service\")");
}

#[test]
fn an_address_outside_of_the_cluster_is_forwarded() {
    check(
        "",
        "outbound 198.51.100.1:443",
        "default egress-fallback: detect 10s
         http egress-fallback []
         to 198.51.100.1:443 (default egress-fallback)
         opaque egress-fallback
         to 198.51.100.1:443 (default egress-fallback)",
    );
}

#[test]
fn two_services_that_claim_one_address_are_a_contradiction() {
    let yaml = SERVICE.to_owned() + &SERVICE.replace("name: web,", "name: web-2,");
    check(&yaml, BY_IP, "Contradiction(\"2 services claim the address 10.96.0.1\")");
}

#[test]
fn opaque_ports_by_annotation_and_by_default() {
    let annotated = |list: &str| {
        SERVICE.replace(
            "namespace: ns}",
            &format!("namespace: ns, annotations: {{config.linkerd.io/opaque-ports: '{list}'}}}}"),
        )
    };
    check(&annotated("80"), BY_IP, &opaque());
    check(&annotated("http"), BY_IP, &opaque());
    check(&annotated("81"), BY_IP, &detected());
    let mysql = SERVICE.replace("port: 80", "port: 3306");
    check(&mysql, "outbound 10.96.0.1:3306", &opaque().replace(":80", ":3306"));
}

#[test]
fn the_application_protocol_decides_first() {
    let with = |protocol: &str| {
        SERVICE.replace("port: 80", &format!("port: 80, appProtocol: {protocol}")).replace(
            "namespace: ns}",
            "namespace: ns, annotations: {config.linkerd.io/opaque-ports: '80'}}",
        )
    };
    let http = |version: &str| format!("Service ns/web:80: {version}\nhttp http []\n{TO_WEB}");
    check(&with("http"), BY_IP, &http("http1"));
    check(&with("HTTP"), BY_IP, &http("http1"));
    check(&with("kubernetes.io/h2c"), BY_IP, &http("http2"));
    for unknown in ["linkerd.io/opaque", "linkerd.io/tcp", "mongo", "https"] {
        check(&with(unknown), BY_IP, &opaque());
    }
}

#[test]
fn failure_accrual_and_load_are_asked_for_by_annotation() {
    let yaml = SERVICE.replace(
        "namespace: ns}",
        "namespace: ns, annotations: {balancer.linkerd.io/failure-accrual: consecutive, \
         balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3', \
         balancer.alpha.linkerd.io/penalize-failures: 'true'}}",
    );
    check(
        &yaml,
        BY_IP,
        &format!(
            "Service ns/web:80: detect 10s
             http http []
             to web.ns.svc.cluster.local:80 PenaltyPeakEwma {{ ewma: PeakEwma {{ default_rtt: 30ms, \
             decay: 10s }}, penalty: 5s, max_retry_after: 300s }} (Service ns/web:80)
             breaker Consecutive {{ max_failures: 3, backoff: Backoff {{ min: 1s, max: 60s, \
             jitter_ratio: 0.5 }} }}
             opaque opaq
             {TO_WEB}"
        ),
    );
}

#[test]
fn slow_start_and_affinity_are_asked_for_by_annotation() {
    let yaml = SERVICE.replace(
        "namespace: ns}",
        "namespace: ns, annotations: {balancer.hauberk.io/slow-start: 30s, \
         balancer.hauberk.io/affinity: 'header:x-user'}}",
    );
    let to = "to web.ns.svc.cluster.local:80 slow start 30s";
    let expect = format!(
        "Service ns/web:80: detect 10s
         http http []
         {to} affinity Header(\"x-user\") (Service ns/web:80)
         opaque opaq
         {to} (Service ns/web:80)"
    );
    check(&yaml, BY_IP, &expect);
}

#[test]
fn a_service_that_keeps_its_clients_does_so_for_requests_and_bytes() {
    let yaml = SERVICE.replace("selector: {app: web}", "sessionAffinity: ClientIP");
    let to = "to web.ns.svc.cluster.local:80 affinity Source (Service ns/web:80)";
    let expect = format!("Service ns/web:80: detect 10s\nhttp http []\n{to}\nopaque opaq\n{to}");
    check(&yaml, BY_IP, &expect);
}
