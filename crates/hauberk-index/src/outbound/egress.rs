//! Which egress network an address outside of the cluster belongs to.

use crate::{config::ClusterConfig, derive::Derivation};
use hauberk_model::Network;
use hauberk_resources::policy::EgressNetwork;
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// The egress network for an address: of those in the client's namespace, or, only if there is
/// none at all, those in the global one; the narrowest, then the oldest, then the first by name.
pub(super) fn find<'a>(
    derivation: &mut Derivation<'a>,
    client_namespace: &Arc<str>,
    ip: IpAddr,
) -> Option<&'a EgressNetwork> {
    let config = derivation.config;
    let mut candidates = derivation.egress_networks(client_namespace);
    if candidates.is_empty() {
        candidates = derivation.egress_networks(&config.global_egress_namespace);
    }
    let fitting = candidates.into_iter().filter_map(|egress| {
        let networks = match egress.networks() {
            Some(networks) => networks.to_vec(),
            None => everything_outside(config),
        };
        let sizes = networks.iter().filter(|network| network.contains(ip)).map(size);
        Some((sizes.min()?, egress))
    });
    let first = fitting.min_by(|(size_a, a), (size_b, b)| {
        size_a.cmp(size_b).then_with(|| a.metadata.age_order().cmp(&b.metadata.age_order()))
    });
    first.map(|(_, egress)| egress)
}

/// Whether no network of it reaches into the cluster; routes hang only on such ones.
pub(crate) fn is_acceptable(config: &ClusterConfig, egress: &EgressNetwork) -> bool {
    let networks = egress.networks().unwrap_or_default();
    networks.iter().all(|network| {
        config.cluster_networks.iter().all(|inside| {
            let common = match (network.net.contains(inside), inside.contains(&network.net)) {
                (true, _) => inside,
                (false, true) => &network.net,
                (false, false) => return true,
            };
            network.except.iter().any(|except| except.contains(common))
        })
    })
}

/// What an egress network without networks means.
fn everything_outside(config: &ClusterConfig) -> Vec<Network> {
    let mut all = Network::all();
    for network in &mut all {
        let of_family = config.cluster_networks.iter().filter(|net| same_family(net, &network.net));
        network.except = of_family.copied().collect();
    }
    all
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    a.max_prefix_len() == b.max_prefix_len()
}

/// Number of addresses in a network, without its exceptions, by arithmetic on prefixes.
fn size(network: &Network) -> u128 {
    let count = |net: &IpNet| {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    };
    let except: u128 = network.except.iter().map(count).fold(0, u128::saturating_add);
    count(&network.net).saturating_sub(except)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_whole_address_space_do_not_overflow() {
        let network = |net: &str, except: &[&str]| Network {
            net: net.parse().expect("a network"),
            except: except.iter().map(|net| net.parse().expect("a network")).collect(),
        };
        assert_eq!(size(&network("0.0.0.0/0", &[])), 1 << 32);
        assert_eq!(size(&network("10.0.0.0/24", &["10.0.0.0/25"])), 128);
        assert_eq!(size(&network("10.0.0.0/24", &["10.0.0.0/8"])), 0);
        assert_eq!(size(&network("::/0", &[])), u128::MAX);
        assert!(size(&network("::/1", &[])) < size(&network("::/0", &[])));
    }
}
