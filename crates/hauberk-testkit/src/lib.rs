//! Fixtures that tests of several crates share; a development dependency only.
//!
//! [`ca`] founds a mesh in memory and certifies members. [`clusters`] draws random clusters and what
//! happens to them. [`control`] is a control plane whose answers a test writes. [`golden`] compares text with a file that
//! people read. [`policy`] makes policies of one route.
//! Everything here panics on failure, as tests do.

pub mod ca;
pub mod clusters;
pub mod control;
pub mod golden;
pub mod policy;
