//! Where a piece of policy came from, each way.

use std::collections::HashMap;
use std::sync::Arc;

use hauberk_model::Meta;
use hauberk_model::meta::ResourceMeta;

use crate::api::meta;
use crate::invalid::{Invalid, Required};
use crate::scalar::{optional_port, port_to_wire};

pub(crate) fn to_wire(from: &Meta) -> meta::Metadata {
    let kind = match from {
        Meta::Default(name) => meta::metadata::Kind::Default(name.to_string()),
        Meta::Resource(resource) => meta::metadata::Kind::Resource(meta::Resource {
            group: resource.group.to_string(),
            kind: resource.kind.to_string(),
            name: resource.name.to_string(),
            namespace: resource.namespace.to_string(),
            section: resource.section.to_string(),
            port: port_to_wire(resource.port),
        }),
    };
    meta::Metadata { kind: Some(kind) }
}

pub(crate) fn from_wire(
    field: &'static str,
    wire: Option<meta::Metadata>,
) -> Result<Meta, Invalid> {
    match wire.and_then(|metadata| metadata.kind).required(field)? {
        meta::metadata::Kind::Default(name) => Ok(Meta::Default(name.into())),
        meta::metadata::Kind::Resource(resource) => Ok(Meta::Resource(Arc::new(ResourceMeta {
            port: optional_port(field, resource.port)?,
            group: resource.group.into(),
            kind: resource.kind.into(),
            namespace: resource.namespace.into(),
            name: resource.name.into(),
            section: resource.section.into(),
        }))),
    }
}

/// The same for fields that may be absent.
pub(crate) fn optional_from_wire(
    field: &'static str,
    wire: Option<meta::Metadata>,
) -> Result<Option<Meta>, Invalid> {
    match wire {
        Some(metadata) if metadata.kind.is_some() => from_wire(field, Some(metadata)).map(Some),
        _ => Ok(None),
    }
}

/// How Linkerd's inbound messages name servers and authorizations: kinds in lower case (they become
/// metric labels, `srv_kind="server"`), without a namespace (it is the workload's).
pub(crate) fn inbound_to_wire(from: &Meta) -> meta::Metadata {
    let Meta::Resource(resource) = from else { return to_wire(from) };
    to_wire(&Meta::resource(
        &resource.group,
        &resource.kind.to_ascii_lowercase(),
        "",
        &resource.name,
    ))
}

/// The older form of the same, as a map of labels.
pub(crate) fn labels_to_wire(from: &Meta) -> HashMap<String, String> {
    let pairs = [
        ("group", from.group().to_owned()),
        ("kind", from.kind().to_ascii_lowercase()),
        ("name", from.name().to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Reads the map of labels; `kind` is what an absent kind means.
pub(crate) fn from_labels(
    field: &'static str,
    labels: &HashMap<String, String>,
    kind: &'static str,
) -> Result<Meta, Invalid> {
    let label = |key| labels.get(key).map(String::as_str);
    let name = label("name").required(field)?;
    match label("kind").unwrap_or(kind) {
        "default" => Ok(Meta::default(name)),
        kind => Ok(Meta::resource(label("group").unwrap_or("policy.linkerd.io"), kind, "", name)),
    }
}
