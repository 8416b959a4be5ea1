//! Private keys: ECDSA, P-256 when we make them, P-384 also when we are given them.
//!
//! A key never appears in `Debug` output, and leaves this type only by the functions that say so.

use std::fmt;

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm,
};
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use std::sync::Arc;

/// A private key with its public half.
pub struct Key {
    pair: KeyPair,
    der: PrivateKeyDer<'static>,
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The operating system gave no randomness, or the library refused.
    #[error("cannot generate a private key: {0}")]
    Generate(String),
    /// Not a private key in PEM.
    #[error("no private key found in the PEM text: {0}")]
    Pem(String),
    /// A key, but of another kind.
    #[error("the private key is not ECDSA on P-256 or P-384")]
    Kind,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A fresh key on P-256.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| KeyError::Generate(error.to_string()))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok(Self { pair, der })
    }

    /// Reads `PRIVATE KEY` (PKCS#8) or `EC PRIVATE KEY` (SEC 1).
    ///
    /// # Errors
    /// When there is no such key in the text, or it is of another kind.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| KeyError::Pem(error.to_string()))?;
        Self::from_der(der)
    }

    /// Reads PKCS#8 in DER, the form of linkerd2-proxy's `key.p8`.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_der(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec())))
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let pair = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384]
            .into_iter()
            .find_map(|kind| KeyPair::from_der_and_sign_algo(&der, kind).ok())
            .ok_or(KeyError::Kind)?;
        Ok(Self { pair, der })
    }

    /// The secret as PEM, for writing it to a protected file.
    pub fn secret_pem(&self) -> String {
        let label = match &self.der {
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        crate::certificate::pem(label, self.der.secret_der())
    }

    /// The secret as DER: PKCS#8 for keys made here.
    pub fn secret_der(&self) -> &[u8] {
        self.der.secret_der()
    }

    /// The public half as PEM (`PUBLIC KEY`).
    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The public half as DER (SubjectPublicKeyInfo).
    pub fn public_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.pair
    }

    /// The key as rustls wants it.
    pub(crate) fn tls(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&self.der).map_err(|_| KeyError::Kind)
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.pair.algorithm()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_pem_and_der() {
        let key = Key::generate().expect("randomness");
        let public = key.public_pem();
        assert_eq!(Key::from_pem(&key.secret_pem()).expect("PEM").public_pem(), public);
        assert_eq!(Key::from_pkcs8_der(key.secret_der()).expect("DER").public_pem(), public);
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn refuses_other_kinds_and_garbage() {
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("randomness");
        assert_eq!(Key::from_pem(&ed25519.serialize_pem()).expect_err("kind"), KeyError::Kind);
        assert!(matches!(Key::from_pem("nothing"), Err(KeyError::Pem(_))));
        assert_eq!(Key::from_pkcs8_der(b"nothing").expect_err("kind"), KeyError::Kind);
    }
}
