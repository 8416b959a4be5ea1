//! Inbound and outbound policy over real connections, with YAML files as the cluster.

mod lab;

use hauberk_model::inbound::InboundProtocol;
use hauberk_model::outbound::OutboundProtocol;
use hauberk_wire::api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use hauberk_wire::api::outbound::outbound_policies_client::OutboundPoliciesClient;
use hauberk_wire::outbound::Target;
use hauberk_wire::{inbound, outbound};
use lab::*;
use tonic::Code;

const WEB_1: &str = r#"{"ns":"test","pod":"web-1"}"#;

fn port(number: u16) -> hauberk_model::Port {
    hauberk_model::Port::new(number).expect("not zero")
}

fn server(protocol: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: web-http, namespace: test}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  port: http
  proxyProtocol: {protocol}
"
    )
}

#[tokio::test]
async fn servers_change_what_a_port_accepts_and_the_stream_ends_with_the_pod() {
    let lab =
        Lab::start(&[("test.yml", &namespace("test")), ("web-1.yml", &pod("web-1", "10.1.0.1"))])
            .await;
    let mut client = InboundServerPoliciesClient::new(plaintext(lab.running.policy).await);
    let understand = |wire| inbound::from_wire(wire).expect("valid");

    let mut stream =
        client.watch_port(inbound::request(WEB_1, port(8080))).await.expect("known").into_inner();
    let policy = understand(next(&mut stream).await.expect("a policy"));
    assert_eq!(policy.server.name(), "all-unauthenticated");
    assert!(matches!(policy.protocol, InboundProtocol::Detect { .. }));

    lab.write("server.yml", &server("HTTP/1"));
    let policy = understand(next(&mut stream).await.expect("a policy"));
    assert_eq!((policy.server.kind(), policy.server.name()), ("server", "web-http"));
    assert!(matches!(policy.protocol, InboundProtocol::Http1(_)));
    assert!(policy.authorizations.is_empty(), "a server without authorizations denies");

    lab.write("server.yml", &server("opaque"));
    let policy = understand(next(&mut stream).await.expect("a policy"));
    assert_eq!(policy.protocol, InboundProtocol::Opaque);
    let other =
        client.get_port(inbound::request(WEB_1, port(9999))).await.expect("known").into_inner();
    assert_eq!(understand(other).server.name(), "all-unauthenticated");

    lab.remove("web-1.yml");
    assert_eq!(next(&mut stream).await, None);
    lab.stop().await;
}

#[tokio::test]
async fn refuses_inbound_questions_with_the_right_status() {
    let lab = Lab::start(&[]).await;
    let mut client = InboundServerPoliciesClient::new(plaintext(lab.running.policy).await);
    for (workload, port, expect) in [
        (WEB_1, 8080, Code::NotFound),
        ("test:web-1", 8080, Code::NotFound),
        (r#"{"ns":"test","external_workload":"vm"}"#, 8080, Code::NotFound),
        (WEB_1, 0, Code::InvalidArgument),
        (WEB_1, 70_000, Code::InvalidArgument),
        ("", 8080, Code::InvalidArgument),
        ("nonsense", 8080, Code::InvalidArgument),
    ] {
        let spec = hauberk_wire::api::inbound::PortSpec { workload: workload.into(), port };
        let status = client.get_port(spec.clone()).await.expect_err(workload);
        assert_eq!(status.code(), expect, "GetPort {workload} {port}");
        let status = client.watch_port(spec).await.expect_err(workload);
        assert_eq!(status.code(), expect, "WatchPort {workload} {port}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn clients_learn_what_to_do_with_traffic() {
    let lab = Lab::start(&[("web.yml", &service("web", "10.96.0.1"))]).await;
    let mut client = OutboundPoliciesClient::new(plaintext(lab.running.policy).await);
    let understand = |wire| outbound::from_wire(wire).expect("valid");

    let target = Target::Address("10.96.0.1:80".parse().expect("an address"));
    let mut stream =
        client.watch(outbound::request(WEB_1, &target)).await.expect("known").into_inner();
    let policy = understand(next(&mut stream).await.expect("a policy"));
    assert_eq!((policy.parent.kind(), policy.parent.name()), ("Service", "web"));
    assert!(matches!(policy.protocol, OutboundProtocol::Detect { .. }));

    let http =
        service("web", "10.96.0.1").replace("protocol: TCP", "protocol: TCP, appProtocol: http");
    lab.write("web.yml", &http);
    let policy = understand(next(&mut stream).await.expect("a policy"));
    assert!(matches!(policy.protocol, OutboundProtocol::Http1(_)), "{:?}", policy.protocol);

    let name = hauberk_model::Authority::new("web.test.svc.cluster.local", port(80));
    let by_name =
        client.get(outbound::request(WEB_1, &Target::Authority(name))).await.expect("known");
    assert_eq!(understand(by_name.into_inner()), policy);
    let outside = Target::Address("93.184.216.34:443".parse().expect("an address"));
    let outside = client.get(outbound::request(WEB_1, &outside)).await.expect("known");
    assert_eq!(understand(outside.into_inner()).parent.name(), "egress-fallback");
    lab.stop().await;
}

#[tokio::test]
async fn refuses_outbound_questions_with_the_right_status() {
    use hauberk_wire::api::outbound::{TrafficSpec, traffic_spec};
    let lab = Lab::start(&[]).await;
    let mut client = OutboundPoliciesClient::new(plaintext(lab.running.policy).await);
    let authority = |text: &str| Some(traffic_spec::Target::Authority(text.into()));
    let address = |port| {
        let ip = Some(std::net::IpAddr::from([10, 96, 0, 9]).into());
        Some(traffic_spec::Target::Addr(hauberk_wire::api::net::TcpAddress { ip, port }))
    };
    for (workload, target, expect) in [
        (WEB_1, None, Code::InvalidArgument),
        (WEB_1, authority("web.test.svc.cluster.local:0"), Code::InvalidArgument),
        (WEB_1, authority("example.org:80"), Code::NotFound),
        (WEB_1, address(0), Code::InvalidArgument),
        (WEB_1, address(70_000), Code::InvalidArgument),
        (WEB_1, address(80), Code::NotFound),
        ("nonsense", address(80), Code::InvalidArgument),
    ] {
        let spec = TrafficSpec { source_workload: workload.into(), target };
        let what = format!("{spec:?}");
        assert_eq!(client.get(spec.clone()).await.expect_err(&what).code(), expect, "Get {what}");
        assert_eq!(client.watch(spec).await.expect_err(&what).code(), expect, "Watch {what}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn statuses_are_told_to_whoever_asks_and_follow_the_cluster() {
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: test, generation: 7}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: other, port: 80}]}]
";
    let lab = Lab::start(&[("test.yml", &namespace("test")), ("route.yml", route)]).await;
    let look = lab.running.status.clone();
    let ask = async |query: &str| {
        let (code, value) = look.look(query).await;
        (code.as_u16(), value)
    };
    let query = "kind=HTTPRoute&namespace=test&name=web";
    let (code, status) = ask(query).await;
    assert_eq!(code, 200);
    let parent = &status["parents"][0];
    assert_eq!(parent["controllerName"], "linkerd.io/policy-controller");
    let named = serde_json::json!({"group": "", "kind": "Service", "name": "web", "port": 80});
    assert_eq!(parent["parentRef"], named);
    let accepted = serde_json::json!({
        "type": "Accepted",
        "status": "False",
        "reason": "NoMatchingParent",
        "message": "Service test/web does not exist",
        "observedGeneration": 7,
    });
    assert_eq!(parent["conditions"][0], accepted);
    assert_eq!(parent["conditions"][1]["reason"], "BackendNotFound");

    lab.write("web.yml", &service("web", "10.96.0.1"));
    eventually("the route is accepted", async || {
        let (_, status) = ask(query).await;
        (status["parents"][0]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;

    assert_eq!(ask("kind=HTTPRoute&namespace=test&name=gone").await.0, 404);
    assert_eq!(ask("kind=Service&namespace=test&name=web").await.0, 400);
    assert_eq!(ask("").await.0, 400);
    lab.stop().await;
}
