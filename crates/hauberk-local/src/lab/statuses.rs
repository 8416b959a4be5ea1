//! Statuses of routes and other policies, as the control plane sees them.
//!
//! In a cluster a controller writes them back; the lab works them out when somebody looks, by the
//! index and the settings that its control plane has. So they are never behind, and nothing in the
//! lab changes by them.

use std::sync::Arc;

use hauberk_control::status::to_json;
use hauberk_index::{Answer, Index, Key};
use hauberk_resources::{Kind, Resource, ResourceEvent};
use serde_json::Value;

use super::Lab;

impl Lab {
    /// Puts the status into each object that has one of the control plane's. Cost: one look at each
    /// object of the lab, if there is such an object.
    pub(super) fn fill_in_statuses(&self, objects: &mut [Value]) {
        let Some(cluster) = &self.setup.cluster else { return };
        let mut index = None;
        for object in objects.iter_mut().filter(|object| has_status(object)) {
            let Ok(resource) = Resource::parse(object.clone()) else { continue };
            let index = index.get_or_insert_with(|| {
                let mut index = Index::new(cluster.clone());
                for (_, value) in self.objects.iter() {
                    if let Ok(resource) = Resource::parse(value.clone()) {
                        index.apply(ResourceEvent::Applied(Arc::new(resource)));
                    }
                }
                index
            });
            if let Answer::Status(status) = index.answer(&Key::Status(resource.key())).answer {
                object["status"] = to_json(&status);
            }
        }
    }
}

fn has_status(object: &Value) -> bool {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    match Kind::find(text("apiVersion"), text("kind")) {
        Some(
            Kind::PolicyHttpRoute
            | Kind::GatewayHttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::EgressNetwork
            | Kind::HttpLocalRateLimitPolicy,
        ) => true,
        Some(_) | None => false,
    }
}
