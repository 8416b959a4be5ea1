//! Certificates and rustls: trust anchors, requests, issuing, renewal, verification.
