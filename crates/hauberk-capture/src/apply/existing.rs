//! What is already in the `nat` table, as `iptables-save` shows it. Pure.

use crate::render::iptables::{JUMPS, Lines};

/// Lines of the table that concern us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Existing {
    /// Our chains that exist.
    pub(super) chains: Vec<String>,
    /// Lines that lead from the kernel's chains into ours.
    pub(super) jumps: Vec<String>,
    /// Lines of our chains, in order.
    pub(super) rules: Vec<String>,
    /// Chains of other meshes.
    pub(super) foreign: Vec<String>,
}

impl Existing {
    pub(super) fn parse(saved: &str) -> Self {
        let mut existing = Self::default();
        for line in saved.lines().map(str::trim) {
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                if is_ours(chain) {
                    existing.chains.push(chain.to_owned());
                } else if chain.starts_with("ISTIO_") {
                    existing.foreign.push(chain.to_owned());
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let chain = rule.split(' ').next().unwrap_or_default();
                let target = rule.rsplit_once("-j ").map_or("", |(_, target)| target.trim());
                if is_ours(chain) {
                    existing.rules.push(line.to_owned());
                } else if is_ours(target) {
                    existing.jumps.push(line.to_owned());
                }
            }
        }
        existing
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// Lines that turn the jumps that exist into exactly the wanted ones. A wanted jump that exists
    /// stays, so that no connection slips by; others, and repetitions, go.
    pub(super) fn jumps_to_change(&self, wanted: &Lines) -> Vec<String> {
        let mut missing: Vec<&String> = wanted.jumps.iter().collect();
        let mut changes = Vec::new();
        for jump in &self.jumps {
            match missing.iter().position(|line| *line == jump) {
                Some(at) => drop(missing.remove(at)),
                None => changes.push(deletion(jump)),
            }
        }
        changes.extend(missing.into_iter().cloned());
        changes
    }

    /// Text for `iptables-restore --noflush` that removes everything of ours.
    pub(super) fn removal(&self) -> String {
        let mut lines = vec!["*nat".to_owned()];
        // Declaring a chain empties it, and an empty one refers to no other.
        lines.extend(self.chains.iter().map(|chain| format!(":{chain} - [0:0]")));
        lines.extend(self.jumps.iter().map(|jump| deletion(jump)));
        lines.extend(self.chains.iter().map(|chain| format!("-X {chain}")));
        lines.push("COMMIT\n".to_owned());
        lines.join("\n")
    }

    /// The trace id of a 2.7 run, found in the comment of a jump.
    pub(super) fn trace_id(&self) -> Option<i64> {
        let comment = self.jumps.first()?.split('"').nth(1)?;
        comment.rsplit_once('/')?.1.parse().ok()
    }
}

fn is_ours(chain: &str) -> bool {
    JUMPS.iter().any(|(_, ours)| *ours == chain)
}

fn deletion(line: &str) -> String {
    line.replacen("-A ", "-D ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{CaptureConfig, plan};
    use crate::render::iptables;
    use crate::rules::Family;

    const OLD: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:PROXY_INIT_OUTPUT - [0:0]
:PROXY_INIT_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting/1583" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 2102 -j PROXY_INIT_REDIRECT
COMMIT
"#;

    #[test]
    fn sorts_lines_by_whose_they_are() {
        let existing = Existing::parse(OLD);

        assert_eq!(existing.chains, ["PROXY_INIT_OUTPUT", "PROXY_INIT_REDIRECT"]);
        assert_eq!((existing.jumps.len(), existing.rules.len()), (3, 1));
        assert_eq!(existing.foreign, ["ISTIO_OUTPUT"]);
        assert_eq!(existing.trace_id(), Some(1583));
    }

    #[test]
    fn keeps_the_right_jump_and_drops_old_and_repeated_ones() {
        let wanted = iptables::lines(&plan(&CaptureConfig::sidecar()), Family::V4);

        let changes = Existing::parse(OLD).jumps_to_change(&wanted);

        assert_eq!(
            changes,
            [
                r#"-D PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting/1583" -j PROXY_INIT_REDIRECT"#,
                r#"-D OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT"#,
                r#"-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT"#,
            ]
        );
    }

    #[test]
    fn an_untouched_table_needs_both_jumps() {
        let wanted = iptables::lines(&plan(&CaptureConfig::sidecar()), Family::V6);

        let existing = Existing::parse("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n");

        assert!(existing.is_empty());
        assert_eq!(existing.jumps_to_change(&wanted), wanted.jumps);
    }
}
