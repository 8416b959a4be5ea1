//! Metric families about routes, in the newer naming of linkerd2-proxy v2.
//!
//! | prefix | labels | when |
//! |---|---|---|
//! | `outbound_{http,grpc}_route_backend_` | parent, route, backend | each request given to a backend |
//! | `outbound_{http,grpc}_route_` | parent, route | each request that a route was found for |
//! | `inbound_{http,grpc}_` | server, route | each request that was permitted |
//!
//! [`RouteSeries`] are resolved when a policy is compiled (outbound) or when a connection meets a
//! route (inbound). A request costs one addition when it is given on, and one addition and one
//! search among a handful of bounds when it has ended.
//!
//! | `outbound_{http,grpc}_route_retry_` | parent, route | rules that retry |
//!
//! Where the settings ask for host names as labels, the series of a route differ by them too; see
//! [`Hosts`](crate::outbound::backend::Hosts).

use crate::{
    http::classify::{Break, Class},
    telemetry::{http::Series, labels::Labels},
};
use hauberk_process::metrics::{Counter, Distribution, Family, Registry, Unit};
use http::StatusCode;
use std::{cell::RefCell, time::Duration};

type Counters = Family<Labels, Counter>;
type Distributions = Family<Labels, Distribution>;

/// Bounds in seconds of what a backend takes.
const BACKEND_BOUNDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
/// Bounds in bytes of pieces of bodies.
const FRAME_BOUNDS: &[f64] = &[128.0, 1024.0, 10_240.0];
/// Bounds in seconds of what a route takes, all attempts together.
const ROUTE_BOUNDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];

/// The route families of both protocols and directions.
#[derive(Clone, Debug)]
pub struct Families {
    /// `outbound_http_route_backend_*`.
    pub http_backend: Family3,
    /// `outbound_grpc_route_backend_*`.
    pub grpc_backend: Family3,
    /// `outbound_http_route_*`.
    pub http_route: Family3,
    /// `outbound_grpc_route_*`.
    pub grpc_route: Family3,
    /// `inbound_http_*`.
    pub http_inbound: Family3,
    /// `inbound_grpc_*`.
    pub grpc_inbound: Family3,
    /// `outbound_http_route_retry_*`.
    pub http_retry: RetryFamilies,
    /// `outbound_grpc_route_retry_*`.
    pub grpc_retry: RetryFamilies,
}

/// What becomes of retries.
#[derive(Clone, Debug)]
pub struct RetryFamilies {
    requests: Counters,
    successes: Counters,
    limit_exceeded: Counters,
    overflow: Counters,
}

/// The retry counters of one route.
#[derive(Clone, Debug)]
pub struct RetrySeries {
    /// Attempts after the first ones.
    pub requests: Counter,
    /// Requests that went well after a retry.
    pub successes: Counter,
    /// Requests that failed with their last allowed attempt.
    pub limit_exceeded: Counter,
    /// Requests that were not tried again because too many others were.
    pub overflow: Counter,
}

/// Requests, what they took, and how they ended.
#[derive(Clone, Debug)]
pub struct Family3 {
    requests: Option<Counters>,
    duration: Distributions,
    /// From the end of the request to the end of the response.
    response_duration: Option<Distributions>,
    request_frames: Option<Distributions>,
    response_frames: Option<Distributions>,
    statuses: Counters,
    protocol: Protocol,
    side: Side,
}

/// How an ending is labelled. linkerd2-proxy (seen with that of August 2026) has two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// `http_status` as a number or `grpc_status` as a name, and `error`.
    Outbound,
    /// `status`, a number for both protocols, empty where there is none.
    Inbound,
}

/// Which status is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Grpc,
}

impl Families {
    /// Registers all families.
    pub fn register(registry: &mut Registry) -> Self {
        let mut backend = |protocol: Protocol| {
            let prefix = format!("outbound_{}_route_backend", protocol.as_str());
            Family3 {
                requests: Some(counters(registry, format!("{prefix}_requests"))),
                duration: durations(
                    registry,
                    format!("{prefix}_response_duration"),
                    BACKEND_BOUNDS,
                ),
                response_duration: None,
                request_frames: None,
                response_frames: Some(frames(registry, format!("{prefix}_response_frame_size"))),
                statuses: counters(registry, format!("{prefix}_response_statuses")),
                protocol,
                side: Side::Outbound,
            }
        };
        let (http_backend, grpc_backend) = (backend(Protocol::Http), backend(Protocol::Grpc));
        let mut route = |protocol: Protocol| {
            let prefix = format!("outbound_{}_route", protocol.as_str());
            Family3 {
                requests: None,
                duration: durations(registry, format!("{prefix}_request_duration"), ROUTE_BOUNDS),
                response_duration: None,
                request_frames: Some(frames(registry, format!("{prefix}_request_frame_size"))),
                response_frames: None,
                statuses: counters(registry, format!("{prefix}_request_statuses")),
                protocol,
                side: Side::Outbound,
            }
        };
        let (http_route, grpc_route) = (route(Protocol::Http), route(Protocol::Grpc));
        let mut inbound = |protocol: Protocol| {
            let prefix = format!("inbound_{}", protocol.as_str());
            Family3 {
                requests: Some(counters(registry, format!("{prefix}_requests"))),
                duration: durations(registry, format!("{prefix}_request_duration"), BACKEND_BOUNDS),
                response_duration: Some(durations(
                    registry,
                    format!("{prefix}_response_duration"),
                    ROUTE_BOUNDS,
                )),
                request_frames: Some(frames(registry, format!("{prefix}_request_frame_size"))),
                response_frames: Some(frames(registry, format!("{prefix}_response_frame_size"))),
                statuses: counters(registry, format!("{prefix}_statuses")),
                protocol,
                side: Side::Inbound,
            }
        };
        let (http_inbound, grpc_inbound) = (inbound(Protocol::Http), inbound(Protocol::Grpc));
        let http_retry = RetryFamilies::register(registry, Protocol::Http);
        let grpc_retry = RetryFamilies::register(registry, Protocol::Grpc);
        Self {
            http_backend,
            grpc_backend,
            http_route,
            grpc_route,
            http_inbound,
            grpc_inbound,
            http_retry,
            grpc_retry,
        }
    }
}

impl RetryFamilies {
    fn register(registry: &mut Registry, protocol: Protocol) -> Self {
        let mut family = |name: &str| {
            counters(registry, format!("outbound_{}_route_retry_{name}", protocol.as_str()))
        };
        Self {
            requests: family("requests"),
            successes: family("successes"),
            limit_exceeded: family("limit_exceeded"),
            overflow: family("overflow"),
        }
    }

    /// Resolves the counters for `labels`.
    pub fn series(&self, labels: &Labels) -> RetrySeries {
        RetrySeries {
            requests: self.requests.get_or_create(labels),
            successes: self.successes.get_or_create(labels),
            limit_exceeded: self.limit_exceeded.get_or_create(labels),
            overflow: self.overflow.get_or_create(labels),
        }
    }
}

fn counters(registry: &mut Registry, name: String) -> Counters {
    let family = Counters::default().forgetful();
    registry.register(name, "Requests of a route", family.clone());
    family
}

fn durations(registry: &mut Registry, name: String, bounds: &'static [f64]) -> Distributions {
    let family = Distributions::new(move || Distribution::new(bounds)).forgetful();
    registry.register_with_unit(name, "Time of a request", Unit::Seconds, family.clone());
    family
}

fn frames(registry: &mut Registry, name: String) -> Distributions {
    let family = Distributions::new(|| Distribution::new(FRAME_BOUNDS)).forgetful();
    registry.register_with_unit(name, "Pieces of bodies", Unit::Bytes, family.clone());
    family
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        }
    }
}

impl Family3 {
    /// Resolves the counters for `labels`.
    pub fn series(&self, labels: Labels) -> RouteSeries {
        let resolve = |family: &Option<Distributions>| {
            family.as_ref().map(|family| family.get_or_create(&labels))
        };
        RouteSeries::Policy(PolicySeries {
            response_duration: resolve(&self.response_duration),
            request_frames: resolve(&self.request_frames),
            response_frames: resolve(&self.response_frames),
            requests: self.requests.as_ref().map(|family| family.get_or_create(&labels)),
            duration: self.duration.get_or_create(&labels),
            statuses: self.statuses.clone(),
            known: RefCell::default(),
            protocol: self.protocol,
            side: self.side,
            labels,
        })
    }
}

/// The counters of one route, or of one backend of it.
#[derive(Debug)]
pub enum RouteSeries {
    /// In the families here.
    Policy(PolicySeries),
    /// In those of service profiles.
    Profile(Series),
}

/// The counters of a route of a policy.
#[derive(Debug)]
pub struct PolicySeries {
    requests: Option<Counter>,
    duration: Distribution,
    response_duration: Option<Distribution>,
    request_frames: Option<Distribution>,
    response_frames: Option<Distribution>,
    statuses: Counters,
    known: RefCell<Vec<(Ending, Counter)>>,
    protocol: Protocol,
    side: Side,
    labels: Labels,
}

/// What the labels of an ending are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    status: Option<u16>,
    error: &'static str,
}

impl RouteSeries {
    /// A request was given on.
    pub fn request(&self) {
        match self {
            RouteSeries::Policy(series) => {
                if let Some(requests) = &series.requests {
                    requests.inc();
                }
            }
            RouteSeries::Profile(series) => series.request(),
        }
    }

    /// Where pieces of request bodies are counted.
    pub fn request_frames(&self) -> Option<&Distribution> {
        match self {
            RouteSeries::Policy(series) => series.request_frames.as_ref(),
            RouteSeries::Profile(_) => None,
        }
    }

    /// A piece of a response's body is here.
    pub fn response_frame(&self, bytes: usize) {
        if let RouteSeries::Policy(PolicySeries { response_frames: Some(frames), .. }) = self {
            frames.observe(bytes as f64);
        }
    }

    /// Whether it matters when a request's body ended.
    pub fn wants_request_end(&self) -> bool {
        matches!(self, RouteSeries::Policy(PolicySeries { response_duration: Some(_), .. }))
    }

    /// A response has ended so long after its request had.
    pub fn answered(&self, after: Duration) {
        if let RouteSeries::Policy(PolicySeries { response_duration: Some(duration), .. }) = self {
            duration.observe(after.as_secs_f64());
        }
    }

    /// A request has ended with a response.
    pub fn response(&self, status: StatusCode, class: Class, took: Duration) {
        match self {
            RouteSeries::Policy(series) => series.response(status, class, took),
            RouteSeries::Profile(series) => series.response(Some(status), class, took),
        }
    }

    /// A request has ended without a response of its backend; `error` says why, `how` says it in
    /// fewer words.
    pub fn failed(&self, error: &'static str, how: Break, took: Duration) {
        match self {
            RouteSeries::Policy(series) => series.ended(Ending { status: None, error }, took),
            RouteSeries::Profile(series) => series.response(None, Class::Broken(how), took),
        }
    }
}

impl PolicySeries {
    fn response(&self, status: StatusCode, class: Class, took: Duration) {
        let (grpc, error) = match class {
            Class::Http(_) => (None, ""),
            Class::Grpc(_, code) => (Some(code), ""),
            Class::Broken(how) => (None, error_name(how)),
        };
        let status = match self.protocol {
            Protocol::Http => Some(status.as_u16()),
            Protocol::Grpc => grpc,
        };
        self.ended(Ending { status, error }, took);
    }

    fn ended(&self, ending: Ending, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == ending) {
            counter.inc();
            return;
        }
        let labels = self.labels.clone();
        let number = || ending.status.map_or(String::new(), |status| status.to_string());
        let labels = match (self.side, self.protocol) {
            (Side::Inbound, _) => labels.with("status", number()),
            (Side::Outbound, Protocol::Http) => {
                labels.with("http_status", number()).with("error", ending.error)
            }
            (Side::Outbound, Protocol::Grpc) => labels
                .with("grpc_status", grpc_name(ending.status, ending.error))
                .with("error", ending.error),
        };
        let counter = self.statuses.get_or_create(&labels);
        counter.inc();
        known.push((ending, counter));
    }
}

/// Value of the label `error` for a stream that broke.
pub fn error_name(how: Break) -> &'static str {
    match how {
        Break::Timeout(limit) => limit.name(),
        Break::Withdrawn => "UNAUTHORIZED",
        Break::Reset(h2::Reason::CANCEL) => "CANCEL",
        Break::Reset(h2::Reason::REFUSED_STREAM) => "REFUSED",
        Break::Reset(h2::Reason::ENHANCE_YOUR_CALM) => "ENHANCE_YOUR_CALM",
        Break::Reset(_) => "RESET",
        Break::Unclassified => "IO",
    }
}

/// The name of a gRPC code, as the gRPC status code documentation spells it.
fn grpc_name(code: Option<u16>, error: &str) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    match code {
        Some(code) => NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN"),
        None if error.is_empty() => "UNKNOWN",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::classify::Verdict;

    #[test]
    fn writes_the_families_of_both_protocols() {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let labels = || Labels::new().with("route_name", "r");
        let second = Duration::from_secs(1);
        let http = families.http_backend.series(labels());
        http.request();
        http.response(StatusCode::OK, Class::Http(Verdict::Success), second);
        http.response(StatusCode::OK, Class::Broken(Break::Unclassified), second);
        http.failed("FAIL_FAST", Break::Unclassified, second);
        let grpc = families.grpc_route.series(labels());
        grpc.response(StatusCode::OK, Class::Grpc(Verdict::Failure, 13), second);
        let inbound = families.http_inbound.series(labels());
        inbound.response(StatusCode::OK, Class::Http(Verdict::Success), second);
        inbound.response(StatusCode::OK, Class::Broken(Break::Unclassified), second);
        inbound.failed("FAIL_FAST", Break::Unclassified, second);
        let calls = families.grpc_inbound.series(labels());
        calls.response(StatusCode::OK, Class::Grpc(Verdict::Failure, 13), second);
        inbound.request_frames().unwrap().observe(100.0);
        inbound.response_frame(2000);
        inbound.answered(second);
        let text = registry.text();
        let backend = "outbound_http_route_backend";
        for line in [
            format!("{backend}_requests_total{{route_name=\"r\"}} 1"),
            format!("{backend}_response_duration_seconds_count{{route_name=\"r\"}} 3"),
            format!("{backend}_response_statuses_total{{route_name=\"r\",http_status=\"200\",error=\"\"}} 1"),
            format!("{backend}_response_statuses_total{{route_name=\"r\",http_status=\"200\",error=\"IO\"}} 1"),
            format!("{backend}_response_statuses_total{{route_name=\"r\",http_status=\"\",error=\"FAIL_FAST\"}} 1"),
            "inbound_http_request_frame_size_bytes_bucket{le=\"128.0\",route_name=\"r\"} 1".to_owned(),
            "inbound_http_response_frame_size_bytes_bucket{le=\"1024.0\",route_name=\"r\"} 0".to_owned(),
            "inbound_http_response_frame_size_bytes_sum{route_name=\"r\"} 2000.0".to_owned(),
            "inbound_http_response_duration_seconds_bucket{le=\"1.0\",route_name=\"r\"} 1".to_owned(),
            "outbound_grpc_route_request_statuses_total{route_name=\"r\",grpc_status=\"INTERNAL\",error=\"\"} 1".to_owned(),
            // As linkerd2-proxy writes them.
            "inbound_http_statuses_total{route_name=\"r\",status=\"200\"} 2".to_owned(),
            "inbound_http_statuses_total{route_name=\"r\",status=\"\"} 1".to_owned(),
            "inbound_grpc_statuses_total{route_name=\"r\",status=\"13\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }
}
