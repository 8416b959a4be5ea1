//! Which addresses a lab has, and who has which: pure bookkeeping.
//!
//! A lab is dual-stack throughout. Pods and services have one IPv4 and one IPv6 address with the
//! same number, so that a person who reads a capture can match them. All networks are inside those
//! that Linkerd's default `clusterNetworks` names, so that proxies take them for the cluster's.
//!
//! An address is given out again only after all others were, because proxies and caches remember
//! the previous owner for a while.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Annotation of a pod that is to have this very address; it waits until nobody else has it.
pub const IP_ANNOTATION: &str = "local.hauberk.io/ip";

/// An IPv4 and an IPv6 address of the same owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The lab's router: default gateway, name server, and where probes come from.
pub const GATEWAY: Pair = POD_NETWORK.pair(1);

/// Where the addresses of pods come from.
pub const POD_NETWORK: Network = Network {
    v4: Ipv4Addr::new(10, 42, 0, 0),
    v6: Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 0),
    size: 1 << 16,
};

/// Where the addresses of services come from.
pub const SERVICE_NETWORK: Network = Network {
    v4: Ipv4Addr::new(10, 96, 0, 0),
    v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0),
    size: 1 << 16,
};

/// Two address ranges of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    size: u32,
}

impl Network {
    /// The addresses with this number.
    pub const fn pair(self, number: u32) -> Pair {
        Pair {
            v4: Ipv4Addr::from_bits(self.v4.to_bits() + number),
            v6: Ipv6Addr::from_bits(self.v6.to_bits() + number as u128),
        }
    }

    /// The number of an address, if it is in the network.
    pub fn number(self, address: IpAddr) -> Option<u32> {
        let offset = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits().checked_sub(self.v4.to_bits())?),
            IpAddr::V6(v6) => v6.to_bits().checked_sub(self.v6.to_bits())?,
        };
        u32::try_from(offset).ok().filter(|number| *number < self.size)
    }
}

/// Gives out the numbers of a network.
#[derive(Clone, Debug)]
pub struct Addresses {
    network: Network,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    /// Nothing is taken but what nobody may have: the first 10 numbers and the last, among them
    /// the network's own address and the gateway.
    pub fn new(network: Network) -> Self {
        Self { network, taken: BTreeSet::new(), next: Self::FIRST }
    }

    const FIRST: u32 = 10;

    /// Gives out the number that was free for the longest time, or nothing when all are taken.
    pub fn take(&mut self) -> Option<Pair> {
        let last = self.network.size - 1;
        let (before, after) = (Self::FIRST..self.next, self.next..last);
        let number = after.chain(before).find(|number| !self.taken.contains(number))?;
        self.taken.insert(number);
        self.next = if number + 1 < last { number + 1 } else { Self::FIRST };
        Some(self.network.pair(number))
    }

    /// Takes the number of this very address, if it is free and in the network.
    pub fn take_this(&mut self, address: IpAddr) -> Option<Pair> {
        let number = self.network.number(address)?;
        self.taken.insert(number).then(|| self.network.pair(number))
    }

    /// Gives a number back.
    pub fn give_back(&mut self, pair: Pair) {
        if let Some(number) = self.network.number(pair.v4.into()) {
            self.taken.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_have_the_same_number() {
        let pair = POD_NETWORK.pair(300);
        assert_eq!(pair.v4.to_string(), "10.42.1.44");
        assert_eq!(pair.v6.to_string(), "fd42::12c");
        assert_eq!(pair.both().map(|one| POD_NETWORK.number(one)), [Some(300), Some(300)]);
        assert_eq!(POD_NETWORK.number("10.43.0.0".parse().unwrap()), None);
        assert_eq!(POD_NETWORK.number("10.41.255.255".parse().unwrap()), None);
    }

    #[test]
    fn an_address_comes_back_only_after_all_others() {
        let mut addresses = Addresses::new(Network { size: 14, ..POD_NETWORK });
        let [a, b, c] = [(); 3].map(|()| addresses.take().unwrap());
        assert_eq!(addresses.take(), None, "three numbers between 10 and 13");
        addresses.give_back(b);
        addresses.give_back(a);
        assert_eq!(addresses.take(), Some(a), "after the last comes the first");
        assert_eq!(addresses.take(), Some(b));
        addresses.give_back(c);
        assert_eq!(addresses.take_this(c.v6.into()), Some(c));
        assert_eq!(addresses.take_this(c.v4.into()), None, "taken");
    }

    #[test]
    fn a_fresh_network_skips_the_gateway() {
        let mut addresses = Addresses::new(POD_NETWORK);
        let pair = addresses.take().unwrap();
        assert_eq!(pair, POD_NETWORK.pair(10));
        assert_ne!(pair, GATEWAY);
    }
}
