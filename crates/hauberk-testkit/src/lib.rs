//! Fixtures that tests of several crates share; a development dependency only.
//!
//! [`ca`] founds a mesh in memory and certifies members. [`golden`] compares text with a file that
//! people read. Everything here panics on failure, as tests do.

pub mod ca;
pub mod golden;
