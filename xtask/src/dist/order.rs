//! In which order functions lie in the program.
//!
//! The kernel maps 64 KiB around whatever is touched, so a program counts as resident as many such
//! windows as it has touched functions in. What ran in a proxy that rests comes first, then what ran
//! only under load, then the rest; each time what the compiler's instruments counted, then what they
//! cannot see (C, assembly, the standard library), of which we know the pages that were touched.

use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};

/// A page, in bytes.
const PAGE: u64 = 4096;

/// Functions by name, as `llvm-profdata show --all-functions --counts` prints them: how often their
/// parts ran in all.
///
/// A name is a line of its own that ends with a colon; names that are not unique have their unit
/// and a semicolon before them. Its counts follow on a line of their own.
pub(super) fn counted(shown: &str) -> BTreeMap<&str, u64> {
    let mut functions = BTreeMap::new();
    let mut name = None;
    for line in shown.lines() {
        if let Some(counts) = line.trim_start().strip_prefix("Block counts: [") {
            let Some(name) = name.take() else { continue };
            let counts = counts.trim_end_matches(']').split(", ");
            let counts = counts.filter_map(|count| count.parse::<u64>().ok());
            let all = counts.fold(0, u64::saturating_add);
            let function: &mut u64 = functions.entry(name).or_default();
            *function = function.saturating_add(all);
        } else if let Some(full) = line.strip_prefix("  ").and_then(|it| it.strip_suffix(':'))
            && !full.starts_with(' ')
        {
            name = full.rsplit(';').next();
        }
    }
    functions
}

/// Functions that ran, the busiest first, so that what requests run, what connections run and what
/// only the start runs lies together; then those touched ones that were not counted at all.
pub(super) fn order<'a>(counted: &BTreeMap<&'a str, u64>, touched: &[&'a str]) -> Vec<&'a str> {
    let mut ran: Vec<_> = counted.iter().filter(|(_, count)| **count > 0).collect();
    ran.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let uncounted = touched.iter().filter(|name| !counted.contains_key(*name));
    ran.into_iter().map(|(name, _)| *name).chain(uncounted.copied()).collect()
}

/// A function of a program.
#[derive(Debug, PartialEq, Eq)]
struct Function<'a> {
    address: u64,
    bytes: u64,
    name: &'a str,
}

/// Functions that lie at least partly on touched pages.
///
/// `headers` and `symbols` are what `readelf -lW` and `readelf -sW` print. `touched` are offsets of
/// pages in the program file.
pub(super) fn touched<'a>(
    headers: &str,
    symbols: &'a str,
    touched: &BTreeSet<u64>,
) -> anyhow::Result<Vec<&'a str>> {
    let (offset, start, bytes) = code(headers).context("the program has no code")?;
    let mut functions: Vec<_> = symbols.lines().filter_map(function).collect();
    functions.sort_unstable_by_key(|function| (function.address, function.name));
    let on_touched = |it: &&Function<'_>| {
        let Some(from) = it.address.checked_sub(start).filter(|from| *from < bytes) else {
            return false;
        };
        let from = offset + from;
        touched.range(from / PAGE * PAGE..from + it.bytes.max(1)).next().is_some()
    };
    Ok(functions.iter().filter(on_touched).map(|it| it.name).collect())
}

/// Offset in the file, address and size of the segment with the code:
/// `LOAD offset address physical file-size memory-size R E align`.
fn code(headers: &str) -> Option<(u64, u64, u64)> {
    headers.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let ["LOAD", offset, address, _, bytes, _, "R", "E", ..] = fields[..] else { return None };
        Some((hexadecimal(offset)?, hexadecimal(address)?, hexadecimal(bytes)?))
    })
}

/// `number: address size type binding visibility section name`; the size may be hexadecimal.
fn function(line: &str) -> Option<Function<'_>> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, address, bytes, "FUNC" | "IFUNC" | "NOTYPE", _, _, section, name, ..] = fields[..]
    else {
        return None;
    };
    let bytes = hexadecimal(bytes).filter(|_| bytes.starts_with("0x")).or(bytes.parse().ok())?;
    let address = u64::from_str_radix(address, 16).ok()?;
    (section != "UND" && bytes > 0).then_some(Function { address, bytes, name })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_ran_are_told_from_those_that_did_not() {
        let shown = "Counters:\n  _ZN1a:\n    Hash: 0x1\n    Counters: 2\n    Block counts: [151, 0]\n  \
            unit.0;_ZN1b:\n    Hash: 0x2\n    Counters: 1\n    Block counts: [0]\n";
        assert_eq!(counted(shown), BTreeMap::from([("_ZN1a", 151), ("_ZN1b", 0)]));
    }

    #[test]
    fn the_busiest_come_first_and_what_nobody_counted_last() {
        let counted = BTreeMap::from([("a", 1), ("b", 0), ("c", 7)]);
        assert_eq!(order(&counted, &["b", "memcpy", "a"]), ["c", "a", "memcpy"]);
    }

    #[test]
    fn functions_on_touched_pages_are_found() {
        let headers = "  LOAD 0x000000 0x0000000000000000 0x0000000000000000 0x0800 0x0800 R   0x1000\n  \
            LOAD 0x001000 0x0000000000002000 0x0000000000002000 0x3000 0x3000 R E 0x1000\n";
        let symbols = "Num: Value Size Type Bind Vis Ndx Name\n\
            1: 0000000000002000 16 FUNC GLOBAL DEFAULT 4 first\n\
            2: 0000000000002ff8 0x10 FUNC LOCAL DEFAULT 4 across\n\
            3: 0000000000004000 32 NOTYPE LOCAL DEFAULT 4 third\n\
            4: 0000000000004010 0 NOTYPE LOCAL DEFAULT 4 label\n\
            5: 0000000000000000 0 FUNC GLOBAL DEFAULT UND elsewhere\n";
        let check = |page: u64, expect: &[&str]| {
            let found = touched(headers, symbols, &BTreeSet::from([page])).unwrap();
            assert_eq!(found, expect, "{page:#x}");
        };
        check(0x1000, &["first", "across"]);
        check(0x2000, &["across"]);
        check(0x3000, &["third"]);
        check(0x0000, &[]);
        assert!(touched("", symbols, &BTreeSet::new()).is_err(), "a program without code");
    }
}
