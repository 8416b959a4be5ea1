//! A container's environment: values, references, and `$(VAR)`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Context, NODE, PlanError, data};
use crate::address::GATEWAY;
use crate::spec::{Container, EnvSource, KeyRef, NameRef, Pod, ResourceFieldRef};

/// The whole environment, in the order in which later values may refer to earlier ones.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    context: Context<'_>,
) -> Result<Vec<(String, String)>, PlanError> {
    let mut all = Environment(vec![
        ("PATH".to_owned(), context.path.to_owned()),
        ("HOSTNAME".to_owned(), pod.metadata.name.clone()),
        ("HOME".to_owned(), "/".to_owned()),
    ]);
    for from in &container.env_from {
        let sources = [("ConfigMap", &from.config_map_ref), ("Secret", &from.secret_ref)];
        for (kind, reference) in sources {
            let Some(NameRef { name, optional }) = reference else { continue };
            match data(context, kind, &pod.metadata.namespace, name) {
                Some(entries) => {
                    for (key, value) in entries {
                        all.set(&format!("{}{key}", from.prefix), lossy(value));
                    }
                }
                None if *optional => {}
                None => return Err(missing(container, kind, name)),
            }
        }
    }
    for variable in &container.env {
        let value = match &variable.value_from {
            Some(source) => source_value(pod, container, source, context)?,
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, &all.0))
            }
        };
        if let Some(value) = value {
            all.set(&variable.name, value);
        }
    }
    Ok(all.0)
}

struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(existing, _)| existing == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

/// Replaces `$(NAME)` by the variable's value. `$$` is a dollar sign; a name nobody has set stays as
/// it is written.
pub(super) fn expand(text: &str, environment: &[(String, String)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            result.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        let Some((name, after)) = reference else {
            result.push('$');
            rest = &rest[1..];
            continue;
        };
        match environment.iter().find(|(known, _)| known == name) {
            Some((_, value)) => result.push_str(value),
            None => {
                let _ = write!(result, "$({name})"); // Writing to a string cannot fail.
            }
        }
        rest = after;
    }
    result + rest
}

fn source_value(
    pod: &Pod,
    container: &Container,
    source: &EnvSource,
    context: Context<'_>,
) -> Result<Option<String>, PlanError> {
    if let Some(reference) = &source.field_ref {
        return field(pod, &reference.field_path, context).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource(pod, container, reference).map(Some);
    }
    let keyed = [("ConfigMap", &source.config_map_key_ref), ("Secret", &source.secret_key_ref)];
    for (kind, reference) in keyed {
        let Some(KeyRef { name, key, optional }) = reference else { continue };
        let entries = data(context, kind, &pod.metadata.namespace, name);
        let value = entries.into_iter().flatten().find(|(found, _)| found == key);
        return match value {
            Some((_, value)) => Ok(Some(lossy(value))),
            None if *optional => Ok(None),
            None => Err(missing(container, kind, &format!("{name} with the key {key}"))),
        };
    }
    Ok(Some(String::new()))
}

fn missing(container: &Container, kind: &str, name: &str) -> PlanError {
    PlanError::Missing(format!("container {}: there is no {kind} {name}", container.name))
}

fn lossy(value: Vec<u8>) -> String {
    String::from_utf8_lossy(&value).into_owned()
}

/// A field of the pod, as the downward API shows it.
pub(super) fn field(pod: &Pod, path: &str, context: Context<'_>) -> Result<String, PlanError> {
    let metadata = &pod.metadata;
    let [v4, v6] = context.addresses.both();
    let keyed = |field: &str| path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']");
    let all = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(metadata.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(metadata.annotations.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => all(&metadata.labels),
        "metadata.annotations" => all(&metadata.annotations),
        "spec.nodeName" => NODE.to_owned(),
        "spec.serviceAccountName" => pod.spec.service_account().to_owned(),
        "status.hostIP" => GATEWAY.v4.to_string(),
        "status.hostIPs" => GATEWAY.both().map(|ip| ip.to_string()).join(","),
        "status.podIP" => v4.to_string(),
        "status.podIPs" => format!("{v4},{v6}"),
        _ => return Err(PlanError::Unsupported(format!("the pod has no field {path}"))),
    })
}

/// A limit or request of a container, in whole units of the divisor, rounded up. What has no limit
/// shows the machine's cores, or no bound at all for memory.
pub(super) fn resource(
    pod: &Pod,
    container: &Container,
    reference: &ResourceFieldRef,
) -> Result<String, PlanError> {
    let named = reference.container_name.as_deref().unwrap_or(&container.name);
    let all = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let container = all.into_iter().find(|one| one.name == named).unwrap_or(container);
    let (set, unit) = reference.resource.split_once('.').unwrap_or(("", ""));
    let amounts = match set {
        "limits" => &container.resources.limits,
        "requests" => &container.resources.requests,
        _ => {
            let message = format!("there is no resource field {}", reference.resource);
            return Err(PlanError::Unsupported(message));
        }
    };
    let amount = match (amounts.get(unit).and_then(quantity), unit) {
        (Some(amount), _) => amount,
        (None, "cpu") if set == "limits" => {
            std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
        }
        (None, _) => 0.0,
    };
    let divisor = reference.divisor.as_ref().and_then(quantity).filter(|divisor| *divisor > 0.0);
    Ok(format!("{:.0}", (amount / divisor.unwrap_or(1.0)).ceil()))
}

/// A Kubernetes quantity: `100m`, `64Mi`, `1`, `2e3`.
fn quantity(value: &Value) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("", 1.0),
    ];
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.as_f64()?.to_string(),
    };
    SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some(text.strip_suffix(suffix)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded_once_and_unknown_ones_stay() {
        let environment = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, expect) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C) $A $", "$(C) $A $"),
            ("$(A", "$(A"),
            ("$(A)$(A)", "11"),
        ] {
            assert_eq!(expand(text, &environment), expect, "{text}");
        }
    }

    #[test]
    fn quantities_are_read() {
        let check = |value, expect: f64| assert_eq!(quantity(&value), Some(expect), "{value}");
        check(json!("100m"), 0.1);
        check(json!("64Mi"), 67_108_864.0);
        check(json!(2), 2.0);
        check(json!("1G"), 1e9);
        assert_eq!(quantity(&json!("much")), None);
    }
}
