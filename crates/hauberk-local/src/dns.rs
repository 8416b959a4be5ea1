//! The lab's name server: what it knows, and how it answers one question.
//!
//! It answers for the cluster domain as Kubernetes does (its DNS-based service discovery
//! specification, version 1.1): services by their addresses, headless services by their endpoints,
//! endpoints with a hostname by `hostname.service.namespace.svc.domain`, pods by
//! `10-42-0-5.namespace.pod.domain`, named ports by SRV. Any other name does not exist, and that is
//! said at once: a lab has no names outside.
//!
//! Pure: [`Zone`] is an immutable snapshot made from the lab's objects, and [`Zone::answer`] turns
//! the bytes of a question into the bytes of an answer. Sockets are [`crate::dns_server`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use serde_json::Value;

use crate::address::POD_NETWORK;
use crate::objects::Objects;

/// How long an answer may be kept, in seconds. Kubernetes' own server says 5 (CoreDNS, plugin
/// kubernetes: 5); a lab changes faster.
const TTL_SECONDS: u32 = 1;

/// Largest answer over UDP when the question names no size (RFC 1035 section 4.2.1).
const UDP_BYTES_MIN: usize = 512;

/// Largest answer over UDP that we send however much the question allows.
const UDP_BYTES_MAX: usize = 1232;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One packet: long answers are cut and marked as cut.
    Udp,
    /// A stream: answers have any length.
    Tcp,
}

/// A named port of a name, for SRV.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    name: String,
    port: u16,
}

/// Everything the name server knows. Names are in lower case, without the final dot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Zone {
    domain: String,
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    services: BTreeMap<String, BTreeSet<Target>>,
    aliases: BTreeMap<String, String>,
    /// Names that have no records but lie above names that do; they exist (RFC 8020).
    parents: BTreeSet<String>,
}

impl Zone {
    /// The zone of a lab's services and endpoints under that cluster domain.
    pub fn new(objects: &Objects, domain: &str) -> Self {
        let mut zone = Self { domain: domain.to_ascii_lowercase(), ..Self::default() };
        let mut headless = BTreeSet::new();
        for (key, service) in objects.of_kind("Service") {
            let name = format!("{}.{}.svc.{}", key.name, key.namespace, zone.domain);
            let spec = &service["spec"];
            if spec["type"] == "ExternalName" {
                let alias = spec["externalName"].as_str().unwrap_or_default();
                zone.aliases.insert(name, alias.trim_end_matches('.').to_ascii_lowercase());
            } else if spec["clusterIP"] == "None" {
                headless.insert((key.namespace.clone(), key.name.clone()));
                // The name exists although nothing may be ready yet.
                zone.addresses.entry(name).or_default();
            } else {
                zone.add_service(&name, spec);
            }
        }
        for (key, slice) in objects.of_kind("EndpointSlice") {
            let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            let Some(service) = service.as_str() else { continue };
            let is_headless = headless.contains(&(key.namespace.clone(), service.to_owned()));
            let name = format!("{service}.{}.svc.{}", key.namespace, zone.domain);
            zone.add_slice(&name, slice, is_headless);
        }
        zone.find_parents();
        zone
    }

    fn add_service(&mut self, name: &str, spec: &Value) {
        let addresses = match spec["clusterIPs"].as_array() {
            Some(addresses) => addresses.clone(),
            None => vec![spec["clusterIP"].clone()],
        };
        let addresses =
            addresses.iter().filter_map(|address| address.as_str()?.parse::<IpAddr>().ok());
        self.addresses.entry(name.to_owned()).or_default().extend(addresses);
        for port in spec["ports"].as_array().into_iter().flatten() {
            let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
            if let (Some(port_name), Some(number)) = (port["name"].as_str(), number) {
                self.add_port(name, port_name, protocol(port), name, number);
            }
        }
    }

    fn add_slice(&mut self, name: &str, slice: &Value, is_headless: bool) {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let is_ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            if !is_ready {
                continue;
            }
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            let addresses: Vec<IpAddr> =
                addresses.filter_map(|address| address.as_str()?.parse().ok()).collect();
            let own = match (endpoint["hostname"].as_str(), addresses.first()) {
                (Some(hostname), _) => format!("{}.{name}", hostname.to_ascii_lowercase()),
                (None, Some(address)) if is_headless => format!("{}.{name}", dashed(*address)),
                (None, _) => continue,
            };
            self.addresses.entry(own.clone()).or_default().extend(&addresses);
            if !is_headless {
                continue;
            }
            self.addresses.entry(name.to_owned()).or_default().extend(&addresses);
            for port in slice["ports"].as_array().into_iter().flatten() {
                let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
                let port_name = port["name"].as_str().filter(|name| !name.is_empty());
                if let (Some(port_name), Some(number)) = (port_name, number) {
                    self.add_port(name, port_name, protocol(port), &own, number);
                }
            }
        }
    }

    fn add_port(&mut self, service: &str, port: &str, protocol: &str, target: &str, number: u16) {
        let name = format!("_{}._{protocol}.{service}", port.to_ascii_lowercase());
        let target = Target { name: target.to_owned(), port: number };
        self.services.entry(name).or_default().insert(target);
    }

    fn find_parents(&mut self) {
        let names = self.addresses.keys().chain(self.services.keys()).chain(self.aliases.keys());
        let mut parents = BTreeSet::from([self.domain.clone(), format!("pod.{}", self.domain)]);
        for name in names {
            let mut rest = name.as_str();
            while let Some((_, above)) = rest.split_once('.') {
                if above.len() < self.domain.len() || !parents.insert(above.to_owned()) {
                    break;
                }
                rest = above;
            }
        }
        self.parents = parents;
    }

    /// The answer to a question, or nothing for bytes that are no question.
    pub fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = match asked.queries.as_slice() {
            [_] if asked.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [query] => {
                answer.add_query(query.clone());
                self.fill(&mut answer, query)
            }
            _ => ResponseCode::FormErr,
        };
        let bytes = answer.to_vec().ok()?;
        let allowed = usize::from(asked.max_payload()).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX);
        if transport == Transport::Udp && bytes.len() > allowed {
            return answer.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    fn fill(&self, answer: &mut Message, query: &Query) -> ResponseCode {
        if query.query_class() != DNSClass::IN {
            return ResponseCode::Refused;
        }
        let asked = query.name().to_ascii().to_ascii_lowercase();
        let mut name = asked.trim_end_matches('.').to_owned();
        let mut owner = query.name().clone();
        answer.metadata.authoritative = true;
        // An alias may lead into the zone again, once.
        if let Some(alias) = self.aliases.get(&name) {
            let Ok(target) = Name::from_ascii(format!("{alias}.")) else {
                return ResponseCode::ServFail;
            };
            let cname = RData::CNAME(hickory_proto::rr::rdata::CNAME(target.clone()));
            answer.add_answer(Record::from_rdata(owner, TTL_SECONDS, cname));
            (name, owner) = (alias.clone(), target);
            if !self.exists(&name) {
                return ResponseCode::NoError;
            }
        }
        for data in self.records(&name, query.query_type()) {
            answer.add_answer(Record::from_rdata(owner.clone(), TTL_SECONDS, data));
        }
        if self.exists(&name) { ResponseCode::NoError } else { ResponseCode::NXDomain }
    }

    fn records(&self, name: &str, kind: RecordType) -> Vec<RData> {
        let of_family = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(*v4))),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
            _ => None,
        };
        if kind == RecordType::SRV {
            let targets = self.services.get(name).into_iter().flatten();
            let record = |target: &Target| {
                let name = Name::from_ascii(format!("{}.", target.name)).ok()?;
                Some(RData::SRV(SRV::new(0, 100, target.port, name)))
            };
            return targets.filter_map(record).collect();
        }
        if let Some(address) = self.pod_address(name) {
            return of_family(&address).into_iter().collect();
        }
        self.addresses.get(name).into_iter().flatten().filter_map(of_family).collect()
    }

    fn exists(&self, name: &str) -> bool {
        self.addresses.contains_key(name)
            || self.services.contains_key(name)
            || self.aliases.contains_key(name)
            || self.parents.contains(name)
            || self.pod_address(name).is_some()
    }

    /// The address in `10-42-0-5.namespace.pod.domain`. It is not looked up: the name says it
    /// (CoreDNS, plugin kubernetes, `pods insecure`); but it must be a pod's.
    fn pod_address(&self, name: &str) -> Option<IpAddr> {
        let rest = name.strip_suffix(&self.domain)?.strip_suffix(".pod.")?;
        let (address, namespace) = rest.split_once('.')?;
        let v4 = address.replace('-', ".").parse().ok().map(IpAddr::V4);
        let v6 = || address.replace('-', ":").parse().ok().map(IpAddr::V6);
        let address = v4.or_else(v6)?;
        let is_pod = POD_NETWORK.number(address).is_some() && !namespace.contains('.');
        is_pod.then_some(address)
    }
}

/// An address as a label of a name.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The protocol of a port as it stands in SRV names.
fn protocol(port: &Value) -> &'static str {
    match port["protocol"].as_str() {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
}

/// Where pods ask: port 53 of the lab's gateway, in both families.
pub fn server_addresses() -> [SocketAddr; 2] {
    crate::address::GATEWAY.both().map(|address| SocketAddr::new(address, 53))
}

#[cfg(test)]
mod tests;
