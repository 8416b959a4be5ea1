//! Long port lists, networks of both families, groups, and clients whose ports collide.

use std::net::SocketAddr;

use hauberk_capture::rules::Family;
use hauberk_capture::{CaptureConfig, lists};

use crate::lab::{BACKENDS, Caller, From, Lab, addresses, call_here};

fn who(lab: &Lab, caller: Caller, to: SocketAddr) -> String {
    match lab.call(caller, to) {
        Ok(reply) => reply.who,
        Err(error) => error.kind().to_string(),
    }
}

#[test]
fn more_than_fifteen_ports_and_ranges() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let many: Vec<String> = (0..30).map(|n| (20_000 + 2 * n).to_string()).collect();
        let list = format!("4000-4150,{},8080,4560-4570", many.join(","));
        let ports = lists::ports(&[list]).expect("ports");
        let config = CaptureConfig {
            inbound_ports_to_ignore: ports.clone(),
            outbound_ports_to_ignore: ports,
            ..CaptureConfig::sidecar()
        };
        lab.capture(&config, backend);
        for family in [Family::V4, Family::V6] {
            let addresses = addresses(family);
            let inbound = |port| who(&lab, Caller::NODE, SocketAddr::new(addresses.pod, port));
            let outbound = |port| who(&lab, Caller::APP, SocketAddr::new(addresses.remote, port));

            assert_eq!(inbound(8080), "app", "{backend}: behind the first fifteen");
            assert_eq!(inbound(4567), "app", "{backend}: within a range");
            assert_eq!(inbound(4190), "inbound", "{backend}: no longer skipped");
            assert_eq!(inbound(20_001), "inbound", "{backend}: between two skipped ports");
            assert_eq!(outbound(4568), "remote", "{backend}: within a range");
            assert_eq!(outbound(9000), "outbound", "{backend}: not skipped");
        }
    }
}

/// Linkerd gives an IPv4 network to `ip6tables`, which ends the init container.
#[test]
fn ipv4_networks_with_ipv6_on() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let config = CaptureConfig {
            subnets_to_ignore: lists::subnets(&["10.77.0.0/16"]).expect("networks"),
            outbound_subnets_to_ignore: lists::subnets(&["fd88::/16"]).expect("networks"),
            ..CaptureConfig::sidecar()
        };

        lab.capture(&config, backend);

        let (v4, v6) = (addresses(Family::V4), addresses(Family::V6));
        let inbound = |pod| who(&lab, Caller::NODE, SocketAddr::new(pod, 8080));
        let outbound = |remote| who(&lab, Caller::APP, SocketAddr::new(remote, 9000));
        assert_eq!((inbound(v4.pod), inbound(v6.pod)), ("app".into(), "inbound".into()));
        assert_eq!(
            (outbound(v4.remote), outbound(v6.remote)),
            ("outbound".into(), "remote".into())
        );
    }
}

/// Adjacent and overlapping networks, and the one of all addresses, must load and read back.
#[test]
fn networks_that_touch_or_overlap() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let list =
            "10.1.1.0/24,10.1.2.0/24,10.1.2.7/32,10.88.0.0/16,fd88::/32,fd88:1::/32,0.0.0.0/0";
        let networks = lists::subnets(&[list]).expect("networks");
        let config = CaptureConfig {
            subnets_to_ignore: networks[..4].to_vec(),
            outbound_subnets_to_ignore: networks,
            ..CaptureConfig::sidecar()
        };

        lab.capture(&config, backend);

        let remote = SocketAddr::new(addresses(Family::V4).remote, 9000);
        assert_eq!(who(&lab, Caller::APP, remote), "remote", "{backend}");
    }
}

#[test]
fn the_group_of_the_proxy_is_exempt() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let config =
            CaptureConfig { proxy_uid: None, proxy_gid: Some(2103), ..CaptureConfig::sidecar() };
        lab.capture(&config, backend);

        let outside = SocketAddr::new(addresses(Family::V4).remote, 9000);
        assert_eq!(who(&lab, Caller { gid: 2103, ..Caller::APP }, outside), "remote");
        assert_eq!(who(&lab, Caller::PROXY, outside), "outbound");
    }
}

/// Two connections of one client port to two ports become the same four numbers after the redirect.
/// The kernel gives one of them another client port; each keeps its original destination.
#[test]
fn one_client_port_to_two_captured_ports() {
    use hauberk_linux::namespace::inside;
    use socket2::{Domain, Socket, Type};
    use std::io::{BufRead as _, BufReader};

    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        lab.capture(&CaptureConfig::sidecar(), backend);
        let addresses = addresses(Family::V4);
        let node = SocketAddr::new(addresses.node, 45_000);

        let lines: Vec<String> = inside(&[&lab.node], || {
            let sockets: Vec<Socket> = [8080, 8081]
                .map(|port| {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                    socket.set_reuse_address(true).expect("an option");
                    socket.bind(&node.into()).expect("an address");
                    let to = SocketAddr::new(addresses.pod, port);
                    socket.connect(&to.into()).expect("a connection");
                    socket
                })
                .into();
            let read = |socket| {
                let mut line = String::new();
                let mut reader = BufReader::new(std::net::TcpStream::from(socket));
                reader.read_line(&mut line).expect("an answer");
                line
            };
            sockets.into_iter().map(read).collect()
        })
        .expect("the node's namespace");

        assert!(lines[0].starts_with("inbound 10.77.1.2:8080 "), "{backend}: {}", lines[0]);
        assert!(lines[1].starts_with("inbound 10.77.1.2:8081 "), "{backend}: {}", lines[1]);
    }
}

/// The lab's own check that a caller is who it says: the same thread may not be two.
#[test]
fn connections_of_one_user_do_not_exempt_another() {
    let Some(lab) = Lab::new() else { return };
    lab.capture(&CaptureConfig::sidecar(), BACKENDS[0]);
    let outside = SocketAddr::new(addresses(Family::V4).remote, 9000);

    let both = hauberk_linux::namespace::inside(&[lab.namespace(From::Pod)], || {
        let proxy = call_here(Caller::PROXY, outside).map(|(reply, _)| reply.who);
        let app = std::thread::spawn(move || call_here(Caller::APP, outside));
        (proxy, app.join().expect("no panic").map(|(reply, _)| reply.who))
    })
    .expect("the pod's namespace");

    assert_eq!(
        (both.0.expect("an answer"), both.1.expect("an answer")),
        ("remote".into(), "outbound".into())
    );
}
