//! The life of an outbound connection: from the application, to wherever it wanted to go.

pub mod discover;
