//! `Destination.Get` and `GetProfile` over real connections, with YAML files as the cluster.

mod lab;

use lab::*;
use tonic::Code;

const WEB: &str = "web.test.svc.cluster.local:80";

fn web_with_one_pod() -> [(&'static str, String); 3] {
    [
        ("web.yml", service("web", "10.96.0.1")),
        ("web-slice.yml", slice("web", &[("web-1", "10.1.0.1")])),
        ("web-1.yml", pod("web-1", "10.1.0.1")),
    ]
}

async fn lab() -> Lab {
    let files = web_with_one_pod();
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Lab::start(&files).await
}

#[tokio::test]
async fn a_changed_file_reaches_the_stream() {
    let lab = lab().await;
    let mut client = lab.destination().await;
    let mut web = Follower::start(&mut client, WEB).await;
    web.step().await;
    assert_eq!(web.addresses(), ["10.1.0.1:8080"]);
    let endpoint = web.known.by_address.values().next().expect("one endpoint");
    let tls = endpoint.tls.as_ref().expect("a meshed pod");
    let identity = "web.test.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!((tls.identity.as_str(), &*tls.server_name), (identity, identity));
    assert_eq!(endpoint.opaque_transport.map(u16::from), Some(4143));
    assert_eq!(endpoint.labels.get("pod").map(|pod| &**pod), Some("web-1"));
    assert_eq!(web.known.labels.get("service").map(|service| &**service), Some("web"));

    lab.write("web-2.yml", &pod("web-2", "10.1.0.2"));
    lab.write("web-slice.yml", &slice("web", &[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]));
    web.until(&["10.1.0.1:8080", "10.1.0.2:8080"]).await;
    lab.remove("web-1.yml");
    lab.write("web-slice.yml", &slice("web", &[("web-2", "10.1.0.2")]));
    web.until(&["10.1.0.2:8080"]).await;
    lab.remove("web-slice.yml");
    web.until(&[]).await;

    // A broken file costs nothing but itself.
    lab.write("broken.yml", "{ this is: not [yaml");
    lab.write("web-slice.yml", &slice("web", &[("web-2", "10.1.0.2")]));
    web.until(&["10.1.0.2:8080"]).await;
    let mut problems = lab.running.problems.clone();
    problems.wait_for(|problems| !problems.is_empty()).await.expect("is followed");
    lab.write("web-slice.yml", "kind: EndpointSlice\nendpoints: [");
    lab.write("web-3.yml", &pod("web-3", "10.1.0.3"));
    lab.write("other-slice.yml", &slice("web", &[]).replace("web-1", "web-other"));
    lab.remove("broken.yml");
    let only_the_slice = |problems: &hauberk_source::Problems| {
        problems.len() == 1 && problems.keys().all(|path| path.ends_with("web-slice.yml"))
    };
    problems.wait_for(only_the_slice).await.expect("is followed");
    assert_eq!(web.addresses(), ["10.1.0.2:8080"], "the last good slice stays in force");

    // The service goes, and comes back.
    lab.remove("web.yml");
    web.until(&[]).await;
    lab.write("web.yml", &service("web", "10.96.0.1"));
    web.until(&["10.1.0.2:8080"]).await;
    lab.stop().await;
}

#[tokio::test]
async fn annotations_that_cannot_be_read_are_told() {
    let annotated = |value: &str| {
        let with = format!("metadata: {{annotations: {{retry.linkerd.io/limit: '{value}'}}, ");
        service("web", "10.96.0.1").replacen("metadata: {", &with, 1)
    };
    let lab = Lab::start(&[("web.yml", &annotated("many"))]).await;
    let mut annotations = lab.running.annotations.clone();
    let found = annotations.wait_for(|found| !found.is_empty()).await.expect("is followed");
    let told: Vec<String> =
        found.iter().map(|(object, all)| format!("{object}: {}", all[0])).collect();
    assert_eq!(
        told,
        ["Service test/web: annotation retry.linkerd.io/limit: 'many' is not a number of retries"]
    );
    drop(found);
    assert!(lab.metrics.render().contains("control_unreadable_annotations 1\n"));
    let route = hauberk_control::run::problems_route(
        lab.running.problems.clone(),
        lab.running.annotations.clone(),
    );
    assert_eq!(route().status(), 200);
    lab.write("web.yml", &annotated("3"));
    annotations.wait_for(|found| found.is_empty()).await.expect("is followed");
    assert!(lab.metrics.render().contains("control_unreadable_annotations 0\n"));
    lab.stop().await;
}

#[tokio::test]
async fn a_service_without_endpoints_is_answered_at_once() {
    let lab = Lab::start(&[("web.yml", &service("web", "10.96.0.1"))]).await;
    let mut client = lab.destination().await;
    let stream = client.get(ask(WEB)).await.expect("is answered");
    let first = next(&mut stream.into_inner()).await.expect("a message");
    use hauberk_wire::destination::{Update, from_wire};
    assert_eq!(from_wire(first), Ok((Update::NoEndpoints { exists: true }, vec![])));
    lab.stop().await;
}

#[tokio::test]
async fn refuses_with_the_right_status() {
    let external = "apiVersion: v1
kind: Service
metadata: {name: outside, namespace: test}
spec: {type: ExternalName, externalName: example.org}
";
    let lab = Lab::start(&[("outside.yml", external)]).await;
    let mut client = lab.destination().await;
    for (path, get, profile) in [
        ("web.test.svc.cluster.local:x", Code::InvalidArgument, Code::InvalidArgument),
        ("web.test.svc.cluster.local:0", Code::InvalidArgument, Code::InvalidArgument),
        ("web.test:80", Code::InvalidArgument, Code::InvalidArgument),
        ("example.org:80", Code::InvalidArgument, Code::InvalidArgument),
        ("", Code::InvalidArgument, Code::InvalidArgument),
        (WEB, Code::NotFound, Code::NotFound),
        ("outside.test.svc.cluster.local:80", Code::InvalidArgument, Code::InvalidArgument),
        ("10.1.0.1:80", Code::InvalidArgument, Code::Ok),
    ] {
        let status = client.get(ask(path)).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(status, get, "Get {path}");
        let status = client.get_profile(ask(path)).await;
        assert_eq!(
            status.map_or_else(|status| status.code(), |_| Code::Ok),
            profile,
            "GetProfile {path}"
        );
    }
    lab.stop().await;
}

#[tokio::test]
async fn profiles_follow_services_and_pods() {
    let lab = lab().await;
    let mut client = lab.destination().await;
    let understand = |wire| hauberk_wire::profile::from_wire(wire).expect("valid").0;

    let mut service_stream =
        client.get_profile(ask("10.96.0.1:80")).await.expect("known").into_inner();
    let profile = understand(next(&mut service_stream).await.expect("a profile"));
    assert_eq!(profile.name.as_deref(), Some("web.test.svc.cluster.local"));
    assert!(!profile.opaque && profile.retry_budget.is_some());

    let opaque = service("web", "10.96.0.1").replace(
        "namespace: test}",
        "namespace: test, annotations: {config.linkerd.io/opaque-ports: '80'}}",
    );
    lab.write("web.yml", &opaque);
    assert!(understand(next(&mut service_stream).await.expect("a profile")).opaque);

    let mut pod_stream =
        client.get_profile(ask("10.1.0.1:8080")).await.expect("known").into_inner();
    let profile = understand(next(&mut pod_stream).await.expect("a profile"));
    let endpoint = profile.endpoint.expect("a single endpoint");
    assert_eq!(endpoint.address.to_string(), "10.1.0.1:8080");
    assert!(endpoint.tls.is_some());
    lab.remove("web-1.yml");
    let profile = understand(next(&mut pod_stream).await.expect("a profile"));
    assert!(profile.endpoint.is_none_or(|endpoint| endpoint.tls.is_none()), "no stale identity");
    lab.stop().await;
}

#[tokio::test]
async fn a_slow_reader_skips_to_the_newest_and_holds_up_nobody() {
    const VERSIONS: usize = 60;
    // Each version has other addresses, so that each message is big.
    let version = |version: usize| {
        let addresses = (0..250).map(|n| format!("- addresses: [10.{version}.0.{n}]\n"));
        let bare: String = addresses.collect();
        slice("web", &[]) + &bare
    };
    let last = |version: usize| format!("10.{version}.0.249:8080");
    let lab =
        Lab::start(&[("web.yml", &service("web", "10.96.0.1")), ("slice.yml", &version(1))]).await;
    let (mut eager, mut lazy) = (lab.destination().await, lab.destination().await);
    let mut eager = Follower::start(&mut eager, WEB).await;
    let mut lazy = Follower::start(&mut lazy, WEB).await;
    for n in 1..=VERSIONS {
        lab.write("slice.yml", &version(n));
        while eager.addresses().last() != Some(&last(n)) || eager.known.by_address.len() != 250 {
            eager.step().await;
        }
    }
    while lazy.addresses().last() != Some(&last(VERSIONS)) || lazy.known.by_address.len() != 250 {
        lazy.step().await;
    }
    assert!(eager.messages >= VERSIONS, "{}", eager.messages);
    assert!(lazy.messages < eager.messages / 2, "{} of {}", lazy.messages, eager.messages);
    lab.stop().await;
}

#[tokio::test]
async fn streams_end_well_when_the_process_drains() {
    let lab = lab().await;
    let mut client = lab.destination().await;
    let mut endpoints = client.get(ask(WEB)).await.expect("is answered").into_inner();
    let mut profile = client.get_profile(ask(WEB)).await.expect("is answered").into_inner();
    assert!(next(&mut endpoints).await.is_some() && next(&mut profile).await.is_some());
    assert!(lab.metrics.render().contains("control_streams{method=\"Get\"} 1"));
    let metrics = lab.metrics.clone();
    let ends = async { (next(&mut endpoints).await, next(&mut profile).await) };
    let (ends, ()) = tokio::join!(ends, lab.stop());
    assert_eq!(ends, (None, None));
    assert!(metrics.render().contains("control_streams{method=\"Get\"} 0"));
}
