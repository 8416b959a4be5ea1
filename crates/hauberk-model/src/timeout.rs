//! Limits of time on a request.

use std::time::Duration;

/// How long a request may take; `None` means without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the moment the route is chosen until the response has ended, all attempts together.
    pub request: Option<Duration>,
    /// From the end of the request body until the response has ended.
    pub response: Option<Duration>,
    /// Without a frame in either direction.
    pub idle: Option<Duration>,
}
