//! Are the rules in the kernel the ones that were meant?
//!
//! Reads them back with the tool that wrote them and compares line by line. Counters do not matter;
//! everything else does, also what somebody added by hand.

use super::existing::Existing;
use super::iptables::{self, Unknown, Variant};
use super::nft::{self, Tables};
use super::{ApplyError, Backend, Choice, PodNetwork};
use crate::render;
use crate::rules::{Family, Generation, RuleSet};

/// What the comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The backend that holds rules of ours; none if there are none.
    pub backend: Option<Backend>,
    /// Lines that differ, each said in full. Empty if everything is as meant.
    pub differences: Vec<String>,
}

/// Compares what is in the kernel with `rules`.
///
/// With [`Choice::Auto`] the backend is the one that holds rules. Rules about users may be absent where
/// the user namespace does not allow them, as long as the packet mark is there.
///
/// # Errors
/// When the tool that shows the rules cannot be run or refuses.
pub fn verify(pod: &PodNetwork, rules: &RuleSet, choice: Choice) -> Result<Verified, ApplyError> {
    let tables = Tables::read(pod);
    for backend in pod.candidates(choice) {
        let differences = match backend {
            Backend::Nft => of_nft(pod, rules, &tables)?,
            Backend::Iptables(variant) => of_iptables(pod, rules, variant, &tables)?,
        };
        if let Some(differences) = differences {
            return Ok(Verified { backend: Some(backend), differences });
        }
    }
    let differences = vec!["there are no capture rules in this network namespace".to_owned()];
    Ok(Verified { backend: None, differences })
}

fn of_nft(
    pod: &PodNetwork,
    rules: &RuleSet,
    tables: &Tables,
) -> Result<Option<Vec<String>>, ApplyError> {
    let Some(found) = nft::read(pod, tables)? else { return Ok(None) };
    let wanted = logical_lines(&render::nft_table(rules));
    Ok(Some(compare(&wanted, &logical_lines(&found))))
}

fn of_iptables(
    pod: &PodNetwork,
    rules: &RuleSet,
    variant: Variant,
    tables: &Tables,
) -> Result<Option<Vec<String>>, ApplyError> {
    let mut differences = Vec::new();
    let mut is_anything_there = false;
    for family in [Family::V4, Family::V6] {
        let existing = iptables::find(pod, variant, family, tables, Unknown::Look);
        is_anything_there |= !existing.is_empty();
        let is_wanted = rules.families.list().contains(&family)
            && (family == Family::V4 || iptables::has_ipv6());
        let word = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let found = differences_of(&existing, is_wanted.then_some(rules), family);
        differences.extend(found.into_iter().map(|line| format!("{word} {line}")));
    }
    Ok(is_anything_there.then_some(differences))
}

fn differences_of(existing: &Existing, rules: Option<&RuleSet>, family: Family) -> Vec<String> {
    let found: Vec<String> = existing.jumps.iter().chain(&existing.rules).cloned().collect();
    let Some(rules) = rules else { return compare(&[], &found) };
    let against = |rules: &RuleSet| {
        let lines = render::iptables::lines(&of_the_same_run(rules, existing), family);
        let wanted: Vec<String> = lines.jumps.iter().chain(&lines.rules).cloned().collect();
        compare(&wanted, &found)
    };
    let differences = against(rules);
    let reduced = rules.without_owner_rules();
    if !differences.is_empty() && reduced.is_some_and(|reduced| against(&reduced).is_empty()) {
        return Vec::new();
    }
    differences
}

/// A 2.7 run is known by the trace id in its comments only.
fn of_the_same_run(rules: &RuleSet, existing: &Existing) -> RuleSet {
    let mut rules = rules.clone();
    if let (Generation::Linkerd27 { .. }, Some(trace_id)) = (rules.generation, existing.trace_id())
    {
        rules.generation = Generation::Linkerd27 { trace_id };
    }
    rules
}

/// Lines without indentation and blank lines; a set's elements, which nft wraps, in one line.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match lines.last_mut().filter(|_| is_open) {
            Some(last) => {
                last.push(' ');
                last.push_str(line);
            }
            None => lines.push(line.to_owned()),
        }
        is_open = (is_open || line.starts_with("elements = {")) && !line.ends_with('}');
    }
    lines
}

fn compare(wanted: &[String], found: &[String]) -> Vec<String> {
    let missing = wanted.iter().filter(|line| !found.contains(line));
    let extra = found.iter().filter(|line| !wanted.contains(line));
    let mut differences: Vec<String> = missing.map(|line| format!("missing: {line}")).collect();
    differences.extend(extra.map(|line| format!("unexpected: {line}")));
    if differences.is_empty() && wanted != found {
        differences.push("order or number of the rules differs".to_owned());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_elements_are_one_line() {
        let text = "\tset x {\n\t\telements = { 1, 2,\n\t\t\t     3 }\n\n\t}\n";

        assert_eq!(logical_lines(text), ["set x {", "elements = { 1, 2, 3 }", "}"]);
    }

    #[test]
    fn differences_say_which_side_lacks_what() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();

        assert_eq!(compare(&lines("a b"), &lines("a b")), [""; 0]);
        assert_eq!(compare(&lines("a b"), &lines("a c")), ["missing: b", "unexpected: c"]);
        assert_eq!(compare(&lines("a b"), &lines("b a")), ["order or number of the rules differs"]);
        assert_eq!(compare(&lines("a"), &lines("a a")), ["order or number of the rules differs"]);
    }
}
