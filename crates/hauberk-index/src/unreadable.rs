//! Annotations that cannot be read, for whoever tells people.
//!
//! An annotation with a bad value counts as absent, alone or with its whole group, because one typing error must not
//! take a service out of the mesh. That is only bearable if somebody says so: the publisher logs, counts and lists what
//! is found here. What makes a route unusable stands in its status instead.
//!
//! Each value is checked alone, and a group whose values are fine but do not fit together is named by its first
//! annotation.

use std::fmt;

use hauberk_model::inbound::DefaultPolicy;
use hauberk_resources::{Metadata, PortList, Resource, annotations as keys, parse_annotation};

use crate::{balancing, failure_accrual, outbound};

/// An annotation that counts as absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreadable {
    /// Its name.
    pub annotation: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {}: {}", self.annotation, self.reason)
    }
}

/// Annotations of an object that the mesh reads and cannot understand, in a fixed order.
pub fn unreadable(resource: &Resource) -> Vec<Unreadable> {
    let mut found = Found { metadata: resource.metadata(), all: Vec::new() };
    match resource {
        Resource::Pod(pod) => {
            found.ports(keys::OPAQUE_PORTS, |name| pod.spec.tcp_ports_named(name).collect());
            found.ports(keys::SKIP_INBOUND_PORTS, |_| Vec::new());
            found.inbound();
        }
        Resource::ExternalWorkload(external) => {
            found.ports(keys::OPAQUE_PORTS, |name| external.tcp_ports_named(name).collect());
            found.inbound();
        }
        Resource::Service(service) => {
            found.ports(keys::OPAQUE_PORTS, |name| {
                let named = service.ports().iter().filter(|port| *port.name == *name);
                named.map(|port| port.port).collect()
            });
            found.limits();
            found.breaker();
            found.load();
            found.duration(keys::SLOW_START);
            if !balancing::is_affinity_readable(service) {
                let reason = "affinity, its bound, its memory or its cookie is not understood";
                found.note(keys::AFFINITY, reason);
            }
        }
        Resource::EgressNetwork(_) => {
            found.ports(keys::OPAQUE_PORTS, |_| Vec::new());
            found.limits();
            found.breaker();
        }
        Resource::GatewayHttpRoute(_)
        | Resource::PolicyHttpRoute(_)
        | Resource::GrpcRoute(_)
        | Resource::TlsRoute(_)
        | Resource::TcpRoute(_) => found.breaker(),
        _ => {}
    }
    found.all
}

struct Found<'m> {
    metadata: &'m Metadata,
    all: Vec<Unreadable>,
}

impl Found<'_> {
    fn note(&mut self, annotation: &'static str, reason: impl Into<String>) {
        self.all.push(Unreadable { annotation, reason: reason.into() });
    }

    fn ports(&mut self, key: &'static str, numbers_of: impl Fn(&str) -> Vec<u16>) {
        let Some(list) = self.metadata.annotation(key) else { return };
        for bad in PortList::parse(list, numbers_of).bad {
            self.note(key, bad.to_string());
        }
    }

    fn inbound(&mut self) {
        self.ports(keys::REQUIRE_IDENTITY_INBOUND_PORTS, |_| Vec::new());
        let policy = self.metadata.annotation(keys::DEFAULT_INBOUND_POLICY);
        if let Some(Err(error)) = policy.map(str::parse::<DefaultPolicy>) {
            self.note(keys::DEFAULT_INBOUND_POLICY, error.to_string());
        }
    }

    fn duration(&mut self, key: &'static str) {
        if let Some(Err(error)) = self.metadata.annotation(key).map(parse_annotation) {
            self.note(key, error.to_string());
        }
    }

    fn value<T: std::str::FromStr>(&mut self, key: &'static str, what: &str) {
        if let Some(text) = self.metadata.annotation(key)
            && text.trim().parse::<T>().is_err()
        {
            self.note(key, format!("'{text}' is not {what}"));
        }
    }

    fn limits(&mut self) {
        for key in
            [keys::TIMEOUT_REQUEST, keys::TIMEOUT_RESPONSE, keys::TIMEOUT_IDLE, keys::RETRY_TIMEOUT]
        {
            self.duration(key);
        }
        self.value::<u16>(keys::RETRY_LIMIT, "a number of retries");
        self.list(keys::RETRY_HTTP, outbound::are_statuses);
        self.list(keys::RETRY_GRPC, outbound::are_codes);
    }

    fn list(&mut self, key: &'static str, is_fine: fn(&str) -> bool) {
        if let Some(text) = self.metadata.annotation(key).filter(|text| !is_fine(text)) {
            self.note(key, format!("'{text}' is not understood"));
        }
    }

    fn breaker(&mut self) {
        let before = self.all.len();
        self.value::<u32>(keys::FAILURE_ACCRUAL_MIN_READY, "a number of endpoints");
        self.value::<u32>(keys::FAILURE_ACCRUAL_MAX_FAILURES, "a number of failures");
        self.value::<f32>(keys::FAILURE_ACCRUAL_JITTER_RATIO, "a ratio");
        self.value::<f64>(keys::FAILURE_ACCRUAL_SUCCESS_RATE_THRESHOLD, "a ratio");
        self.value::<u32>(keys::FAILURE_ACCRUAL_SUCCESS_RATE_MIN_REQUESTS, "a number of requests");
        self.value::<bool>(keys::FAILURE_ACCRUAL_HONOR_RETRY_AFTER, "true or false");
        self.duration(keys::FAILURE_ACCRUAL_MIN_PENALTY);
        self.duration(keys::FAILURE_ACCRUAL_MAX_PENALTY);
        self.duration(keys::FAILURE_ACCRUAL_SUCCESS_RATE_WINDOW);
        let kind = self.metadata.annotation(keys::FAILURE_ACCRUAL);
        if self.all.len() == before
            && let Some(kind) = kind
            && failure_accrual::breaker(self.metadata).is_none()
        {
            let reason = match kind {
                "consecutive" | "unified" => {
                    "the values of the breaker are out of bounds or do not fit together".to_owned()
                }
                other => format!("'{other}' is neither consecutive nor unified"),
            };
            self.note(keys::FAILURE_ACCRUAL, reason);
        }
    }

    fn load(&mut self) {
        self.value::<bool>(keys::PENALIZE_FAILURES, "true or false");
        self.duration(keys::LOAD_BIASER_PENALTY);
        self.duration(keys::LOAD_BIASER_MAX_RETRY_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_resources::yaml;

    #[track_caller]
    fn check(kind: &str, annotations: &str, expect: &[&str]) {
        let (version, kind) = kind.split_once(' ').expect("version and kind");
        let spec = match kind {
            "Pod" => "{containers: [{name: a, ports: [{name: db, containerPort: 3306}]}]}",
            "Service" => "{ports: [{name: db, port: 3306}]}",
            _ => "{trafficPolicy: Allow}",
        };
        let text = format!(
            "{{apiVersion: {version}, kind: {kind}, spec: {spec}, \
             metadata: {{name: x, namespace: ns, annotations: {{{annotations}}}}}}}"
        );
        let value = yaml::parse(&text).expect("it is YAML");
        let resource = Resource::parse(value).expect("it is an object");
        let found: Vec<String> = unreadable(&resource).iter().map(ToString::to_string).collect();
        assert_eq!(found, expect, "{annotations}");
    }

    #[test]
    fn names_what_is_wrong_with_a_pod() {
        check("v1 Pod", "config.linkerd.io/opaque-ports: 'db,25'", &[]);
        check(
            "v1 Pod",
            "config.linkerd.io/opaque-ports: 'database,25', \
             config.linkerd.io/default-inbound-policy: everybody",
            &[
                "annotation config.linkerd.io/opaque-ports: 'database' is neither a port, a range such as \
                 8000-8010, nor the name of a declared port",
                "annotation config.linkerd.io/default-inbound-policy: 'everybody' is no default policy; valid \
                 are all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, \
                 deny, audit",
            ],
        );
    }

    #[test]
    fn names_what_is_wrong_with_a_service() {
        check(
            "v1 Service",
            "timeout.linkerd.io/request: 1s, retry.linkerd.io/http: '5xx,404', \
             balancer.linkerd.io/failure-accrual: consecutive, balancer.hauberk.io/affinity: source",
            &[],
        );
        check(
            "v1 Service",
            "retry.linkerd.io/http: '6xx', retry.linkerd.io/limit: many, \
             balancer.hauberk.io/affinity: ip",
            &[
                "annotation retry.linkerd.io/limit: 'many' is not a number of retries",
                "annotation retry.linkerd.io/http: '6xx' is not understood",
                "annotation balancer.hauberk.io/affinity: affinity, its bound, its memory or its cookie is not understood",
            ],
        );
    }

    #[test]
    fn values_that_do_not_fit_together_are_told_too() {
        let with = |more: &str| format!("balancer.linkerd.io/failure-accrual: {more}");
        check(
            "policy.linkerd.io/v1alpha1 EgressNetwork",
            &with("sometimes"),
            &[
                "annotation balancer.linkerd.io/failure-accrual: 'sometimes' is neither consecutive nor unified",
            ],
        );
        check(
            "policy.linkerd.io/v1alpha1 EgressNetwork",
            &with("consecutive, balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 2m"),
            &[
                "annotation balancer.linkerd.io/failure-accrual: the values of the breaker are out of bounds or \
               do not fit together",
            ],
        );
    }
}
