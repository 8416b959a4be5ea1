//! TCP ports, ranges of them, and sets of ranges.

use std::{fmt, num::NonZeroU16, str::FromStr};

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// A port, unless it is zero.
    pub const fn new(port: u16) -> Option<Self> {
        match NonZeroU16::new(port) {
            Some(port) => Some(Self(port)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.get()
    }
}

impl TryFrom<u32> for Port {
    type Error = InvalidPort;

    fn try_from(port: u32) -> Result<Self, InvalidPort> {
        u16::try_from(port).ok().and_then(Self::new).ok_or_else(|| InvalidPort(port.to_string()))
    }
}

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let port = digits.then(|| text.parse().ok()).flatten().and_then(Self::new);
        port.ok_or_else(|| InvalidPort(text.to_owned()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not a port or a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a port (1 to 65535) or a range such as 8000-8010")]
pub struct InvalidPort(pub String);

/// Ports `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// The range from `first` to `last`; none if they are reversed.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }

    /// Whether the range includes `port`.
    pub fn contains(self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let invalid = |_| InvalidPort(text.to_owned());
        match text.split_once('-') {
            None => Ok(text.parse::<Port>()?.into()),
            Some((first, last)) => {
                let first = first.trim().parse().map_err(invalid)?;
                let last = last.trim().parse().map_err(invalid)?;
                Self::new(first, last).ok_or_else(|| InvalidPort(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of ports, kept as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// Reads a comma-separated list of ports and ranges; blanks and empty entries are allowed.
    ///
    /// All bad entries are returned, not only the first.
    pub fn parse(text: &str) -> Result<Self, Vec<InvalidPort>> {
        let (mut ranges, mut bad) = (Vec::new(), Vec::new());
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match entry.parse::<PortRange>() {
                Ok(range) => ranges.push(range),
                Err(error) => bad.push(error),
            }
        }
        if bad.is_empty() { Ok(ranges.into_iter().collect()) } else { Err(bad) }
    }

    /// Whether `port` is in the set. Cost: logarithmic in the number of ranges.
    pub fn contains(&self, port: Port) -> bool {
        let after = self.0.partition_point(|range| range.first <= port);
        after > 0 && self.0[after - 1].contains(port)
    }

    /// Whether the set has no port.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(prior) if u32::from(range.first.get()) <= u32::from(prior.last.get()) + 1 => {
                    prior.last = prior.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromIterator<Port> for PortSet {
    fn from_iter<I: IntoIterator<Item = Port>>(ports: I) -> Self {
        ports.into_iter().map(PortRange::from).collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(n: u16) -> Port {
        Port::new(n).expect("test port")
    }

    #[test]
    fn merges_and_finds_ranges() {
        let set = PortSet::parse("25, 8000-8010,8011,,8005-8007, 65535").expect("valid");
        assert_eq!(set.to_string(), "25,8000-8011,65535");
        assert!(set.contains(port(8011)) && set.contains(port(65535)) && set.contains(port(25)));
        assert!(!set.contains(port(26)) && !set.contains(port(7999)));
    }

    #[test]
    fn reports_every_bad_entry() {
        let bad = PortSet::parse("0,80,x,9-5,70000").expect_err("four are bad");
        let bad: Vec<_> = bad.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(bad, ["0", "x", "9-5", "70000"]);
    }

    #[test]
    fn refuses_signs_and_blanks_inside_a_port() {
        assert!("+80".parse::<Port>().is_err());
        assert!("-".parse::<PortRange>().is_err());
        assert!("80-".parse::<PortRange>().is_err());
    }
}
