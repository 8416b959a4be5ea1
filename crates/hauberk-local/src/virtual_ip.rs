//! The lab's service addresses for those who have no sidecar: one nft table in the router.
//!
//! A meshed pod's connections are turned to its sidecar before they leave the pod, so they never
//! get here. Unmeshed pods, and everything that is not TCP, meet this table: the job kube-proxy
//! does on a node. A service address is translated to one of its ready endpoints, at random; a
//! service without endpoints is refused at once.
//!
//! Pure: [`table`] turns the lab's objects into the text of one transaction, which replaces the
//! former table as a whole. Established connections keep the endpoint they have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::objects::Objects;

/// Name of the table.
pub const TABLE: &str = "hauberk_services";

/// Marks packets of a pod that was given itself as the endpoint: without another sender's address
/// the answer would never pass the router.
const HAIRPIN_MARK: u32 = 0x4000;

/// One port of a service address, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frontend {
    address: IpAddr,
    port: u16,
    protocol: &'static str,
}

/// The text of the transaction for `nft -f -`.
pub fn table(objects: &Objects) -> String {
    let frontends = frontends(objects);
    let mut text =
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (number, endpoints) in frontends.values().enumerate() {
        for (at, endpoint) in endpoints.iter().enumerate() {
            let family = family(endpoint.ip());
            let (ip, mark) = (endpoint.ip(), HAIRPIN_MARK);
            let _ = writeln!(
                text,
                "  chain endpoint-{number}-{at} {{\n    {family} saddr {ip} meta mark set {mark:#x}\n    \
                 meta l4proto {{ tcp, udp }} dnat {family} to {endpoint}\n  }}"
            );
        }
        let choices: Vec<_> =
            (0..endpoints.len()).map(|at| format!("{at} : goto endpoint-{number}-{at}")).collect();
        if !choices.is_empty() {
            let _ = writeln!(
                text,
                "  chain service-{number} {{\n    numgen random mod {} vmap {{ {} }}\n  }}",
                endpoints.len(),
                choices.join(", ")
            );
        }
    }
    for (chain, hook) in [
        ("prerouting", "type nat hook prerouting priority dstnat; policy accept;"),
        ("output", "type nat hook output priority -100; policy accept;"),
    ] {
        let _ = writeln!(text, "  chain {chain} {{\n    {hook}\n    jump services\n  }}");
    }
    let _ = writeln!(
        text,
        "  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
         meta mark {HAIRPIN_MARK:#x} masquerade\n  }}"
    );
    text + &services_chain(&frontends) + &refused_chain(&frontends) + "}\n"
}

/// Sends each address and port to the chain of its service, by two look-ups in hashed maps.
fn services_chain(frontends: &BTreeMap<Frontend, Vec<SocketAddr>>) -> String {
    let mut text = String::from("  chain services {\n");
    for family in ["ip", "ip6"] {
        let of_family = frontends.iter().enumerate().filter(|(_, (frontend, endpoints))| {
            self::family(frontend.address) == family && !endpoints.is_empty()
        });
        let choices: Vec<_> = of_family
            .map(|(number, (frontend, _))| {
                let Frontend { address, port, protocol } = frontend;
                format!("{address} . {protocol} . {port} : goto service-{number}")
            })
            .collect();
        if !choices.is_empty() {
            let choices = choices.join(", ");
            let _ =
                writeln!(text, "    {family} daddr . meta l4proto . th dport vmap {{ {choices} }}");
        }
    }
    text + "  }\n"
}

/// Refuses service addresses that nobody serves: at once, not after a time-out.
fn refused_chain(frontends: &BTreeMap<Frontend, Vec<SocketAddr>>) -> String {
    let hook = "type filter hook prerouting priority raw; policy accept;";
    let mut text = format!("  chain unserved {{\n    {hook}\n");
    for (frontend, endpoints) in frontends {
        if endpoints.is_empty() {
            let Frontend { address, port, protocol } = frontend;
            let with = if *protocol == "tcp" { " with tcp reset" } else { "" };
            let family = family(*address);
            let _ =
                writeln!(text, "    {family} daddr {address} {protocol} dport {port} reject{with}");
        }
    }
    text + "  }\n"
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Ready endpoints by namespace, service and name of the port.
type Ready = BTreeMap<(String, String, String), Vec<SocketAddr>>;

/// All ports of all service addresses, with their ready endpoints of the same family.
fn frontends(objects: &Objects) -> BTreeMap<Frontend, Vec<SocketAddr>> {
    let ready = ready(objects);
    let mut frontends = BTreeMap::new();
    for (key, service) in objects.of_kind("Service") {
        let spec = &service["spec"];
        let addresses = spec["clusterIPs"].as_array().cloned();
        let addresses = addresses.unwrap_or_else(|| vec![spec["clusterIP"].clone()]);
        let addresses = addresses.iter().filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
        for address in addresses {
            for port in spec["ports"].as_array().into_iter().flatten() {
                let Some(number) = port_number(port) else { continue };
                let name = port["name"].as_str().unwrap_or_default().to_owned();
                let protocol = if port["protocol"] == "UDP" { "udp" } else { "tcp" };
                let served = ready.get(&(key.namespace.clone(), key.name.clone(), name));
                let served = served.into_iter().flatten().copied();
                let of_family = served.filter(|e| e.is_ipv4() == address.is_ipv4()).collect();
                frontends.insert(Frontend { address, port: number, protocol }, of_family);
            }
        }
    }
    frontends
}

fn ready(objects: &Objects) -> Ready {
    let mut ready = Ready::new();
    for (key, slice) in objects.of_kind("EndpointSlice") {
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
        let Some(service) = service else { continue };
        for port in slice["ports"].as_array().into_iter().flatten() {
            let Some(number) = port_number(port) else { continue };
            let name = port["name"].as_str().unwrap_or_default().to_owned();
            let endpoints =
                ready.entry((key.namespace.clone(), service.to_owned(), name)).or_default();
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"].as_bool().unwrap_or(true) {
                    let addresses = endpoint["addresses"].as_array().into_iter().flatten();
                    let addresses = addresses.filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
                    endpoints.extend(addresses.map(|address| SocketAddr::new(address, number)));
                }
            }
            endpoints.sort_unstable();
            endpoints.dedup();
        }
    }
    ready
}

fn port_number(port: &Value) -> Option<u16> {
    port["port"].as_u64().and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Key;
    use serde_json::json;

    fn objects() -> Objects {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut objects = Objects::new(directory.path().to_owned());
        let mut put = |kind: &str, name: &str, value: Value| {
            objects.put(Key::core(kind, "ns", name), value).expect("write an object");
        };
        let ports =
            json!([{"name": "http", "port": 80}, {"name": "q", "port": 53, "protocol": "UDP"}]);
        let spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd96::7"], "ports": ports});
        put("Service", "web", json!({"spec": spec}));
        put("Service", "idle", json!({"spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}));
        put("Service", "headless", json!({"spec": {"clusterIP": "None", "ports": [{"port": 1}]}}));
        let slice = |addresses: &[&str]| {
            let endpoint =
                |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": *ip != "10.42.0.9"}});
            json!({
                "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"name": "http", "port": 8080}, {"name": "q", "port": 5353}],
                "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
            })
        };
        put("EndpointSlice", "web-4", slice(&["10.42.0.5", "10.42.0.6", "10.42.0.9"]));
        put("EndpointSlice", "web-6", slice(&["fd42::5"]));
        objects
    }

    #[test]
    fn translates_each_address_to_ready_endpoints_of_its_family() {
        let frontends = frontends(&objects());
        let got: Vec<_> = frontends
            .iter()
            .map(|(f, e)| format!("{} {} {} {e:?}", f.address, f.protocol, f.port))
            .collect();
        let expect = [
            "10.96.0.7 udp 53 [10.42.0.5:5353, 10.42.0.6:5353]",
            "10.96.0.7 tcp 80 [10.42.0.5:8080, 10.42.0.6:8080]",
            "10.96.0.8 tcp 1 []",
            "fd96::7 udp 53 [[fd42::5]:5353]",
            "fd96::7 tcp 80 [[fd42::5]:8080]",
        ];
        assert_eq!(got, expect);
    }

    #[test]
    fn the_kernel_takes_the_table_and_takes_it_again() {
        let run = |script: &str| {
            let output = std::process::Command::new("unshare")
                .args(["--user", "--map-root-user", "--net", "sh", "-c", script])
                .output();
            output.expect("run unshare")
        };
        if !run("nft list ruleset").status.success() {
            let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
            assert!(!required, "namespaces are required but nft cannot be used in one");
            println!("SKIPPED: nft cannot be used in a namespace here");
            return;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("table.nft");
        std::fs::write(&file, table(&objects())).expect("write the table");
        let file = file.display();
        let output = run(&format!("nft -f {file} && nft -f {file} && nft list ruleset"));
        let (listed, errors) = (output.stdout, output.stderr);
        let (listed, errors) = (String::from_utf8_lossy(&listed), String::from_utf8_lossy(&errors));
        assert!(output.status.success(), "{errors}\n{}", table(&objects()));
        for part in
            ["dnat ip to 10.42.0.6:8080", "dnat ip6 to [fd42::5]:5353", "reject with tcp reset"]
        {
            assert!(listed.contains(part), "{part} is not in\n{listed}");
        }
    }
}
