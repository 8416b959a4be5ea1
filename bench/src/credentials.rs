//! Certificates and tokens of a throw-away mesh with two workloads, `client` and `server`.
//!
//! All systems under test use the same chain of three: a root, an issuer under it, and a leaf
//! with an ECDSA key on P-256 per workload. Peers read the leaves; Hauberk's control plane reads
//! the issuer, and its proxies the tokens, and makes leaves of the same kind.

use anyhow::Context;
use hauberk_identity::{
    Credentials, Issuer, Key,
    ca::Anchor,
    certificate,
    issuer::Lifetimes,
    request::Request,
    token::{ServiceAccount, TokenSigner, TokenSubject},
};
use hauberk_model::WorkloadId;
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What Linkerd's identity service asks of tokens.
const AUDIENCE: &str = "identity.l5d.io";

/// The controller's default for `--token-issuer`.
const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Writes everything into this directory.
pub(crate) fn write(directory: &Path) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let mut rng = rand::rng();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let root = Anchor::generate("root.linkerd.cluster.local", LIFETIME, now, &mut rng)?;
    let issuer = root.issuer("identity.linkerd.cluster.local", LIFETIME, now, &mut rng)?;
    write("anchors.pem", &root.anchors().to_pem())?;
    write("issuer.pem", &issuer.certificate_pem)?;
    write("issuer.key", &issuer.key_pem)?;

    let tokens = TokenSigner::new(&Key::generate()?, TOKEN_ISSUER)?;
    write("token-keys.pem", tokens.public_pem())?;
    let issuer = Issuer::from_pem(
        &issuer.certificate_pem,
        &issuer.key_pem,
        &root.anchors(),
        Lifetimes::default(),
        now,
    )?;
    for name in ["client", "server"] {
        let identity = WorkloadId::service_account(name, "bench", "linkerd", "cluster.local");
        let own = Credentials::generate(identity.clone())?;
        let request = Request::parse(own.request_der(), &identity)?;
        let issued = issuer.issue(&request, now, &mut rng)?;
        let chain = std::iter::once(&issued.leaf).chain(&issued.intermediates);
        let (chain, key) = (certificate::to_pem(chain), own.key().secret_pem());
        write(&format!("{name}.pem"), &chain)?;
        write(&format!("{name}.key"), &key)?;
        // HAProxy wants both in one file.
        write(&format!("{name}.both"), &format!("{chain}{key}"))?;

        let account = ServiceAccount { namespace: "bench".to_owned(), name: name.to_owned() };
        let subject = TokenSubject { account, pod_name: name.to_owned(), pod_uid: name.to_owned() };
        write(&format!("{name}.token"), &tokens.mint(&subject, AUDIENCE, LIFETIME, now)?)?;
    }
    Ok(())
}
