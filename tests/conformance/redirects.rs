//! Cases about redirects. The suite looks at the status only; here the location counts too.

use crate::{Case, ask::Ask, route_on_echo};

/// A redirect: the path that leads to it, what the filter says, what is asked for, status and
/// location of the answer.
type Redirect = (&'static str, &'static str, &'static str, u16, &'static str);

fn case(name: &'static str, redirects: &[Redirect]) -> Case {
    let rule = |(path, filter, ..): &Redirect| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]
"
        )
    };
    let rules: String = redirects.iter().map(rule).collect();
    let asks = redirects
        .iter()
        .map(|(_, _, asked, status, location)| Ask::new(*asked).redirected_to(*status, location));
    Case { name, asks: asks.collect(), routes: route_on_echo("HTTPRoute", Some(80), &rules) }
}

#[rustfmt::skip]
pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("MeshHTTPRoute303Redirect", &[
            ("/redirect", "statusCode: 303", "/redirect", 303, "http://echo/redirect"),
        ]),
        case("MeshHTTPRoute307Redirect", &[
            ("/temporary", "statusCode: 307", "/temporary", 307, "http://echo/temporary"),
        ]),
        case("MeshHTTPRoute308Redirect", &[
            ("/permanent", "statusCode: 308", "/permanent", 308, "http://echo/permanent"),
        ]),
        case("MeshHTTPRouteRedirectHostAndStatus", &[
            ("/host", "hostname: example.org", "/host", 302, "http://example.org/host"),
            ("/host-and-status", "hostname: example.org, statusCode: 301",
             "/host-and-status", 301, "http://example.org/host-and-status"),
        ]),
        case("MeshHTTPRouteRedirectPath", &[
            ("/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
             "/old/lemon", 302, "http://echo/new/lemon"),
            ("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all-new}",
             "/full/path/original", 302, "http://echo/all-new"),
            ("/old-and-host", "hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
             "/old-and-host", 302, "http://example.org/new"),
            ("/old-and-status", "statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
             "/old-and-status", 301, "http://echo/new"),
            ("/full-and-host", "hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /all-new}",
             "/full-and-host", 302, "http://example.org/all-new"),
            ("/full-and-status", "statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /all-new}",
             "/full-and-status", 301, "http://echo/all-new"),
        ]),
        case("MeshHTTPRouteRedirectPort", &[
            ("/port", "port: 8083", "/port", 302, "http://echo:8083/port"),
            ("/port-and-host", "port: 8083, hostname: example.org",
             "/port-and-host", 302, "http://example.org:8083/port-and-host"),
            ("/port-and-status", "port: 8083, statusCode: 301",
             "/port-and-status", 301, "http://echo:8083/port-and-status"),
            ("/port-and-host-and-status", "port: 8083, hostname: example.org, statusCode: 302",
             "/port-and-host-and-status", 302, "http://example.org:8083/port-and-host-and-status"),
        ]),
        case("MeshHTTPRouteSchemeRedirect", &[
            ("/scheme", "scheme: https", "/scheme", 302, "https://echo/scheme"),
            ("/scheme-and-host", "scheme: https, hostname: example.org",
             "/scheme-and-host", 302, "https://example.org/scheme-and-host"),
            ("/scheme-and-status", "scheme: https, statusCode: 301",
             "/scheme-and-status", 301, "https://echo/scheme-and-status"),
            ("/scheme-and-host-and-status", "scheme: https, hostname: example.org, statusCode: 302",
             "/scheme-and-host-and-status", 302, "https://example.org/scheme-and-host-and-status"),
        ]),
    ]
}
