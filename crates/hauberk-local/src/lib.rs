//! A cluster on one machine: namespaces as pods, processes as containers.
