//! What a proxy does, as seen from outside: by clients, applications, and who means it harm.
//!
//! The proxy runs as a process between kernel rules, told by nothing but its settings and the
//! control plane, so any proxy that speaks the same wire can be put in its place and held against
//! the same list (`HAUBERK_PROXY_UNDER_TEST`, see `world`). Where a case is about what the control
//! plane says, and when, one pod's proxy has a control plane that says what the case wants
//! (`script`). The list, with the source of each
//! behaviour and the tests inside the proxy that cover the rest, is docs/reference/behaviour.md.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

#[path = "behaviour/bytes.rs"]
mod bytes_through;
#[path = "behaviour/client_policy.rs"]
mod client_policy;
#[path = "behaviour/discovery.rs"]
mod discovery;
#[path = "behaviour/failures.rs"]
mod failures;
#[path = "behaviour/frames.rs"]
mod frames;
#[path = "behaviour/framing.rs"]
mod framing;
#[path = "behaviour/hello.rs"]
mod hello;
#[path = "behaviour/http2.rs"]
mod http2;
#[path = "behaviour/http2_abuse.rs"]
mod http2_abuse;
#[path = "behaviour/message.rs"]
mod message;
#[path = "behaviour/profiles.rs"]
mod profiles;
#[path = "behaviour/scale.rs"]
mod scale;
#[path = "behaviour/script.rs"]
mod script;
#[path = "behaviour/server_policy.rs"]
mod server_policy;
#[path = "behaviour/slow.rs"]
mod slow;
#[path = "behaviour/smuggling.rs"]
mod smuggling;
#[path = "behaviour/telemetry.rs"]
mod telemetry;
#[path = "behaviour/world.rs"]
mod world;
