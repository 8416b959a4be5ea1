//! The lab's name server.

use std::sync::LazyLock;

use hauberk_local::dns::{Transport, Zone};
use hauberk_local::objects::{Key, Objects};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use serde_json::{Value, json};

/// Largest answer over UDP, as the name server promises.
const UDP_BYTES_MAX: usize = 1232;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut objects = Objects::new(directory.path().to_owned());
    let mut put = |kind: &str, name: &str, value: Value| {
        objects.put(Key::core(kind, "ns", name), value).expect("write an object");
    };
    let ports = json!([{"name": "http", "port": 80}]);
    put(
        "Service",
        "web",
        json!({"spec": {"clusterIPs": ["10.96.0.7", "fd96::7"], "ports": ports}}),
    );
    put("Service", "db", json!({"spec": {"clusterIP": "None"}}));
    put(
        "Service",
        "out",
        json!({"spec": {"type": "ExternalName", "externalName": "Example.org."}}),
    );
    put("Service", "bad", json!({"spec": {"type": "ExternalName", "externalName": "a..b \u{fc}"}}));
    let endpoints: Vec<_> =
        (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    let labels = json!({"labels": {"kubernetes.io/service-name": "db"}});
    let ports = json!([{"name": "sql", "port": 5432}]);
    put("EndpointSlice", "db", json!({"metadata": labels, "ports": ports, "endpoints": endpoints}));
    Zone::new(&objects, "cluster.local")
});

pub(crate) fn check(data: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(answer) = ZONE.answer(data, transport) else { continue };
        assert!(transport == Transport::Tcp || answer.len() <= UDP_BYTES_MAX, "{}", answer.len());
        answers_the_question(data, &answer);
    }
}

fn answers_the_question(data: &[u8], answer: &[u8]) {
    let asked = Message::from_vec(data).expect("only questions are answered");
    let answer = Message::from_vec(answer).expect("an answer decodes");
    assert_eq!(asked.metadata.message_type, MessageType::Query, "answers are never answered");
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.metadata.id, asked.metadata.id);
    match answer.metadata.response_code {
        ResponseCode::FormErr => assert_ne!(asked.queries.len(), 1),
        ResponseCode::NotImp => assert_ne!(asked.metadata.op_code, OpCode::Query),
        _ => assert_eq!(answer.queries, asked.queries),
    }
    if answer.metadata.response_code == ResponseCode::NXDomain {
        assert!(answer.answers.is_empty(), "what does not exist has no records");
    }
}
