//! What is measured.

use clap::ValueEnum;

/// One kind of load, or of rest.
///
/// The order is the order of measuring: memory at rest before any load has grown the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Scenario {
    /// Nothing at all: memory, and CPU for its own sake
    Idle,
    /// 1,000 idle HTTP/1.1 connections: memory
    #[value(name = "idle-1000-http")]
    IdleHttp,
    /// 1,000 idle opaque TCP connections: memory
    #[value(name = "idle-1000-opaque")]
    IdleOpaque,
    /// 10,000 idle HTTP/1.1 connections: memory
    #[value(name = "idle-10000-http")]
    IdleHttpMany,
    /// 10,000 idle opaque TCP connections: memory
    #[value(name = "idle-10000-opaque")]
    IdleOpaqueMany,
    /// HTTP/1.1, 1,000 requests a second at fixed times: latency
    #[value(name = "rate-1000")]
    Rate,
    /// HTTP/1.1, 5,000 requests a second at fixed times: latency
    #[value(name = "rate-5000")]
    RateMany,
    /// HTTP/1.1, 1 connection
    #[value(name = "http1-1")]
    Http1On1,
    /// HTTP/1.1, 32 connections
    #[value(name = "http1-32")]
    Http1On32,
    /// HTTP/1.1, 128 connections
    #[value(name = "http1-128")]
    Http1On128,
    /// HTTP/2, 4 connections of 32 streams
    #[value(name = "http2-4x32")]
    Http2On4,
    /// HTTP/2, 32 connections of 1 stream
    #[value(name = "http2-32x1")]
    Http2On32,
    /// Unary gRPC (a message each way, trailers), 4 connections of 32 streams
    #[value(name = "grpc-4x32")]
    Grpc,
    /// Unary gRPC (a message each way, trailers), 32 connections of 1 stream
    #[value(name = "grpc-32x1")]
    GrpcOn32,
    /// gRPC messages back and forth on streams that stay open, 4 connections of 32 streams
    #[value(name = "grpc-stream-4x32")]
    GrpcStream,
    /// Opaque TCP, messages back and forth on 32 connections
    #[value(name = "opaque-32")]
    Opaque,
    /// One connection of the client per HTTP/1.1 request
    #[value(name = "connect-http")]
    ConnectHttp,
    /// One connection of the client, and so one with mutual TLS, per message on an opaque port
    #[value(name = "connect-opaque")]
    ConnectOpaque,
    /// The same between proxies that resume no TLS session: each connection proves itself anew
    #[value(name = "connect-opaque-anew")]
    ConnectOpaqueAnew,
    /// One flow of large bodies on an opaque port
    #[value(name = "bulk-tcp")]
    BulkTcp,
    /// One flow of large bodies over HTTP/1.1
    #[value(name = "bulk-http")]
    BulkHttp,
    /// HTTP/1.1, 32 connections, and 10 routes on each side that requests pass by
    #[value(name = "routes-10")]
    Routes10,
    /// HTTP/1.1, 32 connections, and 100 routes on each side that requests pass by
    #[value(name = "routes-100")]
    Routes100,
    /// HTTP/1.1, 32 connections, and 1,000 routes on each side that requests pass by
    #[value(name = "routes-1000")]
    Routes1000,
    /// HTTP/1.1, 32 connections, to a service of 10 endpoints
    #[value(name = "endpoints-10")]
    Endpoints10,
    /// HTTP/1.1, 32 connections, to a service of 1,000 endpoints
    #[value(name = "endpoints-1000")]
    Endpoints1000,
    /// HTTP/1.1, 256 connections, each worker thread held to a share of a CPU
    #[value(name = "cores-http1-256")]
    CoresHttp1,
    /// HTTP/2, 32 connections of 16 streams, each worker thread held to a share of a CPU
    #[value(name = "cores-http2-32x16")]
    CoresHttp2,
}

/// How much of a CPU a worker has where it is held to a share, in percent. Two workers in each of two
/// proxies leave more than half of two CPUs for the load and the application.
const SHARE_PERCENT: u32 = 20;

/// What a system has to know of besides its one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Routes that requests have to pass by before theirs, on each side.
    pub(super) routes: u32,
    /// Addresses of the service. All lead to the same server.
    pub(super) endpoints: u32,
    /// How much of a CPU each worker thread of a proxy may use, in percent.
    pub(super) share_percent: Option<u32>,
    /// Whether proxies may go on from earlier TLS sessions, as they usually do.
    pub(super) resumes: bool,
}

impl Shape {
    /// One server, and nothing said about requests to it.
    pub(super) const PLAIN: Self =
        Self { routes: 0, endpoints: 1, share_percent: None, resumes: true };

    /// Seconds for setting a system up so and taking it down, about.
    pub(super) fn set_up_seconds(self) -> f64 {
        1.5 + f64::from(self.routes.max(self.endpoints)) / 1e3
    }
}

/// How results of a scenario are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Memory at rest.
    Memory,
    /// Requests, messages or connections.
    Requests,
    /// Bytes.
    Bytes,
}

impl Scenario {
    /// The name on the command line and in results.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// One line for people.
    pub(super) fn text(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|it| it.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Idle
            | Self::IdleHttp
            | Self::IdleOpaque
            | Self::IdleHttpMany
            | Self::IdleOpaqueMany => Unit::Memory,
            Self::BulkTcp | Self::BulkHttp => Unit::Bytes,
            Self::Rate
            | Self::RateMany
            | Self::Http1On1
            | Self::Http1On32
            | Self::Http1On128
            | Self::Http2On4
            | Self::Http2On32
            | Self::Grpc
            | Self::GrpcOn32
            | Self::GrpcStream
            | Self::Opaque
            | Self::ConnectHttp
            | Self::ConnectOpaque
            | Self::ConnectOpaqueAnew
            | Self::Routes10
            | Self::Routes100
            | Self::Routes1000
            | Self::Endpoints10
            | Self::Endpoints1000
            | Self::CoresHttp1
            | Self::CoresHttp2 => Unit::Requests,
        }
    }

    /// What systems have to be set up with.
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::ConnectOpaqueAnew => Shape { resumes: false, ..Shape::PLAIN },
            Self::Routes10 => Shape { routes: 10, ..Shape::PLAIN },
            Self::Routes100 => Shape { routes: 100, ..Shape::PLAIN },
            Self::Routes1000 => Shape { routes: 1_000, ..Shape::PLAIN },
            Self::Endpoints10 => Shape { endpoints: 10, ..Shape::PLAIN },
            Self::Endpoints1000 => Shape { endpoints: 1_000, ..Shape::PLAIN },
            Self::CoresHttp1 | Self::CoresHttp2 => {
                Shape { share_percent: Some(SHARE_PERCENT), ..Shape::PLAIN }
            }
            _ => Shape::PLAIN,
        }
    }

    /// Whether one round has to do: it takes long, and would find the same again.
    pub(super) fn is_costly_to_repeat(self) -> bool {
        matches!(self, Self::IdleHttpMany | Self::IdleOpaqueMany)
    }

    /// Whether a quick run leaves it out unless it is asked for.
    pub(super) fn is_left_out_if_quick(self) -> bool {
        self.is_costly_to_repeat()
            || matches!(self, Self::RateMany | Self::Routes10 | Self::Routes100 | Self::Endpoints10)
    }

    /// Seconds of the same load before a measurement, at least, however short that is: until the
    /// connections are there that it is to use.
    pub(super) fn warm_up_seconds_min(self) -> u32 {
        match self {
            Self::Endpoints1000 => 3,
            _ => 0,
        }
    }

    /// Seconds that a measurement takes besides what is set: making connections, reading figures.
    pub(super) fn more_seconds(self) -> f64 {
        match self {
            Self::IdleHttp | Self::IdleOpaque => 3.0,
            Self::IdleHttpMany | Self::IdleOpaqueMany => 20.0,
            Self::Endpoints1000 => 3.4,
            _ => 0.4,
        }
    }

    /// Whether its system calls and allocations are counted too.
    pub(super) fn is_counted(self) -> bool {
        matches!(self, Self::Http1On32 | Self::Http2On4 | Self::GrpcStream | Self::Opaque)
    }
}
