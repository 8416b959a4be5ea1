//! Inbound policies.

use std::sync::Arc;

use hauberk_model::inbound::{
    Authentication, Authorization, GrpcRoute, HttpRoute, HttpServer, InboundProtocol,
};
use hauberk_model::rate_limit::{RateLimit, RateLimitOverride};
use hauberk_model::workload_id::IdentityMatch;
use hauberk_model::{InboundPolicy, Meta, Network};
use hauberk_wire::inbound;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::through_bytes;
use crate::vocabulary::*;

/// As Linkerd names inbound resources: kinds in lower case, no namespace, section or port.
fn inbound_meta() -> impl Strategy<Value = Meta> {
    let resource = (text(), "[a-z]{1,12}", text());
    prop_oneof![
        text().prop_map(Meta::Default),
        resource
            .prop_filter("a default is not a resource", |(_, kind, _)| kind != "default")
            .prop_map(|(group, kind, name)| Meta::resource(&group, &kind, "", &name)),
    ]
}

fn authentication() -> impl Strategy<Value = Authentication> {
    let suffix = vec("[a-z]{1,8}".prop_map(Into::into), 0..4).prop_map(IdentityMatch::Suffix);
    let exact = workload_id().prop_map(IdentityMatch::Exact);
    // Exact ones first: the wire keeps the two kinds apart.
    let identities = (vec(exact, 0..3), vec(suffix, 0..3));
    prop_oneof![
        Just(Authentication::Unauthenticated),
        Just(Authentication::TlsUnauthenticated),
        identities.prop_map(|(exact, suffixes)| {
            Authentication::TlsAuthenticated(exact.into_iter().chain(suffixes).collect())
        }),
    ]
}

fn authorizations() -> impl Strategy<Value = Arc<[Authorization]>> {
    let network = (net(), vec(net(), 0..3)).prop_map(|(net, except)| Network { net, except });
    let authorization = (inbound_meta(), vec(network, 0..3), authentication()).prop_map(
        |(meta, networks, authentication)| Authorization { meta, networks, authentication },
    );
    vec(authorization, 0..3).prop_map(Into::into)
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let one =
        (any::<u32>(), vec(workload_id(), 0..3)).prop_map(|(requests_per_second, clients)| {
            RateLimitOverride { requests_per_second, clients }
        });
    (meta(), of(any::<u32>()), of(any::<u32>()), vec(one, 0..3)).prop_map(
        |(meta, total, identity, overrides)| RateLimit { meta, total, identity, overrides },
    )
}

fn http_server() -> impl Strategy<Value = HttpServer> {
    let route = (meta(), authorizations(), route(http_match(), vec(inbound_http_filter(), 0..3)))
        .prop_map(|(meta, authorizations, route)| HttpRoute { meta, authorizations, route });
    (vec(route, 0..3), of(rate_limit())).prop_map(|(routes, rate_limit)| HttpServer {
        routes: routes.into(),
        rate_limit: rate_limit.map(Arc::new),
    })
}

fn protocol() -> impl Strategy<Value = InboundProtocol> {
    let grpc = (meta(), authorizations(), route(grpc_match(), vec(inbound_grpc_filter(), 0..3)))
        .prop_map(|(meta, authorizations, route)| GrpcRoute { meta, authorizations, route });
    prop_oneof![
        (duration(), http_server())
            .prop_map(|(timeout, http)| InboundProtocol::Detect { timeout, http }),
        http_server().prop_map(InboundProtocol::Http1),
        http_server().prop_map(InboundProtocol::Http2),
        vec(grpc, 0..3).prop_map(|routes| InboundProtocol::Grpc(routes.into())),
        Just(InboundProtocol::Opaque),
        Just(InboundProtocol::Tls),
    ]
}

fn policy() -> impl Strategy<Value = InboundPolicy> {
    (inbound_meta(), protocol(), authorizations()).prop_map(|(server, protocol, authorizations)| {
        InboundPolicy { server, protocol, authorizations }
    })
}

proptest! {
    #[test]
    fn inbound_policies_survive(policy in policy()) {
        let back = inbound::from_wire(through_bytes(inbound::to_wire(&policy)));
        prop_assert_eq!(back, Ok(policy));
    }
}

#[test]
fn names_servers_and_authorizations_as_linkerd_does() {
    let server = Meta::resource("policy.linkerd.io", "Server", "emojivoto", "web-http");
    let meta = Meta::resource("policy.linkerd.io", "AuthorizationPolicy", "emojivoto", "web");
    let authentication = Authentication::any_identity();
    let authorization = Authorization { meta, networks: Network::all(), authentication };
    let authorizations = Arc::from([authorization]);
    let protocol = InboundProtocol::Opaque;
    let wire = inbound::to_wire(&InboundPolicy { server, protocol, authorizations });
    let label = |key: &str| wire.labels.get(key).map(String::as_str);
    assert_eq!(label("group"), Some("policy.linkerd.io"));
    assert_eq!((label("kind"), label("name")), (Some("server"), Some("web-http")));
    assert_eq!(wire.labels.len(), 3);
    assert_eq!(wire.authorizations[0].labels["kind"], "authorizationpolicy");
    let back = inbound::from_wire(wire).expect("valid");
    assert_eq!(back.authorizations[0].meta.kind(), "authorizationpolicy");
    assert_eq!(back.authorizations[0].authentication, Authentication::any_identity());
}

#[test]
fn a_policy_with_a_part_that_is_not_understood_is_refused() {
    let policy = InboundPolicy {
        server: Meta::default("deny"),
        protocol: InboundProtocol::Opaque,
        authorizations: Arc::new([]),
    };
    let wire = inbound::to_wire(&policy);
    assert!(inbound::from_wire(wire.clone()).is_ok());

    let no_protocol = hauberk_wire::api::inbound::Server { protocol: None, ..wire.clone() };
    let error = inbound::from_wire(no_protocol).expect_err("no protocol");
    assert_eq!((error.field, error.reason.label()), ("Server.protocol", "missing"));

    let mut no_proof = wire;
    no_proof.authorizations.push(hauberk_wire::api::inbound::Authz {
        metadata: Some(hauberk_wire::api::meta::Metadata {
            kind: Some(hauberk_wire::api::meta::metadata::Kind::Default("x".into())),
        }),
        ..Default::default()
    });
    let error = inbound::from_wire(no_proof).expect_err("no authentication");
    assert_eq!(error.field, "Authz.authentication");
}
