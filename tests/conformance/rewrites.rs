//! The case about paths that routes rewrite.

use crate::{Case, ask::Ask, route_on_echo};

/// One rule: its path, the new path, and whether headers are edited too.
fn rule(path: &str, rewrite: &str, edits_headers: bool) -> String {
    let edits = match edits_headers {
        true => {
            "    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Header-Set, value: set-overwrites-values}]
        add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}]
        remove: [X-Header-Remove]
"
        }
        false => "",
    };
    format!(
        "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters:
    - {{type: URLRewrite, urlRewrite: {{path: {rewrite}}}}}
{edits}    backendRefs: [{{name: echo-v1, port: 80}}]
"
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let prefix = |new: &str| format!("{{type: ReplacePrefixMatch, replacePrefixMatch: {new}}}");
    let full = |new: &str| format!("{{type: ReplaceFullPath, replaceFullPath: {new}}}");
    let rules = rule("/prefix/one", &prefix("/one"), false)
        + &rule("/strip-prefix", &prefix("/"), false)
        + &rule("/full/one", &full("/one"), false)
        + &rule("/full/with-headers", &full("/test"), true)
        + &rule("/prefix/with-headers", &prefix("/prefix"), true);

    let to = |path: &str, arrives| Ask::new(path).reaches("echo-v1").arrives_at(arrives);
    let edited = |path, arrives| {
        to(path, arrives)
            .with("X-Header-Remove", "remove-val")
            .with("X-Header-Add-Append", "append-val-1")
            .with("X-Header-Set", "set-val")
            .arrives_with("X-Header-Add", "header-val-1")
            .arrives_with("X-Header-Add-Append", "append-val-1,header-val-2")
            .arrives_with("X-Header-Set", "set-overwrites-values")
            .arrives_without("X-Header-Remove")
    };
    let asks = vec![
        to("/prefix/one/two", "/one/two"),
        to("/prefix/one/two?color=blue", "/one/two?color=blue"),
        to("/strip-prefix/three", "/three"),
        to("/strip-prefix", "/"),
        to("/full/one/two", "/one"),
        edited("/full/with-headers/test", "/test"),
        edited("/prefix/with-headers/one", "/prefix/one"),
    ];
    let routes = route_on_echo("HTTPRoute", Some(80), &rules);
    vec![Case { name: "MeshHTTPRouteRewritePath", routes, asks }]
}
