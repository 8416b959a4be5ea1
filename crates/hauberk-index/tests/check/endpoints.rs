//! `Destination.Get`: who stands behind a service, and how to talk to them.

use crate::world::{NODES, PodText, SERVICE, check, check_with, entry, meshed, slice};
use hauberk_index::{ClusterConfig, TransportMode};

const WEB: &str = "endpoints web.ns.svc.cluster.local:80";
const LABELS: &str =
    "{control_plane_ns=linkerd pod=web-1 serviceaccount=web zone= zone_locality=unknown}";

/// A cluster of service `web` with these pods, all in one slice.
fn web(pods: &[PodText<'_>]) -> String {
    let entries: Vec<String> = pods.iter().map(|pod| entry(pod.name, pod.ip)).collect();
    let entries: Vec<&str> = entries.iter().map(|entry| &**entry).collect();
    let pods: String = pods.iter().map(PodText::yaml).collect();
    format!("{SERVICE}{pods}{}", slice(&entries))
}

#[test]
fn a_meshed_pod_is_reached_through_its_proxy() {
    let expect = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&web(&[PodText::default()]), WEB, &expect);
}

#[test]
fn transparent_transport_uses_the_applications_port_except_for_opaque_traffic() {
    let config = || ClusterConfig { transport: TransportMode::Transparent, ..Default::default() };
    let expect = format!("10.1.0.1:8080 h2 tls web.ns {LABELS}");
    check_with(config(), &web(&[PodText::default()]), WEB, &expect);
    let annotations = "{config.linkerd.io/opaque-ports: '8080'}";
    let expect = format!("10.1.0.1:8080 opaque via 4143 tls web.ns {LABELS}");
    check_with(config(), &web(&[PodText { annotations, ..Default::default() }]), WEB, &expect);
}

#[test]
fn without_http2_upgrade_there_is_no_hint() {
    let config = ClusterConfig { http2_upgrade: false, ..Default::default() };
    let expect = format!("10.1.0.1:8080 via 4143 tls web.ns {LABELS}");
    check_with(config, &web(&[PodText::default()]), WEB, &expect);
}

#[test]
fn a_pod_without_a_proxy_promises_nothing() {
    let pod = PodText { is_meshed: false, ..Default::default() };
    check(
        &web(&[pod]),
        WEB,
        "10.1.0.1:8080 {pod=web-1 serviceaccount=web zone= zone_locality=unknown}",
    );
    // Not even on a port that is opaque by default.
    let pod = PodText {
        is_meshed: false,
        container: "ports: [{name: http, containerPort: 3306}]",
        ..Default::default()
    };
    let yaml = web(&[pod]).replace("port: 8080", "port: 3306");
    check(&yaml, WEB, "10.1.0.1:3306 {pod=web-1 serviceaccount=web zone= zone_locality=unknown}");
}

#[test]
fn a_pod_on_the_nodes_network_is_dialled_as_it_is() {
    // The injector leaves such pods alone, so there is no proxy to promise anything for.
    let pod = PodText {
        is_meshed: false,
        ip: "192.168.0.1",
        spec: "hostNetwork: true",
        ..Default::default()
    };
    check(
        &web(&[pod]),
        WEB,
        "192.168.0.1:8080 {pod=web-1 serviceaccount=web zone= zone_locality=unknown}",
    );
}

#[test]
fn a_pod_of_another_control_plane_has_a_proxy_but_no_identity_for_us() {
    let yaml = web(&[PodText::default()])
        .replace("linkerd.io/control-plane-ns: linkerd", "linkerd.io/control-plane-ns: other");
    check(
        &yaml,
        WEB,
        "10.1.0.1:8080 h2 via 4143 http2 true \
         {control_plane_ns=other pod=web-1 serviceaccount=web zone= zone_locality=unknown}",
    );
}

#[test]
fn a_skipped_port_bypasses_the_proxy_and_promises_nothing() {
    let annotations = "{config.linkerd.io/skip-inbound-ports: '25,8000-8100'}";
    let expect = format!("10.1.0.1:8080 {LABELS}");
    check(&web(&[PodText { annotations, ..Default::default() }]), WEB, &expect);
}

#[test]
fn a_pod_whose_proxy_has_no_known_port_is_dialled_directly() {
    let yaml = web(&[PodText::default()]).replace("INBOUND_LISTEN_ADDR", "SOMETHING");
    check(&yaml, WEB, &format!("10.1.0.1:8080 h2 tls web.ns {LABELS}"));
}

#[test]
fn the_proxys_own_ports_are_dialled_directly() {
    let yaml = web(&[PodText::default()]).replace("port: 8080", "port: 4191");
    check(&yaml, WEB, &format!("10.1.0.1:4191 h2 tls web.ns {LABELS}"));
}

#[test]
fn opaque_ports_may_be_named_and_an_empty_list_replaces_the_default() {
    let opaque = format!("10.1.0.1:8080 opaque via 4143 tls web.ns {LABELS}");
    let annotations = "{config.linkerd.io/opaque-ports: 'http'}";
    check(&web(&[PodText { annotations, ..Default::default() }]), WEB, &opaque);
    let on_mysql = |annotations| {
        let container = "ports: [{name: http, containerPort: 3306}]";
        web(&[PodText { annotations, container, ..Default::default() }])
            .replace("port: 8080", "port: 3306")
    };
    check(&on_mysql("{}"), WEB, &format!("10.1.0.1:3306 opaque via 4143 tls web.ns {LABELS}"));
    check(
        &on_mysql("{config.linkerd.io/opaque-ports: ''}"),
        WEB,
        &format!("10.1.0.1:3306 h2 via 4143 tls web.ns {LABELS}"),
    );
}

const OPAQUE_SERVER: &str = "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: ns, creationTimestamp: '2024-01-01T00:00:00Z'}
spec: {podSelector: {matchLabels: {app: web}}, port: http, proxyProtocol: opaque}
";

#[test]
fn a_server_makes_its_port_opaque() {
    let expect = format!("10.1.0.1:8080 opaque via 4143 tls web.ns {LABELS}");
    check(&(web(&[PodText::default()]) + OPAQUE_SERVER), WEB, &expect);
}

#[test]
fn a_server_of_another_namespace_or_port_or_label_changes_nothing() {
    let expect = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    let web = web(&[PodText::default()]);
    for (from, to) in [
        ("namespace: ns", "namespace: other"),
        ("port: http", "port: 9"),
        ("app: web", "app: other"),
    ] {
        check(&format!("{web}{}", OPAQUE_SERVER.replace(from, to)), WEB, &expect);
    }
}

#[test]
fn of_two_servers_on_a_port_the_older_counts() {
    let younger = OPAQUE_SERVER
        .replace("name: web", "name: a")
        .replace("2024", "2025")
        .replace("proxyProtocol: opaque", "proxyProtocol: HTTP/1");
    let expect = format!("10.1.0.1:8080 opaque via 4143 tls web.ns {LABELS}");
    check(&(web(&[PodText::default()]) + &younger + OPAQUE_SERVER), WEB, &expect);
    let older = younger.replace("2025", "2023");
    let expect = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&(web(&[PodText::default()]) + &older + OPAQUE_SERVER), WEB, &expect);
}

#[test]
fn endpoints_carry_the_owner_people_know() {
    let owned = |kind: &str, name: &str| {
        let metadata = format!("ownerReferences: [{{kind: {kind}, name: {name}}}]");
        let pod =
            PodText { metadata: &metadata, labels: "pod-template-hash: abc", ..Default::default() };
        web(&[pod])
    };
    let expect = |owner: &str| {
        let mut labels: Vec<&str> = vec![
            "control_plane_ns=linkerd",
            "pod=web-1",
            "pod_template_hash=abc",
            "serviceaccount=web",
            "zone=",
            "zone_locality=unknown",
        ];
        labels.push(owner);
        labels.sort_unstable();
        format!("10.1.0.1:8080 h2 via 4143 tls web.ns {{{}}}", labels.join(" "))
    };
    let replica_set = "---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web-abc, namespace: ns, ownerReferences: [{kind: Deployment, name: web}]}
";
    check(&(owned("ReplicaSet", "web-abc") + replica_set), WEB, &expect("deployment=web"));
    check(&owned("ReplicaSet", "web-abc"), WEB, &expect("replicaset=web-abc"));
    check(&owned("StatefulSet", "web"), WEB, &expect("statefulset=web"));
    check(&owned("Job", "web"), WEB, &expect("k8s_job=web"));
}

#[test]
fn only_ready_endpoints_count_and_unknown_readiness_is_ready() {
    let pods = meshed("web-1", "10.1.0.1");
    let with = |conditions: &str| {
        let entry = entry("web-1", "10.1.0.1").replace("{ready: true}", conditions);
        format!("{SERVICE}{pods}{}", slice(&[&entry]))
    };
    let expect = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&with("{ready: false, serving: true}"), WEB, "no endpoints");
    check(&with("{}"), WEB, &expect);
    check(&with("{ready: true, terminating: true}"), WEB, &expect);
}

#[test]
fn endpoints_that_are_about_to_end_but_serve_are_used_while_none_is_ready() {
    let pods = meshed("web-1", "10.1.0.1") + &meshed("web-2", "10.1.0.2");
    let ending = "{ready: false, serving: true, terminating: true}";
    let with = |first: &str, second: &str| {
        let entry = |pod: &str, ip: &str, conditions: &str| {
            entry(pod, ip).replace("{ready: true}", conditions)
        };
        let entries = [entry("web-1", "10.1.0.1", first), entry("web-2", "10.1.0.2", second)];
        format!("{SERVICE}{pods}{}", slice(&[&entries[0], &entries[1]]))
    };
    let first = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    let second = first.replace("10.1.0.1", "10.1.0.2").replace("web-1", "web-2");
    check(&with(ending, "{ready: true}"), WEB, &second);
    check(&with(ending, "{ready: false}"), WEB, &first);
    check(&with(ending, ending), WEB, &format!("{first}\n{second}"));
    check(&with("{ready: false, serving: false, terminating: true}", ending), WEB, &second);
    let neither = "{ready: false, terminating: true}";
    check(&with(neither, "{ready: false, serving: true}"), WEB, "no endpoints");
}

#[test]
fn an_endpoint_waits_for_its_pod() {
    let yaml = format!("{SERVICE}{}", slice(&[&entry("web-1", "10.1.0.1")]));
    check(&yaml, WEB, "no endpoints");
}

#[test]
fn named_target_ports_differ_by_slice() {
    let other = slice(&[&entry("web-2", "10.1.0.2")])
        .replace("name: web-x", "name: web-y")
        .replace("port: 8080", "port: 9090");
    let yaml = web(&[PodText::default()]) + &meshed("web-2", "10.1.0.2") + &other;
    let second = LABELS.replace("web-1", "web-2");
    check(
        &yaml,
        WEB,
        &format!(
            "10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}
             10.1.0.2:9090 h2 via 4143 tls web.ns {second}"
        ),
    );
}

#[test]
fn a_slice_that_does_not_know_its_port_yet_has_no_endpoints() {
    let yaml = web(&[PodText::default()]);
    let ports = "ports: [{name: http, port: 8080, protocol: TCP}]";
    for unknown in [
        "ports: null",
        "ports: [{name: http, port: null}]",
        "ports: [{name: http, port: 0}]",
        "ports: [{name: other, port: 8080}]",
        "ports: [{name: http, port: 8080, protocol: UDP}]",
    ] {
        check(&yaml.replace(ports, unknown), WEB, "no endpoints");
    }
}

#[test]
fn a_port_the_service_does_not_have_is_taken_as_the_endpoints_own() {
    let expect = format!("10.1.0.1:9999 h2 via 4143 tls web.ns {LABELS}");
    check(&web(&[PodText::default()]), "endpoints web.ns.svc.cluster.local:9999", &expect);
}

#[test]
fn a_slice_is_found_by_label_or_by_owner() {
    let yaml = web(&[PodText::default()]).replace(
        "labels: {kubernetes.io/service-name: web}",
        "ownerReferences: [{kind: Service, name: web}]",
    );
    check(&yaml, WEB, &format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}"));
    let orphan = web(&[PodText::default()])
        .replace("labels: {kubernetes.io/service-name: web}", "labels: {}");
    check(&orphan, WEB, "no endpoints");
}

#[test]
fn an_instance_of_a_headless_service_is_found_by_its_host_name() {
    let headless =
        SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: None").replace("[10.96.0.1]", "[None]");
    let entries = [
        entry("web-1", "10.1.0.1") + ", hostname: one",
        entry("web-2", "10.1.0.2") + ", hostname: two",
    ];
    let yaml = headless
        + &meshed("web-1", "10.1.0.1")
        + &meshed("web-2", "10.1.0.2")
        + &slice(&[&entries[0], &entries[1]]);
    let second = LABELS.replace("web-1", "web-2");
    let second = format!("10.1.0.2:8080 h2 via 4143 tls web.ns {second}");
    check(&yaml, "endpoints two.web.ns.svc.cluster.local:80", &second);
    check(&yaml, "endpoints three.web.ns.svc.cluster.local:80", "no endpoints");
    let first = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&yaml, WEB, &format!("{first}\n{second}"));
}

#[test]
fn zones_label_endpoints_as_local_or_remote() {
    let remote = PodText { name: "web-2", ip: "10.1.0.2", ..Default::default() }
        .yaml()
        .replace("nodeName: node-a", "nodeName: node-b");
    let yaml = format!(
        "{NODES}{SERVICE}{}{remote}{}",
        meshed("web-1", "10.1.0.1"),
        slice(&[&entry("web-1", "10.1.0.1"), &entry("web-2", "10.1.0.2")])
    );
    let text = |pod: &str, ip: &str, zone: &str, locality: &str| {
        format!(
            "{ip}:8080 h2 via 4143 tls web.ns {{control_plane_ns=linkerd pod={pod} \
             serviceaccount=web zone={zone} zone_locality={locality}}}\n"
        )
    };
    let both = |first: &str, second: &str| {
        text("web-1", "10.1.0.1", "east", first) + &text("web-2", "10.1.0.2", "west", second)
    };
    check(&yaml, &format!("{WEB} from node-a"), &both("local", "remote"));
    check(&yaml, &format!("{WEB} from node-b"), &both("remote", "local"));
    check(&yaml, WEB, &both("unknown", "unknown"));
    check(&yaml, &format!("{WEB} from nowhere"), &both("unknown", "unknown"));
}

/// Two pods whose endpoints have these fields more.
fn hinted(first: &str, second: &str) -> String {
    let entries = [entry("web-1", "10.1.0.1") + first, entry("web-2", "10.1.0.2") + second];
    let pod = |name, ip| PodText { name, ip, is_meshed: false, ..Default::default() }.yaml();
    format!(
        "{NODES}{SERVICE}{}{}{}",
        pod("web-1", "10.1.0.1"),
        pod("web-2", "10.1.0.2"),
        slice(&[&entries[0], &entries[1]])
    )
}

const EAST: &str = ", hints: {forZones: [{name: east}]}";
const WEST: &str = ", hints: {forZones: [{name: west}]}";
const BOTH: &str = "10.1.0.1:8080 {pod=web-1 serviceaccount=web zone=east zone_locality=local}
    10.1.0.2:8080 {pod=web-2 serviceaccount=web zone=east zone_locality=local}";

#[test]
fn zone_hints_count_if_every_endpoint_has_one() {
    let from = format!("{WEB} from node-a");
    let first = "10.1.0.1:8080 {pod=web-1 serviceaccount=web zone=east zone_locality=local}";
    check(&hinted(EAST, WEST), &from, first);
    check(&hinted(EAST, ""), &from, BOTH);
    check(&hinted(WEST, WEST), &from, BOTH);
    check(&hinted(EAST, ", hints: {forZones: [{name: west}, {name: east}]}"), &from, BOTH);
}

#[test]
fn node_hints_go_before_zone_hints() {
    let hints =
        |nodes: &str, zones: &str| format!(", hints: {{forNodes: [{nodes}], forZones: [{zones}]}}");
    let (a, b) = ("{name: node-a}", "{name: node-b}");
    let (east, west) = ("{name: east}", "{name: west}");
    let first = BOTH.lines().next().expect("two lines");
    let second = BOTH.lines().nth(1).expect("two lines");
    let from = format!("{WEB} from node-a");
    // As the controller writes `PreferSameNode`: both, and the node counts.
    check(&hinted(&hints(b, east), &hints(a, west)), &from, second);
    // Nobody is there for the node, or somebody has no hint of a node: the zone counts.
    check(&hinted(&hints(b, east), &hints(b, west)), &from, first);
    check(&hinted(&hints("", east), &hints(a, west)), &from, first);
    // Neither is for this client, or without a node of its own.
    check(&hinted(&hints(b, west), &hints(b, west)), &from, BOTH);
    check(&hinted(&hints(a, ""), &hints(b, "")), &from, first);
    let unknown = BOTH.replace("local}", "unknown}");
    check(&hinted(&hints(a, east), &hints(b, west)), WEB, &unknown);
}

#[test]
fn a_slice_says_on_which_node_an_endpoint_without_a_pod_is() {
    let local = SERVICE.replace("selector: {app: web}", "internalTrafficPolicy: Local");
    let entries = [
        "addresses: ['192.0.2.1'], nodeName: node-a",
        "addresses: ['192.0.2.2'], nodeName: node-b",
        "addresses: ['192.0.2.3']",
    ];
    let yaml = format!("{NODES}{local}{}", slice(&entries));
    let one = "192.0.2.1:8080 {zone= zone_locality=unknown}";
    check(&yaml, &format!("{WEB} from node-a"), one);
    check(&yaml, WEB, "no endpoints");
}

#[test]
fn node_local_traffic_stays_on_the_clients_node_even_if_nobody_is_there() {
    let local = |yaml: String| yaml.replace("selector: {app: web}", "internalTrafficPolicy: Local");
    // Hints do not matter then.
    check(&local(hinted(EAST, WEST)), &format!("{WEB} from node-a"), BOTH);
    check(&local(hinted(EAST, WEST)), &format!("{WEB} from node-b"), "no endpoints");
    check(&local(hinted("", "")), WEB, "no endpoints");
}

/// A pod with an address and a slice of each family.
fn dual_stack() -> String {
    let six = slice(&[&entry("web-1", "fd00::1")])
        .replace("name: web-x", "name: web-6")
        .replace("addressType: IPv4", "addressType: IPv6");
    web(&[PodText::default()]) + &six
}

#[test]
fn of_two_families_the_one_that_is_switched_on_is_used() {
    check(&dual_stack(), WEB, &format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}"));
    let config = ClusterConfig { ipv6: true, ..Default::default() };
    check_with(
        config,
        &dual_stack(),
        WEB,
        &format!("[fd00::1]:8080 h2 via 4143 tls web.ns {LABELS}"),
    );
}

#[test]
fn an_address_without_an_object_is_bare() {
    let yaml = format!("{SERVICE}{}", slice(&["addresses: ['192.0.2.1']"]));
    check(&yaml, WEB, "192.0.2.1:8080 {zone= zone_locality=unknown}");
}

#[test]
fn an_address_of_another_kind_of_object_is_left_out() {
    let yaml = format!(
        "{SERVICE}{}",
        slice(&["addresses: ['192.0.2.1'], targetRef: {kind: Node, name: node-a}"])
    );
    check(&yaml, WEB, "no endpoints");
}

#[test]
fn a_mirrored_service_is_reached_through_its_gateway() {
    let yaml = format!("{SERVICE}{}", slice(&["addresses: ['192.0.2.1']"])).replace(
        "metadata: {name: web-x,",
        "metadata: {name: web-x, annotations: {mirror.linkerd.io/remote-svc-fq-name: \
         web.ns.svc.east.local, mirror.linkerd.io/remote-gateway-identity: gateway.example.org},",
    );
    check(
        &yaml,
        WEB,
        "192.0.2.1:8080 h2 tls gateway.example.org authority web.ns.svc.east.local:80 \
         {zone= zone_locality=unknown}",
    );
}

const MACHINE: &str = "---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: machine-1, namespace: ns, ownerReferences: [{kind: Fleet, name: f}]}
spec:
  meshTLS: {identity: 'spiffe://root.example/machine', serverName: machine.example}
  ports: [{name: http, port: 8080}, {name: linkerd-proxy, port: 5143}]
  workloadIPs: [{ip: 192.0.2.7}]
status: {conditions: [{type: Ready, status: 'True'}]}
";

#[test]
fn an_external_workload_is_reached_through_its_proxy_by_its_own_identity() {
    let reference =
        "addresses: ['192.0.2.7'], targetRef: {kind: ExternalWorkload, name: machine-1}";
    let labels = "{external_workload=machine-1 fleet=f zone= zone_locality=unknown}";
    let yaml = format!("{SERVICE}{MACHINE}{}", slice(&[reference]));
    let tls = "tls spiffe://root.example/machine sni machine.example";
    check(&yaml, WEB, &format!("192.0.2.7:8080 h2 via 5143 {tls} {labels}"));
    let unnamed = yaml.replace(", {name: linkerd-proxy, port: 5143}", "");
    check(&unnamed, WEB, &format!("192.0.2.7:8080 h2 via 4143 {tls} {labels}"));
    // A slice must not lead to machines of other namespaces.
    let elsewhere =
        yaml.replace("name: machine-1, namespace: ns", "name: machine-1, namespace: other");
    check(
        &elsewhere.replace(
            "kind: ExternalWorkload, name",
            "kind: ExternalWorkload, namespace: other, name",
        ),
        WEB,
        "no endpoints",
    );
}

#[test]
fn external_workloads_that_a_service_selects_stand_behind_it_without_a_slice() {
    let machine = MACHINE.replace("metadata: {", "metadata: {labels: {app: web}, ");
    let yaml = format!("{SERVICE}{machine}");
    let labels = "{external_workload=machine-1 fleet=f zone= zone_locality=unknown}";
    let tls = "tls spiffe://root.example/machine sni machine.example";
    let expect = format!("192.0.2.7:8080 h2 via 5143 {tls} {labels}");
    check(&yaml, WEB, &expect);

    // By the port that the service means, whether its target is a name or a number.
    check(
        &yaml.replace("targetPort: http", "targetPort: 9090"),
        WEB,
        &expect.replace("8080", "9090"),
    );
    check(&yaml.replace(", targetPort: http", ""), WEB, &expect.replace("8080", "80"));
    check(&yaml.replace("targetPort: http", "targetPort: other"), WEB, "no endpoints");

    for (change, to) in [
        ("status: 'True'", "status: 'False'"),
        ("app: web}, name: machine", "app: db}, name: machine"),
        ("name: machine-1, namespace: ns", "name: machine-1, namespace: other"),
        ("  selector: {app: web}\n", ""),
        ("192.0.2.7", "2001:db8::7"),
    ] {
        assert!(yaml.contains(change), "{change}");
        check(&yaml.replace(change, to), WEB, "no endpoints");
    }
    let early = yaml
        .replace("status: 'True'", "status: 'False'")
        .replace("selector: {app: web}", "selector: {app: web}\n  publishNotReadyAddresses: true");
    check(&early, WEB, &expect);

    // Pods and machines side by side.
    let pods = meshed("web-1", "10.1.0.1") + &slice(&[&entry("web-1", "10.1.0.1")]);
    let pod = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&format!("{yaml}{pods}"), WEB, &format!("{pod}\n{expect}"));

    // A slice that somebody wrote for it says all there is to say.
    let reference =
        "addresses: ['192.0.2.8'], targetRef: {kind: ExternalWorkload, name: machine-1}";
    let written = format!("{yaml}{}", slice(&[reference]));
    check(&written, WEB, &expect.replace("192.0.2.7", "192.0.2.8"));

    let zoned = format!(
        "{NODES}{}",
        yaml.replace("labels: {app: web}", "labels: {app: web, topology.kubernetes.io/zone: east}")
    );
    let expect = expect.replace("zone= zone_locality=unknown", "zone=east zone_locality=local");
    check(&zoned, &format!("{WEB} from node-a"), &expect);
}

#[test]
fn a_machine_of_both_families_is_reached_by_the_one_that_is_switched_on() {
    let machine = MACHINE
        .replace("metadata: {", "metadata: {labels: {app: web}, ")
        .replace("[{ip: 192.0.2.7}]", "[{ip: 192.0.2.7}, {ip: '2001:db8::7'}]");
    let yaml = format!("{SERVICE}{machine}");
    let expect = |address: &str| {
        format!(
            "{address}:8080 h2 via 5143 tls spiffe://root.example/machine sni machine.example \
             {{external_workload=machine-1 fleet=f zone= zone_locality=unknown}}"
        )
    };
    check(&yaml, WEB, &expect("192.0.2.7"));
    let config = ClusterConfig { ipv6: true, ..Default::default() };
    check_with(config, &yaml, WEB, &expect("[2001:db8::7]"));
}

#[test]
fn questions_that_can_have_no_answer_are_refused() {
    let invalid = |path: &str, reason: &str| {
        check("", &format!("endpoints {path}"), &format!("Invalid({reason:?})"));
    };
    invalid("10.1.0.1:80", "IP queries not supported by Get API");
    invalid("web.ns:80", "Invalid authority: web.ns");
    invalid("web.ns.svc.cluster.example:80", "Invalid authority: web.ns.svc.cluster.example");
    invalid("ns.svc.cluster.local:80", "Invalid authority: ns.svc.cluster.local");
    invalid("a.b.web.ns.svc.cluster.local:80", "Invalid authority: a.b.web.ns.svc.cluster.local");
    check("", WEB, "NotFound(\"service ns/web not found\")");
    let external = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {type: ExternalName, externalName: example.org}
";
    check(external, WEB, "Invalid(\"service ns/web is of type ExternalName\")");
}

#[test]
fn an_authority_without_a_port_means_port_80() {
    let expect = format!("10.1.0.1:8080 h2 via 4143 tls web.ns {LABELS}");
    check(&web(&[PodText::default()]), "endpoints web.ns.svc.cluster.local", &expect);
}
