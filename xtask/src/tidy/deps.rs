//! The direction of dependencies: arrows go down, never sideways, and only those listed here.

use anyhow::Context;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

/// For each crate, the crates of the workspace it may depend on. ARCHITECTURE.md shows the same.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("linux", &[]),
    ("process", &[]),
    ("emojivoto", &[]),
    ("resources", &["model"]),
    ("identity", &["model"]),
    ("wire", &["model"]),
    ("viz", &["model", "wire"]),
    ("index", &["model", "resources"]),
    ("inject", &["model", "resources"]),
    ("capture", &["model", "linux"]),
    ("source", &["resources", "process"]),
    ("proxy", &["model", "wire", "identity", "linux", "process"]),
    (
        "control",
        &["model", "wire", "resources", "index", "inject", "identity", "source", "process"],
    ),
    (
        "local",
        &[
            "model",
            "resources",
            "index",
            "inject",
            "capture",
            "linux",
            "identity",
            "source",
            "control",
            "process",
        ],
    ),
    (
        "cli",
        &["model", "resources", "index", "inject", "identity", "source", "viz", "local", "process"],
    ),
];

/// Crates that must not be reached from another, however indirectly.
const BANNED: &[(&str, &[&str])] = &[
    ("proxy", &["kube", "kube-core", "kube-client", "k8s-openapi"]),
    ("index", &["tokio", "hyper", "tonic"]),
    ("inject", &["tokio", "hyper", "tonic"]),
    ("model", &["tokio", "hyper", "tonic", "serde_json"]),
    ("proxy", &["ring", "openssl"]),
    ("control", &["ring", "openssl"]),
];

/// All findings.
pub(crate) fn check(root: &Path, metadata: &Value) -> anyhow::Result<Vec<String>> {
    let graph = Graph::new(metadata)?;
    let mut findings = graph.unlisted_arrows();
    findings.extend(banned(root)?);
    Ok(findings)
}

/// What cargo knows of all packages.
pub(crate) fn metadata(root: &Path) -> anyhow::Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// Who depends on whom outside of tests.
struct Graph {
    /// Name of each package by id.
    names: BTreeMap<String, String>,
    /// Normal dependencies by id, as ids.
    normal: BTreeMap<String, BTreeSet<String>>,
    /// Ids of our own packages.
    own: BTreeSet<String>,
}

impl Graph {
    fn new(metadata: &Value) -> anyhow::Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let names = array(&metadata["packages"]);
        let names = names.iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
        let own = array(&metadata["workspace_members"]).iter().map(text).collect();
        let normal_kind =
            |dep: &Value| array(&dep["dep_kinds"]).iter().any(|k| k["kind"].is_null());
        let nodes = array(&metadata["resolve"]["nodes"]);
        let normal: BTreeMap<_, _> = nodes
            .iter()
            .map(|node| {
                let deps = array(&node["deps"]).into_iter().filter(normal_kind);
                (text(&node["id"]), deps.map(|dep| text(&dep["pkg"])).collect())
            })
            .collect();
        anyhow::ensure!(!normal.is_empty(), "cargo metadata lists no packages");
        Ok(Self { names, normal, own })
    }

    fn name(&self, id: &str) -> &str {
        self.names.get(id).map_or("", |name| name)
    }

    fn unlisted_arrows(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for id in &self.own {
            let Some(name) = self.name(id).strip_prefix("hauberk-") else { continue };
            if name == "testkit" {
                continue;
            }
            let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
                findings.push(format!("hauberk-{name} is not in xtask/src/tidy/deps.rs"));
                continue;
            };
            for dependency in self.normal.get(id).into_iter().flatten() {
                let Some(to) = self.name(dependency).strip_prefix("hauberk-") else { continue };
                if !allowed.contains(&to) {
                    findings.push(format!("hauberk-{name} may not depend on hauberk-{to}"));
                }
            }
        }
        findings
    }
}

/// Crates that are linked although they are banned. `cargo tree` knows the features in use, which
/// `cargo metadata` does not.
fn banned(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (from, banned) in BANNED {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--edges=normal", "--prefix=none", "--format={p}", "--package"])
            .arg(format!("hauberk-{from}"))
            .current_dir(root)
            .output()
            .context("cannot run cargo tree")?;
        anyhow::ensure!(
            output.status.success(),
            "cargo tree failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tree = String::from_utf8_lossy(&output.stdout);
        let linked: BTreeSet<_> =
            tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let found = banned.iter().filter(|name| linked.contains(*name));
        findings.extend(found.map(|name| format!("hauberk-{from} must not link {name}")));
    }
    Ok(findings)
}
