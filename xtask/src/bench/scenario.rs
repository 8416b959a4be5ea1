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
    /// HTTP/1.1, 1,000 requests a second at fixed times: latency
    #[value(name = "rate-1000")]
    Rate,
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
    /// Opaque TCP, messages back and forth on 32 connections
    #[value(name = "opaque-32")]
    Opaque,
    /// One connection of the client per HTTP/1.1 request
    #[value(name = "connect-http")]
    ConnectHttp,
    /// One connection of the client, and so one with mutual TLS, per message on an opaque port
    #[value(name = "connect-opaque")]
    ConnectOpaque,
    /// One flow of large bodies on an opaque port
    #[value(name = "bulk-tcp")]
    BulkTcp,
    /// One flow of large bodies over HTTP/1.1
    #[value(name = "bulk-http")]
    BulkHttp,
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
            Self::Idle | Self::IdleHttp | Self::IdleOpaque => Unit::Memory,
            Self::BulkTcp | Self::BulkHttp => Unit::Bytes,
            Self::Rate
            | Self::Http1On1
            | Self::Http1On32
            | Self::Http1On128
            | Self::Http2On4
            | Self::Http2On32
            | Self::Grpc
            | Self::Opaque
            | Self::ConnectHttp
            | Self::ConnectOpaque => Unit::Requests,
        }
    }
}
