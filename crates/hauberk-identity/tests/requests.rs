//! Which signing requests are refused, and why.

use hauberk_identity::Key;
use hauberk_identity::request::{Request, RequestError, write};
use hauberk_model::workload_id::WorkloadId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256,
    SanType,
};

fn web() -> WorkloadId {
    WorkloadId::service_account("web", "emojivoto", "linkerd", "cluster.local")
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().expect("ASCII"))
}

/// A request as somebody else might write it.
fn foreign(common_name: Option<&str>, names: Vec<SanType>, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.subject_alt_names = names;
    params.serialize_request(key).expect("can be written").der().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate().expect("randomness")
}

fn check(der: &[u8], expect: Result<(), RequestError>) {
    assert_eq!(Request::parse(der, &web()).map(drop), expect);
}

#[test]
fn accepts_its_own_and_linkerds_form() {
    let key = Key::generate().expect("randomness");
    check(&write(&key, &web()).expect("a DNS name"), Ok(()));
    check(&foreign(None, vec![dns(web().as_str())], &p256()), Ok(()));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("randomness");
    check(&foreign(Some(web().as_str()), vec![dns(web().as_str())], &p384), Ok(()));
}

#[test]
fn refuses_what_is_not_signed_by_its_key() {
    let key = Key::generate().expect("randomness");
    let good = write(&key, &web()).expect("a DNS name");
    let mut tampered = good.to_vec();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    check(&tampered, Err(RequestError::Signature));

    // Another's public key in place of one's own.
    let theirs = Key::generate().expect("randomness");
    let swapped = replace(&good, &point(&key), &point(&theirs));
    check(&swapped, Err(RequestError::Signature));

    // A changed name of the same length.
    let renamed = replace(&good, b"web.emojivoto", b"abc.emojivoto");
    let expected: WorkloadId =
        web().as_str().replacen("web", "abc", 1).parse().expect("an identity");
    assert_eq!(Request::parse(&renamed, &expected), Err(RequestError::Signature));
}

/// The curve point at the end of a public key in DER.
fn point(key: &Key) -> Vec<u8> {
    let der = key.public_der();
    der[der.len() - 65..].to_vec()
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut result = text.to_vec();
    let mut replaced = 0;
    for start in 0..=result.len() - from.len() {
        if result[start..].starts_with(from) {
            result[start..start + to.len()].copy_from_slice(to);
            replaced += 1;
        }
    }
    assert!(replaced > 0, "there is something to replace");
    result
}

#[test]
fn refuses_names_other_than_the_one() {
    let (id, key) = (web(), p256());
    check(&foreign(None, vec![], &key), Err(RequestError::NoName { expected: id.clone() }));
    check(
        &foreign(None, vec![dns("voting.example")], &key),
        Err(RequestError::WrongName { expected: id.clone(), found: "voting.example".into() }),
    );
    check(
        &foreign(Some("voting"), vec![dns(id.as_str())], &key),
        Err(RequestError::CommonName { expected: id.clone(), found: "voting".into() }),
    );
    let extras = [
        dns("voting.example"),
        dns(id.as_str()),
        SanType::IpAddress("10.0.0.1".parse().expect("an address")),
        SanType::Rfc822Name("a@example".to_owned().try_into().expect("ASCII")),
        SanType::URI("spiffe://example/a".to_owned().try_into().expect("ASCII")),
    ];
    for extra in extras {
        let der = foreign(None, vec![dns(id.as_str()), extra.clone()], &key);
        let error = Request::parse(&der, &id).expect_err("two names");
        assert!(matches!(error, RequestError::ExtraName { .. }), "{extra:?}: {error}");
    }
    // A single name that is not of kind DNS, although its text is right.
    let uri = SanType::URI(id.as_str().to_owned().try_into().expect("ASCII"));
    let error = Request::parse(&foreign(None, vec![uri], &key), &id).expect_err("a URI");
    assert!(matches!(error, RequestError::ExtraName { .. }), "{error}");
}

#[test]
fn refuses_other_keys() {
    let names = || vec![dns(web().as_str())];
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("randomness");
    check(&foreign(None, names(), &ed25519), Err(RequestError::KeyKind));
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("randomness");
    check(&foreign(None, names(), &rsa), Err(RequestError::KeyKind));
}

#[test]
fn refuses_garbage_and_appended_bytes() {
    check(b"", Err(RequestError::Malformed));
    check(b"garbage", Err(RequestError::Malformed));
    let mut longer = foreign(None, vec![dns(web().as_str())], &p256());
    longer.push(0);
    check(&longer, Err(RequestError::Malformed));
    for length in 0..longer.len() - 1 {
        check(&longer[..length], Err(RequestError::Malformed));
    }
}

#[test]
fn issues_dns_names_only() {
    let spiffe: WorkloadId = "spiffe://example.org/web".parse().expect("an identity");
    let key = Key::generate().expect("randomness");
    assert_eq!(write(&key, &spiffe), Err(RequestError::IdentityKind(spiffe.clone())));
    let der = foreign(None, vec![dns(web().as_str())], &p256());
    assert_eq!(Request::parse(&der, &spiffe), Err(RequestError::IdentityKind(spiffe)));
}

#[test]
fn does_not_honour_the_wish_to_be_an_authority() {
    use hauberk_identity::ca::Anchor;
    use hauberk_identity::issuer::{Issuer, Lifetimes};
    use rand::SeedableRng;
    use std::time::{Duration, UNIX_EPOCH};

    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let year = Duration::from_secs(365 * 24 * 3600);
    let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
    let anchor = Anchor::generate("root", year, now, &mut rng).expect("randomness");
    let pem = anchor.issuer("issuer", year, now, &mut rng).expect("randomness");
    let issuer = Issuer::from_pem(
        &pem.certificate_pem,
        &pem.key_pem,
        &anchor.anchors(),
        Lifetimes::default(),
        now,
    )
    .expect("good");

    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![dns(web().as_str())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = params.serialize_request(&p256()).expect("can be written").der().to_vec();
    let request = Request::parse(&der, &web()).expect("the names are right");
    let issued = issuer.issue(&request, now, &mut rng).expect("issued as a leaf");
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.leaf).expect("a certificate");
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().expect("well-formed").expect("present").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
}
