//! The lab's control plane: its certificate authority, and its own manifests.
//!
//! The control plane is a pod like any other, made from ordinary manifests in namespace `linkerd`, so
//! that injected settings work as they are. It watches the directory of the lab's objects. Keys are
//! made anew for each lab and live in the lab's memory only, unless an authority is given.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hauberk_identity::Key;
use hauberk_identity::ca::Anchor;
use hauberk_identity::token::TokenSigner;
use hauberk_index::ClusterConfig;
use hauberk_inject::{InjectConfig, Ipv6, TrustAnchors};
use serde_json::{Value, json};

/// Namespace of the control plane, as Linkerd's.
const NAMESPACE: &str = "linkerd";
/// Longer than any lab lives.
const CA_LIFETIME: Duration = Duration::from_secs(365 * 86400);
/// What tokens say about who made them.
const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The lab's secrets, and files for the control plane.
#[derive(Debug)]
pub struct Authority {
    /// Makes the tokens of service accounts.
    pub signer: TokenSigner,
    /// What everybody trusts, as PEM.
    pub trust_anchors: String,
    /// Where anchors and issuer are; they are followed.
    authority: PathBuf,
    token_key: PathBuf,
}

impl Authority {
    /// Makes the key of tokens and, unless an authority is `given`, anchor and issuer. Writes the
    /// files that the control plane reads to `directory`.
    ///
    /// # Errors
    /// When there is no randomness, the directory cannot be written to, or the given authority's
    /// anchors cannot be read.
    pub fn create(directory: &Path, given: Option<&Path>, now: SystemTime) -> anyhow::Result<Self> {
        let signer = TokenSigner::new(&Key::generate()?, TOKEN_ISSUER)?;
        let token_key = directory.join("token.pub");
        write(&token_key, signer.public_pem())?;
        let authority = given.unwrap_or(directory).to_owned();
        let trust_anchors = match given {
            None => make_authority(directory, now)?,
            Some(given) => {
                let bundle = given.join("ca-bundle.crt");
                fs::read_to_string(&bundle)
                    .with_context(|| format!("cannot read {}", bundle.display()))?
            }
        };
        Ok(Self { signer, trust_anchors, authority, token_key })
    }

    /// How pods are injected.
    pub fn inject_config(&self, version: &str) -> InjectConfig {
        InjectConfig {
            trust_anchors: TrustAnchors::Inline(self.trust_anchors.clone()),
            ipv6: Ipv6::On,
            ..InjectConfig::new(NAMESPACE, version)
        }
    }

    /// What the control plane is started with.
    fn arguments(&self, objects: &Path, further: &[String]) -> Vec<String> {
        let file = |name: &str| self.authority.join(name).display().to_string();
        let args = [
            ("--source-dir", objects.display().to_string()),
            ("--trust-anchors-file", file("ca-bundle.crt")),
            ("--issuer-cert-file", file("issuer.crt")),
            ("--issuer-key-file", file("issuer.key")),
            ("--token-key-file", self.token_key.display().to_string()),
            ("--token-issuer", TOKEN_ISSUER.to_owned()),
        ];
        args.into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .chain(["--enable-ipv6".to_owned()])
            .chain(further.iter().cloned())
            .collect()
    }

    /// The settings that the control plane's answers depend on; none if it does not understand its
    /// arguments, in which case it says so itself.
    pub fn cluster(&self, objects: &Path, further: &[String]) -> Option<ClusterConfig> {
        hauberk_control::config::cluster(self.arguments(objects, further))
    }

    /// The control plane's manifests.
    pub fn manifests(&self, objects: &Path, version: &str, further: &[String]) -> Vec<Value> {
        let labels = json!({
            "linkerd.io/control-plane-component": "destination",
            "linkerd.io/control-plane-ns": NAMESPACE,
        });
        let args = self.arguments(objects, further);
        let ports =
            [("grpc", 8086), ("policy-grpc", 8090), ("identity-grpc", 8080), ("admin", 9990)];
        let container = json!({
            "name": "destination",
            "image": format!("hauberk/controller:{version}"),
            "args": args,
            "ports": ports.map(|(name, port)| json!({"name": name, "containerPort": port})),
            "readinessProbe": {
                "httpGet": {"path": "/ready", "port": "admin"}, "periodSeconds": 1, "failureThreshold": 7,
            },
        });
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "linkerd-destination", "namespace": NAMESPACE, "labels": labels},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels, "annotations": {"linkerd.io/inject": "disabled"}},
                "spec": {
                    "serviceAccountName": "linkerd-destination",
                    "terminationGracePeriodSeconds": 3,
                    "containers": [container],
                },
            }},
        });
        let mut manifests = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "linkerd-identity-trust-roots", "namespace": NAMESPACE},
                "data": {"ca-bundle.crt": self.trust_anchors},
            }),
        ];
        for account in ["linkerd-destination", "linkerd-identity"] {
            let metadata = json!({"name": account, "namespace": NAMESPACE});
            let object =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
            manifests.push(object);
        }
        for (name, port, headless) in [
            ("linkerd-dst", 8086, false),
            ("linkerd-dst-headless", 8086, true),
            ("linkerd-policy", 8090, true),
            ("linkerd-identity", 8080, false),
            ("linkerd-identity-headless", 8080, true),
        ] {
            let mut service = json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
                "spec": {
                    "selector": labels,
                    "ports": [{"name": "grpc", "port": port, "targetPort": port}],
                },
            });
            if headless {
                service["spec"]["clusterIP"] = json!("None");
            }
            manifests.push(service);
        }
        manifests.push(deployment);
        manifests
    }
}

/// Makes anchor and issuer, writes what the control plane reads of them, and returns the anchor.
fn make_authority(directory: &Path, now: SystemTime) -> anyhow::Result<String> {
    let mut rng = rand::rng();
    let anchor = Anchor::generate("root.linkerd.cluster.local", CA_LIFETIME, now, &mut rng)?;
    let issuer = anchor.issuer("identity.linkerd.cluster.local", CA_LIFETIME, now, &mut rng)?;
    let trust_anchors = anchor.to_pem().certificate_pem;
    write(&directory.join("ca-bundle.crt"), &trust_anchors)?;
    write(&directory.join("issuer.crt"), &issuer.certificate_pem)?;
    write(&directory.join("issuer.key"), &issuer.key_pem)?;
    Ok(trust_anchors)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
