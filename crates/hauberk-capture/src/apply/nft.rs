//! The native backend: one table, one transaction, both address families.

use super::{ApplyError, PodNetwork};
use crate::render;
use crate::rules::RuleSet;

/// Tables of nf_tables that exist, as `nft` names them; unknown without that tool, or without the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tables(Option<Vec<String>>);

impl Tables {
    pub(super) fn read(pod: &PodNetwork) -> Self {
        Self(pod.run("nft", &["list", "tables"], "").ok().map(|text| names(&text)))
    }

    /// Whether a table of this family and name exists, if that is known.
    pub(super) fn hold(&self, name: &str) -> Option<bool> {
        self.0.as_ref().map(|tables| tables.iter().any(|table| table == name))
    }

    fn hold_ours(&self) -> bool {
        self.hold(render::NFT_TABLE) == Some(true)
    }
}

fn names(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("table ")).map(str::to_owned).collect()
}

/// Puts the rules in, and tells which tables there are then. Costs one process.
pub(super) fn apply(pod: &PodNetwork, rules: &RuleSet) -> Result<Tables, ApplyError> {
    let script = format!("{}list tables\n", render::nft(rules));
    let tables = pod.run("nft", &["-f", "-"], &script)?;
    Ok(Tables(Some(names(&tables))))
}

/// Removes the table; says whether there was one.
pub(super) fn remove(pod: &PodNetwork, tables: &Tables) -> Result<bool, ApplyError> {
    if !tables.hold_ours() {
        return Ok(false);
    }
    pod.run("nft", &["-f", "-"], &render::nft_remove())?;
    Ok(true)
}

/// The table as it is, if it is there.
pub(super) fn read(pod: &PodNetwork, tables: &Tables) -> Result<Option<String>, ApplyError> {
    if !tables.hold_ours() {
        return Ok(None);
    }
    let mut arguments = vec!["-s", "-y", "list", "table"];
    arguments.extend(render::NFT_TABLE.split(' '));
    pod.run("nft", &arguments, "").map(Some)
}
