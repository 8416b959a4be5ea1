//! Small safe wrappers over Linux: original destination, namespaces, links, socket options.

pub mod allocations;
pub mod limits;
pub mod link;
pub mod namespace;
pub mod original_dst;
pub mod process;
pub mod socket;
