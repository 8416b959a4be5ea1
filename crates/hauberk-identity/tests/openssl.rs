//! What OpenSSL thinks of our certificates and our TLS, and we of its requests and keys.
//!
//! Runs the `openssl` program; where there is none the tests say SKIPPED. Versions before 3.5 know
//! no X25519MLKEM768, so these handshakes also show the fall-back to the classical group.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_identity::ca::Anchor;
use hauberk_identity::issuer::{Issuer, Lifetimes};
use hauberk_identity::request::Request;
use hauberk_identity::verify::{client_identity, expect_identity};
use hauberk_identity::{Alpn, Credentials, TlsSettings, TrustAnchors, certificate, client_config};
use hauberk_model::workload_id::WorkloadId;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, Stream};

const DAY: Duration = Duration::from_secs(24 * 3600);
const TIMEOUT: Duration = Duration::from_secs(20);

fn id(account: &str) -> WorkloadId {
    WorkloadId::service_account(account, "emojivoto", "linkerd", "cluster.local")
}

fn is_missing() -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        assert!(std::env::var_os("HAUBERK_REQUIRE_OPENSSL").is_none(), "openssl is missing");
        eprintln!("SKIPPED: there is no openssl program");
    }
    missing
}

fn openssl(directory: &Path, arguments: &str) -> Output {
    Command::new("openssl")
        .current_dir(directory)
        .args(arguments.split_ascii_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs")
}

fn succeed(directory: &Path, arguments: &str) -> String {
    let output = openssl(directory, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}\n{text}\n{errors}");
    text
}

struct Lab {
    directory: tempfile::TempDir,
    anchors: TrustAnchors,
    issuer: Issuer,
    now: SystemTime,
    rng: SmallRng,
}

impl Lab {
    fn new() -> Self {
        let now = SystemTime::now();
        let mut rng = SmallRng::seed_from_u64(3);
        let anchor = Anchor::generate("root.linkerd.cluster.local", 30 * DAY, now, &mut rng)
            .expect("randomness");
        let pem = anchor
            .issuer("identity.linkerd.cluster.local", 7 * DAY, now, &mut rng)
            .expect("randomness");
        let anchors = anchor.anchors();
        let issuer = Issuer::from_pem(
            &pem.certificate_pem,
            &pem.key_pem,
            &anchors,
            Lifetimes::default(),
            now,
        )
        .expect("good");
        let directory = tempfile::tempdir().expect("a directory");
        let lab = Self { directory, anchors, issuer, now, rng };
        lab.write("root.pem", lab.anchors.to_pem());
        lab.write("issuer.pem", pem.certificate_pem);
        lab
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).expect("a writable directory");
    }

    /// Signs a request and writes the leaf as PEM.
    fn issue(&mut self, csr: &[u8], account: &str) -> hauberk_identity::Issued {
        let request = Request::parse(csr, &id(account)).expect("a good request");
        let issued = self.issuer.issue(&request, self.now, &mut self.rng).expect("issued");
        self.write(&format!("{account}.pem"), certificate::to_pem([&issued.leaf]));
        issued
    }
}

#[test]
fn openssl_verifies_our_chain_and_reads_our_request() {
    if is_missing() {
        return;
    }
    let mut lab = Lab::new();
    let credentials = Credentials::generate(id("web")).expect("randomness");
    lab.issue(credentials.request_der(), "web");
    lab.write("web.csr", credentials.request_der());

    succeed(lab.path(), "verify -x509_strict -CAfile root.pem -untrusted issuer.pem web.pem");
    let purpose =
        "verify -x509_strict -purpose sslclient -CAfile root.pem -untrusted issuer.pem web.pem";
    succeed(lab.path(), purpose);
    let request = succeed(lab.path(), "req -inform DER -in web.csr -noout -text -verify");
    assert!(request.contains(&format!("DNS:{}", id("web"))), "{request}");
    let leaf = succeed(lab.path(), "x509 -in web.pem -noout -text");
    for part in
        ["TLS Web Server Authentication, TLS Web Client Authentication", "Digital Signature"]
    {
        assert!(leaf.contains(part), "{part} in {leaf}");
    }
}

#[test]
fn we_sign_openssls_request_and_load_its_sec1_issuer_under_an_rsa_anchor() {
    if is_missing() {
        return;
    }
    let mut lab = Lab::new();
    let name = id("web");
    succeed(lab.path(), "ecparam -name prime256v1 -genkey -noout -out web.key");
    succeed(
        lab.path(),
        &format!(
            "req -new -key web.key -subj /CN={name} -addext subjectAltName=DNS:{name} -outform DER -out web.csr"
        ),
    );
    let csr = std::fs::read(lab.path().join("web.csr")).expect("written");
    lab.issue(&csr, "web");
    succeed(lab.path(), "verify -CAfile root.pem -untrusted issuer.pem web.pem");

    // An anchor on RSA, and an issuer whose key openssl writes as SEC 1.
    succeed(
        lab.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.pem -subj /CN=root -days 30 -addext keyUsage=keyCertSign",
    );
    succeed(lab.path(), "ecparam -name prime256v1 -genkey -noout -out issuer.key");
    succeed(lab.path(), "req -new -key issuer.key -subj /CN=issuer -out issuer.csr");
    lab.write("ca.cnf", "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=keyCertSign\nsubjectKeyIdentifier=hash\n");
    succeed(
        lab.path(),
        "x509 -req -in issuer.csr -CA rsa.pem -CAkey rsa.key -days 7 -extfile ca.cnf -out issuer2.pem",
    );
    let text = |file: &str| std::fs::read_to_string(lab.path().join(file)).expect("written");
    assert!(text("issuer.key").contains("EC PRIVATE KEY"), "SEC 1");
    let anchors = TrustAnchors::from_pem(&text("rsa.pem")).expect("RSA anchors are fine");
    let now = SystemTime::now();
    let issuer = Issuer::from_pem(
        &format!("{}{}", text("issuer2.pem"), text("rsa.pem")),
        &text("issuer.key"),
        &anchors,
        Lifetimes::default(),
        now,
    )
    .expect("leads to the anchor");
    assert_eq!(issuer.chain().len(), 1, "the root is not sent along");
    let request = Request::parse(&csr, &name).expect("good");
    issuer.issue(&request, now, &mut lab.rng).expect("issued");
}

/// Serves one connection and tells who came, or why nobody did.
fn serve_one(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
) -> Result<Option<WorkloadId>, std::io::Error> {
    let (mut socket, _) = listener.accept()?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Stream::new(&mut connection, &mut socket).write_all(b"welcome\n")?;
    connection.send_close_notify();
    connection.complete_io(&mut socket)?;
    Ok(client_identity(connection.peer_certificates()))
}

#[test]
fn openssl_connects_to_our_server_with_and_without_certificate() {
    if is_missing() {
        return;
    }
    let mut lab = Lab::new();
    let server = Credentials::generate(id("voting")).expect("randomness");
    let issued = lab.issue(server.request_der(), "voting");
    let server = server
        .certify(issued.leaf, issued.intermediates, &lab.anchors, &TlsSettings::default(), lab.now)
        .expect("accepted");
    let client = Credentials::generate(id("web")).expect("randomness");
    let issued = lab.issue(client.request_der(), "web");
    lab.write("chain.pem", certificate::to_pem(&issued.intermediates));
    lab.write("web.key", client.key().secret_pem());

    let attempt = |arguments: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let config = Arc::clone(server.server(Alpn::None));
        let served = std::thread::spawn(move || serve_one(listener, config));
        let output = openssl(
            lab.path(),
            &format!(
                "s_client -connect 127.0.0.1:{port} -servername {} -CAfile root.pem -verify_return_error -ign_eof {arguments}",
                id("voting")
            ),
        );
        (served.join().expect("no panic"), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (who, text) = attempt("-cert web.pem -key web.key -cert_chain chain.pem");
    assert_eq!(who.expect("a handshake"), Some(id("web")));
    assert!(text.contains("TLSv1.3") && text.contains("welcome"), "{text}");
    let (who, text) = attempt("");
    assert_eq!(who.expect("a handshake"), None);
    assert!(!text.contains("New Session Ticket arrived"), "no tickets: {text}");
    let (who, _) = attempt("-tls1_2");
    who.expect_err("TLS 1.2 is not spoken");
}

/// A child process that does not outlive the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_connects_to_openssls_server() {
    if is_missing() {
        return;
    }
    let mut lab = Lab::new();
    let server = Credentials::generate(id("voting")).expect("randomness");
    let issued = lab.issue(server.request_der(), "voting");
    lab.write("chain.pem", certificate::to_pem(&issued.intermediates));
    lab.write("voting.key", server.key().secret_pem());

    // The port is free now; whoever takes it meanwhile makes this test fail, not pass.
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let peer = Command::new("openssl")
        .current_dir(lab.path())
        .args(["s_server", "-quiet", "-naccept", "1", "-cert", "voting.pem", "-key", "voting.key"])
        .args(["-cert_chain", "chain.pem", "-accept", &port.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");

    let mut peer = Killed(peer);

    let began = std::time::Instant::now();
    let mut socket = loop {
        match std::net::TcpStream::connect(port) {
            Ok(socket) => break socket,
            Err(_) if began.elapsed() < TIMEOUT => std::thread::yield_now(),
            Err(error) => panic!("openssl does not listen: {error}"),
        }
    };
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let config =
        client_config::without_certificate(&lab.anchors, Alpn::None, &TlsSettings::default());
    let name = ServerName::try_from(id("voting").as_str().to_owned()).expect("a DNS name");
    let mut connection = ClientConnection::new(config, name).expect("well-formed");
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(b"hello from the mesh\n").expect("a handshake");
    connection.send_close_notify();
    connection.complete_io(&mut socket).expect("sent");
    expect_identity(connection.peer_certificates(), &id("voting")).expect("it is voting");
    // It ends after one connection, and would end at once if its input did.
    drop(socket);
    let mut said = String::new();
    peer.0.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(said.contains("hello from the mesh"), "{said}");
}
