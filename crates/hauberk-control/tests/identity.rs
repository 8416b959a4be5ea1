//! The identity service over mesh TLS, with tokens and an issuer that is replaced while it runs.

mod lab;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hauberk_identity::rustls::pki_types::{CertificateDer, ServerName};
use hauberk_identity::token::AUDIENCE;
use hauberk_identity::{Alpn, Credentials, TlsSettings, client_config, verify};
use hauberk_model::WorkloadId;
use hauberk_wire::api::identity::identity_client::IdentityClient;
use hauberk_wire::api::identity::{CertifyRequest, CertifyResponse};
use hauberk_wire::identity::{Request, from_wire, request_to_wire};
use hyper_util::rt::TokioIo;
use lab::*;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

fn account(account: &str, namespace: &str) -> WorkloadId {
    WorkloadId::service_account(account, namespace, "linkerd", "cluster.local")
}

/// A client that speaks mesh TLS without a certificate and demands this identity of the server, as
/// a proxy does before it has a certificate of its own.
async fn client(lab: &Lab, server: WorkloadId) -> IdentityClient<Channel> {
    let address = lab.running.identity.expect("is served");
    let config =
        client_config::without_certificate(lab.ca.anchors(), Alpn::None, &TlsSettings::default());
    let dial = tower::service_fn(move |_| {
        let (config, server) = (Arc::clone(&config), server.clone());
        async move { tls(address, config, &server).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://identity").connect_with_connector(dial).await;
    IdentityClient::new(channel.expect("can connect"))
}

async fn tls(
    address: SocketAddr,
    config: Arc<hauberk_identity::rustls::ClientConfig>,
    server: &WorkloadId,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(server.as_str().to_owned()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let peer = stream.get_ref().1.peer_certificates();
    verify::expect_identity(peer, server).map_err(std::io::Error::other)?;
    Ok(stream)
}

async fn certify(
    client: &mut IdentityClient<Channel>,
    identity: &WorkloadId,
    token: Vec<u8>,
    csr: &[u8],
) -> Result<CertifyResponse, Status> {
    let request = Request { identity: identity.clone(), token, csr: csr.to_vec() };
    client.certify(request_to_wire(&request)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn issues_certificates_that_peers_accept() {
    let lab = Lab::start(&[]).await;
    let mut client = client(&lab, account("linkerd-identity", "linkerd")).await;
    let web = account("web", "test");
    let credentials = Credentials::generate(web.clone()).expect("randomness");
    let token = lab.token("web", "test", AUDIENCE);
    let response = certify(&mut client, &web, token, credentials.request_der()).await;
    let certified = from_wire(response.expect("is issued")).expect("valid");
    assert_eq!(certified.intermediates.len(), 1, "the issuer comes along");

    let now = SystemTime::now();
    let intermediates = certified.intermediates.into_iter().map(CertificateDer::from).collect();
    let in_use = credentials.certify(
        certified.leaf.into(),
        intermediates,
        lab.ca.anchors(),
        &TlsSettings::default(),
        now,
    );
    let in_use = in_use.expect("peers accept it");
    let end = |moment: SystemTime| moment.duration_since(now).expect("later").as_secs();
    assert_eq!(end(in_use.validity().not_after), end(certified.valid_until));
    // 24 hours and the allowance for clocks, to the second but for rounding.
    assert!((86_400..=86_421).contains(&end(certified.valid_until)));
    assert!(lab.metrics.render().contains("identity_certify_total{code=\"ok\"} 1"));
    lab.stop().await;
}

#[tokio::test]
async fn refuses_what_is_not_proved() {
    let lab = Lab::start(&[]).await;
    let mut client = client(&lab, account("linkerd-identity", "linkerd")).await;
    let (web, other) = (account("web", "test"), account("other", "test"));
    let credentials = Credentials::generate(web.clone()).expect("randomness");
    let csr = credentials.request_der();
    let good = || lab.token("web", "test", AUDIENCE);
    let mut forged = good();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    // The last bytes of a request are its signature.
    let mut unsigned = csr.to_vec();
    *unsigned.last_mut().expect("not empty") ^= 1;
    let another = Credentials::generate(other.clone()).expect("randomness");

    type Case<'a> = (&'static str, &'a WorkloadId, Vec<u8>, &'a [u8], Code);
    let cases: [Case<'_>; 9] = [
        ("no token", &web, vec![], csr, Code::InvalidArgument),
        ("no request", &web, good(), &[], Code::InvalidArgument),
        ("garbage for a request", &web, good(), b"garbage", Code::InvalidArgument),
        ("a request somebody else signed", &web, good(), &unsigned, Code::InvalidArgument),
        (
            "a request for somebody else",
            &web,
            good(),
            another.request_der(),
            Code::FailedPrecondition,
        ),
        ("garbage for a token", &web, b"garbage".to_vec(), csr, Code::InvalidArgument),
        ("a forged token", &web, forged, csr, Code::FailedPrecondition),
        (
            "a token for another audience",
            &web,
            lab.token("web", "test", "api"),
            csr,
            Code::FailedPrecondition,
        ),
        ("somebody else's token", &other, good(), another.request_der(), Code::FailedPrecondition),
    ];
    for (what, identity, token, csr, expect) in cases {
        let status = certify(&mut client, identity, token, csr).await.expect_err(what);
        assert_eq!(status.code(), expect, "{what}: {status}");
    }
    let nobody = CertifyRequest { token: good(), ..CertifyRequest::default() };
    let status = client.certify(nobody).await.expect_err("no identity");
    assert_eq!(status.code(), Code::InvalidArgument);

    // After all that, a good request is still good.
    certify(&mut client, &web, good(), csr).await.expect("is issued");
    lab.stop().await;
}

#[tokio::test]
async fn takes_a_new_issuer_and_survives_a_broken_one() {
    let mut lab = Lab::start(&[]).await;
    let mut client = client(&lab, account("linkerd-identity", "linkerd")).await;
    let web = account("web", "test");
    let credentials = Credentials::generate(web.clone()).expect("randomness");
    let issuer_of = |response: CertifyResponse| response.intermediate_certificates[0].clone();

    let token = lab.token("web", "test", AUDIENCE);
    let first = certify(&mut client, &web, token, credentials.request_der()).await;
    let first = issuer_of(first.expect("is issued"));

    lab.ca.rotate_issuer();
    lab.write_issuer();
    let second = eventually("the new issuer", async || {
        let token = lab.token("web", "test", AUDIENCE);
        let issued = certify(&mut client, &web, token, credentials.request_der()).await;
        Some(issuer_of(issued.expect("is issued all the time"))).filter(|issuer| *issuer != first)
    })
    .await;

    let server = account("linkerd-destination", "linkerd");
    let config =
        client_config::without_certificate(lab.ca.anchors(), Alpn::None, &TlsSettings::default());
    eventually("the control plane's own certificate from the new issuer", async || {
        let stream = tls(lab.running.destination, Arc::clone(&config), &server).await.expect("TLS");
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        chain.get(1).filter(|issuer| ***issuer == *second).map(|_| ())
    })
    .await;

    write(lab.secrets.path(), "issuer.pem", "-----BEGIN NONSENSE-----");
    let refused = "control_followed_contents_total{what=\"issuer\",outcome=\"refused\"}";
    eventually("the broken issuer is noticed", async || {
        lab.metrics.render().contains(refused).then_some(())
    })
    .await;
    let token = lab.token("web", "test", AUDIENCE);
    let issued = certify(&mut client, &web, token, credentials.request_der()).await;
    assert_eq!(issuer_of(issued.expect("is issued")), second, "the old issuer stays in force");
    lab.stop().await;
}

#[tokio::test]
async fn another_name_than_expected_is_noticed_by_the_client() {
    let lab = Lab::start(&[]).await;
    let config =
        client_config::without_certificate(lab.ca.anchors(), Alpn::None, &TlsSettings::default());
    let address = lab.running.destination;
    let destination = account("linkerd-destination", "linkerd");
    tls(address, Arc::clone(&config), &destination).await.expect("the right name");
    let error = tls(address, config, &account("linkerd-identity", "linkerd")).await;
    assert!(error.is_err(), "the wrong name");
    lab.stop().await;
}
