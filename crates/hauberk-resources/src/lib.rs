//! Kubernetes objects as the mesh understands them.
