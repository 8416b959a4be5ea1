//! Small safe wrappers over Linux: original destination, namespaces, links, socket options.
