//! The admission webhooks over real TLS, as an API server calls them.
//!
//! No API server ran here or elsewhere: the reviews are written after the documented shapes of
//! `admission.k8s.io/v1` and `v1beta1`, with the fields that API servers send.

mod lab;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hauberk_control::AdmissionConfig;
use hauberk_control::admission::review;
use hauberk_control::run::Webhooks;
use hauberk_identity::rustls::crypto::aws_lc_rs::default_provider;
use hauberk_identity::rustls::pki_types::pem::PemObject as _;
use hauberk_identity::rustls::pki_types::{CertificateDer, ServerName};
use hauberk_identity::rustls::{ClientConfig, RootCertStore};
use hauberk_process::{Shutdown, Tasks};
use hauberk_resources::{Kind, ResourceEvent, Verdict, yaml};
use hauberk_source::{Options, directory};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::ALLOW;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name by which an API server calls Linkerd's validator of policies.
const NAME: &str = "linkerd-policy-validator.linkerd.svc";

/// A certificate that vouches for itself, as Helm makes one for each webhook.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("randomness");
        let params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).expect("a DNS name");
        let certificate = params.self_signed(&key).expect("can sign").pem();
        Self { certificate, key: key.serialize_pem() }
    }

    /// Writes both files, as if the Secret was mounted there.
    fn write(&self, directory: &Path) {
        write(directory, "tls.key", &self.key);
        write(directory, "tls.crt", &self.certificate);
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM")
    }
}

/// A control plane with webhooks.
struct Admission {
    lab: Lab,
    tls: tempfile::TempDir,
    pair: Pair,
}

impl Admission {
    async fn start() -> Self {
        let (tls, pair) = (tempfile::tempdir().expect("a directory"), Pair::new());
        pair.write(tls.path());
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let admission = AdmissionConfig {
            tls_dir: tls.path().to_owned(),
            policy_addr: anywhere,
            profile_addr: anywhere,
        };
        let lab = Lab::start_with(&[], |config| config.admission = Some(admission)).await;
        Self { lab, tls, pair }
    }

    fn webhooks(&self) -> Webhooks {
        self.lab.running.webhooks.expect("are served")
    }

    /// A TLS connection to the policy webhook by one who trusts the first certificate.
    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        connect(self.webhooks().policy, &[&self.pair], protocol).await
    }

    /// Posts a body to the policy webhook by HTTP/1.1.
    async fn post(&self, body: impl Into<Bytes>) -> (StatusCode, String) {
        let request = Request::post("/").header("host", NAME).body(Full::new(body.into()));
        exchange(self.connect(b"http/1.1").await, request.expect("a request")).await
    }
}

async fn connect(address: SocketAddr, trusted: &[&Pair], protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der()).expect("a certificate");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.expect("can connect");
    let name = ServerName::try_from(NAME).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("is trusted")
}

/// One request and its answer, by the protocol that TLS has agreed on.
async fn exchange<B>(stream: TlsStream<TcpStream>, request: Request<B>) -> (StatusCode, String)
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let answer = async {
        if is_http2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
            let (mut sender, connection) = handshake.await.expect("HTTP/2");
            driven(connection, sender.send_request(request)).await
        } else {
            let handshake = hyper::client::conn::http1::handshake(io);
            let (mut sender, connection) = handshake.await.expect("HTTP/1.1");
            driven(connection, sender.send_request(request)).await
        }
    };
    let response = tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time");
    finish(response)
}

/// The whole answer, while the connection is driven.
async fn driven(
    connection: impl Future,
    response: impl Future<Output = hyper::Result<hyper::Response<Incoming>>>,
) -> hyper::Result<hyper::Response<Bytes>> {
    let whole = async move {
        let (head, body) = response.await?.into_parts();
        Ok(hyper::Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    let (mut connection, mut whole) = (pin!(connection), pin!(whole));
    tokio::select! {
        whole = whole.as_mut() => whole,
        // It may end as soon as it has read the answer.
        _ = connection.as_mut() => whole.await,
    }
}

fn finish(response: hyper::Result<hyper::Response<Bytes>>) -> (StatusCode, String) {
    let response = response.expect("an answer");
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED {
        assert_eq!(response.headers()[ALLOW], "POST");
    }
    (status, String::from_utf8(response.into_body().to_vec()).expect("text"))
}

/// A review as API servers of today send it.
fn review_of(object: &Value) -> Value {
    let text = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_else(|| json!(""));
    let api_version = text("/apiVersion").as_str().unwrap_or_default().to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let kind = json!({"group": group, "version": version, "kind": text("/kind")});
    let resource = json!({"group": group, "version": version, "resource": "things"});
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "3c9aee8c-7b2a-4f7a-9b3b-0f6d1f9f9f11",
            "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
            "name": text("/metadata/name"), "namespace": text("/metadata/namespace"),
            "operation": "CREATE",
            "userInfo": {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-create"},
        },
    })
}

fn server(protocol: &str) -> Value {
    json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"port": "http", "podSelector": {"matchLabels": {"app": "web"}}, "proxyProtocol": protocol},
    })
}

fn profile(method: &str) -> Value {
    json!({
        "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile",
        "metadata": {"name": "web.shop.svc.cluster.local", "namespace": "shop"},
        "spec": {"routes": [{"name": "all", "condition": {"method": method}}]},
    })
}

fn allowed(body: &str) -> bool {
    let review: Value = serde_json::from_str(body).expect("a review");
    assert_eq!(review["kind"], "AdmissionReview");
    assert_eq!(review["response"]["uid"], "3c9aee8c-7b2a-4f7a-9b3b-0f6d1f9f9f11");
    review["response"]["allowed"].as_bool().expect("a decision")
}

#[tokio::test]
async fn both_webhooks_answer_by_both_protocols_and_count() {
    let admission = Admission::start().await;
    let Webhooks { policy, profile: profiles } = admission.webhooks();
    let cases = [
        (policy, server("HTTP/2"), true),
        (policy, server("HTTP/3"), false),
        (profiles, profile("GET"), true),
        (profiles, profile("G E T"), false),
        // What to do follows from the kind, not from the port.
        (policy, profile("G E T"), false),
    ];
    for (address, object, expect) in cases {
        for protocol in [&b"http/1.1"[..], b"h2"] {
            let stream = connect(address, &[&admission.pair], protocol).await;
            let body = Full::new(Bytes::from(review_of(&object).to_string()));
            let request = Request::post(format!("https://{NAME}/?timeout=10s")).body(body);
            let (status, body) = exchange(stream, request.expect("a request")).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            assert_eq!(allowed(&body), expect, "{object}: {body}");
        }
    }
    let metrics = admission.lab.metrics.render();
    for (group, kind, verdict, count) in [
        ("policy.linkerd.io", "Server", "understood", 2),
        ("policy.linkerd.io", "Server", "refused", 2),
        ("linkerd.io", "ServiceProfile", "refused", 4),
    ] {
        let line = format!(
            "control_admission_reviews_total{{group=\"{group}\",kind=\"{kind}\",verdict=\"{verdict}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    admission.lab.stop().await;
}

#[tokio::test]
async fn what_is_no_review_gets_a_status_and_harms_nobody() {
    let admission = Admission::start().await;
    let good = review_of(&server("HTTP/2")).to_string();
    for body in ["", "garbage", "[]", "{}", "{\"kind\": \"AdmissionReview\"}", &"[".repeat(1 << 20)]
    {
        let (status, text) = admission.post(body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        assert!(text.len() < 2000 && text.ends_with('\n'), "{text}");
    }
    let ask = |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).header("host", NAME);
        request.body(Full::new(Bytes::from(good.clone()))).expect("a request")
    };
    for (method, path, expect) in [
        (Method::GET, "/", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/mutate", StatusCode::NOT_FOUND),
        (Method::GET, "/metrics", StatusCode::NOT_FOUND),
    ] {
        let (status, text) =
            exchange(admission.connect(b"http/1.1").await, ask(method, path)).await;
        assert_eq!(status, expect, "{text}");
    }

    // Too long, by its own word: the answer comes before the body.
    let mut stream = admission.connect(b"http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 99999999\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("can write");
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 413 Payload Too Large");
    // Too long without a word.
    let mut stream = admission.connect(b"http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nhost: {NAME}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("can write");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16));
    let (mut read, mut written) = tokio::io::split(stream);
    let send = async {
        // It ends when the webhook has had enough.
        while written.write_all(chunk.as_bytes()).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let status = tokio::select! {
        status = status_line(&mut read) => status,
        () = send => unreachable!("it waits"),
    };
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large");

    let (status, body) = admission.post(good).await;
    assert_eq!((status, allowed(&body)), (StatusCode::OK, true));
    let metrics = admission.lab.metrics.render();
    for (reason, count) in [("malformed", 6), ("method", 2), ("path", 2), ("long", 2)] {
        let line = format!("control_admission_failures_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    admission.lab.stop().await;
}

/// The first line of an answer.
async fn status_line(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    let read = async {
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.expect("an answer"));
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer in time");
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

#[tokio::test]
async fn slow_clients_are_given_up_and_others_are_served_meanwhile() {
    let admission = Admission::start().await;
    // One sends half of a body, one says nothing within TLS, one not even that.
    let slow = async {
        let body = review_of(&server("HTTP/2")).to_string();
        let mut stream = admission.connect(b"http/1.1").await;
        let head =
            format!("POST / HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("can write");
        stream.write_all(&body.as_bytes()[..body.len() / 2]).await.expect("can write");
        assert_eq!(status_line(&mut stream).await, "HTTP/1.1 408 Request Timeout");
    };
    let silent = async |protocol: &'static [u8]| {
        let mut stream = admission.connect(protocol).await;
        let mut rest = Vec::new();
        // An end without a farewell of TLS is an end too. HTTP/2 greets first.
        let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        let _ = end.expect("it is closed in time");
        assert!(!String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
    };
    let mute = async {
        let mut stream = TcpStream::connect(admission.webhooks().policy).await.expect("connects");
        let mut rest = Vec::new();
        let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        let _ = end.expect("it is closed in time");
        assert!(rest.is_empty(), "{rest:?}");
    };
    let is_over = AtomicBool::new(false);
    let slow = async {
        slow.await;
        is_over.store(true, Relaxed);
    };
    let served = async {
        let mut served = 0;
        while !is_over.load(Relaxed) {
            let (status, _) = admission.post(review_of(&server("HTTP/2")).to_string()).await;
            assert_eq!(status, StatusCode::OK);
            served += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(served > 1, "the slow ones hold up the others");
    };
    tokio::join!(slow, silent(b"http/1.1"), silent(b"h2"), mute, served);
    assert!(admission.lab.metrics.render().contains("failures_total{reason=\"slow\"} 1"));
    admission.lab.stop().await;
}

#[tokio::test]
async fn a_long_body_that_comes_in_pieces_is_reviewed() {
    let admission = Admission::start().await;
    let mut object = server("HTTP/3");
    object["metadata"]["annotations"]["example.org/long"] = json!("x".repeat(3 << 20));
    let body = review_of(&object).to_string().into_bytes();
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let pieces: Vec<_> = body
            .chunks(10_000)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = StreamBody::new(futures::stream::iter(pieces));
        let request = Request::post(format!("https://{NAME}/")).body(body).expect("a request");
        let (status, text) = exchange(admission.connect(protocol).await, request).await;
        assert_eq!((status, allowed(&text)), (StatusCode::OK, false));
        assert!(text.len() < 2000, "{text}");
    }
    admission.lab.stop().await;
}

#[tokio::test]
async fn the_certificate_is_renewed_under_traffic_and_survives_a_broken_one() {
    let admission = Admission::start().await;
    let address = admission.webhooks().policy;
    let next = Pair::new();
    let good = review_of(&server("HTTP/2")).to_string();
    // A request by one who trusts both; returns the certificate that was shown.
    let ask = async || {
        let stream = connect(address, &[&admission.pair, &next], b"h2").await;
        let shown = stream.get_ref().1.peer_certificates().expect("shown")[0].clone();
        let body = Full::new(Bytes::from(good.clone()));
        let request = Request::post(format!("https://{NAME}/")).body(body).expect("a request");
        let (status, body) = exchange(stream, request).await;
        assert!(status == StatusCode::OK && allowed(&body), "{status}: {body}");
        shown.into_owned()
    };
    assert_eq!(ask().await, admission.pair.der());

    // A key alone does not fit the certificate: the old pair stays, however long it takes.
    write(admission.tls.path(), "tls.key", &next.key);
    let refused = || {
        let line =
            "control_followed_contents_total{what=\"webhook certificate\",outcome=\"refused\"} 1";
        admission.lab.metrics.render().contains(line)
    };
    eventually("the lonely key is refused", async || {
        assert_eq!(ask().await, admission.pair.der());
        refused().then_some(())
    })
    .await;

    next.write(admission.tls.path());
    eventually("the new certificate is shown", async || (ask().await == next.der()).then_some(()))
        .await;
    std::fs::remove_file(admission.tls.path().join("tls.crt")).expect("can remove");
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert_eq!(ask().await, next.der());
    }
    admission.lab.stop().await;
}

/// Manifests of all tests of this repository, and some with mistakes.
fn corpus() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts = vec![BROKEN.to_owned()];
    let mut folders: Vec<PathBuf> =
        ["crates/hauberk-inject/tests/golden", "examples", "fuzz/corpus/yaml"]
            .map(|name| root.join(name))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                texts.push(text);
            }
        }
    }
    // The conformance cases have their resources in their source.
    for entry in std::fs::read_dir(root.join("tests/conformance")).expect("a folder") {
        let source = std::fs::read_to_string(entry.expect("readable").path()).expect("text");
        let blocks = source.split('"').filter(|text| text.contains("apiVersion:"));
        texts.extend(blocks.map(|text| text.replace("{{", "{").replace("}}", "}")));
    }
    let objects: BTreeSet<String> = texts
        .iter()
        .flat_map(|text| yaml::objects(text).0)
        .filter(Value::is_object)
        .map(|object| object.to_string())
        .collect();
    objects.iter().map(|object| serde_json::from_str(object).expect("JSON")).collect()
}

const BROKEN: &str = "
{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: a}, spec: {port: 80}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: a}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {namespace: a}, spec: {port: 80, podSelector: {}}}
---
{apiVersion: policy.linkerd.io/v1alpha1, kind: NetworkAuthentication, metadata: {name: a}, spec: {networks: []}}
---
{apiVersion: policy.linkerd.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {targetRef: {kind: Pod, name: x}}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [{matches: [{path: {type: Glob}}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [{matches: [{path: {type: Glob}}]}]}}
---
{apiVersion: linkerd.io/v1alpha2, kind: ServiceProfile, metadata: {name: a.b}, spec: {routes: [{name: r, condition: {}}]}}
---
{apiVersion: workload.linkerd.io/v1beta1, kind: ExternalWorkload, metadata: {name: a}, spec: {}}
---
{apiVersion: policy.linkerd.io/v9, kind: Gadget, metadata: {name: a}, spec: 7}
---
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: 7}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {a: 7}}}
";

#[tokio::test]
async fn admission_refuses_what_the_directory_would_not_take_into_use() {
    let mut seen = BTreeSet::new();
    let corpus = corpus();
    assert!(corpus.len() > 100, "{}", corpus.len());
    for object in corpus {
        let folder = tempfile::tempdir().expect("a directory");
        write(folder.path(), "object.json", &object.to_string());
        let tasks = Tasks::new(Shutdown::new());
        let mut source = directory(folder.path(), Options::default(), &tasks).expect("a directory");
        let mut taken = 0;
        for _ in Kind::ALL {
            let event = tokio::time::timeout(DEADLINE, source.events.recv()).await;
            match event.expect("in time").expect("a listing") {
                ResourceEvent::Relisted { all, .. } => taken += all.len(),
                other => panic!("{other:?}"),
            }
        }
        let problems: Vec<String> = source.problems.borrow().values().flatten().cloned().collect();

        let verdict = Verdict::of(object.clone());
        let word = verdict.word();
        seen.insert(word);
        assert_eq!(taken == 1, word == "understood", "{object}: {problems:?}");
        let is_broken = matches!(verdict, Verdict::Refused(_) | Verdict::Unread(_));
        assert_eq!(!problems.is_empty(), is_broken, "{object}: {problems:?}");

        // The webhook says so too. An API server has names and kinds of all objects.
        let has = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        };
        if has("/kind") && has("/apiVersion") && has("/metadata/name") {
            let answer =
                review::answer(review_of(&object).to_string().as_bytes()).expect("a review");
            let is_going = has("/metadata/deletionTimestamp");
            assert_eq!(
                answer.review["response"]["allowed"],
                !verdict.is_refused() || is_going,
                "{object}"
            );
        }
    }
    assert_eq!(Vec::from_iter(seen), ["foreign", "refused", "understood", "unread"]);
}

/// The program itself, ended with the value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `hauberk-controller` and curl, as an operator would try a webhook.
#[test]
fn the_program_answers_curl() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no curl");
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    let (cluster, tls, pair) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
        Pair::new(),
    );
    pair.write(tls.path());
    let local = "127.0.0.1:0";
    let child = Command::new(env!("CARGO_BIN_EXE_hauberk-controller"))
        .arg("--source-dir")
        .arg(cluster.path())
        .arg("--webhook-tls-dir")
        .arg(tls.path())
        .args([
            "--policy-webhook-addr",
            local,
            "--profile-webhook-addr",
            local,
            "--admin-addr",
            local,
        ])
        .args(["--destination-addr", local, "--policy-addr", local, "--identity-addr", local])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut program = Program(child);
    let (out, err) =
        (program.0.stdout.take().expect("piped"), program.0.stderr.take().expect("piped"));
    let (sender, lines) = std::sync::mpsc::sync_channel(1000);
    for pipe in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.try_send(line);
            }
        });
    }
    let port = loop {
        let line = lines.recv_timeout(DEADLINE).expect("it says where it listens");
        let Some((_, rest)) = line.split_once("Webhooks { policy: 127.0.0.1:") else { continue };
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        break port.parse::<u16>().expect("a port");
    };

    let review = tls.path().join("review.json");
    let url = format!("https://{NAME}:{port}/");
    let resolve = format!("{NAME}:{port}:127.0.0.1");
    let certificate = tls.path().join("tls.crt");
    let curl = |options: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"])
            .args(["--write-out", "\n%{http_code} %{http_version}"])
            .arg("--cacert")
            .arg(&certificate)
            .args(["--resolve", &resolve])
            .args(options)
            .arg(&url)
            .output()
            .expect("curl runs");
        let text = String::from_utf8(output.stdout).expect("text");
        (text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let data = format!("@{}", review.display());
    let post = ["--data-binary", &data, "--header", "content-type: application/json"];
    for (object, expect) in [(server("HTTP/2"), true), (server("HTTP/3"), false)] {
        write(tls.path(), "review.json", &review_of(&object).to_string());
        for (version, expect_version) in [
            (&["--http1.1"][..], "200 1.1"),
            (&["--http2"], "200 2"),
            (&["--tls-max", "1.2"], "200 2"),
        ] {
            let (text, error) = curl(&[&post[..], version].concat());
            let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{error}"));
            assert_eq!(status, expect_version, "{body} {error}");
            assert_eq!(allowed(body), expect, "{body}");
        }
    }
    let (_, error) = curl(&["--tls-max", "1.1", "--data-binary", "{}"]);
    assert!(!error.is_empty(), "TLS 1.1 is not spoken");
    let (text, _) = curl(&["--request", "DELETE"]);
    assert!(text.ends_with("\n405 2"), "{text}");
}
