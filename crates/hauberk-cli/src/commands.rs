//! What each command means; one module a command.

pub(crate) mod completion;
pub(crate) mod version;
