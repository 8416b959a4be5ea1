//! The life of an inbound connection: from anywhere, to the application beside us.

pub mod forward;
pub mod policy;
