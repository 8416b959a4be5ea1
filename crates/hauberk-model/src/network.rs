//! Networks with exceptions, as policies name them.

use ipnet::IpNet;
use std::net::IpAddr;

/// Addresses of `net` that are in none of `except`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// The addresses meant.
    pub net: IpNet,
    /// Addresses of `net` that are not meant after all.
    pub except: Vec<IpNet>,
}

impl Network {
    /// A network without exceptions.
    pub fn new(net: IpNet) -> Self {
        Self { net, except: Vec::new() }
    }

    /// Every address of both families.
    pub fn all() -> Vec<Self> {
        let v4 = IpNet::new_assert(IpAddr::from([0u8; 4]), 0);
        let v6 = IpNet::new_assert(IpAddr::from([0u8; 16]), 0);
        vec![Self::new(v4), Self::new(v6)]
    }

    /// Whether `address` is meant. A v4-mapped IPv6 address counts as the IPv4 address it carries.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.net.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

impl From<IpNet> for Network {
    fn from(net: IpNet) -> Self {
        Self::new(net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_take_addresses_out() {
        let net = Network {
            net: "10.0.0.0/8".parse().expect("net"),
            except: vec!["10.1.0.0/16".parse().expect("net")],
        };
        assert!(net.contains([10, 2, 0, 1].into()));
        assert!(!net.contains([10, 1, 0, 1].into()));
        assert!(net.contains("::ffff:10.2.0.1".parse().expect("ip")));
    }

    #[test]
    fn all_holds_both_families() {
        let all = Network::all();
        let any = |ip: &str| all.iter().any(|net| net.contains(ip.parse().expect("ip")));
        assert!(any("192.0.2.1") && any("2001:db8::1"));
    }
}
