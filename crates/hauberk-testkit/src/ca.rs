//! A certificate authority for tests.
//!
//! The same code that runs in production, with a fixed seed for serial numbers. Keys are fresh in
//! each run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_identity::ca::{Anchor, CertificateAndKey};
use hauberk_identity::issuer::Lifetimes;
use hauberk_identity::request::Request;
use hauberk_identity::{Certified, Credentials, Issuer, TlsSettings, TrustAnchors};
use hauberk_model::workload_id::WorkloadId;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An anchor with an issuer under it.
#[derive(Debug)]
pub struct TestCa {
    anchor: Anchor,
    anchors: TrustAnchors,
    issuer: Issuer,
    issuer_pem: CertificateAndKey,
    now: SystemTime,
    rng: SmallRng,
}

impl TestCa {
    /// Founds a mesh at this moment. Use the present one where handshakes read the real clock.
    pub fn new(now: SystemTime) -> Self {
        let mut rng = SmallRng::seed_from_u64(0);
        let anchor = Anchor::generate("root.linkerd.cluster.local", 3650 * DAY, now, &mut rng)
            .expect("the system has randomness");
        let anchors = anchor.anchors();
        let (issuer, issuer_pem) = new_issuer(&anchor, &anchors, now, &mut rng);
        Self { anchor, anchors, issuer, issuer_pem, now, rng }
    }

    /// What members trust.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Who signs leaves now.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The issuer's files, as the identity service reads them.
    pub fn issuer_pem(&self) -> &CertificateAndKey {
        &self.issuer_pem
    }

    /// Replaces the issuer by another under the same anchor.
    pub fn rotate_issuer(&mut self) {
        (self.issuer, self.issuer_pem) =
            new_issuer(&self.anchor, &self.anchors, self.now, &mut self.rng);
    }

    /// A member of the mesh with this identity.
    pub fn certify(&mut self, identity: &WorkloadId, settings: &TlsSettings) -> Arc<Certified> {
        let credentials =
            Credentials::generate(identity.clone()).expect("a DNS name and randomness");
        let request = Request::parse(credentials.request_der(), identity).expect("our own request");
        let issued = self.issuer.issue(&request, self.now, &mut self.rng).expect("our own issuer");
        let certified = credentials.certify(
            issued.leaf,
            issued.intermediates,
            &self.anchors,
            settings,
            self.now,
        );
        Arc::new(certified.expect("our own leaf"))
    }

    /// A member with the identity of a service account, in the usual form.
    pub fn account(&mut self, account: &str, namespace: &str) -> Arc<Certified> {
        let identity = WorkloadId::service_account(account, namespace, "linkerd", "cluster.local");
        self.certify(&identity, &TlsSettings::default())
    }
}

fn new_issuer(
    anchor: &Anchor,
    anchors: &TrustAnchors,
    now: SystemTime,
    rng: &mut SmallRng,
) -> (Issuer, CertificateAndKey) {
    let pem = anchor
        .issuer("identity.linkerd.cluster.local", 365 * DAY, now, rng)
        .expect("the system has randomness");
    let lifetimes = Lifetimes::default();
    let issuer = Issuer::from_pem(&pem.certificate_pem, &pem.key_pem, anchors, lifetimes, now)
        .expect("our own issuer");
    (issuer, pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certifies_members_before_and_after_rotation() {
        let mut ca = TestCa::new(SystemTime::now());
        let web = ca.account("web", "emojivoto");
        assert_eq!(
            web.identity().as_str(),
            "web.emojivoto.serviceaccount.identity.linkerd.cluster.local"
        );
        ca.rotate_issuer();
        let again = ca.account("web", "emojivoto");
        assert_ne!(web.chain()[1], again.chain()[1]);
    }
}
