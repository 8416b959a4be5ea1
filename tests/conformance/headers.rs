//! Cases about headers that routes edit.

use crate::{
    Case,
    ask::{Ask, From},
    route_on_echo,
};

/// What is asked for, and the edits that then happen.
const EDITS: [(&str, &str); 5] = [
    ("set", "{set: [{name: X-Header-Set, value: set-overwrites-values}]}"),
    ("add", "{add: [{name: X-Header-Add, value: add-appends-values}]}"),
    ("remove", "{remove: [X-Header-Remove]}"),
    (
        "multiple",
        "{set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}],
      add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, {name: X-Header-Add-3, value: header-add-3}],
      remove: [X-Header-Remove-1, X-Header-Remove-2]}",
    ),
    (
        "case-insensitivity",
        "{set: [{name: X-Header-Set, value: header-set}], add: [{name: X-Header-Add, value: header-add}], remove: [X-Header-Remove]}",
    ),
];

/// One rule for each path, whose edits stand on the rule or on its backend.
fn on_paths(is_on_backend: bool) -> String {
    let rule = |(path, edits): &(&str, &str)| {
        let filters =
            format!("filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {edits}}}]");
        let (on_rule, on_backend) = match is_on_backend {
            true => (String::new(), format!(", {filters}")),
            false => (format!("    {filters}\n"), String::new()),
        };
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: /{path}}}}}]
{on_rule}    backendRefs: [{{name: echo-v1, port: 8080{on_backend}}}]
"
        )
    };
    let rules: String = EDITS.iter().map(rule).collect();
    route_on_echo("HTTPRoute", Some(80), &rules)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case { name: "MeshHTTPRouteRequestHeaderModifier", routes: on_paths(false), asks: asks() },
        Case {
            name: "MeshHTTPRouteBackendRequestHeaderModifier",
            routes: on_paths(true),
            asks: asks(),
        },
        calls(),
    ]
}

fn asks() -> Vec<Ask> {
    let to = |path: &'static str| Ask::new(path).reaches("echo-v1").arrives_at(path);
    let other =
        |path| to(path).with("Some-Other-Header", "val").arrives_with("Some-Other-Header", "val");
    let (set, add, remove) = ("X-Header-Set", "X-Header-Add", "X-Header-Remove");
    vec![
        other("/set").arrives_with(set, "set-overwrites-values"),
        other("/set").with(set, "some-other-value").arrives_with(set, "set-overwrites-values"),
        other("/add").arrives_with(add, "add-appends-values"),
        other("/add")
            .with(add, "some-other-value")
            .arrives_with(add, "some-other-value,add-appends-values"),
        to("/remove").with(remove, "val").arrives_without(remove),
        other("/multiple")
            .with("X-Header-Set-2", "set-val-2")
            .with("X-Header-Add-2", "add-val-2")
            .with("X-Header-Remove-2", "remove-val-2")
            .arrives_with("X-Header-Set-1", "header-set-1")
            .arrives_with("X-Header-Set-2", "header-set-2")
            .arrives_with("X-Header-Add-1", "header-add-1")
            .arrives_with("X-Header-Add-2", "add-val-2,header-add-2")
            .arrives_with("X-Header-Add-3", "header-add-3")
            .arrives_without("X-Header-Remove-1")
            .arrives_without("X-Header-Remove-2"),
        other("/case-insensitivity")
            .with("x-header-set", "original-val-set")
            .with("x-header-add", "original-val-add")
            .with("x-header-remove", "original-val-remove")
            .arrives_with(set, "header-set")
            .arrives_with(add, "original-val-add,header-add")
            .arrives_without(remove),
    ]
}

/// The same of gRPC calls, which are told apart by a header.
fn calls() -> Case {
    let rule = |(case, edits): &(&str, &str), backend: &str| {
        format!(
            "  - matches: [{{headers: [{{name: x-test-case, value: {case}}}]}}]
    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {edits}}}]
    backendRefs: [{{name: {backend}, port: 7070}}]
"
        )
    };
    let [set, add, remove, multiple, _] = &EDITS;
    let rules = rule(set, "echo-v1")
        + &rule(add, "echo-v1")
        + &rule(remove, "echo-v1")
        + &rule(multiple, "echo-v2");
    let call = |case: &'static str, backend| {
        let call = Ask::new("grpc://echo:7070").reaches(backend).with("x-test-case", case);
        call.arrives_with("x-test-case", case)
    };
    let asks = vec![
        call("set", "echo-v1")
            .with("some-other-header", "stays")
            .with("x-header-set", "is-overwritten")
            .arrives_with("some-other-header", "stays")
            .arrives_with("x-header-set", "set-overwrites-values"),
        call("add", "echo-v1")
            .with("x-header-add", "is-first")
            .arrives_with("x-header-add", "is-first,add-appends-values"),
        call("remove", "echo-v1")
            .with("x-header-remove", "goes")
            .arrives_without("x-header-remove"),
        call("multiple", "echo-v2")
            .from(From::V2)
            .with("x-header-set-2", "is-overwritten")
            .with("x-header-add-2", "is-first")
            .with("x-header-remove-2", "goes")
            .arrives_with("x-header-set-1", "header-set-1")
            .arrives_with("x-header-set-2", "header-set-2")
            .arrives_with("x-header-add-1", "header-add-1")
            .arrives_with("x-header-add-2", "is-first,header-add-2")
            .arrives_without("x-header-remove-1")
            .arrives_without("x-header-remove-2"),
    ];
    let routes = route_on_echo("GRPCRoute", Some(7070), &rules);
    Case { name: "MeshGRPCRouteRequestHeaderModifier", routes, asks }
}
