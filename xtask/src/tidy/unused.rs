//! Dependencies that a manifest names and no source file does.

use anyhow::Context;
use serde_json::Value;
use std::path::Path;

/// All findings in our own packages.
pub(crate) fn check(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let members = metadata["workspace_members"].as_array().cloned().unwrap_or_default();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !members.contains(&package["id"]) {
            continue;
        }
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let folder = Path::new(manifest).parent().context("a manifest lies in a folder")?;
        let mut source = String::new();
        read(folder, &mut source)?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str());
            let name = name.unwrap_or_default().replace('-', "_");
            if !source.contains(&name) {
                findings.push(format!("{manifest}: {name} is not used"));
            }
        }
    }
    Ok(findings)
}

/// Appends the text of all Rust files below a folder.
fn read(folder: &Path, source: &mut String) -> anyhow::Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, source)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            source.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
