//! Manifest to manifest with a sidecar, and the reason for each choice.
