//! What a client should do with traffic to a target.

use crate::{
    Endpoint, Meta,
    balancing::Balancing,
    failure_accrual::FailureAccrual,
    filter::{GrpcFilter, HttpFilter, TcpFilter},
    name::Authority,
    retry::{GrpcConditions, HttpConditions, Retry},
    route::{HostMatch, Route, grpc::GrpcMatch, http::HttpMatch},
    timeout::Timeouts,
};
use std::{sync::Arc, time::Duration};

/// Policy for connections to one target.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboundPolicy {
    /// The Service or EgressNetwork, or the rule that stands in for one.
    pub parent: Meta,
    /// What is spoken there, with the routes for it.
    pub protocol: OutboundProtocol,
}

impl OutboundPolicy {
    /// Every backend that requests may go to, as often as it is named; none for bytes that are not
    /// looked into.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let (http, grpc): (&[HttpRoute], &[GrpcRoute]) = match &self.protocol {
            // Both versions have the same routes.
            OutboundProtocol::Detect { http1: http, .. }
            | OutboundProtocol::Http1(http)
            | OutboundProtocol::Http2(http) => (&http.routes, &[]),
            OutboundProtocol::Grpc(grpc) => (&[], &grpc.routes),
            OutboundProtocol::Opaque(_) | OutboundProtocol::Tls(_) => (&[], &[]),
        };
        let http = http.iter().flat_map(|route| &route.route.rules);
        let grpc = grpc.iter().flat_map(|route| &route.route.rules);
        let http = http.flat_map(|rule| rule.action.backends.iter());
        http.chain(grpc.flat_map(|rule| rule.action.backends.iter()))
    }
}

/// Protocol of a target.
#[derive(Clone, Debug, PartialEq)]
pub enum OutboundProtocol {
    /// Look at the first bytes.
    Detect {
        /// How long a silent client is waited for.
        timeout: Duration,
        /// When it is HTTP/1.
        http1: HttpPolicy,
        /// When it is HTTP/2.
        http2: HttpPolicy,
        /// When it is anything else.
        opaque: Vec<OpaqueRoute>,
    },
    /// HTTP/1 for sure.
    Http1(HttpPolicy),
    /// HTTP/2 for sure.
    Http2(HttpPolicy),
    /// gRPC for sure.
    Grpc(GrpcPolicy),
    /// Bytes that are not looked into.
    Opaque(Vec<OpaqueRoute>),
    /// TLS of the application's own, routed by SNI.
    Tls(Vec<TlsRoute>),
}

/// Routes for HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpPolicy {
    /// In order of preference when equal in rank.
    pub routes: Arc<[HttpRoute]>,
    /// When an endpoint is held to be broken.
    pub failure_accrual: Option<FailureAccrual>,
}

/// Routes for gRPC.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrpcPolicy {
    /// In order of preference when equal in rank.
    pub routes: Arc<[GrpcRoute]>,
    /// When an endpoint is held to be broken.
    pub failure_accrual: Option<FailureAccrual>,
}

/// An HTTP route with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// The route resource.
    pub meta: Meta,
    /// Hosts, rules, matches.
    pub route: Route<HttpMatch, HttpRule>,
}

/// A gRPC route with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcRoute {
    /// The route resource.
    pub meta: Meta,
    /// Hosts, rules, matches.
    pub route: Route<GrpcMatch, GrpcRule>,
}

/// What an HTTP rule does.
pub type HttpRule = RuleAction<HttpFilter, HttpConditions>;

/// What a gRPC rule does.
pub type GrpcRule = RuleAction<GrpcFilter, GrpcConditions>;

/// What a rule does with a request: `F` are its filters, `C` its retry conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleAction<F, C> {
    /// Filters in order.
    pub filters: Vec<F>,
    /// Where it goes.
    pub backends: Distribution<F>,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: Option<Retry<C>>,
    /// Whether the client may set timeouts and retries by `l5d-*` headers.
    pub allow_l5d_request_headers: bool,
}

/// A route for bytes that are not looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct OpaqueRoute {
    /// The route resource.
    pub meta: Meta,
    /// Filters in order.
    pub filters: Vec<TcpFilter>,
    /// Where it goes.
    pub backends: Distribution<TcpFilter>,
}

/// A route for the application's own TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRoute {
    /// The route resource.
    pub meta: Meta,
    /// Server names it is for; empty means all.
    pub snis: Vec<HostMatch>,
    /// Filters in order.
    pub filters: Vec<TcpFilter>,
    /// Where it goes.
    pub backends: Distribution<TcpFilter>,
}

/// How requests are spread over backends.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution<F> {
    /// Nowhere: there is no backend.
    Empty,
    /// The first that is available.
    FirstAvailable(Vec<RouteBackend<F>>),
    /// At random by weight; a backend of weight 0 gets nothing.
    Random(Vec<(RouteBackend<F>, u32)>),
}

impl<F> Distribution<F> {
    /// Every backend, those of weight 0 too.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        let (first, random): (&[_], &[_]) = match self {
            Self::Empty => (&[], &[]),
            Self::FirstAvailable(backends) => (backends, &[]),
            Self::Random(backends) => (&[], backends),
        };
        first.iter().chain(random.iter().map(|(backend, _)| backend)).map(|b| &*b.backend)
    }
}

/// A backend with the filters for it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend<F> {
    /// Filters in order.
    pub filters: Vec<F>,
    /// The backend, shared by all rules that name it.
    pub backend: Arc<Backend>,
}

/// Where requests go in the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The Service, or the rule that stands in for one.
    pub meta: Meta,
    /// How it is reached.
    pub target: BackendTarget,
    /// Bounds of what waits for it.
    pub queue: Queue,
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendTarget {
    /// One known address.
    Forward(Arc<Endpoint>),
    /// The endpoints of a target, balanced.
    Balance {
        /// What to ask endpoints for.
        authority: Authority,
        /// How load is estimated.
        load: Load,
        /// What is done beyond that; shared, as it is the same for all backends of a service.
        balancing: Arc<Balancing>,
    },
    /// It does not exist or cannot be used; requests fail.
    Invalid(Arc<str>),
}

/// How the load of an endpoint is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Peak-sensitive moving average of round-trip times, times requests under way.
    PeakEwma(PeakEwma),
    /// The same, where failures count as slow answers.
    PenaltyPeakEwma {
        /// The average.
        ewma: PeakEwma,
        /// What a failure counts as.
        penalty: Duration,
        /// Longest `Retry-After` that is believed.
        max_retry_after: Duration,
    },
}

/// A peak-sensitive moving average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// What an endpoint that was never used is held to take.
    pub default_rtt: Duration,
    /// How fast the past is forgotten.
    pub decay: Duration,
}

impl Default for PeakEwma {
    /// 30 ms and 10 s, as Linkerd's policy controller sends.
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::PeakEwma(PeakEwma::default())
    }
}

/// Bounds of what waits for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most requests that wait.
    pub capacity: usize,
    /// How long one waits while no endpoint is available.
    pub failfast_timeout: Duration,
}

impl Default for Queue {
    /// 100 requests and 3 s, as Linkerd's policy controller sends.
    fn default() -> Self {
        Self { capacity: 100, failfast_timeout: Duration::from_secs(3) }
    }
}
