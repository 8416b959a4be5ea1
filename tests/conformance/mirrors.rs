//! Cases about copies of requests. That of gRPC is the suite's for meshes; those of HTTP are its
//! for gateways (`HTTPRouteRequestMirror`, `HTTPRouteRequestMultipleMirrors`), asked of the mesh.

use crate::{Case, ask::Ask, route_on_echo};

pub(crate) fn cases() -> Vec<Case> {
    vec![calls(), requests(), several()]
}

fn mirror(backend: &str, port: u16) -> String {
    format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {backend}, port: {port}}}}}}}"
    )
}

const EDITS: &str = "{type: RequestHeaderModifier, requestHeaderModifier: {\
    set: [{name: X-Header-Set, value: set-overwrites-values}], \
    add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], \
    remove: [X-Header-Remove]}}";

/// The same two rules for both protocols: a copy, and a copy with edits beside it.
fn rules(port: u16) -> String {
    let mirror = mirror("echo-v2", port);
    format!(
        "  - matches: [{{headers: [{{name: x-mirror-only, value: 'true'}}]}}]
    filters: [{mirror}]
    backendRefs: [{{name: echo-v1, port: {port}}}]
  - matches: [{{headers: [{{name: x-mirror-and-modify, value: 'true'}}]}}]
    filters: [{EDITS}, {mirror}]
    backendRefs: [{{name: echo-v1, port: {port}}}]
  - backendRefs: [{{name: echo-v1, port: {port}}}]
"
    )
}

fn asks(url: &'static str, ids: [&'static str; 3]) -> Vec<Ask> {
    let ask = |id| Ask::new(url).reaches("echo-v1").with("x-copy-id", id);
    vec![
        ask(ids[0]).with("x-mirror-only", "true").copied_to("echo-v2", ids[0]),
        ask(ids[1])
            .with("x-mirror-and-modify", "true")
            .with("X-Header-Remove", "remove-val")
            .with("X-Header-Add-Append", "append-val-1")
            .arrives_with("X-Header-Set", "set-overwrites-values")
            .arrives_with("X-Header-Add", "header-val-1")
            .arrives_with("X-Header-Add-Append", "append-val-1,header-val-2")
            .arrives_without("X-Header-Remove")
            .copied_to("echo-v2", ids[1]),
        // No copy of what no rule with a mirror is for.
        ask(ids[2]).not_copied_to("echo-v2", ids[2]),
    ]
}

fn calls() -> Case {
    // gRPC wants header names in lower case.
    let asks = asks("grpc://echo:7070", ["call-1", "call-2", "call-3"]);
    let asks = asks.into_iter().map(Ask::in_lower_case).collect();
    let routes = route_on_echo("GRPCRoute", Some(7070), &rules(7070));
    Case { name: "MeshGRPCRouteRequestMirror", routes, asks }
}

fn requests() -> Case {
    let asks = asks("/mirrored", ["http-1", "http-2", "http-3"]);
    let routes = route_on_echo("HTTPRoute", Some(80), &rules(80));
    Case { name: "HTTPRouteRequestMirror", routes, asks }
}

fn several() -> Case {
    let renamed = "{type: RequestHeaderModifier, requestHeaderModifier: {\
        set: [{name: x-copy-id, value: of-backend}]}}";
    let to_v2 = mirror("echo-v2", 80);
    let rules = format!(
        "  - filters: [{to_v2}, {}]
    backendRefs: [{{name: echo-v1, port: 80, filters: [{renamed}, {to_v2}]}}]
",
        mirror("gone", 80)
    );
    // A mirror that leads nowhere is left out. Each copy looks as the request did where it was made.
    let ask = Ask::new("/multi-mirror").reaches("echo-v1").with("x-copy-id", "of-rule");
    let asks = vec![
        ask.arrives_with("x-copy-id", "of-backend")
            .copied_to("echo-v2", "of-rule")
            .copied_to("echo-v2", "of-backend"),
    ];
    let routes = route_on_echo("HTTPRoute", Some(80), &rules);
    Case { name: "HTTPRouteRequestMultipleMirrors", routes, asks }
}
