//! The only translator between the mesh's vocabulary and linkerd2-proxy-api.
