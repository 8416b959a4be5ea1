//! What command lines mean.

use super::*;

const NOW: i64 = 1_583_000_000;

fn parse(line: &str) -> Init {
    CommandLine::try_parse_from(line.split_whitespace()).expect("the line parses").init
}

fn config(line: &str) -> Result<CaptureConfig, String> {
    let init = parse(line);
    let mut problems = Problems::default();
    let config = init.rules.config(NOW, &mut problems);
    init.place.choice(&mut problems);
    init.log.settings(&mut problems);
    init.close_wait_seconds(&mut problems);
    problems.into_result().map(|()| config).map_err(|error| error.to_string())
}

fn choice(flags: &str) -> Choice {
    let mut problems = Problems::default();
    let choice = parse(&format!("proxy-init {flags}")).place.choice(&mut problems);
    problems.into_result().expect("no mistake");
    choice
}

fn ranges(list: &str) -> Vec<hauberk_model::port::PortRange> {
    lists::ports(&[list]).expect("ports")
}

#[test]
fn first_documented_command_line() {
    let line = "proxy-init --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 \
                --inbound-ports-to-ignore 4190,4191";

    let config = config(line).unwrap();

    let expected = CaptureConfig {
        inbound_ports_to_ignore: ranges("4190,4191"),
        outbound_ports_to_ignore: Vec::new(),
        ..CaptureConfig::sidecar()
    };
    assert_eq!(config, expected);
}

#[test]
fn later_documented_command_line() {
    let line = "linkerd2-proxy-init --incoming-proxy-port 4143 --outgoing-proxy-port 4140 \
                --proxy-uid 2102 --inbound-ports-to-ignore 4190,4191,4567,4568 \
                --outbound-ports-to-ignore 4567,4568";

    assert_eq!(config(line).unwrap(), CaptureConfig::sidecar());
}

#[test]
fn every_flag_of_linkerd_is_understood() {
    let line = "proxy-init -p 4143 -o=4140 -u2102 -g 2103 -r 80 -r 8080,9090 \
                --inbound-ports-to-ignore 25-27 --outbound-ports-to-ignore 443,6443 \
                --subnets-to-ignore 172.17.0.0/16,fd00::/8 --simulate=true --netns /proc/7/ns/net -w \
                --timeout-close-wait-secs 3600 --log-format json --log-level debug \
                --iptables-mode nft --firewall-bin-path iptables-legacy \
                --firewall-save-bin-path iptables-legacy-save --ipv6=false";

    let config = config(line).unwrap();

    assert_eq!(config.proxy_gid, Some(2103));
    let ports = [80, 8080, 9090].map(|port| Port::new(port).unwrap());
    assert_eq!(config.inbound, InboundPorts::Listed(ports.to_vec()));
    assert_eq!(config.subnets_to_ignore.len(), 2);
    assert_eq!(config.families, Families::V4Only);
    let init = parse(line);
    assert!(init.simulate);
    assert_eq!(init.place.netns, Some(OsString::from("/proc/7/ns/net")));
    let mut problems = Problems::default();
    assert_eq!(init.close_wait_seconds(&mut problems), Some(3600));
    assert_eq!(init.log.settings(&mut problems), (Format::Json, Level::Debug));
    assert_eq!(init.place.choice(&mut problems), Choice::Prefer(Variant::Nft));
}

#[test]
fn only_what_touches_the_kernel_enters_a_namespace() {
    let enters = |line: &str| {
        let line = CommandLine::try_parse_from(line.split_whitespace()).unwrap();
        line.namespace().is_some()
    };

    assert!(enters("proxy-init --netns /proc/7/ns/net"));
    assert!(enters("hauberk-init remove --netns /proc/7/ns/net"));
    assert!(!enters("proxy-init --netns /proc/7/ns/net --simulate"));
    assert!(!enters("proxy-init --netns="));
}

#[test]
fn ports_alone_exempt_only_the_mark() {
    let config = config("proxy-init -p 4143 -o 4140").unwrap();

    assert_eq!((config.proxy_uid, config.proxy_gid, config.proxy_mark), (None, None, Some(0x539)));
}

#[test]
fn backends_by_all_their_names() {
    assert_eq!(choice(""), Choice::Auto);
    assert_eq!(choice("--backend nft"), Choice::Only(Backend::Nft));
    assert_eq!(
        choice("--backend iptables-legacy --iptables-mode nft"),
        Choice::Only(Backend::Iptables(Variant::Legacy))
    );
    assert_eq!(choice("--iptables-mode legacy"), Choice::Prefer(Variant::Legacy));
    assert_eq!(choice("--iptables-mode plain"), Choice::Prefer(Variant::Plain));
    assert_eq!(choice("--firewall-bin-path iptables-nft"), Choice::Prefer(Variant::Nft));
}

#[test]
fn one_error_names_every_mistake() {
    let line = "proxy-init -p 0 --proxy-uid x --inbound-ports-to-ignore 80,http,9-5 \
                --subnets-to-ignore 10.0.0.1 --backend ebpf --compat 1.0 --log-level loud";

    let error = config(line).unwrap_err();

    let named = [
        "9 mistake(s)",
        "--incoming-proxy-port: '0'",
        "--outgoing-proxy-port: is required",
        "--proxy-uid: 'x'",
        "'http'",
        "'9-5'",
        "--subnets-to-ignore: '10.0.0.1'",
        "--backend: 'ebpf'",
        "--compat: '1.0'",
        "--log-level: 'loud'",
    ];
    let missing: Vec<_> = named.iter().filter(|part| !error.contains(**part)).collect();
    assert!(missing.is_empty(), "{missing:?} not in: {error}");
}

#[test]
fn the_generation_of_2_7_carries_the_time() {
    let config = config("proxy-init -p 4143 -o 4140 --compat 2.7").unwrap();

    assert_eq!(config.generation, Generation::Linkerd27 { trace_id: NOW });
}

#[test]
fn subcommands_take_the_same_flags() {
    let line = ["hauberk-init", "plan", "-p", "4143", "-o", "4140", "--show", "iptables"];
    let parsed = CommandLine::try_parse_from(line).unwrap();

    assert!(matches!(parsed.command, Some(Command::Plan(Plan { show: Some(Show::Iptables), .. }))));
}
