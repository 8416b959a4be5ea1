//! Cases about which requests go where.

use crate::{Case, ask::Ask, route_on_echo};

/// An HTTPRoute on port 80 of `echo`.
fn http(rules: &str) -> String {
    route_on_echo("HTTPRoute", Some(80), rules)
}

pub(crate) fn cases() -> Vec<Case> {
    let (v1, v2) = ("echo-v1", "echo-v2");
    vec![
        Case {
            name: "MeshHTTPRouteSimpleSameNamespace",
            routes: http("  - backendRefs: [{name: echo-v1, port: 8080}]\n"),
            asks: vec![Ask::new("/").reaches(v1)],
        },
        Case { name: "MeshTrafficSplit", routes: split(), asks: split_asks() },
        matching(),
        Case {
            name: "MeshHTTPRouteNamedRule",
            routes: http(
                "  - name: first-rule
    matches: [{path: {type: PathPrefix, value: /named}}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /unnamed}}]
    backendRefs: [{name: echo-v2, port: 8080}]
",
            ),
            asks: vec![
                Ask::new("/named").reaches(v1).arrives_at("/named"),
                Ask::new("/unnamed").reaches(v2).arrives_at("/unnamed"),
            ],
        },
        query_parameters(),
        Case {
            name: "MeshHTTPRouteWeight",
            routes: http(
                "  - backendRefs:
    - {name: echo-v1, port: 8080, weight: 70}
    - {name: echo-v2, port: 8080, weight: 30}
",
            ),
            asks: vec![Ask::new("/").shared_by(&[(v1, 0.7), (v2, 0.3)])],
        },
        // The backend without a share does not even exist.
        Case {
            name: "MeshGRPCRouteWeight",
            routes: route_on_echo(
                "GRPCRoute",
                Some(7070),
                "  - backendRefs:
    - {name: echo-v1, port: 7070, weight: 70}
    - {name: echo-v2, port: 7070, weight: 30}
    - {name: echo-v3, port: 7070, weight: 0}
",
            ),
            asks: vec![Ask::new("grpc://echo:7070").shared_by(&[(v1, 0.7), (v2, 0.3)])],
        },
    ]
}

/// Whole paths to versions, on every port of the service.
fn split() -> String {
    let rules = "  - matches: [{path: {type: Exact, value: /v1}}]
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{path: {type: Exact, value: /v2}}]
    backendRefs: [{name: echo-v2, port: 80}]
";
    route_on_echo("HTTPRoute", None, rules)
}

fn split_asks() -> Vec<Ask> {
    vec![Ask::new("/v1").reaches("echo-v1"), Ask::new("/v2").reaches("echo-v2")]
}

/// Paths by segment and headers; the longest path wins, and any one match is enough.
fn matching() -> Case {
    let routes = http(
        "  - matches:
    - path: {type: PathPrefix, value: /}
    - headers: [{name: version, value: one}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /v2}
    - headers: [{name: version, value: two}]
    backendRefs: [{name: echo-v2, port: 8080}]
",
    );
    let to = |backend, path: &str| Ask::new(path).reaches(backend);
    let (v1, v2) = ("echo-v1", "echo-v2");
    let asks = vec![
        to(v1, "/"),
        to(v1, "/example"),
        to(v1, "/").with("Version", "one"),
        to(v1, "/v2example"),
        to(v1, "/foo/v2/example"),
        to(v2, "/v2"),
        to(v2, "/v2/"),
        to(v2, "/v2/example"),
        to(v2, "/").with("Version", "two"),
    ];
    Case { name: "MeshHTTPRouteMatching", routes, asks }
}

/// Parameters of the query, alone and with other conditions; no rule matches the rest.
fn query_parameters() -> Case {
    let routes = http(
        "  - matches: [{queryParams: [{name: animal, value: whale}]}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{queryParams: [{name: animal, value: dolphin}]}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /path1}
      queryParams: [{name: animal, value: whale}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches:
    - headers: [{name: version, value: one}]
      queryParams: [{name: animal, value: whale}]
    backendRefs: [{name: echo-v2, port: 8080}]
  - matches:
    - path: {type: PathPrefix, value: /path3}
      queryParams: [{name: animal, value: shark}]
    - path: {type: PathPrefix, value: /path4}
      headers: [{name: version, value: three}]
      queryParams: [{name: animal, value: kraken}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /path5}}]
    backendRefs: [{name: echo-v1, port: 8080}]
  - matches: [{queryParams: [{name: animal, value: hydra}]}]
    backendRefs: [{name: echo-v2, port: 8080}]
",
    );
    let to = |backend, path: &'static str| Ask::new(path).reaches(backend).arrives_at(path);
    let nowhere = |path: &str| Ask::new(path).refused_with(404);
    let (v1, v2) = ("echo-v1", "echo-v2");
    let asks = vec![
        to(v1, "/?animal=whale"),
        to(v2, "/?animal=dolphin"),
        to(v1, "/?animal=whale&otherparam=irrelevant"),
        to(v2, "/?animal=dolphin&color=yellow"),
        nowhere("/?color=blue"),
        nowhere("/?animal=dog"),
        nowhere("/?animal=whaledolphin"),
        nowhere("/"),
        to(v1, "/path1?animal=whale"),
        to(v2, "/?animal=whale").with("version", "one"),
        to(v1, "/path3?animal=shark"),
        to(v1, "/path4?animal=kraken").with("version", "three"),
        nowhere("/?animal=shark"),
        nowhere("/path4?animal=kraken"),
        // A path beats a parameter, whatever the order of rules.
        to(v1, "/path5?animal=hydra"),
    ];
    Case { name: "MeshHTTPRouteQueryParamMatching", routes, asks }
}
