//! What statuses say, and that it is what happens.

use crate::world::{SERVICE, check, check_with};
use hauberk_index::ClusterConfig;

const ROUTE: &str = "status HTTPRoute.gateway.networking.k8s.io ns/r";

/// A route in `ns` on port 80 of service `web`.
fn route(kind: &str, annotations: &str, rules: &str) -> String {
    on("{group: '', kind: Service, name: web, port: 80}", kind, annotations, rules)
}

fn on(parent: &str, kind: &str, annotations: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: ns, generation: 3, annotations: {annotations}}}
spec: {{parentRefs: [{parent}], rules: {rules}}}
"
    )
}

fn http(rules: &str) -> String {
    SERVICE.to_owned() + &route("HTTPRoute", "{}", rules)
}

fn says(yaml: &str, conditions: &str) {
    check(yaml, ROUTE, &format!("generation 3\non Service web:80\n{conditions}"));
}

const FINE: &str = "Accepted Accepted\nResolvedRefs ResolvedRefs";

#[test]
fn a_route_that_counts_says_so() {
    says(&http("[{}]"), FINE);
    says(&http("[{backendRefs: [{name: web, port: 80}]}]"), FINE);
    for kind in ["GRPCRoute", "TLSRoute", "TCPRoute"] {
        let yaml = SERVICE.to_owned() + &route(kind, "{}", "[{}]");
        let question = format!("status {kind}.gateway.networking.k8s.io ns/r");
        check(&yaml, &question, &format!("generation 3\non Service web:80\n{FINE}"));
    }
    let own = http("[{}]").replace("gateway.networking.k8s.io/v1", "policy.linkerd.io/v1");
    let question = "status HTTPRoute.policy.linkerd.io ns/r";
    check(&own, question, &format!("generation 3\non Service web:80\n{FINE}"));
}

#[test]
fn references_that_lead_nowhere_are_named() {
    let accepted =
        |yaml: &str, resolved: &str| says(yaml, &format!("Accepted Accepted\n{resolved}"));
    accepted(
        &http("[{}, {backendRefs: [{name: web, port: 80}, {name: gone, port: 80}]}]"),
        "not ResolvedRefs BackendNotFound: Service not found gone",
    );
    accepted(
        &http("[{backendRefs: [{kind: Gateway, name: g}]}]"),
        "not ResolvedRefs InvalidKind: a backend cannot be of kind Gateway",
    );
    accepted(
        &http(
            "[{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: e, port: 1}]}]",
        ),
        "not ResolvedRefs InvalidKind: an egress network can only be a backend of its own routes",
    );
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}";
    for rules in [
        format!("[{{filters: [{mirror}]}}]"),
        format!("[{{backendRefs: [{{name: web, port: 80, filters: [{mirror}]}}]}}]"),
    ] {
        accepted(&http(&rules), "not ResolvedRefs BackendNotFound: Service not found gone");
    }
    let other =
        SERVICE.replace("namespace: ns}", "namespace: other}").replace("10.96.0.1", "10.96.0.2");
    let yaml = other + &http("[{backendRefs: [{name: web, namespace: other, port: 80}]}]");
    accepted(&yaml, "ResolvedRefs ResolvedRefs");
    let strict = ClusterConfig { requires_reference_grants: true, ..ClusterConfig::default() };
    check_with(
        strict,
        &yaml,
        ROUTE,
        "generation 3
         on Service web:80
         Accepted Accepted
         not ResolvedRefs RefNotPermitted: no ReferenceGrant in other lets HTTPRoute of ns refer to service web",
    );
}

#[test]
fn parents_that_take_no_route_are_named() {
    let refused = |yaml: &str, why: &str| {
        says(yaml, &format!("not Accepted {why}\nResolvedRefs ResolvedRefs"));
    };
    let alone = route("HTTPRoute", "{}", "[{}]");
    refused(&alone, "NoMatchingParent: Service ns/web does not exist");
    let headless =
        SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: None").replace("[10.96.0.1]", "[None]");
    refused(&(headless + &alone), "NoMatchingParent: parent service must have a ClusterIP");
    let external = SERVICE.replace("spec:", "spec:\n  type: ExternalName");
    refused(&(external + &alone), "NoMatchingParent: parent service must have a ClusterIP");
    let other_port = SERVICE.replace("port: 80", "port: 81");
    refused(&(other_port + &alone), "NoMatchingParent: the service has no TCP port 80");
    // A parent of a kind that is not the mesh's is for others to speak about.
    let gateway = on("{name: g}", "HTTPRoute", "{}", "[{}]");
    check(&gateway, ROUTE, "generation 3");
}

#[test]
fn a_more_specific_kind_of_route_wins_where_it_can_be_seen() {
    let conflict =
        "not Accepted RouteReasonConflicted: a more specific kind of route hangs on the same place
        ResolvedRefs ResolvedRefs";
    let grpc = route("GRPCRoute", "{}", "[{}]");
    says(&(http("[{}]") + &grpc), conflict);
    let tcp = SERVICE.to_owned() + &route("TCPRoute", "{}", "[{}]") + &grpc;
    let question = "status TCPRoute.gateway.networking.k8s.io ns/r";
    check(&tcp, question, &format!("generation 3\non Service web:80\n{conflict}"));
    let question = "status GRPCRoute.gateway.networking.k8s.io ns/r";
    check(&tcp, question, &format!("generation 3\non Service web:80\n{FINE}"));
    // Another place.
    let elsewhere = on("{group: core, kind: Service, name: web}", "GRPCRoute", "{}", "[{}]");
    says(&(http("[{}]") + &elsewhere), FINE);
    // A consumer's route bothers nobody else.
    let parent = "{group: core, kind: Service, name: web, namespace: ns, port: 80}";
    let consumer =
        on(parent, "GRPCRoute", "{}", "[{}]").replace("namespace: ns, gen", "namespace: far, gen");
    says(&(http("[{}]") + &consumer), FINE);
}

#[test]
fn what_cannot_be_used_is_named() {
    let refused = |yaml: &str, why: &str| {
        says(yaml, &format!("not Accepted UnsupportedValue: {why}\nResolvedRefs ResolvedRefs"));
    };
    refused(&http("[{filters: [{type: ExtensionRef}]}]"), "a filter of this type is not supported");
    refused(&http("[{matches: [{path: {value: x}}]}]"), "path 'x' does not begin with '/'");
    refused(
        &http(
            "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, percent: 200}}]}]",
        ),
        "200 out of 100 is no share of requests",
    );
    let annotated =
        |annotations: &str| SERVICE.to_owned() + &route("HTTPRoute", annotations, "[{}]");
    refused(
        &annotated("{timeout.linkerd.io/request: soon}"),
        "timeout.linkerd.io/request: 'soon' is not a duration: expected a whole number and a unit",
    );
    refused(
        &annotated("{fault.hauberk.io/delay: 1h}"),
        "fault.hauberk.io/delay: a delay is more than 0 and at most 60s",
    );
    refused(
        &annotated("{fault.hauberk.io/failure: 503;percent=500}"),
        "fault.hauberk.io/failure: 'percent=500' is not percent=N with N from 0 to 100",
    );
    let tcp = SERVICE.to_owned() + &route("TCPRoute", "{}", "[{}, {}]");
    check(
        &tcp,
        "status TCPRoute.gateway.networking.k8s.io ns/r",
        "generation 3
         on Service web:80
         not Accepted UnsupportedValue: the route has 2 rules; it must have exactly one
         ResolvedRefs ResolvedRefs",
    );
    // A backend alone does not spoil the route.
    says(
        &http("[{backendRefs: [{name: web, port: 80, filters: [{type: ExtensionRef}]}]}]"),
        &format!(
            "{FINE}\nPartiallyInvalid UnsupportedValue: backend web: a filter of this type is not supported"
        ),
    );
}

#[test]
fn routes_on_servers_say_whether_they_count() {
    let server = "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: s, namespace: ns}
spec: {podSelector: {}, port: 80}
";
    let parent = "{group: policy.linkerd.io, kind: Server, name: s}";
    let is = |yaml: &str, kind: &str, expect: &str| {
        let question = format!("status {kind}.gateway.networking.k8s.io ns/r");
        check(yaml, &question, &format!("generation 3\non Server s\n{expect}"));
    };
    let good = on(parent, "HTTPRoute", "{}", "[{}]");
    is(&(server.to_owned() + &good), "HTTPRoute", "Accepted Accepted");
    is(
        &good,
        "HTTPRoute",
        "not Accepted NoMatchingParent: Server.policy.linkerd.io ns/s does not exist",
    );
    let rewrite = on(
        parent,
        "HTTPRoute",
        "{}",
        "[{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]",
    );
    is(
        &(server.to_owned() + &rewrite),
        "HTTPRoute",
        "not Accepted UnsupportedValue: a server's routes cannot rewrite URLs",
    );
    let mirror =
        "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]}]";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        is(
            &(server.to_owned() + &on(parent, kind, "{}", mirror)),
            kind,
            "not Accepted UnsupportedValue: a server's routes cannot mirror requests",
        );
        is(
            &(server.to_owned() + &on(parent, kind, "{fault.hauberk.io/delay: 1s}", "[{}]")),
            kind,
            "not Accepted UnsupportedValue: a server's routes cannot delay requests",
        );
    }
    is(
        &(server.to_owned() + &on(parent, "TCPRoute", "{}", "[{}]")),
        "TCPRoute",
        "not Accepted UnsupportedValue: a server takes HTTP and gRPC routes only",
    );
    let far = "{group: policy.linkerd.io, kind: Server, name: s, port: 80}";
    check(
        &(server.to_owned() + &on(far, "HTTPRoute", "{}", "[{}]")),
        ROUTE,
        "generation 3
         on Server s:80
         not Accepted UnsupportedValue: servers are named within the route's namespace, without port and section",
    );
}

#[test]
fn egress_networks_and_their_routes_say_whether_they_count() {
    let network = |cidr: &str| {
        format!(
            "---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {{name: e, namespace: ns}}
spec: {{trafficPolicy: Deny, networks: [{{cidr: {cidr}}}]}}
"
        )
    };
    let question = "status EgressNetwork.policy.linkerd.io ns/e";
    check(&network("198.51.100.0/24"), question, "Accepted Accepted");
    check(
        &network("10.0.0.0/8"),
        question,
        "not Accepted EgressReasonNetworkOverlap: its networks overlap with those of the cluster",
    );
    let backend =
        "[{backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: e, port: 443}]}]";
    let of = |port: &str| {
        on(
            &format!("{{group: policy.linkerd.io, kind: EgressNetwork, name: e{port}}}"),
            "TLSRoute",
            "{}",
            backend,
        )
    };
    let is = |yaml: &str, expect: &str| {
        check(
            yaml,
            "status TLSRoute.gateway.networking.k8s.io ns/r",
            &format!("generation 3\n{expect}"),
        );
    };
    let good = network("198.51.100.0/24");
    is(&(good.clone() + &of(", port: 443")), &format!("on EgressNetwork e:443\n{FINE}"));
    is(
        &(good + &of("")),
        "on EgressNetwork e
         not Accepted NoMatchingParent: a route on an egress network names a port of it
         ResolvedRefs ResolvedRefs",
    );
    is(
        &(network("10.0.0.0/8") + &of(", port: 443")),
        "on EgressNetwork e:443
         not Accepted NoMatchingParent: the egress network is not accepted
         ResolvedRefs ResolvedRefs",
    );
}

#[test]
fn of_several_rate_limits_the_oldest_says_that_it_counts() {
    let server = "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: s, namespace: ns}
spec: {podSelector: {}, port: 80}
";
    let limit = |name: &str, year: u32| {
        format!("---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {{name: {name}, namespace: ns, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec: {{targetRef: {{group: policy.linkerd.io, kind: Server, name: s}}, total: {{requestsPerSecond: 1}}}}
")
    };
    let both = limit("a", 2022) + &limit("b", 2021);
    let status =
        |name: &str| format!("status HTTPLocalRateLimitPolicy.policy.linkerd.io ns/{name}");
    let yaml = server.to_owned() + &both;
    check(&yaml, &status("b"), "Accepted Accepted");
    check(
        &yaml,
        &status("a"),
        "not Accepted RateLimitReasonAlreadyExists: b is older and counts for the server",
    );
    check(&both, &status("b"), "not Accepted NoMatchingTarget: there is no server s");
}

#[test]
fn objects_without_a_status_of_ours_are_refused() {
    check(SERVICE, ROUTE, "NotFound(\"there is no HTTPRoute.gateway.networking.k8s.io ns/r\")");
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: ns}
spec: {}
";
    check(
        grant,
        "status ReferenceGrant.gateway.networking.k8s.io ns/g",
        "Invalid(\"the mesh says nothing in the status of ReferenceGrant.gateway.networking.k8s.io\")",
    );
}
