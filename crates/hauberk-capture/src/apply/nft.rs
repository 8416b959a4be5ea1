//! The native backend: one table, one transaction, both address families.

use super::{ApplyError, Target};
use crate::render;
use crate::rules::RuleSet;

/// Puts the rules in. Costs one process.
pub(super) fn apply(target: &Target, rules: &RuleSet) -> Result<Vec<String>, ApplyError> {
    target.run("nft", &["-f", "-"], &render::nft(rules))?;
    Ok(Vec::new())
}

/// Removes the table; says whether there was one. Without the tool there cannot be one of ours, unless
/// the image was changed between two runs.
pub(super) fn remove(target: &Target) -> Result<bool, ApplyError> {
    if target.tools.find("nft").is_none() || !is_present(target) {
        return Ok(false);
    }
    target.run("nft", &["-f", "-"], &render::nft_remove())?;
    Ok(true)
}

/// The table as it is, if it is there.
pub(super) fn read(target: &Target) -> Result<Option<String>, ApplyError> {
    if !is_present(target) {
        return Ok(None);
    }
    let mut arguments = vec!["-s", "-y", "list", "table"];
    arguments.extend(render::NFT_TABLE.split(' '));
    target.run("nft", &arguments, "").map(Some)
}

/// A kernel without nf_tables has no table of ours either, so a refusal means no.
fn is_present(target: &Target) -> bool {
    let wanted = format!("table {}", render::NFT_TABLE);
    let tables = target.run("nft", &["list", "tables"], "");
    tables.is_ok_and(|tables| tables.lines().any(|line| line.trim() == wanted))
}
