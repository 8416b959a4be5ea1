//! Rules as text for the tools of the kernel's packet filter.
//!
//! Both renderers are pure and write exactly what the tool itself prints when asked for its rules.
//! That makes verifying a comparison of text, and the golden files what an operator sees.

pub mod iptables;
mod nft;
mod words;

pub use nft::{TABLE as NFT_TABLE, remove as nft_remove, table as nft_table};

use crate::rules::RuleSet;

/// The rules as one transaction for `nft -f -`: the table of an earlier run goes, the new one comes,
/// and no packet ever sees anything between.
pub fn nft(rules: &RuleSet) -> String {
    nft::transaction(rules)
}

/// The rules in words, for people.
pub fn words(rules: &RuleSet) -> String {
    words::words(rules)
}
