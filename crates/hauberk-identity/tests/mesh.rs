//! A small mesh over in-memory pipes: who accepts whom, and when.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hauberk_identity::anchors::ChainError;
use hauberk_identity::ca::{Anchor, CertificateAndKey};
use hauberk_identity::credentials::CertifyError;
use hauberk_identity::issuer::{IssueError, IssuerError, Lifetimes};
use hauberk_identity::request::Request;
use hauberk_identity::verify::{WrongPeer, client_identity, expect_identity};
use hauberk_identity::{
    Alpn, Certified, Credentials, Issued, Issuer, Sessions, TRANSPORT_PROTOCOL, Tickets,
    TlsSettings, TrustAnchors, client_config, renewal, resumption,
};
use hauberk_model::workload_id::WorkloadId;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustls::client::ClientSessionStore;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ServerConfig, ServerConnection,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn id(account: &str) -> WorkloadId {
    WorkloadId::service_account(account, "emojivoto", "linkerd", "cluster.local")
}

/// A clock that tests move.
#[derive(Clone, Debug)]
struct Clock(Arc<Mutex<SystemTime>>);

impl Clock {
    fn at(moment: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(moment)))
    }

    fn set(&self, moment: SystemTime) {
        *self.0.lock().expect("no panic while held") = moment;
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings { time: Arc::new(self.clone()), ..TlsSettings::default() }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let moment = *self.0.lock().expect("no panic while held");
        Some(UnixTime::since_unix_epoch(moment.duration_since(UNIX_EPOCH).expect("after 1970")))
    }
}

struct Mesh {
    anchor: Anchor,
    anchors: TrustAnchors,
    issuer: Issuer,
    clock: Clock,
    rng: SmallRng,
}

impl Mesh {
    fn new() -> Self {
        let mut rng = SmallRng::seed_from_u64(7);
        let anchor = Anchor::generate("root.linkerd.cluster.local", 3650 * DAY, noon(), &mut rng)
            .expect("randomness");
        let anchors = anchor.anchors();
        let issuer = issuer_under(&anchor, &anchors, &mut rng);
        Self { anchor, anchors, issuer, clock: Clock::at(noon()), rng }
    }

    fn issued(&mut self, credentials: &Credentials, now: SystemTime) -> Issued {
        let request = Request::parse(credentials.request_der(), credentials.identity())
            .expect("a good request");
        self.issuer.issue(&request, now, &mut self.rng).expect("a good issuer")
    }

    fn member(&mut self, account: &str) -> Certified {
        let settings = self.clock.settings();
        self.certified(account, &settings)
    }

    /// A member whose server sends tickets.
    fn ticketing(&mut self, account: &str) -> Certified {
        let settings = TlsSettings { tickets: Tickets::On, ..self.clock.settings() };
        self.certified(account, &settings)
    }

    fn certified(&mut self, account: &str, settings: &TlsSettings) -> Certified {
        let credentials = Credentials::generate(id(account)).expect("randomness");
        let issued = self.issued(&credentials, noon());
        credentials
            .certify(issued.leaf, issued.intermediates, &self.anchors, settings, noon())
            .expect("accepted")
    }
}

fn issuer_pem(anchor: &Anchor, lifetime: Duration, rng: &mut SmallRng) -> CertificateAndKey {
    anchor.issuer("identity.linkerd.cluster.local", lifetime, noon(), rng).expect("randomness")
}

fn issuer_under(anchor: &Anchor, anchors: &TrustAnchors, rng: &mut SmallRng) -> Issuer {
    let pem = issuer_pem(anchor, 365 * DAY, rng);
    load(&pem, anchors, noon()).expect("a good issuer")
}

fn load(
    pem: &CertificateAndKey,
    anchors: &TrustAnchors,
    now: SystemTime,
) -> Result<Issuer, IssuerError> {
    Issuer::from_pem(&pem.certificate_pem, &pem.key_pem, anchors, Lifetimes::default(), now)
}

/// Runs a handshake to its end, or to the first error of either side.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &WorkloadId,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name.as_str().to_owned()).expect("a DNS name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    // A handshake of TLS 1.3 takes two round trips at most.
    for _ in 0..4 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut &wire[..]).expect("memory");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut &wire[..]).expect("memory");
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake is complete");
    Ok((client, server))
}

#[test]
fn two_members_know_each_other_with_post_quantum_keys_and_no_tickets() {
    let mut mesh = Mesh::new();
    let (web, voting) = (mesh.member("web"), mesh.member("voting"));
    let (client, server) =
        handshake(web.client(Alpn::None), voting.server(Alpn::None), &id("voting"))
            .expect("both are members");

    assert_eq!(expect_identity(client.peer_certificates(), &id("voting")), Ok(()));
    assert_eq!(client_identity(server.peer_certificates()), Some(id("web")));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = client.negotiated_key_exchange_group().expect("negotiated").name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    assert_eq!(
        client.negotiated_cipher_suite().expect("negotiated").suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    assert_eq!(client.tls13_tickets_received(), 0);
    assert_eq!(client.alpn_protocol(), None);
}

/// Two members whose servers send tickets, with a client's sessions for one server.
struct Pair {
    mesh: Mesh,
    web: Certified,
    voting: Certified,
    sessions: Arc<Sessions>,
}

impl Pair {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        let (web, voting) = (mesh.ticketing("web"), mesh.ticketing("voting"));
        Self { mesh, web, voting, sessions: Arc::default() }
    }

    /// How the handshake went, and both ends.
    fn connect(&self) -> (HandshakeKind, ClientConnection, ServerConnection) {
        let config = self.web.client_resuming(Alpn::None, &self.sessions);
        let (client, server) =
            handshake(&config, self.voting.server(Alpn::None), &id("voting")).expect("members");
        let kind = client.handshake_kind().expect("complete");
        assert_eq!(Some(kind), server.handshake_kind());
        (kind, client, server)
    }

    fn kind(&self) -> HandshakeKind {
        self.connect().0
    }
}

#[test]
fn a_session_is_resumed_once_with_the_same_peers_and_fresh_keys() {
    let pair = Pair::new();
    assert_eq!(pair.kind(), HandshakeKind::Full);
    assert_eq!(pair.sessions.len(), 1);
    let (kind, client, server) = pair.connect();
    assert_eq!(kind, HandshakeKind::Resumed);
    assert_eq!(expect_identity(client.peer_certificates(), &id("voting")), Ok(()));
    assert_eq!(client_identity(server.peer_certificates()), Some(id("web")));
    let group = client.negotiated_key_exchange_group().expect("keys were exchanged").name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert!(pair.web.still_holds(client.peer_certificates()));
    assert!(pair.voting.still_holds(server.peer_certificates()));
    // One ticket was used and one came.
    assert_eq!(pair.sessions.len(), 1);
}

#[test]
fn a_resumed_server_is_still_held_against_who_it_should_be() {
    let pair = Pair::new();
    pair.connect();
    let (kind, client, _) = pair.connect();
    assert_eq!(kind, HandshakeKind::Resumed);
    assert_eq!(
        expect_identity(client.peer_certificates(), &id("emoji")),
        Err(WrongPeer::Other { expected: id("emoji"), presented: vec![id("voting")] })
    );
}

#[test]
fn no_session_is_resumed_after_either_certificate_was_renewed() {
    let mut pair = Pair::new();
    pair.connect();
    pair.voting = pair.mesh.ticketing("voting");
    assert_eq!(pair.kind(), HandshakeKind::Full);
    assert_eq!(pair.kind(), HandshakeKind::Resumed);
    pair.web = pair.mesh.ticketing("web");
    assert_eq!(pair.kind(), HandshakeKind::Full);
    assert_eq!(pair.kind(), HandshakeKind::Resumed);
}

#[test]
fn no_session_survives_a_change_of_trust_anchors() {
    let mut pair = Pair::new();
    pair.connect();
    // Everything begins anew under another anchor; only the client's tickets are left over.
    let old_voting = pair.voting.clone();
    pair.mesh = Mesh::new();
    (pair.web, pair.voting) = (pair.mesh.ticketing("web"), pair.mesh.ticketing("voting"));
    assert_eq!(pair.sessions.len(), 1);
    assert_eq!(pair.kind(), HandshakeKind::Full);
    // With a ticket in hand, the peer of the old anchor is refused as any stranger.
    pair.connect();
    let config = pair.web.client_resuming(Alpn::None, &pair.sessions);
    let refused = handshake(&config, old_voting.server(Alpn::None), &id("voting"));
    assert_eq!(ChainError::from(refused.expect_err("a stranger")), ChainError::UnknownIssuer);
}

#[test]
fn a_ticket_ends_after_its_life() {
    let pair = Pair::new();
    pair.connect();
    pair.mesh.clock.set(noon() + resumption::LIFETIME);
    assert_eq!(pair.kind(), HandshakeKind::Resumed);
    pair.mesh.clock.set(noon() + 2 * resumption::LIFETIME + Duration::from_secs(1));
    assert_eq!(pair.kind(), HandshakeKind::Full);
}

#[test]
fn a_session_does_not_outlive_the_certificates_it_was_made_with() {
    let pair = Pair::new();
    let end = pair.web.validity().not_after;
    pair.mesh.clock.set(end - Duration::from_secs(60));
    pair.connect();
    pair.mesh.clock.set(end);
    let (kind, client, server) = pair.connect();
    assert_eq!(kind, HandshakeKind::Resumed);
    assert!(pair.web.still_holds(client.peer_certificates()));
    assert!(pair.voting.still_holds(server.peer_certificates()));
    // rustls resumes; it is for us to refuse.
    pair.mesh.clock.set(end + Duration::from_secs(60));
    let (kind, client, server) = pair.connect();
    assert_eq!(kind, HandshakeKind::Resumed);
    assert!(!pair.web.still_holds(client.peer_certificates()));
    assert!(!pair.voting.still_holds(server.peer_certificates()));
}

#[test]
fn tickets_are_bounded_and_sent_only_by_servers_that_want_to() {
    let pair = Pair::new();
    for _ in 0..=resumption::TICKETS_MAX {
        let fresh = Arc::<Sessions>::default();
        let config = pair.web.client_resuming(Alpn::None, &fresh);
        handshake(&config, pair.voting.server(Alpn::None), &id("voting")).expect("members");
        // What a connection brings is put beside what others brought.
        let name = ServerName::try_from(id("voting").as_str().to_owned()).expect("a DNS name");
        let ticket = fresh.take_tls13_ticket(&name).expect("one");
        pair.sessions.insert_tls13_ticket(name, ticket);
    }
    assert_eq!(pair.sessions.len(), resumption::TICKETS_MAX);

    let mut silent = Pair::new();
    silent.voting = silent.mesh.member("voting");
    silent.connect();
    assert!(silent.sessions.is_empty());
    assert_eq!(silent.kind(), HandshakeKind::Full);
}

#[test]
fn the_transport_protocol_is_negotiated_only_if_both_want_it() {
    let mut mesh = Mesh::new();
    let (web, voting) = (mesh.member("web"), mesh.member("voting"));
    let negotiated = |client, server| {
        let (client, _) = handshake(web.client(client), voting.server(server), &id("voting"))
            .expect("both are members");
        client.alpn_protocol().map(<[u8]>::to_vec)
    };
    let transport = Some(TRANSPORT_PROTOCOL.to_vec());
    assert_eq!(negotiated(Alpn::Transport, Alpn::Transport), transport);
    assert_eq!(negotiated(Alpn::None, Alpn::Transport), None);
    assert_eq!(negotiated(Alpn::Transport, Alpn::None), None);
}

#[test]
fn a_server_of_another_name_is_found_out_after_the_handshake() {
    let mut mesh = Mesh::new();
    let (web, voting) = (mesh.member("web"), mesh.member("voting"));
    let (client, _) = handshake(web.client(Alpn::None), voting.server(Alpn::None), &id("emoji"))
        .expect("the name in the handshake proves nothing");
    assert_eq!(
        expect_identity(client.peer_certificates(), &id("emoji")),
        Err(WrongPeer::Other { expected: id("emoji"), presented: vec![id("voting")] })
    );
    assert_eq!(
        expect_identity(None, &id("emoji")),
        Err(WrongPeer::NoCertificate { expected: id("emoji") })
    );
}

#[test]
fn a_client_without_certificate_is_nobody() {
    let mut mesh = Mesh::new();
    let voting = mesh.member("voting");
    let anonymous =
        client_config::without_certificate(&mesh.anchors, Alpn::None, &mesh.clock.settings());
    let (client, server) = handshake(&anonymous, voting.server(Alpn::None), &id("voting"))
        .expect("certificates of clients are optional");
    assert_eq!(expect_identity(client.peer_certificates(), &id("voting")), Ok(()));
    assert_eq!(client_identity(server.peer_certificates()), None);
}

#[test]
fn strangers_are_refused_by_both_sides() {
    let (mut mesh, mut other) = (Mesh::new(), Mesh::new());
    let (web, stranger) = (mesh.member("web"), other.member("web"));
    let unknown = |error: rustls::Error| {
        assert_eq!(ChainError::from(error), ChainError::UnknownIssuer);
    };
    let anonymous =
        client_config::without_certificate(&other.anchors, Alpn::None, &other.clock.settings());
    unknown(handshake(&anonymous, web.server(Alpn::None), &id("web")).expect_err("server"));

    // The stranger trusts us, and we still do not trust the stranger.
    let both = format!("{}{}", mesh.anchors.to_pem(), other.anchors.to_pem());
    let both = TrustAnchors::from_pem(&both).expect("two anchors");
    let credentials = Credentials::generate(id("web")).expect("randomness");
    let issued = other.issued(&credentials, noon());
    let open = credentials
        .certify(issued.leaf, issued.intermediates, &both, &other.clock.settings(), noon())
        .expect("accepted by the bundle");
    unknown(
        handshake(open.client(Alpn::None), web.server(Alpn::None), &id("web")).expect_err("client"),
    );
    drop(stranger);
}

#[test]
fn expired_certificates_are_refused() {
    let mut mesh = Mesh::new();
    let (web, voting) = (mesh.member("web"), mesh.member("voting"));
    let skew = Lifetimes::default().clock_skew;
    assert_eq!(web.validity().not_after, noon() + DAY + skew);
    assert_eq!(web.validity().not_before, noon() - skew);

    let attempt = |moment| {
        mesh.clock.set(moment);
        handshake(web.client(Alpn::None), voting.server(Alpn::None), &id("voting")).map(drop)
    };
    attempt(noon() - skew).expect("within the skew");
    attempt(noon() + DAY + skew).expect("within the skew");
    let second = Duration::from_secs(1);
    let late = attempt(noon() + DAY + skew + second).expect_err("expired");
    assert_eq!(ChainError::from(late), ChainError::Expired);
    let early = attempt(noon() - skew - second).expect_err("from the future");
    assert_eq!(ChainError::from(early), ChainError::NotYetValid);
}

#[test]
fn the_issuing_clock_may_differ_by_the_allowance_and_be_behind_by_a_leafs_life() {
    let mut mesh = Mesh::new();
    let credentials = Credentials::generate(id("web")).expect("randomness");
    let (skew, second) = (Lifetimes::default().clock_skew, Duration::from_secs(1));
    // The issuer takes it for noon; this is what the workload's own clock shows.
    let mut take = |now| {
        let issued = mesh.issued(&credentials, noon());
        let settings = mesh.clock.settings();
        let (leaf, above) = (issued.leaf, issued.intermediates);
        let taken = credentials.certify(leaf, above, &mesh.anchors, &settings, now);
        taken.map(|certified| certified.validity().not_after)
    };
    let refused = |why| Err(CertifyError::Chain(why));
    let end = noon() + DAY + skew;
    assert_eq!(take(noon() - skew), Ok(end));
    assert_eq!(take(noon() - skew - second), refused(ChainError::NotYetValid));
    assert_eq!(take(end), Ok(end));
    assert_eq!(take(end + second), refused(ChainError::Expired));

    // Renewal goes by what is left on the workload's own clock, whatever the issuer meant.
    let ahead = noon() + 20 * HOUR;
    let expires = take(ahead).expect("four hours are left");
    let wait = renewal::wait(ahead, Some(expires), renewal::Bounds::default());
    assert!(wait > 2 * HOUR && wait < 3 * HOUR, "{wait:?}");
}

#[test]
fn a_rotated_issuer_changes_nothing_for_members() {
    let mut mesh = Mesh::new();
    let before = mesh.member("web");
    mesh.issuer = issuer_under(&mesh.anchor, &mesh.anchors, &mut mesh.rng);
    let after = mesh.member("voting");
    assert_ne!(before.chain()[1], after.chain()[1], "the issuers differ");
    handshake(before.client(Alpn::None), after.server(Alpn::None), &id("voting")).expect("one way");
    handshake(after.client(Alpn::None), before.server(Alpn::None), &id("web")).expect("the other");
}

#[test]
fn an_anchor_is_replaced_by_trusting_both_for_a_while() {
    let mut mesh = Mesh::new();
    let new_root =
        Anchor::generate("root.linkerd.cluster.local", 3650 * DAY, noon(), &mut mesh.rng)
            .expect("randomness");
    let both = format!("{}{}", mesh.anchors.to_pem(), new_root.anchors().to_pem());
    mesh.anchors = TrustAnchors::from_pem(&both).expect("two anchors");
    let old_member = mesh.member("web");
    mesh.issuer = issuer_under(&new_root, &mesh.anchors, &mut mesh.rng);
    let new_member = mesh.member("voting");
    handshake(old_member.client(Alpn::None), new_member.server(Alpn::None), &id("voting"))
        .expect("one way");
    handshake(new_member.client(Alpn::None), old_member.server(Alpn::None), &id("web"))
        .expect("the other");

    // Who has dropped the old anchor accepts the new member and not the old one.
    let strict =
        client_config::without_certificate(&new_root.anchors(), Alpn::None, &mesh.clock.settings());
    handshake(&strict, new_member.server(Alpn::None), &id("voting")).expect("new anchor");
    handshake(&strict, old_member.server(Alpn::None), &id("web")).expect_err("old anchor");
}

#[test]
fn leaves_do_not_outlive_their_issuer_and_an_expired_issuer_issues_nothing() {
    let mut mesh = Mesh::new();
    let pem = issuer_pem(&mesh.anchor, 2 * HOUR, &mut mesh.rng);
    mesh.issuer = load(&pem, &mesh.anchors, noon()).expect("still good");
    let credentials = Credentials::generate(id("web")).expect("randomness");
    assert_eq!(mesh.issued(&credentials, noon()).valid_until, noon() + 2 * HOUR);

    let late = noon() + 2 * HOUR + Duration::from_secs(1);
    let request = Request::parse(credentials.request_der(), &id("web")).expect("good");
    let refused = mesh.issuer.issue(&request, late, &mut mesh.rng).expect_err("expired");
    assert_eq!(refused, IssueError::Issuer(ChainError::Expired));
    let refused = load(&pem, &mesh.anchors, late).expect_err("expired");
    assert_eq!(refused, IssuerError::NotAccepted(ChainError::Expired));
}

#[test]
fn issuers_that_peers_would_not_accept_are_not_loaded() {
    let mut mesh = Mesh::new();
    let other = Mesh::new();
    let foreign = issuer_pem(&other.anchor, DAY, &mut mesh.rng);
    let refused = load(&foreign, &mesh.anchors, noon()).expect_err("another anchor");
    assert_eq!(refused, IssuerError::NotAccepted(ChainError::UnknownIssuer));

    let own = issuer_pem(&mesh.anchor, DAY, &mut mesh.rng);
    let mixed = CertificateAndKey { key_pem: foreign.key_pem, ..own.clone() };
    let refused = load(&mixed, &mesh.anchors, noon()).expect_err("another key");
    assert_eq!(refused, IssuerError::NotAccepted(ChainError::UnknownIssuer));

    let empty = CertificateAndKey { certificate_pem: String::new(), ..own };
    let refused = load(&empty, &mesh.anchors, noon()).expect_err("no certificate");
    assert!(matches!(refused, IssuerError::Certificate(_)), "{refused}");

    // A leaf may not sign, although it leads to the anchor.
    let credentials = Credentials::generate(id("web")).expect("randomness");
    let leaf = mesh.issued(&credentials, noon());
    let chain: Vec<_> = std::iter::once(&leaf.leaf).chain(&leaf.intermediates).collect();
    let ambitious = CertificateAndKey {
        certificate_pem: chain.iter().map(|der| pem_of(der)).collect(),
        key_pem: credentials.key().secret_pem(),
    };
    let refused = load(&ambitious, &mesh.anchors, noon()).expect_err("not a CA");
    assert!(matches!(refused, IssuerError::NotAccepted(_)), "{refused}");
}

fn pem_of(der: &[u8]) -> String {
    hauberk_identity::certificate::to_pem([&der])
}

#[test]
fn an_anchor_survives_pem_and_serials_differ() {
    let mut mesh = Mesh::new();
    let pem = mesh.anchor.to_pem();
    let again = Anchor::from_pem(&pem.certificate_pem, &pem.key_pem).expect("PEM");
    let issuer = issuer_pem(&again, DAY, &mut mesh.rng);
    load(&issuer, &mesh.anchors, noon()).expect("the same anchor");

    let credentials = Credentials::generate(id("web")).expect("randomness");
    let (first, second) = (mesh.issued(&credentials, noon()), mesh.issued(&credentials, noon()));
    assert_ne!(first.leaf, second.leaf);
    assert_eq!(first.intermediates.len(), 1, "the issuer is included, the root is not");
}

#[test]
fn a_workload_takes_only_its_own_certificate_into_use() {
    let mut mesh = Mesh::new();
    let web = Credentials::generate(id("web")).expect("randomness");
    let again = Credentials::generate(id("web")).expect("randomness");
    let voting = Credentials::generate(id("voting")).expect("randomness");
    let settings = mesh.clock.settings();
    let mut attempt = |from: &Credentials, now| {
        let issued = mesh.issued(from, noon());
        web.certify(issued.leaf, issued.intermediates, &mesh.anchors, &settings, now)
    };
    attempt(&web, noon()).expect("its own");
    assert_eq!(attempt(&again, noon()).expect_err("another key"), CertifyError::Key);
    let error = attempt(&voting, noon()).expect_err("another name");
    assert!(matches!(error, CertifyError::Identity { .. }), "{error}");
    let error = attempt(&web, noon() + 2 * DAY).expect_err("expired");
    assert_eq!(error, CertifyError::Chain(ChainError::Expired));

    let stored =
        Credentials::from_der(id("web"), web.key().secret_der(), web.request_der()).expect("DER");
    let issued = mesh.issued(&stored, noon());
    web.certify(issued.leaf, issued.intermediates, &mesh.anchors, &settings, noon())
        .expect("the same key");
}
