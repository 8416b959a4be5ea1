//! The files of a pod's volumes.

use std::path::{Component, Path};
use std::time::Duration;

use super::environment::{field, resource};
use super::{CLUSTER_DOMAIN, Content, Context, File, FileText, PlanError, TOKEN_LIFETIME, data};
use crate::objects::{Key, Objects};
use crate::spec::{self, DownwardVolume, KeyToPath, ObjectVolume, Pod, Projection};

/// Name of the volume that every pod has; no manifest can have it, for it is no DNS label.
pub(super) const SERVICE_ACCOUNT_VOLUME: &str = "service account";
/// Where Kubernetes puts the API server's certificate authority in every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) fn volume(
    pod: &Pod,
    volume: &spec::Volume,
    context: Context<'_>,
) -> Result<super::Volume, PlanError> {
    let object = |kind, source: &ObjectVolume| object_files(pod, kind, source, context);
    let content = if volume.empty_dir.is_some() {
        Content::Empty
    } else if let Some(host) = &volume.host_path {
        Content::Host(host.path.clone().into())
    } else if let Some(source) = &volume.config_map {
        Content::Files(object("ConfigMap", source)?)
    } else if let Some(source) = &volume.secret {
        let source = source.clone();
        let (name, items, optional) = (source.secret_name, source.items, source.optional);
        Content::Files(object("Secret", &ObjectVolume { name, items, optional })?)
    } else if let Some(source) = &volume.downward_api {
        Content::Files(downward(pod, source, context)?)
    } else if let Some(source) = &volume.projected {
        let mut files = Vec::new();
        for projection in &source.sources {
            files.extend(projected(pod, projection, context)?);
        }
        Content::Files(files)
    } else {
        let message = format!("the volume {} is of a kind that is not known", volume.name);
        return Err(PlanError::Unsupported(message));
    };
    if let Content::Files(files) = &content
        && let Some(file) = files.iter().find(|file| !is_inside(&file.path))
    {
        let message = format!("the volume {} has a file outside of it: {}", volume.name, file.path);
        return Err(PlanError::Missing(message));
    }
    Ok(super::Volume { name: volume.name.clone(), content })
}

/// The directory that every program of a pod finds its token in.
pub(super) fn service_account(pod: &Pod, context: Context<'_>) -> super::Volume {
    let audience = format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}");
    let token = FileText::Token { audience, lifetime: TOKEN_LIFETIME };
    let bytes = |text: String| FileText::Bytes(text.into_bytes());
    let file = |path: &str, text| File { path: path.to_owned(), text };
    let files = vec![
        file("token", token),
        file("namespace", bytes(pod.metadata.namespace.clone())),
        file("ca.crt", bytes(root_ca(context.objects))),
    ];
    super::Volume { name: SERVICE_ACCOUNT_VOLUME.to_owned(), content: Content::Files(files) }
}

fn root_ca(objects: &Objects) -> String {
    let key = Key::core("ConfigMap", "linkerd", "linkerd-identity-trust-roots");
    let text = objects.get(&key).and_then(|object| object["data"]["ca-bundle.crt"].as_str());
    text.unwrap_or_default().to_owned()
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn object_files(
    pod: &Pod,
    kind: &'static str,
    source: &ObjectVolume,
    context: Context<'_>,
) -> Result<Vec<File>, PlanError> {
    let (namespace, name) = (&pod.metadata.namespace, &source.name);
    let entries = match data(context, kind, namespace, name) {
        Some(entries) => entries,
        None if kind == "ConfigMap" && name == ROOT_CA => {
            vec![("ca.crt".to_owned(), root_ca(context.objects).into_bytes())]
        }
        None if source.optional => Vec::new(),
        None => {
            return Err(PlanError::Missing(format!("there is no {kind} {name} in {namespace}")));
        }
    };
    let file = |path: &str, bytes: &[u8]| File {
        path: path.to_owned(),
        text: FileText::Bytes(bytes.to_owned()),
    };
    if source.items.is_empty() {
        return Ok(entries.iter().map(|(key, bytes)| file(key, bytes)).collect());
    }
    let mut files = Vec::new();
    for KeyToPath { key, path } in &source.items {
        match entries.iter().find(|(found, _)| found == key) {
            Some((_, bytes)) => files.push(file(path, bytes)),
            None if source.optional => {}
            None => return Err(PlanError::Missing(format!("the {kind} {name} has no key {key}"))),
        }
    }
    Ok(files)
}

fn downward(
    pod: &Pod,
    source: &DownwardVolume,
    context: Context<'_>,
) -> Result<Vec<File>, PlanError> {
    let mut files = Vec::new();
    for item in &source.items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => field(pod, &reference.field_path, context)?,
            (None, Some(reference)) => resource(pod, &spec::Container::default(), reference)?,
            (None, None) => String::new(),
        };
        files.push(File { path: item.path.clone(), text: FileText::Bytes(text.into_bytes()) });
    }
    Ok(files)
}

fn projected(
    pod: &Pod,
    projection: &Projection,
    context: Context<'_>,
) -> Result<Vec<File>, PlanError> {
    if let Some(token) = &projection.service_account_token {
        let lifetime = token.expiration_seconds.map_or(TOKEN_LIFETIME, Duration::from_secs);
        let text = FileText::Token { audience: token.audience.clone(), lifetime };
        return Ok(vec![File { path: token.path.clone(), text }]);
    }
    if let Some(source) = &projection.config_map {
        return object_files(pod, "ConfigMap", source, context);
    }
    if let Some(source) = &projection.secret {
        return object_files(pod, "Secret", source, context);
    }
    if let Some(source) = &projection.downward_api {
        return downward(pod, source, context);
    }
    Err(PlanError::Unsupported("a projected volume has a source that is not known".into()))
}
