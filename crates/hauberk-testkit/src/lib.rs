//! Fixtures for tests: goldens, fake control plane, namespaces, peers.
