//! `InboundServerPolicies`: what a port of a workload accepts.

use crate::world::{PodText, check, check_with, meshed};
use hauberk_index::ClusterConfig;
use hauberk_model::inbound::DefaultPolicy;
use hauberk_resources::{Resource, yaml};

const PORT: &str = "inbound ns/web-1:8080";

fn pod() -> String {
    meshed("web-1", "10.1.0.1")
}

fn annotated(annotations: &str) -> String {
    PodText { annotations, ..Default::default() }.yaml()
}

#[test]
fn an_unknown_pod_is_not_found() {
    check("", PORT, "NotFound(\"unknown server\")");
    check(&pod(), "inbound other/web-1:8080", "NotFound(\"unknown server\")");
}

#[test]
fn a_port_without_a_server_follows_the_clusters_default() {
    let with = |policy, expect: &str| {
        let config = ClusterConfig { default_policy: policy, ..Default::default() };
        check_with(config, &pod(), PORT, expect);
    };
    with(
        DefaultPolicy::AllUnauthenticated,
        "default all-unauthenticated detect 10s
         route default
         allow all-unauthenticated anybody from anywhere",
    );
    with(
        DefaultPolicy::AllAuthenticated,
        "default all-authenticated detect 10s
         route default
         allow all-authenticated * from anywhere",
    );
    with(
        DefaultPolicy::ClusterUnauthenticated,
        "default cluster-unauthenticated detect 10s
         route default
         allow cluster-unauthenticated anybody from cluster",
    );
    with(
        DefaultPolicy::ClusterAuthenticated,
        "default cluster-authenticated detect 10s
         route default
         allow cluster-authenticated * from cluster",
    );
    with(DefaultPolicy::Deny, "default deny detect 10s\nroute default");
    with(
        DefaultPolicy::Audit,
        "default audit detect 10s
         route default
         allow audit anybody from anywhere",
    );
}

#[test]
fn the_pods_annotation_beats_the_cluster_and_a_bad_one_counts_as_absent() {
    check(
        &annotated("{config.linkerd.io/default-inbound-policy: deny}"),
        PORT,
        "default deny detect 10s\nroute default",
    );
    check(
        &annotated("{config.linkerd.io/default-inbound-policy: denied}"),
        PORT,
        "default all-unauthenticated detect 10s
         route default
         allow all-unauthenticated anybody from anywhere",
    );
}

#[test]
fn ports_that_require_identity_are_for_the_authenticated_only() {
    let yaml = annotated("{config.linkerd.io/proxy-require-identity-inbound-ports: '8080'}");
    check(
        &yaml,
        PORT,
        "default all-authenticated detect 10s
         route default
         allow all-authenticated * from anywhere",
    );
    check(
        &yaml,
        "inbound ns/web-1:8081",
        "default all-unauthenticated detect 10s
         route default
         allow all-unauthenticated anybody from anywhere",
    );
}

#[test]
fn opaque_ports_are_opaque_on_this_side_too() {
    let opaque = "default all-unauthenticated opaque
         allow all-unauthenticated anybody from anywhere";
    check(&annotated("{config.linkerd.io/opaque-ports: 'http,x'}"), PORT, opaque);
    check(&pod(), "inbound ns/web-1:3306", opaque);
}

#[test]
fn probes_pass_whatever_else_is_asked_of_clients() {
    let container =
        "ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}],
      startupProbe: {httpGet: {port: 8080}},
      livenessProbe: {httpGet: {path: '/live?x=1', port: http}},
      readinessProbe: {httpGet: {path: /ready, port: 9999}}";
    let annotations = "{config.linkerd.io/default-inbound-policy: deny}";
    let yaml = PodText { container, annotations, ..Default::default() }.yaml();
    let expect = |paths: &str| {
        format!(
            "default deny detect 10s
             route default
             route probe {paths}
             for it probe anybody from anywhere"
        )
    };
    check(&yaml, PORT, &expect("GET / | GET /live"));
    check(&yaml, "inbound ns/web-1:9999", &expect("GET /ready"));
    check(&yaml, "inbound ns/web-1:4191", &expect("GET /live | GET /ready"));
    check(&yaml, "inbound ns/web-1:1", "default deny detect 10s\nroute default");
    let config = ClusterConfig { probe_networks: Vec::new(), ..Default::default() };
    check_with(config, &yaml, PORT, "default deny detect 10s\nroute default");
}

/// A server on port `http` of app `web` with these fields more.
fn server(more: &str) -> String {
    format!(
        "---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: web, namespace: ns, labels: {{tier: front}}}}
spec: {{podSelector: {{matchLabels: {{app: web}}}}, port: http{more}}}
"
    )
}

const NOBODY: &str = "server web detect 10s\nroute default";

#[test]
fn a_server_lets_nobody_in_by_itself() {
    check(&(pod() + &server("")), PORT, NOBODY);
    check(&(pod() + &server(", accessPolicy: deny")), PORT, NOBODY);
}

#[test]
fn a_server_may_have_a_policy_of_its_own() {
    check(
        &(pod() + &server(", accessPolicy: audit")),
        PORT,
        "server web detect 10s
         route default
         allow audit anybody from anywhere",
    );
    check(
        &(pod() + &server(", accessPolicy: cluster-authenticated")),
        PORT,
        "server web detect 10s
         route default
         allow cluster-authenticated * from cluster",
    );
}

#[test]
fn a_server_says_what_is_spoken() {
    let check = |protocol: &str, expect: &str| {
        check(&(pod() + &server(&format!(", proxyProtocol: {protocol}"))), PORT, expect);
    };
    check("unknown", NOBODY);
    check("HTTP/1", "server web http1\nroute default");
    check("HTTP/2", "server web http2\nroute default");
    check("gRPC", "server web grpc\ngrpc route default");
    check("opaque", "server web opaque");
    check("TLS", "server web tls");
}

#[test]
fn a_server_beats_the_annotation_about_opaque_ports() {
    let yaml =
        annotated("{config.linkerd.io/opaque-ports: '8080'}") + &server(", proxyProtocol: HTTP/1");
    check(&yaml, PORT, "server web http1\nroute default");
}

#[test]
fn a_servers_port_by_number_needs_no_declaration_and_by_name_may_mean_several() {
    let by_number = pod() + &server("").replace("port: http", "port: 7777");
    check(&by_number, "inbound ns/web-1:7777", NOBODY);
    let container = "ports: [{name: http, containerPort: 8080}, {name: http, containerPort: 8081}]";
    let several = PodText { container, ..Default::default() }.yaml() + &server("");
    check(&several, PORT, NOBODY);
    check(&several, "inbound ns/web-1:8081", NOBODY);
    // The sidecar's ports are found by name too.
    let admin = pod() + &server("").replace("port: http", "port: linkerd-admin");
    check(
        &admin,
        "inbound ns/web-1:4191",
        "server web detect 10s
         route default
         route probe GET /live | GET /ready
         for it probe anybody from anywhere",
    );
}

fn older_authorization(spec: &str) -> String {
    format!(
        "---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {{name: older, namespace: ns}}
spec: {spec}
"
    )
}

#[test]
fn server_authorizations_name_clients_in_many_ways() {
    let check = |spec: &str, allows: &str| {
        let yaml = pod() + &server("") + &older_authorization(spec);
        check(&yaml, PORT, &format!("{NOBODY}\n{allows}"));
    };
    check(
        "{server: {name: web}, client: {unauthenticated: true}}",
        "allow serverauthorization/older anybody from cluster",
    );
    check(
        "{server: {name: web}, client: {unauthenticated: true, networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidr: 192.0.2.1}]}}",
        "allow serverauthorization/older anybody from 10.0.0.0/8 except 10.1.0.0/16,192.0.2.1/32",
    );
    check(
        "{server: {selector: {matchLabels: {tier: front}}}, client: {meshTLS: {unauthenticatedTLS: true}}}",
        "allow serverauthorization/older any TLS from cluster",
    );
    check(
        "{server: {name: web}, client: {meshTLS: {identities: ['*', '*.x.serviceaccount.identity.linkerd.cluster.local'], serviceAccounts: [{name: a}, {name: b, namespace: other}]}}}",
        "allow serverauthorization/older *,*.x,a.ns,b.other from cluster",
    );
    // Nothing said about clients permits nothing.
    check("{server: {name: web}, client: {}}", "");
    check("{server: {name: other}, client: {unauthenticated: true}}", "");
    check("{server: {selector: {matchLabels: {tier: back}}}, client: {unauthenticated: true}}", "");
}

fn policy(spec: &str) -> String {
    format!(
        "---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: policy, namespace: ns}}
spec: {spec}
"
    )
}

const AUTHENTICATIONS: &str = "---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: friends, namespace: ns}
spec:
  identityRefs: [{kind: ServiceAccount, name: a}, {kind: ServiceAccount, name: b, namespace: other}, {kind: Namespace, name: whole}]
  identities: ['spiffe://root/x']
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: near, namespace: other}
spec: {networks: [{cidr: 10.1.0.0/16}]}
";
const TO_SERVER: &str = "targetRef: {group: policy.linkerd.io, kind: Server, name: web}";
const FRIENDS: &str = "{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: friends}";
const NEAR: &str =
    "{group: policy.linkerd.io, kind: NetworkAuthentication, name: near, namespace: other}";

#[track_caller]
fn check_policy(spec: &str, allows: &str) {
    let yaml = pod() + &server("") + AUTHENTICATIONS + &policy(spec);
    check(&yaml, PORT, &format!("{NOBODY}\n{allows}"));
}

#[test]
fn an_authorization_policy_requires_all_it_names() {
    check_policy(
        &format!("{{{TO_SERVER}, requiredAuthenticationRefs: [{FRIENDS}, {NEAR}]}}"),
        "allow authorizationpolicy/policy spiffe://root/x,a.ns,b.other,*.whole from 10.1.0.0/16",
    );
    check_policy(
        &format!("{{{TO_SERVER}, requiredAuthenticationRefs: [{NEAR}]}}"),
        "allow authorizationpolicy/policy anybody from 10.1.0.0/16",
    );
    check_policy(
        &format!(
            "{{{TO_SERVER}, requiredAuthenticationRefs: [{{kind: ServiceAccount, name: a}}]}}"
        ),
        "allow authorizationpolicy/policy a.ns from anywhere",
    );
    check_policy(
        &format!("{{{TO_SERVER}, requiredAuthenticationRefs: []}}"),
        "allow authorizationpolicy/policy anybody from anywhere",
    );
}

#[test]
fn an_authorization_policy_with_a_missing_or_unclear_requirement_permits_nothing() {
    let missing = FRIENDS.replace("friends", "enemies");
    check_policy(&format!("{{{TO_SERVER}, requiredAuthenticationRefs: [{missing}]}}"), "");
    let account = "{kind: ServiceAccount, name: a}";
    for refs in [
        &*format!("{FRIENDS}, {account}"),
        &format!("{NEAR}, {NEAR}"),
        "{kind: Secret, name: x}",
        "{group: policy.linkerd.io, kind: Server, name: web}",
    ] {
        check_refused(&format!("{{{TO_SERVER}, requiredAuthenticationRefs: [{refs}]}}"));
    }
}

/// A policy of this spec, and beside it the text: the parser refuses it, so that it is nowhere in
/// force.
fn check_refused(spec: &str) {
    let value = yaml::parse(&policy(spec)).expect("YAML");
    Resource::parse(value).expect_err(spec);
    check(&(pod() + &server("") + AUTHENTICATIONS), PORT, NOBODY);
}

#[test]
fn a_network_authentication_without_networks_permits_nothing() {
    let (values, _) = yaml::documents(&AUTHENTICATIONS.replace("[{cidr: 10.1.0.0/16}]", "[]"));
    let refused = values.into_iter().filter(|value| Resource::parse(value.clone()).is_err());
    assert_eq!(refused.count(), 1, "the parser refuses it");
    // So the policy refers to nothing.
    let yaml = pod()
        + &server("")
        + &policy(&format!("{{{TO_SERVER}, requiredAuthenticationRefs: [{NEAR}]}}"));
    check(&yaml, PORT, NOBODY);
}

#[test]
fn an_authorization_policy_may_be_for_its_whole_namespace() {
    let allows = "allow authorizationpolicy/policy anybody from anywhere";
    check_policy(
        "{targetRef: {kind: Namespace, name: ns}, requiredAuthenticationRefs: []}",
        allows,
    );
    check_policy(
        "{targetRef: {group: core, kind: namespace, name: ns}, requiredAuthenticationRefs: []}",
        allows,
    );
    check_refused("{targetRef: {kind: Namespace, name: other}, requiredAuthenticationRefs: []}");
    let foreign =
        policy("{targetRef: {kind: Namespace, name: other}, requiredAuthenticationRefs: []}")
            .replace("namespace: ns}", "namespace: other}");
    check(&(pod() + &server("") + &foreign), PORT, NOBODY);
}

#[test]
fn references_do_not_mind_case() {
    check_policy(
        "{targetRef: {group: Policy.Linkerd.io, kind: server, name: WEB}, requiredAuthenticationRefs: []}",
        "allow authorizationpolicy/policy anybody from anywhere",
    );
}

#[test]
fn authorizations_of_the_server_come_before_those_of_the_namespace_and_its_own_policy() {
    let of_namespace =
        policy("{targetRef: {kind: Namespace, name: ns}, requiredAuthenticationRefs: []}")
            .replace("name: policy,", "name: a,");
    let yaml = pod()
        + &server(", accessPolicy: all-authenticated")
        + &of_namespace
        + &policy(&format!("{{{TO_SERVER}, requiredAuthenticationRefs: []}}"))
        + &older_authorization("{server: {name: web}, client: {unauthenticated: true}}");
    check(
        &yaml,
        PORT,
        &format!(
            "{NOBODY}
             allow authorizationpolicy/policy anybody from anywhere
             allow serverauthorization/older anybody from cluster
             allow authorizationpolicy/a anybody from anywhere
             allow all-authenticated * from anywhere"
        ),
    );
}

#[test]
fn servers_select_external_workloads_by_their_own_selector() {
    let machine = "---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: machine-1, namespace: ns, labels: {app: web}}
spec:
  meshTLS: {identity: machine.example, serverName: machine.example}
  ports: [{name: http, port: 8080}]
  workloadIPs: [{ip: 192.0.2.7}]
";
    let question = "inbound ns/machine-1:8080";
    let by_default = "default all-unauthenticated detect 10s
         route default
         allow all-unauthenticated anybody from anywhere";
    check(&(machine.to_owned() + &server("")), question, by_default);
    let selected = server("").replace("podSelector", "externalWorkloadSelector");
    check(&(machine.to_owned() + &selected), question, NOBODY);
    check(&(pod() + &selected), PORT, by_default);
}

#[test]
fn questions_that_name_no_workload_are_refused() {
    let config = ClusterConfig::default();
    let question = hauberk_index::Question::new(&config);
    assert_eq!(
        question.inbound("ns:web-1", 80),
        question.inbound(r#"{"ns":"ns","pod":"web-1"}"#, 80)
    );
    for workload in [
        "",
        "web-1",
        ":web-1",
        "ns:",
        "{}",
        r#"{"ns":"ns"}"#,
        r#"{"ns":"a","pod":"b","external_workload":"c"}"#,
    ] {
        assert!(question.inbound(workload, 80).is_err(), "{workload}");
    }
    assert!(question.inbound("ns:web-1", 0).is_err());
    assert!(question.inbound("ns:web-1", 65536).is_err());
}
