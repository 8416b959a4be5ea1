//! Certificates, signing requests, keys and tokens.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use hauberk_identity::request::Request;
use hauberk_identity::token::{ServiceAccount, TokenVerifier};
use hauberk_identity::{Key, TrustAnchors, certificate};
use hauberk_model::WorkloadId;

static WEB: LazyLock<WorkloadId> =
    LazyLock::new(|| WorkloadId::service_account("web", "emojivoto", "linkerd", "cluster.local"));

static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let key = Key::generate().expect("there is randomness");
    let skew = Duration::from_secs(10);
    TokenVerifier::new(&[&key.public_pem()], "issuer", "identity.l5d.io", skew).expect("a key")
});

pub(crate) fn check(data: &[u8]) {
    der(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(certificates) = certificate::from_pem(text) {
        certificates.iter().for_each(|certificate| der(certificate));
        let written = certificate::to_pem(&certificates);
        assert_eq!(certificate::from_pem(&written).expect("it was written here"), certificates);
    }
    if let Ok(anchors) = TrustAnchors::from_pem(text) {
        assert!(!anchors.certificates().is_empty());
    }
    if let Ok(key) = Key::from_pem(text) {
        let again = Key::from_pem(&key.secret_pem()).expect("what was written reads back");
        assert_eq!(again.public_der(), key.public_der());
    }
    assert!(VERIFIER.verify(text, SystemTime::UNIX_EPOCH).is_err(), "nobody knows the key");
    if let Some(account) = ServiceAccount::parse_subject(text) {
        assert_eq!(account.subject(), text);
    }
}

fn der(data: &[u8]) {
    if let Ok(identities) = certificate::identities(data) {
        for identity in identities {
            assert_eq!(identity.as_str().parse(), Ok(identity), "an identity is in normal form");
        }
        assert!(certificate::validity(data).is_ok() && certificate::subject(data).is_ok());
    }
    if let Ok(request) = Request::parse(data, &WEB) {
        assert_eq!(*request.identity(), *WEB);
    }
    let _ = Key::from_pkcs8_der(data);
}
