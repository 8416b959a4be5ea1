//! The data plane: a sidecar proxy.
