//! Who reaches whom: the truth table of capture, for each backend, generation and address family.

use std::io;
use std::net::SocketAddr;

use hauberk_capture::rules::Family;
use hauberk_capture::{Backend, CaptureConfig, Generation, PROXY_MARK, lists};

use crate::lab::{Addresses, BACKENDS, Caller, Lab, Reply, addresses};

/// Who answers; the proxy also sees where the connection was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    App,
    Remote,
    Inbound(SocketAddr),
    Outbound(SocketAddr),
    Refused,
}

/// One connection, and who answers it without rules, with today's and with those of 2.7.
struct Row {
    what: &'static str,
    caller: Caller,
    to: SocketAddr,
    none: Answer,
    today: Answer,
    old: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Column {
    None,
    Today,
    Old,
}

fn rows(addresses: Addresses) -> Vec<Row> {
    use Answer::{App, Inbound, Outbound, Refused, Remote};
    let Addresses { pod, remote, service, loopback, .. } = addresses;
    let at = SocketAddr::new;
    let app = at(pod, 8080);
    let marked = Caller { mark: PROXY_MARK, ..Caller::APP };
    let row = |what, caller, to, [none, today, old]: [Answer; 3]| Row {
        what,
        caller,
        to,
        none,
        today,
        old,
    };
    let same = |answer| [answer; 3];
    let captured = |none, proxy| [none, proxy, proxy];
    let outside = at(remote, 9000);
    vec![
        row("from outside to the app (D8)", Caller::NODE, app, captured(App, Inbound(app))),
        row("from outside to a skipped port (D13)", Caller::NODE, at(pod, 4190), same(App)),
        row("from outside to another skipped port (D13)", Caller::NODE, at(pod, 4191), same(App)),
        row(
            "from outside to the inbound port itself",
            Caller::NODE,
            at(pod, 4143),
            same(Inbound(at(pod, 4143))),
        ),
        row(
            "from outside to the outbound port",
            Caller::NODE,
            at(pod, 4140),
            captured(Refused, Inbound(at(pod, 4140))),
        ),
        row(
            "from outside to a closed port",
            Caller::NODE,
            at(pod, 7777),
            captured(Refused, Inbound(at(pod, 7777))),
        ),
        row(
            "the app to the outside (D9)",
            Caller::APP,
            outside,
            captured(Remote, Outbound(outside)),
        ),
        row("the app to a skipped port outside", Caller::APP, at(remote, 4567), same(Remote)),
        row("the proxy to the outside (D11)", Caller::PROXY, outside, same(Remote)),
        row(
            "whoever is marked to the outside",
            marked,
            outside,
            [Remote, Remote, Outbound(outside)],
        ),
        row("root to the outside", Caller::ROOT, outside, captured(Remote, Outbound(outside))),
        row("the app to localhost (D12)", Caller::APP, at(loopback, 8080), same(App)),
        row("the app to its own pod", Caller::APP, app, same(App)),
        row(
            "the app to its own service (D10, first half)",
            Caller::APP,
            at(service, 80),
            captured(App, Outbound(at(service, 80))),
        ),
        row(
            "the app to a skipped port of its own service",
            Caller::APP,
            at(service, 4567),
            same(App),
        ),
        // Today's proxy chooses its own pod without leaving itself; 2.7's went through the kernel.
        row("the proxy to its own pod (D10)", Caller::PROXY, app, [App, App, Inbound(app)]),
        row("the proxy to localhost (D12)", Caller::PROXY, at(loopback, 8080), same(App)),
        row(
            "the proxy to its own service, back through the node",
            Caller::PROXY,
            at(service, 80),
            captured(App, Inbound(app)),
        ),
    ]
}

fn seen(reply: io::Result<Reply>) -> Result<Answer, String> {
    match reply {
        Ok(reply) => match reply.who.as_str() {
            "app" => Ok(Answer::App),
            "remote" => Ok(Answer::Remote),
            "inbound" => Ok(Answer::Inbound(reply.original)),
            "outbound" => Ok(Answer::Outbound(reply.original)),
            other => Err(format!("{other}?")),
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Answer::Refused),
        Err(error) => Err(error.to_string()),
    }
}

/// Tries the whole table and shows every wrong row at once.
fn check(lab: &Lab, family: Family, column: Column) {
    let mut wrong = Vec::new();
    for row in rows(addresses(family)) {
        let expected = match column {
            Column::None => row.none,
            Column::Today => row.today,
            Column::Old => row.old,
        };
        let answer = seen(lab.call(row.caller, row.to));
        if answer != Ok(expected) {
            wrong.push(format!("{} ({}): {answer:?}, expected {expected:?}", row.what, row.to));
        }
    }
    assert!(wrong.is_empty(), "{family:?}, {column:?}:\n  {}", wrong.join("\n  "));
}

fn check_today(backend: Backend) {
    let Some(lab) = Lab::new() else { return };
    lab.capture(&CaptureConfig::sidecar(), backend);

    check(&lab, Family::V4, Column::Today);
    check(&lab, Family::V6, Column::Today);
}

fn config_of_2_7() -> CaptureConfig {
    CaptureConfig {
        generation: Generation::Linkerd27 { trace_id: 1_583_000_000 },
        ..CaptureConfig::sidecar()
    }
}

#[test]
fn without_rules_everybody_is_reached_directly() {
    let Some(lab) = Lab::new() else { return };

    check(&lab, Family::V4, Column::None);
    check(&lab, Family::V6, Column::None);
}

#[test]
fn truth_table_of_nft() {
    check_today(BACKENDS[0]);
}

#[test]
fn truth_table_of_iptables_nft() {
    check_today(BACKENDS[1]);
}

#[test]
fn truth_table_of_iptables_legacy() {
    check_today(BACKENDS[2]);
}

#[test]
fn truth_table_of_2_7_leaves_ipv6_alone() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        lab.capture(&config_of_2_7(), backend);

        check(&lab, Family::V4, Column::Old);
        check(&lab, Family::V6, Column::None);
    }
}

#[test]
fn removing_brings_back_the_direct_way() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        lab.capture(&CaptureConfig::sidecar(), backend);

        let removed = lab.in_pod(|pod| pod.remove().expect("rules can be removed"));

        assert_eq!(removed, [backend]);
        check(&lab, Family::V4, Column::None);
        check(&lab, Family::V6, Column::None);
    }
}

/// What the proxy sees beside the original destination.
#[test]
fn addresses_that_the_proxy_sees() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        lab.capture(&CaptureConfig::sidecar(), backend);
        for family in [Family::V4, Family::V6] {
            let addresses = addresses(family);
            let app = SocketAddr::new(addresses.pod, 8080);
            let outside = SocketAddr::new(addresses.remote, 9000);

            let outbound = lab.call(Caller::APP, outside).expect("captured");
            assert_eq!(outbound.local, SocketAddr::new(addresses.loopback, 4140));
            assert_eq!(outbound.peer.ip(), addresses.pod);

            let inbound = lab.call(Caller::NODE, app).expect("captured");
            assert_eq!(inbound.local, SocketAddr::new(addresses.pod, 4143));
            assert_eq!(inbound.peer.ip(), addresses.node);

            // Dialled directly: nothing was redirected, which is how a proxy knows a loop.
            let own_port = SocketAddr::new(addresses.pod, 4143);
            let direct = lab.call(Caller::NODE, own_port).expect("listening");
            assert_eq!((direct.original, direct.local), (own_port, own_port));
        }
    }
}

#[test]
fn listed_ports_are_captured_and_no_others() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let listed = lists::single_ports(&["8080,9999"]).expect("ports");
        let config = CaptureConfig {
            inbound: hauberk_capture::InboundPorts::Listed(listed),
            inbound_ports_to_ignore: Vec::new(),
            ..CaptureConfig::sidecar()
        };
        lab.capture(&config, backend);
        for family in [Family::V4, Family::V6] {
            let pod = addresses(family).pod;
            let call = |port| seen(lab.call(Caller::NODE, SocketAddr::new(pod, port)));
            let inbound = |port| Ok(Answer::Inbound(SocketAddr::new(pod, port)));

            assert_eq!(call(8080), inbound(8080));
            assert_eq!(call(9999), inbound(9999));
            assert_eq!(call(4567), Ok(Answer::App));
            assert_eq!(call(7777), Ok(Answer::Refused));
        }
    }
}
