//! One file's text to objects. Never fails as a whole.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use hauberk_resources::{Invalid, Kind, ObjectName, Resource, ResourceKey, yaml};

use super::catalogue::Content;

/// Longest file that is read, in bytes. etcd holds objects of at most 1.5 MiB, so this is ample for a handful.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What became of reading one file.
#[derive(Debug)]
pub(super) enum Read {
    /// It does not exist any more.
    Gone,
    /// It exists and cannot be read; nothing is known about its content.
    Unreadable(String),
    /// It was read, though maybe not everything in it is usable.
    Content(Content),
}

/// Reads one file. Blocks on the file system.
pub(super) fn read(path: &Path) -> Read {
    match text_of(path) {
        Ok(text) => Read::Content(content_of(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Read::Gone,
        Err(error) => Read::Unreadable(format!("cannot read file: {error}")),
    }
}

fn text_of(path: &Path) -> io::Result<String> {
    // Asked before opening: opening a named pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not an ordinary file"));
    }
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn content_of(text: &str) -> Content {
    let (values, broken_documents) = yaml::objects(text);
    let mut content = Content { has_unnamed: !broken_documents.is_empty(), ..Content::default() };
    content.problems.extend(broken_documents.iter().map(ToString::to_string));
    for value in values {
        match Resource::parse(value) {
            Ok(resource) => {
                let key = resource.key();
                if content.objects.insert(key.clone(), Arc::new(resource)).is_some() {
                    content
                        .problems
                        .push(format!("{key} is defined twice in this file, the last one counts"));
                }
            }
            // Objects of other kinds are none of the mesh's business; a value without a kind is no object at all.
            Err(Invalid::Unrecognised { object }) if !object.kind.is_empty() => {}
            Err(invalid) => {
                match key_of(&invalid) {
                    Some(key) => content.broken.insert(key),
                    None => std::mem::replace(&mut content.has_unnamed, true),
                };
                content.problems.push(invalid.to_string());
            }
        }
    }
    content
}

/// The object a refused value was meant to be, if it says so.
fn key_of(invalid: &Invalid) -> Option<ResourceKey> {
    let (Invalid::Malformed { object, .. } | Invalid::Unrecognised { object }) = invalid;
    let ObjectName { api_version, kind, namespace, name } = &**object;
    let kind = Kind::find(api_version, kind)?;
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    (!name.is_empty()).then(|| ResourceKey::new(kind, namespace, name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_documents_survive_bad_neighbours() {
        let documents = [
            "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
            "{ broken",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}",
            "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: web}, spec: {ports: 7}}",
        ];
        let content = content_of(&documents.join("\n---\n"));
        let names: Vec<_> = content.objects.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["Namespace a"]);
        let broken: Vec<_> = content.broken.iter().map(ToString::to_string).collect();
        assert_eq!(broken, ["Service web/s"]);
        assert!(content.has_unnamed);
        assert_eq!(content.problems.len(), 2, "{:?}", content.problems);
    }

    #[test]
    fn an_empty_file_holds_nothing_and_is_no_problem() {
        for text in ["", "---\n", "# only a comment\n"] {
            let content = content_of(text);
            assert!(
                content.objects.is_empty() && content.problems.is_empty() && !content.has_unnamed,
                "{text:?}"
            );
        }
    }
}
