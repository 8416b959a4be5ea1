//! What each command means; one module a command.

pub(crate) mod completion;
pub(crate) mod inject;
pub(crate) mod local;
pub(crate) mod uninject;
pub(crate) mod validate;
pub(crate) mod version;
