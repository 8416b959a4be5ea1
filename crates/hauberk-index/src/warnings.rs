//! What is accepted and does nothing, for whoever stores or writes an object.
//!
//! The admission webhook hands it to the API server, which prints it where the object was applied;
//! `hauberk validate` prints it itself. Nothing here refuses anything: that is the parser's
//! ([`Verdict`]). Told are, of one object alone:
//!
//! - that it cannot be read and is left alone ([`Verdict::Unread`]);
//! - fields that nobody reads, which are mostly spelt wrongly or newer than we are;
//! - annotations of the mesh that do not exist, and those whose values cannot be read;
//! - routes that no parent could use, whatever the cluster looks like: their status is derived in a
//!   cluster that has just these parents, so that it cannot say anything else than later happens;
//! - policies that permit nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hauberk_resources::{
    BackendRef, GrpcRouteMatch, HttpRouteMatch, Kind, Resource, ResourceEvent, ResourceKey,
    Verdict, annotations, policy::MeshTlsAuthentication,
};
use serde_json::{Value, json};

use crate::{
    Answer, ClusterConfig, ConditionKind, Index, Key, Reason, relations::parent_key, routes,
    unreadable,
};

/// Most parents of a route that are looked at; the Gateway API's schema allows 32, and few of them
/// differ in what they take.
const PARENTS_MAX: usize = 8;

/// Most rules, matches, filters and backends of a route that is looked at; the Gateway API's schema
/// allows 16 rules and 128 matches. Each may be a pattern to compile, for each parent.
const PARTS_MAX: usize = 2048;

/// Most annotations that are told: each is compared with all there are.
const UNKNOWN_MAX: usize = 50;

/// What people should know about an object that is not refused; empty if there is nothing to say.
pub fn warnings(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Understood { resource, unread } => {
            let mut warnings = Vec::new();
            if resource.kind().is_own() || has_parents_of_the_mesh(resource) {
                let unread = unread.iter();
                warnings
                    .extend(unread.map(|field| format!("{field}: the mesh reads no such field")));
            }
            warnings.extend(unknown_annotations(resource));
            warnings.extend(unreadable(resource).iter().map(ToString::to_string));
            warnings.extend(of_route(resource));
            warnings.extend(permits_nobody(resource).map(str::to_owned));
            warnings
        }
        Verdict::Unread(invalid) => {
            vec![format!("{invalid}; the mesh cannot read it and leaves it alone")]
        }
        Verdict::Foreign(_) | Verdict::Refused(_) => Vec::new(),
    }
}

fn unknown_annotations(resource: &Resource) -> impl Iterator<Item = String> {
    let keys = resource.metadata().annotations.keys();
    keys.filter(|key| annotations::is_misspelt(key)).take(UNKNOWN_MAX).map(|key| {
        match annotations::nearest(key) {
            Some(near) => format!("annotation {key} is not known; did you mean {near}?"),
            None => format!("annotation {key} is not known and does nothing"),
        }
    })
}

fn permits_nobody(resource: &Resource) -> Option<&'static str> {
    match resource {
        Resource::MeshTlsAuthentication(all) if is_empty(all) => {
            Some("spec: neither identities nor identityRefs are named, so it permits nobody")
        }
        Resource::ServerAuthorization(authorization) => {
            let is_silent = match authorization.mesh_tls() {
                None => !authorization.is_unauthenticated(),
                Some(tls) => {
                    !tls.unauthenticated
                        && tls.identities.is_empty()
                        && tls.service_accounts.is_empty()
                }
            };
            is_silent.then_some("spec.client: nothing says who it is, so it permits nobody")
        }
        _ => None,
    }
}

fn is_empty(authentication: &MeshTlsAuthentication) -> bool {
    authentication.identities().is_empty() && authentication.identity_refs().is_empty()
}

/// Whether a route has to do with the mesh at all; most Gateway API routes hang on gateways.
fn has_parents_of_the_mesh(route: &Resource) -> bool {
    let Some((group, parents)) = routes::parents(route) else { return false };
    parents.iter().any(|parent| parent_key(route.metadata(), group, parent).is_some())
}

/// Why a route cannot be used, or not wholly, if all its parents are there.
fn of_route(route: &Resource) -> Vec<String> {
    let Some((group, parents)) = routes::parents(route) else { return Vec::new() };
    if parts(route) > PARTS_MAX {
        let many = format!("spec.rules: more than {PARTS_MAX} parts, too many to look at");
        return vec![many];
    }
    let mut wanted: BTreeMap<ResourceKey, BTreeSet<u16>> = BTreeMap::new();
    for parent in parents.iter().take(PARENTS_MAX) {
        if let Some(key) = parent_key(route.metadata(), group, parent) {
            wanted.entry(key).or_default().extend(parent.port);
        }
    }
    if wanted.is_empty() {
        // A route of the Gateway API may be somebody else's.
        let is_ours = route.kind().is_own();
        let nothing =
            "spec.parentRefs: names no Service, Server or EgressNetwork, so it does nothing";
        return if is_ours { vec![nothing.to_owned()] } else { Vec::new() };
    }
    let mut index = Index::new(ClusterConfig::default());
    for (key, ports) in &wanted {
        if let Some(parent) = parent_object(key, ports) {
            index.apply(ResourceEvent::Applied(Arc::new(parent)));
        }
    }
    index.apply(ResourceEvent::Applied(Arc::new(route.clone())));
    let answer = index.answer(&Key::Status(route.key())).answer;
    let Answer::Status(status) = answer else { return Vec::new() };
    let mut told = BTreeSet::new();
    for parent in &status.parents {
        let kind = parent.parent.kind.as_deref().unwrap_or_default();
        let on = format!("{kind} {}", parent.parent.name);
        for condition in &parent.conditions {
            let message = &condition.message;
            match (condition.kind, condition.holds) {
                (ConditionKind::Accepted, false)
                    if condition.reason == Reason::NoMatchingParent =>
                {
                    told.insert(format!("spec.parentRefs: {on}: {message}"));
                }
                (ConditionKind::Accepted, false) => {
                    told.insert(format!("the route cannot be used on {on}: {message}"));
                }
                (ConditionKind::PartiallyInvalid, true) => {
                    told.insert(format!("a part of the route cannot be used on {on}: {message}"));
                }
                _ => {}
            }
        }
    }
    told.into_iter().collect()
}

/// How many things a route is made of.
fn parts(route: &Resource) -> usize {
    let backends = |backends: &[BackendRef]| -> usize {
        backends.iter().map(|backend| 1 + backend.filters.len()).sum()
    };
    match route {
        Resource::PolicyHttpRoute(route) | Resource::GatewayHttpRoute(route) => {
            let of_match = |one: &HttpRouteMatch| 1 + one.headers.len() + one.query_params.len();
            let rules = route.rules().iter().map(|rule| {
                let matches: usize = rule.matches.iter().map(of_match).sum();
                1 + matches + rule.filters.len() + backends(&rule.backend_refs)
            });
            rules.sum()
        }
        Resource::GrpcRoute(route) => {
            let of_match = |one: &GrpcRouteMatch| 1 + one.headers.len();
            let rules = route.rules().iter().map(|rule| {
                let matches: usize = rule.matches.iter().map(of_match).sum();
                1 + matches + rule.filters.len() + backends(&rule.backend_refs)
            });
            rules.sum()
        }
        Resource::TlsRoute(route) => {
            route.rules().iter().map(|rule| 1 + backends(&rule.backend_refs)).sum()
        }
        Resource::TcpRoute(route) => {
            route.rules().iter().map(|rule| 1 + backends(&rule.backend_refs)).sum()
        }
        _no_routes => 0,
    }
}

/// A parent as a route could wish for it.
fn parent_object(key: &ResourceKey, ports: &BTreeSet<u16>) -> Option<Resource> {
    let (api_version, spec): (&str, Value) = match key.kind {
        Kind::Service => {
            let named = |port: &u16| json!({"name": format!("port-{port}"), "port": port});
            let ports: Vec<Value> = ports
                .iter()
                .chain([&80].into_iter().filter(|_| ports.is_empty()))
                .map(named)
                .collect();
            ("v1", json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": ports}))
        }
        Kind::EgressNetwork => ("policy.linkerd.io/v1alpha1", json!({"trafficPolicy": "Allow"})),
        Kind::Server => ("policy.linkerd.io/v1beta3", json!({"port": 80, "podSelector": {}})),
        _ => return None,
    };
    let object = json!({
        "apiVersion": api_version,
        "kind": key.kind.name(),
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "spec": spec,
    });
    Resource::parse(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_resources::yaml;

    #[track_caller]
    fn check(object: &str, expect: &[&str]) {
        let value = yaml::parse(object).expect("it is YAML");
        let verdict = Verdict::of(value);
        assert!(!verdict.is_refused(), "{verdict:?}");
        assert_eq!(warnings(&verdict), expect, "{object}");
    }

    fn route(kind: &str, parent: &str, rest: &str) -> String {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, \
             spec: {{parentRefs: [{parent}], {rest}}}}}"
        )
    }

    const SERVICE: &str = "{group: core, kind: Service, name: web, port: 80}";

    #[test]
    fn a_good_route_is_passed_in_silence_whether_its_parent_is_there_or_not() {
        let rules = "rules: [{name: all, backendRefs: [{name: web, port: 80}]}]";
        check(&route("HTTPRoute", SERVICE, rules), &[]);
        check(&route("HTTPRoute", "{name: front}", "rules: [{sessionPersistence: {}}]"), &[]);
        check(
            &route("HTTPRoute", "{group: policy.linkerd.io, kind: Server, name: s}", "rules: [{}]"),
            &[],
        );
    }

    #[test]
    fn a_route_that_cannot_be_used_is_told_with_its_parent() {
        check(
            &route("HTTPRoute", SERVICE, "rules: [{filters: [{type: ExtensionRef}]}]"),
            &["the route cannot be used on Service web: a filter of this type is not supported"],
        );
        check(
            &route(
                "HTTPRoute",
                "{group: policy.linkerd.io, kind: EgressNetwork, name: out}",
                "rules: [{}]",
            ),
            &[
                "spec.parentRefs: EgressNetwork out: a route on an egress network names a port of it",
            ],
        );
        check(
            &route("TCPRoute", "{group: policy.linkerd.io, kind: Server, name: s}", "rules: [{}]"),
            &["the route cannot be used on Server s: a server takes HTTP and gRPC routes only"],
        );
    }

    #[test]
    fn fields_and_annotations_that_do_nothing_are_named() {
        check(
            &route("HTTPRoute", SERVICE, "rules: [{retry: {attempts: 3}}]"),
            &["spec.rules[0].retry: the mesh reads no such field"],
        );
        check(
            "{apiVersion: policy.linkerd.io/v1beta3, kind: Server, metadata: {name: s}, \
             spec: {port: 80, podSelector: {}, accesPolicy: deny}}",
            &["spec.accesPolicy: the mesh reads no such field"],
        );
        check(
            "{apiVersion: v1, kind: Service, metadata: {name: s, annotations: \
             {retry.linkerd.io/htp: 5xx, timeout.linkerd.io/request: soon, balancer.linkerd.io/x: 'on', \
             example.org/any: thing}}, spec: {ports: [{port: 80}]}}",
            &[
                "annotation balancer.linkerd.io/x is not known and does nothing",
                "annotation retry.linkerd.io/htp is not known; did you mean retry.linkerd.io/http?",
                "annotation timeout.linkerd.io/request: 'soon' is not a duration: expected a whole number and a unit",
            ],
        );
    }

    #[test]
    fn a_route_without_bounds_is_not_looked_at() {
        let rules = "{filters: [{type: ExtensionRef}]}, ".repeat(1025);
        check(
            &route("HTTPRoute", SERVICE, &format!("rules: [{rules}]")),
            &["spec.rules: more than 2048 parts, too many to look at"],
        );
    }

    #[test]
    fn a_policy_that_permits_nobody_is_told() {
        check(
            "{apiVersion: policy.linkerd.io/v1alpha1, kind: MeshTLSAuthentication, \
             metadata: {name: a}, spec: {identities: []}}",
            &["spec: neither identities nor identityRefs are named, so it permits nobody"],
        );
        check(
            "{apiVersion: policy.linkerd.io/v1beta1, kind: ServerAuthorization, \
             metadata: {name: a}, spec: {server: {name: s}, client: {meshTLS: {}}}}",
            &["spec.client: nothing says who it is, so it permits nobody"],
        );
    }

    #[test]
    fn what_is_newer_than_we_are_is_left_alone_with_a_word() {
        check(
            &route("HTTPRoute", SERVICE, "rules: [{matches: [{path: {type: Glob}}]}]"),
            &[
                "HTTPRoute (gateway.networking.k8s.io/v1) shop/r: spec.rules[0].matches[0].path.type: \
                 unknown variant `Glob`, expected one of `Exact`, `PathPrefix`, `RegularExpression`; \
                 the mesh cannot read it and leaves it alone",
            ],
        );
    }
}
