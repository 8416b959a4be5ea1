//! Label sets in the order and spelling that Linkerd's dashboards know.
//!
//! A [`Labels`] is built once, when a connection, route or endpoint is, and then only hashed or cloned.

use crate::connection::{Direction, Tls};
use hauberk_model::{Endpoint, Meta, endpoints::Labels as EndpointLabels, inbound::Authorization};
use hauberk_process::metrics::LabelSet;
use std::{borrow::Cow, net::SocketAddr};

type Text = Cow<'static, str>;

/// Label names with their values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Vec<(Text, Text)>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one label.
    pub fn with(mut self, name: &'static str, value: impl Into<Text>) -> Self {
        self.0.push((Text::Borrowed(name), value.into()));
        self
    }

    /// Adds all labels of `other`.
    pub fn and(mut self, other: &Labels) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// `direction`.
    pub fn direction(self, direction: Direction) -> Self {
        self.with("direction", direction.as_str())
    }

    /// `target_addr`, `target_ip`, `target_port`.
    pub fn target(self, target: SocketAddr) -> Self {
        self.with("target_addr", target.to_string())
            .with("target_ip", target.ip().to_string())
            .with("target_port", target.port().to_string())
    }

    /// `tls` of an accepted connection, with `client_id`, `sni` or `no_tls_reason`.
    pub fn tls_accepted(self, tls: &Tls) -> Self {
        match tls {
            Tls::None(reason) => {
                self.with("tls", "no_identity").with("no_tls_reason", reason.as_str())
            }
            Tls::Passthrough { sni } => self.with("tls", "opaque").with("sni", sni.to_string()),
            Tls::Established { client_id } => self
                .with("tls", "true")
                .with("client_id", client_id.as_ref().map_or(String::new(), ToString::to_string)),
        }
    }

    /// `tls` of a dialled connection, with `server_id` or `no_tls_reason`.
    pub fn tls_dialled(self, endpoint: &Endpoint, is_local: IsLocal) -> Self {
        match (&endpoint.tls, is_local) {
            (_, IsLocal::Yes) => self.with("tls", "no_identity").with("no_tls_reason", "loopback"),
            (Some(tls), IsLocal::No) => {
                self.with("tls", "true").with("server_id", tls.identity.to_string())
            }
            (None, IsLocal::No) => self
                .with("tls", "no_identity")
                .with("no_tls_reason", "not_provided_by_service_discovery"),
        }
    }

    /// `dst_*`, one for each label that the control plane gave the endpoint or its whole set.
    pub fn endpoint(mut self, set: &EndpointLabels, endpoint: &Endpoint) -> Self {
        let own = &endpoint.labels;
        let of_set = set.iter().filter(|(name, _)| !own.contains_key(*name));
        for (name, value) in of_set.chain(own) {
            self.0.push((format!("dst_{}", sanitised(name)).into(), value.to_string().into()));
        }
        self
    }

    /// `rt_*`, one for each label of a service profile's route.
    pub fn profile_route(mut self, route: &EndpointLabels) -> Self {
        for (name, value) in route {
            self.0.push((format!("rt_{}", sanitised(name)).into(), value.to_string().into()));
        }
        self
    }

    /// `srv_group`, `srv_kind`, `srv_name`, `srv_port` of the server policy in force on `port`.
    pub fn server(self, server: &Meta, port: u16) -> Self {
        self.with("srv_group", server.group().to_owned())
            .with("srv_kind", server.kind().to_owned())
            .with("srv_name", server.name().to_owned())
            .with("srv_port", port.to_string())
    }

    /// `authz_group`, `authz_kind`, `authz_name`.
    pub fn authorization(self, authorization: &Authorization) -> Self {
        let meta = &authorization.meta;
        self.with("authz_group", meta.group().to_owned())
            .with("authz_kind", meta.kind().to_owned())
            .with("authz_name", meta.name().to_owned())
    }

    /// `route_group`, `route_kind`, `route_name`, as inbound families have them.
    pub fn inbound_route(self, route: &Meta) -> Self {
        self.with("route_group", route.group().to_owned())
            .with("route_kind", route.kind().to_owned())
            .with("route_name", route.name().to_owned())
    }

    /// `parent_*`, with namespace, port and section.
    pub fn parent(self, parent: &Meta) -> Self {
        self.with("parent_group", parent.group().to_owned())
            .with("parent_kind", parent.kind().to_owned())
            .with("parent_namespace", parent.namespace().to_owned())
            .with("parent_name", parent.name().to_owned())
            .with("parent_port", port_text(parent))
            .with("parent_section_name", section(parent))
    }

    /// `backend_*`, with namespace, port and section.
    pub fn backend(self, backend: &Meta) -> Self {
        self.with("backend_group", backend.group().to_owned())
            .with("backend_kind", backend.kind().to_owned())
            .with("backend_namespace", backend.namespace().to_owned())
            .with("backend_name", backend.name().to_owned())
            .with("backend_port", port_text(backend))
            .with("backend_section_name", section(backend))
    }

    /// `route_group`, `route_kind`, `route_namespace`, `route_name`, as outbound families have them.
    pub fn outbound_route(self, route: &Meta) -> Self {
        self.with("route_group", route.group().to_owned())
            .with("route_kind", route.kind().to_owned())
            .with("route_namespace", route.namespace().to_owned())
            .with("route_name", route.name().to_owned())
    }
}

/// Whether an endpoint is in our own pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsLocal {
    /// It is: no TLS, no transport header.
    Yes,
    /// It is not.
    No,
}

fn port_text(meta: &Meta) -> String {
    meta.port().map_or(String::new(), |port| port.to_string())
}

fn section(meta: &Meta) -> String {
    match meta {
        Meta::Default(_) => String::new(),
        Meta::Resource(resource) => resource.section.to_string(),
    }
}

/// A label name that the exposition format allows: anything else becomes `_`.
fn sanitised(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

impl LabelSet for Labels {
    fn each<'s>(&'s self, see: &mut dyn FnMut(&'s str, &'s str)) {
        for (name, value) in &self.0 {
            see(name, value);
        }
    }
}
