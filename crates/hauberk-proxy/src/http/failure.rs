//! Why something could not be done, set where it happens and read in one place.
//!
//! A [`Failure`] says what went wrong, on whose account, and whether trying again (elsewhere) makes sense. It is never
//! found again by downcasting. Opaque connections log and count it; HTTP answers it by one table.

use crate::control;
use hauberk_model::{Authority, WorkloadId};
use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

/// On whose account a failure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The client did something wrong or something it may not do.
    Client,
    /// The other side: an endpoint, the application.
    Peer,
    /// This proxy or its control plane.
    Us,
}

/// Why something could not be done.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub what: What,
    /// On whose account.
    pub whose: Whose,
    /// Whether the same request may succeed when it is tried again; says nothing about whether it may be repeated
    /// (that is for the caller, who knows what has been sent).
    pub retryable: bool,
}

/// What happened.
#[derive(Debug, thiserror::Error)]
pub enum What {
    /// TCP, TLS and transport header did not finish in time.
    #[error("connecting to {address} took longer than {timeout:?}")]
    ConnectTimeout {
        /// Where to.
        address: SocketAddr,
        /// The limit.
        timeout: Duration,
    },
    /// The connection could not be made.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// The TLS handshake failed; a server with another identity than expected is among the reasons.
    #[error("TLS handshake with {address} as {expected} failed: {error}")]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Whom we wanted to speak with.
        expected: WorkloadId,
        /// What rustls said.
        error: io::Error,
    },
    /// There is no certificate yet, so no mesh TLS.
    #[error("no certificate has been issued yet")]
    NoCertificate,
    /// An application may not reach this pod's loopback addresses through the proxy, nor the proxy itself.
    #[error("connections to {0} would come back to this proxy")]
    Loop(SocketAddr),
    /// An established connection broke.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// No endpoint became available in time.
    #[error("no endpoint of {0} became available in time")]
    FailFast(Arc<str>),
    /// Too much waits already.
    #[error("too many requests are waiting")]
    Shed,
    /// Nothing permits this client.
    #[error("unauthorized")]
    Unauthorized,
    /// Nothing permits this client's request; the text names server and route.
    #[error("unauthorized: {0}")]
    Denied(Arc<str>),
    /// The policy forbids it.
    #[error("forbidden by policy")]
    Forbidden,
    /// The policy could not be understood.
    #[error("{0}")]
    InvalidPolicy(Arc<str>),
    /// The policy leads to a backend that cannot be used.
    #[error("{0}")]
    InvalidBackend(Arc<str>),
    /// The control plane has not said anything about the target in time.
    #[error("nothing is known about {0} yet")]
    Undiscovered(control::Target),
    /// A request names a target that the control plane does not know (ingress mode).
    #[error("there is no service {0}, which l5d-dst-override asks for")]
    Unknown(Authority),
    /// No route of the policy is for this request.
    #[error("no route found")]
    NoRoute,
    /// No route of a server's policy is for this request; the text names the server.
    #[error("no route found: {0}")]
    NoRouteOf(Arc<str>),
    /// A rate limit of the policy is exceeded; the text names it, and the server.
    #[error("rate limit exceeded: {0}")]
    RateLimited(Arc<str>),
    /// The application demands a server identity that the endpoint does not have.
    #[error("required identity {required} is not that of the endpoint")]
    IdentityRequired {
        /// What `l5d-require-id` asked for.
        required: String,
    },
    /// A limit of time on a request was reached.
    #[error("{0}")]
    Timeout(&'static str),
    /// The head of a response did not come within the time of a service profile's route.
    #[error("request timed out")]
    ProfileTimeout,
    /// A direct connection needs mesh TLS and a client certificate.
    #[error("direct connections must be mutually authenticated")]
    DirectWithoutIdentity,
    /// A direct connection needs the transport header.
    #[error("direct connections require the transport header")]
    DirectWithoutHeader,
    /// We were asked to be a gateway to something that we are none for.
    #[error("this proxy is no gateway to {0}")]
    GatewayDomain(Authority),
    /// A gateway was asked for what it had asked for itself.
    #[error("this gateway has passed the request on before")]
    GatewayLoop,
    /// The connection was for an address that this pod does not have.
    #[error("{0} is not an address of this pod")]
    NotOurs(SocketAddr),
    /// A TLS route needs a server name, and the client sent none.
    #[error("the client sent no TLS hello with a server name")]
    NoServerName,
    /// TLS detection did not finish in time.
    #[error("the client did not say in time whether it speaks TLS")]
    DetectTimeout,
}

impl Failure {
    /// A failure on the client's account; trying again does not help.
    pub fn client(what: What) -> Self {
        Self { what, whose: Whose::Client, retryable: false }
    }

    /// A failure of the other side that another attempt may not meet.
    pub fn peer(what: What) -> Self {
        Self { what, whose: Whose::Peer, retryable: true }
    }

    /// A failure on our own account; trying again does not help.
    pub fn us(what: What) -> Self {
        Self { what, whose: Whose::Us, retryable: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl std::error::Error for Failure {}
