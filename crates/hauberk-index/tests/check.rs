//! What the index answers, case by case: a cluster as YAML, a question as a proxy would ask it,
//! and the answer as text that a human can read.

#[path = "check/egress.rs"]
mod egress;
#[path = "check/endpoints.rs"]
mod endpoints;
#[path = "check/inbound.rs"]
mod inbound;
#[path = "check/outbound.rs"]
mod outbound;
#[path = "check/profile.rs"]
mod profile;
#[path = "check/render.rs"]
mod render;
#[path = "check/routes.rs"]
mod routes;
#[path = "check/status.rs"]
mod status;
#[path = "check/world.rs"]
mod world;
