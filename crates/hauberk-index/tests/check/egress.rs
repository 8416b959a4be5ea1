//! Egress networks: what is allowed outside of the cluster.

use crate::world::check;

const OUTSIDE: &str = "outbound 198.51.100.1:443";

fn egress(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
"
    )
}

/// The policy of an egress network without routes.
fn open(network: &str) -> String {
    let to = format!("to 198.51.100.1:443 (EgressNetwork {network}:443)");
    format!(
        "EgressNetwork {network}:443: detect 10s
         http http-egress-allow []
         {to}
         opaque tcp-egress-allow
         {to}"
    )
}

const FALLBACK: &str = "default egress-fallback: detect 10s
    http egress-fallback []
    to 198.51.100.1:443 (default egress-fallback)
    opaque egress-fallback
    to 198.51.100.1:443 (default egress-fallback)";

#[test]
fn an_egress_network_allows_or_refuses() {
    check(&egress("e", "client", "trafficPolicy: Allow"), OUTSIDE, &open("client/e"));
    let to = "to 198.51.100.1:443 (EgressNetwork client/e:443)";
    check(
        &egress("e", "client", "trafficPolicy: Deny"),
        OUTSIDE,
        &format!(
            "EgressNetwork client/e:443: detect 10s
             http http-egress-deny []
             {to}
             InjectFailure(InjectHttpFailure {{ status: 403, message: \"traffic not allowed\", \
             ratio: Ratio {{ numerator: 1, denominator: 1 }} }})
             opaque tcp-egress-deny [Forbidden]
             {to}"
        ),
    );
}

#[test]
fn the_clients_networks_hide_the_global_ones() {
    let global = egress("g", "linkerd-egress", "trafficPolicy: Allow");
    check(&global, OUTSIDE, &open("linkerd-egress/g"));
    let own = egress("e", "client", "trafficPolicy: Allow, networks: [{cidr: 203.0.113.0/24}]");
    check(&(global.clone() + &own), OUTSIDE, FALLBACK);
    let other = egress("e", "other", "trafficPolicy: Allow");
    check(&(global + &other), OUTSIDE, &open("linkerd-egress/g"));
}

#[test]
fn the_narrowest_network_wins_then_the_first_by_name() {
    let wide = egress("a", "client", "trafficPolicy: Allow");
    let narrow = egress("z", "client", "trafficPolicy: Allow, networks: [{cidr: 198.51.100.0/24}]");
    check(&(wide.clone() + &narrow), OUTSIDE, &open("client/z"));
    check(&(wide.clone() + &wide.replace("name: a", "name: b")), OUTSIDE, &open("client/a"));
    let except =
        "trafficPolicy: Allow, networks: [{cidr: 198.51.100.0/24, except: [198.51.100.1]}]";
    check(&(wide + &egress("z", "client", except)), OUTSIDE, &open("client/a"));
}

#[test]
fn without_networks_everything_outside_of_the_cluster_is_meant() {
    let yaml = egress("e", "client", "trafficPolicy: Allow");
    check(&yaml, "outbound 10.1.0.1:443", "NotFound(\"No such service\")");
    let v6 = open("client/e").replace("198.51.100.1", "[2001:db8::1]");
    check(&yaml, "outbound [2001:db8::1]:443", &v6);
}

#[test]
fn routes_of_an_egress_network_come_before_its_policy() {
    let route = |port: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: client}}
spec:
  parentRefs: [{{group: policy.linkerd.io, kind: EgressNetwork, name: e{port}}}]
  rules: [{{matches: [{{path: {{value: /ok}}}}], backendRefs: [{{group: policy.linkerd.io, kind: EgressNetwork, name: e}}]}}]
"
        )
    };
    let network = egress("e", "client", "trafficPolicy: Allow");
    let to = "to 198.51.100.1:443 (EgressNetwork client/e:443)";
    check(
        &(network.clone() + &route(", port: 443")),
        OUTSIDE,
        &format!(
            "EgressNetwork client/e:443: detect 10s
             http HTTPRoute client/r []
             /ok*
             1 {to}
             http http-egress-allow []
             {to}
             opaque tcp-egress-allow
             {to}"
        ),
    );
    check(&(network + &route("")), OUTSIDE, &open("client/e"));
    // Nor on a network that reaches into the cluster.
    let overlapping = egress("e", "client", "trafficPolicy: Allow, networks: [{cidr: 0.0.0.0/0}]");
    check(&(overlapping + &route(", port: 443")), OUTSIDE, &open("client/e"));
}

#[test]
fn tls_and_tcp_routes_come_before_its_policy_too() {
    let route = |kind: &str, spec: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: {kind}
metadata: {{name: r, namespace: client}}
spec:
  parentRefs: [{{group: policy.linkerd.io, kind: EgressNetwork, name: e, port: 443}}]
  {spec}
"
        )
    };
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: proxy, namespace: client}
spec: {clusterIP: 10.96.0.9, ports: [{port: 3128}]}
";
    let backends = "rules: [{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: e, weight: 3}, \
        {name: proxy, port: 3128}, {name: gone, port: 1, weight: 0}]}]";
    let to = "to 198.51.100.1:443 (EgressNetwork client/e:443)";
    let split = format!(
        "3 {to}
         1 to proxy.client.svc.cluster.local:3128 (Service client/proxy:3128)
         0 to invalid: Service not found gone (default invalid gone)"
    );
    let deny = egress("e", "client", "trafficPolicy: Deny") + service;
    let names = "hostnames: [good.example, '*.example.org']\n  ";
    check(
        &(deny.clone() + &route("TLSRoute", &format!("{names}{backends}"))),
        OUTSIDE,
        &format!(
            "EgressNetwork client/e:443: tls
             tls TLSRoute client/r [Exact(\"good.example\"), Suffix(\".example.org\")] []
             {split}
             tls tls-egress-deny [] [Forbidden]
             {to}"
        ),
    );
    check(
        &(deny + &route("TCPRoute", backends)),
        OUTSIDE,
        &format!(
            "EgressNetwork client/e:443: opaque
             opaque TCPRoute client/r
             {split}
             opaque tcp-egress-deny [Forbidden]
             {to}"
        ),
    );
    let allow = egress("e", "client", "trafficPolicy: Allow") + service;
    check(
        &(allow + &route("TLSRoute", "rules: [{}]")),
        OUTSIDE,
        &format!(
            "EgressNetwork client/e:443: tls
             tls TLSRoute client/r [] []
             {to}
             tls tls-egress-allow [] []
             {to}"
        ),
    );
}

#[test]
fn opaque_ports_hold_outside_too() {
    let to = "to 198.51.100.1:3306 (EgressNetwork client/e:3306)";
    check(
        &egress("e", "client", "trafficPolicy: Allow"),
        "outbound 198.51.100.1:3306",
        &format!("EgressNetwork client/e:3306: opaque\nopaque tcp-egress-allow\n{to}"),
    );
}

#[test]
fn tls_routes_of_an_egress_network_go_by_server_names_and_the_policy_comes_last() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: r, namespace: client}
spec:
  hostnames: [api.example.org, '*.shops.example']
  parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: e, port: 443}]
  rules: [{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: e}]}]
";
    let to = "to 198.51.100.1:443 (EgressNetwork client/e:443)";
    let expect = |policy: &str, filters: &str| {
        format!(
            "EgressNetwork client/e:443: tls
             tls TLSRoute client/r [Exact(\"api.example.org\"), Suffix(\".shops.example\")] []
             1 {to}
             tls tls-egress-{policy} [] [{filters}]
             {to}"
        )
    };
    for (written, policy, filters) in [("Deny", "deny", "Forbidden"), ("Allow", "allow", "")] {
        let network = egress("e", "client", &format!("trafficPolicy: {written}"));
        check(&(network + route), OUTSIDE, &expect(policy, filters));
    }
}
