//! The seeds that nobody can type, made again on demand:
//! `cargo test -p fuzz-targets --test seeds -- --ignored`.
//!
//! They hold fresh keys and random numbers, so each time they are others; what they show stays.

#[path = "seeds/messages.rs"]
mod messages;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_identity::ca::Anchor;
use hauberk_identity::{Credentials, Key, certificate, provider, rustls};
use hauberk_model::WorkloadId;
use hauberk_proxy::tls::client_hello::{Hello, parse};
use hauberk_proxy::transport_header::{Session, TransportHeader};
use hickory_proto::op::{Message as DnsMessage, Query};
use hickory_proto::rr::{Name, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder: PathBuf = own.parent().expect("fuzz/").join("corpus").join(target);
    assert!(bytes.len() < 4096, "{name} has {} bytes", bytes.len());
    fs::write(folder.join(name), bytes).expect("write a seed");
}

/// What a client of the mesh says first.
fn client_hello(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut Cursor::new(&mut bytes)).expect("write to memory");
    bytes
}

/// The same message in records of `size` bytes.
fn split(hello: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for fragment in hello[5..].chunks(size) {
        records.extend(&hello[..3]);
        records.extend(u16::try_from(fragment.len()).expect("a short record").to_be_bytes());
        records.extend(fragment);
    }
    records
}

#[test]
fn a_post_quantum_hello_is_understood_whole_and_split() {
    let hello = client_hello("web.example.org");
    assert!(hello.len() > 1216, "it carries a share of X25519MLKEM768");
    let expect = Hello::Tls { sni: Some("web.example.org".to_owned()) };
    for bytes in [hello.clone(), split(&hello, 1), split(&hello, 100)] {
        assert_eq!(parse(&bytes), expect);
    }
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_seeds() {
    client_hellos();
    transport_headers();
    certificates();
    questions();
    messages::write_all();
}

fn client_hellos() {
    let hello = client_hello("web.example.org");
    write("client_hello", "post_quantum", &hello);
    write("client_hello", "split_over_records", &split(&hello, 100));
    write(
        "client_hello",
        "split_in_the_message_header",
        &[&split(&hello[..7], 2), &hello[5..]].concat(),
    );
    write("client_hello", "without_a_name", &client_hello("192.0.2.1"));
    write("client_hello", "beginning", &hello[..40]);
}

fn transport_headers() {
    let header = |port, name: Option<&str>, session| {
        TransportHeader { port, name: name.map(str::to_owned), session }.encode()
    };
    write("transport_header", "opaque", &header(4143, None, Session::Opaque));
    let named = header(65535, Some("web.emojivoto.svc.cluster.local."), Session::Http2);
    write("transport_header", "named_http2", &named);
    write("transport_header", "cut", &named[..named.len() - 1]);
    let too_long = [b"transport.l5d.io/v1\r\n\r\n".as_slice(), &[0xff; 8]].concat();
    write("transport_header", "too_long", &too_long);
    write("transport_header", "http1", &header(80, None, Session::Http1));
}

fn certificates() {
    let mut rng = SmallRng::seed_from_u64(1);
    let (day, now) = (Duration::from_secs(86_400), SystemTime::now());
    let anchor = Anchor::generate("root.linkerd.cluster.local", day, now, &mut rng).expect("made");
    let pem = anchor.to_pem();
    write("certificate", "anchor.pem", pem.certificate_pem.as_bytes());
    let ders = certificate::from_pem(&pem.certificate_pem).expect("it was made here");
    write("certificate", "anchor.der", &ders[0]);
    let key = Key::generate().expect("made");
    write("certificate", "key.pem", key.secret_pem().as_bytes());
    let web = WorkloadId::service_account("web", "emojivoto", "linkerd", "cluster.local");
    let credentials = Credentials::generate(web).expect("made");
    write("certificate", "request.der", credentials.request_der());
    write("certificate", "key.p8", credentials.key().secret_der());
}

fn questions() {
    let ask = |names: &[&str], kind| {
        let mut message = DnsMessage::query();
        for name in names {
            message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        }
        message.to_vec().expect("encodes")
    };
    write("dns", "service", &ask(&["web.ns.svc.cluster.local."], RecordType::A));
    write("dns", "headless", &ask(&["DB.ns.svc.cluster.local."], RecordType::A));
    write("dns", "named_port", &ask(&["_sql._tcp.db.ns.svc.cluster.local."], RecordType::SRV));
    write("dns", "alias", &ask(&["out.ns.svc.cluster.local."], RecordType::AAAA));
    write("dns", "broken_alias", &ask(&["bad.ns.svc.cluster.local."], RecordType::A));
    write("dns", "pod", &ask(&["fd42--5.ns.pod.cluster.local."], RecordType::AAAA));
    write("dns", "two_questions", &ask(&["a.", "b."], RecordType::A));
    write("dns", "nowhere", &ask(&["nope.example.org."], RecordType::ANY));
}
