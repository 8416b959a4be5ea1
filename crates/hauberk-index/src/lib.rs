//! Resources in, answers out: the synchronous heart of the control plane.
