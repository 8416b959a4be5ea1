//! Lists of ports and networks as people write them on the command line and in annotations.
//!
//! Every bad entry of a list is reported, not only the first, and none is skipped in silence: a skipped
//! entry would capture traffic that somebody asked to leave alone. Entries keep their order, because
//! rules and their comments show them in it.

use hauberk_model::port::{Port, PortRange};
use ipnet::IpNet;

/// Reads entries like `80`, `8000-8010`, each possibly a comma-separated list itself.
///
/// `0-N` means `1-N`: Linkerd's users write `0-65535` for "all ports", and port 0 never occurs in a
/// packet. A lone `0` is an error.
///
/// # Errors
/// The entries that are no ports, as written.
pub fn ports<S: AsRef<str>>(lists: &[S]) -> Result<Vec<PortRange>, Vec<String>> {
    entries(lists, |entry| entry.parse().ok().or_else(|| from_zero(entry)))
}

/// Reads entries like `80`, each possibly a comma-separated list itself; no ranges.
///
/// # Errors
/// The entries that are no ports, as written.
pub fn single_ports<S: AsRef<str>>(lists: &[S]) -> Result<Vec<Port>, Vec<String>> {
    entries(lists, |entry| entry.parse().ok())
}

/// Reads networks like `10.0.0.0/8` or `fd00::/8`, each entry possibly a comma-separated list itself.
///
/// Bits behind the prefix are cleared, as the kernel does.
///
/// # Errors
/// The entries that are no networks, as written.
pub fn subnets<S: AsRef<str>>(lists: &[S]) -> Result<Vec<IpNet>, Vec<String>> {
    entries(lists, |entry| entry.parse().ok().map(|net: IpNet| net.trunc()))
}

fn from_zero(entry: &str) -> Option<PortRange> {
    let last: Port = entry.strip_prefix("0-")?.parse().ok()?;
    PortRange::new(Port::new(1)?, last)
}

/// Entries in order without duplicates. Blanks around entries and empty entries are allowed.
fn entries<S: AsRef<str>, T: PartialEq>(
    lists: &[S],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Vec<String>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let all = lists.iter().flat_map(|list| list.as_ref().split(','));
    for entry in all.map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse(entry) {
            Some(value) if good.contains(&value) => {}
            Some(value) => good.push(value),
            None => bad.push(entry.to_owned()),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &str) -> Result<Vec<String>, Vec<String>> {
        ports(&[list]).map(|ranges| ranges.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn keeps_order_and_drops_duplicates() {
        assert_eq!(shown("4191, 4190,25-27,,4191").unwrap(), ["4191", "4190", "25-27"]);
    }

    #[test]
    fn a_range_of_one_port_is_that_port() {
        assert_eq!(shown("22-22").unwrap(), ["22"]);
    }

    #[test]
    fn all_ports_may_begin_at_zero() {
        assert_eq!(shown("0-65535").unwrap(), ["1-65535"]);
    }

    #[test]
    fn names_every_bad_entry() {
        assert_eq!(
            shown("0,80,http,9-5,70000,0-0").unwrap_err(),
            ["0", "http", "9-5", "70000", "0-0"]
        );
    }

    #[test]
    fn networks_of_both_families_lose_their_host_bits() {
        let nets = subnets(&[" 10.1.2.3/8 ", "fd00::1/8"]).unwrap();

        assert_eq!(nets, ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        assert_eq!(subnets(&["10.0.0.1,x/8"]).unwrap_err(), ["10.0.0.1", "x/8"]);
    }
}
