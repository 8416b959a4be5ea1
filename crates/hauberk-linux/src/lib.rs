//! Small safe wrappers over Linux: original destination, namespaces, links, socket options.

pub mod original_dst;
pub mod socket;
