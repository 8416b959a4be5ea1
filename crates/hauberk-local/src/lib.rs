//! A cluster on one machine: namespaces as pods, processes as containers.
pub mod address;
pub mod image;
pub mod objects;
pub mod plan;
pub mod spec;
