//! Workload tokens: the proof, sent along with a request, that the asker runs under an account.
//!
//! In a cluster the API server makes and reviews them. Where there is none, the lab makes them with
//! [`TokenSigner`] and the identity service verifies them with [`TokenVerifier`]: JSON Web Tokens
//! (RFC 7519), ES256, with the claims that Kubernetes puts into a projected service-account token.
//! A token is bound to one audience and short-lived; it is written anew before it expires and read
//! anew at each use.

use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::moment::{from_unix_seconds, later, unix_seconds};

/// The audience of tokens that are shown to the identity service.
pub const AUDIENCE: &str = "identity.l5d.io";

/// The beginning of a service account's subject, as Kubernetes writes it.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl ServiceAccount {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub fn subject(&self) -> String {
        format!("{SUBJECT_PREFIX}{}:{}", self.namespace, self.name)
    }

    /// Reads such a subject. Both parts must be DNS labels (RFC 1123: at most 63 lower-case
    /// letters, digits and `-`), because they become labels of an identity; hence accounts with
    /// a dot in their name cannot be meshed.
    pub fn parse_subject(subject: &str) -> Option<Self> {
        let (namespace, name) = subject.strip_prefix(SUBJECT_PREFIX)?.split_once(':')?;
        let both = is_dns_label(namespace) && is_dns_label(name);
        both.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// For whom a token is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSubject {
    /// The account.
    pub account: ServiceAccount,
    /// The pod.
    pub pod_name: String,
    /// The pod's unique id.
    pub pod_uid: String,
}

/// Makes tokens.
pub struct TokenSigner {
    key: EncodingKey,
    public_pem: String,
    issuer: String,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSigner").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Why a signer or verifier cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// The library does not accept the key.
    #[error("the token key is not usable: {0}")]
    Key(String),
    /// A verifier needs at least one key.
    #[error("there is no key to verify tokens with")]
    NoKey,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of our form.
    #[error("the token is malformed: {0}")]
    Malformed(String),
    /// Made by somebody else, or changed.
    #[error("the token's signature is not from a key we know")]
    Signature,
    /// Made for another reader.
    #[error("the token is for {found:?}; expected {expected}")]
    Audience {
        /// Whom it should be for.
        expected: String,
        /// Whom it is for.
        found: Vec<String>,
    },
    /// Made by another authority with the same key.
    #[error("the token is from {found:?}; expected {expected}")]
    Issuer {
        /// Who should have made it.
        expected: String,
        /// Who made it.
        found: String,
    },
    /// Its time is over.
    #[error("the token has expired")]
    Expired {
        /// When.
        at: SystemTime,
    },
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid {
        /// When it will.
        from: SystemTime,
    },
    /// Not the token of a service account whose name can be an identity.
    #[error("the token's subject {0:?} is not a service account with DNS labels for names")]
    Subject(String),
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose token it is.
    pub account: ServiceAccount,
    /// The pod it is bound to, if it says so: name and unique id.
    pub pod: Option<(String, String)>,
    /// When it ends.
    pub expires: SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    kubernetes: Option<KubernetesClaims>,
}

/// RFC 7519 section 4.1.3 allows both forms.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ObjectClaim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serviceaccount: Option<ObjectClaim>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ObjectClaim {
    name: String,
    #[serde(default)]
    uid: String,
}

impl TokenSigner {
    /// Signs with this key, which must be on P-256, in the name of this issuer.
    ///
    /// # Errors
    /// When the key is on another curve.
    pub fn new(key: &Key, issuer: impl Into<String>) -> Result<Self, TokenKeyError> {
        if *rcgen::PublicKeyData::algorithm(key) != rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(TokenKeyError::Key("ES256 needs a key on P-256".to_owned()));
        }
        let signing = EncodingKey::from_ec_der(key.secret_der());
        Ok(Self { key: signing, public_pem: key.public_pem(), issuer: issuer.into() })
    }

    /// The public key, for verifiers.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Makes a token for one audience.
    ///
    /// # Errors
    /// When the library fails to sign.
    pub fn mint(
        &self,
        subject: &TokenSubject,
        audience: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, TokenKeyError> {
        let issued = unix_seconds(now);
        let TokenSubject { account, pod_name, pod_uid } = subject;
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: account.subject(),
            aud: Audiences::Many(vec![audience.to_owned()]),
            exp: unix_seconds(later(now, lifetime)),
            nbf: Some(issued),
            iat: Some(issued),
            kubernetes: Some(KubernetesClaims {
                namespace: account.namespace.clone(),
                pod: Some(ObjectClaim { name: pod_name.clone(), uid: pod_uid.clone() }),
                serviceaccount: Some(ObjectClaim {
                    name: account.name.clone(),
                    uid: String::new(),
                }),
            }),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)
            .map_err(|error| TokenKeyError::Key(error.to_string()))
    }
}

/// Verifies tokens.
#[derive(Clone)]
pub struct TokenVerifier {
    keys: Vec<DecodingKey>,
    issuer: String,
    audience: String,
    clock_skew: Duration,
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl TokenVerifier {
    /// Accepts tokens of this issuer, signed with any of these keys (PEM, `PUBLIC KEY`), that are
    /// for this audience. The skew is allowed at both ends of a token's life.
    ///
    /// # Errors
    /// When there is no key, or one is unusable.
    pub fn new(
        public_keys: &[&str],
        issuer: impl Into<String>,
        audience: impl Into<String>,
        clock_skew: Duration,
    ) -> Result<Self, TokenKeyError> {
        if public_keys.is_empty() {
            return Err(TokenKeyError::NoKey);
        }
        let key = |pem: &&str| DecodingKey::from_ec_pem(pem.as_bytes());
        let keys = public_keys.iter().map(key).collect::<Result<_, _>>();
        let keys = keys.map_err(|error| TokenKeyError::Key(error.to_string()))?;
        Ok(Self { keys, issuer: issuer.into(), audience: audience.into(), clock_skew })
    }

    /// Reads a token and checks signature, issuer, audience and time.
    ///
    /// # Errors
    /// Says which check failed.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        let claims = self.claims(token.trim())?;
        if claims.iss != self.issuer {
            let expected = self.issuer.clone();
            return Err(TokenError::Issuer { expected, found: claims.iss });
        }
        let audiences = match claims.aud {
            Audiences::One(one) => vec![one],
            Audiences::Many(many) => many,
        };
        if !audiences.contains(&self.audience) {
            let expected = self.audience.clone();
            return Err(TokenError::Audience { expected, found: audiences });
        }
        let (moment, skew) = (unix_seconds(now), self.clock_skew.as_secs());
        if claims.exp.saturating_add(skew) <= moment {
            return Err(TokenError::Expired { at: from_unix_seconds(claims.exp) });
        }
        if let Some(from) = claims.nbf.filter(|from| *from > moment.saturating_add(skew)) {
            return Err(TokenError::NotYetValid { from: from_unix_seconds(from) });
        }
        let account =
            ServiceAccount::parse_subject(&claims.sub).ok_or(TokenError::Subject(claims.sub))?;
        let pod = claims.kubernetes.and_then(|kubernetes| kubernetes.pod);
        Ok(Verified {
            account,
            pod: pod.map(|pod| (pod.name, pod.uid)),
            expires: from_unix_seconds(claims.exp),
        })
    }

    /// Checks the signature only; the rest is ours, because the library would read the clock.
    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(TokenError::Malformed(error.to_string())),
            }
        }
        Err(TokenError::Signature)
    }
}

#[cfg(test)]
mod tests;
