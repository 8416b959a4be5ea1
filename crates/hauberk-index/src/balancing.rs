//! What a service asks of balancers beyond choosing by load: slow start and affinity.
//!
//! Both are about the service's endpoints, so they are read from the service that a backend names,
//! not from the parent of the route. A bad value drops its whole group, as it does for breakers:
//! affinity is then what the service's own `sessionAffinity` says. Reasons: docs/decisions/0020.

use crate::failure_accrual::{duration, value};
use hauberk_model::{
    Balancing,
    balancing::{Affinity, AffinityKey, Bound, Cookie, Lifetime},
};
use hauberk_resources::{Metadata, Service, annotations as keys};
use std::time::Duration;

/// What a service asks for, for requests.
pub(crate) fn of_requests(service: &Service) -> Balancing {
    Balancing { affinity: affinity(service), ..of_endpoints(service) }
}

/// What a service asks for, for bytes that are not looked into: they have no headers.
pub(crate) fn of_opaque(service: &Service) -> Balancing {
    let affinity = affinity(service).filter(|affinity| affinity.key == AffinityKey::Source);
    Balancing { affinity, ..of_endpoints(service) }
}

fn of_endpoints(service: &Service) -> Balancing {
    let window = duration(&service.metadata, keys::SLOW_START, Duration::ZERO);
    let slow_start = window.filter(|window| !window.is_zero());
    Balancing { slow_start, affinity: None, breaker: None }
}

/// Whether what the annotations say of affinity can be read, if they say anything.
pub(crate) fn is_affinity_readable(service: &Service) -> bool {
    let metadata = &service.metadata;
    metadata.annotation(keys::AFFINITY).is_none() || annotated(metadata).is_some()
}

fn affinity(service: &Service) -> Option<Affinity> {
    annotated(&service.metadata).unwrap_or_else(|| {
        // Kubernetes promises that a client keeps its endpoint, however much it asks for.
        let memory = service.client_ip_affinity()?;
        Some(Affinity { key: AffinityKey::Source, bound: None, memory: Some(memory) })
    })
}

/// What the annotations say; none if there are none that can be read.
fn annotated(service: &Metadata) -> Option<Option<Affinity>> {
    let (mut key, default_bound) = match service.annotation(keys::AFFINITY)?.trim() {
        "none" => return Some(None),
        // A sidecar knows one source, so that every bound would only scatter its requests.
        "source" => (AffinityKey::Source, None),
        text => (key(text)?, Some(Bound::DEFAULT)),
    };
    match (&mut key, given(service)?) {
        (AffinityKey::Cookie(cookie), given) => cookie.given = given,
        (AffinityKey::Source | AffinityKey::Header(_), None) => {}
        // There is no cookie to be given.
        (AffinityKey::Source | AffinityKey::Header(_), Some(_)) => return None,
    }
    let bound = match service.annotation(keys::AFFINITY_BOUND).map(str::trim) {
        None => default_bound,
        Some("none") => None,
        Some(_) => Some(bound(value(service, keys::AFFINITY_BOUND, 0.0)?)?),
    };
    let memory = duration(service, keys::AFFINITY_MEMORY, Duration::ZERO)?;
    Some(Some(Affinity { key, bound, memory: Some(memory).filter(|memory| !memory.is_zero()) }))
}

fn key(text: &str) -> Option<AffinityKey> {
    if let Some(name) = text.strip_prefix("header:") {
        return name.parse().ok().map(AffinityKey::Header);
    }
    let name = text.strip_prefix("cookie:")?;
    // A token (RFC 6265 section 4.1.1, RFC 9110 section 5.6.2).
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    is_name.then(|| AffinityKey::Cookie(Cookie::named(name)))
}

/// For how long clients are given a cookie, if they are.
fn given(service: &Metadata) -> Option<Option<Lifetime>> {
    match service.annotation(keys::AFFINITY_COOKIE).map(str::trim) {
        None | Some("none") => Some(None),
        Some("session") => Some(Some(Lifetime::Session)),
        Some(_) => {
            let time = duration(service, keys::AFFINITY_COOKIE, Duration::ZERO)?;
            // Cookies count whole seconds (RFC 6265 section 5.2.2).
            let is_whole = time.as_secs() > 0 && time.subsec_nanos() == 0;
            is_whole.then_some(Some(Lifetime::For(time)))
        }
    }
}

/// A multiple of the mean, to the hundredth.
fn bound(multiple: f64) -> Option<Bound> {
    let percent = (multiple * 100.0).round();
    let is_fine = (100.0..=f64::from(Bound::MAX_PERCENT)).contains(&percent);
    is_fine.then_some(percent as u32).and_then(Bound::from_percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_resources::{Resource, yaml};

    fn service(annotations: &str, spec: &str) -> Service {
        let yaml = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, annotations: {{{annotations}}}}}, \
             spec: {{{spec}}}}}"
        );
        let value = yaml::parse(&yaml).expect("it is YAML");
        match Resource::parse(value).expect("it is an object") {
            Resource::Service(service) => service,
            other => panic!("{other:?}"),
        }
    }

    fn check(annotations: &str, spec: &str, expect: &str) {
        let Balancing { slow_start, affinity, breaker } = of_requests(&service(annotations, spec));
        assert_eq!(breaker, None);
        let affinity = affinity.map(|Affinity { key, bound, memory }| {
            format!("{key:?} {:?} {memory:?}", bound.map(Bound::percent))
        });
        assert_eq!(format!("{slow_start:?} {affinity:?}"), expect, "{annotations} {spec}");
    }

    #[test]
    fn affinity_is_asked_for_by_annotation() {
        let with = |more: &str| format!("balancer.hauberk.io/affinity: 'header:X-User'{more}");
        check("", "", "None None");
        check(&with(""), "", r#"None Some("Header(\"x-user\") Some(125) None")"#);
        check(
            &with(
                ", balancer.hauberk.io/affinity-bound: '2', balancer.hauberk.io/affinity-memory: 1h",
            ),
            "",
            r#"None Some("Header(\"x-user\") Some(200) Some(3600s)")"#,
        );
        check(
            &with(", balancer.hauberk.io/affinity-bound: none"),
            "",
            r#"None Some("Header(\"x-user\") None None")"#,
        );
        check("balancer.hauberk.io/affinity: source", "", r#"None Some("Source None None")"#);
        check(
            "balancer.hauberk.io/affinity: 'cookie:sid'",
            "",
            r#"None Some("Cookie(Cookie { name: \"sid\", given: None }) Some(125) None")"#,
        );
        for (value, given) in
            [("session", "Some(Session)"), ("1h", "Some(For(3600s))"), ("none", "None")]
        {
            let expect = format!(
                r#"None Some("Cookie(Cookie {{ name: \"sid\", given: {given} }}) Some(125) None")"#
            );
            check(
                &format!(
                    "balancer.hauberk.io/affinity: 'cookie:sid', \
                     balancer.hauberk.io/affinity-cookie: {value}"
                ),
                "",
                &expect,
            );
        }
        check("balancer.hauberk.io/slow-start: 30s", "", "Some(30s) None");
        check("balancer.hauberk.io/slow-start: '0'", "", "None None");
    }

    #[test]
    fn client_ip_affinity_is_kept_for_its_time_unless_an_annotation_says_otherwise() {
        let spec = "sessionAffinity: ClientIP";
        check("", spec, r#"None Some("Source None Some(10800s)")"#);
        let minute =
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
        check("", minute, r#"None Some("Source None Some(60s)")"#);
        check("", "sessionAffinity: None", "None None");
        check("balancer.hauberk.io/affinity: none", spec, "None None");
    }

    #[test]
    fn a_bad_value_drops_its_whole_group() {
        let with = |key: &str, value: &str| {
            format!("balancer.hauberk.io/affinity: source, balancer.hauberk.io/{key}: '{value}'")
        };
        for bad in [
            with("affinity-bound", "0.5"),
            with("affinity-bound", "much"),
            with("affinity-bound", "NaN"),
            with("affinity-memory", "1.5h"),
            with("affinity-cookie", "session"),
            "balancer.hauberk.io/affinity: 'cookie:a', balancer.hauberk.io/affinity-cookie: 0s"
                .into(),
            "balancer.hauberk.io/affinity: 'cookie:a', balancer.hauberk.io/affinity-cookie: 1500ms"
                .into(),
            "balancer.hauberk.io/affinity: 'cookie:a', balancer.hauberk.io/affinity-cookie: long"
                .into(),
            "balancer.hauberk.io/affinity: 'header:not a name'".into(),
            "balancer.hauberk.io/affinity: 'cookie:a=b'".into(),
            "balancer.hauberk.io/affinity: 'cookie:'".into(),
            "balancer.hauberk.io/affinity: always".into(),
            "balancer.hauberk.io/slow-start: soon".into(),
        ] {
            check(&bad, "", "None None");
        }
    }

    #[test]
    fn bytes_that_are_not_looked_into_have_a_source_only() {
        let cookie = service("balancer.hauberk.io/affinity: 'cookie:sid'", "");
        assert_eq!(of_opaque(&cookie).affinity, None);
        let source = service("balancer.hauberk.io/affinity: source", "");
        assert!(of_opaque(&source).affinity.is_some());
    }
}
