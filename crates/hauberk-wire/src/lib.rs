//! The only door between the mesh's vocabulary and `linkerd2-proxy-api`.
//!
//! The control plane calls `to_wire(&value)` at the edge of a gRPC stream, the proxy calls
//! `from_wire(message)` at the other. Nobody else names a wire type: servers and clients that must
//! (tonic's generated traits) take them from [`api`].
//!
//! | module | message | our type |
//! |---|---|---|
//! | [`inbound`] | `inbound.Server` | `InboundPolicy` |
//! | [`outbound`] | `outbound.OutboundPolicy`, `TrafficSpec` | `OutboundPolicy`, [`outbound::Target`] |
//! | [`destination`] | `destination.Update` | [`destination::Update`] over `Endpoints` |
//! | [`profile`] | `destination.DestinationProfile` | `Profile` |
//! | [`identity`] | `identity.CertifyRequest`, `CertifyResponse` | plain structs |
//! | [`tap`] | `tap.ObserveRequest`, `TapEvent` | `Tap`, `TapEvent` |
//!
//! Conventions, the same everywhere:
//! - the law: `from_wire(to_wire(x)) == x` for every value the wire can carry. What it cannot carry
//!   is said where it is translated (a filter that could not be understood becomes a failure
//!   injector with its message; the order of exact identities before suffixes is canonical);
//! - an absent optional field is our `None`; zero stands for absent where the wire has no presence
//!   (ports, HTTP/2 parameters, redirect status); an absent required field is [`Invalid`];
//! - a message that cannot be understood is refused as a whole, so that the receiver keeps what it
//!   had, except where part of it can be left out without harm (one endpoint of many, one route of
//!   a profile, a filter of an unknown kind): then the good part comes with the problems beside it;
//! - deprecated fields are filled for older proxies and read for older control planes;
//! - unknown fields are ignored, an unknown variant counts as absent (protobuf).
//!
//! Not here: connections, streams, retries (callers), what the values mean (`hauberk-model`), and the
//! grammar of names and tokens in questions (`hauberk-index`).

pub mod destination;
mod filter;
pub mod identity;
pub mod inbound;
mod invalid;
mod meta;
pub mod outbound;
pub mod profile;
mod route;
mod scalar;
pub mod tap;

/// The generated messages, clients and servers.
pub use linkerd2_proxy_api as api;

pub use invalid::{Invalid, Reason};
