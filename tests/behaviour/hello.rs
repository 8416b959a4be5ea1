//! ClientHellos as they come: of post-quantum size, cut into segments and records, never finished.

use crate::world::{PATIENCE, WAYS, Way, World, port, world};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

/// The name the server's proxy answers to itself.
const OWN_NAME: &str = "default.behaviour.serviceaccount.identity.linkerd.cluster.local";

/// A socket that sends each write in pieces of this size, each a segment of its own.
struct Cut {
    socket: TcpStream,
    piece: usize,
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(self.piece) {
            self.socket.write_all(piece)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Read for Cut {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.read(bytes)
    }
}

/// What is proved here is that the handshake arrives; whose certificate it is, other tests prove.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn handshake(name: &'static str) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(name).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// A first flight, with a key share of X25519MLKEM768.
fn hello(name: &'static str) -> Vec<u8> {
    let mut bytes = Vec::new();
    handshake(name).write_tls(&mut bytes).expect("a hello");
    assert!(bytes.len() > 1200, "no post-quantum hello: {} bytes", bytes.len());
    bytes
}

/// The same handshake message in records of at most `size` bytes (RFC 8446 section 5.1).
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let (head, message) = hello.split_at(5);
    let records = message.chunks(size).flat_map(|piece| {
        let length = u16::try_from(piece.len()).expect("a small record").to_be_bytes();
        [&head[..3], &length, piece].concat()
    });
    records.collect()
}

fn echo(world: &World) -> u16 {
    world.serve(port(), |mut socket| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = socket.read(&mut bytes) {
            if socket.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    })
}

/// An application's own TLS passes byte for byte, however its hello is cut.
#[test]
fn a_foreign_hello_passes_however_it_is_cut() {
    let Some(world) = world("hello") else { return };
    let port = echo(world);
    let whole = hello("example.test");
    for bytes in [whole.clone(), in_records(&whole, 300), in_records(&whole, 50)] {
        for piece in [7, 100, 511, 1400, 10_000] {
            for way in WAYS {
                let mut cut = Cut { socket: world.connect(way, port), piece };
                cut.write_all(&bytes).unwrap();
                let mut back = vec![0; bytes.len()];
                cut.read_exact(&mut back)
                    .unwrap_or_else(|error| panic!("{way:?} pieces of {piece}: {error}"));
                assert_eq!(back, bytes, "{way:?} pieces of {piece}");
            }
        }
    }
}

/// A hello to the proxy's own name is answered, however it is cut: the application gets plaintext.
#[test]
fn a_hello_to_the_proxy_is_answered_however_it_is_cut() {
    let Some(world) = world("hello") else { return };
    let (port, seen) = crate::message::simple(world);
    for piece in [7, 100, 511, 10_000] {
        let mut tls = handshake(OWN_NAME);
        let mut socket = Cut { socket: world.connect(Way::Inbound, port), piece };
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap_or_else(|error| panic!("pieces of {piece}: {error}"));
        let mut answer = String::new();
        // An end without close_notify is no matter here.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "pieces of {piece}: {answer}");
        assert_eq!(seen.take().len(), 1);
    }
    // In several records: the server's flight shows that it was understood.
    for size in [50, 300] {
        let mut cut = Cut { socket: world.connect(Way::Inbound, port), piece: 100 };
        cut.write_all(&in_records(&hello(OWN_NAME), size)).unwrap();
        let mut first = [0; 1];
        cut.read_exact(&mut first).unwrap_or_else(|error| panic!("records of {size}: {error}"));
        assert_eq!(first[0], 22, "records of {size}: no handshake but {first:?}");
    }
}

/// What begins like a hello and is none passes as bytes at once.
#[test]
fn what_only_begins_like_a_hello_passes() {
    let Some(world) = world("hello") else { return };
    let port = echo(world);
    for bytes in [&[22, 3, 9, 0, 5, 1, 0, 0, 1, 3][..], &[22, 3, 1, 0, 5, 2, 0, 0, 1, 3], &[22; 20]]
    {
        for way in WAYS {
            let start = Instant::now();
            let mut socket = world.connect(way, port);
            socket.write_all(bytes).unwrap();
            let mut back = vec![0; bytes.len()];
            socket.read_exact(&mut back).unwrap();
            assert_eq!(back, bytes, "{way:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{way:?}: it was waited for more");
        }
    }
}

/// A hello that never ends is closed after the limit of detection, and holds nobody up.
#[test]
fn a_hello_that_never_ends_is_closed() {
    let Some(world) = world("hello") else { return };
    let (port, _) = crate::message::simple(world);
    let start = Instant::now();
    let mut never = world.connect(Way::Inbound, port);
    never.write_all(&hello(OWN_NAME)[..600]).unwrap();
    let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    for way in WAYS {
        let (answer, _) =
            crate::message::ask(world.connect(way, port), request, crate::message::Kind::Response);
        assert_eq!(answer.text(), "ok", "{way:?}");
    }
    let ended = never.read(&mut [0; 1]);
    let closed = match &ended {
        Ok(count) => *count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    };
    assert!(closed, "it stays: {ended:?}");
    assert!(start.elapsed() < PATIENCE, "after {:?}", start.elapsed());
}
