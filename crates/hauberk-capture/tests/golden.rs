//! What the renderers write, as files to be read: `tests/golden/<case>.<renderer>`.
//!
//! `HAUBERK_UPDATE_GOLDEN=1` rewrites them. They are what the tools print themselves; that the kernel
//! takes them and does what they say is shown in `behaviour.rs`.

use std::path::Path;

use hauberk_capture::apply::linkerd_2_7::{Step, script, shown};
use hauberk_capture::rules::{Family, Generation};
use hauberk_capture::{CaptureConfig, Families, InboundPorts, Variant, lists, plan, render};
use hauberk_model::port::{Port, PortRange};
use ipnet::IpNet;

/// The trace id of the 2.7 cases.
const TRACE_ID: i64 = 1_583_000_000;

fn ports(list: &str) -> Vec<PortRange> {
    lists::ports(&[list]).expect("a list of ports")
}

fn subnets(list: &str) -> Vec<IpNet> {
    lists::subnets(&[list]).expect("a list of networks")
}

fn port(number: u16) -> Port {
    Port::new(number).expect("not zero")
}

/// Compares `text` with the golden file, or writes it.
fn check(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("HAUBERK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden folder can be written");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{file} differs; HAUBERK_UPDATE_GOLDEN=1 rewrites it");
}

fn check_all(case: &str, config: &CaptureConfig) {
    let rules = plan(config);
    check(&format!("{case}.nft"), &render::nft(&rules));
    check(&format!("{case}.iptables"), &render::iptables::restore(&rules, Family::V4));
    check(&format!("{case}.ip6tables"), &render::iptables::restore(&rules, Family::V6));
    check(&format!("{case}.txt"), &render::words(&rules));
}

#[test]
fn an_injected_pod() {
    check_all("sidecar", &CaptureConfig::sidecar());
}

#[test]
fn only_the_ports_of_the_proxy() {
    check_all("ports-alone", &CaptureConfig::new(port(4143), port(4140)));
}

#[test]
fn listed_inbound_ports() {
    let inbound = InboundPorts::Listed(vec![port(80), port(8080)]);
    check_all("listed", &CaptureConfig { inbound, ..CaptureConfig::sidecar() });
}

#[test]
fn every_exemption_at_once() {
    let config = CaptureConfig {
        proxy_gid: Some(2103),
        inbound_ports_to_ignore: ports(
            "4191,4190,25-27,1,3,5,7,9,11,13,15,17,19,21,23,8000-8010,31",
        ),
        outbound_ports_to_ignore: ports("443,6443,1-2"),
        subnets_to_ignore: subnets("172.17.0.0/16,fd00:17::/32,10.0.0.1/32"),
        outbound_subnets_to_ignore: subnets("169.254.0.0/16,::/0"),
        ..CaptureConfig::sidecar()
    };
    check_all("everything", &config);
}

#[test]
fn ipv4_alone() {
    let families = Families::V4Only;
    let rules = plan(&CaptureConfig { families, ..CaptureConfig::sidecar() });
    check("ipv4.nft", &render::nft(&rules));
}

#[test]
fn linkerd_2_7() {
    let config = CaptureConfig {
        inbound_ports_to_ignore: ports("4190,4191"),
        outbound_ports_to_ignore: Vec::new(),
        generation: Generation::Linkerd27 { trace_id: TRACE_ID },
        ..CaptureConfig::sidecar()
    };
    let rules = plan(&config);
    check("linkerd-2.7.iptables", &render::iptables::restore(&rules, Family::V4));
    check("linkerd-2.7.nft", &render::nft(&rules));
    let log: String = script(&config, &[])
        .iter()
        .map(|step| match step {
            Step::Say(text) => format!("{text}\n"),
            Step::Try(command) => format!("> {}  (may fail)\n", shown(Variant::Plain, command)),
            Step::Run(command) => format!("> {}\n", shown(Variant::Plain, command)),
        })
        .collect();
    check("linkerd-2.7.log", &log);
}
