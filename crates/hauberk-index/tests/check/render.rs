//! Answers as short text.

use hauberk_index::{Answer, Condition, Status};
use hauberk_model::{
    Endpoint, Endpoints, InboundPolicy, Meta, OutboundPolicy, Profile,
    endpoints::ProtocolHint,
    inbound::{Authentication, Authorization, HttpRoute, HttpServer, InboundProtocol},
    outbound::{
        Backend, BackendTarget, Distribution, HttpPolicy, Load, OpaqueRoute, OutboundProtocol,
        RouteBackend,
    },
    route::http::{HttpMatch, PathMatch},
};
use std::fmt::{Debug, Write};

pub(crate) fn render(answer: &Answer) -> String {
    match answer {
        Answer::Endpoints(endpoints) => endpoints_text(endpoints),
        Answer::Profile(profile) => profile_text(profile),
        Answer::Inbound(policy) => inbound_text(policy),
        Answer::Outbound(policy) => outbound_text(policy),
        Answer::Status(status) => status_text(status),
        Answer::Refused(refusal) => format!("{refusal:?}"),
    }
}

/// `[generation N]`, then conditions, then `on KIND [NAMESPACE/]NAME[:PORT]` with conditions for
/// each parent; a condition is `[not ]CONDITION REASON[: MESSAGE]`.
fn status_text(status: &Status) -> String {
    let mut text = String::new();
    if let Some(generation) = status.generation {
        let _ = writeln!(text, "generation {generation}");
    }
    let condition = |text: &mut String, condition: &Condition| {
        let not = if condition.holds { "" } else { "not " };
        let _ = write!(text, "{not}{} {}", condition.kind, condition.reason);
        let message = &condition.message;
        let _ = if message.is_empty() { writeln!(text) } else { writeln!(text, ": {message}") };
    };
    for one in &status.conditions {
        condition(&mut text, one);
    }
    for on in &status.parents {
        let parent = &on.parent;
        let namespace = parent.namespace.as_ref().map_or(String::new(), |name| format!("{name}/"));
        let port = parent.port.map_or(String::new(), |port| format!(":{port}"));
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        let _ = writeln!(text, "on {kind} {namespace}{}{port}", parent.name);
        for one in &on.conditions {
            condition(&mut text, one);
        }
    }
    text
}

fn endpoints_text(endpoints: &Endpoints) -> String {
    if endpoints.is_empty() {
        return "no endpoints".to_owned();
    }
    let each = endpoints.by_address.values().map(|endpoint| endpoint_text(endpoint) + "\n");
    each.collect()
}

/// `ADDRESS [hint] [via PORT] [tls IDENTITY] [authority A] {labels}`; identities and labels that
/// all have in common are shortened.
fn endpoint_text(endpoint: &Endpoint) -> String {
    let mut text = endpoint.address.to_string();
    match endpoint.hint {
        ProtocolHint::Unknown => {}
        ProtocolHint::Http2 => text += " h2",
        ProtocolHint::Opaque => text += " opaque",
    }
    if let Some(port) = endpoint.opaque_transport {
        let _ = write!(text, " via {port}");
    }
    if let Some(tls) = &endpoint.tls {
        let identity = tls.identity.as_str();
        let short = identity.strip_suffix(".serviceaccount.identity.linkerd.cluster.local");
        let _ = write!(text, " tls {}", short.unwrap_or(identity));
        if tls.identity.as_str() != &*tls.server_name {
            let _ = write!(text, " sni {}", tls.server_name);
        }
    }
    if let Some(authority) = &endpoint.authority_override {
        let _ = write!(text, " authority {authority}");
    }
    if endpoint.http2.is_some() != endpoint.tls.is_some() {
        let _ = write!(text, " http2 {}", endpoint.http2.is_some());
    }
    let labels: Vec<String> = endpoint.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let _ = write!(text, " {{{}}}", labels.join(" "));
    text
}

fn profile_text(profile: &Profile) -> String {
    if *profile == Profile::default() {
        return "empty profile".to_owned();
    }
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what} {value}");
    };
    if let Some(name) = &profile.name {
        line("name", name.to_string());
    }
    if profile.opaque {
        line("opaque", String::new());
    }
    if let Some(endpoint) = &profile.endpoint {
        line("endpoint", endpoint_text(endpoint));
    }
    for route in profile.routes.iter() {
        let labels = route.labels.values().map(|v| v.to_string()).collect::<Vec<_>>().join(" ");
        line("route", format!("{labels} retryable {} {:?}", route.is_retryable, route.timeout));
    }
    match profile.retry_budget {
        None => line("budget", "none".to_owned()),
        Some(budget) if budget == Default::default() => {}
        Some(budget) => line("budget", format!("{budget:?}")),
    }
    for target in &profile.targets {
        line("target", format!("{} {}", target.authority, target.weight));
    }
    for (what, meta) in [("parent", &profile.parent), ("profile", &profile.profile)] {
        if let Some(meta) = meta {
            line(what, meta.to_string());
        }
    }
    text
}

fn inbound_text(policy: &InboundPolicy) -> String {
    let mut text = format!("{} ", policy.server.kind());
    let _ = write!(text, "{} ", policy.server.name());
    match &policy.protocol {
        InboundProtocol::Detect { timeout, http } => {
            let _ = writeln!(text, "detect {timeout:?}");
            http_server(&mut text, http);
        }
        InboundProtocol::Http1(http) => {
            text += "http1\n";
            http_server(&mut text, http);
        }
        InboundProtocol::Http2(http) => {
            text += "http2\n";
            http_server(&mut text, http);
        }
        InboundProtocol::Grpc(routes) => {
            text += "grpc\n";
            for route in routes.iter() {
                let _ = writeln!(text, "grpc route {}", meta_text(&route.meta));
            }
        }
        InboundProtocol::Opaque => text += "opaque\n",
        InboundProtocol::Tls => text += "tls\n",
    }
    authorizations(&mut text, "allow", &policy.authorizations);
    text
}

fn http_server(text: &mut String, http: &HttpServer) {
    for route in http.routes.iter() {
        inbound_route(text, route);
    }
    if let Some(limit) = &http.rate_limit {
        let _ = writeln!(
            text,
            "limit {} total {:?} identity {:?} overrides {:?}",
            limit.meta.name(),
            limit.total,
            limit.identity,
            limit
                .overrides
                .iter()
                .map(|one| format!(
                    "{}: {}",
                    one.requests_per_second,
                    one.clients.iter().map(|c| c.to_string()).collect::<Vec<_>>().join(" ")
                ))
                .collect::<Vec<_>>()
        );
    }
}

fn inbound_route(text: &mut String, route: &HttpRoute) {
    let matches: Vec<String> =
        route.route.rules.iter().flat_map(|rule| &rule.matches).map(match_text).collect();
    let _ = writeln!(text, "route {} {}", meta_text(&route.meta), matches.join(" | "));
    authorizations(text, "  for it", &route.authorizations);
}

pub(crate) fn match_text(one: &HttpMatch) -> String {
    let mut text = one.method.as_ref().map(|m| format!("{m} ")).unwrap_or_default();
    text += &match &one.path {
        None => "*".to_owned(),
        Some(PathMatch::Exact(path)) => path.to_string(),
        Some(PathMatch::Prefix(path)) => format!("{path}*"),
        Some(PathMatch::Regex(pattern)) => format!("~{}", pattern.as_str()),
    };
    for header in &one.headers {
        let _ = write!(text, " {header:?}");
    }
    for parameter in &one.query {
        let _ = write!(text, " {parameter:?}");
    }
    text
}

fn authorizations(text: &mut String, what: &str, all: &[Authorization]) {
    for one in all {
        let networks: Vec<String> = one
            .networks
            .iter()
            .map(|network| {
                let except: Vec<String> =
                    network.except.iter().map(|net| format!(" except {net}")).collect();
                format!("{}{}", network.net, except.concat())
            })
            .collect();
        let networks = match &networks.join(",")[..] {
            "0.0.0.0/0,::/0" => "anywhere".to_owned(),
            "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8" => {
                "cluster".to_owned()
            }
            other => other.to_owned(),
        };
        let who = match &one.authentication {
            Authentication::Unauthenticated => "anybody".to_owned(),
            Authentication::TlsUnauthenticated => "any TLS".to_owned(),
            Authentication::TlsAuthenticated(ids) => {
                ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        };
        let who = who.replace(".serviceaccount.identity.linkerd.cluster.local", "");
        let _ = writeln!(text, "{what} {} {who} from {networks}", meta_text(&one.meta));
    }
}

fn meta_text(meta: &Meta) -> String {
    match meta {
        Meta::Default(name) => name.to_string(),
        Meta::Resource(resource) if resource.namespace.is_empty() => {
            format!("{}/{}", resource.kind, resource.name)
        }
        Meta::Resource(_) => meta.to_string(),
    }
}

fn outbound_text(policy: &OutboundPolicy) -> String {
    let mut text = format!("{}: ", policy.parent);
    match &policy.protocol {
        OutboundProtocol::Detect { timeout, http1, http2, opaque } => {
            let _ = writeln!(text, "detect {timeout:?}");
            assert_eq!(http1, http2, "both versions of HTTP have the same routes");
            http_policy(&mut text, http1);
            opaque_routes(&mut text, opaque);
        }
        OutboundProtocol::Http1(http) => {
            text += "http1\n";
            http_policy(&mut text, http);
        }
        OutboundProtocol::Http2(http) => {
            text += "http2\n";
            http_policy(&mut text, http);
        }
        OutboundProtocol::Opaque(routes) => {
            text += "opaque\n";
            opaque_routes(&mut text, routes);
        }
        OutboundProtocol::Grpc(grpc) => {
            text += "grpc\n";
            for route in grpc.routes.iter() {
                let _ = writeln!(text, "grpc {}", meta_text(&route.meta));
                for rule in &route.route.rules {
                    let _ = writeln!(text, "  {:?}", rule.matches);
                    let action = &rule.action;
                    distribution(&mut text, &action.backends);
                    extras(&mut text, &action.filters, &action.timeouts, &action.retry);
                }
            }
        }
        OutboundProtocol::Tls(routes) => {
            text += "tls\n";
            for route in routes {
                let _ = writeln!(
                    text,
                    "tls {} {:?} {:?}",
                    meta_text(&route.meta),
                    route.snis,
                    route.filters
                );
                distribution(&mut text, &route.backends);
            }
        }
    }
    text
}

fn http_policy(text: &mut String, policy: &HttpPolicy) {
    for route in policy.routes.iter() {
        let _ = writeln!(text, "http {} {:?}", meta_text(&route.meta), route.route.hosts);
        for rule in &route.route.rules {
            let matches: Vec<String> = rule.matches.iter().map(match_text).collect();
            if !matches.is_empty() {
                let _ = writeln!(text, "  {}", matches.join(" | "));
            }
            let action = &rule.action;
            distribution(text, &action.backends);
            extras(text, &action.filters, &action.timeouts, &action.retry);
            if action.allow_l5d_request_headers {
                *text += "  allows l5d headers\n";
            }
        }
    }
    if let Some(accrual) = &policy.failure_accrual {
        let _ = writeln!(text, "breaker {:?}", accrual.kind);
    }
}

fn extras<F: Debug, C: Debug>(
    text: &mut String,
    filters: &[F],
    timeouts: &hauberk_model::timeout::Timeouts,
    retry: &Option<hauberk_model::retry::Retry<C>>,
) {
    for filter in filters {
        let _ = writeln!(text, "  {filter:?}");
    }
    if *timeouts != Default::default() {
        let _ = writeln!(
            text,
            "  timeouts {:?} {:?} {:?}",
            timeouts.request, timeouts.response, timeouts.idle
        );
    }
    if let Some(retry) = retry {
        let _ = writeln!(
            text,
            "  retry {} {:?} {:?}",
            retry.max_retries, retry.conditions, retry.timeout
        );
    }
}

fn opaque_routes(text: &mut String, routes: &[OpaqueRoute]) {
    for route in routes {
        let filters =
            if route.filters.is_empty() { String::new() } else { format!("{:?}", route.filters) };
        let _ = writeln!(text, "opaque {} {filters}", meta_text(&route.meta));
        distribution(text, &route.backends);
    }
}

fn distribution<F: Debug>(text: &mut String, distribution: &Distribution<F>) {
    match distribution {
        Distribution::Empty => *text += "  to nowhere\n",
        Distribution::FirstAvailable(backends) => {
            for backend in backends {
                let _ = writeln!(text, "  to {}", backend_text(backend));
            }
        }
        Distribution::Random(backends) => {
            for (backend, weight) in backends {
                let _ = writeln!(text, "  {weight} to {}", backend_text(backend));
            }
        }
    }
}

fn backend_text<F: Debug>(backend: &RouteBackend<F>) -> String {
    let Backend { meta, target, queue } = &*backend.backend;
    assert_eq!(*queue, Default::default(), "queues are Linkerd's");
    let mut text = match target {
        BackendTarget::Forward(endpoint) => format!("{}", endpoint.address),
        BackendTarget::Balance { authority, load, balancing } => {
            let mut text = authority.to_string();
            match load {
                Load::PeakEwma(ewma) => {
                    assert_eq!(*ewma, Default::default(), "the average is Linkerd's");
                }
                Load::PenaltyPeakEwma { .. } => text += &format!(" {load:?}"),
            }
            if let Some(window) = balancing.slow_start {
                text += &format!(" slow start {window:?}");
            }
            if let Some(affinity) = &balancing.affinity {
                text += &format!(" affinity {:?}", affinity.key);
            }
            if let Some(breaker) = &balancing.breaker {
                text += &format!(" own breaker {:?}", breaker.kind);
            }
            text
        }
        BackendTarget::Invalid(reason) => format!("invalid: {reason}"),
    };
    let _ = write!(text, " ({meta})");
    for filter in &backend.filters {
        let _ = write!(text, " {filter:?}");
    }
    text
}
