use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SKEW: Duration = Duration::from_secs(20);
const ISSUER: &str = "https://lab.hauberk.local";

fn noon() -> SystemTime {
    from_unix_seconds(1_800_000_000)
}

fn subject() -> TokenSubject {
    TokenSubject {
        account: ServiceAccount { namespace: "emojivoto".into(), name: "web".into() },
        pod_name: "web-1".into(),
        pod_uid: "4d2f".into(),
    }
}

fn signer() -> TokenSigner {
    TokenSigner::new(&Key::generate().expect("randomness"), ISSUER).expect("P-256")
}

fn verifier(signer: &TokenSigner) -> TokenVerifier {
    TokenVerifier::new(&[signer.public_pem()], ISSUER, AUDIENCE, SKEW).expect("a key")
}

#[test]
fn a_fresh_token_tells_account_and_pod() {
    let signer = signer();
    let token = signer.mint(&subject(), AUDIENCE, HOUR, noon()).expect("signs");
    let verified = verifier(&signer).verify(&format!("{token}\n"), noon()).expect("good");
    assert_eq!(verified.account, subject().account);
    assert_eq!(verified.pod, Some(("web-1".into(), "4d2f".into())));
    assert_eq!(verified.expires, noon() + HOUR);
}

#[test]
fn time_is_checked_with_skew_at_both_ends() {
    let signer = signer();
    let token = signer.mint(&subject(), AUDIENCE, HOUR, noon()).expect("signs");
    let check = |moment, expect: Result<(), TokenError>| {
        assert_eq!(verifier(&signer).verify(&token, moment).map(drop), expect, "{moment:?}");
    };
    let second = Duration::from_secs(1);
    check(noon() - SKEW, Ok(()));
    check(noon() - SKEW - second, Err(TokenError::NotYetValid { from: noon() }));
    check(noon() + HOUR + SKEW - second, Ok(()));
    check(noon() + HOUR + SKEW, Err(TokenError::Expired { at: noon() + HOUR }));
}

#[test]
fn audience_issuer_and_key_must_match() {
    let signer = signer();
    let elsewhere = signer.mint(&subject(), "vault", HOUR, noon()).expect("signs");
    assert_eq!(
        verifier(&signer).verify(&elsewhere, noon()),
        Err(TokenError::Audience { expected: AUDIENCE.into(), found: vec!["vault".into()] })
    );

    let key = Key::generate().expect("randomness");
    let other_name = TokenSigner::new(&key, "https://other").expect("P-256");
    let token = other_name.mint(&subject(), AUDIENCE, HOUR, noon()).expect("signs");
    assert_eq!(
        verifier(&other_name).verify(&token, noon()),
        Err(TokenError::Issuer { expected: ISSUER.into(), found: "https://other".into() })
    );
    assert_eq!(verifier(&signer).verify(&token, noon()), Err(TokenError::Signature));
}

#[test]
fn a_verifier_may_know_several_keys_while_they_are_replaced() {
    let (old, new) = (signer(), signer());
    let both = [old.public_pem(), new.public_pem()];
    let verifier = TokenVerifier::new(&both, ISSUER, AUDIENCE, SKEW).expect("keys");
    for signer in [old, new] {
        let token = signer.mint(&subject(), AUDIENCE, HOUR, noon()).expect("signs");
        verifier.verify(&token, noon()).expect("either key will do");
    }
    let none = TokenVerifier::new(&[], ISSUER, AUDIENCE, SKEW).expect_err("no key");
    assert_eq!(none, TokenKeyError::NoKey);
}

#[test]
fn changed_and_foreign_tokens_prove_nothing() {
    let signer = signer();
    let verifier = verifier(&signer);
    let token = signer.mint(&subject(), AUDIENCE, HOUR, noon()).expect("signs");
    let parts: Vec<&str> = token.split('.').collect();
    let other = TokenSubject {
        account: ServiceAccount { namespace: "emojivoto".into(), name: "voting".into() },
        ..subject()
    };
    let other = signer.mint(&other, AUDIENCE, HOUR, noon()).expect("signs");
    let swapped = format!("{}.{}.{}", parts[0], other.split('.').nth(1).expect("claims"), parts[2]);
    assert_eq!(verifier.verify(&swapped, noon()), Err(TokenError::Signature));

    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    assert!(matches!(verifier.verify(&unsigned, noon()), Err(TokenError::Malformed(_))));

    let symmetric = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &serde_test_claims(),
        &EncodingKey::from_secret(signer.public_pem().as_bytes()),
    )
    .expect("signs");
    assert!(matches!(verifier.verify(&symmetric, noon()), Err(TokenError::Malformed(_))));
    for garbage in ["", "a.b.c", "not a token"] {
        assert!(matches!(verifier.verify(garbage, noon()), Err(TokenError::Malformed(_))));
    }
}

fn serde_test_claims() -> Claims {
    Claims {
        iss: ISSUER.into(),
        sub: subject().account.subject(),
        aud: Audiences::One(AUDIENCE.into()),
        exp: unix_seconds(noon() + HOUR),
        nbf: None,
        iat: None,
        kubernetes: None,
    }
}

#[test]
fn subjects_are_service_accounts_with_dns_labels() {
    let check = |subject: &str, expect: Option<(&str, &str)>| {
        let parsed = ServiceAccount::parse_subject(subject);
        let parts = parsed.as_ref().map(|account| (&*account.namespace, &*account.name));
        assert_eq!(parts, expect, "{subject}");
    };
    check("system:serviceaccount:emojivoto:web", Some(("emojivoto", "web")));
    check("system:serviceaccount:emojivoto:we.b", None);
    check("system:serviceaccount:emojivoto:web:x", None);
    check("system:serviceaccount::web", None);
    check("system:serviceaccount:a:-b", None);
    check("system:node:a", None);
    check(&format!("system:serviceaccount:a:{}", "b".repeat(64)), None);
}
