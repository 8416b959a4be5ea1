//! How a server outside of the mesh speaks TLS: one that strangers of the usual kind call, such as
//! the Kubernetes API server calling a webhook.
//!
//! Other rules than within the mesh: the certificate is somebody else's (Helm's, cert-manager's),
//! so RSA keys and TLS 1.2 are taken too, no client certificate is asked for, and ALPN offers
//! HTTP/2 and HTTP/1.1.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::certificate;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The certificate's file is not PEM, or there is no certificate in it.
    #[error("cannot read the certificate: {0}")]
    Certificate(String),
    /// The key's file holds no key that we understand.
    #[error("cannot read the key: {0}")]
    Key(String),
    /// They can be read but not used, for example because the key is another certificate's.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// The configuration of a server with this certificate (and those above it) and key, as PEM. Keys
/// may be PKCS #8, PKCS #1 or SEC 1. Whether the certificate is valid now is the client's business.
///
/// # Errors
/// If they cannot be read or do not belong together.
pub fn server(certificate_pem: &str, key_pem: &str) -> Result<ServerConfig, HttpsError> {
    let chain = certificate::from_pem(certificate_pem)
        .map_err(|error| HttpsError::Certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(HttpsError::Certificate("there is none in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| HttpsError::Key(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(HttpsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(HttpsError::Unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use rcgen::{CertificateParams, KeyPair};

    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("randomness");
        let names = vec!["hauberk-controller.linkerd.svc".to_owned()];
        let params = CertificateParams::new(names).expect("a DNS name");
        (params.self_signed(&key).expect("can sign").pem(), key.serialize_pem())
    }

    #[test]
    fn takes_a_certificate_and_its_key_only() {
        let (certificate, key) = pair();
        assert!(server(&certificate, &key).is_ok());
        let check = |certificate: &str, key: &str, expect: &str| {
            let error = server(certificate, key).expect_err(expect).to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check("", &key, "cannot read the certificate: there is none");
        check("-----BEGIN CERTIFICATE-----\n!", &key, "cannot read the certificate: ");
        check(&certificate, "nothing", "cannot read the key: ");
        let other = Key::generate().expect("randomness").secret_pem();
        check(&certificate, &other, "certificate and key cannot be used: ");
    }
}
