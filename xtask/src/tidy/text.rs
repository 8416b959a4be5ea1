//! What source files and documents must not contain.

use anyhow::Context;
use std::{path::Path, process::Command};

/// Longest source file, in lines. Over it, two ideas share a file.
const LINES_MAX: usize = 900;

/// All findings.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .context("cannot run git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files failed");
    let mut findings = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|p| !p.is_empty()) {
        // Pictures and binary fixtures are no text; files deleted in the work tree are gone.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        check_file(path, &text, &mut findings);
    }
    Ok(findings)
}

fn check_file(path: &str, text: &str, findings: &mut Vec<String>) {
    let rust = path.ends_with(".rs");
    if rust {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{path} has {lines} lines, more than {LINES_MAX}"));
        }
        let unsafe_words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        let confined = path.starts_with("crates/hauberk-linux/") || path.starts_with("xtask/");
        if !confined && unsafe_words.iter().any(|word| text.contains(word)) {
            findings.push(format!("{path} has unsafe code; only hauberk-linux may"));
        }
        let module = path.contains("/src/")
            && !path.ends_with("tests.rs")
            && !text.trim_start().starts_with("//!");
        if module {
            findings.push(format!("{path} does not begin with a module doc"));
        }
        let wire = path.starts_with("crates/hauberk-wire/") || path.starts_with("xtask/");
        if !wire && text.contains("linkerd2_proxy_api::") && !speaks_grpc(path) {
            findings.push(format!("{path} names wire types; only hauberk-wire translates them"));
        }
    }
    for (number, line) in text.lines().enumerate() {
        if rust && line.contains("TODO") && !line.contains("TODO(#") && !path.starts_with("xtask/")
        {
            findings.push(format!("{path}:{}: a TODO needs an issue: TODO(#123)", number + 1));
        }
    }
}

/// Places where gRPC clients and servers are named beside the translator: they carry messages.
fn speaks_grpc(path: &str) -> bool {
    path.starts_with("crates/hauberk-proxy/src/control")
        || path.starts_with("crates/hauberk-control/src/services")
        || path.contains("/tests/")
        || path.starts_with("crates/hauberk-testkit/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_banned() {
        let check = |path: &str, text: &str| {
            let mut findings = Vec::new();
            check_file(path, text, &mut findings);
            findings.len()
        };
        assert_eq!(check("crates/hauberk-x/src/a.rs", "//! Doc.\n"), 0);
        assert_eq!(check("crates/hauberk-x/src/a.rs", "fn a() {}\n"), 1);
        assert_eq!(check("crates/hauberk-x/src/a.rs", "//! D.\nunsafe { x() }\n"), 1);
        assert_eq!(check("crates/hauberk-linux/src/a.rs", "//! D.\nunsafe { x() }\n"), 0);
        assert_eq!(check("crates/hauberk-x/src/a.rs", "//! D.\n// TODO: this\n"), 1);
        assert_eq!(check("crates/hauberk-x/src/a.rs", "//! D.\n// TODO(#1): this\n"), 0);
        assert_eq!(check("crates/hauberk-x/src/a.rs", "//! D.\nuse linkerd2_proxy_api::net;\n"), 1);
        assert_eq!(check("a.rs", &"//\n".repeat(LINES_MAX + 1)), 1);
    }
}
