//! What is read from objects, and how a broken one is refused.

use hauberk_resources::{
    IntOrString, Invalid, Kind, Protocol, Resource, ResourceKey, ServiceType, TrafficScope,
    Verdict, yaml,
};

fn parse(text: &str) -> Result<Resource, Invalid> {
    Resource::parse(yaml::parse(text).expect("YAML"))
}

/// Parses an object whose refusal must read as expected.
#[track_caller]
fn refuses(text: &str, expect: &str) {
    let error = parse(text).expect_err("must be refused");
    assert_eq!(error.to_string(), expect);
}

macro_rules! read {
    ($variant:ident, $text:expr) => {
        match parse($text).expect("must be read") {
            Resource::$variant(view) => view,
            other => panic!("read as {}", other.kind()),
        }
    };
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_its_object() {
    refuses(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}, {port: http}]}}",
        "Service (v1) shop/web: spec.ports[1].port: invalid type: string \"http\", expected u16",
    );
    refuses(
        "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: [{name: a, ports: [{containerPort: 70000}]}]}}",
        "Pod (v1) shop/web: spec.containers[0].ports[0].containerPort: invalid value: integer `70000`, expected u16",
    );
    refuses(
        "{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: web, namespace: shop}, spec: {podSelector: {}, port: 80, proxyProtocol: HTTP/3}}",
        "Server (policy.linkerd.io/v1beta3) shop/web: spec.proxyProtocol: unknown variant `HTTP/3`, expected one of `unknown`, `HTTP/1`, `HTTP/2`, `gRPC`, `opaque`, `TLS`",
    );
    refuses(
        "{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: web, namespace: shop}, spec: {podSelector: {}, port: 80, accessPolicy: allow}}",
        "Server (policy.linkerd.io/v1beta3) shop/web: spec.accessPolicy: 'allow' is no default policy; valid are all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny, audit",
    );
    refuses(
        "{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: web, namespace: shop}, spec: {port: 80}}",
        "Server (policy.linkerd.io/v1beta3) shop/web: spec: exactly one of podSelector and externalWorkloadSelector is needed",
    );
    refuses(
        "{apiVersion: policy.linkerd.io/v1alpha1, kind: NetworkAuthentication, metadata: {name: near, namespace: shop}, spec: {networks: [{cidr: 10.0.0.0/8}, {cidr: 10.0.0.0/33}]}}",
        "NetworkAuthentication (policy.linkerd.io/v1alpha1) shop/near: spec.networks[1].cidr: '10.0.0.0/33' is no network or address",
    );
}

#[test]
fn an_object_without_a_name_is_refused() {
    refuses(
        "{apiVersion: v1, kind: Pod, metadata: {}}",
        "Pod (v1) ?: metadata: missing field `name`",
    );
    refuses(
        "{apiVersion: v1, kind: Pod, metadata: {name: ''}}",
        "Pod (v1) ?: metadata.name: must not be empty",
    );
}

#[test]
fn kinds_the_mesh_does_not_read_are_told_apart_from_broken_ones() {
    let other = parse("{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: shop}}");
    let error = other.expect_err("not ours");
    assert!(error.is_unrecognised());
    assert_eq!(error.to_string(), "ConfigMap (v1) shop/c is of no kind the mesh reads");
    // The same kind of another group is another kind.
    assert!(parse("{apiVersion: example.org/v1, kind: Service, metadata: {name: s}}").is_err());
    assert!(parse("[1, 2]").expect_err("no object").is_unrecognised());
}

#[test]
fn unknown_fields_and_nulls_do_no_harm() {
    let pod = read!(
        Pod,
        "{apiVersion: v1, kind: Pod, metadata: {name: a, creationTimestamp: null, labels: null, annotations: null, managedFields: [{time: null}], ownerReferences: null}, \
         spec: {containers: null, initContainers: null, ephemeralContainers: [7], nodeName: null}, status: {phase: null, podIP: null, podIPs: null, somethingNew: 1}}"
    );
    assert_eq!(&*pod.metadata.namespace, "default");
    assert_eq!(pod.spec.service_account(), "default");
    assert!(pod.ips().is_empty());
    read!(Pod, "{apiVersion: v1, kind: Pod, metadata: {name: a}}");
    read!(Service, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: null, status: {}}");
}

#[test]
fn what_does_not_matter_to_the_mesh_leaves_objects_equal() {
    let with = |version: u32| {
        parse(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: node-1, resourceVersion: '{version}'}}, status: {{heartbeat: {version}}}}}"
        ))
    };
    assert_eq!(with(1).expect("must be read"), with(2).expect("must be read"));
}

#[test]
fn cluster_wide_kinds_have_no_namespace() {
    let node = parse("{apiVersion: v1, kind: Node, metadata: {name: node-1, namespace: x}}")
        .expect("read");
    assert_eq!(node.key(), ResourceKey::new(Kind::Node, "", "node-1"));
    assert_eq!(node.key(), ResourceKey::new(Kind::Node, "anything", "node-1"));
    assert_eq!(node.key().to_string(), "Node node-1");
}

#[test]
fn every_kind_is_found_by_its_group_and_name_whatever_the_version() {
    for kind in Kind::ALL {
        let api_version = match kind.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1beta7"),
        };
        assert_eq!(Kind::find(&api_version, kind.name()), Some(*kind));
    }
}

#[test]
fn a_service_tells_its_addresses_and_ports() {
    let service = read!(
        Service,
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], internalTrafficPolicy: Local, \
         ports: [{port: 53, protocol: UDP}, {name: http, port: 80, targetPort: web}, {port: 443, targetPort: 0}]}}"
    );
    assert_eq!(service.cluster_ips().len(), 2);
    assert!(!service.is_headless());
    assert_eq!(service.internal_traffic(), TrafficScope::Local);
    assert!(service.tcp_port(53).is_none());
    let name = |port| service.tcp_port(port).map(|port| &*port.name);
    assert_eq!((name(80), name(443), name(81)), (Some("http"), Some(""), None));
    let headless = read!(
        Service,
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: None}}"
    );
    assert!(headless.is_headless() && headless.cluster_ips().is_empty());
    let external = read!(
        Service,
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: ExternalName, externalName: example.org}}"
    );
    assert_eq!(external.kind(), ServiceType::ExternalName);
}

#[test]
fn probes_find_their_ports_in_their_own_container() {
    let pod = read!(
        Pod,
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [\
         {name: a, ports: [{name: web, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}], \
          startupProbe: {httpGet: {port: web}}, livenessProbe: {httpGet: {path: '/a?b', port: 81}}, readinessProbe: {httpGet: {port: dns}}}, \
         {name: b, livenessProbe: {httpGet: {port: web}}, readinessProbe: {tcpSocket: {port: 1}}}]}}"
    );
    let probes: Vec<_> = pod
        .spec
        .all_containers()
        .flat_map(|container| container.http_probes())
        .map(|(port, get)| (port, get.path()))
        .collect();
    assert_eq!(probes, [(80, "/"), (81, "/a")]);
}

#[test]
fn native_sidecars_are_containers_too() {
    let pod = read!(
        Pod,
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {initContainers: [{name: proxy, ports: [{name: admin, containerPort: 4191}]}], \
         containers: [{name: a, ports: [{name: admin, containerPort: 9}]}]}}"
    );
    assert_eq!(pod.spec.tcp_ports_named("admin").collect::<Vec<_>>(), [4191, 9]);
}

#[test]
fn a_slice_survives_ports_that_are_not_known_yet() {
    let slice = read!(
        EndpointSlice,
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, ownerReferences: [{kind: Service, name: web}]}, \
         addressType: IPv4, ports: [{name: a, port: 0}, {port: null}, {name: null, port: 80, protocol: TCP}], endpoints: [{addresses: [10.0.0.1, nonsense], conditions: null, hints: null}]}"
    );
    assert_eq!(slice.service(), Some("web"));
    assert_eq!(
        slice.ports.iter().map(|port| port.port).collect::<Vec<_>>(),
        [None, None, Some(80)]
    );
    assert_eq!(slice.ports[2].protocol, Protocol::Tcp);
    assert!(slice.endpoints[0].is_ready());
    assert_eq!(slice.endpoints[0].ips().count(), 1);
}

#[test]
fn a_server_without_an_access_policy_denies() {
    let server = read!(
        Server,
        "{apiVersion: policy.linkerd.io/v1beta1, kind: Server, metadata: {name: s}, spec: {podSelector: {}, port: '80'}}"
    );
    assert_eq!(server.access_policy().as_str(), "deny");
    assert_eq!(*server.port(), IntOrString::Number(80));
}

#[test]
fn a_route_keeps_filters_it_does_not_know_as_unsupported() {
    let route = read!(
        GatewayHttpRoute,
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {rules: [{filters: [{type: CORS, cors: {}}, \
         {type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]}]}}"
    );
    assert_eq!(route.rules()[0].filters.len(), 2);
    assert_eq!(route.group(), "gateway.networking.k8s.io");
    read!(
        PolicyHttpRoute,
        "{apiVersion: policy.linkerd.io/v1beta3, kind: HTTPRoute, metadata: {name: r}, spec: {}}"
    );
}

/// A service profile with one route of this condition, or with these fields.
fn profile(spec: &str) -> String {
    format!(
        "{{apiVersion: linkerd.io/v1alpha2, kind: ServiceProfile, metadata: {{name: web.shop.svc.cluster.local, namespace: shop}}, spec: {spec}}}"
    )
}

#[test]
fn a_service_profile_is_understood_as_a_whole() {
    let condition = "{all: [{method: GET}, {not: {pathRegex: /private}}], any: [{pathRegex: '/a.*'}, {pathRegex: /b}]}";
    let read = read!(
        ServiceProfile,
        &profile(&format!(
            "{{routes: [{{name: r, condition: {condition}, timeout: 1.5s, responseClasses: [{{condition: {{all: [{{status: {{min: 500}}}}, {{not: {{status: {{min: 503, max: 503}}}}}}]}}, isFailure: true}}]}}], \
             dstOverrides: [{{authority: a, weight: 500m}}, {{authority: b, weight: 2}}, {{authority: c, weight: '0.25'}}]}}"
        ))
    );
    let route = &read.routes()[0];
    let matches = |method: &str, path: &str| {
        route.condition.matches(&method.parse().expect("a method"), path)
    };
    assert!(matches("GET", "/abc") && matches("GET", "/b"));
    assert!(!matches("POST", "/b") && !matches("GET", "/c") && !matches("GET", "/private"));
    let class = &route.response_classes[0];
    assert!(class.condition.matches(500) && class.condition.matches(599));
    assert!(!class.condition.matches(503) && !class.condition.matches(404));
    let weights: Vec<u32> = read.dst_overrides().iter().map(|target| target.weight).collect();
    assert_eq!(weights, [5_000, 20_000, 2_500]);
}

#[test]
fn a_service_profile_with_a_mistake_is_refused_as_a_whole() {
    let refuses = |spec: &str, expect: &str| {
        let prefix = "ServiceProfile (linkerd.io/v1alpha2) shop/web.shop.svc.cluster.local: ";
        refuses(&profile(spec), &format!("{prefix}{expect}"));
    };
    refuses(
        "{routes: [{name: r, condition: {}}]}",
        "spec.routes[0].condition: a condition must name at least one thing to match",
    );
    refuses("{routes: [{condition: {method: GET}}]}", "spec.routes[0]: missing field `name`");
    refuses(
        "{routes: [{name: r, condition: {method: GET}, timeout: soon}]}",
        "spec.routes[0].timeout: 'soon' is not a duration: expected a number before each unit",
    );
    refuses(
        "{routes: [{name: r, condition: {method: GET}, responseClasses: [{condition: {status: {min: 500, max: 400}}}]}]}",
        "spec.routes[0].responseClasses[0].condition: 500 to 400 is no range of statuses within 100 to 599",
    );
    refuses(
        "{retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 1, ttl: 5m}}",
        "spec.retryBudget: ttl must be between 1s and 60s",
    );
    refuses(
        "{dstOverrides: [{authority: a, weight: heavy}]}",
        "spec.dstOverrides[0].weight: 'heavy' is no weight; expected 500m or 2",
    );
}

#[test]
fn an_external_workload_is_read_in_its_old_spelling_too() {
    for spelling in ["meshTLS", "meshTls"] {
        let external = read!(
            ExternalWorkload,
            &format!(
                "{{apiVersion: workload.linkerd.io/v1alpha1, kind: ExternalWorkload, metadata: {{name: m}}, spec: {{{spelling}: {{identity: a.b, serverName: c.d}}, workloadIPs: [{{ip: 192.0.2.1}}]}}, status: {{conditions: [{{type: Ready, status: 'True'}}]}}}}"
            )
        );
        assert_eq!((&**external.identity(), &**external.server_name()), ("a.b", "c.d"));
        assert!(external.is_ready());
    }
}

/// An object of Linkerd's policy group, named `x` in the namespace `shop`, with this spec.
fn policy(kind: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: policy.linkerd.io/v1, kind: {kind}, metadata: {{name: x, namespace: shop}}, spec: {spec}}}"
    )
}

#[test]
fn what_fields_say_together_is_checked_too() {
    let refuses = |kind: &str, spec: &str, expect: &str| {
        let object = format!("{kind} (policy.linkerd.io/v1) shop/x: ");
        refuses(&policy(kind, spec), &format!("{object}{expect}"));
    };
    let target = "targetRef: {group: policy.linkerd.io, kind: Server, name: web}";
    let authorization = |refs: &str| format!("{{{target}, requiredAuthenticationRefs: [{refs}]}}");
    let mesh = "{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: a}";
    let near = "{group: policy.linkerd.io, kind: NetworkAuthentication, name: b}";
    let account = "{kind: ServiceAccount, name: c}";

    let good = policy("AuthorizationPolicy", &authorization(&format!("{mesh}, {near}")));
    read!(AuthorizationPolicy, &good);
    refuses(
        "AuthorizationPolicy",
        &authorization(&format!("{mesh}, {account}")),
        "spec.requiredAuthenticationRefs: at most one MeshTLSAuthentication or ServiceAccount can be required; write a policy for each",
    );
    refuses(
        "AuthorizationPolicy",
        &authorization(&format!("{near}, {near}")),
        "spec.requiredAuthenticationRefs: at most one NetworkAuthentication can be required; write a policy for each",
    );
    refuses(
        "AuthorizationPolicy",
        &authorization("{kind: Pod, name: c}"),
        "spec.requiredAuthenticationRefs[0]: 'Pod' of group '' proves nothing; expected a MeshTLSAuthentication, NetworkAuthentication or ServiceAccount",
    );
    refuses(
        "AuthorizationPolicy",
        "{targetRef: {kind: Namespace, name: other}}",
        "spec.targetRef.name: a policy speaks for its own namespace only: 'other' should be 'shop'",
    );
    refuses(
        "AuthorizationPolicy",
        "{targetRef: {kind: Service, name: web}}",
        "spec.targetRef: 'Service' of group '' cannot be protected; expected a Server, HTTPRoute, GRPCRoute or Namespace",
    );
    read!(
        AuthorizationPolicy,
        &policy("AuthorizationPolicy", "{targetRef: {group: core, kind: namespace, name: shop}}")
    );

    refuses(
        "MeshTLSAuthentication",
        "{identityRefs: [{kind: ServiceAccount, name: a}, {kind: Namespace, name: b, namespace: c}]}",
        "spec.identityRefs[1]: a Namespace is in no namespace; leave out the field 'namespace'",
    );
    refuses(
        "NetworkAuthentication",
        "{networks: []}",
        "spec.networks: at least one network is needed, such as {cidr: 10.0.0.0/8}",
    );
    refuses(
        "NetworkAuthentication",
        "{networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidr: 10.0.0.0/8, except: [192.0.2.0/24]}]}",
        "spec.networks[1]: except 192.0.2.0/24 is not a part of 10.0.0.0/8",
    );
    refuses(
        "EgressNetwork",
        "{trafficPolicy: Allow, networks: [{cidr: 192.0.2.0/24, except: [192.0.2.0/24]}]}",
        "spec.networks[0]: except 192.0.2.0/24 leaves nothing of 192.0.2.0/24",
    );
    refuses(
        "EgressNetwork",
        "{trafficPolicy: Allow, networks: []}",
        "spec.networks: must not be empty; without the field everything outside is meant",
    );
    refuses(
        "ServerAuthorization",
        "{server: {name: s}, client: {unauthenticated: true, meshTLS: {unauthenticatedTLS: true}}}",
        "spec.client: meshTLS and unauthenticated: true exclude each other",
    );
    refuses(
        "ServerAuthorization",
        "{server: {name: s}, client: {meshTLS: {unauthenticatedTLS: true, identities: ['*']}}}",
        "spec.client.meshTLS: unauthenticatedTLS: true excludes identities and serviceAccounts",
    );

    let limits = |rest: &str| format!("{{{target}, {rest}}}");
    refuses(
        "HTTPLocalRateLimitPolicy",
        &limits("total: {requestsPerSecond: 0}"),
        "spec.total.requestsPerSecond: must be greater than zero",
    );
    refuses(
        "HTTPLocalRateLimitPolicy",
        &limits("total: {requestsPerSecond: 5}, identity: {requestsPerSecond: 6}"),
        "spec.identity.requestsPerSecond: 6 is more than the total of 5",
    );
    refuses(
        "HTTPLocalRateLimitPolicy",
        &limits("overrides: [{requestsPerSecond: 6, clientRefs: [{kind: Namespace, name: a}]}]"),
        "spec.overrides[0].clientRefs[0]: 'Namespace' is no client; expected a ServiceAccount",
    );
    refuses(
        "HTTPLocalRateLimitPolicy",
        "{targetRef: {kind: Service, name: web}}",
        "spec.targetRef: 'Service' of group '' has no rate limits; expected a Server of group policy.linkerd.io",
    );
}

#[test]
fn a_service_profile_and_its_routes_have_names() {
    let upper = "{apiVersion: linkerd.io/v1alpha2, kind: ServiceProfile, metadata: {name: Web.shop.svc.cluster.local}}";
    refuses(
        upper,
        "ServiceProfile (linkerd.io/v1alpha2) Web.shop.svc.cluster.local: metadata.name: 'Web.shop.svc.cluster.local' \
         is no DNS name in lower case; expected the full name of a service, such as web.shop.svc.cluster.local",
    );
    let unnamed = profile("{routes: [{name: '', condition: {method: GET}}]}");
    let error = parse(&unnamed).expect_err("must be refused").to_string();
    assert!(error.ends_with("spec.routes[0].name: must not be empty"), "{error}");
}

#[test]
fn fields_that_nobody_reads_are_told_for_our_kinds_only() {
    let unread = |text: &str| {
        let value = yaml::parse(text).expect("YAML");
        Resource::parse_noting(value).expect("must be read").1
    };
    let server =
        policy("Server", "{port: 80, podSelector: {matchLabel: {a: b}}, accesPolicy: deny}");
    assert_eq!(unread(&server), ["spec.podSelector.matchLabel", "spec.accesPolicy"]);
    assert_eq!(
        unread(&profile("{routes: [{name: r, condition: {method: GET}, retryable: true}]}")),
        ["spec.routes[0].retryable"]
    );
    assert!(
        unread("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {dnsPolicy: x}}").is_empty()
    );
    let many = (0..100).map(|n| format!("x{n}: 1, ")).collect::<String>();
    let many = unread(&policy("Server", &format!("{{{many} port: 80, podSelector: {{}}}}")));
    assert_eq!(many.len(), hauberk_resources::UNREAD_MAX);
}

#[test]
fn a_verdict_depends_on_whose_kind_it_is() {
    let word = |text: &str| Verdict::of(yaml::parse(text).expect("YAML")).word();
    assert_eq!(word(&policy("Server", "{port: 80, podSelector: {}}")), "understood");
    assert_eq!(word(&policy("Server", "{port: 80}")), "refused");
    assert_eq!(word(&policy("Gadget", "{}")), "foreign");
    assert_eq!(word("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"), "foreign");
    assert_eq!(
        word("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: 7}}"),
        "unread"
    );
    let newer = "{apiVersion: gateway.networking.k8s.io/v9, kind: HTTPRoute, metadata: {name: a}, spec: {rules: {}}}";
    assert_eq!(word(newer), "unread");
    assert_eq!(word("{a: b}"), "refused");
    assert_eq!(word("[1]"), "refused");
}
