//! Every crate that is linked has a permissive licence.
//!
//! `deny.toml` says the same to cargo-deny, which also knows advisories; this check needs nothing
//! but cargo.

use serde_json::Value;

/// Licences that may be linked into programs under the Apache License 2.0.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// All findings in the output of `cargo metadata`.
pub(crate) fn check(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let refused = packages.filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or_default();
        let name = package["name"].as_str().unwrap_or_default();
        let findings = || format!("{name} has the licence {licence:?}, which is not on the list");
        (!permitted(licence)).then(findings)
    });
    refused.collect()
}

/// Whether an SPDX expression can be met by permissive licences alone.
fn permitted(expression: &str) -> bool {
    // Old manifests write "MIT/Apache-2.0" for "or".
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // "AND" binds more strongly than "OR"; brackets only ever group alternatives in the crates we
    // use, so each part of an "AND" must offer a permissive alternative.
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| {
            let licence = licence.split(" WITH ").next().unwrap_or_default().trim();
            PERMISSIVE.contains(&licence)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_expressions() {
        assert!(permitted("MIT/Apache-2.0"));
        assert!(permitted("ISC AND (Apache-2.0 OR ISC)"));
        assert!(permitted("Apache-2.0 WITH LLVM-exception OR MIT"));
        assert!(permitted("MIT OR GPL-3.0"));
        assert!(!permitted("GPL-3.0"));
        assert!(!permitted("MIT AND LGPL-2.1"));
        assert!(!permitted(""));
    }
}
