//! What the rules do: real connections in throw-away network namespaces, over every backend.
//!
//! A [`lab::Lab`] is a pod and its node, each a network namespace of its own that vanishes with the
//! test. Nothing leaves them. Without the right to make namespaces a test prints SKIPPED and why;
//! with `HAUBERK_REQUIRE_NAMESPACES=1` it fails instead.

mod exemptions;
mod lab;
mod load;
mod program;
mod table;
