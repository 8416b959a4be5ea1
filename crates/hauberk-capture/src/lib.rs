//! Which traffic of a pod is redirected to its sidecar: rules as values, renderers and one applier.
//!
//! Used by the program `hauberk-init` (in an init container, under Linkerd's names and flags) and by the
//! local runtime, which sets up its pods with the same rules:
//!
//! ```no_run
//! use hauberk_capture::{CaptureConfig, Choice, HostNamespace, PodNetwork, Tools, plan};
//!
//! // On a thread that is in the pod's network namespace:
//! let rules = plan(&CaptureConfig::sidecar());
//! let tools = Tools::new(std::ffi::OsStr::new("/usr/sbin:/usr/bin"));
//! let pod = PodNetwork::current(tools, HostNamespace::Refuse)?;
//! let applied = pod.apply(&rules, Choice::Auto)?;
//! # Ok::<(), hauberk_capture::ApplyError>(())
//! ```
//!
//! [`plan()`] and [`render`] are pure: no privilege, no clock, no file. [`apply`] is the only place that
//! changes the kernel, in one transaction, and only in a namespace that is not the machine's own
//! ([`host`]). Only TCP is captured; UDP, ICMP and SCTP pass.
//!
//! Deliberately not here: entering namespaces, and anything about Kubernetes.

pub mod apply;
pub mod host;
pub mod lists;
pub mod plan;
pub mod render;
pub mod rules;
pub mod tool;

pub use apply::verify::{Verified, verify};
pub use apply::{
    Applied, ApplyError, Backend, Choice, HostNamespace, PodNetwork, iptables::Variant,
};
pub use plan::{CaptureConfig, InboundPorts, PROXY_MARK, plan};
pub use rules::{Families, Generation, RuleSet};
pub use tool::Tools;
