//! Checks that no compiler makes.
//!
//! Each check returns what it found; all findings are printed before the task fails, so that one
//! run shows everything.

mod deps;
mod licences;
mod requirements;
mod text;
mod unused;

use crate::bench;
use anyhow::bail;
use std::path::Path;

/// Runs all checks.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let metadata = deps::metadata(root)?;
    let mut findings = deps::check(root, &metadata)?;
    findings.extend(licences::check(&metadata));
    findings.extend(unused::check(&metadata)?);
    findings.extend(text::check(root)?);
    findings.extend(requirements::check(root)?);
    findings.extend(bench::check_readme(root)?);
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} problems", findings.len());
    }
    println!("tidy: nothing found");
    Ok(())
}
