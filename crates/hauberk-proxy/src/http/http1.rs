//! HTTP/1 on the wire: heads, bodies, and a connection that carries them (RFC 9112).
//!
//! | module | what |
//! |---|---|
//! | [`head`] | bytes to heads and back; pure |
//! | [`body`] | where a body ends, and how its end is told; pure |
//! | [`wire`] | reading and writing without a buffer of one's own |
//! | [`connection`] | a connection, the body that is read from it, the message that is sent over it |
//!
//! The loops are elsewhere: [`super::server`] answers requests, [`super::client`] sends them. Both see
//! nothing but parsed messages, and what they send is written anew from these; no byte of a head or of
//! a chunk's frame is passed on. Decision 0027 tells why this is not hyper.

pub mod body;
pub mod connection;
pub mod head;
pub mod wire;

use std::io;

pub use connection::{Connection, Received, Sending};

/// Why an HTTP/1 connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream below failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer closed in the middle of a message, or in place of one.
    #[error("connection closed before the message was complete")]
    Incomplete,
    /// The peer's head is no HTTP/1, or not safe to pass on.
    #[error(transparent)]
    Head(#[from] head::Bad),
    /// The frame of the peer's body is broken.
    #[error(transparent)]
    Body(#[from] body::Bad),
    /// Our own message cannot be sent.
    #[error(transparent)]
    Unsendable(#[from] body::Unsendable),
    /// The body to be sent broke off.
    #[error("the body to be sent broke off: {0}")]
    Sender(String),
}

impl Error {
    /// Whether the peer closed the connection, rather than saying something that is wrong.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Incomplete => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::UnexpectedEof
            ),
            Self::Head(_) | Self::Body(_) | Self::Unsendable(_) | Self::Sender(_) => false,
        }
    }
}
