//! Laws of the vocabulary: they hold for every value, not only for examples.

use hauberk_model::{
    Endpoint, Endpoints, Meta, Network, PortSet,
    authorize::{Decision, Peer, PeerTls, authorize},
    endpoints::difference,
    inbound::{Authentication, Authorization},
    port::{Port, PortRange},
    route::{
        HostMatch, Route, Rule, find,
        http::{HttpMatch, PathMatch},
    },
};
use proptest::prelude::*;
use std::{net::SocketAddr, sync::Arc};

fn port() -> impl Strategy<Value = Port> {
    (1..=u16::MAX).prop_map(|n| Port::new(n).expect("not zero"))
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let endpoint = (0u8..20, 0u32..3).prop_map(|(n, weight)| {
        let address = SocketAddr::from(([10, 0, 0, n], 80));
        Arc::new(Endpoint { weight, ..Endpoint::bare(address) })
    });
    prop::collection::vec(endpoint, 0..20).prop_map(|all| Endpoints {
        by_address: all.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect(),
        ..Endpoints::default()
    })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{1,2}", 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        path().prop_map(|p| PathMatch::Exact(p.into())),
        path().prop_map(|p| PathMatch::Prefix(p.into())),
    ];
    let method = prop::option::of(prop_oneof![Just(http::Method::GET), Just(http::Method::PUT)]);
    (prop::option::of(path), method).prop_map(|(path, method)| HttpMatch {
        path,
        method,
        ..HttpMatch::default()
    })
}

fn route() -> impl Strategy<Value = Route<HttpMatch, ()>> {
    let host = prop_oneof![Just("a.org"), Just("*.org"), Just("*.a.org")];
    let hosts = prop::collection::vec(host.prop_map(HostMatch::parse), 0..3);
    let rule = prop::collection::vec(http_match(), 0..3);
    let rules = prop::collection::vec(rule.prop_map(|matches| Rule { matches, action: () }), 0..4);
    (hosts, rules).prop_map(|(hosts, rules)| Route { hosts, rules })
}

fn authorization() -> impl Strategy<Value = Authorization> {
    let net = (0u8..4, 8u8..32).prop_map(|(n, len)| {
        let net = ipnet::Ipv4Net::new([10, n, 0, 0].into(), len).expect("valid length");
        Network::new(net.into())
    });
    let authentication = prop_oneof![
        Just(Authentication::Unauthenticated),
        Just(Authentication::TlsUnauthenticated),
        Just(Authentication::any_identity()),
    ];
    (prop::collection::vec(net, 0..3), authentication).prop_map(|(networks, authentication)| {
        Authorization { meta: Meta::default("law"), networks, authentication }
    })
}

proptest! {
    #[test]
    fn difference_applied_to_old_gives_new(old in endpoints(), new in endpoints()) {
        let mut folded = old.clone();
        difference(&old, &new).apply(&mut folded);
        prop_assert_eq!(folded, new);
    }

    #[test]
    fn difference_to_itself_is_nothing(set in endpoints()) {
        prop_assert!(difference(&set, &set.clone()).is_empty());
    }

    #[test]
    fn port_set_holds_exactly_its_ranges(
        ranges in prop::collection::vec((port(), port()), 0..10),
        probe in port(),
    ) {
        let ranges: Vec<_> =
            ranges.iter().map(|(a, b)| PortRange::new(*a.min(b), *a.max(b)).expect("ordered")).collect();
        let set: PortSet = ranges.iter().copied().collect();
        prop_assert_eq!(set.contains(probe), ranges.iter().any(|range| range.contains(probe)));
        prop_assert_eq!(PortSet::parse(&set.to_string()).expect("own text"), set);
    }

    #[test]
    fn a_found_rule_matches_and_no_other_rule_changes_that(
        routes in prop::collection::vec(route(), 0..5),
        path in path(),
        host in prop_oneof![Just("a.org"), Just("b.a.org"), Just("c.com")],
    ) {
        let request = http::Request::builder().uri(path).body(()).expect("valid").into_parts().0;
        let found = find(&routes, host, &request);
        if let Some(found) = found {
            // Alone, the winner is still found: it matches by itself.
            let alone = [routes[found.route].clone()];
            let again = find(&alone, host, &request).expect("it matched before");
            prop_assert_eq!((again.rule, again.matched), (found.rule, found.matched));
            // Without the winner's route something else may match, but never the reverse.
        } else {
            for route in &routes {
                prop_assert_eq!(find([route], host, &request), None);
            }
        }
    }

    #[test]
    fn another_authorization_never_takes_leave_away(
        some in prop::collection::vec(authorization(), 0..4),
        more in authorization(),
        address in (0u8..4, 0u8..4).prop_map(|(a, b)| [10, a, b, 1].into()),
        anonymous in any::<bool>(),
    ) {
        let tls = if anonymous { PeerTls::Anonymous } else { PeerTls::None };
        let peer = Peer { address, tls };
        let before = authorize(&some, &peer);
        let after = authorize(some.iter().chain([&more]), &peer);
        if let Decision::Allow(_) = before {
            prop_assert_eq!(before, after);
        }
    }
}
