//! Services: their addresses, and the slices of their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Lab;
use crate::address::SERVICE_NETWORK;
use crate::endpoints::{Candidate, Family, slices};
use crate::objects::Key;
use crate::spec::{self, Service};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

impl Lab {
    /// Fills in what the API server would: the families, and an address in each of them.
    pub(super) fn complete_service(
        &mut self,
        key: &Key,
        service: &mut Value,
    ) -> Result<(), String> {
        let read: Service = spec::read(service).map_err(|error| error.to_string())?;
        if read.spec.is_external_name() {
            return Ok(());
        }
        let families = Family::of(&read.spec);
        let spec = &mut service["spec"];
        spec["ipFamilies"] = families.iter().map(|family| family.as_str()).collect();
        spec["ipFamilyPolicy"] =
            json!(if families.len() == 2 { "PreferDualStack" } else { "SingleStack" });
        if read.spec.is_headless() {
            spec["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        let old =
            self.objects.get(key).and_then(|old| old["spec"]["clusterIP"].as_str()?.parse().ok());
        let kept = old.and_then(|old| SERVICE_NETWORK.number(old)).map(|n| SERVICE_NETWORK.pair(n));
        let wanted = read.spec.cluster_ip.filter(|ip| !ip.is_empty());
        let pair = match (kept, wanted) {
            (Some(kept), wanted)
                if wanted
                    .iter()
                    .all(|ip| kept.both().iter().any(|kept| kept.to_string() == *ip)) =>
            {
                kept
            }
            (_, Some(wanted)) => {
                let address: IpAddr =
                    wanted.parse().map_err(|_| format!("{wanted} is no address"))?;
                self.service_addresses.take_this(address).ok_or_else(|| {
                    let (first, last) = (SERVICE_NETWORK.pair(0), SERVICE_NETWORK.pair(65535));
                    format!(
                        "the address {address} is taken or not one of {} to {} or {} to {}",
                        first.v4, last.v4, first.v6, last.v6
                    )
                })?
            }
            (_, None) => self.service_addresses.take().ok_or("no service address is left")?,
        };
        let addresses: Vec<IpAddr> = families.iter().map(|family| family.of_pair(pair)).collect();
        spec["clusterIP"] = json!(addresses[0]);
        spec["clusterIPs"] = json!(addresses);
        if spec["type"].is_null() {
            spec["type"] = json!("ClusterIP");
        }
        Ok(())
    }

    /// Gives a service's addresses back.
    pub(super) fn release_service(&mut self, service: &Value) {
        let address = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
        if let Some(number) = address.and_then(|address| SERVICE_NETWORK.number(address)) {
            self.service_addresses.give_back(SERVICE_NETWORK.pair(number));
        }
    }

    /// Brings the slices of all services up to date.
    pub(super) fn write_endpoints(&mut self) {
        let candidates: Vec<Candidate<'_>> = self
            .records
            .values()
            .filter(|record| !record.status.phase.is_final() && record.pod.is_some())
            .map(|record| Candidate {
                namespace: &record.namespace,
                name: &record.name,
                uid: &record.spec.metadata.uid,
                labels: &record.spec.metadata.labels,
                spec: &record.spec.spec,
                addresses: record.addresses,
                ready: record.status.is_ready(),
                stopping: record.status.stopping,
            })
            .collect();
        let mut wanted = BTreeMap::new();
        for (key, service) in self.objects.of_kind("Service") {
            let Ok(service) = spec::read::<Service>(service) else { continue };
            for (name, slice) in slices(&service, &candidates) {
                let group = "discovery.k8s.io";
                wanted.insert(Key::new(group, "EndpointSlice", &key.namespace, &name), slice);
            }
        }
        let own = |slice: &Value| slice["metadata"]["labels"][MANAGED_BY] == "hauberk-local";
        let outdated: Vec<Key> = self
            .objects
            .of_kind("EndpointSlice")
            .filter(|(key, slice)| own(slice) && !wanted.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in outdated {
            self.remove_object(&key);
        }
        for (key, slice) in wanted {
            self.put_object(key, slice);
        }
    }
}
