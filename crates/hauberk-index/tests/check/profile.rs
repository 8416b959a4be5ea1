//! `Destination.GetProfile`: what is known of a target beside its policy.

use crate::world::{NODES, PodText, SERVICE, check, entry, meshed, slice};

const BY_IP: &str = "profile 10.96.0.1:80";
const BY_NAME: &str = "profile web.ns.svc.cluster.local:80";
const WEB: &str = "name web.ns.svc.cluster.local
    parent Service ns/web:80";
const POD: &str = "profile 10.1.0.1:8080";
const MESHED: &str = "endpoint 10.1.0.1:8080 h2 via 4143 tls web.ns {control_plane_ns=linkerd \
    namespace=ns pod=web-1 serviceaccount=web zone= zone_locality=unknown}";
const BARE: &str = "endpoint 10.1.0.1:8080 {}";

#[test]
fn a_service_is_known_by_address_and_by_name() {
    check(SERVICE, BY_IP, WEB);
    check(SERVICE, BY_NAME, WEB);
}

#[test]
fn all_addresses_of_a_service_count() {
    let yaml = SERVICE.replace("clusterIPs: [10.96.0.1]", "clusterIPs: [10.96.0.1, 'fd00::96']");
    check(&yaml, "profile [fd00::96]:80", WEB);
    check(&yaml, "profile [::ffff:10.96.0.1]:80", WEB);
}

#[test]
fn a_port_the_service_does_not_have_gets_an_empty_profile() {
    check(SERVICE, "profile 10.96.0.1:81", "empty profile");
    check(SERVICE, "profile web.ns.svc.cluster.local:81", "empty profile");
    let udp = SERVICE.replace("targetPort: http", "targetPort: http, protocol: UDP");
    check(&udp, BY_IP, "empty profile");
}

#[test]
fn opaque_ports_of_a_service_may_be_numbers_ranges_or_names() {
    let with = |annotation: &str| {
        SERVICE.replace(
            "namespace: ns}",
            &format!(
                "namespace: ns, annotations: {{config.linkerd.io/opaque-ports: '{annotation}'}}}}"
            ),
        )
    };
    let opaque = WEB.replace("parent", "opaque\nparent");
    for list in ["80", "25,80", "http", "70-90", "80,", " 80 ,x"] {
        check(&with(list), BY_IP, &opaque);
    }
    check(&with(""), BY_IP, WEB);
    check(&with("81"), BY_IP, WEB);
    let mysql = SERVICE.replace("port: 80", "port: 3306");
    check(&mysql, "profile 10.96.0.1:3306", &opaque.replace(":80", ":3306"));
    let mysql = with("").replace("port: 80", "port: 3306");
    check(&mysql, "profile 10.96.0.1:3306", &WEB.replace(":80", ":3306"));
}

#[test]
fn the_application_protocol_beats_the_annotation() {
    let opaque = WEB.replace("parent", "opaque\nparent");
    let with = |protocol: &str| {
        SERVICE.replace("port: 80", &format!("port: 80, appProtocol: {protocol}")).replace(
            "namespace: ns}",
            "namespace: ns, annotations: {config.linkerd.io/opaque-ports: '80'}}",
        )
    };
    check(&with("http"), BY_IP, WEB);
    check(&with("kubernetes.io/h2c"), BY_IP, WEB);
    check(&with("grpc"), BY_IP, WEB);
    check(&with("linkerd.io/opaque"), BY_IP, &opaque);
}

const PROFILE: &str = "---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: web.ns.svc.cluster.local, namespace: ns}
spec:
  routes:
  - name: GET /
    condition: {method: GET, pathRegex: /.*}
    isRetryable: true
    timeout: 250ms
    responseClasses: [{condition: {status: {min: 500}}, isFailure: true}]
  retryBudget: {retryRatio: 0.5, minRetriesPerSecond: 3, ttl: 5s}
  dstOverrides:
  - {authority: web-2.ns.svc.cluster.local, weight: 500m}
  - {authority: 'web.ns.svc.cluster.local:8080', weight: 1}
";

#[test]
fn a_service_profile_brings_routes_budget_and_split() {
    check(
        &format!("{SERVICE}{PROFILE}"),
        BY_IP,
        "name web.ns.svc.cluster.local
         route GET / retryable true Some(250ms)
         budget RetryBudget { retry_ratio: 0.5, min_retries_per_second: 3, ttl: 5s }
         target web-2.ns.svc.cluster.local:80 5000
         target web.ns.svc.cluster.local:8080 10000
         parent Service ns/web:80
         profile ServiceProfile ns/web.ns.svc.cluster.local",
    );
}

#[test]
fn the_clients_own_profile_beats_the_services() {
    let own = PROFILE.replace("namespace: ns}", "namespace: other}").replace("GET /", "own");
    let yaml = format!("{SERVICE}{PROFILE}{own}");
    let budget = "budget RetryBudget { retry_ratio: 0.5, min_retries_per_second: 3, ttl: 5s }
         target web-2.ns.svc.cluster.local:80 5000
         target web.ns.svc.cluster.local:8080 10000
         parent Service ns/web:80";
    check(
        &yaml,
        &format!("{BY_IP} in other"),
        &format!(
            "name web.ns.svc.cluster.local
             route own retryable true Some(250ms)
             {budget}
             profile ServiceProfile other/web.ns.svc.cluster.local"
        ),
    );
    check(
        &yaml,
        &format!("{BY_IP} in third"),
        &format!(
            "name web.ns.svc.cluster.local
             route GET / retryable true Some(250ms)
             {budget}
             profile ServiceProfile ns/web.ns.svc.cluster.local"
        ),
    );
}

#[test]
fn a_pod_is_known_by_its_address_on_any_port() {
    check(&meshed("web-1", "10.1.0.1"), POD, MESHED);
    let undeclared = MESHED.replace(":8080", ":12345");
    check(&meshed("web-1", "10.1.0.1"), "profile 10.1.0.1:12345", &undeclared);
}

#[test]
fn all_addresses_of_a_pod_count() {
    let yaml = meshed("web-1", "10.1.0.1")
        .replace("podIPs: [{ip: '10.1.0.1'}]", "podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]");
    check(&yaml, "profile [fd00::1]:8080", &MESHED.replace("10.1.0.1", "[fd00::1]"));
}

#[test]
fn a_pod_that_does_not_run_has_no_proxy_yet_or_any_more() {
    for phase in ["Pending", "Succeeded", "Failed", "Unknown"] {
        check(&PodText { phase, ..Default::default() }.yaml(), POD, BARE);
    }
    let metadata = "deletionTimestamp: '2024-01-01T00:00:00Z'";
    check(&PodText { metadata, ..Default::default() }.yaml(), POD, BARE);
}

#[test]
fn readiness_does_not_matter_for_a_single_pod() {
    let yaml = meshed("web-1", "10.1.0.1")
        .replace("status:", "status:\n  conditions: [{type: Ready, status: 'False'}]");
    check(&yaml, POD, MESHED);
}

#[test]
fn a_pod_that_replaced_another_on_the_same_address_is_the_one_that_counts() {
    let done = PodText { name: "job-1", phase: "Succeeded", ..Default::default() }.yaml();
    let new = PodText { name: "web-2", ..Default::default() }.yaml();
    check(&(done + &new), POD, &MESHED.replace("web-1", "web-2"));
    let pending = PodText { name: "a-1", phase: "Pending", ..Default::default() }.yaml();
    check(&(pending + &new), POD, &MESHED.replace("web-1", "web-2"));
}

#[test]
fn two_that_claim_one_address_are_a_contradiction() {
    let yaml = meshed("web-1", "10.1.0.1") + &meshed("web-2", "10.1.0.1");
    check(&yaml, POD, "Contradiction(\"2 pods claim the address 10.1.0.1\")");
    let yaml = SERVICE.to_owned() + &SERVICE.replace("name: web,", "name: web-2,");
    check(&yaml, BY_IP, "Contradiction(\"2 services claim the address 10.96.0.1\")");
}

#[test]
fn pods_on_the_nodes_network_are_not_known_by_the_nodes_address() {
    let yaml = PodText { spec: "hostNetwork: true", ..Default::default() }.yaml();
    check(&yaml, POD, BARE);
}

#[test]
fn a_port_of_the_node_leads_to_its_pod_and_keeps_the_nodes_address() {
    let container = "ports: [{name: http, containerPort: 8080, hostPort: 80}]";
    let yaml = PodText { container, ..Default::default() }
        .yaml()
        .replace("status:", "status:\n  hostIP: 192.168.0.1\n  hostIPs: [{ip: 192.168.0.1}]");
    // The proxy's own port is not there, so there is no transport header.
    check(
        &yaml,
        "profile 192.168.0.1:80",
        &MESHED.replace("10.1.0.1:8080", "192.168.0.1:80").replace(" via 4143", ""),
    );
    check(&yaml, "profile 192.168.0.1:81", "endpoint 192.168.0.1:81 {}");
    check(&yaml, "profile 192.168.0.1:8080", "endpoint 192.168.0.1:8080 {}");
}

#[test]
fn an_address_nobody_knows_is_bare_and_opaque_by_the_default_list() {
    check("", "profile 198.51.100.1:443", "endpoint 198.51.100.1:443 {}");
    check("", "profile 198.51.100.1:3306", "opaque\nendpoint 198.51.100.1:3306 {}");
}

#[test]
fn a_pods_port_is_opaque_by_annotation_default_or_server() {
    let opaque = MESHED.replace("h2", "opaque");
    let opaque = format!("opaque\n{opaque}");
    let annotations = "{config.linkerd.io/opaque-ports: '8000-9000'}";
    check(&PodText { annotations, ..Default::default() }.yaml(), POD, &opaque);
    check(&meshed("web-1", "10.1.0.1"), "profile 10.1.0.1:3306", &opaque.replace(":8080", ":3306"));
    let server = "---
apiVersion: policy.linkerd.io/v1beta1
kind: Server
metadata: {name: web, namespace: ns}
spec: {podSelector: {}, port: 8080, proxyProtocol: opaque}
";
    check(&(meshed("web-1", "10.1.0.1") + server), POD, &opaque);
}

#[test]
fn an_external_workload_is_known_on_the_ports_it_declares() {
    let machine = "---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: machine-1, namespace: ns, labels: {topology.kubernetes.io/zone: west}}
spec:
  meshTLS: {identity: machine.example, serverName: machine.example}
  ports: [{name: http, port: 8080}]
  workloadIPs: [{ip: 192.0.2.7}]
";
    check(
        &format!("{NODES}{machine}"),
        "profile 192.0.2.7:8080 from node-a",
        "endpoint 192.0.2.7:8080 h2 via 4143 tls machine.example \
         {external_workload=machine-1 namespace=ns zone=west zone_locality=remote}",
    );
    check(machine, "profile 192.0.2.7:8081", "endpoint 192.0.2.7:8081 {}");
}

#[test]
fn an_instance_of_a_service_is_known_by_its_dns_name() {
    let entry = entry("web-1", "10.1.0.1") + ", hostname: one";
    let yaml = format!("{SERVICE}{}{}", meshed("web-1", "10.1.0.1"), slice(&[&entry]));
    check(&yaml, "profile one.web.ns.svc.cluster.local:8080", MESHED);
    check(
        &yaml,
        "profile two.web.ns.svc.cluster.local:8080",
        "NotFound(\"no endpoint two of service ns/web\")",
    );
    let without_pod = slice(&["addresses: ['192.0.2.1'], hostname: one"]);
    check(
        &format!("{SERVICE}{without_pod}"),
        "profile one.web.ns.svc.cluster.local:8080",
        "NotFound(\"no endpoint one of service ns/web\")",
    );
}

#[test]
fn names_that_are_no_services_are_refused() {
    check("", BY_NAME, "NotFound(\"service ns/web not found\")");
    check("", "profile example.org:80", "Invalid(\"Invalid authority: example.org\")");
    check(
        "",
        "profile :80",
        "Invalid(\"Invalid authority: ':80' is not host:port: the host is empty\")",
    );
}
