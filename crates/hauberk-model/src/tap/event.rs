//! What a tap reports of one request.

use crate::endpoints::Labels;
use http::{HeaderMap, Method, StatusCode};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// One thing that happened to a watched request.
#[derive(Clone, Debug, PartialEq)]
pub struct TapEvent {
    /// Which request.
    pub stream: StreamId,
    /// Between whom; shared by the events of a request.
    pub exchange: Arc<TapExchange>,
    /// What happened.
    pub moment: TapMoment,
}

/// Names a request within a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// The tap that reports it.
    pub base: u32,
    /// The request's number within the tap.
    pub stream: u64,
}

/// Between whom a request travels.
#[derive(Clone, Debug, PartialEq)]
pub struct TapExchange {
    /// Which side of the proxy saw it.
    pub direction: TapDirection,
    /// The client.
    pub source: SocketAddr,
    /// What is known of the client: `tls`, `client_id`.
    pub source_labels: Labels,
    /// The server.
    pub destination: SocketAddr,
    /// What is known of the server: the labels of discovery, `tls`, `server_id`.
    pub destination_labels: Labels,
    /// The route that was taken.
    pub route_labels: Labels,
}

/// Which side of a proxy saw a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapDirection {
    /// The one towards the application beside it.
    Inbound,
    /// The one away from it.
    Outbound,
}

/// What happened to a request. Headers and trailers are empty unless the tap wants them.
#[derive(Clone, Debug, PartialEq)]
pub enum TapMoment {
    /// It began.
    RequestInit {
        /// Method.
        method: Method,
        /// Scheme.
        scheme: Arc<str>,
        /// Authority, from the URI or the `host` header; empty if there is none.
        authority: String,
        /// Path, without query.
        path: String,
        /// Headers.
        headers: HeaderMap,
    },
    /// Its response began.
    ResponseInit {
        /// Time since the request began.
        since_request_init: Duration,
        /// Status.
        status: StatusCode,
        /// Headers.
        headers: HeaderMap,
    },
    /// Its response ended, or will never come.
    ResponseEnd {
        /// Time since the request began.
        since_request_init: Duration,
        /// Time since the response began; zero if it never did.
        since_response_init: Duration,
        /// Bytes of the response's body.
        response_bytes: u64,
        /// How, if more is known than that it ended.
        end: Option<TapEnd>,
        /// Trailers.
        trailers: HeaderMap,
    },
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapEnd {
    /// With this gRPC status.
    GrpcStatus(u32),
    /// By a reset with this HTTP/2 error code.
    Reset(u32),
}
