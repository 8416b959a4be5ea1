//! Values of annotations: each parser says what it expected.

use std::time::Duration;

use hauberk_model::{Port, PortSet, settings::value};
use hauberk_resources::{PortList, annotations::ValueKind, parse_go};
use serde_json::Value;

/// Any text.
pub(crate) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A boolean in the spellings of Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// `enabled` or `disabled`.
pub(crate) fn enabled(text: &str) -> Result<bool, String> {
    match text {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err("expected enabled or disabled".to_owned()),
    }
}

/// One of these words.
pub(crate) fn one_of(words: &'static [&'static str]) -> impl Fn(&str) -> Result<String, String> {
    move |text| {
        if words.contains(&text) {
            return Ok(text.to_owned());
        }
        let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).copied().collect();
        Err(format!("expected one of {}", words.join(", ")))
    }
}

/// A TCP port.
pub(crate) fn port(text: &str) -> Result<Port, String> {
    text.trim().parse().map_err(|_| "expected a port (1 to 65535)".to_owned())
}

/// Ports and ranges.
pub(crate) fn ports(text: &str) -> Result<PortSet, String> {
    let list = PortList::parse_numbers(text);
    match list.bad.first() {
        None => Ok(list.ports),
        Some(bad) => Err(format!("expected ports and ranges such as 80,8000-8010 ({bad})")),
    }
}

/// Networks, written again without blanks.
pub(crate) fn networks(text: &str) -> Result<String, String> {
    let networks = value::networks(text).map_err(|bad| bad.to_string())?;
    Ok(networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// A whole number of at least `-1` that fits what Kubernetes takes as a user or group.
pub(crate) fn id(text: &str) -> Result<i64, String> {
    let number = text.trim().parse::<i64>().ok();
    number.filter(|n| *n <= i64::from(u32::MAX)).ok_or_else(|| "expected a whole number".to_owned())
}

/// A whole number of seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| "expected a whole number of seconds".to_owned())
}

/// A duration as Go writes it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_go(text.trim()).map_err(|_| "expected a duration such as 1m30s or 300ms".to_owned())
}

/// A number strictly between 0 and 1.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && *n < 1.0);
    number.ok_or_else(|| "expected a number above 0 and below 1".to_owned())
}

/// A JSON array of `EnvVar`.
pub(crate) fn env_vars(text: &str) -> Result<Vec<Value>, String> {
    let expected = || "expected a JSON list of objects with a name".to_owned();
    let list: Vec<Value> = serde_json::from_str(text).map_err(|_| expected())?;
    let named = |item: &Value| item["name"].as_str().is_some_and(|name| !name.is_empty());
    if list.iter().all(named) { Ok(list) } else { Err(expected()) }
}

/// A Kubernetes quantity, such as `100m` or `20Mi`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantity {
    /// As it was written.
    pub(crate) text: String,
    /// What it amounts to.
    pub(crate) amount: f64,
}

/// Reads a quantity.
pub(crate) fn quantity(text: &str) -> Result<Quantity, String> {
    let expected = || "expected a quantity such as 100m or 20Mi".to_owned();
    let trimmed = text.trim();
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let end = trimmed.find(|c: char| !digits(c)).unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(end);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(expected)?;
            10_f64.powi(exponent.parse().ok().filter(|e: &i32| e.abs() <= 30).ok_or_else(expected)?)
        }
    };
    Ok(Quantity { text: trimmed.to_owned(), amount: number * factor })
}

/// Whole cores a quantity of CPU amounts to, rounded up, at least one.
pub(crate) fn cores(cpu: &Quantity) -> u64 {
    // A quantity has at most 18 digits before the point; more is cut off by the conversion.
    cpu.amount.ceil().max(1.0) as u64
}

/// Whether a value is of the kind an annotation takes.
///
/// # Errors
/// What was expected instead. Names of ports are not known here and are let through.
pub fn check(kind: ValueKind, value: &str) -> Result<(), String> {
    match kind {
        ValueKind::Text => Ok(()),
        ValueKind::OneOf(words) => one_of(words)(value).map(drop),
        ValueKind::Bool => boolean(value).map(drop),
        ValueKind::Port => port(value).map(drop),
        ValueKind::Ports => ports(value).map(drop),
        ValueKind::NamedPorts => {
            let is_name = |text: &str| text.bytes().any(|b| b.is_ascii_alphabetic());
            let numbers: Vec<_> = value.split(',').filter(|entry| !is_name(entry)).collect();
            ports(&numbers.join(",")).map(drop)
        }
        ValueKind::Networks => networks(value).map(drop),
        ValueKind::Quantity => quantity(value).map(drop),
        ValueKind::Ratio => ratio(value).map(drop),
        ValueKind::Integer => id(value).map(drop),
        ValueKind::Seconds => seconds(value).map(drop),
        ValueKind::GoDuration => duration(value).map(drop),
        ValueKind::EnvVars => env_vars(value).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        let amount = |text: &str| quantity(text).map(|q| q.amount).ok();
        assert_eq!(amount("100m"), Some(0.1));
        assert_eq!(amount("1.5"), Some(1.5));
        assert_eq!(amount("20Mi"), Some(20.0 * 1024.0 * 1024.0));
        assert_eq!(amount("2e3"), Some(2000.0));
        for bad in ["", "m", "-1", "1 Mi", "1mi", "1KB", "..", "1e99"] {
            assert_eq!(amount(bad), None, "{bad}");
        }
    }

    #[test]
    fn cores_are_rounded_up() {
        let cores_of = |text: &str| cores(&quantity(text).expect("valid"));
        assert_eq!(cores_of("100m"), 1);
        assert_eq!(cores_of("0"), 1);
        assert_eq!(cores_of("1500m"), 2);
        assert_eq!(cores_of("4"), 4);
    }

    #[test]
    fn booleans_are_those_of_go() {
        assert_eq!(boolean("T"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
        assert!(enabled("true").is_err());
    }

    #[test]
    fn values_are_checked_by_kind() {
        assert_eq!(check(ValueKind::NamedPorts, "mysql,3306,1-2"), Ok(()));
        assert!(check(ValueKind::NamedPorts, "mysql,70000").is_err());
        assert!(check(ValueKind::Ports, "mysql").is_err());
        assert_eq!(
            check(ValueKind::OneOf(&["a", "b", ""]), "c"),
            Err("expected one of a, b".to_owned())
        );
        assert!(check(ValueKind::Ratio, "1").is_err());
        assert!(check(ValueKind::EnvVars, "[{\"name\":\"A\",\"value\":\"1\"}]").is_ok());
        assert!(check(ValueKind::EnvVars, "[{\"value\":\"1\"}]").is_err());
    }
}
