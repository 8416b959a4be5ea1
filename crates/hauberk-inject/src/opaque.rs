//! The `opaque-ports` annotation a pod or service gets when it says nothing itself.
//!
//! Destination reads the annotation from services and pods, so the ports a workload is known
//! to use for protocols whose server speaks first must be written down, not only put into the
//! proxy's environment.

use hauberk_model::{Port, PortSet};
use hauberk_resources::annotations::{OPAQUE_PORTS, proxy_config};
use serde_json::Value;

use crate::{
    config::{InjectConfig, NamespaceFacts},
    manifest::{annotation, containers},
    settings::OPAQUE_PORTS as BUILT_IN,
    value,
};

/// The default opaque ports of the installation.
fn defaults(config: &InjectConfig) -> PortSet {
    let installed = config.defaults.get(OPAQUE_PORTS).and_then(|text| value::ports(text).ok());
    installed.unwrap_or_else(|| value::ports(BUILT_IN).expect("the built-in ports are valid"))
}

fn namespace_value(facts: &NamespaceFacts) -> Option<String> {
    debug_assert!(proxy_config(OPAQUE_PORTS).is_some_and(|config| config.inherited));
    facts.annotations.get(OPAQUE_PORTS).filter(|value| !value.is_empty()).cloned()
}

/// The annotation for a pod without one: the namespace's value, else the default ports it
/// declares, in the order of their declaration.
pub(crate) fn for_pod(
    pod: &Value,
    facts: &NamespaceFacts,
    config: &InjectConfig,
) -> Option<String> {
    if annotation(pod, OPAQUE_PORTS).is_some() {
        return None;
    }
    let defaults = defaults(config);
    namespace_value(facts).or_else(|| {
        let declared = containers(pod)
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .filter_map(|port| port["containerPort"].as_u64());
        joined(declared.filter(|port| contains(&defaults, *port)))
    })
}

/// The annotation for a service without one: the namespace's value, else the ports whose
/// target is a default one. A named target never is.
pub(crate) fn for_service(
    service: &Value,
    facts: &NamespaceFacts,
    config: &InjectConfig,
) -> Option<String> {
    if annotation(service, OPAQUE_PORTS).is_some() {
        return None;
    }
    let defaults = defaults(config);
    namespace_value(facts).or_else(|| {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        joined(ports.filter_map(|port| {
            let number = port["port"].as_u64()?;
            let target = match &port["targetPort"] {
                Value::Null => number,
                target => target.as_u64()?,
            };
            contains(&defaults, target).then_some(number)
        }))
    })
}

fn contains(ports: &PortSet, port: u64) -> bool {
    u16::try_from(port).ok().and_then(Port::new).is_some_and(|port| ports.contains(port))
}

fn joined(ports: impl Iterator<Item = u64>) -> Option<String> {
    let mut listed: Vec<String> = Vec::new();
    for port in ports.map(|port| port.to_string()) {
        if !listed.contains(&port) {
            listed.push(port);
        }
    }
    (!listed.is_empty()).then(|| listed.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(ports: Value) -> Option<String> {
        let service = json!({"kind": "Service", "spec": {"ports": ports}});
        for_service(&service, &NamespaceFacts::default(), &InjectConfig::new("linkerd", "1"))
    }

    #[test]
    fn a_service_is_judged_by_its_targets() {
        assert_eq!(service(json!([{"port": 3306}])), Some("3306".to_owned()));
        assert_eq!(service(json!([{"port": 3306, "targetPort": 80}])), None);
        assert_eq!(service(json!([{"port": 80, "targetPort": 3306}])), Some("80".to_owned()));
        assert_eq!(service(json!([{"port": 3306, "targetPort": "db"}])), None);
        assert_eq!(service(json!([])), None);
    }

    #[test]
    fn the_namespace_speaks_first() {
        let mut facts = NamespaceFacts::named("shop");
        facts.annotations.insert(OPAQUE_PORTS.to_owned(), "9000-9010".to_owned());
        let config = InjectConfig::new("linkerd", "1");
        let pod = json!({"spec": {"containers": [{"ports": [{"containerPort": 6379}]}]}});
        assert_eq!(for_pod(&pod, &facts, &config), Some("9000-9010".to_owned()));
        let facts = NamespaceFacts::default();
        assert_eq!(for_pod(&pod, &facts, &config), Some("6379".to_owned()));
    }
}
