use super::*;
use crate::objects::Key;
use serde_json::json;

fn zone() -> Zone {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut objects = Objects::new(directory.path().to_owned());
    let mut put = |kind: &str, name: &str, value: Value| {
        objects.put(Key::core(kind, "ns", name), value).expect("write an object");
    };
    put(
        "Service",
        "web",
        json!({"spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd96::7"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }}),
    );
    put(
        "Service",
        "db",
        json!({"spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 1}]}}),
    );
    put("Service", "empty", json!({"spec": {"clusterIP": "None"}}));
    put(
        "Service",
        "out",
        json!({"spec": {"type": "ExternalName", "externalName": "Example.org."}}),
    );
    put(
        "Service",
        "in",
        json!({"spec": {"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}}),
    );
    let endpoints: Vec<_> = (1..=60)
        .map(|n| json!({"addresses": [format!("10.42.1.{n}")], "conditions": {"ready": n != 60}}))
        .chain([json!({"addresses": ["10.42.0.9"], "hostname": "db-0"})])
        .collect();
    put(
        "EndpointSlice",
        "db-v4",
        json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
            "ports": [{"name": "sql", "port": 5432}],
            "endpoints": endpoints,
        }),
    );
    Zone::new(&objects, "cluster.local")
}

fn ask(name: &str, kind: RecordType, transport: Transport) -> Message {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let question = question.to_vec().expect("encodes");
    let answer = zone().answer(&question, transport).expect("an answer");
    Message::from_vec(&answer).expect("decodes")
}

fn check(name: &str, kind: RecordType, code: ResponseCode, expect: &[&str]) {
    let answer = ask(name, kind, Transport::Tcp);
    assert_eq!(answer.metadata.response_code, code, "{name}");
    let got: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(got, expect, "{name}");
}

#[test]
fn answers_for_services() {
    use RecordType as T;
    let ok = ResponseCode::NoError;
    check("web.ns.svc.cluster.local.", T::A, ok, &["10.96.0.7"]);
    check("WEB.ns.svc.cluster.local.", T::AAAA, ok, &["fd96::7"]);
    check("web.ns.svc.cluster.local.", T::TXT, ok, &[]);
    check(
        "_http._tcp.web.ns.svc.cluster.local.",
        T::SRV,
        ok,
        &["0 100 80 web.ns.svc.cluster.local."],
    );
    check(
        "_dns._udp.web.ns.svc.cluster.local.",
        T::SRV,
        ok,
        &["0 100 53 web.ns.svc.cluster.local."],
    );
    check("db-0.db.ns.svc.cluster.local.", T::A, ok, &["10.42.0.9"]);
    check("10-42-1-3.db.ns.svc.cluster.local.", T::A, ok, &["10.42.1.3"]);
    check("empty.ns.svc.cluster.local.", T::A, ok, &[]);
}

#[test]
fn answers_for_pods_by_the_address_in_the_name() {
    use RecordType as T;
    check("10-42-0-5.ns.pod.cluster.local.", T::A, ResponseCode::NoError, &["10.42.0.5"]);
    check("fd42--5.ns.pod.cluster.local.", T::AAAA, ResponseCode::NoError, &["fd42::5"]);
    check("10-9-0-5.ns.pod.cluster.local.", T::A, ResponseCode::NXDomain, &[]);
}

#[test]
fn says_at_once_what_does_not_exist() {
    use RecordType as T;
    let none = ResponseCode::NXDomain;
    check("web.", T::A, none, &[]);
    check("web.ns.svc.cluster.local.ns.svc.cluster.local.", T::A, none, &[]);
    check("example.org.", T::A, none, &[]);
    check("nope.ns.svc.cluster.local.", T::A, none, &[]);
    // Names above existing ones exist, without records (RFC 8020).
    check("ns.svc.cluster.local.", T::A, ResponseCode::NoError, &[]);
    check("_tcp.web.ns.svc.cluster.local.", T::A, ResponseCode::NoError, &[]);
}

#[test]
fn follows_external_names() {
    use RecordType as T;
    check("out.ns.svc.cluster.local.", T::A, ResponseCode::NoError, &["example.org."]);
    let expect = ["web.ns.svc.cluster.local.", "10.96.0.7"];
    check("in.ns.svc.cluster.local.", T::A, ResponseCode::NoError, &expect);
}

#[test]
fn leaves_out_endpoints_that_are_not_ready_and_cuts_long_answers_over_udp() {
    let name = "db.ns.svc.cluster.local.";
    let whole = ask(name, RecordType::A, Transport::Tcp);
    assert_eq!(whole.answers.len(), 60);
    assert!(!whole.metadata.truncation);
    assert!(ask(name, RecordType::A, Transport::Udp).metadata.truncation);
}

#[test]
fn never_panics_on_what_is_no_question() {
    let zone = zone();
    assert_eq!(zone.answer(b"", Transport::Udp), None);
    assert_eq!(zone.answer(&[0xff; 40], Transport::Udp), None);
    let answer = Message::response(7, OpCode::Query).to_vec().expect("encodes");
    assert_eq!(zone.answer(&answer, Transport::Udp), None, "an answer is never answered");
    let mut update = Message::new(7, MessageType::Query, OpCode::Update);
    update.add_query(Query::query(Name::root(), RecordType::A));
    let answer = zone.answer(&update.to_vec().expect("encodes"), Transport::Udp).expect("answer");
    let answer = Message::from_vec(&answer).expect("decodes");
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
}
