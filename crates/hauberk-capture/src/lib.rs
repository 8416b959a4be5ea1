//! Which traffic is redirected to the sidecar, as values, renderers and one applier.
