//! Lists of ports in annotations: numbers, ranges, and names of declared ports.

use hauberk_model::{Port, PortRange, PortSet};
use std::collections::BTreeSet;

/// An entry of a port list that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a port, a range such as 8000-8010, nor the name of a declared port")]
pub struct BadPort(pub String);

/// The ports of an annotation such as `config.linkerd.io/opaque-ports`.
///
/// Entries are separated by commas; blanks around them and empty entries do not matter. An entry
/// that equals a declared port's name means that port even if it looks like a range, because
/// `123-456` is a legal name. A range may begin with zero, as Linkerd allows; bad entries are
/// reported and the others still count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList {
    /// The ports that are meant.
    pub ports: PortSet,
    /// The entries that mean nothing.
    pub bad: Vec<BadPort>,
}

impl PortList {
    /// Reads `text`, looking names up with `numbers_of`.
    pub fn parse<I>(text: &str, numbers_of: impl Fn(&str) -> I) -> Self
    where
        I: IntoIterator<Item = u16>,
    {
        let mut ranges: BTreeSet<PortRange> = BTreeSet::new();
        let mut bad = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let named: Vec<Port> = numbers_of(entry).into_iter().filter_map(Port::new).collect();
            if !named.is_empty() {
                ranges.extend(named.into_iter().map(PortRange::from));
            } else if let Ok(range) = entry
                .strip_prefix("0-")
                .map_or(entry.to_owned(), |last| format!("1-{last}"))
                .parse()
            {
                ranges.insert(range);
            } else {
                bad.push(BadPort(entry.to_owned()));
            }
        }
        Self { ports: ranges.into_iter().collect(), bad }
    }

    /// Reads a list in which names have no meaning.
    pub fn parse_numbers(text: &str) -> Self {
        Self::parse(text, |_name| [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str, bad: &[&str]) {
        let named = |name: &str| match name {
            "mysql" => vec![3306, 33060],
            "123-456" => vec![9000],
            _ => vec![],
        };
        let list = PortList::parse(text, named);
        assert_eq!(list.ports.to_string(), expect, "{text:?}");
        assert_eq!(list.bad.iter().map(|bad| &*bad.0).collect::<Vec<_>>(), bad, "{text:?}");
    }

    #[test]
    fn takes_numbers_ranges_and_names() {
        check("", "", &[]);
        check("25,587, 3306 ,", "25,587,3306", &[]);
        check("8000-8010,9", "9,8000-8010", &[]);
        check("mysql,80", "80,3306,33060", &[]);
        check("0-10", "1-10", &[]);
    }

    #[test]
    fn a_name_that_looks_like_a_range_is_a_name() {
        check("123-456", "9000", &[]);
    }

    #[test]
    fn a_bad_entry_does_not_take_the_others_with_it() {
        check("80,pop3,9-5,0,70000", "80", &["pop3", "9-5", "0", "70000"]);
    }
}
