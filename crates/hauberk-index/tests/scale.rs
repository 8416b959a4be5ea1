//! A big cluster: a change costs what it touches.
//!
//! The test counts what is announced, which does not depend on the machine. It prints how long
//! things took (`--nocapture`), but asserts nothing about it.

use hauberk_index::{Answer, ClusterConfig, Index, Question};
use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};

const SERVICES: usize = 100;
const PODS_EACH: usize = 100;

fn apply(index: &mut Index, value: Value) -> usize {
    let resource = Arc::new(Resource::parse(value).expect("a resource"));
    index.apply(ResourceEvent::Applied(resource)).subjects().len()
}

fn ip(service: usize, pod: usize) -> String {
    format!("10.1.{service}.{pod}")
}

fn pod(service: usize, pod: usize, phase: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("s{service}-{pod}"), "namespace": "big",
            "labels": {"app": format!("s{service}"), "linkerd.io/control-plane-ns": "linkerd"},
        },
        "spec": {
            "nodeName": format!("node-{}", pod % 50), "serviceAccountName": format!("s{service}"),
            "containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]},
                {"name": "linkerd-proxy", "env": [{"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "[::]:4143"}]},
            ],
        },
        "status": {"phase": phase, "podIP": ip(service, pod)},
    })
}

fn slice(service: usize) -> Value {
    let endpoints: Vec<Value> = (0..PODS_EACH)
        .map(|pod| {
            json!({
                "addresses": [ip(service, pod)], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": format!("s{service}-{pod}"), "namespace": "big"},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("s{service}-x"), "namespace": "big",
            "labels": {"kubernetes.io/service-name": format!("s{service}")},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    })
}

fn service(service: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{service}"), "namespace": "big"},
        "spec": {"clusterIP": format!("10.96.0.{service}"), "ports": [{"name": "http", "port": 80}]},
    })
}

#[test]
fn ten_thousand_pods() {
    let mut index = Index::new(ClusterConfig::default());
    let begin = Instant::now();
    for s in 0..SERVICES {
        apply(&mut index, service(s));
        apply(&mut index, slice(s));
        for p in 0..PODS_EACH {
            apply(&mut index, pod(s, p, "Running"));
        }
    }
    println!("{} objects taken in: {:?}", SERVICES * (PODS_EACH + 2), begin.elapsed());

    // One pod changes: it, its address, and the one service it belongs to.
    let begin = Instant::now();
    assert_eq!(apply(&mut index, pod(7, 7, "Pending")), 4);
    println!("one pod changed: {:?}", begin.elapsed());
    assert_eq!(apply(&mut index, pod(7, 7, "Pending")), 0);

    // A server selects the pods of one service: those pods and that service.
    let server = json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": "s7", "namespace": "big"},
        "spec": {"podSelector": {"matchLabels": {"app": "s7"}}, "port": "http"},
    });
    let begin = Instant::now();
    assert_eq!(apply(&mut index, server), PODS_EACH + 2);
    println!("one server added: {:?}", begin.elapsed());

    let config = index.config().clone();
    let question = Question::new(&config);
    let key = question.endpoints("s7.big.svc.cluster.local:80", "").expect("a question");
    let begin = Instant::now();
    let answered = index.answer(&key);
    println!("{PODS_EACH} endpoints answered: {:?}", begin.elapsed());
    let Answer::Endpoints(endpoints) = answered.answer else { panic!("endpoints") };
    assert_eq!(endpoints.by_address.len(), PODS_EACH);
    // However many endpoints there are, few subjects need to be remembered.
    assert!(answered.subjects.len() <= 3, "{:?}", answered.subjects);

    let key = question.inbound("big:s7-7", 8080).expect("a question");
    let begin = Instant::now();
    index.answer(&key);
    println!("one inbound policy answered: {:?}", begin.elapsed());

    let begin = Instant::now();
    let gone = index.apply(ResourceEvent::Relisted { kind: Kind::Pod, all: Vec::new() });
    println!("all pods gone: {:?}", begin.elapsed());
    let last = ResourceKey::new(Kind::Pod, "big", "s99-99");
    assert!(gone.subjects().contains(&hauberk_index::Subject::Workload(last)));
}
