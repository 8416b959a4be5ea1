//! Certificates on live connections: two proxies, real sockets, and for each proxy a clock that the
//! test moves. Clocks may differ by the issuer's allowance. What a TLS session was agreed on by ends
//! with either certificate and with the trust anchors, resumed or not (decision 0024): what is
//! refused is asked for anew by a full handshake, which must not succeed either.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod mesh;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hauberk_identity::issuer::Lifetimes;
use hauberk_identity::{Certified, Tickets, TlsSettings};
use hauberk_model::outbound::{
    Backend, BackendTarget, Distribution, Load, OpaqueRoute, OutboundPolicy, OutboundProtocol,
    Queue, RouteBackend,
};
use hauberk_model::{Meta, Port};
use hauberk_proxy::control::{Lookup, Target};
use hauberk_testkit::ca::TestCa;
use mesh::{Mesh, Side, Way};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const QUESTION: &[u8] = b"\x01question";
const ANSWER: &[u8] = b"\x02answer";
const MINUTE: Duration = Duration::from_secs(60);

/// A proxy's clock.
#[derive(Clone, Debug)]
struct Clock(Arc<Mutex<SystemTime>>);

impl Clock {
    fn at(moment: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(moment)))
    }

    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn set(&self, moment: SystemTime) {
        *self.0.lock().unwrap() = moment;
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now().duration_since(UNIX_EPOCH).unwrap()))
    }
}

/// A client's proxy and a server's, before an application that is spoken to in opaque bytes.
struct Pair {
    mesh: Rc<Mesh>,
    ca: TestCa,
    client: Clock,
    server: Clock,
    /// Questions that came to the application.
    asked: Rc<Cell<u64>>,
}

impl Pair {
    async fn new(mesh: Rc<Mesh>) -> Self {
        let now = SystemTime::now();
        let asked: Rc<Cell<u64>> = Rc::default();
        let count = Rc::clone(&asked);
        let application = mesh::application(move |mut socket| {
            let count = Rc::clone(&count);
            async move {
                let mut question = [0; QUESTION.len()];
                if socket.read_exact(&mut question).await.is_ok() {
                    count.set(count.get() + 1);
                    // The proxy may have gone.
                    let _ = socket.write_all(ANSWER).await;
                }
            }
        });
        let application = application.await;
        mesh.publish([mesh.endpoint(application, Way::MeshedPlainHttp).await]);
        publish_opaque_policy(&mesh);
        let (client, server) = (Clock::at(now), Clock::at(now));
        let mut pair = Self { mesh, ca: TestCa::new(now), client, server, asked };
        pair.certify_both();
        pair
    }

    fn certify_both(&mut self) {
        self.certify_client();
        self.certify_server();
    }

    fn certify_client(&mut self) -> Arc<Certified> {
        let clock = self.client.clone();
        certify(&mut self.ca, &self.mesh.client, &self.mesh.client_id, clock)
    }

    fn certify_server(&mut self) -> Arc<Certified> {
        let clock = self.server.clone();
        certify(&mut self.ca, &self.mesh.server, &self.mesh.server_id, clock)
    }

    /// Whether the application answers over a connection of its own.
    async fn is_answered(&self) -> bool {
        let before = self.asked.get();
        let mut connection = self.mesh.connect();
        connection.write_all(QUESTION).await.unwrap();
        let mut answer = Vec::new();
        // However it ends.
        let _ = connection.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer == ANSWER, "{answer:?}");
        let is_answered = !answer.is_empty();
        // What is refused must not have come to the application.
        assert_eq!(self.asked.get() - before, u64::from(is_answered));
        is_answered
    }

    /// Waits until it is; an endpoint that was refused is left alone for a while.
    async fn is_answered_again(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while !self.is_answered().await {
            assert!(tokio::time::Instant::now() < deadline, "it is not answered again");
        }
    }

    /// Full and resumed handshakes of the client's proxy so far.
    fn handshakes(&self) -> [u64; 2] {
        let text = self.mesh.client.registry.render();
        ["full", "resumed"].map(|kind| {
            let kind = format!("kind=\"{kind}\"");
            let mut lines = text.lines();
            let line = lines.find(|line| {
                line.starts_with("hauberk_tls_handshakes_total{") && line.contains(&kind)
            });
            line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        })
    }
}

/// Gives a proxy a certificate, whose sessions are judged by that clock.
fn certify(
    ca: &mut TestCa,
    side: &Side,
    identity: &hauberk_model::WorkloadId,
    clock: Clock,
) -> Arc<Certified> {
    let settings = TlsSettings { tickets: Tickets::On, time: Arc::new(clock) };
    let certified = ca.certify(identity, &settings);
    side.certified.send_replace(Some(Arc::clone(&certified)));
    certified
}

fn publish_opaque_policy(mesh: &Mesh) {
    let meta = Meta::service("default", "web-svc", Port::new(80));
    let backend = Backend {
        meta: meta.clone(),
        target: BackendTarget::Balance {
            authority: mesh::authority(),
            load: Load::default(),
            balancing: Arc::default(),
        },
        // Refusals are final soon.
        queue: Queue { capacity: 10, failfast_timeout: Duration::from_millis(200) },
    };
    let backend = RouteBackend { filters: Vec::new(), backend: Arc::new(backend) };
    let backends = Distribution::FirstAvailable(vec![backend]);
    let route = OpaqueRoute { meta: Meta::default("tcp"), filters: Vec::new(), backends };
    let protocol = OutboundProtocol::Opaque(vec![route]);
    let target = Target::Address(mesh::SERVICE.parse().unwrap());
    let policy = Arc::new(OutboundPolicy { parent: meta, protocol });
    mesh.client.control.outbound_policy(target, Lookup::Known(policy));
}

#[test]
fn clocks_may_differ_by_the_allowance_while_traffic_flows_and_no_more() {
    let (allowance, second) = (Lifetimes::default().clock_skew, Duration::from_secs(1));
    for is_clients_clock in [true, false] {
        mesh::run(async |mesh| {
            let pair = Pair::new(mesh).await;
            let issued = pair.client.now();
            let (slow, fast) = match is_clients_clock {
                true => (&pair.client, &pair.server),
                false => (&pair.server, &pair.client),
            };
            // One is behind, the other one ahead; every fresh connection is a handshake.
            slow.set(issued - allowance);
            fast.set(issued + allowance);
            let mut failed = 0;
            for _ in 0..30 {
                failed += u64::from(!pair.is_answered().await);
            }
            assert_eq!(failed, 0, "the client's clock is behind: {is_clients_clock}");
            // To a clock that is further behind, the other one's certificate is of the future.
            slow.set(issued - allowance - second);
            for _ in 0..3 {
                assert!(!pair.is_answered().await, "by the client's clock: {is_clients_clock}");
            }
            slow.set(issued);
            pair.is_answered_again().await;
        });
    }
}

#[test]
fn a_live_session_ends_with_the_certificates_of_either_peer() {
    for is_clients_clock in [true, false] {
        mesh::run(async |mesh| {
            let mut pair = Pair::new(mesh).await;
            let ends = pair.certify_client().validity().not_after;
            let ends = ends.min(pair.certify_server().validity().not_after);
            let before = ends - MINUTE;
            for clock in [&pair.client, &pair.server] {
                clock.set(before);
            }
            assert!(pair.is_answered().await && pair.is_answered().await);
            assert_eq!(pair.handshakes(), [1, 1], "the second connection goes on from the first");

            // For one of the two the other one's certificate has ended; the session is young.
            let clock = if is_clients_clock { &pair.client } else { &pair.server };
            clock.set(ends + MINUTE);
            assert!(!pair.is_answered().await, "by the client's clock: {is_clients_clock}");
            let [_, resumed] = pair.handshakes();
            // The server's refusal comes behind the client's part of the handshake.
            assert!(resumed == 1 || !is_clients_clock, "{:?}", pair.handshakes());

            clock.set(before);
            pair.is_answered_again().await;
        });
    }
}

#[test]
fn no_live_session_survives_a_change_of_trust_anchors_of_either_peer() {
    for is_client_first in [true, false] {
        mesh::run(async |mesh| {
            let mut pair = Pair::new(mesh).await;
            assert!(pair.is_answered().await && pair.is_answered().await);
            assert_eq!(pair.handshakes(), [1, 1], "the second connection goes on from the first");

            // One of the two trusts other anchors now; both still hold what they agreed on.
            pair.ca = TestCa::new(SystemTime::now());
            if is_client_first {
                pair.certify_client();
            } else {
                pair.certify_server();
            }
            assert!(!pair.is_answered().await, "the client changed first: {is_client_first}");

            let [full, resumed] = pair.handshakes();
            if is_client_first {
                pair.certify_server();
            } else {
                pair.certify_client();
            }
            pair.is_answered_again().await;
            let now = pair.handshakes();
            assert_eq!(now, [full + 1, resumed], "by a full handshake");
        });
    }
}
