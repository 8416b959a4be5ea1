//! The board without waiting, and the task on a paused clock.

use std::net::SocketAddr;
use std::time::Duration;

use hauberk_index::Question as Reading;
use hauberk_process::ready::Readiness;
use hauberk_process::shutdown::Cause;
use hauberk_process::{Shutdown, Tasks};
use hauberk_resources::Resource;
use hauberk_source::script;
use serde_json::{Value, json};

use super::*;
use crate::subscribe::{Subscriber, Unanswered};

fn applied(value: Value) -> ResourceEvent {
    ResourceEvent::Applied(Arc::new(Resource::parse(value).expect("a resource")))
}

fn service(name: &str) -> ResourceEvent {
    applied(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "test"},
        "spec": {"clusterIP": "10.9.0.1", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    }))
}

fn slice(service: &str, addresses: &[&str]) -> ResourceEvent {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    applied(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-1"), "namespace": "test",
            "labels": {"kubernetes.io/service-name": service}
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints
    }))
}

fn board() -> Board {
    Board::new(ClusterConfig::default(), PublisherMetrics::default())
}

fn endpoints_of(service: &str) -> Key {
    let config = ClusterConfig::default();
    let path = format!("{service}.test.svc.cluster.local:80");
    Reading::new(&config).endpoints(&path, "").expect("a service name")
}

fn addresses(answer: &Answer) -> Vec<String> {
    let Answer::Endpoints(endpoints) = answer else { panic!("not endpoints: {answer:?}") };
    endpoints.by_address.keys().map(SocketAddr::to_string).collect()
}

#[test]
fn publishes_what_changed_and_only_that() {
    let mut board = board();
    board.take([service("a"), service("b"), slice("a", &["10.1.0.1"]), slice("b", &["10.2.0.1"])]);
    let (mut a, mut b) = (board.subscribe(endpoints_of("a")), board.subscribe(endpoints_of("b")));
    assert_eq!(addresses(&a.borrow_and_update()), ["10.1.0.1:8080"]);
    assert_eq!(addresses(&b.borrow_and_update()), ["10.2.0.1:8080"]);

    board.take([slice("a", &["10.1.0.1", "10.1.0.2"])]);
    assert!(a.has_changed().expect("published"));
    assert!(!b.has_changed().expect("published"));
    assert_eq!(addresses(&a.borrow_and_update()), ["10.1.0.1:8080", "10.1.0.2:8080"]);

    board.take([slice("a", &["10.1.0.1", "10.1.0.2"])]);
    assert!(!a.has_changed().expect("published"), "an equal object changes nothing");
    assert_eq!(board.metrics.published.get(), 1);
}

#[test]
fn versions_share_endpoints_that_did_not_change() {
    let mut board = board();
    board.take([service("a"), slice("a", &["10.1.0.1"])]);
    let answers = board.subscribe(endpoints_of("a"));
    let endpoint = |answer: &Answer| {
        let Answer::Endpoints(endpoints) = answer else { panic!("not endpoints") };
        Arc::clone(endpoints.by_address.values().next().expect("one"))
    };
    let before = endpoint(&answers.borrow());
    board.take([slice("a", &["10.1.0.1", "10.1.0.2"])]);
    assert!(Arc::ptr_eq(&before, &endpoint(&answers.borrow())));
}

#[test]
fn a_refusal_is_an_answer_that_can_change() {
    let mut board = board();
    let mut answers = board.subscribe(endpoints_of("late"));
    assert!(matches!(*answers.borrow_and_update(), Answer::Refused(_)));
    board.take([service("late"), slice("late", &["10.1.0.1"])]);
    assert_eq!(addresses(&answers.borrow_and_update()), ["10.1.0.1:8080"]);
}

#[test]
fn forgets_keys_that_nobody_listens_to() {
    let mut board = board();
    board.take([service("a"), slice("a", &["10.1.0.1"])]);
    let first = board.subscribe(endpoints_of("a"));
    let second = board.subscribe(endpoints_of("a"));
    assert_eq!(board.topics.len(), 1);
    drop(first);
    board.sweep();
    assert_eq!(board.topics.len(), 1);
    drop(second);
    board.sweep();
    assert!(board.topics.is_empty() && board.readers.is_empty());

    drop(board.subscribe(endpoints_of("a")));
    board.take([slice("a", &[])]);
    assert!(board.topics.is_empty() && board.readers.is_empty(), "forgotten instead of recomputed");
    assert_eq!(board.metrics.recomputed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_wait_for_the_first_listing_and_end_with_the_process() {
    let tasks = Tasks::new(Shutdown::new());
    let shutdown = tasks.shutdown().clone();
    let readiness = Readiness::new();
    let listed = readiness.condition("resources");
    let (subscriber, questions) = Subscriber::new();
    let (events, receiver) = mpsc::channel(8);
    let run = run(board(), receiver, questions, listed, shutdown.clone());
    tasks.spawn_essential("publisher", run);

    let early = subscriber.subscribe(endpoints_of("a")).await;
    assert_eq!(early.expect_err("nothing is listed"), Unanswered::NotYet);
    assert!(!readiness.is_ready());

    let mut source = script(vec![(Duration::from_secs(1), service("a"))], &tasks);
    for _ in Kind::ALL {
        let event = source.events.recv().await.expect("the listing");
        events.send(event).await.expect("the publisher takes it");
    }
    readiness.wait().await;
    let mut answers = subscriber.subscribe(endpoints_of("a")).await.expect("listed");
    assert!(matches!(*answers.borrow_and_update(), Answer::Refused(_)));
    let event = source.events.recv().await.expect("the service");
    events.send(event).await.expect("the publisher takes it");
    answers.changed().await.expect("published");
    assert_eq!(addresses(&answers.borrow_and_update()), Vec::<String>::new());

    shutdown.drain(Cause::Requested);
    answers.changed().await.expect_err("the publisher has ended");
    let late = subscriber.subscribe(endpoints_of("a")).await;
    assert_eq!(late.expect_err("the publisher has ended"), Unanswered::Ending);
}

#[tokio::test]
async fn the_end_of_the_source_is_a_failure() {
    let tasks = Tasks::new(Shutdown::new());
    let shutdown = tasks.shutdown().clone();
    let listed = Readiness::new().condition("resources");
    let (_subscriber, questions) = Subscriber::new();
    let (_, receiver) = mpsc::channel(1);
    let run = run(board(), receiver, questions, listed, shutdown.clone());
    tasks.spawn_essential("publisher", run);
    let exit = shutdown.finish(Duration::from_secs(5)).await;
    assert_eq!(exit.code(), 1, "{exit:?}");
}
