//! A cluster on one machine: namespaces as pods, processes as containers.
//!
//! `hauberk local` turns Kubernetes manifests into network namespaces and processes. The front half
//! ([`launch`], [`client`]) runs in the command line; the other half is the runtime ([`run`]), the
//! first process of the lab's own namespaces. In there, one task owns the state ([`lab`]); what it
//! decides is pure ([`plan`], [`workloads`], [`endpoints`], [`dns`], [`virtual_ip`], [`address`]),
//! and what it has done is the business of [`pod`], [`container`], [`network`] and [`root`].
//!
//! Promised: the lab touches nothing of the machine's network, and when its first process is gone,
//! for whatever reason, so is everything else. Deliberately not here: images, clusters of several
//! nodes, limits on resources.

pub mod address;
pub mod api;
pub mod client;
pub mod container;
pub mod control;
pub mod dns;
pub mod dns_server;
pub mod endpoints;
pub mod image;
pub mod key_files;
pub mod lab;
pub mod launch;
pub mod logs;
pub mod network;
pub mod objects;
pub mod plan;
pub mod pod;
mod probe;
pub mod root;
pub mod rules;
pub mod run;
pub mod server;
pub mod spec;
pub mod status;
pub mod virtual_ip;
pub mod watch;
pub mod wire;
pub mod workloads;
