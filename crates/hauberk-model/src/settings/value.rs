//! The forms a setting's value may take, each with a parser and, where the injector writes it,
//! a formatter.
//!
//! The grammar is the one linkerd2-proxy reads, so that settings written for either are read
//! the same by both.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use crate::port::PortSet;

/// Why a value is not of the expected form: "expected …, got …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got '{got}'")]
pub struct BadValue {
    /// What a good value looks like.
    pub expected: &'static str,
    /// The value, or the part of it that is bad.
    pub got: String,
}

fn bad(expected: &'static str, got: &str) -> BadValue {
    BadValue { expected, got: got.to_owned() }
}

/// Reads any text.
///
/// # Errors
/// None; the signature is that of the other parsers.
pub fn text(value: &str) -> Result<String, BadValue> {
    Ok(value.to_owned())
}

/// Reads exactly `true` or `false`.
///
/// # Errors
/// For any other text.
pub fn boolean(value: &str) -> Result<bool, BadValue> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad("true or false", value)),
    }
}

/// Reads a whole number that is not negative.
///
/// # Errors
/// For anything else, and for numbers that do not fit.
pub fn count(value: &str) -> Result<usize, BadValue> {
    value.trim().parse().map_err(|_| bad("a whole number", value))
}

/// Reads a number from 0 on, such as `0.1`.
///
/// # Errors
/// For anything else, infinity and NaN included.
pub fn ratio(value: &str) -> Result<f64, BadValue> {
    let number = value.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| bad("a number such as 0.1", value))
}

const DURATION: &str = "a whole number with a unit of ms, s, m, h or d, such as 10s";

/// Reads a duration: a whole number followed by `ms`, `s`, `m`, `h` or `d`; a bare `0` too.
///
/// # Errors
/// For fractions, signs, a missing or unknown unit, and more than fits.
pub fn duration(value: &str) -> Result<Duration, BadValue> {
    let error = || bad(DURATION, value);
    let trimmed = value.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (digits, unit) = trimmed.split_at(unit_at);
    let number: u64 = digits.parse().map_err(|_| error())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(error)
}

/// Writes a duration so that [`duration`] reads it back: whole seconds as `30s`, else `1500ms`.
/// Less than a millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// Reads `IP:PORT`, IPv6 in brackets; no host names.
///
/// # Errors
/// For anything else.
pub fn socket_address(value: &str) -> Result<SocketAddr, BadValue> {
    value.trim().parse().map_err(|_| bad("IP:PORT, IPv6 as [IP]:PORT", value))
}

/// Reads one or two [`socket_address`]es separated by a comma.
///
/// # Errors
/// For none, for more than two, and for any that is bad.
pub fn socket_addresses(value: &str) -> Result<Vec<SocketAddr>, BadValue> {
    let addresses = value.split(',').map(socket_address).collect::<Result<Vec<_>, _>>()?;
    match addresses.len() {
        1 | 2 => Ok(addresses),
        _ => Err(bad("one or two addresses", value)),
    }
}

/// Where to connect: an address, or a name to be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A DNS name and port.
    Name {
        /// The name as written; a final dot means it is complete.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Address {
    /// Whether the address is on this host by its spelling: a loopback IP, or `localhost.`
    /// with the final dot. A bare `localhost` could be completed by a search list.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Socket(address) => address.ip().to_canonical().is_loopback(),
            Self::Name { host, .. } => host.eq_ignore_ascii_case("localhost."),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Socket(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Reads `IP:PORT` or `name:PORT`.
///
/// # Errors
/// For anything else.
pub fn address(value: &str) -> Result<Address, BadValue> {
    let error = || bad("IP:PORT or name:PORT", value);
    let trimmed = value.trim();
    if let Ok(address) = trimmed.parse() {
        return Ok(Address::Socket(address));
    }
    let (host, port) = trimmed.rsplit_once(':').ok_or_else(error)?;
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return Err(error());
    }
    let port = port.parse().map_err(|_| error())?;
    Ok(Address::Name { host: host.to_owned(), port })
}

/// Reads IP addresses separated by commas, without white space or empty entries.
///
/// # Errors
/// For the first entry that is not an address.
pub fn ips(value: &str) -> Result<Vec<IpAddr>, BadValue> {
    value
        .split(',')
        .map(|entry| entry.parse().map_err(|_| bad("IP addresses separated by commas", entry)))
        .collect()
}

/// Reads ports and inclusive ranges separated by commas; white space and empty entries are
/// allowed.
///
/// # Errors
/// Names all bad entries.
pub fn ports(value: &str) -> Result<PortSet, BadValue> {
    PortSet::parse(value).map_err(|entries| {
        let entries: Vec<_> = entries.into_iter().map(|entry| entry.0).collect();
        bad("ports (1 to 65535) and ranges such as 8000-8010", &entries.join(","))
    })
}

/// Reads networks in CIDR notation separated by commas; white space and empty entries are
/// allowed.
///
/// # Errors
/// Names all bad entries.
pub fn networks(value: &str) -> Result<Vec<IpNet>, BadValue> {
    let (mut networks, mut wrong) = (Vec::new(), Vec::new());
    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.parse() {
            Ok(network) => networks.push(network),
            Err(_) => wrong.push(entry),
        }
    }
    if wrong.is_empty() {
        Ok(networks)
    } else {
        Err(bad("networks such as 10.0.0.0/8 separated by commas", &wrong.join(",")))
    }
}

/// DNS suffixes a name may end in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suffixes {
    /// In lower case, without a final dot; the empty suffix matches every name.
    suffixes: Vec<String>,
}

impl Suffixes {
    /// Whether `name` ends in one of the suffixes, at a boundary of labels. Case and a final
    /// dot do not matter.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.suffixes.iter().any(|suffix| match name.strip_suffix(suffix.as_str()) {
            Some(rest) => suffix.is_empty() || rest.is_empty() || rest.ends_with('.'),
            None => false,
        })
    }

    /// Whether no name matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.suffixes.is_empty()
    }
}

/// Reads DNS suffixes separated by commas; `.` matches every name, an empty text none.
///
/// # Errors
/// For an entry that is not a DNS name.
pub fn suffixes(value: &str) -> Result<Suffixes, BadValue> {
    let mut suffixes = Vec::new();
    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let name = entry.strip_suffix('.').unwrap_or(entry);
        let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !fine || name.split('.').any(|label| label.is_empty() && !name.is_empty()) {
            return Err(bad("DNS suffixes separated by commas", entry));
        }
        suffixes.push(name.to_ascii_lowercase());
    }
    Ok(Suffixes { suffixes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        };
        check("0", Some(0));
        check("10ms", Some(10));
        check(" 3s ", Some(3_000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("365d", Some(365 * 86_400_000));
        for refused in ["", "1", "1.5s", "-1s", "1 s", "s", "1w", "1m30s", "99999999999999999999s"]
        {
            check(refused, None);
        }
        check("18446744073709551615d", None);
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for millis in [0, 1, 999, 1_000, 1_500, 60_000, 365 * 86_400_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&format_duration(value)), Ok(value));
        }
    }

    #[test]
    fn loopback_is_decided_by_spelling() {
        let check = |text: &str, loopback: bool| {
            assert_eq!(address(text).expect("valid").is_loopback(), loopback, "{text}");
        };
        check("127.0.0.1:8086", true);
        check("[::1]:8086", true);
        check("LOCALHOST.:8086", true);
        check("localhost:8086", false);
        check("linkerd-dst-headless.linkerd.svc.cluster.local.:8086", false);
        for refused in ["", ":80", "host", "host:", "host:x", "a..b:1", "::1:80", "a b:1"] {
            assert!(address(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn lists_are_as_strict_as_upstream() {
        assert!(ips("10.0.0.1,fd00::1").is_ok());
        assert!(ips("10.0.0.1, fd00::1").is_err());
        assert!(ips("10.0.0.0/8").is_err());
        assert_eq!(networks("10.0.0.0/8, fd00::/8,").expect("valid").len(), 2);
        assert_eq!(networks("10.0.0.0/33,x,fd00::/8").expect_err("two bad").got, "10.0.0.0/33,x");
        assert_eq!(ports("80, 1-3,,").expect("valid").to_string(), "1-3,80");
        assert_eq!(ports("80,3-1,0").expect_err("two bad").got, "3-1,0");
        assert_eq!(socket_addresses("127.0.0.1:4140,[::1]:4140").expect("valid").len(), 2);
        assert!(socket_addresses("").is_err());
        assert!(socket_addresses("1.1.1.1:1,1.1.1.1:2,1.1.1.1:3").is_err());
    }

    #[test]
    fn suffixes_match_whole_labels() {
        let some = suffixes("svc.Cluster.local., example.com").expect("valid");
        assert!(some.contains("web.ns.svc.cluster.local"));
        assert!(some.contains("WEB.example.com."));
        assert!(!some.contains("webexample.com"));
        assert!(suffixes(".").expect("valid").contains("anything"));
        assert!(!suffixes("").expect("valid").contains("anything"));
        assert!(suffixes("a..b").is_err());
    }
}
