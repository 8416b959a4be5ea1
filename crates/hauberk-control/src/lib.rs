//! The control plane: publisher, gRPC services, identity issuer.
